# Two commands on a fresh machine (Debian with python3.11 and make): `make run`, `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS := 1
export FEDCOSIM_SCREENSHOTS ?= $(CURDIR)/build/screenshots

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

.PHONY: help install run test test-slow test-containers check audit docs format clean
help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(READY) ## Create .venv and install fedcosim with all it needs

run: $(READY) ## Run the quickstart: FedDiff and federated averaging, one shot each, and their comparison
	$(BIN)/fedcosim run experiments/quickstart.toml
	$(BIN)/fedcosim run experiments/quickstart_fedavg.toml
	$(BIN)/fedcosim compare $$(ls -td runs/quickstart-fed* | head -2)

test: $(READY) ## Run the tests (minutes)
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'not slow and not containers'

test-slow: $(READY) ## Run the tests that take minutes each
	$(BIN)/pytest -m slow

test-containers: $(READY) ## Run the tests that need a container engine
	$(BIN)/pytest -m containers

check: $(READY) ## Lint, check formatting and types, look up vulnerabilities where that can be done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/typecheck && ln -sfn "$(CURDIR)" $(VENV)/typecheck/fedcosim
	cd $(VENV)/typecheck && MYPYPATH=. ../bin/mypy --config-file fedcosim/pyproject.toml --cache-dir ../mypy -p fedcosim
	@$(MAKE) --no-print-directory audit > $(VENV)/audit.txt 2>&1 && echo "no known vulnerabilities" \
		|| echo "vulnerabilities: found some, or nobody could be asked; see $(VENV)/audit.txt"

audit: $(READY) ## Look up known vulnerabilities of all installed packages; needs a network
	$(BIN)/pip-audit --local --skip-editable --progress-spinner off --vulnerability-service osv --timeout 10

docs: $(READY) ## Write the generated reference pages again
	$(BIN)/python docs/generate_reference.py

format: $(READY) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and caches, not the runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
