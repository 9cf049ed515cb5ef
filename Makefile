# `make demo` and `make test` set up their own environments on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
LOCK := requirements/lock.txt
BIN := $(VENV)/bin
# Named first and exactly, so that pip does not look for a newer one (requirements/lock.txt).
TORCH ?= torch==2.13.0

EDGE ?= .venv-edge
BUILT := pyproject.toml CMakeLists.txt $(LOCK) $(wildcard segformer_deploy/*/kernels/* segformer_deploy/engine/native/kernels/* models/*/model.*)

.PHONY: demo test test-slow check peers scaling clean

# The demo needs the edge side only: no torch, no onnx.
$(EDGE)/.installed: $(BUILT)
	$(PYTHON) -m venv $(EDGE)
	$(EDGE)/bin/python -m pip install --quiet --upgrade pip
	$(EDGE)/bin/python -m pip install --quiet -c $(LOCK) -e ".[cpu]"
	touch $@

$(VENV)/.installed: $(BUILT)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c $(LOCK) "$(TORCH)"
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e ".[cpu,export,dev]"
	touch $@

demo: $(EDGE)/.installed
	$(EDGE)/bin/segdeploy demo

test: $(VENV)/.installed check
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e ".[cpu,export,dev,tensorrt-rtx]"
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e ".[cpu,export,dev,peers]"
	$(BIN)/python benchmarks/peers.py

scaling: $(VENV)/.installed
	$(BIN)/python benchmarks/scaling.py

clean:
	rm -rf $(VENV) $(EDGE) build demo dist
