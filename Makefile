# Python 3.11 or newer; make PYTHON=python3.12 chooses another one.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
BIN = $(VENV)/bin
OLDEST ?= .venv-oldest
# The CPU build is a third of the size. It exists for this platform only.
TENSORFLOW := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),tensorflow-cpu,tensorflow)

# Two processes; each runs one file of tests at a time, in the order of tests/conftest.py.
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: test test-oldest test-wheel lint demo docs dist check-tag clean

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	$(BIN)/pip install --quiet --editable ".[$(TENSORFLOW),test,docs]"
	# Its dependencies would add `tensorflow` to `tensorflow-cpu`.
	$(BIN)/pip install --quiet --no-deps "keras-hub~=0.32.0"
	touch $@

$(VENV)/demo-installed: $(VENV)/created pyproject.toml
	$(BIN)/pip install --quiet --editable ".[$(TENSORFLOW),demo]"
	touch $@

demo: $(VENV)/demo-installed
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python examples/demo.py

# ONNX Runtime Web, for the tests of web pages in a browser. Without npm, and without
# Chromium, they are skipped.
ORT_WEB := $(shell sed -n 's/^_VERSION = "\(.*\)"/\1/p' keras_cvt/deploy/formats/web.py)
ORT_WEB := onnxruntime-web-$(ORT_WEB)

$(VENV)/$(ORT_WEB): | $(VENV)/created
	mkdir -p $@.new
	-cd $@.new && npm pack --silent $(subst web-,web@,$(ORT_WEB)) && \
		tar -xzf $(ORT_WEB).tgz package/dist/ort.wasm.bundle.min.mjs \
			package/dist/ort-wasm-simd-threaded.wasm && mv package/dist ../$(@F)
	rm -rf $@.new

test: $(VENV)/installed $(VENV)/$(ORT_WEB)
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

$(VENV)/docs-installed: $(VENV)/created pyproject.toml
	$(BIN)/pip install --quiet --editable ".[$(TENSORFLOW),docs]"
	touch $@

# In build/docs. Warnings, such as a link that leads nowhere, are errors.
docs: $(VENV)/docs-installed
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 NO_MKDOCS_2_WARNING=1 \
		$(BIN)/mkdocs build --strict

$(VENV)/release-installed: $(VENV)/created
	$(BIN)/pip install --quiet "build~=1.6" "twine~=7.0"
	touch $@

dist: $(VENV)/release-installed
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# `make check-tag TAG=v0.2.0` compares a tag with the version and the changelog.
check-tag:
	grep -qx '__version__ = "$(TAG:v%=%)"' keras_cvt/__init__.py
	grep -qx '## $(TAG:v%=%)' CHANGELOG.md

# The wheel alone, away from the checkout. `WHEEL=file` tests that one, without a build.
test-wheel: $(if $(WHEEL),,dist)
	$(PYTHON) tests/wheel.py $(or $(WHEEL),dist/*.whl) $(TENSORFLOW)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache build dist
