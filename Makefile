# make setup | demo | test | lint | bench | clean. Each does its own set-up: .venv and everything in it.

PYTHON ?= python3
# A folder with the PTX emulator `ptxemu`: when named, the kernel tests also run as compiled PTX.
PTXEMU ?=

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: setup demo test lint test-cpu test-interpreter test-ptx bench clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'Python has no venv module here. On Debian or Ubuntu: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	sh tools/fetch_fashion_mnist.sh
	$(BIN)/orthohash demo

test: lint test-cpu test-interpreter $(if $(PTXEMU),test-ptx)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-cpu: setup
	$(PYTEST)

test-interpreter: setup
	TRITON_INTERPRET=1 $(PYTEST) -m kernel

test-ptx: setup
	PYTHONPATH=$(PTXEMU) $(PYTEST) -m kernel --executor ptxemu.launch:launch

bench: setup
	for file in bench/[a-z]*.py; do $(BIN)/python -m bench.$$(basename $$file .py) || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
