"""Inception's features are torch-fidelity's, and its weights are checked before anything looks into them.

The network has random weights here, whose hash stands in for the published one: nothing is downloaded.
"""

import hashlib
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from stages import evaluate as evaluating
from stages import extractor, reference, report, sample, train
from tests.cards import card
from tests.conftest import ROOT
from tests.invented_project import write
from tests.mirror import Mirror
from workflow.data.arrays import Mixture, write_prepared
from workflow.data.tensors import ImageSet, write_tensors
from workflow.errors import BakeoffError
from workflow.evaluation import inception
from workflow.evaluation.inception import Inception, load_inception, take_inception
from workflow.evaluation.metrics.frechet import fit_gaussian, frechet_distance
from workflow.evaluation.metrics.inception import inception_score
from workflow.evaluation.metrics.kernel import kernel_distance
from workflow.tracking.mirror import figures

GREY = card((1, 8, 8), 17, 10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, of a network with random weights through which signals neither fade nor grow."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: Any) -> None:
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Blank("blank", ["2048"], nothing)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    nn.init.normal_(network.fc.weight, std=0.5)  # sure of some classes
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def _known(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random weights are the ones to be had."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Pictures(torch.utils.data.Dataset[Tensor]):
    """Colour images as torch-fidelity reads them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


@pytest.mark.slow
@pytest.mark.usefixtures("_known")
def test_features_and_measures_are_torch_fidelitys(weights: Path, folder: Path) -> None:
    import torch_fidelity
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    random = torch.Generator().manual_seed(0)
    shade = torch.randint(0, 200, (2, 8, 3, 1, 1), generator=random)
    fake, real = (shade + torch.randint(0, 56, (2, 8, 3, 32, 32), generator=random)).to(torch.uint8)
    take_inception(str(weights), card((3, 32, 32), 256, 10), folder / "model")
    network = load_inception(folder / "model")
    found, known = network.outputs(fake, 5), network.outputs(real, 8)
    oracle = FeatureExtractorInceptionV3("oracle", ["2048", "logits_unbiased"], str(weights))
    features, logits = oracle(torch.cat([fake, real]))
    torch.testing.assert_close(torch.cat([found.features, known.features]), features, rtol=1e-4, atol=1e-5)
    assert found.features.std() > 0.01
    assert found.classes is None
    assert found.logits is not None
    torch.testing.assert_close(found.logits, logits[:8], rtol=1e-4, atol=1e-4)

    expected = torch_fidelity.calculate_metrics(
        input1=Pictures(fake), input2=Pictures(real), cuda=False, isc=True, kid=True, isc_splits=3,
        kid_subsets=5, kid_subset_size=6, rng_seed=0, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights), batch_size=8, verbose=False, save_cpu_ram=True, cache=False,
    )  # fmt: skip
    # The distance is the same in any basis, and in one of all the features it has 16 dimensions instead of 2048.
    turned = features.double() @ torch.linalg.svd(features.double(), full_matrices=False).Vh.T
    statistics = [fid_features_to_statistics(part) for part in turned.split(8)]
    expected |= fid_statistics_to_metric(*statistics, verbose=False)
    fid = frechet_distance(fit_gaussian(found.features), fit_gaussian(known.features))
    kid, score = kernel_distance(found.features, known.features, 5, 6), inception_score(found.logits, 3)
    assert fid == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert kid[0] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert score == pytest.approx(
        (expected["inception_score_mean"], expected["inception_score_std"]), rel=1e-3, abs=1e-6
    )
    assert fid > 0.1
    assert score[0] > 1.01


def test_grey_levels_are_stretched_to_three_channels_of_256(weights: Path, digits: Tensor) -> None:
    network = Inception(torch.load(weights, weights_only=True), 17)
    seen = network._pictures(digits[:5])
    assert (seen.shape, seen.dtype) == ((5, 3, 8, 8), torch.uint8)
    assert torch.equal(seen[:, 0], seen[:, 2])
    assert seen[:, 1].unique().tolist() == [round(level * 255 / 16) for level in digits[:5].unique().tolist()]


# The weights


@pytest.mark.usefixtures("_known")
def test_its_file_is_the_same_bytes_from_wherever_the_weights_came(
    weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "WEIGHTS", weights)
    take_inception(None, GREY, folder / "found")
    take_inception(str(weights), GREY, folder / "given")
    assert (folder / "found").read_bytes() == (folder / "given").read_bytes()


class Marker:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("loaded"),)


def test_other_weights_are_refused_before_anything_looks_into_them(folder: Path) -> None:
    (folder / "other.pth").write_bytes(pickle.dumps(Marker(), protocol=2))
    with pytest.raises(BakeoffError, match=r"^other\.pth: SHA-256 [0-9a-f]{12}… is not the known 6726825d0af5…"):
        take_inception("other.pth", GREY, folder / "model")
    assert not (folder / "loaded").exists()
    assert not (folder / "model").exists()


def test_not_even_the_right_hash_lets_a_pickle_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps(Marker(), protocol=2)
    (folder / "other.pth").write_bytes(content)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(pickle.UnpicklingError):
        take_inception("other.pth", GREY, folder / "model")
    assert not (folder / "loaded").exists()


def test_a_given_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(BakeoffError, match=r"^params.yaml: evaluate.inception_weights: gone.pth: No such file"):
        take_inception("gone.pth", GREY, folder / "model")


def test_points_are_no_pictures(folder: Path) -> None:
    plane = card((1, 1, 2), 256, 1, mixture=Mixture(((1.0, 1.0),), 2.0))
    with pytest.raises(BakeoffError, match=r"evaluate.extractor: 'inception': the data are points"):
        take_inception(None, plane, folder / "model")


@pytest.fixture
def published(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """Where the weights are to be fetched: a server on this machine."""
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", f"{mirror.address}weights.pth")
    return mirror


@pytest.mark.usefixtures("_known")
def test_weights_that_are_not_there_are_fetched_once(weights: Path, folder: Path, published: Mirror) -> None:
    published.files["weights.pth"] = weights.read_bytes()
    take_inception(None, GREY, folder / "first")
    assert inception.WEIGHTS.read_bytes() == weights.read_bytes()
    take_inception(None, GREY, folder / "again")
    assert published.asked == ["weights.pth"]
    assert (folder / "again").read_bytes() == (folder / "first").read_bytes()


@pytest.mark.parametrize("content", [None, b"something else"])
def test_without_weights_one_line_says_what_to_do(folder: Path, published: Mirror, content: bytes | None) -> None:
    if content:
        published.files["weights.pth"] = content
    with pytest.raises(BakeoffError) as caught:
        take_inception(None, GREY, folder / "model")
    reason = "its checksum is sha256:" if content else "HTTP 404"
    assert str(caught.value).startswith(
        f"{inception.WEIGHTS}: could not be downloaded; {published.address}weights.pth: {reason}"
    )
    assert str(caught.value).endswith("try again, or put the file there")
    assert not list(folder.rglob("*.pth*"))


def test_a_file_of_another_network_is_refused(folder: Path) -> None:
    write_tensors(folder / "model", {"body.weight": torch.zeros(3)}, json.dumps({"levels": 17}))
    with pytest.raises(BakeoffError, match=r"model: not the Inception network \("):
        load_inception(folder / "model")


# The stages


@pytest.mark.usefixtures("_known")
@pytest.mark.slow
def test_the_stages_measure_with_it(weights: Path, folder: Path, digits: Tensor, digit_labels: Tensor) -> None:
    settings = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
    settings["models"] = {"gan": settings["models"]["gan"] | {"classes": 10}}
    settings["evaluate"] |= {"extractor": "inception", "inception_weights": str(weights)}
    settings["sample"]["count"] = 12
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    places = {"train": slice(0, 100), "valid": slice(100, 150), "test": slice(150, 165)}
    sets = {split: ImageSet(digits[place], digit_labels[place]) for split, place in places.items()}
    about = {"name": "digits", "source": "a source", "licence": "mine", "split": "in order"}
    classes = [str(digit) for digit in range(10)]
    write_prepared(Path("data/prepared"), sets, **about, shape=[1, 8, 8], levels=17, classes=classes)
    extractor.main()
    write(Path("data/ledger/models/gan.json"), {"sha256": "gan"})
    train.main("gan", 0)
    sample.main("gan", 0)
    reference.main()
    evaluating.main("gan", 0)
    report.build()

    metrics = json.loads(Path("runs/gan/0/metrics.json").read_text(encoding="utf-8"))
    assert metrics["inception_score"] >= 1
    assert metrics["modes"] is None
    assert metrics["class_accuracy"] is None
    assert metrics["probe_accuracy"] > 0.1
    assert "Inception/FID" in figures(metrics, {})
    text = " ".join(re.sub(r"<[^>]+>", " ", Path("report/index.html").read_text(encoding="utf-8")).split())
    assert "Inception FID" in text
    assert "classifier FID" not in text
    assert "(2048 features)" in text
    reason = "Modes and class shares: the network whose features are used does not know the classes of these images."
    assert text.count(reason) == 1
    assert text.count("class-conditional, not ranked") == 1
