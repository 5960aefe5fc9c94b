# Two commands for newcomers: `make run` and `make test`. Both set up .venv themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# One file of tests is one worker's. In the order of their names the longest, of whole sites with
# servers, begin early; xdist's own order, by the number of tests, leaves them for the end.
# Three workers keep two cores busy: tests of servers wait for a third of their time.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# Whose drawings: make run CLASSES="bee,sun"; anything else: make run RUN_ARGS="--preset small"
CLASSES ?=
RUN_ARGS ?=

.PHONY: run test check bench lock clean

run: $(VENV)/.run
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

# make bench NAME=chain prints one JSON object a line for each figure; ARGS are the benchmark's own
bench: $(VENV)/.test
	$(BIN)/python tests/bench/bench_$(NAME).py $(ARGS)

# Resolve anew from pyproject.toml; review the diff, then run the tests.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet ".[test]"
	.venv-lock/bin/pip check
	.venv-lock/bin/pip freeze --exclude sketchmill | sed 's/+cpu$$//' > constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt -e .
	$(BIN)/pip check
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt -e ".[test]"
	$(BIN)/pip check
	touch $@ $(VENV)/.run
