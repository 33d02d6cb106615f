"""What the report says of each metric: where it stands in `metrics.json`, how it is printed, and how to read it.

The tables, the CSV file, the terminal and the explanations are all made from this one list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

DASH = "–"
EXTRACTOR = "<extractor>"  # in a title: to be replaced by its name
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of a model.

    key: its name in the summary. path: where it stands in `metrics.json` (of TIMES, in a run of `speed.json`), parts
    joined by dots; by default the key. form: decimals, or how else to print it. spread: path of the metric's own
    standard deviation within one run. within: the key that must be equal for two values to be comparable. untold:
    comparable only between models that were not told the classes in training.
    """

    key: str
    title: str
    form: int | Literal["percent", "count", "significant"]
    better: Literal["lower", "higher", ""] = ""
    measures: str
    caveat: str
    path: str = ""
    spread: str = ""
    within: str = ""
    untold: bool = False

    @property
    def arrow(self) -> str:
        """Which direction is better, as a sign."""
        return {"lower": "↓", "higher": "↑", "": ""}[self.better]

    def read(self, metrics: Mapping[str, Any]) -> float | None:
        """The number in what a `metrics.json` holds; None where there is none."""
        return look_up(metrics, self.path or self.key)

    def ranks(self, model: Mapping[str, Any]) -> bool:
        """Whether a model of the summary has a number here that may be compared with another's at all."""
        return model["mean"].get(self.key) is not None and not (self.untold and model["told_classes"])

    def text(self, value: float | None) -> str:
        """The value as the tables print it; a dash for a missing one."""
        if value is None:
            return DASH
        if self.form == "percent":
            return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
        if self.form == "count":
            return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
        if self.form == "significant":
            return significant(value)
        return f"{value:.{self.form}f}".replace("-", "−")

    def bare(self, value: float) -> str:
        """The value as `text` prints it, without a unit: for what stands beside a value that has it."""
        return self.text(value).removesuffix("\N{NO-BREAK SPACE}%")


def significant(value: float) -> str:
    """Three significant digits: plain between 0.0001 and a million, else with a power of ten."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        rounded = float(f"{value:.3g}")
        return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.6f}".rstrip("0").rstrip(".")
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def named(columns: Sequence[Column], summary: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns with the extractor's name in their titles."""
    name = summary["extractor"]["name"]
    return tuple(replace(column, title=column.title.replace(EXTRACTOR, name)) for column in columns)


def look_up(metrics: Mapping[str, Any], path: str) -> float | None:
    """The number at `path` ("modes.kl"), None where there is none."""
    found: Any = metrics
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if found is None else float(found)


