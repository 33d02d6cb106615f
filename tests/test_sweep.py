"""Sweeps: what may stand in params.yaml, how trials get there, and what Optuna is told and asked."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import sweep as command
from tests.conftest import ROOT
from workflow import params
from workflow.errors import BakeoffError
from workflow.models import kinds, registry
from workflow.sweeps import run
from workflow.sweeps.search import Known, Range, Values, grid, parse, propose
from workflow.sweeps.trials import best_of, read_losses
from workflow.training.checkpoint import failure_path, noting_failure

SMOKE = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
SPACE = parse(["latents=4..32", "train.lr=1e-4..1e-2:log", "decoder=categorical,logistic"])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, in which nothing of a sweep is trained."""
    smoke = (ROOT / "presets/smoke.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(smoke.replace("latents: 4", "latents: 4 # few"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "untrained", lambda base, _: [base])
    return tmp_path


def swept(**changes: Any) -> str:
    """Parameters with a sweep of the VAE, which has two trials."""
    vae = SMOKE["models"]["vae"]
    trials = {"vae_1": {**vae, "latents": 8}, "vae_2": {**vae, "train": {**vae["train"], "lr": 0.5}}}
    sweep = {"varied": ["latents", "train.lr"], "trials": list(trials), **changes.pop("sweep", {})}
    content = {**SMOKE, "models": {**SMOKE["models"], **trials}, "sweeps": {"vae": sweep}}
    return yaml.safe_dump({**content, **changes})


def test_a_good_sweep_and_none_are_loaded() -> None:
    assert params.parse(swept()).sweeps["vae"].trials == ["vae_1", "vae_2"]
    assert params.parse(swept(sweep={"failed": {"vae_3": {"latents": 64}}})).sweeps["vae"].failed
    assert params.parse(yaml.safe_dump(SMOKE)).sweeps == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sweep": {"trials": ["vae_1", "vae_9"]}}, "sweeps.vae.trials: 'vae_9': no such model; known: "),
        ({"sweep": {"trials": ["vae_1", "vae_1"]}}, "sweeps.vae.trials: 'vae_1' stands twice"),
        ({"sweep": {"trials": ["vae"]}}, "sweeps.vae.trials: 'vae' stands twice"),
        ({"sweep": {"trials": ["gan"]}}, "sweeps.vae.trials: 'gan' differs from 'vae' in kind, "),
        ({"sweep": {"varied": ["latents"]}}, "'vae_2' differs from 'vae' in train.lr too; add that to varied"),
        ({"sweep": {"varied": ["latents", "train.lr", "kind"]}}, "sweeps.vae.varied: 'kind': a sweep is of one kind"),
        ({"sweep": {"varied": ["latents", "train.lr", "latens"]}}, "sweeps.vae.varied: 'latens': none of its models"),
        ({"sweep": {"varied": []}}, "sweeps.vae.varied: []: "),
        ({"sweep": {"trails": []}}, "sweeps.vae.trails: unknown key; known here: varied, trials, failed"),
        ({"sweep": {"failed": {"vae_1": {"latents": 8}}}}, "sweeps.vae.failed: 'vae_1': should be no model any more"),
        ({"sweep": {"failed": {"vae_3": {"channels": 8}}}}, "sweeps.vae.failed: 'vae_3': "),
        ({"sweeps": {"vea": {"varied": ["latents"], "trials": []}}}, "sweeps.vea: 'vea': no such model; known: "),
        (
            {"sweeps": {n: {"varied": ["latents", "train.lr"], "trials": ["vae_2"]} for n in ("vae", "vae_1")}},
            "sweeps.vae_1.trials: 'vae_2' is in sweeps.vae already",
        ),
    ],
)
def test_a_bad_sweep_is_named_in_one_line(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(BakeoffError) as caught:
        params.parse(swept(**change))
    assert str(caught.value).startswith("params.yaml: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_validation_cannot_rank_is_refused_and_is_a_hyper_parameter() -> None:
    with pytest.raises(BakeoffError, match=r"sweeps.vae.varied: 'classes': validation losses of models"):
        registry.check_entries(params.parse(swept(sweep={"varied": ["latents", "train.lr", "classes"]})
                                            .replace("  vae_1:", "  vae_1:\n    classes: 10")))  # fmt: skip
    for kind in kinds():
        family = registry.model_class(kind)
        assert set(family.unranked) <= set(family.__init__.__annotations__)
        assert "classes" in family.unranked or "classes" not in family.__init__.__annotations__


def test_numbers_in_the_way_dvc_writes_them_are_numbers() -> None:
    text = yaml.safe_dump(SMOKE).replace("lr: 0.002", "lr: 1e-05")
    assert params.parse(text).models["nice"].training.lr == 1e-5


def test_what_to_vary_is_read_from_the_command_line() -> None:
    assert {
        "latents": Range(4, 32, log=False), "train.lr": Range(1e-4, 1e-2, log=True),
        "decoder": ["categorical", "logistic"],
    } == SPACE  # fmt: skip
    assert parse(["a=1,2.5,-1e3,true,x"]) == {"a": [1, 2.5, -1000.0, True, "x"]}
    assert grid(parse(["a=1,2", "train.b=x,y"])) == [
        {"a": 1, "train.b": "x"}, {"a": 1, "train.b": "y"}, {"a": 2, "train.b": "x"}, {"a": 2, "train.b": "y"},
    ]  # fmt: skip
    with pytest.raises(BakeoffError, match="latents: a range needs --trials"):
        grid(SPACE)


@pytest.mark.parametrize(
    "argument", ["latents", "=3", "latents=", "a.b=3", "../x=3", "a=4..", "a=4..4", "a=9..1", "a=x..y", "a=0..1:log"]
)
def test_what_cannot_be_read_is_named(argument: str) -> None:
    with pytest.raises(BakeoffError, match=rf"^'{argument}': ".replace(".", r"\.")):
        parse([argument])


def told(values: Sequence[Values], loss: Any) -> list[Known]:
    return [Known(one, loss(one)) for one in values]


def test_proposals_lie_in_the_space_are_new_and_the_same_again() -> None:
    known: list[Known] = []
    for _ in range(8):
        new = propose(SPACE, known, 3)
        assert new == propose(SPACE, known, 3)
        known += told(new, lambda one: one["latents"])
    for one in known:
        assert 4 <= one.values["latents"] <= 32
        assert isinstance(one.values["latents"], int)
        assert 1e-4 <= one.values["train.lr"] <= 1e-2
        assert len(str(one.values["train.lr"]).replace(".", "").strip("0")) <= 6  # to be read by people
        assert one.values["decoder"] in ("categorical", "logistic")
    assert len({str(one.values) for one in known}) == 24


def test_proposals_gather_where_losses_are_low_and_shun_what_failed() -> None:
    def share_below(known: list[Known]) -> float:
        return sum(bool(one["x"] < 0.5) for one in propose(space, known, 5)) / 5

    space = parse(["x=0.0..1.0"])
    places = [{"x": i / 40} for i in range(40)]
    assert share_below(told(places, lambda one: one["x"])) == 1
    assert share_below(told(places, lambda one: 1 - one["x"])) == 0
    above = [Known(one, one["x"]) for one in places if one["x"] >= 0.5]
    below = [Known(one, None, failed=True) for one in places if one["x"] < 0.5]
    assert share_below(above) > 0.7 > 0.3 > share_below(above + below)


def test_a_space_that_is_used_up_has_no_more_to_propose() -> None:
    space = parse(["a=1,2,3"])
    assert propose(space, [Known({"a": 1}, 0.5), Known({"a": 3}, None, failed=True)], 4) == [{"a": 2}]
    assert propose(space, [Known({"a": 7}, 0.5)], 0) == []


def test_a_grid_becomes_entries_and_comments_stay(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "params.yaml").read_text(encoding="utf-8")
    command.main(["vae", "latents=4,8", "train.lr=0.005,1e-5"])
    after = (project / "params.yaml").read_text(encoding="utf-8")
    assert after.startswith(before)
    settings = params.load()
    assert settings.sweeps["vae"].trials == ["vae_1", "vae_2", "vae_3"]  # the fourth is the model itself
    assert [(e.hyperparameters["latents"], e.training.lr) for name, e in settings.models.items() if "vae_" in name] == [
        (4, 1e-5), (8, 0.005), (8, 1e-5),
    ]  # fmt: skip
    assert "vae_3 (latents 8, train.lr 1e-05)\nnow run an engine: " in capsys.readouterr().out
    command.main(["vae", "latents=8,16"])  # one of them is there
    assert params.load().sweeps["vae"].trials == ["vae_1", "vae_2", "vae_3", "vae_4"]
    assert params.load().models["vae_4"].training.lr == 0.005


def test_what_differs_in_other_keys_too_has_not_been_tried(project: Path) -> None:
    command.main(["vae", "latents=8", "train.lr=1e-5"])
    command.main(["vae", "latents=8,16"])
    settings = params.load()
    found = [settings.models[name] for name in settings.sweeps["vae"].trials]
    assert [(e.hyperparameters["latents"], e.training.lr) for e in found] == [(8, 1e-5), (8, 0.005), (16, 0.005)]


def test_a_value_twice_or_the_one_that_the_model_has_by_default_is_no_trial(project: Path) -> None:
    command.main(["vae", "latents=8,8", "network=convolutional"])
    assert params.load().sweeps["vae"].trials == ["vae_1"]


def test_names_that_are_taken_are_left_out(project: Path) -> None:
    content = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    content["models"]["vae_1"] = content["models"]["gan"]
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    command.main(["vae", "latents=8"])
    assert params.load().sweeps["vae"].trials == ["vae_2"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["vea", "latents=4"], "'vea': no such model"),
        (["vae", "latens=8"], "models.vae_1.latens: unknown key"),
        (["vae", "latents=0"], "models.vae_1.latents: 0: should be greater than"),
        (["vae", "train.lr=x"], "models.vae_1.train.lr: 'x': "),
        (["vae", "kind=gan"], "'kind': a sweep is of one kind"),
        (["vae", "importance_samples=8"], "'importance_samples': validation losses of models"),
        (["vae", "latents=4..8"], "a range needs --trials"),
        (["vae", "latents=4..8", "--trials", "-1"], "--trials, --parallel: should be 1 or more"),
    ],
)
def test_a_bad_command_changes_nothing(project: Path, arguments: list[str], expected: str) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(BakeoffError) as caught:
        command.main(arguments)
    assert expected in str(caught.value)
    assert (project / "params.yaml").read_bytes() == before


