# make setup | demo | test | docs | lint | bench | clean | compile-matrix | compat | sanitize | gpu-report | test-gpu.
# Each does its own set-up: .venv and everything in it.

PYTHON ?= python3
# A folder with the PTX emulator `ptxemu`: when named, the kernel tests also run as compiled PTX.
PTXEMU ?=

# Further options of tools/compile_matrix.py, such as MATRIX="--targets sm_90 --kernels _sweep_kernel".
MATRIX ?=
# The oldest, which PyTorch 2.10 and 2.11 bring, and the newest.
TRITONS := 3.6.0 3.9.0

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: setup demo test docs lint test-cpu test-interpreter test-ptx test-gpu bench clean compile-matrix compile-matrix-all compat sanitize gpu-report

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
	OMP_NUM_THREADS=1 $(PYTEST) -n 2

test-interpreter: setup
	TRITON_INTERPRET=1 $(PYTEST) -m kernel -n 2

test-ptx: setup
	PYTHONPATH=$(PTXEMU) $(PYTEST) -m kernel --executor ptxemu.launch:launch -n 2

test-gpu: setup
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  { echo 'PyTorch sees no GPU here: make test runs the kernels without one'; exit 1; }
	$(PYTEST) -m gpu

# A few hundred configurations per GPU, which show any two choices of a launcher together; under an hour on two cores.
compile-matrix: setup
	$(BIN)/python -m tools.compile_matrix --pairs --report bench/results/compile_matrix_pairs.json $(MATRIX)

# Every configuration.
compile-matrix-all: setup
	$(BIN)/python -m tools.compile_matrix --report bench/results/compile_matrix.json $(MATRIX)

# Each Triton in an environment of its own; what PyTorch pins does not matter, for nothing runs.
compat: $(TRITONS:%=.venv-triton-%/matrix)

.venv-triton-%/matrix: .venv-triton-%/installed FORCE
	$(@D)/bin/python -m tools.compile_matrix --allow-slower --report bench/results/compile_matrix_triton_$*.json $(MATRIX)

.venv-triton-%/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet -c constraints.txt torch numpy
	$(@D)/bin/python -m pip install --quiet --no-deps triton==$* -e .
	touch $@

.PRECIOUS: .venv-triton-%/installed

FORCE:

# triton-viz 3.0 knows Triton up to 3.6.
sanitize: .venv-sanitize/installed
	.venv-sanitize/bin/python -m tools.sanitize

.venv-sanitize/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet -c constraints.txt torch numpy pytest triton-viz==3.0
	$(@D)/bin/python -m pip install --quiet --no-deps triton==3.6.0 -e .
	touch $@

gpu-report: setup
	$(BIN)/python -m bench.gpu_report

# Into build/site. The variable silences a notice about mkdocs 2, which would fail a strict build.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	for file in bench/[a-z]*.py; do $(BIN)/python -m bench.$$(basename $$file .py) || exit 1; done

clean:
	rm -rf .venv .venv-triton-* .venv-sanitize build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
