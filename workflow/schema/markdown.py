"""`docs/params.md`: every parameter, what it may be, and what it means."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from workflow.models.registry import model_class
from workflow.schema.json_schema import Schema

HEAD = """# Every parameter of `params.yaml`

`python -m workflow.schema` writes this page from the schema by which the stages check the file. From the same source
comes `params.schema.json`, by which editors with a YAML language server complete keys and mark mistakes: the first line
of `params.yaml` names it. For a preset, map `presets/**` to it in the editor's settings. Rules on several values at
once (`valid` + `test` below 1, `epochs` or `gflops`) are left to `python -m stages.check`, with which every run begins.

A key without a default must be there. For whole files, see the [presets](presets.md)."""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
NUMBERS = {"integer": ("whole number", "whole numbers"), "number": ("number", "numbers")}


def document(schema: Schema) -> str:
    """The whole document, from the JSON Schema."""
    parts, keys = schema["$defs"], schema["properties"]
    blocks = [HEAD, "## The file", _table(schema)]
    blocks += [block for choice in keys["data"]["allOf"] for block in _data(choice, parts)]
    for key in ("compute", "extractor", "sample", "evaluate"):
        blocks += [f"## `{key}`", _says(_part(keys[key], parts)), _table(_part(keys[key], parts))]
    entry, train, sweep = (parts[name] for name in ("Entry", "Train", "Sweep"))
    blocks += ["## `models.<name>`", _says(entry), _table(entry)]
    blocks += ["## `models.<name>.train`", _says(train), _table(train)]
    for kind in entry["properties"]["kind"]["enum"]:
        own = {key: value for key, value in parts[kind]["properties"].items() if key not in entry["properties"]}
        blocks += [f"## `kind: {kind}`", f"{model_class(kind).title}: {_says(parts[kind])}."]
        blocks += [_table({**parts[kind], "properties": own})]
    blocks += ["## `sweeps.<name>`", _says(sweep), _table(sweep)]
    return "\n\n".join(blocks) + "\n"


def _data(choice: Schema, parts: dict[str, Schema]) -> Iterator[str]:
    part = _part(choice["then"], parts)
    yield f"## `data`: {_choice(choice['if']['properties']['name']['enum'])}"
    yield _says(part)
    yield _table(part)


def _part(reference: Schema, parts: dict[str, Schema]) -> Schema:
    return parts[reference["$ref"].rpartition("/")[2]]


def _says(part: Schema) -> str:
    return textwrap.fill(part["description"], 120)


def _table(part: Schema) -> str:
    rows = [["key", "value", "default", "meaning"], ["---"] * 4]
    for key, value in part["properties"].items():
        default = "" if key in part["required"] else _default(value.get("default"))
        rows.append([f"`{key}`", value_of(value), default, value["description"]])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _default(value: Any) -> str:
    if value in (None, {}):
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def value_of(schema: Schema, plural: bool = False) -> str:
    """What a value may be, in words: "whole number ≥ 1"; plural: of several ("whole numbers ≥ 1")."""
    if "anyOf" in schema:  # null, which is the default, goes without saying
        return " or ".join(value_of(one, plural) for one in schema["anyOf"] if one.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return _choice(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "integer" | "number" as kind:
            bounds = [f"{sign} {schema[bound]}" for bound, sign in BOUNDS.items() if bound in schema]
            steps = [f"a multiple of {schema['multipleOf']}"] if "multipleOf" in schema else []
            return " ".join([NUMBERS[kind][plural], ", ".join([*bounds, *steps])]).strip()
        case "boolean":
            return "`true` or `false`"
        case "string":
            return "path" if schema.get("format") == "path" else "strings" if plural else "string"
        case "array" if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])} {value_of(schema['prefixItems'][0], plural=True)}"
        case "array":
            return f"list of {value_of(schema['items'], plural=True)}"
    return "section"


def _choice(values: list[Any]) -> str:
    named = [f"`{value}`" for value in values]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} or {named[-1]}"
