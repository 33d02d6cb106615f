"""`params.yaml`: its schema and the one function that loads it.

Every number of the project stands in that file, so nothing here has a default that a result depends on, but for
options that are off unless asked for, how often measures are repeated, and the split of a user's own pictures.
"""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from workflow.errors import BakeoffError
from workflow.yaml_as_dvc import Loader, RefusedError

PATH = Path("params.yaml")

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Place = Annotated[Path, Field(strict=False)]
Title = Annotated[str, Field(min_length=1, max_length=60)]
FILE_NAME = r"^[a-z0-9][a-z0-9_]{0,39}$"  # of a model
# Of a file of one, below the folder where DVC sees it change.
NETWORK = r"^data/external/(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*\.pt2?$"
NetworkFile = Annotated[str, Field(pattern=NETWORK, json_schema_extra={"format": "path"})]
ExtractorName = Literal["trained", "inception"] | NetworkFile


def _below_one(data: Any) -> Any:
    if (share := data.valid + data.test) >= 1:
        raise ValueError(
            f"valid + test is {share:g}, which leaves nothing to train on; lower them to less than 1 in all"
        )
    return data


def _distinct(seeds: list[int]) -> list[int]:
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise ValueError(f"{twice[0]} stands twice; remove one of them")
    return seeds


def _extractors(value: Any) -> Any:
    """A name or a list of names; raises ValueError unless each is known and has a name of its own in print."""
    names = value if isinstance(value, list) else [value]
    if not names:
        raise ValueError("names no extractor; write trained, inception or a network's file")
    for name in names:
        if not (isinstance(name, str) and (name in ("trained", "inception") or re.fullmatch(NETWORK, name))):
            raise ValueError(
                f"{f'{name!r} ' if names is value else ''}should be trained, inception, or a network's file below "
                "data/external, a .pt of TorchScript or a .pt2 of torch.export, named with letters, digits and . _ -"
            )
    stems = [Path(name).stem for name in names]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise ValueError(f"{twice[0]} stands twice; remove or rename one of them")
    return value


Seeds = Annotated[list[Seed], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)]


