#!/usr/bin/env python3
"""Builds the crate for microcontrollers and WebAssembly and runs it in emulators: `make embedded`.

Needs Python alone; on Debian what else it needs is installed by apt, and wasmtime by pip. Prints tables at the end and
writes them to out/embedded.md. Ends with an error where a result is wrong, where code for panics, an allocator or
arithmetic in f64 is linked, or where a figure is worse than what docs/embedded.md promises.

    --quick          without the size of each operation, and of the tests on aarch64 those alone that are quick there
    --cmsis FOLDER   measures CMSIS-DSP too, whose sources are in FOLDER
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRMWARE = ROOT / "examples" / "embedded"
TARGET_DIR = ROOT / "target" / "embedded"
# What the Python demo finds in the test digits with float16; `make test-examples` compares it with the demo itself.
CLASSES = ROOT / "examples" / "digits" / "classes.txt"
QEMU = ["qemu-system-arm", "-nographic", "-monitor", "none", "-serial", "null", "-icount", "shift=5"]
QEMU += ["-semihosting-config", "enable=on,target=native"]
OPERATIONS = ["softmax", "layer_norm", "gelu", "linear"]
OURS = "polyglot-bridge"
# An empty variable would be as good as none, and leave the word to files of configuration.
NO_FLAGS = "-Cdebuginfo=0"
# What is promised for a Cortex-M4F: so many times fewer instructions than plain loops over libm take.
FEWER = {"softmax": 1.4, "layer_norm": 1.0, "gelu": 1.4, "linear": 1.0}
# The stack that classifying a digit may take, in bytes, the network's own arrays included.
MOST_STACK = 3072
# A compiler with the sources of its libraries, which are built for each target.
DEBIAN_RUST = ["rustc-web", "cargo-web", "rust-web-src"]
DEBIAN_SOURCES = Path("/usr/share/doc/rust-web-src")
# The tests that an emulated CPU gets through in a minute or two.
QUICK_TESTS = ["contract", "rows", "elements", "linear", "fuzz"]


def stop(message):
    sys.exit(f"embedded: {message}")


def apt(*packages):
    """Installs Debian packages that are not there yet."""
    if not shutil.which("apt-get"):
        stop(f"cannot install {' '.join(packages)}: no apt-get here")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    print("== apt-get install", *packages, flush=True)
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    subprocess.run([*as_root, "apt-get", *wait, "update", "-qq"], check=True)
    install = ["apt-get", *wait, "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run([*as_root, *install], check=True, stdout=subprocess.DEVNULL)


class Toolchain:
    """A compiler for targets that this machine lacks: rustup's where it has them, else Debian's, whose package of
    library sources is complete, so that core is compiled for any target."""

    def __init__(self, targets):
        installed = self.output("rustup", "target", "list", "--installed").split()
        self.environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET_DIR))
        # As programs that say nothing special are compiled, whatever this shell says.
        self.environment["RUSTFLAGS"] = NO_FLAGS
        self.cargo, self.flags = ["cargo"], []
        if not set(targets) <= set(installed):
            if not (DEBIAN_SOURCES.exists() and Path("/usr/bin/cargo").exists()):
                apt(*DEBIAN_RUST)
            self.cargo, self.flags = ["/usr/bin/cargo"], ["-Zbuild-std=core"]
            # Its cargo would otherwise take rustup's compiler; and it is a stable one that has to be told that building
            # core is meant.
            self.environment |= {"RUSTC": "/usr/bin/rustc", "RUSTC_BOOTSTRAP": "1"}
        # Programs without a C library are linked by LLVM's linker.
        linker = self.linker()
        for target in targets:
            name = target.upper().replace("-", "_")
            self.environment[f"CARGO_TARGET_{name}_LINKER"] = linker

    @staticmethod
    def output(*command):
        try:
            return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
        except FileNotFoundError:
            return ""

    def linker(self):
        """LLVM's linker, which takes every target: rustup brings one."""
        sysroot = self.output("rustc", "+stable", "--print", "sysroot") or self.output("rustc", "--print", "sysroot")
        for found in Path(sysroot).glob("lib/rustlib/*/bin/rust-lld"):
            return str(found)
        if not shutil.which("rust-lld") and not shutil.which("ld.lld"):
            apt("lld")
        return shutil.which("rust-lld") or shutil.which("ld.lld")

    def build(self, targets, *arguments, **variables):
        environment = self.environment | variables
        command = [*self.cargo, "build", "--release", "--quiet", *self.flags, *arguments]
        for target in targets:
            command += ["--target", target]
        print("==", *command, flush=True)
        if subprocess.run(command, cwd=FIRMWARE, env=environment, check=False).returncode:
            stop("the build failed")


