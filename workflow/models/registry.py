"""From the name of a family to its class, and from models to files and back.

The class is found by importing `workflow.models.<kind>`, so that a stage loads only the file it needs and a new family
is one new file.
"""

import importlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from workflow.data.tensors import read_tensors, write_tensors
from workflow.errors import BakeoffError
from workflow.models import family_file, kinds
from workflow.models.base import HasHold, Model
from workflow.params import PATH, ArrayFile, Data, Entry, Folder, Params, Train, explain
from workflow.paths import EXTERNAL

REACH = 64  # pixels by which a size that suits a model is looked for, down and up
LEVELS = 256  # of the images that models are built for when only testing whether they can be built


def model_class(kind: str) -> type[Model]:
    """The class of a family; raises BakeoffError, listing the known ones, if there is no such file."""
    if kind not in kinds():
        raise BakeoffError(f"unknown model kind {kind!r}; known: {', '.join(kinds())}")
    family: type[Model] = importlib.import_module(f"workflow.models.{kind}").MODEL
    return family


def hyperparameter_schema(kind: str) -> type[BaseModel]:
    """The schema of a family's hyper-parameters: the keyword-only arguments of its class.

    Raises BakeoffError if there is no such family.
    """
    signature = inspect.signature(model_class(kind).__init__, eval_str=True)
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is inspect.Parameter.empty else p.default)
        for p in signature.parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return create_model(f"{kind} hyper-parameters", __config__=ConfigDict(extra="forbid", strict=True), **fields)


def check_hyperparameters(kind: str, values: dict[str, Any], where: str) -> dict[str, Any]:
    """Validate hyper-parameters against the schema of the family.

    Raises BakeoffError, naming the key's full path, the value and what is allowed.

    Args:
        kind: name of the family.
        values: hyper-parameters by name.
        where: path of the entry in the parameters, for the error (`models.vae`).

    Returns:
        The hyper-parameters, converted, with defaults.
    """
    schema = hyperparameter_schema(kind)
    try:
        checked: dict[str, Any] = schema(**values).model_dump()
        return checked
    except ValidationError as error:
        raise BakeoffError(explain(error, where, list(schema.model_fields))) from None


def check_entries(settings: Params) -> None:
    """Validate the hyper-parameters of every model, and check that the trials of each sweep can be compared.

    Raises BakeoffError for the first problem.
    """
    for name, entry in settings.models.items():
        family_file(entry.kind, f"models.{name}.kind")
        _check_trained_or_held(name, entry)
        check_hyperparameters(entry.kind, entry.hyperparameters, f"{PATH}: models.{name}")
    for name, sweep in settings.sweeps.items():
        unranked = model_class(settings.models[name].kind).unranked
        if blind := [key for key in sweep.varied if key in unranked]:
            raise BakeoffError(
                f"{PATH}: sweeps.{name}.varied: {blind[0]!r}: validation losses of models that differ in it cannot "
                "be compared; list them under models only"
            )


def _check_trained_or_held(name: str, entry: Entry) -> None:
    """Raise BakeoffError if a kind that is trained has samples, or one that is not has none."""
    held = issubclass(model_class(entry.kind), HasHold)
    if held and entry.samples is None:
        raise BakeoffError(
            f"{PATH}: models.{name}.train: kind {entry.kind!r} is not trained; give samples instead: a folder of "
            f"pictures, an .npz or an .npy in {EXTERNAL}"
        )
    if entry.samples is not None and not held:
        raise BakeoffError(
            f"{PATH}: models.{name}.samples: kind {entry.kind!r} is trained; give train instead, or set kind: external"
        )


def check_builds(settings: Params, shape: tuple[int, int, int]) -> None:
    """Build every model for images of shape (C, H, W); raises BakeoffError for the first that cannot be built.

    Trials of sweeps are skipped: if one cannot be built, its training fails and the sweep sets it aside.
    """
    trials = {name for sweep in settings.sweeps.values() for name in sweep.trials}
    for name, entry in settings.models.items():
        if name in trials:
            continue
        checked = check_hyperparameters(entry.kind, entry.hyperparameters, f"{PATH}: models.{name}")
        try:
            model = model_class(entry.kind)(shape, LEVELS, **checked)
        except ValueError as error:
            remedy = _other_sizes(settings.data, entry.kind, shape, checked)
            raise BakeoffError(f"{PATH}: models.{name}: {error}{remedy}") from None
        if entry.train and entry.train.batch_size == entry.train.parts:
            _check_single_images(name, entry.train, model)


