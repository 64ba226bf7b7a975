# Every target does its own set-up. A second call finds the environment there and starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# The newest tested versions. Any within the ranges of pyproject.toml can be used.
CONSTRAINTS ?= constraints.txt
# What `make test` and `make test-oldest` run.
TESTS ?= tests
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help demo test quick test-oldest lint types docs format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 14

demo: $(VENV)/.installed  ## train a small model from scratch on drawn scenes
	$(BIN)/python examples/dual_encoder/demo.py

test: $(VENV)/.installed .cache/.transformers-tests  ## the whole suite
	$(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)

quick: $(VENV)/.installed  ## a selection of the suite for every commit
	$(BIN)/python -m pytest -n auto --dist loadfile -m quick tests

test-oldest: $(OLDEST)/.installed  ## the suite on the oldest supported versions
	$(OLDEST)/bin/python tests/fetch_transformers_tests.py
	$(OLDEST)/bin/python -m pytest -n auto --dist loadfile $(TESTS)

lint: $(VENV)/.installed  ## style and formatting, without changing a file
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed  ## type check of the package
	$(BIN)/mypy

docs: $(VENV)/.installed  ## HTML pages in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

format: $(VENV)/.installed  ## repair style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove everything that these targets made
	rm -rf $(VENV) $(OLDEST) .cache docs/_build runs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

# transformers' own model tests, which only its source distribution holds.
.cache/.transformers-tests: $(VENV)/.installed tests/fetch_transformers_tests.py
	$(BIN)/python tests/fetch_transformers_tests.py
	touch $@
