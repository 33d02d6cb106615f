"""Check every parameter before anything runs: `python -m stages.check`.

`--data` only checks the folder `data.root` and says how a folder of your own pictures is understood, by names alone.
"""

from workflow import params
from workflow.data.catalogue import shape_of
from workflow.data.counts import check_counts, recorded_card
from workflow.data.listing import check_root
from workflow.engines import stage_lock
from workflow.engines.command import reader
from workflow.errors import one_line
from workflow.files import write_json
from workflow.paths import CHECKED


def check(settings: params.Params) -> None:
    """Raise BakeoffError for the first parameter that is invalid, or that this machine cannot satisfy."""
    from workflow.data.given import check_samples
    from workflow.device import device_kind, warn_of_other_instructions  # torch, which a look at the data does not need
    from workflow.evaluation.network import try_network
    from workflow.models.registry import check_builds, check_entries

    check_data(settings)
    check_entries(settings)
    check_builds(settings, shape_of(settings.data))
    check_samples(settings, shape_of(settings.data))
    for network in settings.evaluate.networks:
        try_network(network, shape_of(settings.data))
    device_kind(settings.compute)
    warn_of_other_instructions(settings.compute)
    if card := recorded_card(settings.data):
        check_counts(settings, card)


def check_data(settings: params.Params) -> None:
    """Check the user's data, and print how a folder with pictures or recordings or a file of arrays is understood.

    Raises BakeoffError if DVC cannot record them, or if they cannot be told apart into splits and classes.
    """
    check_root(settings.data.root, isinstance(settings.data, params.ArrayFile))
    if isinstance(settings.data, params.Folder):
        from workflow.data.layout import look

        print("\n".join(look(settings.data.root)), flush=True)
    elif isinstance(settings.data, params.Signals):
        from workflow.data.layout import RECORDINGS, look

        print("\n".join(look(settings.data.root, RECORDINGS)), flush=True)
    elif isinstance(settings.data, params.ArrayFile):
        from workflow.data import array_file

        print("\n".join(array_file.look(settings.data)), flush=True)


def record() -> None:
    """Write that they are valid, always with the same bytes, so that no other stage runs again because of it."""
    write_json(CHECKED, {"parameters": "checked"})


def main(data: bool = False) -> None:
    """Check the parameters, and record it; data: only check the folder with the user's data, and record nothing."""
    settings = params.load()
    if data:
        check_data(settings)
        return
    with stage_lock.exclusive():
        check(settings)
        record()


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("--data", action="store_true", help="only check the folder with your own data")
    with one_line():
        main(**vars(arguments.parse_args()))
