# Every target sets up what it needs. `make` or `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python

OUTPUT ?= model_store/godel.mar
RECIPE ?= small

# What is not given (MODEL, ENGINE, PRECISION, VERSION) keeps its default, or what the archive was made with.
ARCHIVE = $(PY) -m training.archive --output $(OUTPUT) $(if $(MODEL),--model $(MODEL)) \
	$(if $(ENGINE),--engine $(ENGINE)) $(if $(PRECISION),--precision $(PRECISION)) $(if $(VERSION),--version $(VERSION))
# The tests are about the embedded model, whatever was served last.
EMBEDDED = $(PY) -m training.archive --if-stale --model models/embedded --engine onnx --precision int8 --version 1.0
# A checkpoint of the hub's kind is converted, which needs what training needs. One with its own tokenizer.json
# does not, nor does a path that leads nowhere: archive says so at once.
NOWHERE = $(if $(wildcard $(MODEL)),,$(filter models/% ./% ../% /%,$(MODEL)))
CONVERSION = $(if $(wildcard $(MODEL)/tokenizer.json)$(NOWHERE),,$(MODEL))

.DEFAULT_GOAL := help
.PHONY: help setup serve stop archive train test cluster-test check bench soak peers lock audit sbom licences clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  options  MODEL=folder|hub/name ENGINE=onnx|torch PRECISION=auto|int8|int4|fp32|bf16 VERSION=1.0 RECIPE=$(RECIPE)"
	@echo "  ports    GODEL_PORT in the environment for the gateway, config.properties for TorchServe"

setup: $(VENV)/.serving ## Create .venv with all that serving needs

serve: $(VENV)/.serving ## Serve: TorchServe and the gateway, until Ctrl-C
	@$(ARCHIVE) --if-stale
	@exec $(PY) -m launcher serve

stop: ## End what `make serve` started
	@if [ -x $(PY) ]; then $(PY) -m launcher stop; else echo "nothing is being served from this checkout"; fi

archive: $(if $(CONVERSION),$(VENV)/.training,$(VENV)/.serving) ## Build model_store/godel.mar from MODEL
	@$(ARCHIVE)

# A recipe that is not there needs nothing installed: train says so at once.
RECIPES = $(basename $(notdir $(wildcard training/recipes/*.sh)))
train: $(if $(filter $(RECIPE),$(RECIPES)),$(VENV)/.training) ## Run all training stages of RECIPE
	@[ -x training/recipes/$(RECIPE).sh ] || { echo "make: there is no recipe $(RECIPE); choose of: $(RECIPES)" >&2; exit 1; }
	@PYTHON=$(PY) training/recipes/$(RECIPE).sh

# What starts model servers, or a load, has the machine to itself; of the rest two files run at a time.
SERVING := e2e or faults or cluster

test: $(VENV)/.dev check ## Lint, types, unit and end-to-end tests
	@$(EMBEDDED)
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not ($(SERVING) or soak)"
	@$(PY) -m pytest -n 2 --dist loadfile -m "($(SERVING)) and not soak"
	@$(PY) -m pytest -m soak

cluster-test: $(VENV)/.dev ## The tests of several machines alone (root; 3 minutes): PostgreSQL, Redis, HAProxy, namespaces
	@$(EMBEDDED)
	@$(PY) -m pytest tests/cluster -s

check: $(VENV)/.dev ## Lint and types alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

bench: $(VENV)/.dev ## Measure engine and stack beside rivals (25 minutes; QUICK=1: a smoke test)
	@GODEL_LOG_LEVEL=warning $(PY) -m bench $(if $(QUICK),--quick) $(if $(ENGINE),--engine $(ENGINE)) $(if $(PRECISION),--precision $(PRECISION))

soak: $(VENV)/.dev ## Mixed load at up to ten times the capacity (10 minutes; MINUTES=60)
	@$(EMBEDDED)
	@$(PY) -m bench.soak $(if $(MINUTES),--minutes $(MINUTES))

peers: $(VENV)/.created ## Install the rivals that make bench skips without it (3 GB in build/)
	@$(PY) -m bench.environments

lock: $(VENV)/.dev ## Write requirements/*.txt from requirements/*.in
	@$(PY) -m pip install --quiet pip-tools
	@requirements/lock.sh $(CURDIR)/$(PY)

audit: $(VENV)/audit/.installed ## Ask the index for known weaknesses of what the locks hold
	@$(VENV)/audit/bin/python requirements/supply_chain.py audit

sbom: $(VENV)/audit/.installed ## Write build/sbom.json, the bill of materials (CycloneDX)
	@$(VENV)/audit/bin/python requirements/supply_chain.py sbom

licences: $(VENV)/audit/.installed $(VENV)/.dev ## Write docs/licences.md
	@$(VENV)/audit/bin/python requirements/supply_chain.py licences

clean: ## Remove build/ (training runs too), archives and caches; models, bots and .venv stay
	@if [ -x $(PY) ]; then $(PY) -m launcher status >/dev/null 2>&1; case $$? in 0|4) \
		echo "make: this checkout is being served; \`make stop\` first" >&2; exit 1;; esac; fi
	@rm -rf build model_store/*.mar .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; install Python 3.11 or newer, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), older than 3.11; say make PYTHON=python3.11 or the like" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# An environment of its own: what looks at the locks is no part of them.
$(VENV)/audit/.installed: requirements/audit.txt | $(VENV)/.created
	@$(PY) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The stamps: what is installed is that of the lock when the stamp is newer.
$(VENV)/.serving: requirements/gateway.txt requirements/handler.txt | $(VENV)/.created
	@echo "installing what serving needs (once; a few minutes) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check $(foreach lock,$^,-r $(lock))
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.training: requirements/training.txt | $(VENV)/.serving
	@echo "installing what training and conversion need ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.dev: requirements/dev.txt | $(VENV)/.created
	@echo "installing what tests and training need (once; a few minutes) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r $<
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ $(VENV)/.serving $(VENV)/.training