def emulate(board, elf):
    """What firmware prints on a board."""
    if not shutil.which("qemu-system-arm"):
        apt("qemu-system-arm")
    print("== run", elf.relative_to(ROOT), "on", board[-1], flush=True)
    done = subprocess.run(
        [*QEMU, "-M", *board, "-kernel", str(elf)], check=False, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        stop(f"{elf.name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.splitlines()


def flash_bytes(elf):
    """Code, constants and what initialises variables: the bytes of the segments that are loaded from the file."""
    data = elf.read_bytes()

    def word(at, size):
        return int.from_bytes(data[at : at + size], "little")

    start, size, count = word(28, 4), word(42, 2), word(44, 2)
    headers = [start + size * index for index in range(count)]
    return sum(word(header + 16, 4) for header in headers if word(header, 4) == 1)


# Code for panics, and an allocator.
UNWANTED = r"panicking|a_panic_is_reachable|__rust_alloc|__rg_alloc|__rust_no_alloc|liballoc"
# Arithmetic in f64, by the names of Arm's run-time library and of GCC's.
DOUBLE = r"__aeabi_(d(add|sub|mul|div|2f|2iz)|f2d)$|__(add|sub|mul|div)df3$|__extendsfdf2$|__truncdfsf2$"
# The same in f32, for cores that have an FPU.
SINGLE = r"__aeabi_f(add|sub|mul|div)$|__(add|sub|mul|div)sf3$"


def check_symbols(elf, *unwanted):
    """None of these is linked, by the program's own table of symbols."""
    names = {name.decode() for name in re.findall(rb"[\x21-\x7e]{4,}", elf.read_bytes())}
    if not any("network" in name or "main" in name or "_start" in name for name in names):
        stop(f"{elf.name} has no table of symbols")
    found = [name for name in names if re.search("|".join(unwanted), name)]
    if found:
        stop(f"{elf.name} has {', '.join(sorted(found))}")


def run_digits(board, elf):
    """Classifies the test digits on a board and compares each class with the Python demo's."""
    check_symbols(elf, UNWANTED, DOUBLE, *([SINGLE] if "cortex-m4" in board else []))
    lines = emulate(board, elf)
    classes = [line.split()[1] for line in lines if line.startswith("class ")]
    expected = CLASSES.read_text().split()
    differing = sum(a != b for a, b in zip(classes, expected, strict=False))
    if len(classes) != len(expected) or differing:
        stop(f"{elf.name}: {len(classes)} digits, {differing} of them unlike the Python demo")
    facts = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("class "))
    print(f"   {facts['digits']} digits, each in the class that the Python demo finds; {facts['right']} right")
    print(f"   {facts['instructions a digit']} instructions a digit, {facts['stack bytes']} bytes of stack")
    if int(facts["stack bytes"]) > MOST_STACK:
        stop(f"{elf.name} takes more than {MOST_STACK} bytes of stack")
    return facts


BOARDS = {
    "thumbv7em-none-eabihf": ("Cortex-M4F", ["mps2-an386", "-cpu", "cortex-m4"]),
    "thumbv6m-none-eabi": ("Cortex-M0", ["microbit"]),
}
PORTABLE = "riscv32imac-unknown-none-elf"
WASM = "wasm32-unknown-unknown"
SIZES = (
    "softmax log_softmax layer_norm rms_norm relu sigmoid tanh silu gelu gelu_tanh scale dropout_add sum_of_squares "
)
SIZES += "linear linear_gelu packed_linear"


def counts_of(lines):
    """Instructions an element of each operation, by who computes it."""
    counts = {}
    for line in lines:
        print("  ", line)
        who, operation, instructions, elements, *wrong = line.split()
        if wrong:
            stop(f"{operation} of {who} is wrong")
        counts[who, operation] = int(instructions) / int(elements)
    return counts


def compared(name, counts):
    """A line for each contender: instructions an element, and in brackets how many times ours."""
    lines = []
    for who in dict.fromkeys(who for who, _ in counts):
        cells = []
        for operation in OPERATIONS:
            count = counts.get((who, operation))
            ratio = "" if who == OURS or not count else f" ({count / counts[OURS, operation]:.2f})"
            cells.append(f"{count:.1f}{ratio}" if count else "")
        lines.append([name, who, *cells])
    return lines


def cmsis(toolchain, folder):
    """Compiles CMSIS-DSP's f32 functions as its own build does; where the library and the C library it calls lie."""
    if not shutil.which("arm-none-eabi-gcc"):
        apt("gcc-arm-none-eabi", "libnewlib-arm-none-eabi")
    out = TARGET_DIR / "cmsis"
    out.mkdir(parents=True, exist_ok=True)
    core = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
    flags = ["-Ofast", "-ffunction-sections", "-DARM_MATH_LOOPUNROLL", "-D__GNUC_PYTHON__", "-DARM_MATH_CM4"]
    objects = []
    for source in CMSIS:
        objects.append(out / f"{Path(source).stem}.o")
        places = [f"-I{folder / 'Include'}", f"-I{folder / 'PrivateInclude'}"]
        compile_one = ["arm-none-eabi-gcc", *core, *flags, *places, "-c", str(folder / "Source" / source)]
        subprocess.run([*compile_one, "-o", str(objects[-1])], check=True)
    library = out / "libcmsis.a"
    library.unlink(missing_ok=True)
    subprocess.run(["arm-none-eabi-ar", "rcs", str(library), *map(str, objects)], check=True)
    standard = toolchain.output("arm-none-eabi-gcc", *core, "-print-file-name=libm.a")
    return f"{out}:{Path(standard).parent}"


CMSIS = [
    "BasicMathFunctions/arm_add_f32.c",
    "BasicMathFunctions/arm_mult_f32.c",
    "BasicMathFunctions/arm_offset_f32.c",
    "BasicMathFunctions/arm_scale_f32.c",
    "FastMathFunctions/arm_vexp_f32.c",
    "MatrixFunctions/arm_mat_vec_mult_f32.c",
    "StatisticsFunctions/arm_accumulate_f32.c",
    "StatisticsFunctions/arm_max_f32.c",
    "StatisticsFunctions/arm_mean_f32.c",
    "StatisticsFunctions/arm_power_f32.c",
]


def firmware(toolchain, target, thorough, cmsis_dsp):
    """Runs what was built for a microcontroller; a line of the table, and more."""
    name, board = BOARDS[target]
    at = TARGET_DIR / target / "release"
    is_fast = target == "thumbv7em-none-eabihf"
    if is_fast:
        toolchain.build([target], "--features", "f16", "--bin", "check")
        print("  ", *emulate(board, at / "check"))
        if cmsis_dsp:
            libraries = cmsis(toolchain, cmsis_dsp)
            toolchain.build([target], "--features", "f16,cmsis", "--bin", "measure", CMSIS_DSP=libraries)
    digits = run_digits(board, at / "digits")
    counts = counts_of(emulate(board, at / "measure"))
    for operation, factor in FEWER.items():
        if is_fast and counts["libm", operation] < factor * counts[OURS, operation]:
            stop(f"{operation} takes more instructions than plain loops over libm divided by {factor}")
    line = [f"{name}, {target}", f"ran: {digits['digits']} digits as Python has them", str(flash_bytes(at / "digits"))]
    line += [f"{counts[OURS, operation]:.1f}" for operation in OPERATIONS]
    facts = f"{name}: {digits['instructions a digit']} instructions and {digits['stack bytes']} bytes of stack a digit."
    return line, compared(name, counts), facts, sizes(toolchain, target) if thorough and is_fast else []


def sizes(toolchain, target):
    """The bytes of flash that each operation adds to a program that calls nothing."""
    found, elf = {}, TARGET_DIR / target / "release" / "one"
    for operation in ["none", *SIZES.split()]:
        toolchain.build([target], "--features", "f16", "--bin", "one", OPERATION=operation)
        # The sum of squares alone is kept in f64.
        check_symbols(elf, UNWANTED, *([] if operation == "sum_of_squares" else [DOUBLE, SINGLE]))
        found[operation] = flash_bytes(elf)
    return [(operation, found[operation] - found["none"]) for operation in SIZES.split()]


def portable(toolchain):
    """Links the classifier for a target that is not run."""
    toolchain.build([PORTABLE], "--bin", "portable")
    elf = TARGET_DIR / PORTABLE / "release" / "portable"
    check_symbols(elf, UNWANTED, DOUBLE)
    return [PORTABLE, "built: the same classifier", str(flash_bytes(elf)), "", "", "", ""]


def wasm_host():
    """A Python that has wasmtime."""
    python = TARGET_DIR / "venv" / "bin" / "python"
    if not python.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(TARGET_DIR / "venv")], check=False)
        if made.returncode:
            apt("python3-venv")
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(TARGET_DIR / "venv")], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "wasmtime"]
    subprocess.run([str(python), *install], check=True)
    return [str(python), str(ROOT / "tools" / "wasm_host.py")]


