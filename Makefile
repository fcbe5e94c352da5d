# Needs python3 (3.11 or newer), make and a C compiler. Everything is installed into .venv, once, and again whenever
# pyproject.toml changes. Paths are relative, so that the checkout may live in a directory with spaces in its name.

PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.PHONY: help demo test test-slow bench format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       a hyper-parameter sweep by eight processes, two of which are killed (about a minute)"
	@echo "make test       lint, types and tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make bench      measure against other libraries, side by side"
	@echo "make format     lay the code out as 'make test' wants it"
	@echo "make clean      remove .venv and everything else that was made here"

demo: .venv/demo.stamp
	@rm -rf build/sweep
	$(PY) examples/sweep/sweep.py --out build/sweep

test: .venv/test.stamp
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pytest

test-slow: .venv/test.stamp
	$(PY) -m pytest -m slow --timeout 1800

bench: .venv/bench.stamp
	$(PY) benchmarks/run.py

format: .venv/test.stamp
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

clean:
	rm -rf .venv .cache .hypothesis build dist src/*.egg-info

.venv/%.stamp: pyproject.toml setup.py $(wildcard csrc/*) .venv/made.stamp
	@echo "==> installing interlock and what 'make $*' needs"
	$(PIP) install --editable ".[$*]"
	@touch $@

.venv/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "interlock needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)."; \
	    echo "Name another one: make PYTHON=/path/to/python3.11"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo "'$(PYTHON)' cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"; exit 1; } >&2
	@echo "==> making the virtual environment .venv"
	$(PYTHON) -m venv --clear .venv
	@touch $@
