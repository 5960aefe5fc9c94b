# Two commands for newcomers: `make run` and `make test`. Both set up .venv themselves.
# The newest Python that this project supports and that runs here: a name may be a shim.
PYTHON ?= $(shell for each in python3.13 python3.12 python3.11; do \
  $$each -c 'import ensurepip' 2>/dev/null && echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
# An index of torch's CPU builds, without CUDA's libraries; pip prefers their versions.
TORCH_INDEX ?=
PIP_ARGS := --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PIP := $(BIN)/pip install $(PIP_ARGS)
# What `make run` installs; EXTRAS=all adds TensorFlow, for prepared TFDS directories, and the Hub.
EXTRAS ?= build,train,flows
INSTALLED := $(VENV)/.run-$(EXTRAS)
# One file of tests is one worker's. In the order of their names the longest, of whole sites with
# servers, begin early; xdist's own order, by the number of tests, leaves them for the end.
# Three workers keep two cores busy: tests of servers wait for a third of their time.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# Whose drawings: make run CLASSES="bee,sun"; anything else: make run RUN_ARGS="--preset small"
CLASSES ?=
RUN_ARGS ?=

.PHONY: run test check check-data bench lock clean

run: $(INSTALLED)
	$(BIN)/sketchmill run $(if $(CLASSES),--classes "$(CLASSES)") $(RUN_ARGS)

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(PYTEST)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow"

# The fast tests of the data half on another Python, where there may be no torch for it:
# make check-data PYTHON=python3.12
DATA_VENV = .venv-$(notdir $(PYTHON))
DATA_PYTEST = $(DATA_VENV)/bin/python -m pytest -n 3 --dist loadfile -p no:cacheprovider
check-data:
	test -x $(DATA_VENV)/bin/python || $(PYTHON) -m venv $(DATA_VENV)
	$(DATA_VENV)/bin/pip install --quiet -c constraints.txt -e ".[build]" \
	  hypothesis pytest pytest-timeout pytest-xdist pyyaml
	$(DATA_PYTEST) tests/test_bytes.py
	$(DATA_PYTEST) -m "not slow" tests/pipelines $(addprefix --ignore=tests/pipelines/,$(NEED_MORE)) \
	  -k "not polars_duckdb and not croissant_metadata"
# Tests that need torch, TFDS, or what opens the files.
NEED_MORE := test_catalogue.py export/test_export_linked.py export/test_export_provenance.py

# make bench NAME=chain prints one JSON object a line for each figure; ARGS are the benchmark's own
bench: $(VENV)/.test
	$(BIN)/python tests/bench/bench_$(NAME).py $(ARGS)

# Resolve anew from pyproject.toml; review the diff, then run the tests. LOCK="torch==2.13.0" keeps
# what it names, where an index has CPU builds of some versions only.
LOCK ?=
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install $(PIP_ARGS) ".[test]" $(LOCK)
	.venv-lock/bin/pip check
	.venv-lock/bin/pip freeze --exclude sketchmill | sed 's/+cpu$$//' > constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-* build

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no python3.13, python3.12 or python3.11 runs here" >&2; false; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt -e ".[$(EXTRAS)]"
	$(BIN)/pip check
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt -e ".[test]"
	$(BIN)/pip check
	touch $@ $(INSTALLED)
