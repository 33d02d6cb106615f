"""The training loop of all families: for each player in turn, compute the loss, backpropagate, take a step.

No family is named here. Whatever differs between families goes through the contract in `models/base.py`.
"""

import time
from collections.abc import Callable

from tqdm import tqdm

from workflow.data.tensors import ImageSet
from workflow.models.base import Model
from workflow.params import Train
from workflow.training.checkpoint import Checkpoint, CheckpointFile
from workflow.training.distributed import ProcessGroup
from workflow.training.history import History, Record
from workflow.training.steps import Steps
from workflow.training.validation import Fitted, Validator

SINGLE = ProcessGroup()
LOGS_PER_EPOCH = 2  # records of training losses per epoch: enough for a curve, few enough for a small file


def fit(
    model: Model,
    train: ImageSet,
    valid: ImageSet,
    settings: Train,
    seed: int,
    log: Callable[[Record], None],
    progress: str = "",
    group: ProcessGroup = SINGLE,
    file: CheckpointFile | None = None,
) -> Fitted:
    """Train `model` on the device where it is, and return its best weights.

    Rank 0 of a process group calls this; the others call `assist`. The model itself is left with the weights of the
    last step. Raises BakeoffError if the loss is not finite or if there are fewer images than parts of a batch, and
    Stopped if training was stopped through `file`.

    Args:
        model: freshly built, in any mode.
        train: images to train on.
        valid: images by whose loss the best weights are chosen.
        settings: the model's `train` section of the parameters.
        seed: of all random streams.
        log: called with each record: "step", "epoch" and scalars. If there are several players, their scalars begin
            with the player's name (`critic_loss`); scalars on validation images begin with `valid_`.
        progress: label of the progress bar; without one there is no bar.
        group: the processes that share the work.
        file: where checkpoints are written. If it holds one of this training, training resumes from it, and `log` gets
            the earlier records again.
    """
    train, valid = (images.to_device_if_it_fits(model.device) for images in (train, valid))
    steps = Steps(model, train, settings, seed, group)
    validator, history = (
        Validator(model, train, valid, settings, seed, steps.total),
        History(log, settings, model.device),
    )
    checkpoint = file.read() if file else Checkpoint()
    done, seconds = checkpoint.facts.get("step", 0), checkpoint.facts.get("seconds", 0.0)
    start = time.perf_counter() - seconds
    if done:
        for part in (steps, validator, history):
            part.restore(checkpoint)
    else:
        validator.snapshot(0)

    quiet = None if progress else True  # None: unless there is a terminal
    bar = tqdm(total=steps.total, initial=done, desc=progress, disable=quiet, unit="step", dynamic_ncols=True)
    with bar:
        for step in range(done + 1, steps.total + 1):
            history.add(steps.take(step))
            validator.follow(step)
            bar.update()

            epoch, is_last = round(step / steps.per_epoch, 4), step == steps.total
            if is_last or step % steps.per_epoch == 0 or step % max(1, steps.per_epoch // LOGS_PER_EPOCH) == 0:
                means = history.means(step)
                history.write({"step": step, "epoch": epoch, **means})
                bar.set_postfix({term: f"{value:.3f}" for term, value in list(means.items())[:3]}, refresh=False)
            if is_last or step % (steps.per_epoch * settings.valid_every) == 0:
                history.write({"step": step, "epoch": epoch, **validator.validate(step, file)})
            if file and (file.due() or is_last):
                if not _finite(model):  # not worth keeping; the next losses will report it
                    file.hurry(0.0)
                    continue
                checkpoint = Checkpoint(facts={"step": step, "seconds": time.perf_counter() - start})
                for part in (steps, validator, history):
                    part.save(checkpoint)
                file.write(checkpoint)
    for player in model.players.values():
        player.requires_grad_(True)
    return validator.fitted(start, history.records, steps.gflops * steps.total)


def assist(
    model: Model, train: ImageSet, settings: Train, seed: int, group: ProcessGroup, file: CheckpointFile | None = None
) -> None:
    """What the other processes of a group do while rank 0 calls `fit`: the same steps on other parts of the batches.

    Args:
        model: built from the same seed as that of rank 0.
        train: the same images.
        settings: the model's `train` section of the parameters.
        seed: of all random streams.
        group: this process's place in the group.
        file: where rank 0 writes checkpoints; only read here.
    """
    steps = Steps(model, train.to_device_if_it_fits(model.device), settings, seed, group)
    # Rank 0 cannot have written a newer one yet: it needs the other processes for the first step.
    checkpoint = file.read() if file else Checkpoint()
    if done := checkpoint.facts.get("step", 0):
        steps.restore(checkpoint)
    for step in range(done + 1, steps.total + 1):
        for _ in steps.take(step):
            pass


def _finite(model: Model) -> bool:
    """Whether all weights are finite; otherwise a checkpoint is not worth keeping."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())
