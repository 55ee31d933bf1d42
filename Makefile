# Each target sets up what it needs. Paths are relative, so the checkout's own path may hold spaces.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-ray demo test test-slow test-thorough coverage mutation walk lint docs bench gpu-check soak image check-image sbom lock variables clean

# A Python 3.11 or newer to make .venv with; unset, the first one found. IMAGE is the tag of `make image`.
PYTHON ?=
IMAGE ?= qwen3-tts-job
export PYTHON

PY := .venv/bin/python
SHELL_SCRIPTS := entrypoint.sh .ci/run $(wildcard scripts/*.sh k8s/*.sh runpod/*.sh deploy/*/*.sbatch)
# Three processes, since each takes 2 GB and waits now and then; the tests of a file share their fixtures.
# Compiled once, not by each of the hundreds of processes that tests start, whatever the environment says.
PYTEST := PYTHONDONTWRITEBYTECODE= $(PY) -m pytest --timeout 900 --numprocesses 3 --dist loadfile --durations=15 --durations-min=10

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## .venv with what the job needs, from requirements.lock
	@sh scripts/setup.sh requirements.lock

setup-dev: ## the same, plus the tools for tests and linting
	@sh scripts/setup.sh requirements.lock requirements-dev.lock

setup-ray: setup ## the same as setup, plus Ray, for ENGINE=ray (docs/ray.md)
	@sh scripts/setup.sh requirements.lock requirements-ray.lock

demo: setup ## train the tiny built-in model on the built-in clips until it recites them
	@$(PY) -m job demo

test: setup-dev ## all tests except the slow ones
	$(PYTEST) -m "not slow and not thorough"

test-slow: setup-dev ## the tests that take minutes
	@code=0; $(PYTEST) -m "slow and not thorough" || code=$$?; \
	if [ $$code -eq 5 ]; then echo "no test is marked slow"; code=0; fi; exit $$code

test-thorough: setup-dev ## all combinations that the other tests sample; takes an hour
	$(PYTEST) -m thorough

coverage: setup-dev ## which lines the fast tests run: the total, and pages in coverage/
	$(PYTEST) -m "not slow and not thorough" --cov --cov-report=html
	@echo "lines and branches of job/ that the fast tests run: $$($(PY) -m coverage report --format=total) %"

mutation: setup-dev ## change layout, loss and split in one place at a time: does a test fail? Half an hour
	bash scripts/mutation.sh

walk: ## run the README's commands from a fresh clone with empty caches, as a new user would
	@bash scripts/walk.sh

lint: setup-dev ## style, types, shell scripts, Dockerfile, YAML
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-cache --no-logo
	.venv/bin/shellcheck $(SHELL_SCRIPTS)
	.venv/bin/hadolint Dockerfile runpod/Dockerfile
	$(PY) -m yamllint --strict .

# Not --quiet: mkdocs would then be deaf to the warnings that make a strict build fail.
docs: setup-dev ## the site of these pages, into site/; fails where a link leads nowhere
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build
	@echo "site/index.html"

bench: setup ## compare speed and memory with the vendor's code; one JSON line per case, under 10 minutes on 2 cores
	for name in prepare synthesis train; do $(PY) benchmarks/$$name.py || exit; done

gpu-check: setup ## check correctness and speed on this GPU in 10 minutes; tiny shapes without a GPU
	@$(PY) benchmarks/gpu_check.py

soak: setup ## run the demo, stopped and killed at random moments, for SOAK_MINUTES (30)
	@$(PY) scripts/soak.py

image: ## build the container image with docker, or buildah if docker is not running
	@sh scripts/image.sh "$(IMAGE)"

check-image: ## build the image without Docker and run the demo in it, sandboxed; needs root, Debian and 38 GB
	@python3 scripts/check_image.py

sbom: setup-dev ## write the list of packages and their licences (SBOM) to dist/
	@$(PY) scripts/sbom.py dist

lock: setup-dev ## update requirements*.lock from requirements*.in; UPGRADE=1 takes newer versions
	for name in requirements requirements-dev requirements-mutation requirements-ray runpod/requirements job/fetch/scripted/requirements; do \
	  $(PY) -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --fork-strategy fewest \
	    --no-emit-index-url --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) \
	    $$name.in -o $$name.lock || exit; done

variables: setup ## the table in docs/variables.md anew from job/config/variables.py
	@$(PY) scripts/variables_page.py

clean: ## remove .venv, the site, coverage and caches; what runs made (WORK_DIR, OUTPUT_DIR) stays
	rm -rf .venv site coverage .coverage runpod/.venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
