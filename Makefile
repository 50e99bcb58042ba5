# make demo    compile the bundled M3ViT, run real digits through the generated RTL, print the table
# make test    every test
# make check   what takes seconds: ruff, mypy, who imports whom, snapshots
# make test-browser   the pages in a headless Chromium, which it installs
# make clean   remove what make made (the environment included)
#
# All set everything up first: system tools, a virtual environment, pinned dependencies. The second time that is instant.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
IMAGES ?= 100
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
DEV     = $(VENV)/.installed-dev
BROWSER = $(VENV)/.installed-browser

.PHONY: demo test check test-browser tools clean

demo: $(STAMP)
	@$(BIN)/python examples/demo.py --images $(IMAGES)

test: $(STAMP) $(DEV)
	@$(BIN)/python -m pytest -n auto --dist loadfile $(TESTFLAGS)

check: $(STAMP) $(DEV)
	@$(BIN)/python scripts/check.py

test-browser: $(STAMP) $(BROWSER)
	@$(BIN)/python -m pytest tests/browser $(TESTFLAGS)

tools:
	@scripts/system-tools $(PYTHON)

$(STAMP): requirements.txt pyproject.toml setup.py scripts/install.py | tools
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python scripts/install.py
	@touch $@

$(DEV): requirements-dev.txt | $(STAMP)
	@scripts/system-tools $(PYTHON) ccache
	@$(BIN)/python scripts/install.py requirements-dev.txt
	@touch $@

$(BROWSER): requirements-browser.txt | $(STAMP)
	@scripts/system-tools $(PYTHON) chromium
	@$(BIN)/python scripts/install.py requirements-browser.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache hwgen.egg-info
