# One command runs it (make demo), one command tests it (make test). Both need Python 3.11 or newer with its venv module,
# and nothing else that they do not get themselves.

PYTHON ?= python3
ARGS ?=
# Test files under way at once: they wait for servers, timers and processes more than they compute.
JOBS ?= 3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVERS := $(BIN)/python -m tests.servers

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.12 chooses the interpreter, ARGS='...' goes to pytest, the demo or the benchmark, JOBS=1 runs one test at a time."
	@echo "AMQP_URL and MONGODB_URL name servers to use instead of private ones."

.PHONY: demo
demo: $(STAMP) ## Run hello_sequence on this machine, with nothing but a file
	@exec $(BIN)/python examples/demo.py $(ARGS)

.PHONY: test
test: lint types servers ## Check everything: lint, types, architecture, all tests on real servers
	@exec $(SERVERS) -- $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

.PHONY: lint
lint: $(STAMP) ## Check style and architecture (ruff, import-linter)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: types
types: $(STAMP) ## Check types (mypy and pyright, strict)
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: bench
bench: servers ## Measure on private servers, next to the floor
	@exec $(SERVERS) -- $(BIN)/python -m tests.bench $(ARGS)

.PHONY: servers
servers: $(STAMP) ## Get RabbitMQ and MongoDB onto this machine, if they are missing
	@exec $(SERVERS) install

.PHONY: shell
shell: servers ## Open a shell with private servers and the project's commands
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec $(SERVERS) -- "$${SHELL:-sh}"

.PHONY: venv
venv: $(STAMP) ## Make the virtual environment with the project and its tools

# Dependency groups need pip 25.1, newer than what many systems bring.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Callboard needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "Python's venv module is missing: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing Callboard and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

.PHONY: clean
clean: ## Remove the virtual environment and everything made here
	rm -rf $(VENV) dist build .callboard .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .servers
	find actors broker store examples tests -name __pycache__ -type d -prune -exec rm -rf {} +
