# One command for each thing that a person does here. `make` alone lists them.
# Everything is made inside the checkout: .venv (Python), target (Rust), out (pictures and reports).

PYTHON ?= python3
SECONDS ?= 60

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

# What each Python command needs beside the wheel.
DEMO_PACKAGES := scikit-learn pillow
TEST_PACKAGES := pytest scipy hypothesis ml_dtypes
LINT_PACKAGES := mypy ruff

# The tests run once for each of these; `make lint` goes over every combination that can be built.
TESTED_FEATURES := libm libm,f16 std std,f16,parallel
# Rust's tests of the Python room need libpython to link with; not every Python ships one.
LIBPYTHON = $(shell $(PYTHON) -c "import sysconfig as s, os; \
	p = os.path.join(s.get_config_var('LIBDIR') or '', s.get_config_var('LDLIBRARY') or '-'); \
	print(os.path.dirname(p) if p.endswith('.so') and os.path.exists(p) else '')")

WHEEL_SOURCES := Cargo.toml Cargo.lock $(shell find src -name '*.rs') \
	$(shell find bindings/python -name '*.toml' -o -name '*.py' -o -name '*.pyi' -o -name py.typed 2>/dev/null)

.DELETE_ON_ERROR:
.PHONY: help demo wheel test test-rust test-no-std test-python bench bench-linear exhaustive fuzz lint docs clean

help:                   ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(STAMP)-wheel $(STAMP)-demo      ## classify real handwritten digits, race NumPy, draw out/digits.png
	@mkdir -p out
	$(RUN) examples/digits.py

wheel: $(STAMP)-wheel   ## build the wheel in release mode and install it in .venv

test: test-rust test-no-std test-python  ## Rust tests over the feature matrix, doctests, examples, pytest

test-rust:              ## Rust tests and doctests, once for each set of features
	@set -e; for features in $(TESTED_FEATURES); do \
		echo "== cargo test --no-default-features --features $$features"; \
		cargo test --quiet --no-default-features --features $$features; \
	done
ifneq ($(LIBPYTHON),)
	@echo "== cargo test --all-features"
	@LD_LIBRARY_PATH="$(LIBPYTHON):$$LD_LIBRARY_PATH" PYO3_PYTHON="$$(command -v $(PYTHON))" cargo test --quiet --all-features --lib
else
	@echo "== cargo check --all-features (this Python has no libpython to link tests with)"
	@cargo check --quiet --all-features --tests
endif

test-no-std:            ## link, without std and without an allocator, a program that uses the crate, and run it
ifeq ($(shell uname -sm),Linux x86_64)
	@set -e; for features in libm libm,f16; do \
		echo "== tests/no_std with $$features"; \
		cargo run --quiet --release --manifest-path tests/no_std/Cargo.toml --target-dir target/no_std --features $$features; \
	done
else
	@echo "== tests/no_std is written for Linux on x86-64: left out here"
endif

test-python: $(STAMP)-wheel $(STAMP)-test  ## pytest against the installed wheel
	$(RUN) -m pytest -q bindings/python/tests

lint: $(STAMP)-lint     ## formatting and clippy, warnings denied, for every combination of features
	cargo fmt --check
	@set -e; for features in libm libm,f16 std std,libm std,f16 std,libm,f16 parallel parallel,libm parallel,f16 python python,libm; do \
		echo "== cargo clippy --no-default-features --features $$features"; \
		cargo clippy --quiet --no-default-features --features $$features --all-targets -- -D warnings; \
	done

docs:                   ## the crate's documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

clean:                  ## remove everything that was made here
	rm -rf $(VENV) target tests/no_std/target out dist site

# --- the virtual environment, each step once -------------------------------------------------------------------------

$(STAMP)-venv:
	@command -v $(PYTHON) >/dev/null || { echo "no '$(PYTHON)' found: install Python 3.10 or later, or say PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Python 3.10 or later is needed, $(PYTHON) is $$($(PYTHON) --version): say PYTHON=/path/to/a/newer/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(STAMP)-wheel: $(STAMP)-venv $(WHEEL_SOURCES)
	@command -v cargo >/dev/null || { echo "no 'cargo' found: install Rust (rustup.rs)"; exit 1; }
	$(PIP) ./bindings/python
	@touch $@

$(STAMP)-demo $(STAMP)-test $(STAMP)-lint: $(STAMP)-%: $(STAMP)-venv Makefile
	$(PIP) $($(shell echo $* | tr a-z A-Z)_PACKAGES)
	@touch $@
