# Needs Python >= 3.11, git and make. `make` alone lists the targets.
# Everything installed is pinned by hash in requirements/*.lock, the build backend included.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests wait most of their time: two for each core. PARALLEL= runs one after the other.
PARALLEL ?= -n $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))' 2>/dev/null) --dist worksteal

# Wheels only: a source archive would be built with a build backend that no hash pins.
PIP := $(BIN)/python -m pip --quiet --quiet --no-input --disable-pip-version-check install --no-warn-script-location
LOCKED := $(PIP) --require-hashes --only-binary :all: -r
UV := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

# A virtual environment does not survive being moved or losing its interpreter: it is made anew then.
STALE := $(shell test "$$(cat $(VENV)/.stamp-venv 2>&1)" = "$(CURDIR)" && test -x $(BIN)/python || echo stale)

SOURCES := $(shell git ls-files kernel handlers demo bench tests 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help install demo test compiled test-compiled drills coverage mutants lint format bench bench-quick bench-peers speed load lock reference clean FORCE
.SUFFIXES:

help: ## list the targets
	@printf '\n  \033[1mBakery Gateway\033[0m\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[36mmake %-14s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n  ARGS="..." adds arguments, PORT=9000 moves the demo, PYTHON=python3.12 chooses the interpreter.\n\n'

install: $(VENV)/.stamp-runtime ## prepare .venv, so that .venv/bin/gateway runs
	@echo "Ready: $(BIN)/gateway"

demo: $(VENV)/.stamp-runtime ## run the whole product: store, stub platform, gateway
	@exec $(BIN)/gateway demo $(ARGS)

test: $(VENV)/.stamp-dev ## run every test
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

compiled: build/compiled/.stamp ## compile what a request passes through (needs a C compiler), into build/compiled

test-compiled: build/compiled/.stamp ## run every test on the compiled build
	@cd build/compiled && ../../$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

lint: $(VENV)/.stamp-dev ## check style and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary

format: $(VENV)/.stamp-dev ## rewrite the sources in the project's style
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

bench: $(VENV)/.stamp-bench ## measure, beside the peers that are installed (11 min)
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.stamp-bench ## its main table in under 90 s
	@$(BIN)/python -m bench --quick $(ARGS)

bench-peers: ## install the peer that runs on Node (npm, Node 20 or newer), into bench/out
	@npm install --prefix bench/out/node --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel error \
	  fastify@5.12.8 @fastify/http-proxy@11.6.3 @fastify/rate-limit@11.2.0 fast-jwt@6.3.6

drills: $(VENV)/.stamp-dev ## let store, services, clients and workers fail at random, for ten minutes
	@$(BIN)/python -m tests.drills $(ARGS)

coverage: $(VENV)/.stamp-dev ## which lines the tests reach, gateways and workers included (ARGS: which tests)
	@$(BIN)/coverage erase && $(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --skip-covered --sort=cover

mutants: $(VENV)/.stamp-dev ## break lines of the hot path one by one: tests must notice (2 min)
	@$(BIN)/python -m tests.mutants $(ARGS)

speed: $(VENV)/.stamp-dev ## check that the gateway is not slower than the recorded commit
	@$(BIN)/python -m bench.check $(ARGS)

load: $(VENV)/.stamp-load ## run the load test on a demo of its own, for a minute
	@$(BIN)/locust -f loadtests/locustfile.py --headless --only-summary -u 40 -r 10 -t 60s $(ARGS)

lock: $(VENV)/.stamp-dev ## pin anew what requirements/*.in ask for (ARGS=--upgrade for the newest)
	@$(UV) $(ARGS) requirements/build.in -o requirements/build.lock
	@$(UV) $(ARGS) requirements/runtime.in -o requirements/runtime.lock
	@$(UV) $(ARGS) requirements/dev.in -c requirements/runtime.lock -o requirements/dev.lock
	@$(UV) $(ARGS) requirements/grpc.in -c requirements/dev.lock -o requirements/grpc.lock
	@$(UV) $(ARGS) requirements/compile.in -c requirements/dev.lock -o requirements/compile.lock
	@$(UV) $(ARGS) requirements/bench.in -c requirements/runtime.lock -o requirements/bench.lock
	@$(UV) $(ARGS) requirements/load.in -c requirements/runtime.lock -o requirements/load.lock

reference: $(VENV)/.stamp-runtime ## write the generated parts of the documentation anew
	@$(BIN)/python -m kernel.cli.reference

clean: ## remove .venv, caches and build output
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:

$(VENV)/.stamp-venv: $(if $(STALE),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name another interpreter, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@if test -e $@ || ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  echo "Preparing $(VENV) (once)..." && $(PYTHON) -m venv --clear $(VENV); fi
	@printf '%s' "$(CURDIR)" > $@

$(VENV)/.stamp-runtime: requirements/runtime.lock requirements/build.lock pyproject.toml $(VENV)/.stamp-venv
	@echo "Installing the pinned dependencies..."
	@$(LOCKED) requirements/runtime.lock -r requirements/build.lock
	@$(PIP) --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

$(VENV)/.stamp-dev: requirements/dev.lock $(VENV)/.stamp-runtime
	@echo "Installing the pinned development tools..."
	@$(LOCKED) requirements/dev.lock
	@touch $@

can-compile: $(VENV)/.stamp-venv FORCE
	@$(BIN)/python -c 'import pathlib, sysconfig as s; assert pathlib.Path(s.get_path("include"), "Python.h").exists()' 2>/dev/null \
	  && command -v $(CC) >/dev/null || { echo "A C compiler and Python's headers are needed," \
	  "for example: apt-get install gcc python3-dev" >&2; exit 1; }

# A copy of the tree, so that no compiled module stands beside a source that is edited.
build/compiled/.stamp: setup.py $(SOURCES) $(VENV)/.stamp-dev
	@$(MAKE) --silent can-compile
	@echo "Compiling (a minute)..."
	@rm -rf build/compiled && mkdir -p build/compiled
	@git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C build/compiled
	@cd build/compiled && CFLAGS=-g0 GATEWAY_COMPILE=1 ../../$(BIN)/python setup.py --quiet build_ext --inplace > build.log 2>&1 \
	  || { tail -n 20 build.log >&2; exit 1; }
	@rm -rf build/compiled/build
	@touch $@

$(VENV)/.stamp-bench: requirements/bench.lock $(VENV)/.stamp-runtime
	@echo "Installing the pinned benchmark peers..."
	@$(LOCKED) requirements/bench.lock
	@touch $@

$(VENV)/.stamp-load: requirements/load.lock $(VENV)/.stamp-runtime
	@echo "Installing the pinned load test tools..."
	@$(LOCKED) requirements/load.lock
	@touch $@
