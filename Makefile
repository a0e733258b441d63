# Everything a developer runs. `make` lists the targets; CONTRIBUTING.md says how they fit together.
#
#   PYTHON   the interpreter that makes the virtual environment (3.11 or newer)
#   VENV     where the virtual environment is
#   WORKERS  how many processes run the tests, each with servers of its own; 0: this one, where a debugger works

PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2

BIN    := $(VENV)/bin
READY  := $(VENV)/.millrace-installed
SOURCES := src shared services tests benchmarks docs conftest.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test check bench chaos simulation docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## Make the virtual environment from the hashed lock

# Every package is checked against its hash; ours is built with the locked hatchling and fetches nothing.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Millrace needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install one and name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## Start the whole stack, run every example, show what happened
	@$(BIN)/python -m millrace.demo

test: check ## Everything that must hold: make check, then every test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

check: $(READY) ## Lint, format, types and architecture, without running anything
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## Measure the whole product under load (ARGS="--help" for more); prints JSON
	$(BIN)/python benchmarks/bench.py $(ARGS)

chaos: $(READY) ## Kill and stop orchestrators and runners under load for five minutes (ARGS="--help" for more)
	$(BIN)/python benchmarks/chaos.py $(ARGS)

simulation: $(READY) ## Play 10,000 seeded histories of faults against the core (SEEDS=n)
	$(BIN)/python tests/simulation/simulate.py --seeds $(or $(SEEDS),10000)

docs: $(READY) ## Write the generated parts of docs/ anew
	$(BIN)/python docs/generate.py

lock: ## Bring requirements.lock in line with pyproject.toml (needs uv; ARGS=--upgrade for newer versions)
	@command -v uv >/dev/null || { echo "make lock needs uv, which is not installed: pip install uv" >&2; exit 1; }
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-header --no-emit-index-url --no-emit-find-links $(ARGS) -o requirements.lock pyproject.toml

clean: ## Remove what is generated, but no data (.millrace) and no virtual environment
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
