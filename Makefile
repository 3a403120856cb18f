# make help lists what there is. Needs a POSIX shell and Python 3.11 to 3.13;
# another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
VENV_TORCH ?= .venv-torch
DEMO ?= runs/demo
# Two workers fit a small machine; files stay whole so that fixtures are shared, and
# in the order of tests/conftest.py.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder --durations=20

# Commands of README and guides, run one behind the other.
STORIES := tests/test_documented_stories.py
# What only an environment with PyTorch can run.
TORCH_TESTS := tests/importers/test_import_torch.py tests/exporters/test_export_formats.py

BIN := $(VENV)/bin
# Stamps, so that nothing is installed again until a requirements file changes.
INSTALLED := $(VENV)/.requirements
INSTALLED_DEV := $(VENV)/.requirements-dev
INSTALLED_TORCH := $(VENV_TORCH)/.requirements
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev demo test test-docs test-no-tf test-torch lint format docs golden-configs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: $(PYTHON) is missing or not Python 3.11 to 3.13; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "error: $(PYTHON) cannot make a virtual environment (Debian and Ubuntu: apt install python3-venv)" >&2; \
	       rm -rf $(VENV); exit 1; }

$(INSTALLED): requirements.txt requirements-no-tf.txt | $(BIN)/python
	$(PIP_INSTALL) -r requirements.txt
	$(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt requirements-docs.txt requirements.txt requirements-no-tf.txt | $(BIN)/python
	$(PIP_INSTALL) -r requirements-dev.txt
	$(PIP_INSTALL) --no-deps --editable .
	@touch $(INSTALLED) $@

$(INSTALLED_TORCH): requirements-torch.txt requirements.txt requirements-no-tf.txt
	@$(MAKE) --no-print-directory VENV=$(VENV_TORCH) $(VENV_TORCH)/bin/python
	$(VENV_TORCH)/bin/python -m pip install --disable-pip-version-check -r requirements-torch.txt
	@touch $@

install: $(INSTALLED) ## make .venv, install requirements.txt and this package
install-dev: $(INSTALLED_DEV) ## the same and requirements-dev.txt

demo: $(INSTALLED) ## pretrain on real digits, probe, kNN, report, check (3 minutes)
	$(BIN)/python -m simclr_jax.main --config=configs/smoke.py --workdir=$(DEMO)
	$(BIN)/python -m simclr_jax.linear_probe --checkpoint=$(DEMO)
	$(BIN)/python -m simclr_jax.knn --checkpoint=$(DEMO)
	$(BIN)/python -m simclr_jax.report --workdir=$(DEMO)
	$(BIN)/python -m simclr_jax.report --workdir=$(DEMO) --check_recipe

test: $(INSTALLED_DEV) ## all tests but those of the next three
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore=$(STORIES)

test-docs: $(INSTALLED_DEV) ## run the commands of README and guides (2 minutes)
	$(BIN)/python -m pytest $(STORIES) tests/test_code_blocks.py

test-no-tf: ## every command, in a new environment without TensorFlow
	PYTHON=$(PYTHON) .ci/no_tf

test-torch: $(INSTALLED_TORCH) ## export and import beside PyTorch, timm, ... (5 GB)
	$(VENV_TORCH)/bin/python -m pytest $(TORCH_TESTS)

lint: $(INSTALLED_DEV) ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without --quiet: it hides warnings from --strict, too, which then counts none.
docs: $(INSTALLED_DEV) ## the site in build/site, warnings are errors
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/python -m mkdocs build --strict
	@echo 'To look at: build/site/index.html'

golden-configs: $(INSTALLED) ## rewrite tests/golden_configs from configs/
	$(BIN)/python tests/write_golden_configs.py

clean: ## remove caches and the demo's run; other runs and .venv stay
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' \
	  -not -path './$(VENV_TORCH)/*' -prune \
	  -exec rm -rf {} +
