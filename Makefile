# A distribution's own interpreter is built with its optimisations, a version manager's often is not: the gateway
# needs a quarter more CPU on the latter. `make PYTHON=...` takes any other.
USABLE := import ensurepip, os, sys, sysconfig; headers = os.path.join(sysconfig.get_path("include"), "Python.h"); \
	sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and os.path.exists(headers)))
PYTHON ?= $(shell /usr/bin/python3 -c '$(USABLE)' 2> /dev/null && echo /usr/bin/python3 || echo python3)
# Of tests: they wait for processes and timers as much as they compute.
WORKERS ?= 5
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := gateway,postgres,neuron,conversion,embedded,tracing,dev
# What is compiled: a module beside its .pxd, and C.
TYPED := $(shell find ext cortex_site fleet -name '*.pxd')
SOURCES := $(TYPED) $(TYPED:.pxd=.py) $(wildcard ext/*.py ext/*.c ext/*.h ext/matmul/*.c ext/matmul/*.h)
PIP := $(BIN)/pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
BESIDE := $(MAKE) --no-print-directory --jobs 2 --output-sync
# The tests of decisions: no torch, no processes, no sockets, and no waiting. Measuring coverage doubles their time,
# and sees Python alone: what is compiled of them is tested again among the units.
DECISIONS := tests/engine tests/text tests/translation
VERSIONS := 3.12 3.13
PYTHONS := 3.11 $(VERSIONS)
# Of the distribution, for which packages are made.
SYSTEM = $(shell /usr/bin/python3 -c 'import sys; print("cp%d%d" % sys.version_info[:2])')

# Set on many machines; each of a suite's hundreds of processes would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up test checks lint types types-acp imports decisions unit e2e rest clients pure acp matrix without-torch gpu \
	dist packages man docs release hooks clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Installed once; again when what is installed changes. Most of it is never imported, so Python compiles what is.
$(VENV)/installed: pyproject.toml constraints.txt setup.py acp/pyproject.toml $(SOURCES)
	@test -d $(VENV) || { echo "Creating $(VENV) with $(PYTHON) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing packages (the first time takes some minutes) …"
	@$(PIP) install --no-compile --progress-bar on -c constraints.txt -e '.[$(EXTRAS)]' -e './acp[dev]'
	@touch $@

up: $(VENV)/installed  ## install, build and run everything here; Ctrl-C ends it
	@exec $(BIN)/cortex up $(ARGS)

test: checks decisions unit e2e rest  ## lint, types and all tests

checks: $(VENV)/installed
	@$(BESIDE) types lint types-acp imports

rest: $(VENV)/installed
	@$(BESIDE) pure acp

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

types-acp: $(VENV)/installed
	cd acp && ../$(BIN)/mypy

# Compiles in one process what each worker would compile for itself.
imports: $(VENV)/installed
	@$(PYTEST) --collect-only --quiet > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

decisions: $(VENV)/installed
	CORTEX_PURE_PYTHON=1 $(PYTEST) -n 2 --cov --cov-report term:skip-covered $(DECISIONS)

unit: $(VENV)/installed
	$(PYTEST) -n $(WORKERS) --ignore tests/e2e --ignore tests/engine --ignore tests/text

e2e: $(VENV)/installed  ## the tests that start everything as real processes
	$(PYTEST) -n 3 tests/e2e

# CORTEX_ALL_CLIENTS: also those that take longer to install than every run should.
clients: $(VENV)/installed  ## the clients of other people, every one
	CORTEX_ALL_CLIENTS=1 $(PYTEST) tests/e2e/clients

pure: $(VENV)/installed  ## the tests of compiled modules again, without the compiled modules
	CORTEX_PURE_PYTHON=1 $(PYTEST) -n $(WORKERS) tests/ext tests/gateway

acp: $(VENV)/installed  ## the tests of helexa-acp
	cd acp && ../$(PYTEST) -n $(WORKERS)

matrix: $(VERSIONS:%=matrix-%)  ## the tests that need no torch, on other versions of Python

# On PATH, or where pyenv or uv keep it.
matrix-%:
	@python=$$(PYENV_VERSION=$* python$* -c 'import sys; print(sys.executable)' 2> /dev/null || \
		uv python find --no-python-downloads $* 2> /dev/null) \
		|| { echo "Python $* is not installed here and passed over."; exit 0; }; \
	$(MAKE) --no-print-directory VENV=.venv-$* PYTHON=$$python EXTRAS=gateway,postgres,daemon,embedded,tracing,dev without-torch

without-torch: $(VENV)/installed
	$(PYTEST) -n $(WORKERS)
	cd acp && ../$(PYTEST) -n $(WORKERS)

gpu: $(VENV)/installed  ## the tests that need a CUDA device
	$(PYTEST) -m gpu

$(VENV)/release: $(VENV)/installed
	@echo "Installing what releases are made with …"
	@$(PIP) install --quiet --no-compile -c constraints.txt -e '.[release]'
	@touch $@

dist: $(VENV)/release  ## a source distribution and wheels for the Pythons that are here, in dist/
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/packages/wheels.sh $(PYTHONS)

# NEURON_EXTRAS=daemon leaves torch out, for hosts whose build of it comes from elsewhere.
NEURON_EXTRAS ?= neuron,conversion,tracing
packages: dist man  ## a .deb and an .rpm of the gateway and of neuron, in dist/, for this system's Python
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/packages/build.sh cortex gateway,postgres,tracing dist/*-$(SYSTEM)-*.whl
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/packages/build.sh neuron $(NEURON_EXTRAS) dist/*-$(SYSTEM)-*.whl

man: $(VENV)/installed
	@$(BIN)/python -m docs.generate build/site-source build/man

docs: $(VENV)/release man  ## the documentation as a site, in build/site; a warning is an error
	@$(BIN)/zensical build --clean --strict --config-file build/mkdocs.yml

release: $(VENV)/release  ## build and check what is shipped: wheels, packages, charts, the site
	$(PYTEST) tests/release

hooks: $(VENV)/installed  ## check lint and types before every commit
	$(BIN)/pre-commit install

clean:  ## remove what was built and installed
	rm -rf $(VENV) $(VERSIONS:%=.venv-%) build dist *.egg-info ext/*.c ext/*.so ext/matmul/*.so
