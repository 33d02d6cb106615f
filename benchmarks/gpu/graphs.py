"""What a step gains as a CUDA graph, at the batch size of the preset, where small kernels leave the card idle.

The whole step, with loss, gradients and update, is recorded once and replayed with new images in the same memory. A
family whose step makes the processor wait for the card cannot be recorded; then the row says why. Each attempt is made
in a process that has not failed before, since a recording that breaks off spoils torch's random numbers.
"""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from benchmarks.gpu.cases import BATCHES, Case, cases, taken
from benchmarks.gpu.machine import seconds
from benchmarks.gpu.task import Task
from workflow.models.base import HasInitialise, HasProject, Model
from workflow.training.optimizer import AdamW

Row = dict[str, Any]
TIMED = 0.2  # seconds for which one figure is measured
WARM = 3  # steps before recording, on another stream as CUDA wants it


def main(task: Task) -> None:
    """Let one process after another measure; the next begins where the last broke off."""
    everything, file = cases(task)[: 2 if task.tiny else None], task.scratch / "graphs.jsonl"
    file.write_text("", encoding="utf-8")
    context, rows = multiprocessing.get_context("fork"), list[Row]()  # torch is loaded, and CUDA is not
    while len(rows) < len(everything) and task.left > 2:
        process = context.Process(target=_measure, args=(task, everything[len(rows) :], file))
        process.start()
        process.join(max(0.0, task.left - 1))
        process.kill()
        process.join()
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if len(found) == len(rows):  # it died at once
            case = everything[len(rows)]
            why = "its process ended" if task.left > 2 else "out of time"
            found.append({"kind": case.kind, "size": case.size, "why": why})
            file.write_text("".join(f"{json.dumps(row)}\n" for row in found), encoding="utf-8")
        rows = found
        gains = [f"{row['kind']} {row['size']} {row['gain']:.2f}" for row in rows if "gain" in row]
        task.write(f"{len(gains)} of {len(rows)} recorded; times as fast: {', '.join(gains) or 'none'}", {"rows": rows})


def _measure(task: Task, left: list[Case], file: Path) -> None:
    """A row for each case; returns after the first that cannot be recorded."""
    device = task.device()
    for case in left:
        about = {"kind": case.kind, "size": case.size, "batch_size": case.entry.training.batch_size}
        try:
            row = about | gain(case, device)
        except Exception as error:  # whatever it is, the next case has another process
            row = about | {"why": str(error).splitlines()[0] if str(error) else type(error).__name__}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        if "why" in row:
            return


def gain(case: Case, device: torch.device) -> dict[str, float]:
    """Images per second with a graph and without, measured one after the other."""
    size = case.entry.training.batch_size
    plain = seconds(taken(case.steps(size, device, bf16=False)), device, TIMED)
    replay, turns = recorded(case, size, device)
    graph = seconds(replay, device, TIMED)
    both = {"images_per_second": turns * size / plain, "with_graph": turns * size / graph}
    return {**both, "gain": plain / graph}


def recorded(case: Case, size: int, device: torch.device) -> tuple[Callable[[], None], int]:
    """A function that replays a step on the next batch, and how many batches it takes.

    Raises RuntimeError if the step cannot be recorded.
    """
    if device.type != "cuda":
        raise RuntimeError("no CUDA graphs on the CPU")
    model, images = case.build(device).train(), case.images(BATCHES * size, device)
    generator = Generator(device).manual_seed(0)
    if isinstance(model, HasInitialise):
        model.initialise(images.images, generator)
    x, y, turns = images.images[:size].clone(), images.labels[:size].clone(), len(model.turns)
    step = whole_step(case, model, x, y, generator)
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        step()
    place = 0

    def replay() -> None:
        nonlocal place
        place = (place + size) % len(images)
        x.copy_(images.images[place : place + size])
        y.copy_(images.labels[place : place + size])
        graph.replay()

    return replay, turns


def whole_step(case: Case, model: Model, x: torch.Tensor, y: torch.Tensor, generator: Generator) -> Callable[[], None]:
    """All players' turns on the same images x, uint8 (N, C, H, W), of classes y; our optimiser, no look at the loss."""
    settings = case.entry.training
    optimisers = {name: AdamW(player.parameters()) for name, player in model.players.items()}

    def step() -> None:
        for name in model.turns:
            for other, network in model.players.items() if len(model.players) > 1 else ():
                network.requires_grad_(other == name)
            optimisers[name].forget_gradients()
            model.loss(x, y, name, generator)["loss"].backward()
            optimisers[name].step(settings.lr, settings.betas, settings.weight_decay)
            if isinstance(model, HasProject):
                model.project(name)

    return step
