# The main commands of the project; `make help` lists them.
UV_VERSION := 0.13.8
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_PYTHON_DOWNLOADS := never
unexport PYTHONDONTWRITEBYTECODE # otherwise every stage recompiles torch's byte code
PYTEST = python -m pytest -n $$(python -c "import os; print(os.cpu_count() + 2)") --dist loadgroup --no-loadscope-reorder
LOCKING := uv pip compile --universal --generate-hashes --no-emit-index-url --no-header

.PHONY: help repro verify test test-all check bench cluster ui clean lock
.DEFAULT_GOAL := help

help:  ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

repro: .venv/installed  ## install what is missing, run what has changed, show the results (PRESET=mnist uses a preset)
	@if [ -n "$(PRESET)" ]; then python -m stages.preset "$(PRESET)"; fi
	@python -m workflow.engines.clone && python -m workflow.engines.dvc_locks && python -m stages.check --data
	dvc repro
	@python -m stages.report --show
	@python -m workflow.engines.verify || true

verify: .venv/installed  ## compare every output of the default run with the published one, byte for byte
	@python -m workflow.engines.verify

test: .venv/installed  ## install what is missing, run all tests except the slow ones
	$(PYTEST)

test-all: test  ## run the slow tests too (random kills, sweeps, clusters, servers)
	$(PYTEST) -m slow

check: .venv/installed  ## check lint, formatting, types and known vulnerabilities of the locked packages
	pre-commit run --all-files
	@.ci/audit

bench: .venv/installed  ## compare speed with alternatives, most of an hour (PART="sampling run" runs only these parts)
	uv pip install -q --python .venv/bin/python --require-hashes -r benchmarks/requirements.lock
	python -m benchmarks $(PART)

cluster: .venv/installed  ## install clients for Slurm, Kubernetes, S3 and PostgreSQL
	uv pip install -q --python .venv/bin/python --require-hashes -r requirements-cluster.lock

ui: .venv/installed  ## serve the MLflow UI on this machine (PORT=5001 uses another port)
	@python -m workflow.tracking.ui $(PORT)

clean:  ## remove outputs, DVC's cache and the MLflow store (keeps what is yours or was downloaded, and what git has)
	rm -rf runs report/*.html report/speed.json report/charts report/curves report/figures report/summary.md
	rm -rf report/summary.tex report/methods.txt dvc_plots data/raw data/prepared data/index data/ledger data/extractor
	rm -rf data/reference data/audit data/checked.json data/tracked.json timings states .locks logs
	rm -rf .dvc/cache .dvc/tmp .snakemake mlflow.db* mlartifacts

lock: .venv/installed  ## update the lock files to the newest versions
	$(LOCKING) pyproject.toml --group dev --upgrade -o requirements.lock
	$(LOCKING) --group cluster --constraint requirements.lock -o requirements-cluster.lock
	$(LOCKING) --group cluster-test --constraint requirements.lock --constraint requirements-cluster.lock \
	    -o tests/cluster/requirements.lock
	$(LOCKING) --group bench --python-version 3.11 --constraint requirements.lock -o benchmarks/requirements.lock

# uv creates the environment; without uv, pip installs uv into the environment first.
.venv/installed: requirements.lock
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and \
	    "error: Python 3.11 to 3.13 is needed; this is " + sys.version.split()[0])'
	@test -x .venv/bin/python || if command -v uv >/dev/null; then uv venv -q --python python3 .venv; \
	    else python3 -m venv .venv; fi
	@command -v uv >/dev/null || .venv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	uv pip sync -q --python .venv/bin/python --require-hashes requirements.lock
	@touch $@