def web(toolchain, host, vectors):
    """Runs the classifier as a WebAssembly module, with and without its vectors."""
    name = f"wasm32, {'simd128' if vectors else 'without simd128'}"
    rustflags = toolchain.environment["RUSTFLAGS"] + (" -Ctarget-feature=+simd128" if vectors else "")
    toolchain.build([WASM], "--example", "web", "--example", "race_web", RUSTFLAGS=rustflags)
    at = TARGET_DIR / WASM / "release" / "examples"

    def run(what, module):
        print("==", what, module.relative_to(ROOT), name, flush=True)
        done = subprocess.run([*host, what, str(module)], check=False, capture_output=True, text=True, timeout=600)
        if done.returncode:
            stop(f"{module.name} failed:\n{done.stdout}{done.stderr}")
        return done.stdout.splitlines()

    classes = run("classify", at / "web.wasm")
    if classes != CLASSES.read_text().split():
        stop("web.wasm: not the classes of the Python demo")
    counts = counts_of(run("measure", at / "race_web.wasm"))
    line = [f"{name}, {WASM}", f"ran: {len(classes)} digits as Python has them", str((at / "web.wasm").stat().st_size)]
    line += [f"{counts[OURS, operation]:.1f}" for operation in OPERATIONS]
    return line, compared(name, counts)


