"""A project folder with five models whose results are invented, in the formats of the stages that would make it."""

import json
import math
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from workflow import params
from workflow.data.arrays import write_prepared
from workflow.data.tensors import ImageSet, write_tensors
from workflow.evaluation.columns import GENERATION, look_up
from workflow.evaluation.trust import COPIES
from workflow.files import sha256

ROOT = Path(params.__file__).parents[1]

# name: title, taxonomy, likelihood, kind of bits/dim, bits/dim, FID, GFLOP, probe, MSE
MODELS: dict[str, tuple[Any, ...]] = {
    "gan": ("GAN", "implicit", "implicit", None, None, 0.7, 0.00102, None, None),
    "vae": ("VAE", "explicit approximate", "bound", "upper bound", 1.86, 2.7, 0.00071, 0.93, 0.012),
    "nice": ("NICE", "explicit tractable", "bound", "upper bound", 2.65, 11.2, 0.00047, 0.90, None),
    "pixelcnn": ("Gated PixelCNN", "explicit tractable", "exact", "exact", 1.74, 1.5, 0.181, None, None),
    "vqvae": ("VQ-VAE", "explicit approximate", "bound", "upper bound", 2.02, 3.4, 0.0043, 0.94, 0.021),
}
FAMILIES = {
    "gan": "adversarial", "vae": "variational", "nice": "flow", "pixelcnn": "autoregressive",
    "vqvae": "vector-quantised",
}  # fmt: skip
PASSES = {"gan": 1, "vae": 1, "nice": 1, "pixelcnn": 36, "vqvae": 5}
DECODED = ("vae", "vqvae")  # models with images of the mode and the mean of their decoder's distributions
COUNT, DRAWS, SEEDS = 1000, 3, [0, 1, 2]  # images in a draw, draws, seeds of the extractors
REPEATED = (
    *("copying.c_t", "copying.authentic", "copying.fld_gap", "vendi", "rke", "prd.precision", "prd.recall"),
    *("fid", "fid_infinity", "kid", "inception_score", "precision", "recall", "density", "coverage"),
    *("modes.kl", "modes.found", "sharpness", "nearest_neighbour.samples", "nearest_neighbour.ratio"),
    "nearest_neighbour.copies",
    *("few_labels.1", "few_labels.5", "few_labels.20"),
    *("fine_tuned.1.accuracy", "fine_tuned.1.gain", "fine_tuned.5.accuracy", "fine_tuned.5.gain"),
)
WITHOUT_EXTRACTOR = ("sharpness", "nearest_neighbour", "few_labels", "fine_tuned")
PER_IMAGE = (
    "copying.c_t",
    "copying.fld_gap",
    "fid",
    "fid_infinity",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "modes.kl",
    "sharpness",
    "prd.precision",
    "prd.recall",
)
PER_IMAGE_MEANS = (
    *("recall", "density", "coverage", "bits_per_dim", "bits_gap", "probe_accuracy", "reconstruction_mse"),
    *("few_labels.1", "few_labels.5", "few_labels.20"),
    *("fine_tuned.1.accuracy", "fine_tuned.1.gain", "fine_tuned.5.accuracy", "fine_tuned.5.gain"),
    *("bayes.accuracy", "bayes.kept.confidence", "bayes.kept.density"),
)
BY_BAYES_RULE = "pixelcnn"  # the model that is a density of images given their class


