# Everything runs in .venv, which is made once and again only when
# pyproject.toml or constraints.txt change.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= out/demo
SHIPPED := fib25-affinities/train fib25-distance/train

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench models docs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# numba's cache does not see that a kernel which another one calls has changed.
KERNELS := $(VENV)/.kernels
$(KERNELS): $(STAMP) $(wildcard tasks/kernels/*.py)
	rm -f tasks/kernels/__pycache__/*.nb[ci]
	touch $@

install: $(STAMP) ## make .venv and install Raphe with what its tests need

demo: $(KERNELS) ## segment the real EM crop that ships with Raphe, score it, draw it (OUT=out/demo)
	$(BIN)/raphe demo --output $(OUT)

lint: $(STAMP) ## style, types, and the one-way import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint $(KERNELS) ## lint, then all tests
	$(BIN)/pytest

# The others take hours or a model: see the head of each.
BENCHMARKS := malis predict quality schedule seams segment train
bench: demo ## run the benchmarks (after the demo, whose affinities some use); each prints JSON
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py; done

models: $(KERNELS) ## train the shipped models anew, into trained/ (hours on a CPU)
	set -e; for config in $(SHIPPED); do $(BIN)/raphe train tasks/models/$$config.yaml; done

docs: $(STAMP) ## write the reference pages docs/configuration.md and docs/parts.md
	$(BIN)/python -m pipeline.reference > docs/configuration.md
	$(BIN)/python -m tasks.reference > docs/parts.md

clean: ## remove .venv, caches and the demo's output
	rm -rf $(VENV) $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find pipeline tasks tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
