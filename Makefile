# make setup | check | test | fix | coverage | docs | bench | missing | demo | clean
# make fuzz | test-cpus | test-gpu | compile-matrix | compile-matrix-all | compat | sanitize | gpu-report
# Each target installs what it needs into .venv. CONTRIBUTING.md describes the targets.

PYTHON ?= python3
# A folder with the PTX emulator `ptxemu`. If it is given, the kernel tests also run as compiled PTX.
PTXEMU ?=
# The commit or branch that `make check` compares with. Default: where this branch left main.
BASE ?=
# The number of test processes.
JOBS ?= 2
# Further options of tools/compile_matrix.py, such as MATRIX="--targets sm_90 --kernels _sweep_kernel".
MATRIX ?=
# Seconds that `make fuzz` spends on each reader and each other target.
FUZZ_SECONDS ?= 60
# Options of tools/cpu_variants.py. VARIANTS=--short runs a selection of the numerical tests.
VARIANTS ?=
# The oldest supported version, which PyTorch 2.10 and 2.11 bring, and the newest.
TRITONS := 3.6.0 3.9.0

# Hundreds of test processes import PyTorch. Each of them would compile its sources, for five seconds, if none may keep the result.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# The tests of a file run in one process, because they share fixtures. Files with slow tests start first (tests/conftest.py).
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: setup check test fix lint types selftest types-and-selftest test-changed test-cpu test-interpreter test-ptx test-gpu test-cpus fuzz coverage missing \
  demo docs bench clean compile-matrix compile-matrix-all compat sanitize gpu-report

setup: .venv/installed

# Without --no-compile, pip would compile every module of every dependency, which takes longer than all imports of the tests.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'This Python has no venv module. On Debian or Ubuntu: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	touch $@

# The checks for one change: lint, types, the tests of the changed modules and a small core.
check: lint types test-changed

# Everything. CI runs it on main.
test: lint types-and-selftest test-cpu test-interpreter $(if $(PTXEMU),test-ptx)

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# The self-test compiles most functions of the CPU path. All processes of the tests then find them in Numba's cache.
selftest: setup
	@mkdir -p build
	@OMP_NUM_THREADS=1 $(BIN)/orthohash doctor --selftest --device cpu --json > build/selftest.json || { cat build/selftest.json; exit 1; }

types-and-selftest: setup
	$(MAKE) --no-print-directory -j2 types selftest

test-changed: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.changed_tests $(if $(BASE),--base $(BASE)) --run -n $(JOBS)

test-cpu: setup
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL)

test-interpreter: setup
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PYTEST) -m kernel $(PARALLEL)

test-ptx: setup
	OMP_NUM_THREADS=1 PYTHONPATH=$(PTXEMU) $(PYTEST) -m kernel --executor ptxemu.launch:launch $(PARALLEL)

test-gpu: setup
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  { echo 'PyTorch sees no GPU. `make test` runs the kernels without one.'; exit 1; }
	$(PYTEST) -m gpu

# The numerical tests as processors with other vector instructions run them.
test-cpus: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.cpu_variants $(VARIANTS)

# Damaged files for every reader, and random steps for the indexes. Without FUZZ_SECONDS the same tests make a short, repeatable run.
fuzz: setup
	OMP_NUM_THREADS=1 FUZZ_SECONDS=$(FUZZ_SECONDS) $(PYTEST) $(PARALLEL) tests/fuzz

# Lines of functions that Numba or Triton compiles count as not run.
coverage: setup
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

missing: setup
	$(BIN)/python -m tools.missing

demo: setup
	sh tools/fetch_fashion_mnist.sh
	$(BIN)/orthohash demo

# A few hundred configurations per GPU, which show any two choices of a launcher together.
compile-matrix: setup
	$(BIN)/python -m tools.compile_matrix --pairs --report bench/results/compile_matrix_pairs.json $(MATRIX)

# Every configuration.
compile-matrix-all: setup
	$(BIN)/python -m tools.compile_matrix --report bench/results/compile_matrix.json $(MATRIX)

# Each version of Triton has an environment of its own. The version that PyTorch pins does not matter, because nothing runs.
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

# triton-viz 3.0 supports Triton up to 3.6.
sanitize: .venv-sanitize/installed
	.venv-sanitize/bin/python -m tools.sanitize

.venv-sanitize/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet -c constraints.txt torch numpy pytest triton-viz==3.0
	$(@D)/bin/python -m pip install --quiet --no-deps triton==3.6.0 -e .
	touch $@

gpu-report: setup
	$(BIN)/python -m bench.gpu_report

# Writes build/site. The variable silences a warning about mkdocs 2, which would fail a strict build.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The microbenchmarks of every op. The long comparisons are `python -m bench.<op>`.
bench: setup
	$(PYTEST) bench/ --benchmark-only

clean:
	rm -rf .venv .venv-triton-* .venv-sanitize build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