def test_optuna_waits_for_results_before_it_proposes_more(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        command.main(["vae", "latents=5..64", "--trials", "5", "--parallel", "2"])
        assert params.load().sweeps["vae"].trials == ["vae_1", "vae_2"]
    for name in ("vae", "vae_1", "vae_2"):
        write_history(project, name, [9.0, 8.0])
    monkeypatch.setattr(run, "untrained", lambda *_: ["vae_2"])  # by the same name, something else
    command.main(["vae", "latents=5..64", "--trials", "5", "--parallel", "2"])
    assert len(params.load().sweeps["vae"].trials) == 2
    monkeypatch.setattr(run, "untrained", lambda *_: [])
    command.main(["vae", "latents=5..64", "--trials", "5", "--parallel", "4"])
    assert len(params.load().sweeps["vae"].trials) == 5


def write_history(folder: Path, name: str, losses: list[float]) -> None:
    path = folder / "runs" / name / "0/history.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"step": 1, "loss": 1.0}\n' + "".join(f'{{"step": 2, "valid_loss": {one}}}\n' for one in losses))


def test_an_engine_that_fails_for_another_reason_ends_the_sweep(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BakeoffError, match="nowhere/engine: No such file"):
        command.main(["vae", "latents=8", "--", "nowhere/engine"])
    monkeypatch.setattr(run, "untrained", lambda _, settings: [n for n in settings.models if "_" in n])
    failure_path("vae_1", 0).parent.mkdir()
    failure_path("vae_1", 0).write_text("of an earlier run")
    with pytest.raises(BakeoffError, match="ended with exit status 1; fix what it reports"):
        command.main(["vae", "latents=8", "--", "false"])
    with pytest.raises(BakeoffError, match="has not trained vae_1; run one that trains all models"):
        command.main(["vae", "latents=8", "--", "true"])


def test_a_failure_is_noted_until_the_training_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BakeoffError), noting_failure("vae", 1):
        raise BakeoffError("training diverged")
    assert failure_path("vae", 1).read_text(encoding="utf-8") == "training diverged\n"
    with pytest.raises(KeyboardInterrupt), noting_failure("vae", 1):
        raise KeyboardInterrupt
    assert not failure_path("vae", 1).exists()