def make_project(
    folder: Path,
    sets: dict[str, ImageSet],
    levels: int,
    classes: list[str],
    seeds: list[int],
    about: str = "It learns.",
) -> None:
    """Write everything that the report reads, in the formats of the stages that make it."""
    settings = {**yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")), "seeds": seeds}
    train = {"epochs": 3, "batch_size": 8, "lr": 0.001}
    settings["models"] = {name: {"kind": name, "train": train} for name in MODELS}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    images = sets["test"].images
    card = {"name": "digits", "source": "a source", "licence": "CC BY 4.0", "split": "by class"}
    write_prepared(folder / "data/prepared", sets, **card, shape=list(images.shape[1:]), levels=levels, classes=classes)
    shares = [1 / len(classes)] * len(classes)
    real = measured(0.4, shares) | {"precision": 0.98, "recall": 0.97}
    baseline = {"bits_per_dim": 2.43, "fid": 88.0, "fid_infinity": 87.5, "kid": 0.9, "inception_score": 2.1,
                "precision": 0.0, "recall": 0.1, "density": 0.0, "coverage": 0.0}  # fmt: skip
    write(folder / "data/reference/reference.json", {
        "counts": {"samples": COUNT, "test": len(images)},
        "real": {**real, "repeats": repeats(real, 98, draws=1)},
        "histogram_model": {**baseline, "repeats": repeats(baseline, 99)},
        "uniform_bits_per_dim": math.log2(levels), "formats": {"bz2": 3.5, "PNG": 3.25}, "pixel_probe_accuracy": 0.95,
        "pixel_few_labels": {"1": 0.4, "5": 0.7, "20": 0.8},
        "naive_bayes": {"bayes": answered(0.8)}, "classifier": {"bayes": answered(0.97, ("confidence",))},
    })  # fmt: skip
    write_tensors(folder / "data/reference/real.safetensors", {
        **{f"real/{key}": values for key, values in per_image(real, len(images), 98).items()},
        **{f"histogram_model/{key}": values for key, values in per_image(baseline, len(images), 99).items()},
        "classifier/kept by confidence": torch.linspace(1, 0.97, len(images)),
    })  # fmt: skip
    write(folder / "data/audit/audit.json", audited())
    extractor = {"name": "classifier", "accuracy": 0.991, "valid_accuracy": 0.99, "features": 64, "sha256": "ab" * 32}
    extractor |= {"about": "a small classifier", "comparable": "nothing outside this page"}
    extractor["classifiers"] = [
        {"seed": seed, "accuracy": 0.991 + off, "valid_accuracy": 0.99 - off}
        for seed, off in zip(SEEDS, (-0.002, 0.0, 0.002), strict=True)
    ]
    write(folder / "data/extractor/metrics.json", {**extractor, "classes": classes})
    for name in MODELS:
        for seed in seeds:
            make_run(folder / "runs" / name / str(seed), name, seed, images, levels, shares, about)


ABSENT = ("high_quality", "class_accuracy", "cas", "true_bits")  # measures that no audit takes


def audited() -> dict[str, Any]:
    """An audit in which every measure notices all that it should."""
    columns = [column for column in GENERATION if column.key not in ABSENT]

    def moved(by: float) -> dict[str, list[list[float]]]:
        values = {c.key: 0.5 + (by if c.better == "lower" else -by) for c in columns}
        return {key: [[value + 0.01 * split] * 3 for split in range(5)] for key, value in values.items()}

    shifted = {"strengths": [0.02, 0.2], "in_pixels": False, "values": [moved(0.0), moved(0.3)]}
    copied = {"strengths": [0.1, 0.5, 1.0], "in_pixels": False, "values": [moved(0.1), moved(0.2), moved(0.3)]}
    return {
        "counts": {"images": 13, "training": 60, "splits": 5},
        "clean": moved(0.0),
        "controls": {name: moved(0.4) for name in ("noise", "independent pixels")},
        "damages": {"mean shift": shifted, COPIES: copied},
    }


def answered(accuracy: float, scores: tuple[str, ...] = ("confidence", "density")) -> dict[str, Any]:
    """What a classifier is measured by."""
    kept = {score: (1 + accuracy) / 2 - 0.01 * place for place, score in enumerate(scores)}
    return {"accuracy": accuracy, "kept": kept, "odd": {score: {"noise": 0.9, "plain grey": 0.4} for score in scores}}


def measured(fid: float, shares: list[float]) -> dict[str, Any]:
    return {
        "fid": fid, "fid_infinity": 0.9 * fid - 0.1, "kid": fid / 100 - 0.004, "kid_std": 0.002,
        "inception_score": 9.8 - fid / 5, "inception_score_std": 0.12, "precision": 0.97 - fid / 40,
        "recall": 0.95 - fid / 30, "density": 1.02 - fid / 20, "coverage": 0.94 - fid / 30,
        "modes": {"histogram": shares, "test_histogram": shares, "kl": fid / 50, "found": len(shares)},
        "sharpness": 1 - fid / 20,
        "nearest_neighbour": {"samples": 1.1 + fid / 10, "test": 1.1, "copies": 0.0},
        "copying": {"c_t": fid - 2.0, "authentic": 0.6 + fid / 100, "fld_gap": fid - 9.0},
        "vendi": 6.1 - fid / 10, "rke": 10.5 - fid / 3,
        "prd": {"precision": 0.96 - fid / 50, "recall": 0.98 - fid / 25, "curve": {
            "precision": [0.0, 0.9 - fid / 50, 0.97 - fid / 50], "recall": [0.99 - fid / 25, 0.9 - fid / 25, 0.0],
        }},
    }  # fmt: skip


def repeats(scores: dict[str, Any], seed: int, draws: int = DRAWS) -> dict[str, list[list[float]]]:
    """Tables, a row a draw and a column an extractor, whose means are those of `scores`; for the keys that it has."""
    near = scores.get("nearest_neighbour")
    if near:
        scores = {**scores, "nearest_neighbour": {**near, "ratio": near["samples"] / near["test"]}}
    tables, random = {}, torch.Generator().manual_seed(seed)
    for key in REPEATED:
        columns = 1 if key.startswith(WITHOUT_EXTRACTOR) else len(SEEDS)
        off = torch.randn(draws, columns, generator=random, dtype=torch.float64)
        off = 0.02 * (off - off.mean()) + 0.05 * torch.linspace(-1, 1, columns, dtype=torch.float64)
        value = look_up(scores, key)
        if value is not None:
            varied = off - off.mean() if key not in ("modes.found", "nearest_neighbour.copies") else 0 * off
            tables[key] = (value * (1 + varied)).tolist()
    return tables


def per_image(scores: dict[str, Any], images: int, seed: int) -> dict[str, Tensor]:
    """Influence of each test image on each measure that rests on them: in part the same for all models.

    Of a plain mean over test images they are its terms; others have a mean of 0.
    """
    shared, own = (torch.Generator().manual_seed(one) for one in (1000, seed))
    found = {}
    for key in dict.fromkeys((*PER_IMAGE, *PER_IMAGE_MEANS)):
        scattered = [torch.randn(images, generator=random) for random in (shared, own)]
        value = look_up(scores, key)
        if value is not None:
            off = 0.2 * abs(value) * (scattered[0] + scattered[1])
            found[f"per_image/{key}"] = off - off.mean() + (value if key in PER_IMAGE_MEANS else 0)
    return found


def make_run(folder: Path, name: str, seed: int, images: Tensor, levels: int, shares: list[float], about: str) -> None:
    title, taxonomy, likelihood, kind, bits, fid, gflops, probe, mse = MODELS[name]
    random = torch.Generator().manual_seed(list(MODELS).index(name) * 100 + seed)
    wobble = 1 + seed / 10
    first = max(2, round(len(shares) * 0.3))
    tilted = [share * (1.3 - seed / 10 if i < first else 1) for i, share in enumerate(shares)]
    values = measured(fid * wobble, [share / sum(tilted) for share in tilted])
    values["modes"]["test_histogram"] = shares
    number = 10 * list(MODELS).index(name) + seed
    theory = {
        "bits_per_dim": bits and bits * wobble,
        "bits_gap": bits and 0.02 * wobble,
        "probe_accuracy": probe,
        "reconstruction_mse": mse,
        "few_labels": {str(count): probe - 1 / (2 + count) for count in (1, 5, 20)} if probe else {},
        "fine_tuned": {"1": {"accuracy": 0.7, "gain": 0.1}, "5": {"accuracy": 0.8, "gain": -0.01}} if mse else {},
        "bayes": answered(0.91) if name == BY_BAYES_RULE else None,
    }
    decoded = {
        way: {k: v for k, v in measured(fid * wobble * factor, shares).items() if k != "nearest_neighbour"}
        for way, factor in (("mode", 0.6), ("mean", 1.3))
        if name in DECODED
    }
    write(folder / "metrics.json", {
        "name": name, "kind": name, "seed": seed, "title": title, "paper": "Somebody et al. 2016", "taxonomy": taxonomy,
        "family": FAMILIES[name],
        "likelihood": likelihood, "objective": "−log p(x) = −Σᵢ log p(xᵢ | x₁ … xᵢ₋₁)", "about": about,
        "note": "It has a note." if name == "gan" else "",
        "selected_step": 40, "steps": 60, "training_gflops": 400.25, "parameters": 123456,
        "counts": {"samples": COUNT, "draws": DRAWS, "train": 1259, "test": len(images)}, **values,
        "repeats": repeats(values | theory, number), "decoded": decoded,
        **theory, "bits_per_dim_kind": kind, "bits_per_dim_sem": bits and 0.01,
        "oddity": {"noise": 1.0, "plain grey": 0.3 + seed / 10} if bits else None,
        "gflops_per_sample": gflops, "passes_in_sequence": PASSES[name],
    })  # fmt: skip
    (folder / "model.safetensors").write_text(f"the weights of {name} {seed}")
    write_timings(folder, gflops)
    lines = []
    for step in range(1, 61):
        fall = 60 + 200 * math.exp(-step / 8) + torch.rand((), generator=random).item() * 3
        scalars = {"loss": fall}
        if likelihood == "implicit":
            scalars = {
                f"{player}_{key}": value / 100 for player in ("critic", "generator") for key, value in (("loss", fall),)
            }
            scalars |= {"critic_accuracy_real": 0.5 + 20 / (step + 45), "critic_accuracy_fake": 0.5 + 15 / (step + 45)}
        lines.append({"step": step, "epoch": step / 20, **scalars})
        if step % 5 == 0:
            lines.append({"step": step, "epoch": step / 20, "valid_loss": fall + (step - 40) ** 2 / 100})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def like(n: int, random: torch.Generator = random) -> Tensor:
        picked = images[torch.randint(len(images), (n,), generator=random)].float()
        noisy = picked + torch.randn(picked.shape, generator=random) * fid / 12 * levels / 10
        whole: Tensor = noisy.round().clamp(0, levels - 1).to(torch.uint8)
        return whole

    further = torch.Generator().manual_seed(number)
    drawn = torch.cat([like(COUNT), like((DRAWS - 1) * COUNT, further)])
    others = {way: like(COUNT, further) for way in decoded}
    write_tensors(folder / "samples.safetensors", {"images": drawn, **others})
    pictures = {f"neighbours_{what}": like(16) for what in ("samples", "train", "by_features")}
    if mse is not None:
        pictures |= {"reconstruct_originals": images[:16], "reconstructions": like(16)}
        pictures["interpolations"] = like(60).unflatten(0, (6, 10))
    if name == BY_BAYES_RULE:
        pictures |= {f"kept by {score}": torch.linspace(1, 0.91, len(images)) for score in ("confidence", "density")}
    if kind == "exact":
        pictures |= {"completions_originals": images[:16], "completions": like(16)}
    if bits:
        pictures |= {f"bits of {what}": torch.rand(30, generator=random) + 1 for what in ("test images", "noise")}
    pictures |= per_image(values | theory, len(images), number)
    if name in ("nice", "vae"):
        pictures |= {"latent_map": like(49).unflatten(0, (7, 7)), "latent_shares": torch.tensor([0.4, 0.2])}
    if name == "nice":
        lengths = {"scales": torch.linspace(2, 0.1, 36), "PCA": torch.linspace(1.5, 0.05, 36)}
        pictures |= {f"spectrum of {what}": found for what, found in lengths.items()}
    if name == "vae":
        pictures["class_grid"] = like(6 * len(shares)).unflatten(0, (6, len(shares)))
    write_tensors(folder / "pictures.safetensors", pictures)
    snapshots = like(9 * 10).unflatten(0, (9, 10))
    write_tensors(folder / "snapshots.safetensors", {"images": snapshots, "steps": torch.arange(9) * 7})


def write_timings(folder: Path, gflops: float, processor: str = "Some CPU") -> None:
    """What the stages would have measured of the weights in the folder of a run."""
    stages = {
        "train": {"seconds": 12.5, "steps": 60, "parameters": 123456},
        "sample": {"seconds": 0.5, "images": 1000, "images_per_second": 30 / gflops},
        "evaluate": {"seconds": 2.0},
    }
    host = {"device": "cpu", "processor": processor, "cores": 2, "platform": "Linux", "python": "3.11"}
    weights = sha256(folder / "model.safetensors")
    for stage, facts in stages.items():
        path = folder.parents[2] / "timings" / weights / f"{stage}.json"
        write(path, {**facts, "host": {**host, "packages": {"torch": "2.9.0"}}})


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def small_sets(seed: int = 0) -> dict[str, ImageSet]:
    random = torch.Generator().manual_seed(seed)
    sizes = {"train": 60, "valid": 20, "test": 40}
    images = {k: torch.randint(0, 5, (n, 1, 6, 6), generator=random, dtype=torch.uint8) for k, n in sizes.items()}
    return {split: ImageSet(x, torch.arange(len(x)) % 3) for split, x in images.items()}
