# `make demo` and `make test` set up what they need; nothing but Python 3.11, make and pip is assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready
BENCHMARK := .venv-benchmark
BENCHMARK_READY := $(BENCHMARK)/.ready
COMPILED := hatch_build.py $(wildcard src/finerank/nn/kernels/*.[ch])
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test peers benchmark format clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(READY): pyproject.toml constraints.txt $(COMPILED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "finerank needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY) ## MovieLens-100K from raw logs to ten ranked films
	$(BIN)/finerank demo

test: $(READY) ## format, lint, types, layers, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto --dist loadgroup

# An environment of its own: nothing else here needs what the peers bring.
$(PEERS_READY): peers/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --editable . pytest --requirement peers/requirements.txt
	@touch $@

peers: $(PEERS_READY) ## equality with other libraries, docs/peers.md
	$(PEERS)/bin/pytest -q peers

# NextRec asks for NumPy and pandas of 2023, and runs with those that all libraries have here.
$(BENCHMARK_READY): peers/requirements.txt benchmarks/speed/requirements.txt pyproject.toml \
  constraints.txt
	$(PYTHON) -m venv $(BENCHMARK)
	$(BENCHMARK)/bin/pip install --quiet --editable . --requirement peers/requirements.txt \
	  --requirement benchmarks/speed/requirements.txt
	$(BENCHMARK)/bin/pip install --quiet --no-deps nextrec==0.6.14
	@touch $@

benchmark: $(BENCHMARK_READY) ## speed beside other libraries, benchmarks/speed
	OMP_NUM_THREADS=2 $(BENCHMARK)/bin/python benchmarks/speed/run.py

format: $(READY) ## rewrite the sources in the project's format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove everything that was built
	rm -rf $(VENV) $(PEERS) $(BENCHMARK) .finerank runs dist build
