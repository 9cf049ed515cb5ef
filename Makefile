# `make demo` and `make test` set up their own environments on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
LOCK := requirements/lock.txt
BIN := $(VENV)/bin
# Named first and exactly, so that pip does not look for a newer one (requirements/lock.txt).
TORCH ?= torch==2.13.0

# What our calls to TensorRT and CUDA are proved against. It needs no GPU, but has wheels for this
# system only: elsewhere the tests that want it are skipped, here they fail without it.
PROOF := requirements/proof.txt
ifeq ($(shell uname -sm),Linux x86_64)
EXTRAS := cpu,export,dev,cuda,tensorrt-rtx
REQUIRE_PROOF := 1
else
EXTRAS := cpu,export,dev
endif

EDGE ?= .venv-edge
FLEET ?= .venv-fleet
FLEET_LOCK := requirements/fleet.txt
BUILT := pyproject.toml CMakeLists.txt $(LOCK) $(PROOF) $(wildcard segformer_deploy/*/kernels/* segformer_deploy/engine/native/kernels/* models/*/model.*)

.PHONY: demo test test-slow test-browser test-fleet test-waiting test-computing check kernels peers scaling clean

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
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e ".[$(EXTRAS)]"
ifdef REQUIRE_PROOF
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/proof -r $(PROOF)
endif
	touch $@

demo: $(EDGE)/.installed
	$(EDGE)/bin/segdeploy demo

# Two halves at once: much of the first is waiting (processes, streams, servers), the second computes.
FAST := SEGDEPLOY_REQUIRE_PROOF=$(REQUIRE_PROOF) $(BIN)/python -m pytest -q -m "not slow and not browser"
WAITING := $(addprefix tests/,batch cli serve video view workflow)

test: $(VENV)/.installed check
	$(MAKE) -j2 --output-sync=target test-waiting test-computing

test-waiting:
	$(FAST) $(WAITING)

test-computing:
	$(FAST) tests $(addprefix --ignore=,$(WAITING))

test-slow: $(VENV)/.installed
	SEGDEPLOY_REQUIRE_PROOF=$(REQUIRE_PROOF) $(BIN)/python -m pytest -q -m slow

# The page in headless Chromium (Debian: apt install chromium chromium-driver).
test-browser: $(VENV)/.installed
	SEGDEPLOY_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -q -m browser

# Servers and clusters: Ray on this machine, and the real Triton server out of a wheel (fetched once).
$(FLEET)/.installed: $(BUILT) $(FLEET_LOCK)
	$(PYTHON) -m venv $(FLEET)
	$(FLEET)/bin/python -m pip install --quiet --upgrade pip
	$(FLEET)/bin/python -m pip install --quiet -c $(FLEET_LOCK) "$(TORCH)"
	$(FLEET)/bin/python -m pip install --quiet -c $(FLEET_LOCK) -e ".[cpu,export,dev,triton,ray]" "tritonclient[http]"
	touch $@

test-fleet: $(FLEET)/.installed
	SEGDEPLOY_REQUIRE_FLEET=1 $(FLEET)/bin/python -m pytest -q -m "ray or triton"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The GPU's kernels, compiled again, and the report of them: after every change of their sources.
kernels: $(VENV)/.installed
	$(BIN)/python -m segformer_deploy.cuda.compiled --nvrtc $(VENV)/proof
	$(BIN)/python benchmarks/kernel_report.py

peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c $(LOCK) -e ".[$(EXTRAS),peers]"
	$(BIN)/python benchmarks/peers.py

scaling: $(VENV)/.installed
	$(BIN)/python benchmarks/scaling.py

clean:
	rm -rf $(VENV) $(EDGE) $(FLEET) build demo dist
