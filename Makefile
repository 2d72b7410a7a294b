# The first rule prints the targets; each target's "##" is its help.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8080
T      ?= tests
PREFIX ?= /opt/token-broker
# Each worker would compile all tests anew if this were set.
unexport PYTHONDONTWRITEBYTECODE

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/ready ## set everything up and run the broker with its sandbox (PORT=8080)
	@$(BIN)/broker --config config.toml serve --port $(PORT)

test: $(VENV)/dev tools ## run the suite, about two minutes (T=tests/tokens for a part)
	@$(BIN)/pytest -n 3 --dist worksteal -m 'not proof and not slow' $(T)

test-all: $(VENV)/dev tools ## the same and the slow groups that CONTRIBUTING.md names
	@$(BIN)/pytest -n 3 --dist worksteal $(T)

check: $(VENV)/dev ## ruff, mypy --strict and pip-audit
	@$(BIN)/ruff check broker tests packaging
	@$(BIN)/ruff format --check broker tests packaging
	@$(BIN)/mypy
	@bash .ci/audit $(BIN)

docs: $(VENV)/dev ## write the generated parts of the reference pages in docs/
	@$(BIN)/python packaging/reference.py

proof: $(VENV)/dev tools ## the long crash, fault and fuzz runs
	@$(BIN)/pytest -m proof --timeout 7200 tests

bench: $(VENV)/dev ## measure against bare aiohttp (BASE=<rev>: against that revision too)
	@$(BIN)/python -m tests.bench $(if $(BASE),--base $(BASE)) $(BENCH)

dist: build/tools/ready ## build wheel, sdist, pinned requirements, SBOM and checksums in dist/
	@bash packaging/build build/tools/bin

install: dist ## install on this server, or upgrade what is there (as root; PREFIX=/opt/token-broker)
	@PREFIX="$(PREFIX)" PYTHON="$(PYTHON)" bash packaging/install

uninstall: ## remove what `make install` laid; configuration, keys and data stay
	@PREFIX="$(PREFIX)" bash packaging/uninstall

deb: dist ## build dist/token-broker_VERSION_ARCH.deb for Debian 12
	@PYTHON="$(PYTHON)" bash packaging/deb

image: dist ## build the container image localhost/token-broker with podman (FROM=IMAGE: another base)
	@podman build --format docker $(if $(FROM),--build-arg BASE=$(FROM)) --tag localhost/token-broker \
	  --file packaging/container/Containerfile .

clean: ## remove what was set up here (the store under var/ stays)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

$(VENV)/ready: requirements.txt .ci/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash .ci/setup venv
	@touch $@

$(VENV)/dev: $(VENV)/ready .ci/requirements.txt
	@VENV="$(VENV)" bash .ci/setup dev
	@touch $@

build/tools/ready: packaging/requirements.txt .ci/setup
	@PYTHON="$(PYTHON)" VENV=build/tools bash .ci/setup build
	@touch $@

tools:
	@VENV="$(VENV)" bash .ci/setup tools

.PHONY: help run test test-all check docs proof bench dist install uninstall deb image clean tools
