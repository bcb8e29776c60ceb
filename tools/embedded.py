#!/usr/bin/env python3
"""Builds the crate for microcontrollers and WebAssembly and runs it in emulators: `make embedded`.

Needs Python alone; on Debian what else it needs is installed by apt. Prints a table at the end and writes it to
out/embedded.md. With `--quick` the tests on aarch64 and the size of each operation are left out.
"""

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


def stop(message):
    sys.exit(f"embedded: {message}")


def apt(*packages):
    """Installs Debian packages that are not there yet."""
    if not shutil.which("apt-get"):
        stop(f"cannot install {' '.join(packages)}: no apt-get here")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*as_root, "apt-get", "update", "-qq"], check=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run([*as_root, *install], check=True, stdout=subprocess.DEVNULL)


class Toolchain:
    """A compiler for targets that this machine lacks: rustup's where it has them, else Debian's, whose package of
    library sources is complete, so that core is compiled for any target."""

    def __init__(self, targets):
        installed = self.output("rustup", "target", "list", "--installed").split()
        self.environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET_DIR))
        # Programs of a few operations: what they do not use need not be compiled.
        self.environment["RUSTFLAGS"] = "--cfg polyglot_compile_on_use"
        self.cargo, self.flags = ["cargo"], []
        if not set(targets) <= set(installed):
            if not Path("/usr/share/doc/rust-web-src").exists():
                apt("rustc-web", "cargo-web", "rust-web-src")
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


def check_symbols(elf):
    """No panic and no allocator is linked."""
    names = set(re.findall(rb"[\x21-\x7e]{4,}", elf.read_bytes()))
    found = [name.decode() for name in names if re.search(rb"panicking|__rust_alloc|__rg_alloc|liballoc", name)]
    if found:
        stop(f"{elf.name} has {', '.join(sorted(found))}")


def run_digits(board, elf):
    """Classifies the test digits on a board and compares each class with the Python demo's."""
    check_symbols(elf)
    lines = emulate(board, elf)
    classes = [line.split()[1] for line in lines if line.startswith("class ")]
    expected = CLASSES.read_text().split()
    differing = sum(a != b for a, b in zip(classes, expected, strict=False))
    if len(classes) != len(expected) or differing:
        stop(f"{elf.name}: {len(classes)} digits, {differing} of them unlike the Python demo")
    facts = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("class "))
    print(f"   {facts['digits']} digits, each in the class that the Python demo finds; {facts['right']} right")
    print(f"   {facts['instructions a digit']} instructions a digit, {facts['stack bytes']} bytes of stack")
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
WEB = """
const {instance} = new WebAssembly.Instance(new WebAssembly.Module(require("fs").readFileSync(process.argv[1])));
for (let index = 0; index < instance.exports.digits(); index++) console.log(instance.exports.classify(index));
"""


def measure(board, elf):
    """Instructions an element of each operation, by who computes it."""
    counts = {}
    for line in emulate(board, elf):
        print("  ", line)
        who, operation, instructions, elements = line.split()[:4]
        counts[who, operation] = int(instructions) / int(elements)
    return counts


def firmware(toolchain, target, thorough):
    """Runs what was built for a microcontroller; a line of the table, and more."""
    name, board = BOARDS[target]
    at = TARGET_DIR / target / "release"
    if target == "thumbv7em-none-eabihf":
        toolchain.build([target], "--features", "f16", "--bin", "check")
        print("  ", *emulate(board, at / "check"))
    digits = run_digits(board, at / "digits")
    counts = measure(board, at / "measure")
    line = [f"{name}, {target}", f"ran: {digits['digits']} digits as Python has them", str(flash_bytes(at / "digits"))]
    line += [f"{counts['polyglot-bridge', operation]:.1f}" for operation in OPERATIONS]
    others = [
        [name, who, *[f"{counts[who, op]:.1f}" if (who, op) in counts else "" for op in OPERATIONS]]
        for who in ("polyglot-bridge", "libm", "micromath")
    ]
    facts = f"{name}: {digits['instructions a digit']} instructions and {digits['stack bytes']} bytes of stack a digit."
    return line, others, facts, sizes(toolchain, target) if thorough else []


