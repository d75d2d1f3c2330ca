# make demo   evolve a metric on the bundled model, compare, prune, report (3 to 4 minutes after setup)
# make test   run the tests
# make benchmarks  time the usual way and ours side by side (DEVICE=cuda on a GPU)
# make check  run the linter and the type checker
# make sanitize  run the packed format's kernels under sanitizers, and for 64-bit Arm in an emulator
# make wheel  build a wheel for this platform in dist/, with the packed format's kernels compiled
# make docs   build the site in docs/_build and check every link
# make notebook  execute examples/tutorial.ipynb

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test benchmarks check sanitize wheel format docs notebook clean

demo: $(VENV)/installed
	$(BIN)/prunerzero demo --output-dir demo --overwrite

# modules are compiled once, not in each process that a test starts
test: $(VENV)/installed
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal

DEVICE ?= cpu

benchmarks: $(VENV)/installed
	$(BIN)/python -m benchmarks --device $(DEVICE) --output benchmarks.json

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sanitize: $(VENV)/installed
	$(BIN)/python scripts/check_kernels.py

# without isolation: the kernels are built with the headers of the torch that is installed
wheel: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "hatchling>=1.27"
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

docs: $(VENV)/installed
	$(BIN)/python scripts/check_links.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build
	@echo "open docs/_build/index.html"

notebook: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python scripts/run_notebook.py examples/tutorial.ipynb

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and by itself: pip then takes the build constraints.txt names, whatever asks for it
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $@

clean:
	rm -rf $(VENV) demo docs/_build
