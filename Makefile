# make demo   evolve a metric on the bundled model, compare, prune, report (3 minutes after setup)
# make test   run the tests
# make bench  time the usual way and ours side by side (DEVICE=cuda on a GPU)
# make check  run the linter and the type checker

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test bench check format clean

demo: $(VENV)/installed
	$(BIN)/prunerzero demo --output-dir demo --overwrite

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

DEVICE ?= cpu

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks --device $(DEVICE) --output benchmarks.json

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and by itself: pip then takes the build constraints.txt names, whatever asks for it
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo
