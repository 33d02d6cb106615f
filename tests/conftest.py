"""What several test files need."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from tests.mirror import mirror  # noqa: F401 -- a fixture
from workflow import startup

if TYPE_CHECKING:
    from tests.copied_project import Project
    from workflow.evaluation.evaluator import Evaluator

ROOT = Path(__file__).parent.parent
startup.collect_garbage_rarely()
# What takes minutes: begun last, these would keep one process busy long after the others have ended.
LONGEST = (
    "test_slurm.py",
    "test_engines.py",
    "test_restored.py",
    "test_interrupted.py",
    "test_models.py",
    "test_soak.py",
    "test_sweep_runs.py",
    "test_storage.py",
)
# Tests over every model that take a quarter of a minute and more for one that solves an equation whenever it is asked
# for a density: one of its entries is enough for the fast ones.
COSTLY = (
    "test_training_improves_it_and_repeats_to_the_byte_even_if_it_was_cut_off[lectures-flow_matching]",
    "test_a_batch_that_does_not_fit_gives_the_same_in_halves[grey-lectures-flow_matching]",
    "test_a_batch_that_does_not_fit_gives_the_same_in_halves[grey-lectures-flow_matching_ot]",
    "test_a_batch_that_does_not_fit_gives_the_same_in_halves[grey-colour-flow_matching]",
    "test_a_batch_that_does_not_fit_gives_the_same_in_halves[colour-lectures-mask_diffusion]",
    "test_every_family_trains_and_does_all_it_can_on_a_gpu[lectures-flow_matching]",
    "test_every_family_trains_and_does_all_it_can_on_a_gpu[lectures-flow_matching_ot]",
    "test_every_family_trains_and_does_all_it_can_on_a_gpu[colour-flow_matching]",
)


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_deterministic_debug_mode(0)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """End what a test has started and, as it failed, not waited for."""
    yield
    from tests.copied_project import STARTED

    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    STARTED.clear()


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """A small project that DVC has run."""
    from tests.copied_project import DVC, finished

    return finished(DVC, tmp_path_factory)


@pytest.fixture(scope="module")
def by_snakemake(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """The same, run by Snakemake."""
    from tests.copied_project import SNAKEMAKE, finished

    return finished(SNAKEMAKE, tmp_path_factory)


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """The embedded digits, uint8 (1797, 1, 8, 8), levels 17."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images.astype("uint8")).unsqueeze(1)


@pytest.fixture(scope="session")
def digit_labels() -> Tensor:
    """Their classes, int64 (1797,)."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().target).long()


@pytest.fixture(scope="session")
def evaluator(digits: Tensor, digit_labels: Tensor) -> "Evaluator":
    """An evaluator on the digits, its classifier trained on a few of them."""
    from tests.evaluated import make_evaluator

    return make_evaluator(digits, digit_labels, [0])


@pytest.fixture(scope="session")
def two_eyes(digits: Tensor, digit_labels: Tensor) -> "Evaluator":
    """The same with two classifiers, the first of which is that one's."""
    from tests.evaluated import make_evaluator

    return make_evaluator(digits, digit_labels, [0, 1])


@pytest.fixture(scope="session")
def samples(digits: Tensor) -> Tensor:
    """What a model might draw of them, uint8 (N, 1, 8, 8)."""
    from tests.evaluated import spoilt

    return spoilt(digits)


def pytest_configure() -> None:
    # The stages that tests start find the package and the tools wherever the tests are started from.
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of them compiles all that it imports


def _once(item: pytest.Item) -> tuple[str, str] | None:
    """The test and the kind of model, where one entry of each kind is enough for the fast tests; None elsewhere.

    That is with more channels, on another device, and with batches that do not fit.
    """
    given: dict[str, Any] = getattr(item, "callspec", SimpleNamespace(params={})).params
    if not (found := given.get("entry", given.get("on_cpu"))):
        return None
    shapes = (given.get("model", [()])[0], given.get("shape", ()))
    name, entry = item.name.partition("[")[0], found[1] if isinstance(found, tuple) else found
    once = any(shape[:1] == (3,) for shape in shapes) or "on_cpu" in given or "does_not_fit" in name
    return (name, entry.kind) if once else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    tried = set()
    for item in items:
        case = _once(item)
        if item.name in COSTLY or case in tried:
            item.add_marker(pytest.mark.slow)
        elif case:
            tried.add(case)
        if item.path.name != "test_models.py":  # the longest, whose tests share nothing: any process takes the next one
            item.add_marker(pytest.mark.xdist_group(item.path.name))
