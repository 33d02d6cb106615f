"""Check every parameter before anything runs."""

from workflow import params
from workflow.data.catalogue import shape_of
from workflow.data.counts import check_counts, recorded_card
from workflow.data.folder import check_names
from workflow.device import device_kind, warn_of_other_instructions
from workflow.engines.command import run
from workflow.errors import BakeoffError
from workflow.files import write_json
from workflow.models.registry import check_builds, check_entries
from workflow.paths import CHECKED


def check(settings: params.Params) -> None:
    """Raise BakeoffError for the first parameter that is invalid, or that this machine cannot satisfy."""
    if not isinstance(settings.data, params.ArrayFile) and not settings.data.root.is_dir():
        raise BakeoffError(f"params.yaml: data.root: '{settings.data.root}': no such folder")
    if isinstance(settings.data, params.Folder):
        check_names(settings.data.root)
    check_entries(settings)
    check_builds(settings, shape_of(settings.data))
    device_kind(settings.compute)
    warn_of_other_instructions(settings.compute)
    if card := recorded_card(settings.data):
        check_counts(settings, card)


def record() -> None:
    """Write that they are valid, always with the same bytes, so that no other stage runs again because of it."""
    write_json(CHECKED, {"parameters": "checked"})


def main() -> None:
    """Check the parameters, and record it."""
    check(params.load())
    record()


if __name__ == "__main__":
    run(main, __doc__)
