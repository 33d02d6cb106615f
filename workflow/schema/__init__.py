"""What may stand in `params.yaml`, for editors and for readers: `python -m workflow.schema` writes both files."""

import json
from pathlib import Path

from workflow.schema.json_schema import schema
from workflow.schema.markdown import document


def written() -> dict[Path, str]:
    """The files and their present content: the JSON Schema for editors and the description for readers."""
    found = schema()
    return {
        Path("params.schema.json"): json.dumps(found, indent=2, ensure_ascii=False) + "\n",
        Path("docs/params.md"): document(found),
    }
