#!/usr/bin/env bash
# Rust tests of memory and threads under Miri: `make test-miri`, ARGS=--quick for the part that takes minutes. Miri interprets
# each step, so that it sees each access: beyond the end or the lifetime, of what was never written, through a pointer whose
# reference was since used otherwise, unaligned, from two threads at once. Needed:
#
#     rustup component add --toolchain nightly miri rust-src
#
# Some 100,000 steps a second allow no more than tests/small.rs, which is made for it, and the unit tests of `cache`, `parallel` and
# `gemm`. Left out:
#   - the other integration tests, which sweep over shapes: an hour for one of them;
#   - levels from SSE4.2 on: Miri has no AVX-512, and of the others not each instruction. The scalar level and SSE2 run;
#   - weights that span megabytes, and products that threads share;
#   - tests/loom.rs, which tries the orders of threads more thoroughly, and tests/rayon.rs, most of which is processes;
#   - `fork`, and `mmap` with parts given back: the cache has its pages from the allocator here;
#   - `python`, whose other half is C: AddressSanitizer sees that (tools/test_asan_python.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo +nightly miri --version >/dev/null 2>&1 || { echo "no Miri: the head of $0 says what is needed"; exit 1; }

# The cache keeps addresses as numbers; the threads of a pool outlive the program's own.
export MIRIFLAGS="-Zmiri-env-forward=POLYGLOT_TEST_LEVEL -Zmiri-permissive-provenance -Zmiri-ignore-leaks"
run() {
    cargo +nightly miri test --quiet --target-dir target/miri --no-default-features --features std,f16,parallel "$@"
}
export POLYGLOT_TEST_LEVEL=Fallback
run --lib
if [ "${1:-}" = --quick ]; then
    run --test small -- ::f32 tables::f16 pools::f16 stacks_of_products::f16
else
    run --test small
    echo "== at the level of SSE2"
    POLYGLOT_TEST_LEVEL=Sse2 run --test small -- ::f32 ::f16
fi
