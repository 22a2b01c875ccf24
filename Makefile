# Every target makes what it needs in .venv; a fresh machine needs only Python >= 3.11.
#   make demo    see Corral work, with no account and no network
#   make test    every test (as root on Linux also those across two accounts)
#   make quick   the tests without the slow ones
#   make check   ruff, mypy and the import contract
#   make bench   measurements
#   make campaign  random trees, random faults; ARGS="--trees 10000", "--seconds 3600", "--seed N --trees 1 --tell"
#   make site    the documentation as a site in .cache/site, every link checked
#   make recording  the picture of the README, from a real chat
#   make figures    docs/figures.md, from a run of make bench
#   make release-check  build the wheel and the sdist, and try both where nothing else is installed
#   make clean   remove .venv and .cache
# PYTHON=/path/to/python3 chooses the interpreter; ARGS="-k name" is handed on to pytest or the demo; JOBS=1 runs the
# tests one by one.

SHELL := /bin/sh
BIN := .venv/bin
ARGS ?=

.PHONY: help demo test quick check bench campaign site recording figures release-check format clean

help:
	@sed -n 's/^#   make/make/p' Makefile

demo:
	@sh tools/env.sh codex
	@$(BIN)/corral demo $(ARGS)

test:
	@sh tools/env.sh dev codex
	@sh tools/pytest.sh $(ARGS)

quick:
	@sh tools/env.sh dev
	@sh tools/pytest.sh -m "not slow" $(ARGS)

check:
	@sh tools/env.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench:
	@sh tools/env.sh dev codex bench
	@test -d bench || { echo "there is no bench folder in this tree yet" >&2; exit 1; }
	@$(BIN)/python -m bench $(ARGS)

site:
	@sh tools/env.sh docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@$(BIN)/python tools/offline_site.py .cache/site
	@echo "open .cache/site/index.html"

recording:
	@sh tools/env.sh dev codex
	@$(BIN)/python tools/recording.py docs/images/chat.svg

figures:
	@sh tools/env.sh dev codex bench
	@$(BIN)/python tools/figures.py $(ARGS)

release-check:
	@sh tools/env.sh dev codex
	@sh tools/release.sh

campaign:
	@sh tools/env.sh dev
	@$(BIN)/python -m campaign $(ARGS)

format:
	@sh tools/env.sh dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .cache
