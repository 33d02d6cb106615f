"""Changing the trials of a sweep in `params.yaml`, whose comments stay."""

import io
import itertools
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from workflow import params
from workflow.files import write_text
from workflow.models.registry import check_entries
from workflow.params import Params
from workflow.sweeps.search import Values
from workflow.sweeps.trials import varied


def add(base: str, varying: list[str], trials: list[Values], settings: Params) -> list[str]:
    """Add trials to `params.yaml`; raises BakeoffError and writes nothing if one of them is invalid.

    Args:
        base: model that the sweep began with.
        varying: keys of the hyper-parameters that the trials vary.
        trials: the values of each, by key.
        settings: the present parameters.

    Returns:
        Names of the new trials.
    """
    if not trials:
        return []
    content = _read()
    old = content.setdefault("sweeps", {}).setdefault(base, {"varied": [], "trials": []})
    taken = {*settings.models, *old.get("failed", {})}
    free = (name for i in itertools.count(1) if (name := f"{base}_{i}") not in taken)
    named = dict(zip(free, trials, strict=False))
    for name, values in named.items():
        entry = settings.models[base].model_dump(mode="json", exclude_unset=True)
        for key, value in values.items():
            section, _, last = key.rpartition(".")
            (entry[section] if section else entry)[last] = value
        content["models"][name] = entry
    old["varied"] = _on_one_line([*old["varied"], *(key for key in varying if key not in old["varied"])])
    old["trials"] = _on_one_line([*old["trials"], *named])
    _write(content)
    for name, values in named.items():
        print(f"added to {params.PATH}: {name} ({in_words(values)})", flush=True)
    return list(named)


def set_aside(base: str, failed: list[str], settings: Params) -> None:
    """Remove trials whose training failed from the models, and record their values under the sweep's `failed`."""
    if not failed:
        return
    content = _read()
    sweep = content["sweeps"][base]
    for name in failed:
        values = varied(name, base, settings)
        del content["models"][name]
        sweep["trials"].remove(name)
        sweep.setdefault("failed", {})[name] = values
        print(f"set aside: {name} ({in_words(values)}): its training failed, see above", flush=True)
    _write(content)


def in_words(values: Values) -> str:
    """Values for people: `latents 8, train.lr 0.001`."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _yaml() -> YAML:
    yaml = YAML()  # keeps comments
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 120
    return yaml


def _read() -> Any:
    return _yaml().load(params.PATH.read_text(encoding="utf-8"))


def _write(content: Any) -> None:
    text = io.StringIO()
    _yaml().dump(content, text)
    check_entries(params.parse(text.getvalue()))
    write_text(params.PATH, text.getvalue())


def _on_one_line(words: list[str]) -> CommentedSeq:
    found = CommentedSeq(words)
    found.fa.set_flow_style()
    return found
