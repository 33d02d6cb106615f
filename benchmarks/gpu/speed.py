"""How fast each family trains and draws on the card, in images per second, and which share of the card that is.

`ours` is a step of the training loop without validation, at the batch size of the preset and at larger ones until a
larger one gains less than a tenth; `usual loop` is the same model in a loop with a DataLoader; `bf16` is ours in mixed
precision. `of_matrix_peak` are the counted operations per second over those of a product of two large bf16 matrices on
the same card, `of_bandwidth` the bytes that all operations read and write over those of a large copy (above 1 where
much stays in the card's cache).
"""

import time
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.cases import Case, cases, taken, usual_loop
from benchmarks.gpu.machine import bandwidth, facts, matrix_peak, seconds, traffic
from benchmarks.gpu.task import Task
from workflow.errors import BakeoffError

Row = dict[str, Any]
LARGER = 4  # times, from one batch size to the next
GAIN = 1.1  # less, and the card is saturated
LARGEST = 32_768  # images in a batch
TIMED = 0.15  # seconds for which one figure is measured
DRAWN = 512  # images that are drawn at once
PASSES = 1000  # in sequence, above which drawing is not measured


def main(task: Task) -> None:
    """Measure case after case, and write after each."""
    device, rows = task.device(), list[Row]()
    found: dict[str, Any] = {"machine": facts(device), "rows": rows}
    n, size = (256, 2**20) if task.tiny else (8192, 2**31)
    found["peak"] = peak = {"matrix": matrix_peak(device, n), "bandwidth": bandwidth(device, size)}
    torch.cuda.empty_cache()
    everything = cases(task)[: 2 if task.tiny else None]
    for place, case in enumerate(everything):
        if task.left < 2:
            break
        measure = _Measure(case, device, peak, time.time() + task.left / (len(everything) - place), rows)
        try:
            measure.all(2 * case.entry.training.batch_size if task.tiny else LARGEST)
        except (BakeoffError, RuntimeError, AssertionError) as error:
            rows.append({"kind": case.kind, "size": case.size, "what": "failed", "why": str(error).splitlines()[0]})
        torch.cuda.empty_cache()
        task.write(_line(found, place + 1, len(everything)), found)


def _line(found: dict[str, Any], done: int, of: int) -> str:
    """What was measured, in a line: the peaks, and by how much the fastest batch size of ours beats the usual loop."""
    peak, gains = found["peak"], []
    for row in found["rows"]:
        if row["what"] == "usual loop":
            ours = [one for one in found["rows"] if _same(one, row) and one["what"] == "ours"]
            gains.append(ours[0]["images_per_second"] / row["images_per_second"])
    middle = f"{sorted(gains)[len(gains) // 2]:.2f}" if gains else "nothing"
    return (
        f"{found['machine']['device']}: {peak['matrix'] / 1e12:.3g} TFLOP/s in bf16, {peak['bandwidth'] / 1e9:.4g} "
        f"GB/s; {done} of {of} cases; ours over the usual loop, median: {middle}"
    )


def _same(one: Row, other: Row) -> bool:
    return all(one.get(key) == other.get(key) for key in ("kind", "size", "batch_size"))


class _Measure:
    """The figures of one case, the most important first, until its time is over."""

    def __init__(self, case: Case, device: torch.device, peak: dict[str, float], ends: float, rows: list[Row]) -> None:
        self.case, self.device, self.peak, self.ends, self.rows = case, device, peak, ends, rows

    def all(self, largest: int) -> None:
        """Everything at the preset's batch size; then larger batches, and bf16 at the best of them."""
        size = self.case.entry.training.batch_size
        best = self.ours(size, bf16=False)
        self.usual(size)
        for further in (partial(self.ours, size, bf16=True), self.drawing):
            if time.time() < self.ends:
                further()
        while size * LARGER <= largest and time.time() < self.ends:
            size *= LARGER
            try:
                found = self.ours(size, bf16=False)
            except torch.OutOfMemoryError:
                self.add("ours", size, why="out of memory")
                return
            if found < GAIN * best:
                break
            best = found
        if size > self.case.entry.training.batch_size and time.time() < self.ends:
            self.ours(size, bf16=True)

    def ours(self, size: int, *, bf16: bool) -> float:
        """Images per second of our steps."""
        steps = self.case.steps(size, self.device, bf16=bf16)
        step = taken(steps)
        each = seconds(step, self.device, TIMED)
        moved = traffic(step) / each / self.peak["bandwidth"]
        shares = {"of_matrix_peak": 1e9 * steps.gflops / each / self.peak["matrix"], "of_bandwidth": moved}
        return self.add("ours, bf16" if bf16 else "ours", size, size * len(steps.model.turns) / each, **shares)

    def usual(self, size: int) -> None:
        """The loop that ours is held against, without the settings that make ours repeatable."""
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")
        try:
            step, turns = usual_loop(self.case, size, self.device), len(self.case.build(self.device).turns)
            self.add("usual loop", size, size * turns / seconds(step, self.device, TIMED))
        finally:
            torch.set_deterministic_debug_mode(mode)

    @torch.no_grad()
    def drawing(self) -> None:
        """Samples per second, of a single batch."""
        model = self.case.build(self.device).eval()
        if model.passes_in_sequence <= PASSES:
            random = torch.Generator(self.device).manual_seed(0)
            model.sample(2, random)
            start = time.perf_counter()
            model.sample(DRAWN, random).cpu()
            self.add("drawing", DRAWN, DRAWN / (time.perf_counter() - start))

    def add(self, what: str, size: int, images_per_second: float = 0.0, **more: Any) -> float:
        """Note a row; returns its figure."""
        about = {"kind": self.case.kind, "size": self.case.size, "what": what, "batch_size": size}
        self.rows.append({**about, "images_per_second": images_per_second, **more})
        return images_per_second
