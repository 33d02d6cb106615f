"""Write `docs/params.md` and `params.schema.json` from the schema of `params.yaml`: `python -m workflow.schema`."""

from workflow.files import write_text
from workflow.schema import written

if __name__ == "__main__":
    for path, text in written().items():
        write_text(path, text)
