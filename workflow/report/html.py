"""HTML made from the templates in the folder next to this file. Jinja escapes all text that comes from files."""

from pathlib import Path
from typing import Any


def fill(template: str, **content: Any) -> str:
    """The template filled with `content`; a name in the template that is not in `content` is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