def test_the_figure_of_a_trial_is_the_least_loss_of_each_seed_and_the_first_of_the_best_wins(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = params.parse(swept(seeds=[0, 1]))
    write_history(project, "vae_1", [5.0, 3.0, 4.0])
    assert read_losses("vae_1", settings) == []  # one seed is not there
    other = project / "runs/vae_1/1/history.jsonl"
    other.parent.mkdir()
    other.write_text('{"step": 1, "valid_loss": 2.5}\n')
    assert read_losses("vae_1", settings) == [3.0, 2.5]
    other.write_text("{")
    with pytest.raises(BakeoffError, match=r"^runs/vae_1/1/history.jsonl: not a line of JSON"):
        read_losses("vae_1", settings)
    assert best_of({"a": [], "b": [2.0, 4.0], "c": [3.0, 3.0], "d": [9.0, 1.0]}) == "b"
    assert best_of({"a": []}) is None


def test_a_second_one_in_the_same_folder_is_refused_and_any_number_of_values_is_taken(project: Path) -> None:
    asked = (sys.executable, "-m", "stages.sweep", "vae", f"latents={','.join(map(str, range(100, 200)))}")
    with run.exclusive():
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: another `python -m stages.sweep` is running in this folder")
    command.main(list(asked[3:]))
    assert len(params.load().sweeps["vae"].trials) == 100
