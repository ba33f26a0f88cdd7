# Needs make and a Python >= 3.11 with its venv module; everything goes into .venv, nothing needs root.
# Written for GNU make 3.81 (what macOS ships) and newer.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin

# The first Python with everything we use. 3.11 and 3.12 come first: vaex has no build for newer ones yet.
PYTHON ?= $(shell \
	works='import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, int(sys.argv[1])))'; \
	for newest in 12 99; do \
		for candidate in python3 python3.11 python3.12 python3.13 python3.14; do \
			if "$$candidate" -c "$$works" $$newest >/dev/null 2>&1; then echo "$$candidate"; exit; fi; \
		done; \
	done)

# torch is a dependency of stable-baselines3, and on Linux a plain install of it brings gigabytes of CUDA.
# So it is installed first, from the index of CPU builds. With a GPU: make test TORCH_INDEX=
# If that index does not answer, pip warns and uses its others. What torch needs comes with the rest.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= $(if $(filter Linux,$(shell uname -s)),https://download.pytorch.org/whl/cpu)

# Quiet but for errors; to see all that pip and uv do: make test PIP_FLAGS=
PIP_FLAGS ?= -qq
PIP := PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install $(PIP_FLAGS)

# uv installs in seconds what takes pip minutes. It knows nothing of pip's own configuration (an index of your
# company, for example): where it cannot do it, pip does. Without uv: make test UV=false
# Compiled here, as pip does: what warns while it is compiled (vaex) would be an error in a test.
UV ?= $(BIN)/python -m uv pip install $(PIP_FLAGS) --compile-bytecode --python $(BIN)/python
INSTALL = { $(PIP) uv && $(UV) $(1) 2>$(VENV)/uv.log; } || $(PIP) $(1)

# pytest: how many processes, and anything more you want to hand it: make test PYTEST_ARGS="-k writer -x"
# One more than there are cores: tests wait for servers and processes a good part of their time.
WORKERS ?= $(shell $(BIN)/python -c 'import os; print(os.cpu_count() + 1)')
PYTEST_ARGS ?=
# How many recording processes `make faults` kills.
TRAINERS ?= 100
# How many processes whose journal is read afterwards.
WRITERS ?= 500
# Where `make kills` takes Redis away before a kill: for how many seconds.
AWAY_S ?= 3
# How many backup processes.
BACKUPS ?= 100
# How often it kills each kind of Redis, and MongoDB.
KILLS ?= 50
# How many exports to Minari.
EXPORTS ?= 20
# How many steps it records into a Redis of 64 MB.
STEPS ?= 10000000
# How many episodes are read from MongoDB after Redis was emptied.
EPISODES ?= 10000
# Connections are cut at every so many-th byte of an append.
CUT_EVERY ?= 1
# Which histories `make nemesis` makes and checks, and how long each goes on.
SEEDS ?= 0-99
SECONDS ?= 30
# On a cluster of which program: valkey9, redis7, redis8; empty: on one server.
CLUSTER ?=
# For how many seconds `make simulate` and `make faults` draw seeds.
SIMULATED_SECONDS ?= 600
# How many mutated inputs `make faults` feeds to the decoders, twice: by chance, and by coverage.
INPUTS ?= 100000
# On clusters of which programs `make cluster` runs: also redis8.
CLUSTERS ?= valkey9 redis7
# `make test` and `make long` write down how long each test took; `make test-times` shows it.
REPORT ?= build/tests.xml
# Of the long tests, a part: make long SLICE=3/8
SLICE ?=
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --junitxml=$(REPORT) \
	$(if $(SLICE),--slice=$(SLICE))

comma := ,
INSTALL_TORCH = $(PIP) --no-deps --retries 1 --timeout 15 \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)"

# Installed once; again only when pyproject.toml changes.
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(DEMO_READY) ## train traced, replay, back up, wipe, restore (examples/demo.py)
	@$(BIN)/python examples/demo.py

.PHONY: test
test: $(DEV_READY) ## the tests that prove each promise once (6 minutes on 2 cores)
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

.PHONY: test-times
test-times: ## of the last run of the tests: the 40 slowest, the sum of each file, the total
	@test -e $(REPORT) || $(MAKE) test
	@$(BIN)/python tests/times.py $(REPORT)

