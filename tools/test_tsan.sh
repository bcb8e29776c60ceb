#!/usr/bin/env bash
# Runs the tests of threads under ThreadSanitizer: `make test-tsan`.
#
# Without a std that was built for it, ThreadSanitizer reports races that are none. rustup's stable cannot rebuild std;
# Debian's toolchain comes with its sources:
#
#     apt-get install --no-install-recommends rustc-web cargo-web rust-web-src
#
# The sanitizer's runtime is the one that rustup's toolchain ships.
set -euo pipefail
cd "$(dirname "$0")/.."
runtime=$(rustc +stable --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/lib/librustc-stable_rt.tsan.a
for file in /usr/bin/cargo /usr/bin/rustc "$runtime"; do
    [ -e "$file" ] || { echo "no $file: the head of $0 lists what is needed"; exit 1; }
done
export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=thread -Zexternal-clangrt -Zpre-link-arg=-Wl,--whole-archive,$runtime,--no-whole-archive \
-Clink-arg=-Wl,--export-dynamic"
# A test starts threads in a forked child, which the sanitizer else refuses.
export TSAN_OPTIONS="halt_on_error=1 die_after_fork=0"
/usr/bin/cargo test --target x86_64-unknown-linux-gnu --target-dir "${CARGO_TARGET_DIR:-target/tsan}" -Zbuild-std=std,panic_unwind,test \
    --no-default-features --features std,f16,parallel --lib --test threads --test rayon "$@"
