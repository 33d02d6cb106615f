# The stages of dvc.yaml as Snakemake rules: `snakemake --cores all` runs the same graph as `dvc repro`, in parallel,
# and leaves dvc.lock and DVC's cache as `dvc repro` would. What is out of date, DVC decides (see workflow/engine.py).
import sys

from snakemake.logging import logger

from workflow import params
from workflow.engine import Graph, visible_gpus
from workflow.errors import one_line

with one_line():
    on_gpu = params.load().compute.device != "cpu"
    graph = Graph()
    if not graph.checked:  # before Snakemake deletes what the changed stages will make
        from stages.check import check

        check()

logger.addHandler(
    graph.committer(lambda: {job.jobid: job.rule.name for job in workflow.dag.finished_jobs})
)
if on_gpu and (gpus := visible_gpus()) and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", gpus)  # which one a job has, it finds out itself (see workflow/compute.py)


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
        priority: stage.priority
        resources:
            **{name: amount for name, amount in stage.resources.items() if on_gpu or name != "gpu"},
        shell:
            "{params.command}"


onstart:
    with one_line():
        graph.hold()


onsuccess:
    graph.settle()


onerror:
    graph.settle()
