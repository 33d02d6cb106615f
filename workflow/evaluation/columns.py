"""All that is known of each measure: where it is in `metrics.json`, what it rests on, how to print and to read it.

The report's tables, its CSV file and the table in the terminal are made from this one list, and so are the names of
the metrics in MLflow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

DASH = "–"
SHARE = (0.0, 1.0)
EXTRACTOR_NAME = "<extractor>"  # in a title: stands for the name of the feature extractor
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A measure: one number per model.

    Args:
        key: its name in the summary.
        title: its name in print.
        form: the number of decimals, or how else to print the value.
        better: which direction is better; "" if neither is.
        measures: what it measures, for the reader of the page.
        note: what to bear in mind when reading it.
        path: where it is in `metrics.json` (or, for durations, in a run of `speed.json`), parts joined by dots; by
            default the key.
        spread: key of the measure's own standard deviation within one run, in `metrics.json`.
        within: key of the fact that two models must share for their values to be comparable.
        limits: the least and the greatest value that there can be; no interval reaches beyond them.
        unconditional: values are comparable only between models that are not class-conditional.
        counted: it is counted rather than estimated, so any difference between two models is one.
        scaled: its unit is that of the extractor's features, and another one for another extractor.
        on_features: it is measured on the extractor's features, so values of two extractors are not comparable.
        missing_for: which models or data have no value here; "" if every run must have one.

    """

    key: str
    title: str
    form: int | Literal["percent", "count", "significant"]
    better: Literal["lower", "higher", ""] = ""
    measures: str
    note: str
    path: str = ""
    spread: str = ""
    within: str = ""
    limits: tuple[float, float] = (0.0, math.inf)
    unconditional: bool = False
    counted: bool = False
    scaled: bool = False
    on_features: bool = False
    missing_for: str = ""

    @property
    def arrow(self) -> str:
        """Which direction is better, as a symbol."""
        return {"lower": "↓", "higher": "↑", "": ""}[self.better]

    def read(self, metrics: Mapping[str, Any]) -> float | None:
        """The value in the content of a `metrics.json`; None if there is none."""
        return look_up(metrics, self.path or self.key)

    def within_limits(self, interval: Sequence[float]) -> list[float]:
        """The part of an interval of the value that is possible."""
        return [min(max(end, self.limits[0]), self.limits[1]) for end in interval]

    def ranks(self, model: Mapping[str, Any]) -> bool:
        """Whether a model of the summary has a value that may be compared with those of other models."""
        return model["mean"].get(self.key) is not None and not (self.unconditional and model["told_classes"])

    def text(self, value: float | None) -> str:
        """The value as the tables print it; a dash for a missing one."""
        if value is None:
            return DASH
        if self.form == "percent":
            return f"{100 * value:.1f}\N{NO-BREAK SPACE}%".replace("-", "−")
        if self.form == "count":
            return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
        if self.form == "significant":
            return significant(value).replace("-", "−")
        return f"{value:.{self.form}f}".replace("-", "−")

    def bare(self, value: float) -> str:
        """The value as `text` prints it but without its unit, for print next to a value that has one."""
        return self.text(value).removesuffix("\N{NO-BREAK SPACE}%")


def significant(value: float) -> str:
    """Three significant digits: plain between 0.0001 and a million, otherwise with a power of ten."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        rounded = float(f"{value:.3g}")
        return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.6f}".rstrip("0").rstrip(".")
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def named(columns: Sequence[Column], summary: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns with the extractor's name in their titles."""
    name = summary["extractor"]["name"]
    return tuple(replace(column, title=column.title.replace(EXTRACTOR_NAME, name)) for column in columns)


def look_up(metrics: Mapping[str, Any], path: str) -> float | None:
    """The number at `path` ("modes.kl"); None if there is none."""
    found: Any = metrics
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if found is None else float(found)