class Section(BaseModel):
    """A part of the file: read-only, no unknown keys, no silent conversions.

    docs/params.md and params.schema.json say of each key what the docstrings below say (`workflow.schema`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Embedded(Section):
    """Data that need no network.

    Args:
        name: of the data set.
        root: folder with the user's own files, as for the others; nothing of these is looked for there.
        valid: share of the images used to select checkpoints.
        test: share of the images used by the evaluation only.
        seed: of the split.
    """

    name: Literal["digits", "stacked_digits", "glyphs", "tones", "teacher", "teacher_rbm", "ring", "grid"]
    root: Place
    valid: Share
    test: Share
    seed: Seed

    _something_left_to_train_on = model_validator(mode="after")(_below_one)


class Published(Section):
    """Data sets that are fetched, with the test images of their authors.

    Args:
        name: of the data set.
        root: folder with the user's own copies of its files, if there are any.
        valid: share of the training images used to select checkpoints.
        seed: of the split.
        limit: most images in each split.
        binarise: make pixels black or white: above half of the greatest level (threshold); at random with the grey
            level as probability, once (stochastic), or training images anew each time they are used (dynamic: Burda et
            al. 2016).
    """

    name: Literal["mnist", "stacked_mnist", "fashion_mnist", "kmnist", "cifar10", "svhn"]
    root: Place
    valid: Share
    seed: Seed
    limit: Annotated[int, Field(ge=10)] | None = None
    binarise: Literal["none", "threshold", "stochastic", "dynamic"] = "none"
    test: ClassVar[None] = None

    @model_validator(mode="after")
    def _digits_stay_grey(self) -> "Published":
        if self.binarise != "none" and self.name == "stacked_mnist":
            raise ValueError(f"binarise: {self.binarise!r}: not for stacked_mnist; set it to none")
        return self


class Folder(Section):
    """A user's own pictures: those under `root`, cut to squares of `size` pixels.

    Args:
        name: says that they are the user's own.
        root: their folder.
        title: what the page and MLflow call them; the folder's name if it is not given.
        size: side of an image in pixels.
        grey: whether to convert the pictures to one channel.
        most_megapixels: of a picture that is read; larger ones are left out, as a small file may claim to be huge.
        valid: share of the images used to select checkpoints, unless the folder has a split of that name.
        test: share of the images used by the evaluation only, unless the folder has a split of that name.
        seed: of the split.
    """

    name: Literal["folder"]
    root: Place
    title: Title | None = None
    size: Annotated[int, Field(ge=4, le=1024)]
    grey: bool = False
    most_megapixels: Annotated[float, Field(gt=0, strict=False)] = 200
    valid: Share = 0.1
    test: Share = 0.1
    seed: Seed = 0

    _something_left_to_train_on = model_validator(mode="after")(_below_one)


class ArrayFile(Section):
    """A user's own images in one file of NumPy.

    Args:
        name: says that they are the user's own.
        root: the file, an .npz or .npy.
        title: what the page and MLflow call them; the file's name if it is not given.
        levels: pixel values are 0..levels-1.
        valid: share of the images used to select checkpoints, unless the file has such a split.
        test: share of the images used by the evaluation only, unless the file has such a split.
        seed: of the split.
    """

    name: Literal["arrays"]
    root: Place
    title: Title | None = None
    levels: Annotated[int, Field(ge=2, le=256)] = 256
    valid: Share = 0.1
    test: Share = 0.1
    seed: Seed = 0

    _something_left_to_train_on = model_validator(mode="after")(_below_one)


class Signals(Section):
    """A user's own recordings: the WAV files under `root`, each cut to the middle, in levels by µ-law.

    Args:
        name: says that they are the user's own.
        root: their folder.
        title: what the page and MLflow call them; the folder's name if it is not given.
        length: samples of a signal.
        rate: samples a second; recordings of other rates are resampled.
        levels: samples are 0..levels-1.
        valid: share of the signals used to select checkpoints, unless the folder has a split of that name.
        test: share of the signals used by the evaluation only, unless the folder has a split of that name.
        seed: of the split.
    """

    name: Literal["signals"]
    root: Place
    title: Title | None = None
    length: Annotated[int, Field(ge=16, le=2**16)]
    rate: Annotated[int, Field(ge=3000, le=192_000)] = 8000  # fewer samples a second are not played by browsers
    levels: Annotated[int, Field(ge=2, le=256, multiple_of=2)] = 256
    valid: Share = 0.1
    test: Share = 0.1
    seed: Seed = 0

    _something_left_to_train_on = model_validator(mode="after")(_below_one)


Data = Embedded | Published | Folder | ArrayFile | Signals


def own_title(data: Data) -> str | None:
    """What the page and MLflow call a user's own data: their title, or the name of their folder or file.

    None for other data.

    >>> own_title(Folder(name="folder", root=Path("/pictures/shells"), size=32))
    'shells'
    """
    if isinstance(data, Folder | ArrayFile | Signals):
        place = data.root.resolve()
        return data.title or (place.stem if data.name == "arrays" else place.name) or data.name
    return None


class Compute(Section):
    """Where to run.

    Args:
        device: auto takes a GPU if there is one.
        threads: of each stage; another number changes the last bits of results.
        instructions: avx2 gives the same bytes on every x86-64 processor; native uses whatever the processor has, which
            may be faster and changes the last bits of results.
    """

    device: Literal["auto", "cpu", "cuda"]
    threads: Count
    instructions: Literal["avx2", "native"] = "avx2"


class Extractor(Section):
    """The networks that are trained on the same images for their features, if `evaluate.extractor` is trained.

    The classifiers that are trained on samples of class-conditional models, for CAS, are of the same kind.

    Args:
        channels: of the first convolution.
        features: of an image, on which the metrics are computed.
        dropout: on the features, during training.
        epochs: passes over the training images.
        batch_size: images in a batch.
        lr: learning rate.
        seeds: a network is trained with each, and measures on features are means over all of them.
    """

    channels: Count
    features: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]  # the statistics of a single image of a few pixels are undefined
    lr: Annotated[float, Field(gt=0)]
    seeds: Seeds = [0, 1, 2]


class Sample(Section):
    """The images that each model draws for the metrics.

    Args:
        count: how many, `evaluate.draws` times.
        batch_size: how many at once.
    """

    count: Annotated[int, Field(ge=10)]
    batch_size: Count


class Evaluate(Section):
    """Settings of the metrics.

    Args:
        extractor: whose features they use: `trained` for networks trained on the same images, `inception` for results
            that are comparable with papers, or a network's file (docs/measures.md says what it must take and give). Of
            a list, the first is used for everything, and the page compares the ranks under the others with it.
        inception_weights: a file to take Inception from instead of downloading it.
        draws: how many times `sample.count` images are drawn of each model; measures of samples are means over them.
        batch_size: images that are evaluated at once.
        splits: of the samples, for the Inception Score: it is the mean over them.
        neighbours: k of precision, recall, density and coverage.
        kid_subsets: how many pairs of subsets KID is the mean of.
        kid_subset_size: images in each of them.
        probe_regularisation: C of the linear probe's logistic regression; a smaller one regularises more.
    """

    extractor: Annotated[
        ExtractorName | Annotated[list[ExtractorName], Field(min_length=1, json_schema_extra={"uniqueItems": True})],
        BeforeValidator(_extractors),
    ]
    inception_weights: str | None = None
    draws: Count = 3
    batch_size: Count
    splits: Annotated[int, Field(ge=2)]
    neighbours: Count
    kid_subsets: Count
    kid_subset_size: Annotated[int, Field(ge=2)]
    probe_regularisation: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _weights_of_inception_alone(self) -> "Evaluate":
        if self.inception_weights is not None and "inception" not in self.extractors:
            raise ValueError("inception_weights needs extractor: inception; remove it or set that")
        return self

    @property
    def extractors(self) -> list[str]:
        """The main one first."""
        return self.extractor if isinstance(self.extractor, list) else [self.extractor]

    @property
    def other_names(self) -> list[str]:
        """What those after the main one are called in files."""
        return [Path(name).stem for name in self.extractors[1:]]

    @property
    def networks(self) -> list[Path]:
        """The files among them."""
        return [Path(name) for name in self.extractors if re.fullmatch(NETWORK, name)]


def _absent(value: Any) -> bool:
    return value is None


class Train(Section):
    """Options of the one training loop; what is left out is off. Give either `epochs` or `gflops`.

    Args:
        epochs: how long to train, in passes over the training images.
        gflops: how long to train, in 10⁹ floating-point operations of training steps; as many are taken as come
            nearest to it, at least one.
        batch_size: images in a batch.
        lr: learning rate of AdamW.
        betas: decay rates of its two moments.
        eps: added to the square root of the second moment; with more, weights whose gradients are tiny move less.
        weight_decay: decoupled from the gradient, as AdamW has it.
        schedule: of the learning rate; cosine lets it fall to zero.
        warmup: share of the training over which the learning rate rises to its full value.
        ema: decay of the moving average of the weights, which then replaces them.
        clip: norm to which gradients are clipped.
        bf16: whether to train in mixed precision.
        valid_every: epochs from one validation to the next.
        parts: into which each batch is cut, each with random numbers and batch statistics of its own; as many GPUs as
            are free share them. The result depends, up to rounding, on the number of parts, not on that of the GPUs.
        snapshots: how often, evenly spaced over the validations, 250 samples are kept, from which the report says how
            well each training curve predicts their FID; at least 8 times are needed, and with 20 or more the answer is
            clearer. The weights stay the same.
    """

    epochs: Count | None = None
    gflops: Annotated[float, Field(gt=0, strict=False)] | None = None
    batch_size: Count
    lr: Annotated[float, Field(gt=0)]
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Decay = 0.0
    clip: Annotated[float, Field(ge=0)] = 0.0
    bf16: bool = False
    valid_every: Count = 1
    parts: Count = 1
    snapshots: Annotated[Count | None, Field(exclude_if=_absent)] = None

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.gflops is None):
            both = "both are given; remove one" if self.epochs else "missing; add one of them"
            raise ValueError(f"epochs, gflops: how long to train: {both}")
        return self

    @model_validator(mode="after")
    def _equal_parts(self) -> "Train":
        if rest := self.batch_size % self.parts:
            up = self.batch_size - rest + self.parts
            near = f"{self.batch_size - rest} or {up}" if self.batch_size > self.parts else f"{up}"
            raise ValueError(
                f"batch_size: {self.batch_size}: not a multiple of parts ({self.parts}); set it to {near}, or change "
                "parts"
            )
        return self


class Entry(BaseModel):
    """One model of the comparison: its family, how it is trained and, as further keys, its hyper-parameters.

    Args:
        kind: its family, a file in workflow/models.
        train: options of its training; every kind but `external` needs them.
        samples: which `external` needs instead: where its images are, a folder of pictures, an `.npz` or an `.npy`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    kind: str
    train: Annotated[Train | None, Field(exclude_if=_absent)]
    samples: Annotated[Place | None, Field(exclude_if=_absent)] = None

    @model_validator(mode="before")
    @classmethod
    def _samples_in_place_of_training(cls, data: Any) -> Any:
        return {"train": None, **data} if isinstance(data, dict) and data.get("samples") is not None else data

    @model_validator(mode="after")
    def _one_of_both(self) -> "Entry":
        if (self.train is None) == (self.samples is None):
            both = "both are given; remove one" if self.train else "missing; add one of them"
            raise ValueError(f"train, samples: how it is trained, or where its images are: {both}")
        return self

    @property
    def training(self) -> Train:
        """How it is trained, of a kind that is."""
        assert self.train
        return self.train

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What goes to the family's class."""
        return dict(self.model_extra or {})

    @property
    def flat(self) -> dict[str, Any]:
        """All that it says, by the keys that sweeps use: `kind`, `latents`, `train.lr`."""
        options = self.train.model_dump(mode="json") if self.train else {}
        train = {f"train.{key}": value for key, value in options.items()}
        return {"kind": self.kind, **train, **self.hyperparameters}


