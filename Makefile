# Two commands matter: `make serve` and `make test`. ARGS is passed on, e.g. make serve ARGS="--port 9000".
PYTHON ?= python3
VENV   ?= .venv
# Where pip looks for torch besides the package index, e.g. https://download.pytorch.org/whl/cpu
# on a machine without a GPU: it saves several gigabytes of CUDA libraries.
TORCH_INDEX ?=
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
      $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help serve test lint format clean

help: ## Show this help
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

serve: $(VENV)/.serve ## Install and serve the reference models on http://127.0.0.1:8000
	@$(VENV)/bin/triptych serve $(ARGS)

test: $(VENV)/.test ## Install and run the whole test suite
	@$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.test ## Check style, types and import arrows
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.test ## Format the code and mend what can be mended
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## Remove the virtual environment and caches; recorded data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.venv:
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.serve: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "Installing Triptych (the first time this takes a few minutes) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.serve
	@echo "Installing what tests and checks need ..."
	@$(PIP) --group test --group lint
	@touch $@
