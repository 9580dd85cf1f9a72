# make run    install into .venv and run the main job
# make test   install and run the tests, but for the long ones
# make test-all  install and run all tests: faults, fuzzing, presets on Ray, notebook and installing at length too
# make lint   style and types
# make golden measure the golden curves of the tests anew, and say what moved
# make bench  measure the speed beside other simulators (experiments/benchmarks): PARTS="W2 W1b" REPEATS=3 for less of it, PARTS=all for more
# make clean  remove what these leave behind
#
# PYTHON=python3.12      another interpreter (3.11 or later) for a new environment
# PIP_ARGS="..."         further arguments of every pip install
# TORCH_BUILD=cu128      another build of PyTorch than cpu, for a new environment
# TORCH_ARGS="..."       further arguments for installing PyTorch, such as the --index-url of the CPU builds
# TEST_ARGS="..."        other arguments of pytest, such as tests/test_models.py

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
TORCH_BUILD ?= cpu
TORCH_ARGS ?=
TEST_ARGS ?= -q -n 2 --dist loadgroup
PARTS ?= roofline W2lr W2 W1b W1 W3
REPEATS ?= 5

RUN = $(VENV)/bin/fedsim demo
PIP_INSTALL = $(VENV)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS)
TORCH = torch==$(shell sed -n 's/^torch==//p' requirements.lock)
INSTALLED = $(VENV)/.installed

.PHONY: run test test-all lint golden bench install clean

run: install
	$(RUN)

test: install
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -m "not long" $(TEST_ARGS)

test-all: install
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(TEST_ARGS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

golden: install
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.convergence.rewrite

bench: install
	OMP_NUM_THREADS=1 TORCH_ARGS="$(TORCH_ARGS)" PIP_ARGS="$(PIP_ARGS)" $(VENV)/bin/python experiments/benchmarks/bench.py --parts $(PARTS) --repeats $(REPEATS)

install: $(INSTALLED)

# The editable install puts the repository on the path (compat), so that a script beside a clone named fedsim finds the package and not the
# folder.
# PyTorch comes first, so that the lock finds it there: the build asked for where pip's sources have it, else whatever build they have (which
# on Linux may bring CUDA; TORCH_ARGS then names the index of the CPU builds).
$(INSTALLED): requirements.lock pyproject.toml setup.py $(wildcard fedsim/kernels/*.c fedsim/kernels/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedsim needs Python 3.11 or later: make PYTHON=python3.11")'
	@test -x $(VENV)/bin/pip || { echo "Making the environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing $(TORCH) ($(TORCH_BUILD)) and the versions of requirements.lock (a few minutes the first time)"
	@$(PIP_INSTALL) $(TORCH_ARGS) --no-deps $(TORCH)+$(TORCH_BUILD) 2>/dev/null || $(PIP_INSTALL) $(TORCH_ARGS) $(TORCH)
	@$(PIP_INSTALL) -r requirements.lock
	@rm -f fedsim/kernels/*.so
	@$(PIP_INSTALL) --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@ls fedsim/kernels/_convolutions.*.so >/dev/null 2>&1 || echo "fedsim.kernels._convolutions is not built (no C compiler, or no headers of Python): PyTorch does what it would do, in more time"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find fedsim tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f fedsim/kernels/*.so