class Sweep(Section):
    """Models that differ in some hyper-parameters alone, of which the best by `valid` stands for all in the report.

    It bears the name of the model that it began with, which is one of them.

    Args:
        varied: keys in which they differ: `latents`, `train.lr` and the like.
        trials: names of the others.
        failed: what was varied in trials whose training failed, models no more, by their names.
    """

    varied: Annotated[list[str], Field(min_length=1)]
    trials: list[str]
    failed: dict[str, dict[str, Any]] = {}


def _file_name(name: str) -> str:
    if not re.fullmatch(FILE_NAME, name):
        raise ValueError("a model's name must be 1 to 40 of a-z, 0-9 and _, as it names files and stages")
    return name


class Params(Section):
    """The whole file.

    Args:
        data: the images.
        compute: where to run.
        seeds: each model is trained once with each.
        extractor: the networks whose features the metrics use.
        sample: the images that each model draws for the metrics.
        evaluate: settings of the metrics.
        models: what is compared, by names of your own.
        save_every: seconds of training after which its state is saved, for one that is cut off to go on from; no result
            depends on it. 0 saves it after every step.
        sweeps: which of the models belong together; `python -m stages.sweep` writes this.
    """

    data: Annotated[Data, Field(discriminator="name")]
    compute: Compute
    seeds: Seeds
    extractor: Extractor
    sample: Sample
    evaluate: Evaluate
    models: Annotated[dict[Annotated[str, AfterValidator(_file_name)], Entry], Field(min_length=1)]
    save_every: Annotated[float, Field(ge=0, strict=False)] = 60.0
    sweeps: dict[str, Sweep] = {}


