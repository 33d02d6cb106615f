"""YAML read as DVC reads it, or refused: `params.yaml` must not mean one thing to the stages and another to DVC."""

import json
import re
from typing import Any

import yaml


class RefusedError(yaml.YAMLError):
    """Valid YAML that is refused; the text says where, why and what to do."""


class Loader(yaml.SafeLoader):
    """Reads the file as DVC does, or refuses it.

    PyYAML follows YAML 1.1 and DVC's reader, ruamel.yaml, YAML 1.2. Floats such as 1e-5, which DVC writes, are read as
    in 1.2. A key that stands twice is refused, as DVC refuses it, and so is a value that the two do not read alike.
    """

    def process_directives(self) -> Any:
        """Refuse `%YAML 1.1`, which DVC's reader would obey."""
        line = self.peek_token().start_mark.line + 1  # type: ignore[no-untyped-call]
        found = super().process_directives()  # type: ignore[no-untyped-call]
        if self.yaml_version not in (None, (1, 2)):
            version = ".".join(map(str, self.yaml_version))
            raise RefusedError(f"line {line}: %YAML {version}: the file is read as YAML 1.2; remove this line")
        return found

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """A scalar, if both readers take it for the same value."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_scalar_node(anchor)
        plain = event.implicit[0]
        if not (plain and _PLAINLY_ALIKE.match(node.value)) and (plain or event.tag not in (None, "!")):
            _refuse_if_read_differently(node, None if plain else event.tag)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before `<<` brings in keys that its own may override."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if before := lines.get((key.tag, key.value)):
                where = f"in line {line}" if line == before else f"in lines {before} and {line}"
                raise RefusedError(f"{key.value!r} stands twice, {where}; remove or rename one of them")
            lines[key.tag, key.value] = line
        return node


_DECIMAL = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?!\d+$){_DECIMAL}$"), list("-+.0123456789"))
# What no rule of either version could take for anything else: words but those for truth, and ordinary numbers.
_PLAINLY_ALIKE = re.compile(r"(?!(?i:yes|no|on|off)$)[^-+.\d]|[-+]?(0|[1-9]\d*)(\.\d+)?$|$")


def _refuse_if_read_differently(node: yaml.ScalarNode, tag: str | None) -> None:
    """Raise RefusedError for a scalar that YAML 1.1 and 1.2 read differently; tag: that it bears in the file."""
    from ruamel.yaml import YAML  # takes a twentieth of a second, and few files need it
    from ruamel.yaml.error import YAMLError

    text = f"!<{tag}> {json.dumps(node.value, ensure_ascii=False)}" if tag else node.value
    try:
        stages, dvc = Loader("").construct_document(node), YAML(typ="safe").load(f"- {text}\n")[0]
    except (yaml.YAMLError, YAMLError, ValueError, ArithmeticError):
        return  # one of them cannot read it at all, and says so
    if type(stages) is type(dvc) and (stages == dvc or stages != stages):  # NaN
        return
    first, second = _written(stages), _written(dvc)
    raise RefusedError(
        f"line {node.start_mark.line + 1}: {node.value} is {first} to the stages (YAML 1.1) but {second} to DVC (YAML "
        f"1.2); write {first} or {second}, whichever you mean"
    )


def _written(value: Any) -> str:
    """A value as both versions read it."""
    return f"'{value}'" if isinstance(value, str) else str(value).lower()
