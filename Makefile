# Two commands for a fresh machine: `make demo` and `make test`. Python 3.11 or later is all they need.
# On Linux, `make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu` takes PyTorch's CPU build, which is
# gigabytes smaller than the default one.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OUT ?= runs/demo

.PHONY: demo test lint check clean

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.python constraints.txt
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[dev]"
	@touch $@

# The main job on the sample that ships: five minutes on two cores.
demo: $(VENV)/.demo
	$(BIN)/tenfold shrink zoo:resnet56_fashion_mnist --data tenfold.data:fashion_mnist \
		--size 0.34MB --max-drop 1% --minimize latency --time 5m --out $(OUT)

# A process a core, each with one thread: twice as fast as one process with two threads.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf $(VENV) runs build dist *.egg-info src/*.egg-info
