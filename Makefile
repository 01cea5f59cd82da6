# Every target makes .venv first, once. PYTHON=python3.12 takes another Python for it.

PYTHON ?= python3
VENV = $(PYTHON) tools/venv.py
RUN = .venv/bin/python
# Most tests wait for processes of their own, so three at a time keep two cores busy. A file stays in one hand: its fixtures are dear.
SPREAD ?= -n 3 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test unit lint format bench faults soak reference pictures clean python

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: python ## a worker, a web server and a Valkey: open the address that it prints (HOST=, PORT=; Ctrl-C ends it)
	@$(VENV) service
	@exec $(RUN) -m app.demo

test: lint ## everything that CI runs: lint, types, then all tests
	@$(RUN) -m pytest $(SPREAD) $(PYTEST)

unit: python ## the fast tests alone
	@$(VENV) dev
	@$(RUN) -m pytest tests/unit $(PYTEST)

lint: python ## ruff and mypy
	@$(VENV) dev
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: python ## let ruff put the code in order
	@$(VENV) dev
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

bench: python ## side by side with what one would use instead, as ratios (BENCH="update --quick")
	@$(VENV) bench
	@$(RUN) -m benchmarks $(BENCH)

soak: python ## thousands of viewers on one web process, coming, going and hanging; nothing may be left (SOAK=--small)
	@$(VENV) dev
	@$(RUN) -m tests.soak $(SOAK)

faults: python ## every fault many times over, on two releases of Celery, as a table (FAULTS="child_killed --scale 0.3")
	@$(VENV) faults
	@$(RUN) -m tests.faults $(FAULTS)

reference: python ## docs/reference.md, made from the docstrings
	@$(VENV) dev
	@$(RUN) tools/reference.py

pictures: python ## the README's pictures, taken anew from the pages by their browser tests
	@$(VENV) dev
	@SCREENSHOTS=1 $(RUN) -m pytest -q tests/browser/test_page.py tests/browser/test_dashboard_looks.py -k fits

clean: ## remove what was made here: .venv, caches, builds, the demo's data
	@rm -rf .venv build dist *.egg-info .headway .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@command -v "$(PYTHON)" >/dev/null || { echo "headway: there is no $(PYTHON) here. Name a Python 3.11 or newer: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
