#!/usr/bin/env python3
"""Builds the crate for microcontrollers and WebAssembly and runs it in emulators: `make embedded`.

Needs Python alone; on Debian what else it needs is installed by apt. Prints a table at the end and writes it to
out/embedded.md. With names of targets as arguments only those are done.
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
        self.cargo, self.flags = ["cargo"], []
        if not set(targets) <= set(installed):
            if not Path("/usr/share/doc/rust-web-src").exists():
                apt("rustc-web", "cargo-web", "rust-web-src")
            self.cargo, self.flags = ["/usr/bin/cargo"], ["-Zbuild-std=core"]
            # Its cargo would otherwise take rustup's compiler; and it is a stable one that has to be told that building
            # core is meant.
            self.environment |= {"RUSTC": "/usr/bin/rustc", "RUSTC_BOOTSTRAP": "1"}
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

    def build(self, targets, *arguments, rustflags="", **variables):
        environment = self.environment | variables
        if rustflags:
            environment["RUSTFLAGS"] = rustflags
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
    done = subprocess.run([*QEMU, "-M", *board, "-kernel", str(elf)], check=False, capture_output=True, text=True, timeout=600)
    if done.returncode:
        stop(f"{elf.name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.splitlines()


def flash_bytes(elf):
    """Code, constants and what initialises variables: the bytes of the segments that are loaded from the file."""
    data = elf.read_bytes()
    word = lambda at, size: int.from_bytes(data[at : at + size], "little")
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


def main():
    wanted = sys.argv[1:] or list(BOARDS)
    toolchain = Toolchain(wanted)
    toolchain.build(wanted, "--features", "f16", "--bin", "digits")
    for target in wanted:
        _, board = BOARDS[target]
        run_digits(board, TARGET_DIR / target / "release" / "digits")


if __name__ == "__main__":
    main()
