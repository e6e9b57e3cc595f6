# One command per intent; CI runs the same ones.
#   make setup       .venv with everything the project needs (instant when nothing changed)
#   make quickstart  a text-to-image model of rendered scenes, in minutes, without a GPU
#   make check       format, lint, types, imports and the fast tests
#   make test        every test
#   make bench       the benchmarks
#   make fuzz        ten minutes of hostile input for every parser of outside data
#   make chaos       up to 25 minutes of runs that are broken at random moments
#   make lock        pin the dependencies of pyproject.toml anew, with hashes
# PYTHON chooses the interpreter (3.11 or newer); INSTALLER=pip installs with pip instead of uv.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
INSTALLER ?= uv
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ifeq ($(INSTALLER),uv)
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-build-isolation
else
INSTALL := $(BIN)/python -m pip install --quiet --no-build-isolation
endif

.PHONY: setup quickstart format lint types imports check test test-fast test-slow test-integration test-hostile test-e2e test-fuzz test-chaos test-last fuzz chaos bench lock clean
.DEFAULT_GOAL := setup
# A crash in native code tells its Python stack, also in what runs at the end of a process while Python still does.
export PYTHONFAULTHANDLER := 1

setup: $(STAMP)

# Every package is pinned by version and hash. The tools come first: they install the rest, and build what has no wheel.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make setup: no Python 3.11 or newer found; install one, or name it with PYTHON=…"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -nE '/^(setuptools|uv)==/,/[^\\]$$/p' constraints.txt > $(VENV)/tools.txt
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(VENV)/tools.txt
	$(INSTALL) --require-hashes --requirement constraints.txt
	$(INSTALL) --no-deps --editable .
	@touch $@

# Newer versions: make lock UPGRADE=--upgrade
lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links $(UPGRADE) --output-file constraints.txt pyproject.toml

quickstart: setup
	@$(BIN)/corgi quickstart

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

# As many tests at a time as there are processors, those of one file one after another. Each computes in one thread.
PROCESSES = logical
PARALLEL = --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder --durations 15
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL)

test-fast: setup
	$(PYTEST) tests/architecture tests/unit tests/numerics

# Measures the branches that the fast tests pass through, and holds the figures (CONTRIBUTING.md).
coverage: setup
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest $(PARALLEL) tests/unit tests/numerics
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --include='models/*' --fail-under=98
	$(BIN)/coverage report --omit='models/*' --fail-under=74

test-integration: setup
	$(PYTEST) tests/integration

test-hostile: setup
	$(PYTEST) tests/hostile

test-e2e: setup
	$(PYTEST) tests/e2e tests/browser

check: lint types imports test-fast

test-fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds 60

# All of the slow tests in one go, so that no processor waits for the last file of one group before the next begins.
# One more at a time than there are processors: many of them wait for a server, a pause or a process most of the time.
test-slow: PROCESSES = $$($(BIN)/python -c 'import os; print(1 + (os.cpu_count() or 1))')
test-slow: setup
	$(PYTEST) tests/e2e tests/browser tests/integration tests/hostile

# What `make test` leaves out: tests of a minute or more, where others show most of what they show.
test-thorough: setup
	$(PYTEST) -m thorough tests/e2e tests/integration

test: check test-slow test-last

# Beside one another, as the trials of chaos wait for others most of the time.
test-last: setup
	$(MAKE) -j2 test-fuzz test-chaos

bench: setup
	$(BIN)/python -m benchmarks

# Every parser of outside data against damaged and hostile input; another SEED tries other inputs.
fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600) --seed $(or $(SEED),0)

# A few faults, once each.
test-chaos: setup
	$(BIN)/python -m tests.chaos --short --seconds 150

# Runs under faults: killed processes, lost nodes and servers, rotten bytes; another SEED strikes at other moments.
chaos: setup
	$(BIN)/python -m tests.chaos --at-most $(or $(SECONDS),1500) --seconds $(or $(SECONDS),1500) --seed $(or $(SEED),0)

clean:
	rm -rf $(VENV)