GENERATION = (
    Column(
        key="fid",
        scaled=True,
        title=f"{EXTRACTOR_NAME} FID",
        form=2,
        better="lower",
        on_features=True,
        measures="Fréchet distance between two Gaussians, one fitted to the features of the samples and one to those "
        "of the test images: how far apart their means and covariances are.",
        note="It sees only these two moments, and only what the features capture. It is biased upwards for small "
        "sample sizes: compare it with the floor at the same sample sizes, and with an FID from elsewhere only if "
        "features, sample sizes and real images are the same.",
    ),
    Column(
        key="kid",
        scaled=True,
        limits=(-math.inf, math.inf),
        title="KID",
        form=3,
        better="lower",
        spread="kid_std",
        on_features=True,
        measures="Squared maximum mean discrepancy between the same features under a cubic kernel: like FID, but with "
        "moments up to the third and without assuming Gaussians.",
        note="It is unbiased: for equal distributions it scatters around 0 and may be negative.",
    ),
    Column(
        key="inception_score",
        title="Inception Score",
        form=2,
        better="higher",
        spread="inception_score_std",
        on_features=True,
        missing_for="data whose classes the feature extractor does not know",
        measures="exp of the mean KL(p(y|x) ‖ p(y)) under the network whose features are used. It is high if each "
        "sample clearly belongs to one of the network’s classes and all classes occur; at most the number of classes.",
        note="It never looks at a real image: one perfect image per class, repeated, gets the best score.",
    ),
    Column(
        key="precision",
        limits=SHARE,
        title="precision",
        form=3,
        better="higher",
        on_features=True,
        measures="Fidelity: share of samples that lie on the manifold of the test images, that is, within the distance "
        "from some test image to its k-th nearest neighbour.",
        note="An outlier among the test images has a huge neighbourhood, which lets bad samples in.",
    ),
    Column(
        key="recall",
        limits=SHARE,
        title="recall",
        form=3,
        better="higher",
        on_features=True,
        measures="Diversity: share of test images that lie on the manifold of the samples, by the same rule with the "
        "roles swapped.",
        note="Samples that scatter widely have wide neighbourhoods, and so a high recall.",
    ),
    Column(
        key="density",
        title="density",
        form=3,
        better="higher",
        on_features=True,
        measures="The average number of test images whose neighbourhood contains a sample, divided by k: a precision "
        "that is less sensitive to outliers.",
        note="It is not a share: samples that crowd where the data are dense score above 1.",
    ),
    Column(
        key="coverage",
        limits=SHARE,
        title="coverage",
        form=3,
        better="higher",
        on_features=True,
        measures="Share of test images with at least one sample in their neighbourhood: a recall that scattered "
        "samples do not inflate.",
        note="It grows with the number of samples.",
    ),
    Column(
        key="modes_found",
        path="modes.found",
        title="modes found",
        form="count",
        better="higher",
        missing_for="data whose classes the feature extractor does not know",
        measures="Number of classes that at least one sample is classified as; for a known mixture, number of "
        "components with a sample within three standard deviations.",
        note="It says nothing about variety within a mode, and the classifier must assign every sample to some class.",
    ),
    Column(
        key="high_quality",
        limits=SHARE,
        title="high quality",
        form="percent",
        better="higher",
        missing_for="data that are not a known mixture",
        measures="Share of samples within three standard deviations of a component of the known mixture.",
        note="A model that always draws the same point gets the best score: read it together with the modes found.",
    ),
    Column(
        key="modes_kl",
        path="modes.kl",
        title="mode KL",
        form=4,
        better="lower",
        missing_for="data whose classes the feature extractor does not know",
        measures="KL(samples ‖ test) between the two histograms of modes, in nats: 0 if each mode is as frequent as in "
        "the test set.",
        note="Sample sizes are finite, so even real images do not reach 0.",
    ),
    Column(
        key="sharpness",
        title="sharpness",
        form=2,
        missing_for="points, and images too small or too plain to have edges",
        measures="Variance of the Laplacian within a sample, relative to that of the test images: 1 is as sharp as "
        "they are, less is blurred, more is noisy or jagged.",
        note="It measures edges, not content: pure noise is the sharpest of all.",
    ),
    Column(
        key="class_accuracy",
        limits=SHARE,
        title="class accuracy",
        form="percent",
        better="higher",
        missing_for="models that are not class-conditional, and data whose classes the feature extractor does not know",
        measures="Share of images drawn for a requested class that the classifier assigns to that class.",
        note="The classifier’s own errors limit it, and it is blind to variety within a class.",
    ),
    Column(
        key="nearest_neighbour_ratio",
        path="nearest_neighbour.ratio",
        title="neighbour ratio",
        form=2,
        missing_for="data where at least half of the test images are also training images",
        measures="Median pixel distance from a sample to its nearest training image, relative to that of real test "
        "images: near 1 is healthy, far below 1 suggests memorisation, far above 1 means samples unlike the data.",
        note="It is a distance between pixels: a blurred image is close to everything, an image shifted by one pixel "
        "close to nothing. Of a training set of more than 100,000 images, only that many, evenly spaced, are searched "
        "for both.",
    ),
    Column(
        key="copies",
        limits=SHARE,
        path="nearest_neighbour.copies",
        title="copies",
        form="percent",
        better="lower",
        measures="Share of samples that equal a training image in every pixel.",
        note="It finds exact copies only: look at the nearest neighbours, too.",
    ),
    Column(
        key="fid_infinity",
        scaled=True,
        limits=(-math.inf, math.inf),
        title="FID∞",
        form=2,
        better="lower",
        on_features=True,
        measures="FID extrapolated to infinitely many samples: it is measured at several sample sizes N, and a "
        "straight line through its values against 1/N is followed to 1/N = 0 (Chong & Forsyth 2020).",
        note="It is free of the bias from the number of samples, but not of that from the number of test images. It "
        "scatters more than FID, and may be negative by chance.",
    ),
    Column(
        key="c_t",
        path="copying.c_t",
        limits=(-math.inf, math.inf),
        title="C_T",
        form=2,
        on_features=True,
        measures="Whether samples lie nearer to training images than unseen images do (Meehan et al. 2020): z-score of "
        "the distances to the nearest training image, samples against test images, averaged over regions of feature "
        "space. 0 is as near as test images, far below 0 is copying, far above 0 means samples unlike the data.",
        note="A few copies among many bad samples can go unnoticed, as the two cancel, and so do copies that the "
        "features do not recognise. At most 50,000 training images, evenly spaced, are searched.",
    ),
    Column(
        key="authentic",
        path="copying.authentic",
        limits=SHARE,
        title="authentic",
        form="percent",
        on_features=True,
        measures="Share of samples that are not nearer to a training image than that image is to any other training "
        "image (Alaa et al. 2022).",
        note="Real unseen images do not reach 100 %: compare it with the copycats' table, whose first row they are. "
        "Samples unlike the data do reach it.",
    ),
    Column(
        key="fld_gap",
        path="copying.fld_gap",
        limits=(-math.inf, math.inf),
        title="FLD gap",
        form=1,
        on_features=True,
        measures="Whether a density made of the samples explains training images better than unseen ones (the "
        "generalisation gap of the Feature Likelihood Divergence, Jiralerspong et al. 2023): each sample is a Gaussian "
        "whose width is fitted to training images; 100 times the difference of the mean negative log-likelihoods, in "
        "nats per feature, training less test images. Far below 0 is copying.",
        note="Real unseen images lie below 0, too, as the widths suit the training images: compare it with the "
        "copycats’ table, whose first row they are. Of exact copies it is huge and its size says little. At most "
        "1,000 samples and 10,000 training images, evenly spaced, are looked at: of a larger set the other copies go "
        "unnoticed.",
    ),
    Column(
        key="vendi",
        limits=(1.0, math.inf),
        title="Vendi score",
        form=2,
        better="higher",
        on_features=True,
        measures="Diversity: the effective number of different images among the samples, by the cosines between their "
        "features (Friedman & Dieng 2023). It is 1 if all samples are alike.",
        note="It never looks at a real image, so bad samples that differ raise it: values above that of real images "
        "are no merit. It depends on the features; at most 1,000 samples are compared.",
    ),
    Column(
        key="rke",
        limits=(1.0, math.inf),
        title="RKE",
        form=2,
        better="higher",
        on_features=True,
        measures="Diversity: the number of modes by the Rényi kernel entropy of order 2 (Jalali et al. 2023), with a "
        "Gaussian kernel. Its width is half of the median distance between test images, the same for all models. Of "
        "k equally frequent groups that lie far apart, it is k.",
        note="It never looks at a real image, either. Another width gives another number, so compare it with that of "
        "real images only; at most 1,000 samples are compared.",
    ),
    Column(
        key="prd_precision",
        path="prd.precision",
        limits=SHARE,
        title="PRD precision",
        form=3,
        better="higher",
        on_features=True,
        measures="Fidelity from the precision-recall curve (Sajjadi et al. 2018): samples and test images are divided "
        "into 20 clusters, and their shares of each are compared. It is the greatest F-score on the curve in which "
        "precision counts eight times as much as recall, F⅛.",
        note="What happens within a cluster it does not see: bad samples in the cluster of good ones go unnoticed.",
    ),
    Column(
        key="prd_recall",
        path="prd.recall",
        limits=SHARE,
        title="PRD recall",
        form=3,
        better="higher",
        on_features=True,
        measures="Diversity from the same curve: the greatest F-score in which recall counts eight times as much as "
        "precision, F₈. A class that is dropped lowers it by its share of the test images.",
        note="It says nothing about variety within a cluster.",
    ),
    Column(
        key="cas",
        limits=SHARE,
        title="CAS",
        form="percent",
        better="higher",
        missing_for="models that are not class-conditional, and data without classes",
        measures="Classification accuracy score (Ravuri & Vinyals 2019): accuracy on real test images of a classifier "
        "that was trained on the model's samples of each class alone, and so whether samples can replace real images. "
        "In the row of real images: of the same classifier trained on as many real training images.",
        note="A classifier forgives what looks wrong as long as classes stay apart. It is trained on as many samples "
        "as the other measures look at, but on no more than there are training images.",
    ),
    Column(
        key="true_bits",
        title="bits/dim under the truth",
        form=3,
        missing_for="data whose density is not known",
        measures="Bits that the frozen model from which the data were drawn needs per pixel and channel of a sample, "
        "−log₂ p(x) / D: as many as for real images if samples are as likely as these, far more if it would hardly "
        "ever draw them.",
        note="It says nothing of variety: one likely image, repeated, scores below real images. Compare it with their "
        "row; neither more nor less is better.",
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
        missing_for="models without a density",
        measures="Bits that the model needs per pixel and channel of a test image, −log₂ p(x) / D, always for the "
        "discrete image: how well it predicts unseen data.",
        note="An upper bound lies above the true value by an unknown gap, so exact values and bounds are not ranked "
        "against each other. An estimate, whose normalising constant is known only by sampling, may be off to either "
        "side and is not ranked at all. Good bits/dim do not imply good samples, nor the reverse (Theis et al. 2016).",
    ),
    Column(
        key="nats",
        title="nats per image",
        form=2,
        better="lower",
        within="bits_per_dim_kind",
        missing_for="models without a density, and images that are not black and white",
        measures="The same as −ln p(x) of the whole image: what papers report for black and white digits.",
        note="Papers differ in how they binarise the pixels: compare only with those that do it in the same way.",
    ),
    Column(
        key="probe_accuracy",
        limits=SHARE,
        title="linear probe accuracy",
        form="percent",
        better="higher",
        unconditional=True,
        missing_for="models without features, and data without classes",
        measures="Test accuracy of a linear classifier on the features that the model computes for an image: whether "
        "the classes become linearly separable although the model never sees a label. Class-conditional models, "
        "p(x|y), are not ranked.",
        note="More feature dimensions make it easier; compare it with the same probe on raw pixels. The probe is "
        "trained on at most 20,000 training images, evenly spaced.",
    ),
    Column(
        key="reconstruction_mse",
        title="reconstruction MSE",
        form=4,
        better="lower",
        missing_for="models that cannot reconstruct an image",
        measures="Mean squared error of a test image after encoding and decoding, pixels in [0, 1].",
        note="The wider the bottleneck, the smaller the error: an invertible map has an error of 0 and need not have "
        "learned anything.",
    ),
    Column(
        key="bits_gap",
        title="overfitting in bits/dim",
        form=3,
        limits=(-math.inf, math.inf),
        missing_for="models without a density",
        measures="Bits/dim of test images less those of as many training images: how much better the model predicts "
        "what it was trained on. 0 is none.",
        note="Of upper bounds it also contains the difference of their slack. A model that has learned nothing has "
        "none.",
    ),
    Column(
        key="true_kl",
        title="KL from the truth",
        form=3,
        better="lower",
        within="bits_per_dim_kind",
        limits=(-math.inf, math.inf),
        missing_for="models without a density, and data whose density is not known",
        measures="KL(data ‖ model) in bits/dim: the mean over test images of log₂ p(x) of the frozen model from which "
        "they were drawn, less that of this model, over D. 0 is a perfect model.",
        note="Of an upper bound on bits/dim it is an upper bound, too: the model may be better, by the slack of its "
        "bound. A model of the same kind as the truth has an advantage.",
    ),
    Column(
        key="bits_slack",
        title="slack of the bound",
        form=4,
        missing_for="models with another density than a bound that draws make tighter, and data whose density is not "
        "known",
        measures="By how much the bound on bits/dim falls, on up to 250 test images, if it rests on eight times as "
        "many draws (VAE, flows), on 64 paths of noise (diffusion) or on 64 grids of codes beside the encoder’s, each "
        "with one code changed (VQ-VAE): so much of the KL, at least, is the bound’s fault and not the model’s.",
        note="It is a part of the slack only: no number of draws tells how much is left.",
    ),
)
BAYES = (
    Column(
        key="bayes_accuracy",
        path="bayes.accuracy",
        limits=SHARE,
        title="Bayes accuracy",
        form="percent",
        better="higher",
        missing_for="models that are not class-conditional or have no density, and data with more than 100 classes",
        measures="Share of test images that the model puts into their class by Bayes’ rule: the class y with the "
        "greatest p(x|y) p(y), where p(y) is its frequency in training.",
        note="A bound stands in for p(x|y) where there is no exact value; how loose it is may differ between classes. "
        "At most 500 test images, evenly spaced, are classified, and of many classes fewer.",
    ),
    Column(
        key="kept_by_confidence",
        path="bayes.kept.confidence",
        limits=SHARE,
        title="accuracy kept by confidence",
        form="percent",
        better="higher",
        missing_for="models that are not class-conditional or have no density, and data with more than 100 classes",
        measures="Accuracy on the images that the model is surest of, by p(y|x), as a mean over all shares of images "
        "kept (Geifman & El-Yaniv 2017): high if it errs only where it is unsure.",
        note="A model that errs less often scores better whatever it knows of its errors: compare it with the accuracy "
        "on all images.",
    ),
    Column(
        key="kept_by_density",
        path="bayes.kept.density",
        limits=SHARE,
        title="accuracy kept by density",
        form="percent",
        better="higher",
        missing_for="models that are not class-conditional or have no density, and data with more than 100 classes",
        measures="The same if the images with the lowest p(x) are refused, which a classifier p(y|x) cannot do.",
        note="A typical image may still be ambiguous: p(x) says whether it looks like the data, not whether its class "
        "is clear.",
    ),
)
FEW_LABELS = tuple(
    Column(
        key=f"few_labels_{count}",
        path=f"few_labels.{count}",
        limits=SHARE,
        title=f"probe from {count} label{'s' * (count > 1)} a class",
        form="percent",
        better="higher",
        unconditional=True,
        missing_for="models without features, and data without classes or with fewer labels",
        measures=f"Test accuracy of the linear probe if only {count} training image{'s' * (count > 1)} of each class "
        f"{'are' if count > 1 else 'is'} labelled: a mean over five draws of these, the same for all models.",
        note="Compare it with the same probe on raw pixels. There is no value where some class has fewer training "
        "images, or where more than 5,000 labels would be needed in all.",
    )
    for count in (1, 5, 20, 100)
)
FINE_TUNED = tuple(
    column
    for count in (1, 5, 20, 100)
    for column in (
        Column(
            key=f"fine_tuned_{count}",
            path=f"fine_tuned.{count}.accuracy",
            limits=SHARE,
            title=f"fine-tuned on {count} label{'s' * (count > 1)} a class",
            form="percent",
            better="higher",
            unconditional=True,
            missing_for="models without an encoder, and data without classes or with fewer labels",
            measures="Test accuracy of the model’s encoder with a linear layer on top, both trained on "
            f"{count} labelled training image{'s' * (count > 1)} of each class: a mean over three draws of these, the "
            "same for all models.",
            note="Eighty steps on up to 32 images each, without validation images to stop by; at most 500 test "
            "images, evenly spaced. Encoders differ in size, so compare it with the same network from scratch first.",
        ),
        Column(
            key=f"fine_tuning_gain_{count}",
            path=f"fine_tuned.{count}.gain",
            limits=(-1.0, 1.0),
            title=f"gain over scratch from {count} label{'s' * (count > 1)} a class",
            form="percent",
            unconditional=True,
            missing_for="models without an encoder, and data without classes or with fewer labels",
            measures="This accuracy less that of the same network from fresh weights, trained in the same way on the "
            "same images: what learning without labels was worth as a start, in percentage points.",
            note="More steps, or another learning rate, might help either start: both have the classifier’s.",
        ),
    )
)
COST = (
    Column(
        key="parameters",
        counted=True,
        missing_for="images made elsewhere",
        title="parameters",
        form="count",
        measures="Number of trained parameters.",
        note="It says little about speed: weights that are used many times per pass make a small network slow.",
    ),
    Column(
        key="training_gflops",
        counted=True,
        missing_for="images made elsewhere",
        title="training GFLOPs",
        form="significant",
        better="",
        measures="Billions of floating-point operations in all training steps, forwards and backwards: counted, so the "
        "same on every machine.",
        note="Validation and whatever is fitted without gradients are left out. Equal budgets do not take equal time: "
        "small layers reach a smaller share of a processor's peak.",
    ),
    Column(
        key="gflops_per_sample",
        counted=True,
        missing_for="images made elsewhere",
        title="GFLOPs per image",
        form="significant",
        better="lower",
        measures="Billions of floating-point operations needed to draw one image: counted, so the same on every "
        "machine.",
        note="It does not say how many of them can run in parallel: pixel after pixel is slow, a whole layer at once "
        "is fast.",
    ),
    Column(
        key="passes_in_sequence",
        counted=True,
        missing_for="images made elsewhere",
        title="sequential passes",
        form="count",
        better="lower",
        measures="Network passes that must run one after another to draw an image: one per pixel in a PixelCNN, one "
        "per step in diffusion, a single one in a GAN. Counted, so the same on every machine.",
        note="It counts passes, not time: a pass may compute a single pixel or run a whole network.",
    ),
)
OUT_OF_DISTRIBUTION = Column(
    key="oddity",
    limits=SHARE,
    title="AUROC",
    form=3,
    better="higher",
    missing_for="models without a density",
    measures="Probability that log p(x) is higher for a test image than for an out-of-distribution input.",
    note="Log p(x) depends mostly on how simple an image is.",
)
MEASURED = (
    *GENERATION,
    *UNDERSTANDING,
    *BAYES,
    *FEW_LABELS,
    *FINE_TUNED,
    *COST,
)  # a value each in `metrics.json`, and so in the summary
LEAST_VALID_LOSS = Column(
    key="valid_loss",
    title="least validation loss",
    form="significant",
    better="lower",
    missing_for="images made elsewhere",
    measures="Lowest validation loss during training, by which the weights were chosen; its unit is the family's own.",
    note="Comparable only between entries of the same kind.",
)
NUMBERS = (*MEASURED, LEAST_VALID_LOSS)  # all that DVC shows by their keys, and MLflow by their titles


def keys_on_features() -> frozenset[str]:
    """Paths in `metrics.json` whose values are measured on the extractor's features, those of their spread included."""
    paths = ((column.path or column.key, column.spread) for column in MEASURED if column.on_features)
    return frozenset(path for pair in paths for path in pair if path)
