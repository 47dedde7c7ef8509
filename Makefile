PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: test lint demo clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[tensorflow-cpu,test]"
	touch $@

test: $(VENV)/installed
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m any_backend
	KERAS_BACKEND=torch $(BIN)/python -m pytest -m any_backend

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)
