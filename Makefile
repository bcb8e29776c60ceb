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
TEST_PACKAGES := pytest scipy hypothesis ml_dtypes
LINT_PACKAGES := mypy ruff

# The tests run once for each of these.
TESTED_FEATURES := libm,f16 std,f16,parallel
# Every combination that differs and can be built; `make lint` goes over them.
ALL_FEATURES := libm libm,f16 std std,libm std,f16 std,libm,f16 parallel parallel,libm parallel,f16 python python,libm

WHEEL_SOURCES := Cargo.toml Cargo.lock README.md $(shell find src -name '*.rs') \
	$(shell find bindings/python \( -name '*.toml' -o -name '*.py' -o -name '*.pyi' -o -name py.typed \) -not -path '*/tests/*')

.DELETE_ON_ERROR:
.PHONY: help demo wheel test test-rust test-no-std test-python test-examples bench bench-linear exhaustive \
	lint docs clean

help:                   ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.wheel $(VENV)/.demo      ## classify real handwritten digits, race NumPy, draw out/digits.png
	$(VENV)/bin/python examples/digits.py

wheel: $(VENV)/.wheel   ## build the wheel in release mode and install it in .venv

test: test-rust test-no-std test-python test-examples  ## all tests: the four commands that follow

test-rust:              ## Rust tests and doctests, once for each set of features
	@set -e; for features in $(TESTED_FEATURES); do \
		echo "== cargo test --no-default-features --features $$features"; \
		cargo test --quiet --no-default-features --features $$features; \
	done

test-no-std:            ## link, without std and without an allocator, a program that uses the crate, and run it
ifeq ($(shell uname -sm),Linux x86_64)
	@set -e; for features in libm libm,f16; do \
		echo "== tests/no_std with $$features"; \
		cargo run --quiet --release --manifest-path tests/no_std/Cargo.toml --target-dir target/no_std --features $$features; \
	done
else
	@echo "== tests/no_std is written for Linux on x86-64: left out here"
endif

test-python: $(VENV)/.wheel $(VENV)/.test  ## pytest against the installed wheel
	$(VENV)/bin/python -m pytest -q bindings/python/tests

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
		echo "the same class for each of $$(wc -l <out/rust-$$dtype.txt) digits"; \
	done

bench: $(PEERS)/.wheel $(PEERS)/.peers  ## race NumPy and other peers; tables and charts go into README.md
	$(PEERS)/bin/python benches/peers/run.py --write $(ARGS)

bench-linear: $(PEERS)/.wheel $(PEERS)/.peers  ## the same, linear layers only
	$(PEERS)/bin/python benches/peers/run.py --suite linear --write $(ARGS)

exhaustive:             ## every f32 there is through every function of one number; minutes
	cargo test --release --features f16,parallel -- --ignored --nocapture exhaustive

lint: $(VENV)/.lint     ## formatting and clippy, warnings denied, for every combination of features; Python too
	cargo fmt --check
	@set -e; for features in $(ALL_FEATURES); do \
		echo "== cargo clippy --no-default-features --features $$features"; \
		cargo clippy --quiet --no-default-features --features $$features --all-targets -- -D warnings; \
	done
	$(VENV)/bin/ruff check --quiet examples bindings/python benches

docs:                   ## the crate's documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

clean:                  ## remove everything that was made here
	rm -rf $(VENV) $(PEERS) target tests/no_std/target out dist site

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
	$(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(@D) ./bindings/python
	@touch $@

$(VENV)/.wheel $(PEERS)/.wheel: %/.wheel: %/.venv $(WHEEL)
	@$*/bin/python -m pip uninstall --quiet --yes polyglot-bridge 2>/dev/null
	$*/bin/python $(PIP_INSTALL) $(dir $(WHEEL))*.whl
	@touch $@

$(VENV)/.demo: PACKAGES = $(DEMO_PACKAGES)
$(VENV)/.test: PACKAGES = $(TEST_PACKAGES)
$(VENV)/.lint: PACKAGES = $(LINT_PACKAGES)
$(VENV)/.demo $(VENV)/.test $(VENV)/.lint: $(VENV)/.venv Makefile
	$(VENV)/bin/python $(PIP_INSTALL) $(PACKAGES)
	@touch $@

# A peer that cannot be had for this Python or this machine is left out, not an error.
$(PEERS)/.peers: $(PEERS)/.venv benches/peers/requirements.txt
	@grep -v '^#' benches/peers/requirements.txt | while read -r peer; do \
		$(PEERS)/bin/python $(PIP_INSTALL) "$$peer" || echo "left out: $$peer"; \
	done
	@touch $@
