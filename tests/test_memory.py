"""The evaluation's own memory does not grow with the training images, which stay on the disk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TRAIN, SHAPE = 60_000, (3, 24, 24)  # 104 MB as they are, 415 MB in float32, 829 MB in float64
ALLOWED = 250 * 2**20

EVALUATE = """
import resource, sys
from pathlib import Path
import torch
from tests.cards import card
from tests.evaluated import SETTINGS, OnlySamples, measure
from workflow.params import Extractor
from workflow.evaluation import evaluator as module
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.reference import reference
from workflow.evaluation.classifier import Classifier
from workflow.data.tensors import ImageSet
from workflow.evaluation.metrics import neighbours

torch.set_num_threads(1)
train, classes, allowed, limit = int(sys.argv[2]), 10, int(sys.argv[3]), int(sys.argv[4])
neighbours.SEARCHED, module.PROBED = (limit, limit)
shape = (3, 24, 24)
size = train * 3 * 24 * 24
images = torch.from_file(sys.argv[1], shared=True, size=size, dtype=torch.uint8).view(train, *shape)
labels = torch.arange(train) % classes

class Able(OnlySamples):
    shape = shape
    likelihood = "bound"

    def sample(self, n, generator):
        return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)

    def log_prob(self, x, generator):
        return -x.flatten(1).float().sum(1)

    def encode(self, x):
        return x.flatten(1)[:, :8].float()

extractor = Classifier(shape, 256, classes=classes, channels=2, features=8, dropout=0).eval()
test = ImageSet(images[:50].clone(), labels[:50])
brief = Extractor(channels=2, features=8, dropout=0.0, epochs=1, batch_size=16, lr=0.01)
evaluator = Evaluator([extractor], ImageSet(images, labels), test, card(shape, 256, classes), SETTINGS, brief)
model = Able()
samples = model.sample(60, torch.Generator().manual_seed(0))
samples[:6] = images[-6:]
# What is loaded and warmed up only once.
measure(model, samples, Evaluator([extractor], test, test, evaluator.card, SETTINGS, brief), 0)

def data():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))

resource.setrlimit(resource.RLIMIT_DATA, (data() + allowed, resource.RLIM_INFINITY))
metrics, pictures = measure(model, samples, evaluator, 0)
found, _ = reference(evaluator, 60)
assert metrics["nearest_neighbour"]["copies"] == 0.1, metrics
assert pictures["neighbours_train"].shape == (16, *shape)
assert metrics["probe_accuracy"] is not None and found["pixel_probe_accuracy"] is not None
print("measured")
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "train.bin"
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(TRAIN // 10_000):
            file.write(random.integers(0, 256, (10_000, *SHAPE), dtype=np.uint8).tobytes())
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory that is a process's own")
@pytest.mark.parametrize(("limit", "enough"), [(1000, True), (TRAIN, False)])
def test_memory_is_bounded_however_many_training_images(images: Path, limit: int, enough: bool) -> None:
    """With no more of them searched and probed than allowed it fits; with all of them, it shows, it would not."""
    command = [sys.executable, "-c", EVALUATE, str(images), str(TRAIN), str(ALLOWED), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout == "measured\n") == enough, done.stderr[-2000:]
    if not enough:
        assert "can't allocate memory" in done.stderr or "MemoryError" in done.stderr
