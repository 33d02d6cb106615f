"""What decides the result of a training, and the hash by which its run is found again."""

from collections.abc import Mapping
from typing import Any

from workflow.files import read_json, sha256_of_json
from workflow.params import Params
from workflow.paths import PREPARED, model_page


def content_tag(name: str, seed: int, settings: Params) -> str:
    """16 hex digits over a model's name and everything that decides the result of its training with this seed.

    The name is included because people look for a run by it: a renamed model gets a run of its own, and so does each
    of two models with equal parameters.
    """
    return hex_digits({**content(name, settings), "model": name, "seed": seed})


def content(name: str, settings: Params) -> dict[str, Any]:
    """Everything that decides a training's result except the seed: parameters, data and the family's code."""
    return {
        "entry": settings.models[name].model_dump(mode="json"),
        "compute": settings.compute.model_dump(mode="json"),
        "data": read_json(PREPARED / "card.json")["sha256"],
        "code": read_json(model_page(name)),
    }


def hex_digits(content: Mapping[str, Any]) -> str:
    """16 hex digits over these values: short enough for a tag, long enough that no two contents share them."""
    return sha256_of_json(content)[:16]
