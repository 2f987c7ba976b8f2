# Every target sets up what it needs: a virtual environment in .venv, from hash-locked requirements. SEED=n seeds whatever is random.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
LOCKS := requirements/base.txt requirements/dev.txt requirements/build.txt requirements/data.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes
FAST := $(wildcard tests/architecture tests/sim tests/docs)

.PHONY: help .venv demo test check bench controls conformance test-long format clean

help: ## list the targets
	@grep -hE '^[.a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv: $(STAMP) ## the virtual environment with everything that is locked

# Wheels only, so no compiler is needed; the one sdist (data) is built by the locked setuptools and not from the network.
$(STAMP): $(LOCKS) pyproject.toml requirements/python.sh
	@set -e; python=$$(requirements/python.sh); echo "setting up $(VENV) with $$python"; \
	rm -rf $(VENV); "$$python" -m venv $(VENV)
	@$(PIP) -r requirements/build.txt
	@$(PIP) --only-binary :all: -r requirements/base.txt
	@$(PIP) --only-binary :all: -r requirements/dev.txt
	@$(PIP) --no-deps --no-build-isolation -r requirements/data.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

demo: .venv ## the main job on real flights; results in build/demo
	$(BIN)/penstock demo flights --out build/demo

test: .venv ## every test of the ordinary suite, tools included
	$(BIN)/python -m pytest tests -q

check: .venv ## about two minutes on two cores: format, lint, types, layers, unit, simulation, docs
	@mkdir -p build; $(BIN)/python -m pytest tests/unit -q > build/check-unit.log 2>&1 & unit=$$!; \
	$(BIN)/python -m pytest $(FAST) -q; rest=$$?; \
	wait $$unit; unit=$$?; cat build/check-unit.log; exit $$((unit || rest))

bench: .venv ## the budget rows against their floors; writes build/bench.json
	$(BIN)/python -m bench

controls: .venv ## every test red under its planted control
	$(BIN)/python tests/controls/run.py

conformance: .venv ## the published suites on every driver; writes build/conformance.json
	$(BIN)/python -m pytest tests/conformance -q

test-long: .venv ## Linux: every kill point, power-loss states, bit flips, soak
	$(BIN)/python -m tests.long

format: .venv ## write what the format check asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

clean: ## remove what was built, the environment included
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
