# Two commands: `make demo` runs the whole of Gulliver on real data, `make test` checks it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATASET := /usr/share/datasets/fashion-mnist
OUT ?= outputs/demo

.PHONY: demo test dashboard clean
.DEFAULT_GOAL := demo

$(BIN)/activate:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/activate
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/activate
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

# Debian packages the data; elsewhere the official files are downloaded on first use.
.PHONY: data
data:
	@test -e $(DATASET) || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { apt-get install -y -qq dataset-fashion-mnist >/dev/null 2>&1 || \
	    { apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq dataset-fashion-mnist >/dev/null 2>&1; }; } || \
	  echo "dataset-fashion-mnist is not installed: the data will be downloaded"; }

demo: $(VENV)/.installed data
	$(BIN)/gulliver search \
	  task=fashion_resnet trials=22 trial.samples=2000 finalists.count=3 finalists.finetune.batches_per_epoch=172 \
	  again=true out=$(OUT)

test: $(VENV)/.installed-dev data
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

dashboard: $(VENV)/.installed
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(abspath $(dir $(OUT)))/mlflow.db

clean:
	rm -rf $(VENV) build dist *.egg-info
