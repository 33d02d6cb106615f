# The stages of dvc.yaml as Snakemake rules: `snakemake --cores all` runs the same graph as `dvc repro`, in parallel,
# and leaves dvc.lock and DVC's cache as `dvc repro` would. What is out of date, DVC decides (see workflow/engine.py).
import sys

from snakemake.logging import logger

from workflow import params
from workflow.engine import Graph
from workflow.errors import one_line

with one_line():
    params.load()
    graph = Graph()
    if not graph.checked:  # before Snakemake deletes what the changed stages will make
        from stages.check import check

        check()

logger.addHandler(
    graph.committer(lambda id: next(job.rule.name for job in workflow.dag.jobs if job.jobid == id))
)


rule all:
    input:
        [output for stage in graph.stages for output in stage.outputs],


for stage in graph.stages:

    rule:
        name:
            stage.rule
        input:
            [path if stage.changed else ancient(path) for path in stage.inputs],
            [graph.mark()] if stage.changed else [],
        output:
            [path if "." in path.rsplit("/", 1)[-1] else directory(path) for path in stage.outputs],
        params:
            command=stage.command,
        threads: stage.threads
        resources:
            **stage.resources,
        shell:
            "{params.command}"


onsuccess:
    graph.settle()


onerror:
    graph.settle()