def load(path: Path = PATH) -> Params:
    """Read and check the file, all but the models' hyper-parameters, which the registry checks.

    Raises BakeoffError, one line: the key's full path, the value and what is allowed.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise BakeoffError(f"{path}: missing; run from the project's folder") from None
    except UnicodeDecodeError as error:
        raise BakeoffError(f"{path}: not valid YAML: {error}") from None


def parse(text: str, path: Path = PATH) -> Params:
    """The same of a text that may become the file."""
    try:
        settings = Params.model_validate(yaml.load(text, Loader))  # noqa: S506 -- a SafeLoader
    except RefusedError as error:
        raise BakeoffError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise BakeoffError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise BakeoffError(f"{path}: {explain(error, '')}") from None
    except ValueError as error:  # of a date that is none, the only such thing that PyYAML turns into another
        raise BakeoffError(f"{path}: not valid YAML: {error}") from None
    belongs: dict[str, str] = {}
    for name, sweep in settings.sweeps.items():
        if wrong := _wrong(name, sweep, settings.models, belongs):
            raise BakeoffError(f"{path}: sweeps.{name}{wrong}")
        belongs |= dict.fromkeys((name, *sweep.trials), name)
    return settings


def _wrong(name: str, sweep: Sweep, models: dict[str, Entry], belongs: dict[str, str]) -> str:
    """What is wrong with a sweep, and where; belongs: models that are in another sweep, and in which."""
    members = [name, *sweep.trials]
    for model in members:
        where = "" if model == name else ".trials"
        if model not in models:
            return f"{where}: {model!r}: no such model; known: {', '.join(models)}"
        if members.count(model) > 1:
            return f".trials: {model!r} stands twice; that of the sweep's own name needs no mention"
        if model in belongs:
            return f"{where}: {model!r} is in sweeps.{belongs[model]} already"
        first, own = models[name].flat, models[model].flat
        other = [key for key in {**first, **own} if first.get(key) != own.get(key) and key not in sweep.varied]
        if other:
            return f".trials: {model!r} differs from {name!r} in {', '.join(other)} too; add that to varied"
    if unknown := [key for key in sweep.varied if not any(key in models[model].flat for model in members)]:
        return f".varied: {unknown[0]!r}: none of its models has such a key"
    if "kind" in sweep.varied:
        return ".varied: 'kind': a sweep is of one kind; list models of others under models alone"
    for model, values in sweep.failed.items():
        if model in models or not set(values) <= set(sweep.varied):
            return f".failed: {model!r}: should be no model any more, with values of what is varied"
    return ""


def explain(error: ValidationError, where: str, known: list[str] | None = None) -> str:
    """One of pydantic's complaints as one line: full path of the key, value, what is allowed.

    Of a misspelt key, which is unknown while the right one is missing, the line names what stands in the file.
    """
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"] if part != "[key]"]
    if first["type"].startswith("union_tag"):  # which keys there are depends on one, which is wrong or missing
        location.append("name")
    elif location[:1] == ["data"]:
        del location[1:2]  # pydantic puts the data set's name there
    path = ".".join(filter(None, (where, *(part.encode("unicode_escape").decode() for part in location)))) or "the file"
    if first["type"] == "union_tag_invalid":
        return f"{path}: {first['ctx']['tag']!r}: should be one of {first['ctx']['expected_tags']}"
    if first["type"] in ("missing", "union_tag_not_found"):
        return f"{path}: missing; add it (presets/smoke.yaml is an example of a whole file)"
    if first["type"] == "extra_forbidden":
        keys = known if known is not None else _known_keys(first["loc"][:-1])
        return f"{path}: unknown key; known here: {', '.join(keys)}"
    value, reason = repr(first["input"]), _readable(first["msg"], first["type"], first.get("ctx", {}))
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # the reason names the keys that matter
        return f"{path}: {reason}"
    return f"{path}: {value if len(value) < 80 else value[:77] + '...'}: {reason}"


def _readable(message: str, kind: str, about: dict[str, Any]) -> str:
    """Pydantic's message in the words of the file; kind: of the error. about: its further facts."""
    if kind in ("model_type", "model_attributes_type"):
        return "should be a section, which has keys of its own"
    if kind == "path_type":
        return "should be a path; put it into quotes"
    if kind in ("list_type", "tuple_type"):
        return "should be a list, in square brackets or with a dash before each entry"
    if kind == "too_short":
        return f"should have at least {about['min_length']} entry; add one"
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[0].lower() + message[1:]


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    if location[:1] == ("models",):
        return list(Train.model_fields)  # an entry itself takes any key: the registry knows which
    if location[:1] == ("sweeps",):
        return list(Sweep.model_fields)
    if location[:1] == ("data",):
        kinds: tuple[type[BaseModel], ...] = get_args(Data)
        return next(list(k.model_fields) for k in kinds if location[1] in get_args(k.model_fields["name"].annotation))
    section: type[BaseModel] = Params
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return list(section.model_fields)
