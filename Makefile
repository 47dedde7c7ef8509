# Python 3.11 or newer; make PYTHON=python3.12 chooses another one.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
BIN = $(VENV)/bin
OLDEST ?= .venv-oldest
# The CPU build is a third of the size. It exists for this platform only.
TENSORFLOW := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),tensorflow-cpu,tensorflow)

# Two processes; each runs one file of tests at a time, in the order of tests/conftest.py.
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: test test-oldest lint demo clean

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	$(BIN)/pip install --quiet --editable ".[$(TENSORFLOW),test]"
	# Its dependencies would add `tensorflow` to `tensorflow-cpu`.
	$(BIN)/pip install --quiet --no-deps "keras-hub~=0.32.0"
	touch $@

$(VENV)/demo-installed: $(VENV)/created pyproject.toml
	$(BIN)/pip install --quiet --editable ".[$(TENSORFLOW),demo]"
	touch $@

demo: $(VENV)/demo-installed
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python examples/demo.py

test: $(VENV)/installed
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest $(PYTEST_ARGS)
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PYTEST_ARGS) -m any_backend
	KERAS_BACKEND=torch $(BIN)/python -m pytest $(PYTEST_ARGS) -m any_backend

# Python 3.11 or 3.12 on Linux, which the oldest releases have files for.
$(OLDEST)/installed: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --editable ".[tensorflow-cpu]" -r tests/oldest.txt
	touch $@

test-oldest: $(OLDEST)/installed
	KERAS_BACKEND=tensorflow $(OLDEST)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache
