# `make serve` runs the live avatar, `make test` runs every check. Both install what they need
# into .venv first, once, in the versions of constraints.txt. PYTHON=... names another Python.
# `make test ARGS=tests/test_peer.py` runs the tests of a file after the other checks.
# `make install` does that alone; docker/ runs it with EXTRAS=server.
# `make soak` keeps a server busy for half an hour and looks whether it stays as it was.

PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
  "$$name" --version >/dev/null 2>&1 && echo "$$name" && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed
EXTRAS ?= server,dev

.PHONY: serve test install soak

serve: $(INSTALLED)
	$(BIN)/python -m server $(ARGS)

install: $(INSTALLED)

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not real_time"
	$(BIN)/pytest -m real_time
endif

soak: $(INSTALLED)
	$(BIN)/python -m tests.soak $(or $(ARGS),--minutes 30)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "Python 3.11 or 3.12 is needed; there is no '$(PYTHON)'." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed; $(PYTHON) is $$("$(PYTHON)" --version)." \
	  "Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into .venv, once; this takes a few minutes."
	"$(PYTHON)" -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[$(EXTRAS)]'
	@touch $@
