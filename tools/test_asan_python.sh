#!/usr/bin/env bash
# pytest against the extension module under AddressSanitizer: `make test-asan-python`. With --quick the module is compiled for one
# CPU level, and the tests are those of memory; other arguments go to pytest, in place of all of its tests.
#
# Python itself is not compiled for the sanitizer, so its runtime is preloaded: made here from the archive that rustup's nightly
# ships, as rustc links it into programs only. Neither NumPy nor Python keep memory of their own (PYTHONMALLOC), so that each
# block is one that the sanitizer knows, and reading it once it was freed is seen. Needed: `rustup toolchain install nightly`, gcc.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
archive=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/$target/lib/librustc-nightly_rt.asan.a || true
[ -e "$archive" ] || { echo "no $archive: the head of $0 says what is needed"; exit 1; }

build=target/asan-python
flags="-Zsanitizer=address"
if [ "${1:-}" = --quick ]; then
    shift
    build=target/asan-python-quick
    # One level beside none: the widest that such a short list can say.
    flags="$flags --cfg disable_dispatch_sse4_2 --cfg disable_dispatch_avx512"
    grep -qw avx2 /proc/cpuinfo && flags="$flags -Ctarget-cpu=haswell"
    if [ $# = 0 ]; then
        export POLYGLOT_HOSTILE_SHARE=${POLYGLOT_HOSTILE_SHARE:-12} POLYGLOT_FUZZ_EXAMPLES=${POLYGLOT_FUZZ_EXAMPLES:-5}
        set -- bindings/python/tests/test_{memory_safety,fuzz_hostile,memory,out,transformer}.py
    fi
fi
[ $# -gt 0 ] || set -- bindings/python/tests

# Debug assertions and overflow checks come with the development profile.
RUSTFLAGS="$flags" CARGO_PROFILE_DEV_DEBUG=line-tables-only cargo +nightly rustc --quiet --lib --crate-type cdylib \
    --target $target --target-dir $build --no-default-features --features python
package=$build/package/polyglot_bridge
rm -rf $build/package
mkdir -p $package
cp bindings/python/polyglot_bridge/* $package 2>/dev/null || true
cp $build/$target/debug/libpolyglot_bridge.so $package/_core.abi3.so

# Under its usual name the runtime, which believes itself to be part of the program, would take itself for a second one.
runtime=$PWD/$build/rustc_asan.so
cp "$archive" $build/runtime.a
# A library may have no .preinit_array.
ar d $build/runtime.a asan_preinit.cpp.o
gcc -shared -o "$runtime" -Wl,--whole-archive $build/runtime.a -Wl,--no-whole-archive -lpthread -ldl -lrt -lm

python=${PYTHON_WITH_PACKAGES:-.venv/bin/python}
export PYTHONPATH=$PWD/$build/package PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
# Python leaves memory to the system as it ends, and tests ask for more than there is.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export POLYGLOT_SANITIZER=address
LD_PRELOAD=$runtime "$python" -c "import polyglot_bridge, sys; assert polyglot_bridge.__file__.startswith('$PWD/$package'), polyglot_bridge.__file__"
LD_PRELOAD=$runtime exec "$python" -m pytest -q -p no:cacheprovider "$@"