def _other_sizes(data: Data, kind: str, shape: tuple[int, int, int], checked: dict[str, Any]) -> str:
    """What to do if this kind of model cannot be built for images of this shape; "" if no size would do."""
    side = max(shape[1:])
    ways = (range(side - 1, max(0, side - REACH), -1), range(side, side + REACH))
    near = [size for way in ways if (size := next((n for n in way if _builds(kind, (shape[0], n, n), checked)), 0))]
    if not near:
        return ""
    if isinstance(data, Folder):
        return f"; set data.size to {' or '.join(map(str, near))}"
    if isinstance(data, ArrayFile):
        sizes = " or ".join(f"{size}x{size}" for size in near)
        return f"; crop or pad the images in {data.root}, for example to {sizes} pixels"
    return f"; {data.name} has no other size, so change the options of the model that depend on it, or remove the model"


def _builds(kind: str, shape: tuple[int, int, int], checked: dict[str, Any]) -> bool:
    """Whether a model can be built for images of shape (C, H, W); takes no memory."""
    try:
        with torch.device("meta"):
            model_class(kind)(shape, LEVELS, **checked)
    except ValueError:
        return False
    return True


def _check_single_images(name: str, train: Train, model: Model) -> None:
    """Raise BakeoffError if the model cannot be trained on one image at a time, as its batches would be so small."""
    x, y = torch.zeros(1, *model.shape, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
    try:
        for player in model.players:
            model.train().loss(x, y, player, torch.Generator())
    except ValueError:  # batch normalisation of a single number
        parts = f" in {train.parts} parts" if train.parts > 1 else ""
        raise BakeoffError(
            f"{PATH}: models.{name}.train.batch_size: {train.batch_size}: this kind of model cannot be trained on one "
            f"image of this size at a time{parts}; set it to {2 * train.parts} or more"
        ) from None


def build(kind: str, shape: tuple[int, int, int], levels: int, hyperparameters: dict[str, Any], seed: int = 0) -> Model:
    """A new model with randomly initialised weights.

    Raises BakeoffError if the family rejects a hyper-parameter or the shape of the images.

    Args:
        kind: name of the family.
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        hyperparameters: by name.
        seed: of the initial weights.
    """
    checked = check_hyperparameters(kind, hyperparameters, f"model {kind}")
    torch.manual_seed(seed)  # torch's initialisers draw from its own generator
    try:
        model = model_class(kind)(shape, levels, **checked)
    except ValueError as error:
        raise BakeoffError(f"model {kind}: {error}") from None
    return model.to(memory_format=torch.channels_last)  # convolutions of few channels are a fifth faster for it


@dataclass(frozen=True)
class Loaded:
    """A model read from its file, in evaluation mode on the CPU, with its family and the facts saved with it."""

    model: Model
    kind: str
    about: dict[str, Any]


def save(model: Model, path: Path, kind: str, hyperparameters: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the weights and everything needed to rebuild the model.

    Args:
        model: on any device.
        path: of the file.
        kind: name of the family.
        hyperparameters: that the model was built with.
        about: further facts for readers of the file, such as the step at which the weights were best.
    """
    recipe = {"kind": kind, "shape": model.shape, "levels": model.levels, "hyperparameters": hyperparameters}
    write_tensors(path, model.state_dict(), json.dumps({**recipe, "about": about}, sort_keys=True))


def load(path: Path) -> Loaded:
    """The model that `save` wrote; raises BakeoffError if the file is damaged or does not match the code."""
    tensors, metadata = read_tensors(path)
    try:
        recipe = json.loads(metadata)
        model = build(recipe["kind"], tuple(recipe["shape"]), recipe["levels"], recipe["hyperparameters"])
        model.load_state_dict(tensors)
    except (BakeoffError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BakeoffError(f"{path}: not a model that this code can load ({reason}); train it again") from None
    return Loaded(model.eval(), recipe["kind"], recipe["about"])