GENERATION = (
    Column(
        key="fid",
        title=f"{EXTRACTOR} FID",
        form=2,
        better="lower",
        measures="Fréchet distance between two Gaussians, one fitted to the features of the samples, one to those of "
        "the test images: how far apart mean and covariance are.",
        caveat="Sees only these two moments, and only what the features hold. It grows as counts shrink: compare it "
        "with the floor at the same counts, and with an FID from elsewhere only if features, counts and real images "
        "are the same.",
    ),
    Column(
        key="kid",
        title="KID",
        form=3,
        better="lower",
        spread="kid_std",
        measures="Squared maximum mean discrepancy of the same features under a cubic kernel: like FID, with moments "
        "up to the third and without the Gaussians.",
        caveat="Unbiased, so for equal distributions it scatters about 0 and may be negative.",
    ),
    Column(
        key="inception_score",
        title="Inception Score",
        form=2,
        better="higher",
        spread="inception_score_std",
        measures="exp of the mean KL(p(y|x) ‖ p(y)) under the network whose features are used: high if each sample is "
        "clearly of one of the classes that it knows and all of them occur; at most their number.",
        caveat="Never looks at a real image: one perfect picture a class, repeated, scores best.",
    ),
    Column(
        key="precision",
        title="precision",
        form=3,
        better="higher",
        measures="Share of samples that lie among the test images: within the distance of some test image to its "
        "k-th neighbour. Fidelity.",
        caveat="An outlier among the test images has a huge neighbourhood and lets bad samples in.",
    ),
    Column(
        key="recall",
        title="recall",
        form=3,
        better="higher",
        measures="Share of test images that lie among the samples, by the same rule with the roles exchanged. Variety.",
        caveat="Samples that scatter widely have wide neighbourhoods, and so a good recall.",
    ),
    Column(
        key="density",
        title="density",
        form=3,
        better="higher",
        measures="In how many test images’ neighbourhoods a sample lies, on average, divided by k: precision that "
        "outliers sway less.",
        caveat="Not a share: samples that crowd where data are dense go above 1.",
    ),
    Column(
        key="coverage",
        title="coverage",
        form=3,
        better="higher",
        measures="Share of test images with at least one sample in their neighbourhood: recall that scatter does not "
        "inflate.",
        caveat="Grows with the number of samples.",
    ),
    Column(
        key="modes_found",
        path="modes.found",
        title="modes found",
        form="count",
        better="higher",
        measures="Classes of the data that at least one sample falls into, as the classifier sorts them; of a known "
        "mixture, components with a sample within three standard deviations.",
        caveat="Says nothing of variety within a mode, and the classifier must put every sample somewhere.",
    ),
    Column(
        key="high_quality",
        title="high quality",
        form="percent",
        better="higher",
        measures="Share of samples within three standard deviations of a component of the known mixture.",
        caveat="A model that draws one point for ever scores best: read it with the modes found.",
    ),
    Column(
        key="modes_kl",
        path="modes.kl",
        title="mode KL",
        form=4,
        better="lower",
        measures="KL(samples ‖ test) between the two histograms of modes, in nats: 0 if they are as frequent as in "
        "the test set.",
        caveat="Counts are finite, so even real images do not reach 0.",
    ),
    Column(
        key="sharpness",
        title="sharpness",
        form=2,
        measures="Variance of the Laplacian within a sample, over the same of the test images: 1 is as sharp as they "
        "are, below is blurred, above is noisy or ragged.",
        caveat="Knows edges, not pictures: noise is the sharpest of all.",
    ),
    Column(
        key="class_accuracy",
        title="obeys its class",
        form="percent",
        better="higher",
        measures="Share of images drawn of a class asked for that the classifier puts into that class; of models that "
        "are conditioned on classes.",
        caveat="No higher than the classifier is right, and blind to variety within a class.",
    ),
    Column(
        key="nearest_neighbour_ratio",
        path="nearest_neighbour.ratio",
        title="neighbour ratio",
        form=2,
        measures="Median pixel distance from a sample to its nearest training image, over the same for real test "
        "images: near 1 is healthy, far below 1 smells of memorising, far above 1 is unlike the data.",
        caveat="It is a distance of pixels: a blurred picture is near to everything, one shifted by a pixel near to "
        "nothing. Of more than 100,000 training images only so many, evenly spaced, are searched for both.",
    ),
    Column(
        key="copies",
        path="nearest_neighbour.copies",
        title="copies",
        form="percent",
        better="lower",
        measures="Share of samples that equal a training image in every pixel.",
        caveat="Finds exact copies only: look at the nearest neighbours too.",
    ),
)
UNDERSTANDING = (
    Column(
        key="bits_per_dim",
        title="bits/dim",
        form=3,
        better="lower",
        within="bits_per_dim_kind",
        spread="bits_per_dim_sem",
        measures="Bits that each pixel and channel of a test image takes under the model, −log₂ p(x) / D, always of "
        "the discrete image: how well the model predicts unseen data.",
        caveat="A bound lies above the true value, nobody knows how far, so exact values and bounds are not ranked "
        "against each other. Good bits/dim do not imply good samples, nor the reverse (Theis et al. 2016).",
    ),
    Column(
        key="nats",
        title="nats an image",
        form=2,
        better="lower",
        within="bits_per_dim_kind",
        measures="The same as −ln p(x) of the whole image: what papers give for black and white digits.",
        caveat="Papers differ in how they made the pixels black or white: compare only with the same way.",
    ),
    Column(
        key="probe_accuracy",
        title="probe accuracy",
        form="percent",
        better="higher",
        untold=True,
        measures="Test accuracy of a linear classifier on the features that the model computes of an image: whether "
        "classes became easy to tell apart without being told. Models that are told them, p(x|y), are not ranked.",
        caveat="Features of more dimensions have it easier; compare it with the same probe on raw pixels. It learns "
        "from at most 20,000 training images, evenly spaced.",
    ),
    Column(
        key="reconstruction_mse",
        title="reconstruction MSE",
        form=4,
        better="lower",
        measures="Mean squared error of a test image after encoding and decoding, pixels in [0, 1].",
        caveat="The wider the bottleneck, the smaller: an invertible map has 0 and has learned nothing by it.",
    ),
)
COST = (
    Column(
        key="parameters",
        title="parameters",
        form="count",
        measures="Numbers that training adjusts.",
        caveat="Weights that are used many times in a pass make a small network a slow one.",
    ),
    Column(
        key="gflops_per_sample",
        title="GFLOP per image",
        form="significant",
        better="lower",
        measures="Billions of floating-point operations to draw one image: counted, so the same on every machine.",
        caveat="Says not how many of them can run at once: pixel after pixel is slow, a whole layer at once is fast.",
    ),
    Column(
        key="passes_in_sequence",
        title="passes in sequence",
        form="count",
        better="lower",
        measures="Passes of a network that must wait for one another to draw an image: in a PixelCNN one a pixel, in "
        "diffusion one a step, in a GAN a single one. Counted, so the same on every machine.",
        caveat="Says how often one must wait, not how long: a pass may be one pixel’s few numbers or a whole network.",
    ),
)
TIMES = (
    Column(
        key="images_per_second",
        path="sample.images_per_second",
        title="images per second",
        form="significant",
        better="higher",
        measures="Images drawn in a second, in batches, on the machine named below.",
        caveat="Depends on the machine, its load and the batch size.",
    ),
    Column(
        key="train_seconds",
        path="train.seconds",
        title="training, s",
        form="significant",
        better="lower",
        measures="Seconds in the training loop.",
        caveat="Depends on the machine and its load; families get the epochs that suit them, not equal budgets.",
    ),
)
ODDITY = Column(
    key="oddity",
    title="AUROC",
    form=3,
    better="higher",
    measures="Probability that log p(x) ranks a test image above an odd input.",
    caveat="Log p(x) is mostly about how simple an image is.",
)
MEASURED = (*GENERATION, *UNDERSTANDING, *COST)  # what metrics.json holds, so what the summary holds
