#!/usr/bin/env bash
# Runs the Rust tests for aarch64, whose vectors are NEON's, in an emulator: `make test-aarch64`.
#
# rustup has no std for aarch64 here; Debian's toolchain builds one from its sources:
#
#     apt-get install --no-install-recommends rustc-web cargo-web rust-web-src qemu-user-static gcc-aarch64-linux-gnu \
#         libc6-dev-arm64-cross
#
# Usage: tools/test_aarch64.sh [further arguments of cargo test, in place of the whole suite]
set -euo pipefail
cd "$(dirname "$0")/.."
for file in /usr/bin/cargo /usr/bin/rustc /usr/bin/aarch64-linux-gnu-gcc /usr/bin/qemu-aarch64-static; do
    [ -e "$file" ] || { echo "no $file: the head of $0 lists what is needed"; exit 1; }
done
export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu max -L /usr/aarch64-linux-gnu"
[ $# -gt 0 ] || set -- --lib --tests
/usr/bin/cargo test --target aarch64-unknown-linux-gnu --target-dir "${CARGO_TARGET_DIR:-target/aarch64}" \
    -Zbuild-std=std,panic_unwind,test --no-default-features --features std,f16,parallel "$@"
