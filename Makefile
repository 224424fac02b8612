# Two commands for a newcomer with Python 3.11 or later: `make quickstart`,
# `make test`. Both make .venv and install by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
# Processes that run tests, one more than two cores since some wait for others;
# each compiles into the same cache.
WORKERS ?= 3
export JAX_PLATFORMS ?=

.PHONY: quickstart test test-all lint bench clean

# Modules are compiled when first imported: most of what is installed is not.
PIP := $(BIN)/python -m pip install --quiet --no-compile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml tests/peers.txt | $(BIN)/python
	$(PIP) -e '.[test]'
	$(PIP) --no-deps -r tests/peers.txt
	touch $(VENV)/.installed $@

quickstart: $(VENV)/.installed
	BIN=$(BIN) RUN=$(RUN) sh launch/quickstart.sh

PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	--no-loadscope-reorder --durations=10

test: $(VENV)/.installed-test
	$(PYTEST)

# The slow ones too, whose faults others find as well.
test-all: $(VENV)/.installed-test
	$(PYTEST) -m 'slow or not slow'

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/step_time.py

clean:
	rm -rf $(VENV) runs build *.egg-info
