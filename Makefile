# avsnn: set-up, tests and the demonstration. `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all check train-tiny verify-all tables sanafe counters golden clean

CORE := .venv
LAVA := .venv-lava
SANAFE := .venv-sanafe
COUNTERS := .venv-counters
RUN := $(CORE)/bin/python
WHEELS := .cache/wheels
# Any core interpreter from 3.10 to 3.13: make setup PYTHON=python3.12
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | column -t -s:

setup: $(CORE)/.complete $(LAVA)/.complete $(WHEELS)/.complete ## make the core and the Lava environment (idempotent)

$(CORE)/.complete: requirements/core.txt requirements/test.txt requirements/dev.txt requirements/norse.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.10 to 3.13; name one with PYTHON=" >&2; exit 2; }
	test -x $(RUN) || $(PYTHON) -m venv $(CORE)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/norse.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(LAVA)/.complete: $(CORE)/.complete deploy/requirements-lava.txt
	$(RUN) -m avsnn lava install --path $(LAVA)
	touch $@

# The judge: ground truth that Intel ships inside the lava-dl wheel, read as a zip, never installed.
$(WHEELS)/.complete: requirements/judge.txt $(CORE)/.complete
	mkdir -p $(WHEELS)
	$(RUN) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.10 \
		-d $(WHEELS) -r requirements/judge.txt
	touch $@

demo: setup ## convert the shipped network, run it in Lava and on the simulator, print the report
	$(RUN) -m avsnn convert examples/models/avdigits-tiny.pt --target loihi2 --out build/demo --force

test: setup ## every test that takes seconds
	$(RUN) -m pytest -q -m "not slow"

test-slow: setup ## the tests that take minutes
	$(RUN) -m pytest -q -m slow

check: setup ## style, types, import directions
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(CORE)/bin/lint-imports

test-all: setup ## core tests on every Python from 3.10 to 3.13 that is here (on the path or under pyenv)
	@for v in 3.10 3.11 3.12 3.13; do \
		for p in python$$v $$HOME/.pyenv/versions/$$v.*/bin/python; do $$p -c '' 2>/dev/null && break; done; \
		$$p -c '' 2>/dev/null || { echo "python$$v: not here, skipped"; continue; }; \
		echo "python$$v: $$p"; test -x .venv-$$v/bin/python || $$p -m venv .venv-$$v || exit 1; \
		.venv-$$v/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/test.txt || exit 1; \
		.venv-$$v/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/norse.txt || exit 1; \
		.venv-$$v/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . || exit 1; \
		.venv-$$v/bin/python -m pytest -q -m "not lava and not slow" || exit 1; \
	done

train-tiny: setup ## train examples/models/avdigits-tiny.pt again, and each modality alone (about 20 minutes)
	OMP_NUM_THREADS=1 $(RUN) examples/models/train_tiny.py

verify-all: setup ## every shipped network on every back end, 16 samples each, and thousands of random graphs (hours)
	for file in examples/models/*.pt; do \
	  $(CORE)/bin/avsnn convert $$file --out build/verify/$$(basename $$file .pt) --force --samples 16 || exit 1; done
	$(RUN) -m pytest -q -m slow tests/conformance

tables: setup ## train and measure everything that the README's tables show (hours)
	OMP_NUM_THREADS=1 $(RUN) examples/models/train_networks.py
	OMP_NUM_THREADS=1 $(RUN) benchmarks/accuracy.py --jobs 2
	OMP_NUM_THREADS=1 $(RUN) benchmarks/quantised.py
	OMP_NUM_THREADS=1 $(RUN) benchmarks/finetuned.py
	OMP_NUM_THREADS=1 $(RUN) benchmarks/frontier.py
	OMP_NUM_THREADS=1 $(RUN) benchmarks/placement.py examples/models/*.pt pilotnet scmrl-64 scmrl-256 --json benchmarks/placement.json
	$(RUN) benchmarks/pilotnet_energy.py --json benchmarks/pilotnet_energy.json
	$(RUN) benchmarks/reference_presets.py
	$(RUN) benchmarks/readme_tables.py

counters: setup $(COUNTERS)/.complete ## compare counts with SpikingJelly's, NeuroBench's and sinabs' (Python 3.11 and later)
	PYTHONPATH=src $(COUNTERS)/bin/python benchmarks/counters.py

$(COUNTERS)/.complete: requirements/core.txt requirements/counters.txt
	test -x $(COUNTERS)/bin/python || $(PYTHON) -m venv $(COUNTERS)
	$(COUNTERS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/core.txt
	$(COUNTERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/counters.txt
	touch $@

$(SANAFE)/.complete: requirements/sanafe.txt $(CORE)/.complete
	test -x $(SANAFE)/bin/python || $(RUN) -m venv $(SANAFE)
	$(SANAFE)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/sanafe.txt
	touch $@

sanafe: setup $(SANAFE)/.complete ## compare energies with SANA-FE, a separate program, in an environment of its own
	$(RUN) benchmarks/sanafe.py --python $(SANAFE)/bin/python --json benchmarks/sanafe.json

golden: setup ## rewrite the golden files after a wanted change
	$(RUN) -m pytest -q tests --update-golden

clean: ## remove what can be made again, environments excepted
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info src/*.egg-info
