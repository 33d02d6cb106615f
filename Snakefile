# The stages of dvc.yaml as Snakemake rules: `snakemake --cores all` runs the same graph as `dvc repro`, in parallel,
# and leaves dvc.lock and DVC's cache as `dvc repro` would. DVC decides what is out of date
# (see workflow/engines/snakemake.py).
import atexit

from snakemake.logging import logger

from workflow import params, startup
from workflow.engines import shown
from workflow.engines.snakemake import MARKER, Graph, planned, refuse_config, refuse_without_running, visible_gpus
from workflow.errors import one_line

startup.collect_garbage_rarely()
startup.skip_final_collection()

with one_line():
    settings = params.load()
    on_gpu = settings.compute.device != "cpu"
    if workflow.is_main_process:
        refuse_config(config)
        graph = Graph(settings)
        if not graph.checked:  # before Snakemake deletes what the changed stages will make
            from stages.check import check, record

            check(settings)
        for_show = lambda: workflow.dryrun or workflow.touch or workflow.remote_execution_settings.immediate_submit
        ran = lambda: workflow.executor_plugin and not for_show()
        atexit.register(lambda: ran() and graph.record_ledger())
        logger.addHandler(
            graph.committer(lambda: {job.jobid: job.rule.name for job in workflow.dag.finished_jobs})
        )
        here = workflow.resource_settings.cores is not None  # not on a cluster, which manages its own GPUs
        if on_gpu and here and (gpus := visible_gpus()) and "gpu" not in workflow.global_resources:
            workflow.register_resource("gpu", gpus)  # each job takes a free one by itself (workflow/device.py)
        stages, changed = graph.stages, graph.mark()
    else:  # runs one job, perhaps on another machine
        stages, changed = planned(), str(MARKER)


def memory(amount):
    """More with each attempt, for jobs that were killed because they had too little."""
    return lambda wildcards, attempt: amount * attempt


def inputs_of(place):
    """What a stage waits for; called when Snakemake plans, because its options are known only then."""

    def inputs(wildcards):
        if workflow.is_main_process:
            with one_line():
                graph.heed(workflow.dag_settings)
        stage = stages[place]
        return [path if stage.changed else ancient(path) for path in stage.inputs] + [changed] * stage.changed

    return inputs


def declared(path):
    """An output as Snakemake takes it: a file or a folder, marked if its report shows it."""
    output = path if "." in path.rsplit("/", 1)[-1] else directory(path)
    return report(output, **marked) if (marked := shown.mark(path)) else output


report: shown.ABOUT


rule all:
    input:
        [output for stage in stages for output in stage.outputs],


for kind in dict.fromkeys(stage.kind for stage in stages if stage.kind != stage.rule):

    rule:  # all stages of one kind, as a target: `snakemake --cores all train`
        name:
            kind
        input:
            [output for stage in stages if stage.kind == kind for output in stage.outputs],


for place, stage in enumerate(stages):

    rule:
        name:
            stage.rule
        input:
            inputs_of(place),
        output:
            [declared(path) for path in stage.outputs],
        log:
            f"logs/{stage.rule}.log",
        params:
            command=stage.command,
        threads: stage.threads
        priority: stage.priority
        localrule: stage.local
        resources:
            **{
                name: memory(amount) if name == "mem_mb" else amount
                for name, amount in stage.resources.items()
                if on_gpu or name != "gpu"
            },
        shell:  # the progress bar goes to the terminal; Ctrl-C to the stage, whose last words still go into the log
            "BAKEOFF_PROGRESS=3 {params.command} 3>&2 2>&1 | (trap '' INT TERM HUP; exec tee {log:q}) >&2"


onstart:
    with one_line():
        refuse_without_running(workflow)
        graph.hold()
        if not graph.checked:
            record()
            graph.note_checked()


onsuccess:
    graph.settle(done=True)


onerror:
    graph.settle()
