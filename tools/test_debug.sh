#!/usr/bin/env bash
# Runs the Rust tests with every check that can be compiled in: `make test-debug`.
#
# The development profile checks this crate's arithmetic for overflow and the arguments of unsafe functions. std as it is
# shipped, however, has its own debug assertions compiled out, so here it is built anew under the same profile, as
# cargo-careful does; fields lie in an order of the compiler's whim, so that nothing may count on one. rustup's stable
# cannot rebuild std; Debian's toolchain comes with its sources:
#
#     apt-get install --no-install-recommends rustc-web cargo-web rust-web-src
set -euo pipefail
cd "$(dirname "$0")/.."
for file in /usr/bin/cargo /usr/bin/rustc; do
    [ -e "$file" ] || { echo "no $file: the head of $0 lists what is needed"; exit 1; }
done
export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zrandomize-layout -Zextra-const-ub-checks"
/usr/bin/cargo test --quiet --target x86_64-unknown-linux-gnu --target-dir "${CARGO_TARGET_DIR:-target/debug-std}" \
    -Zbuild-std=std,panic_unwind,test --no-default-features --features std,f16,parallel --lib --tests "$@"