def sizes(toolchain, target):
    """The bytes of flash that each operation adds to a program that calls nothing."""
    found, elf = {}, TARGET_DIR / target / "release" / "one"
    for operation in ["none", *SIZES.split()]:
        toolchain.build([target], "--features", "f16", "--bin", "one", OPERATION=operation)
        found[operation] = flash_bytes(elf)
    return [(operation, found[operation] - found["none"]) for operation in SIZES.split()]


def portable(toolchain):
    """Links the classifier for a target that is not run."""
    toolchain.build([PORTABLE], "--bin", "portable")
    elf = TARGET_DIR / PORTABLE / "release" / "portable"
    check_symbols(elf)
    return [PORTABLE, "built: the same classifier, no panic linked", str(flash_bytes(elf)), "", "", "", ""]


def web(toolchain, vectors):
    """Runs the classifier as a WebAssembly module, with and without its vectors."""
    rustflags = toolchain.environment["RUSTFLAGS"] + (" -Ctarget-feature=+simd128" if vectors else "")
    toolchain.build([WASM], "--example", "web", RUSTFLAGS=rustflags)
    module = TARGET_DIR / WASM / "release" / "examples" / "web.wasm"
    if not shutil.which("node"):
        apt("nodejs")
    classes = subprocess.run(
        ["node", "-e", WEB, str(module)], check=True, capture_output=True, text=True
    ).stdout.split()
    if classes != CLASSES.read_text().split():
        stop(f"{module.name}: not the classes of the Python demo")
    name = f"{WASM}, {'simd128' if vectors else 'without simd128'}"
    return [name, f"ran: {len(classes)} digits as Python has them", str(module.stat().st_size), "", "", "", ""]


def neon():
    """The whole Rust test suite on an emulated aarch64 CPU."""
    needed = [
        "qemu-user-static",
        "gcc-aarch64-linux-gnu",
        "libc6-dev-arm64-cross",
        "rustc-web",
        "cargo-web",
        "rust-web-src",
    ]
    if not Path("/usr/bin/aarch64-linux-gnu-gcc").exists() or not Path("/usr/bin/qemu-aarch64-static").exists():
        apt(*needed)
    if subprocess.run(["make", "test-aarch64"], cwd=ROOT, check=False).returncode:
        stop("the tests on aarch64 failed")
    return ["aarch64-unknown-linux-gnu, NEON", "ran: the whole Rust test suite", "", "", "", "", ""]


def table(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main():
    # Without its slowest parts, for continuous integration.
    quick = "--quick" in sys.argv[1:]
    toolchain = Toolchain([*BOARDS, PORTABLE, WASM])
    lines, others, facts, added = [], [], [], {}
    # One build of the crate for all programs of a target: f16 takes nothing where it is not used.
    toolchain.build(BOARDS, "--features", "f16", "--bin", "digits", "--bin", "measure")
    for target in BOARDS:
        line, compared, fact, found = firmware(toolchain, target, not quick and target == "thumbv7em-none-eabihf")
        lines.append(line)
        others += compared
        facts.append(fact)
        added.update(found)
    lines.append(portable(toolchain))
    lines += [web(toolchain, vectors) for vectors in (True, False)]
    if not quick:
        lines.append(neon())
    head = ["target", "ran or built", "flash bytes", "softmax", "layer_norm", "gelu", "linear 64x32"]
    report = "Instructions an element, counted by the emulator; for the linear layer a multiply-add. Flash of the classifier, its\n"
    report += "weights (34,452 bytes) and test digits (28,925) included.\n\n" + table(head, lines) + "\n\n"
    report += table(["core", "who", *head[3:]], others) + "\n\n" + "\n".join(facts) + "\n"
    if added:
        report += "\nFlash bytes that an operation in f32 adds to a program for the Cortex-M4F:\n\n"
        report += table(["operation", "bytes"], [[name, str(size)] for name, size in added.items()]) + "\n"
    (ROOT / "out").mkdir(exist_ok=True)
    (ROOT / "out" / "embedded.md").write_text(report)
    print("\n" + report)


if __name__ == "__main__":
    main()
