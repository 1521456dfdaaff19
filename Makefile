# The commands of the house; `make` alone lists them. CI calls the same ones (.ci/run).
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
override SAY := $(value SAY)
export SAY

.DEFAULT_GOAL := help
.PHONY: help setup chat test check fix bench smoke native docs clean

# What the compiled kernels are made of: a change rebuilds them.
NATIVE := CMakeLists.txt $(wildcard native/*/*.cpp native/*/*.h native/*/*/*.h)

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

chat: $(VENV)/.runtime ## talk to a character: make chat [SAY="one line"] [ARGS="--card gunna"]
	@$(VENV)/bin/understudy chat $(if $(SAY),--say "$$SAY") $(ARGS)

setup: $(VENV)/.dev ## install all that tests, checks and training need

test: $(VENV)/.dev ## run the tests, but not the slow ones: make test [ARGS="-m slow"]
	@$(PY) -m pytest $(ARGS)

check: $(VENV)/.dev ## format, lint, types, layers, spelling, policies
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/codespell
	$(PY) -m pytest -q tests/policy

fix: $(VENV)/.dev ## let the formatter and the linter mend what they can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.runtime ## measure load time, first token, tokens a second, memory
	@$(PY) -m benchmarks.first_token $(ARGS)

smoke: $(VENV)/.dev ## the whole workshop in miniature: teacher to model card, minutes: make smoke [ARGS="--plan"]
	@$(VENV)/bin/understudy make recipes/smoke.toml --data . $(ARGS)

native: $(if $(SANITIZE),$(VENV)/.dev,$(VENV)/.runtime) ## build the compiled kernels (all others do); their tests under sanitizers: make native SANITIZE=1
	@$(PY) -c 'from understudy.kernels.native import *; print(", ".join(kernel_names()) or MISSING_MEND)'
	@$(if $(SANITIZE),$(PY) tests/sanitized.py)

docs: $(VENV)/.dev ## write docs/cli.md from the commands themselves
	$(VENV)/bin/typer understudy.cli.app utils docs --name understudy --output docs/cli.md

clean: ## remove the environment, caches and build output
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp a set of packages: the second run installs nothing.
$(VENV)/.runtime: pyproject.toml $(NATIVE) | $(PY)
	@echo "Installing the runtime into $(VENV) (once) ..." >&2
	@$(PY) -m pip install -qq --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(NATIVE) | $(PY)
	@echo "Installing what tests, checks and training need into $(VENV) (once, minutes) ..." >&2
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.runtime $@

# Debian's python3 makes no environment with pip in it; there python3-pip can put one in.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "understudy needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install one, or name one that you have: make chat PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip -qq --python $(PY) install pip; } 2>/dev/null \
	  || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make an environment. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
