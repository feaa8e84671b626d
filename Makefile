# Everything a person types. Each target makes the virtual environment if it is
# missing and is quick when nothing changed. Needs Python 3.11 or newer, no more.

.DEFAULT_GOAL := help
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev

# The first of these that is 3.11 or newer; PYTHON=… chooses another.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

# One more than there are processors: the tests of whole instances wait most of their time.
TEST_JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
TEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
DRILL_ARGS ?=

.PHONY: help demo venv run test retest check format bench drill screenshots lock clean

help: ## Show what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: $(RUNTIME) ## Two instances tell their story and stay up (DEMO_ARGS=--once: tell, check, clean up)
	@$(BIN)/flask demo $(DEMO_ARGS)

venv: $(RUNTIME) ## The virtual environment .venv with all that an instance needs

run: $(RUNTIME) ## One instance with everything it needs
	@$(BIN)/flask up

test: $(DEV) ## All tests, on SQLite and on PostgreSQL, with coverage
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal --cov --cov-report=term $(TEST_ARGS)

retest: $(DEV) ## The tests that failed in the last run, one after the other
	@$(BIN)/python -m pytest -p no:randomly --last-failed --last-failed-no-failures none $(TEST_ARGS)

check: $(DEV) ## Lint, format, types, architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -p no:randomly -p no:cacheprovider tests/architecture

format: $(DEV) ## Put the code into its form
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

bench: $(DEV) ## Measure speed and memory (BENCH_ARGS passes options)
	@$(BIN)/python -m bench $(BENCH_ARGS)

drill: $(DEV) ## Kill, cut, fill and confuse whole instances, and prove that nothing is lost (DRILL_ARGS=--short)
	@$(BIN)/python -m drills $(DRILL_ARGS)

screenshots: $(DEV) ## Take the pictures of docs/images anew (needs Chromium)
	@$(BIN)/python -m docs.screenshots

lock: $(DEV) ## Make requirements*.txt anew from requirements*.in (LOCK_ARGS=--upgrade takes newer releases)
	@for name in requirements requirements-dev; do \
		$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
			--no-emit-index-url --no-emit-find-links $(LOCK_ARGS) --output-file $$name.txt $$name.in || exit 1; \
	done

clean: ## Remove what was made here, but not the data folder
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed on PATH (or PYTHON=/path/to/it)" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON) ..." >&2
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment; install its package for that (python3-venv on Debian)" >&2; exit 1; }

$(RUNTIME): requirements.txt | $(BIN)/python
	@echo "installing requirements.txt ..." >&2
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(RUNTIME)
	@echo "installing requirements-dev.txt ..." >&2
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@
