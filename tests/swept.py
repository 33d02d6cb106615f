"""A sweep with invented results in the invented project: six trials of the VAE, of which one failed."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.invented_project import write

# latents, train.lr and by how much the least validation loss lies above that of the model that the sweep began with
TRIALS: dict[str, tuple[int, float, float]] = {
    "vae_1": (4, 0.001, 2.5), "vae_2": (8, 0.001, -3.0), "vae_3": (8, 0.03, 7.0), "vae_5": (16, 0.003, -1.0),
    "vae_6": (32, 0.0004, 4.0),
}  # fmt: skip
BEST = "vae_2"


def add_sweep(folder: Path) -> None:
    """Put the trials beside the project's VAE; the better one is by validation, the worse its test figures."""
    path = folder / "params.yaml"
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["models"]["vae"] |= {"latents": 2}
    for name, (latents, rate, above) in TRIALS.items():
        entry = json.loads(json.dumps(settings["models"]["vae"])) | {"latents": latents}
        entry["train"]["lr"] = rate
        settings["models"][name] = entry
        shutil.copytree(folder / "runs/vae", folder / "runs" / name)
        for run in (folder / "runs" / name).iterdir():
            metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            write(run / "metrics.json", metrics | {"name": name, "fid": metrics["fid"] - above / 10})
            lines = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
            moved = [{k: v + above * (k == "valid_loss") for k, v in line.items()} for line in lines]
            (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in moved))
    failed = {"vae_4": {"latents": 16, "train.lr": 3.0}}
    settings["sweeps"] = {"vae": {"varied": ["latents", "train.lr"], "trials": list(TRIALS), "failed": failed}}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
