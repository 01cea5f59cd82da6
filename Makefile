# Every target creates or updates .venv first. PYTHON=python3.12 selects another Python for it.

PYTHON ?= python3
VENV = $(PYTHON) tools/venv.py
RUN = .venv/bin/python
# Most tests wait for other processes, so three at a time keep two cores busy. The tests of one file
# run in one process, because they share expensive fixtures.
SPREAD ?= -n 3 --dist loadfile
FAST = tests/unit tests/conformance

.DEFAULT_GOAL := help
.PHONY: help demo test unit lint format coverage lowest newest bench faults soak docs reference \
	pictures clean python

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: python ## run the demo service and print its address (HOST=, PORT=; Ctrl-C stops it)
	@$(VENV) service
	@exec $(RUN) -m app.demo

test: lint ## run lint, types and all tests (PYTEST="tests/unit -k hub")
	@$(RUN) -m pytest $(SPREAD) $(PYTEST)

unit: python ## run the fast tests
	@$(VENV) dev
	@$(RUN) -m pytest tests/unit $(PYTEST)

lint: python ## run ruff and mypy
	@$(VENV) dev
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: python ## format the code and fix what ruff can fix
	@$(VENV) dev
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

# Tracing makes the tests of progress_timeout hang: they interrupt a thread at any line.
coverage: python ## measure the coverage of unit and conformance tests, per layer
	@$(VENV) dev
	@rm -rf build/coverage
	@$(RUN) -m coverage run -m pytest -q $(SPREAD) $(FAST) $(PYTEST) \
		--ignore tests/unit/test_progress_timeout.py
	@$(RUN) tools/coverage_report.py

# The service (web/) has pinned dependencies and needs a newer Flask than the library. The SQL store
# needs a newer Celery than the others.
lowest: python ## run unit and conformance tests with the lowest supported versions
	@$(VENV) lowest
	@.venv-lowest/bin/python -m pytest $(SPREAD) $(FAST) $(PYTEST) \
		--ignore tests/unit/test_web.py -k "not sql"

newest: python ## run unit and conformance tests on another Python (PYTHON=python3.13)
	@$(VENV) newest
	@.venv-$$($(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))')/bin/python \
		-m pytest $(SPREAD) $(FAST) $(PYTEST)

bench: python ## measure Headway beside its alternatives, as ratios (BENCH="stored --quick")
	@$(VENV) bench
	@$(RUN) -m benchmarks $(BENCH)

soak: python ## load one web process with thousands of viewers, check for leaks (SOAK=--small)
	@$(VENV) dev
	@$(RUN) -m tests.soak $(SOAK)

faults: python ## run the fault matrix on two Celery releases (FAULTS="child_killed --scale 0.3")
	@$(VENV) faults
	@$(RUN) -m tests.faults $(FAULTS)

docs: python ## build the documentation site in build/site
	@$(VENV) docs
	@$(RUN) -m mkdocs build --strict --site-dir build/site

reference: python ## write docs/reference.md from the docstrings
	@$(VENV) dev
	@$(RUN) tools/reference.py

pictures: python ## take the README's pictures again, by the browser tests
	@$(VENV) dev
	@SCREENSHOTS=1 $(RUN) -m pytest -q -k fits \
		tests/browser/test_page.py tests/browser/test_dashboard_looks.py

clean: ## delete .venv, caches, builds and the demo's data
	@rm -rf .venv .venv-* build dist *.egg-info .headway
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "headway: $(PYTHON) not found. Use Python 3.11 or newer:" \
			"make PYTHON=/path/to/python3 ..." >&2; \
		exit 1; }