def neon(quick):
    """The Rust test suite on an emulated aarch64 CPU."""
    needed = ["qemu-user-static", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]
    if not Path("/usr/bin/aarch64-linux-gnu-gcc").exists() or not Path("/usr/bin/qemu-aarch64-static").exists():
        apt(*needed)
    if not (DEBIAN_SOURCES.exists() and Path("/usr/bin/cargo").exists()):
        apt(*DEBIAN_RUST)
    suite = ["--lib", *[f"--test={name}" for name in QUICK_TESTS]] if quick else []
    print("== tools/test_aarch64.sh", *suite, flush=True)
    if subprocess.run([str(ROOT / "tools" / "test_aarch64.sh"), *suite], cwd=ROOT, check=False).returncode:
        stop("the tests on aarch64 failed")
    ran = f"ran: the Rust tests {' '.join(QUICK_TESTS)}" if quick else "ran: the whole Rust test suite"
    return ["NEON, aarch64-unknown-linux-gnu", ran, "", "", "", "", ""]


def table(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main():
    arguments = argparse.ArgumentParser(description="Builds for small targets, and runs in emulators.")
    arguments.add_argument("--quick", action="store_true", help="without what takes longest")
    arguments.add_argument("--cmsis", type=Path, metavar="FOLDER", help="measure CMSIS-DSP too, from its sources")
    arguments = arguments.parse_args()
    toolchain = Toolchain([*BOARDS, PORTABLE, WASM])
    lines, others, facts, added = [], [], [], {}
    # One build of the crate for all programs of a target: f16 takes nothing where it is not used.
    toolchain.build(BOARDS, "--features", "f16", "--bin", "digits", "--bin", "measure")
    for target in BOARDS:
        line, beside, fact, found = firmware(toolchain, target, not arguments.quick, arguments.cmsis)
        lines.append(line)
        others += beside
        facts.append(fact)
        added.update(found)
    lines.append(portable(toolchain))
    host = wasm_host()
    for vectors in (True, False):
        line, beside = web(toolchain, host, vectors)
        lines.append(line)
        others += beside
    lines.append(neon(arguments.quick))
    head = ["target", "ran or built", "flash bytes", "softmax", "layer_norm", "gelu", "linear 64x32"]
    report = "Instructions an element, counted by the emulator; for the linear layer a multiply-add. Flash of the classifier, its\n"
    report += "weights (34,452 bytes in f16, twice as much in f32 on riscv32 and wasm32) and test digits (28,925) included.\n\n"
    report += table(head, lines) + "\n\n"
    report += "Beside the same done by others, and in brackets how many times ours that takes:\n\n"
    report += table(["core", "who", *head[3:]], others) + "\n\n" + "\n".join(facts) + "\n"
    if added:
        report += "\nFlash bytes that an operation in f32 adds to a program for the Cortex-M4F:\n\n"
        report += table(["operation", "bytes"], [[name, str(size)] for name, size in added.items()]) + "\n"
    (ROOT / "out").mkdir(exist_ok=True)
    (ROOT / "out" / "embedded.md").write_text(report)
    print("\n" + report)


if __name__ == "__main__":
    main()
