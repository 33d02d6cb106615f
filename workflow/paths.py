"""Where everything that a run makes lies, relative to the project's folder; `dvc.yaml` declares the same outputs."""

import os
from dataclasses import dataclass
from pathlib import Path

DVC_LOCK = Path("dvc.lock")
CHECKED, TRACKED = Path("data/checked.json"), Path("data/tracked.json")
RAW, PREPARED = Path("data/raw"), Path("data/prepared")
EXTERNAL = Path("data/external")  # images made elsewhere, which an entry of `models` may name as its samples
FETCHED = Path("data/fetched")  # downloads, which `make clean` keeps
EXTRACTOR, EXTRACTOR_METRICS = Path("data/extractor/model.safetensors"), Path("data/extractor/metrics.json")
REFERENCE, REAL_FEATURES = Path("data/reference/reference.json"), Path("data/reference/real.safetensors")
AUDIT = Path("data/audit/audit.json")
INDEX, LEDGER = Path("data/index"), Path("data/ledger")
SUMMARY, TABLE, PAGE = Path("report/summary.json"), Path("report/summary.csv"), Path("report/index.html")
METRICS, CURVES, CHARTS = Path("report/metrics"), Path("report/curves"), Path("report/charts")
FIGURES, METHODS = Path("report/figures"), Path("report/methods.txt")
LATEX, MARKDOWN = Path("report/summary.tex"), Path("report/summary.md")

# How the names of tensors in a run's `pictures.safetensors` begin.
BITS = "bits of "  # bits/dim of each image of a kind, such as the test images
KEPT = "kept by "  # accuracy on the k images with the highest score of a kind, k = 1..N
CONFIDENCE, DENSITY = "confidence", "density"  # by which of them these are kept
SPECTRUM = "spectrum of "  # standard deviations along the axes of a model or of a PCA, descending
PER_IMAGE = "per_image/"  # how far each test image moves a measure
OTHER_FEATURES = "other features/"  # the same on features of another extractor than the main one, whose name follows
SHARED_ERROR = "_error"  # after a measure's key in `metrics.json`: standard error that all test images share

# What stands beside the outputs: never tracked by DVC, and made again where it is missing.
SPEED_PAGE, SPEED = Path("report/speed.html"), Path("report/speed.json")
CHECKPOINTS, STAGE_LOCKS = Path("states"), Path(".locks")
TIMINGS = Path("timings")


@dataclass(frozen=True)
class RunFiles:
    """The outputs of one model with one seed, by the stage that writes them: train, sample, evaluate."""

    name: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where all of them lie."""
        return Path("runs") / self.name / str(self.seed)

    @property
    def model(self) -> Path:
        """The weights of the best checkpoint, with the family's name and hyper-parameters."""
        return self.folder / "model.safetensors"

    @property
    def history(self) -> Path:
        """What the training loop recorded, a line of JSON a record."""
        return self.folder / "history.jsonl"

    @property
    def snapshots(self) -> Path:
        """The same images drawn again and again as the training went on."""
        return self.folder / "snapshots.safetensors"

    @property
    def samples(self) -> Path:
        """The images that the metrics are computed on."""
        return self.folder / "samples.safetensors"

    @property
    def overview(self) -> Path:
        """A picture of the first hundred samples."""
        return self.folder / "samples.png"

    @property
    def metrics(self) -> Path:
        """Every figure that was measured."""
        return self.folder / "metrics.json"

    @property
    def pictures(self) -> Path:
        """Images and numbers that the report draws: reconstructions, interpolations, neighbours."""
        return self.folder / "pictures.safetensors"

    def all(self) -> tuple[Path, ...]:
        """All of them, in the order of the graph."""
        return (self.model, self.history, self.snapshots, self.samples, self.overview, self.metrics, self.pictures)


def index_entry(name: str, seed: int) -> Path:
    """The hashes of a run's files, which stand for the run where a stage depends on the runs of all models."""
    return INDEX / f"{name}-{seed}.json"


def stage_page(name: str) -> Path:
    """The ledger's page on the code of a stage, without what depends on the kind of model."""
    return LEDGER / "stages" / f"{name}.json"


def model_page(name: str) -> Path:
    """The ledger's page on the code of a model: its family's file and all that it imports."""
    return LEDGER / "models" / f"{name}.json"


def own(place: Path) -> Path:
    """Where a user's file or folder is that git does not have: in a copy of the project, that of the project itself."""
    return place if place.exists() or not (there := project() / place).exists() else there


def project() -> Path:
    """The project's folder, also from the copies of it, deleted afterwards, in which DVC runs queued experiments."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()
