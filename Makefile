# The targets a person types. `make help` lists them.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first that runs: a version manager's may be a stub.
PYTHON ?= $(or $(shell for python in python3.11 python3.12 python3.13; do \
	$$python --version >/dev/null 2>&1 && command -v $$python && break; done),python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test test-slow soak check docs notebook jobs lint imports audit types benchmark \
	gpu-check up down image clean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with the pinned versions (once; again when they change)

# Byte-compiled at install: every Ray process imports the whole stack.
$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
		|| { echo "make: needs Python 3.11 to 3.13; install it, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode \
		--constraint constraints.txt --group dev --editable '.[gpu,kubernetes,s3,server]'
	@touch $@

demo: $(READY)  ## Train LeNet-5 on real handwritten digits with two workers (2–4 minutes)
	$(BIN)/ilsvrc prepare digits
	$(BIN)/ilsvrc train lenet5_digits
	$(BIN)/ilsvrc compare

# Two files at a time, a thread each: most of the time of many is Ray's, starting. In their own
# order, as xdist's would keep a file with one long test for the end.
test: $(READY)  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)  ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m slow

soak: $(READY)  ## Inject 200 random faults into two trainings (hours); FAULTS and SEED choose others
	ILSVRC_SOAK_FAULTS=$(or $(FAULTS),200) $(if $(SEED),ILSVRC_SOAK_SEED=$(SEED)) \
		$(BIN)/python -m pytest -s tests/trainer/test_soak.py

jobs: $(READY)  ## Render the examples of docs/jobs/ again, each by the command in it
	@for file in docs/jobs/*; do \
		command=$$(sed -n 's/^# ilsvrc //p' $$file | head -n 1); \
		eval "$(BIN)/ilsvrc $$command --dry-run" > $$file.new && mv $$file.new $$file || exit 1; \
	done

lint: $(READY)  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(READY)  ## Check that imports point down
	$(BIN)/lint-imports --no-cache

audit: $(READY)  ## Look up known vulnerabilities of the pinned versions (needs the internet)
	$(BIN)/uv tool run --from "pip-audit>=2.7,<3" pip-audit --no-deps --disable-pip -r constraints.txt

types: $(READY)  ## Check types
	$(BIN)/mypy

# What builds the documentation is installed when it is first built.
DOCS := $(VENV)/.docs
$(DOCS): $(READY)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode \
		--constraint constraints.txt --group docs
	@touch $@

docs: $(DOCS)  ## Build the documentation into build/docs, its links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/docs/index.html"

notebook: $(READY)  ## Execute the documentation's notebook again and store its outputs
	$(BIN)/python docs/execute_notebook.py

check: lint imports types test  ## All checks and the tests

benchmark: $(READY)  ## Measure loading and training speed against torchvision
	$(BIN)/ilsvrc benchmark resnet50 --against torchvision

# A file each, made once, and readable in containers whose user isn't this one: the folder is closed.
SECRETS := postgres_password storage_password mlflow_password mlflow_session_key ray_token
COMPOSE := docker compose --file docker/compose.yaml $(if $(GPU),--file docker/compose.gpu.yaml)

gpu-check: $(READY)  ## See that a GPU computes what a CPU computes, and how fast (6 minutes)
	$(BIN)/python -m benchmarks.gpu_check

up:  ## Start MLflow, its database and storage, and Ray in containers; GPU=1 with GPUs
	@mkdir -p -m 700 docker/secrets
	@for name in $(SECRETS); do [ -s docker/secrets/$$name ] || "$(PYTHON)" -c \
		'import secrets; print(secrets.token_hex(32), end="")' > docker/secrets/$$name; done
	@mkdir -p data
	$(COMPOSE) up --detach --build --wait

down:  ## Stop them; databases, artifacts and runs stay in their volumes
	$(COMPOSE) down

image:  ## Build the image without a container engine (root, Debian, 40 GB); PIP_CONF=FILE
	docker/build-image build/image $(PIP_CONF)

clean:  ## Remove .venv and caches; data and runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis *.egg-info
