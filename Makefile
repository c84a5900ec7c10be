# make demo    create .venv, train and evaluate on the built-in data, draw predictions
# make test    create .venv and run all tests          make fast    the quick half of them
# make check   lint, formatting and types
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
## A worker that dies ends the tests: with another in its place, loadfile would wait for its files for ever.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart=0
## A process for each file: with OpenVINO, ONNX Runtime, ExecuTorch and LiteRT in one, it was lost in three runs of three.
RUNTIMES = $(wildcard tests/deploy/test_*.py) tests/engine/test_export.py tests/inference/test_cached.py tests/inference/test_exported.py
DEMO = runs/demo

.PHONY: help demo test fast check clean

help:
	@sed -n 's/^# //p' Makefile

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(BIN)/python tools/train.py recipe=shapes task=detection run_dir=$(DEMO)/train
	$(BIN)/python tools/eval.py task=detection checkpoint=$(DEMO)/train/model.safetensors run_dir=$(DEMO)/eval
	$(BIN)/python -c "from PIL import Image; from mnv2vision.data.formats.shapes import Shapes; \
		[Image.fromarray(Shapes('val', 8, 256)[i].image).save('$(DEMO)/%d.png' % i) for i in range(8)]"
	$(BIN)/python tools/predict.py checkpoint=$(DEMO)/train/model.safetensors images='$(DEMO)/*.png' \
		output=$(DEMO)/predictions
	@echo
	@echo "figures:  $(DEMO)/train/metrics.json, metrics.csv, $(DEMO)/eval/per_class.csv"
	@echo "pictures: $(DEMO)/eval/predictions.png, precision_recall.png, $(DEMO)/predictions/"

test: $(VENV)/installed
	$(PYTEST) $(addprefix --ignore=,$(RUNTIMES))
	printf '%s\n' $(RUNTIMES) | xargs -P 2 -n 1 $(BIN)/python -m pytest

fast: $(VENV)/installed
	$(PYTEST) -m 'not slow'

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