.PHONY: faults
faults: $(DEV_READY) ## only the tests that kill, cut, fill and mutate, at full length
	JAMBOREE_KILLED_TRAINERS=$(TRAINERS) JAMBOREE_KILLED_WRITERS=$(WRITERS) \
		JAMBOREE_KILLED_REDIS=$(KILLS) JAMBOREE_KILLED_MONGO=$(KILLS) \
		JAMBOREE_KILLED_BACKUPS=$(BACKUPS) JAMBOREE_KILLED_EXPORTS=$(EXPORTS) JAMBOREE_CUT_EVERY=$(CUT_EVERY) \
		JAMBOREE_MAXMEMORY_STEPS=$(STEPS) JAMBOREE_FLUSHED_EPISODES=$(EPISODES) \
		JAMBOREE_MUTATED_INPUTS=$(INPUTS) JAMBOREE_SIMULATED_SECONDS=$(SIMULATED_SECONDS) \
		$(BIN)/python -m pytest -v -m faults $(PYTEST_ARGS)

.PHONY: kills
kills: $(DEV_READY) ## recording processes of every kind are killed, with Redis away, with the servers
	$(BIN)/python tests/faults/kills.py --kills $(WRITERS) --away-s $(AWAY_S)

.PHONY: nemesis
nemesis: $(DEV_READY) ## all kinds of processes at once, while each is killed, stopped, cut off; the history is checked
	$(BIN)/python tests/faults/nemesis.py --seeds $(SEEDS) --seconds $(SECONDS) $(if $(CLUSTER),--cluster $(CLUSTER))

.PHONY: simulate
simulate: $(DEV_READY) ## the store on simulated servers and time: many schedules of actors and faults
	$(BIN)/python tests/simulation/simulate.py --seconds $(SIMULATED_SECONDS)

.PHONY: planted-faults
planted-faults: $(DEV_READY) ## faults put into the store on purpose: after how many schedules each is found
	$(BIN)/python tests/simulation/planted_faults.py

.PHONY: long
long: $(DEV_READY) ## what `make test` leaves out or tries a tenth of, at full length (some minutes)
	JAMBOREE_LONG=1 $(PYTEST) -m "long or deep" $(PYTEST_ARGS)

.PHONY: cluster
cluster: $(DEV_READY) ## the tests that share a Redis, on clusters of Valkey 9 and of Redis 7
	@set -e; for program in $(CLUSTERS); do \
		$(PYTEST) -m "not long" --on-a-cluster $$program $(PYTEST_ARGS); done

.PHONY: ci-full
ci-full: ## all of CI and every test on every Python, nothing by turns (an hour or two)
	bash .ci/run --full

.PHONY: check
check: $(DEV_READY) ## format, lint and types, without changing a file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: fmt
fmt: $(DEV_READY) ## format, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(DEV_READY) ## the benchmarks, each against its peers
	@set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

.PHONY: screenshots
screenshots: $(DEV_READY) ## the pictures of docs/page.md, by a Chromium
	$(BIN)/python tests/page/screenshots.py

.PHONY: docs
docs: $(DEV_READY) ## run the examples in README.md and docs/
	$(BIN)/python -m pytest -v tests/test_docs.py $(PYTEST_ARGS)

.PHONY: clean
clean: ## remove what was built and the caches; keeps .venv (rm -r .venv removes that too)
	rm -rf build dist *.egg-info jamboree_gym/*/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "jamboree-gym needs Python 3.11 or newer with its venv module, and found none on PATH." >&2; \
		echo "  Debian, Ubuntu: apt install python3 python3-venv" >&2; \
		echo "  elsewhere:      https://www.python.org/downloads/" >&2; \
		echo "Or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
		exit 1; \
	fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11 or newer." >&2; exit 1; }
	@echo "Creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear "$(VENV)"

$(DEMO_READY): pyproject.toml $(BIN)/python
	@echo "Installing $(TORCH) into $(VENV) (the first time 1-3 minutes: 200 MB) ..."
	@$(INSTALL_TORCH)
	@echo "Installing jamboree-gym, its servers and stable-baselines3 into $(VENV) (about a minute) ..."
	@$(call INSTALL,-e '.[cli$(comma)embedded$(comma)sb3]')
	@touch $@

$(DEV_READY): pyproject.toml $(BIN)/python
	@echo "Installing $(TORCH) into $(VENV) (the first time 1-3 minutes: 200 MB) ..."
	@$(INSTALL_TORCH)
	@echo "Installing jamboree-gym and its development tools into $(VENV) (the first time 1-2 minutes) ..."
	@$(call INSTALL,-e '.[dev]')
	@touch $(DEMO_READY) $@
