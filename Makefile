# `make attack` and `make test` work on a fresh machine with Python >= 3.11: they set everything up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RMU := models/facts-rmu.pt
BUILT := models/facts-rmu.redteam.json# written last, so whole if it is there

.PHONY: attack test test-slow lint check bench picture schema flags lock clean

attack: $(READY)
	@test -f $(BUILT) || $(BIN)/redteam unlearn rmu --testbed facts -o $(RMU)
	$(BIN)/redteam attack $(RMU) --budget 32

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadscope --durations=25

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadscope --no-loadscope-reorder --durations=25

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

bench: $(READY)
	$(BIN)/python -m benchmarks

picture: $(READY)
	@test -f $(BUILT) || $(BIN)/redteam unlearn rmu --testbed facts -o $(RMU)
	$(BIN)/python -m docs.picture

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "redteam needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

# Rewrites the lock from what pyproject.toml resolves to in a new environment.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet torch==2.13.0 setuptools
	build/lock/bin/pip install --quiet '.[dev]'
	build/lock/bin/pip freeze --exclude unlearning-redteam --all | grep -v '^pip==' | sed 's/+cpu$$//' > requirements.lock
	rm -rf build/lock

# Rewrites the published schema of results.json; a test compares it with the code.
schema: $(READY)
	$(BIN)/python -m redteam.evidence.results > schema.part && mv schema.part redteam/evidence/results.schema.json
	$(BIN)/python -m redteam.evidence.certificate > schema.part && mv schema.part redteam/evidence/certificate.schema.json

# Rewrites docs/flags.md from the table of checks; a test compares it with the code.
flags: $(READY)
	$(BIN)/python -m redteam.judging.checks.document > flags.part && mv flags.part docs/flags.md

clean:
	rm -rf $(VENV) build models results/runs
