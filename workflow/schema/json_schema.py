"""`params.schema.json`: a JSON Schema of `params.yaml`, by which editors complete keys and mark what is wrong.

It holds what can be said of one value at a time. Rules on several values, such as `valid` + `test` below 1, are left to
`python -m stages.check`.
"""

from typing import Any, get_args

from pydantic import BaseModel

from workflow.models import kinds
from workflow.models.base import HasHold
from workflow.models.registry import hyperparameter_schema, model_class
from workflow.params import FILE_NAME, Data, Entry, Params, Section
from workflow.schema.docstrings import arguments, summary

Schema = dict[str, Any]
HOW = {False: "train", True: "samples"}  # the key of an entry that says where its images are from; True: made elsewhere


def schema() -> Schema:
    """The JSON Schema of the whole file."""
    whole = Params.model_json_schema()
    parts: dict[str, Schema] = whole.pop("$defs")
    sections: list[type[BaseModel]] = [*Section.__subclasses__(), Entry]
    for section in sections:
        _describe(whole if section is Params else parts[section.__name__], section)
    entry, data = parts["Entry"], {"type": "object", "properties": {"name": {}}, "required": ["name"]}
    _need_either(entry)
    families = {kind: _family(kind, entry) for kind in kinds()}
    _decide(entry, "kind", {kind: [kind] for kind in families})
    _decide(data, "name", {part.__name__: _names(part) for part in get_args(Data)})
    whole["properties"]["data"] = {"description": whole["properties"]["data"]["description"], **data}
    whole["properties"]["models"]["propertyNames"] = {"pattern": FILE_NAME}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
        **_without_titles(whole),
        "$defs": _without_titles(parts | families),
    }


def _describe(part: Schema, described: type) -> None:
    """Put descriptions from a class's docstring into its schema."""
    part["description"] = summary(described)
    for name, text in arguments(described).items():
        if name in part["properties"]:
            part["properties"][name]["description"] = text


def _need_either(entry: Schema) -> None:
    """Let the kind decide whether an entry needs `train` or `samples`; null stands for neither."""
    for key in HOW.values():
        says = entry["properties"][key]
        entry["properties"][key] = {**says["anyOf"][0], "description": says["description"]}
    entry["required"] = ["kind"]


def _family(kind: str, entry: Schema) -> Schema:
    """What is particular to an entry of this kind: the family's hyper-parameters, and no other key."""
    family = model_class(kind)
    own = hyperparameter_schema(kind).model_json_schema()
    _describe(own, family)
    held = issubclass(family, HasHold)
    shared = [key for key in entry["properties"] if key != HOW[not held]]
    return {
        "description": family.paper,
        "type": "object",
        "properties": {**dict.fromkeys(shared, True), **own["properties"]},
        "required": [HOW[held], *own.get("required", [])],
        "additionalProperties": False,
    }


def _names(part: type[Section]) -> list[str]:
    """The data sets that this section describes."""
    return list(get_args(part.model_fields["name"].annotation))


def _decide(part: Schema, key: str, variants: dict[str, list[str]]) -> None:
    """Let one key decide which variant applies, by conditions: editors then complain only about the one that is meant.

    Args:
        part: the schema of a section.
        key: that decides.
        variants: the values of the key for which each applies, by its name among the definitions.
    """
    part["properties"][key]["enum"] = [value for values in variants.values() for value in values]
    part["allOf"] = [
        {"if": {"properties": {key: {"enum": values}}, "required": [key]}, "then": {"$ref": f"#/$defs/{name}"}}
        for name, values in variants.items()
    ]


def _without_titles(found: Any) -> Any:
    """Pydantic's schema without its titles, which only repeat the names; a property may itself be called title."""
    if isinstance(found, list):
        return [_without_titles(one) for one in found]
    if not isinstance(found, dict):
        return found
    return {key: _without_titles(value) for key, value in found.items() if key != "title" or isinstance(value, dict)}
