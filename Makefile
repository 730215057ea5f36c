# `make demo` and `make test` set themselves up on a machine that has python3.11+, make and a C
# compiler. Everything lives in .venv; a change of pyproject.toml installs anew.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check check-fast format setup docs clean

demo: setup
	$(BIN)/wafer demo demo

# A process of one thread for each of two cores; by file, since tests of one file share what took
# long to make.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test: setup
	$(TESTS)

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(TESTS)

check-fast: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(TESTS) -m "not slow and not shared"

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: setup
	$(BIN)/python -P docs/generate_cli.py

setup: $(READY)

# roboflow and ultralytics bring the two OpenCV distributions, which install the same folder. They
# are of one version; the headless one goes in last, since the other needs a desktop's libGL.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "wafer needs Python 3.11 or newer, this is %d.%d; say make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall \
		"opencv-python-headless==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))')"
	$(BIN)/python -m pip check
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
