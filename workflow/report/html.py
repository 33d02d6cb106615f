"""HTML made of the templates beside this file. All text from files goes through Jinja's escaping."""

from pathlib import Path
from typing import Any


def fill(template: str, **content: Any) -> str:
    """The template with this content in it; a name that it uses and that is not there is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
