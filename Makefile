# fraudstream: `make demo` and `make test` need Python 3.11 to 3.13, make and a network the first time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test lint demo docs dashboards million handbook fuzz waiting recent-ids simulate mutants guarantee chaos soak bench bench-quality

BIN := .venv/bin
STAMP := .venv/.made
# Where uv is put when the machine has none.
UV_HOME := .venv-uv
# A process for each core, each with servers of its own. Files stay whole, since their tests share
# what they set up, and go out in their order: those of tests/integration, the longest, come first.
SIDE_BY_SIDE := -n logical --maxprocesses=4 --max-worker-restart=0 --dist loadfile
SIDE_BY_SIDE += --no-loadscope-reorder --durations=20

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(STAMP) ## Make .venv from the lock file (at once when it is there)

test: setup ## Check style and types, then run all tests on real servers
	@echo "== style"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo "== types"
	@$(BIN)/mypy
	@echo "== tests (a first run downloads Kafka, 43 MB)"
	@$(BIN)/pytest $(SIDE_BY_SIDE)

lint: setup ## Mend what can be mended by itself, show the rest
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/mypy

demo: setup ## Run the whole system on this machine for a few minutes, leaving nothing running
	@$(BIN)/fraudstream demo

docs: setup ## Write docs/reference.md from the tables in the code
	@$(BIN)/python -m stack.reference > docs/reference.md

dashboards: setup ## Write the dashboard, and what its expressions are in a run with Prometheus
	@$(BIN)/python -m dashboards.build > dashboards/fraudstream.json
	@$(BIN)/python -m dashboards.observe > dashboards/EXPRESSIONS.md

million: setup ## Send a million transactions and their labels through, account for every one
	@$(BIN)/python -m benchmarks.million $(ARGS)

handbook: setup ## Send the Fraud Detection Handbook's stream through at a speed-up, compare with replay
	@$(BIN)/python -m benchmarks.handbook $(ARGS)

fuzz: setup ## Pass a million mutated messages through, account for every one
	@$(BIN)/python -m benchmarks.fuzz $(ARGS)

waiting: setup ## Measure what a decision that waits for its label costs in Redis
	@$(BIN)/python -m benchmarks.waiting_index $(ARGS)

SEEDS ?= 1000
FIRST ?= 0
EVENTS ?= 2000
simulate: setup ## Run the commit protocol through simulated faults, SEEDS=1000 orders of everything
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST) --events $(EVENTS)

mutants: setup ## Break the guarantee in every known way, and see that a test notices each
	@$(BIN)/python -m tests.mutants $(ARGS)

guarantee: setup ## Measure what the fenced commit costs
	@$(BIN)/python -m benchmarks.guarantee $(ARGS)

recent-ids: setup ## Measure what an id that is remembered costs in Redis
	@$(BIN)/python -m benchmarks.recent_ids $(ARGS)

chaos: setup ## Break real servers in every way of a list, account for every record (20 minutes)
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

soak: setup ## Run for long with random faults, watch memory (ARGS="--minutes 30")
	@$(BIN)/python -m benchmarks.chaos.soak $(ARGS)

bench: setup ## Measure speed beside what one would write instead (25 minutes; ARGS=--short, --json, --only worker)
	@PATH="$$PATH:$(UV_HOME)/bin" uv sync --quiet --frozen --inexact --group bench
	@$(BIN)/python -m benchmarks.speed $(ARGS)

bench-quality: setup ## Compare the models with others (hours; resumable, ARGS="--list" shows the rows)
	@PATH="$$PATH:$(UV_HOME)/bin" uv sync --quiet --frozen --inexact --group bench
	@$(BIN)/python -m benchmarks.quality $(ARGS)

$(STAMP): pyproject.toml uv.lock
	@python="$$(for name in python3 python3.13 python3.12 python3.11 python; do \
	    $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14)); ' 2>/dev/null \
	        && $$name -c 'import sys; print(sys.executable)' && break; done; true)"; \
	if [ -z "$$python" ]; then \
	    echo "fraudstream needs Python 3.11, 3.12 or 3.13 on PATH; found: $$(python3 --version 2>&1 || true)" >&2; \
	    exit 1; \
	fi; \
	uv="$$(command -v uv || true)"; \
	if [ -z "$$uv" ]; then \
	    uv=$(UV_HOME)/bin/uv; \
	    if ! [ -x "$$uv" ]; then \
	        echo "== uv, which makes the environment, into $(UV_HOME)"; \
	        "$$python" -m venv $(UV_HOME); \
	        echo '*' > $(UV_HOME)/.gitignore; \
	        $(UV_HOME)/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	    fi; \
	fi; \
	echo "== environment in .venv, of $$("$$python" --version)"; \
	"$$uv" sync --frozen --python "$$python"
	@touch $@
