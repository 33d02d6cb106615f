# The whole project in a few words; `make help` lists them.
UV_VERSION := 0.13.8
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_PYTHON_DOWNLOADS := never
unexport PYTHONDONTWRITEBYTECODE # else every stage compiles torch anew
PYTEST = python -m pytest -n $$(python -c "import os; print(os.cpu_count() + 2)") --dist loadfile --no-loadscope-reorder
LOCKING := uv pip compile --universal --generate-hashes --no-emit-index-url --no-header

.PHONY: help repro verify test test-all check bench cluster ui clean lock
.DEFAULT_GOAL := help

help:  ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

repro: .venv/installed  ## install what is missing, run what has changed, show the results; PRESET=mnist: of that preset
	@if [ -n "$(PRESET)" ]; then python -m stages.preset "$(PRESET)"; fi
	@python -m workflow.engines.clone && python -m workflow.engines.dvc_locks
	dvc repro
	@python -m stages.report --show
	@python -m workflow.engines.verify || true

verify: .venv/installed  ## compare every output of the default run with the published one, byte for byte
	@python -m workflow.engines.verify

test: .venv/installed  ## install what is missing, run the tests but for those that take long
	$(PYTEST)

test-all: test  ## and then those too, of kills at random, sweeps, clusters and servers
	$(PYTEST) -m slow

check: .venv/installed  ## lint, format check, types, known vulnerabilities of the locked packages
	pre-commit run --all-files
	@.ci/audit

bench: .venv/installed  ## measure speed beside the alternatives (most of an hour); PART="sampling run": these parts
	uv pip install -q --python .venv/bin/python --require-hashes -r benchmarks/requirements.lock
	python -m benchmarks $(PART)

cluster: .venv/installed  ## install what many machines need: clients of Slurm, Kubernetes, S3, PostgreSQL
	uv pip install -q --python .venv/bin/python --require-hashes -r requirements-cluster.lock

ui: .venv/installed  ## show the runs in the MLflow UI, to this machine alone; PORT=5001: there
	@python -m workflow.tracking.ui $(PORT)

clean:  ## remove what runs made: outputs, DVC's cache, the MLflow store (data/own and data/fetched stay)
	rm -rf runs report/*.html report/speed.json data/prepared data/index data/ledger data/extractor data/reference data/checked.json data/tracked.json
	rm -rf data/raw states .locks .dvc/cache .dvc/tmp .snakemake mlflow.db* mlartifacts
	rm -rf timings

lock: .venv/installed  ## resolve the newest versions into requirements.lock
	$(LOCKING) pyproject.toml --group dev --upgrade -o requirements.lock
	$(LOCKING) --group cluster --constraint requirements.lock -o requirements-cluster.lock
	$(LOCKING) --group cluster-test --constraint requirements.lock --constraint requirements-cluster.lock \
	    -o tests/cluster/requirements.lock
	$(LOCKING) --group bench --python-version 3.11 --constraint requirements.lock -o benchmarks/requirements.lock

# uv makes the environment; where there is no uv, pip brings it into the environment first.
.venv/installed: requirements.lock
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "error: Python 3.11 to 3.13 is needed; this is " + sys.version.split()[0])'
	@test -x .venv/bin/python || if command -v uv >/dev/null; then uv venv -q --python python3 .venv; else python3 -m venv .venv; fi
	@command -v uv >/dev/null || .venv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	uv pip sync -q --python .venv/bin/python --require-hashes requirements.lock
	@touch $@
