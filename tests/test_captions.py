"""Captions: tables and wordings against what they say, the prior that reads them, and images of prompts."""

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from tests.conftest import ROOT
from workflow import params
from workflow.data import captions, catalogue, wordings
from workflow.data.arrays import Arrays, Card, as_card, read_card, write_arrays, write_images, write_prepared
from workflow.data.counts import check_model
from workflow.data.layout import look
from workflow.data.tensors import ImageSet, read_split
from workflow.errors import BakeoffError
from workflow.evaluation.prompts import COLUMNS, ROWS, prompted
from workflow.models import registry
from workflow.models.layers.codes import CodeByCode
from workflow.models.layers.priors import CaptionedPrior
from workflow.models.vqvae import BLANK, VqVae
from workflow.params import Folder
from workflow.report.model_views import _prompted, _remarks
from workflow.training.loop import fit
from workflow.training.told import told

WORDS, LENGTH, CODES = 5, 3, 3
DIGITS = Card(
    "digits", "", "", (1, 8, 8), 17, tuple("0123456789"), {"train": 1, "valid": 1, "test": 1}, {}, ""
)  # fmt: skip
TOLD = torch.tensor([[2, 5, 0], [1, 0, 0], [0, 0, 0]])


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _prior(grid: tuple[int, int] = (2, 2)) -> CaptionedPrior:
    """Tiny, its weights enlarged so that words matter."""
    torch.manual_seed(0)
    prior = CaptionedPrior(grid, CODES, 16, 2, 0.1, WORDS, LENGTH).double().eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(2)
    return prior


def _model(shape: tuple[int, int, int] = (1, 8, 8), levels: int = 3, prior: str = "transformer") -> VqVae:
    torch.manual_seed(1)
    hyperparameters: dict[str, Any] = {"codes": CODES, "code_size": 2, "decay": 0.9, "commitment": 0.25, "channels": 4}
    hyperparameters |= {"prior_channels": 16, "prior_layers": 1, "dropout": 0.1, "prior": prior}
    model = VqVae(shape, levels, **hyperparameters, vocabulary=WORDS, caption_length=LENGTH)
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *model.prior.parameters()):
            parameter.mul_(2)
    return model.eval()


def _captioned(model: VqVae) -> CaptionedPrior:
    assert isinstance(model.prior, CaptionedPrior)
    return model.prior


def _grids(places: int = 4) -> Tensor:
    return torch.tensor(list(itertools.product(range(CODES), repeat=places))).view(-1, 2, 2)


# The prior


def test_steps_with_a_cache_have_the_logits_of_a_full_pass() -> None:
    prior = _prior()
    codes = torch.randint(CODES, (3, 4), generator=_generator())
    with torch.no_grad():
        whole, steps = prior.logits(TOLD, codes), CodeByCode(prior, 3, torch.ones(CODES, prior.length).bool())
        sequence = torch.cat([CODES + TOLD, codes], 1)
        steps.read(sequence[:, :LENGTH])
        for i in range(4):
            step = steps.step(sequence[:, : LENGTH + i])
            torch.testing.assert_close(step, whole[:, :, i], rtol=1e-12, atol=1e-12)


def test_a_code_sees_the_caption_and_the_codes_before_it_and_nothing_else() -> None:
    prior = _prior()
    caption, codes = TOLD[:1], torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        before = prior.logits(caption, codes)
        for i in range(4):
            other = codes.clone()
            other[0, i] = 1
            changed = (prior.logits(caption, other) != before).any(1)[0]
            assert changed.tolist() == [place > i for place in range(4)]
        for i in range(LENGTH):
            other = caption.clone()
            other[0, i] = 3
            assert (prior.logits(other, codes) != before).any(1).all()


def test_given_each_caption_the_probabilities_of_all_grids_sum_to_one_without_codes_on_trial() -> None:
    prior, grids = _prior(), _grids()
    for available in (torch.tensor([True, True, True]), torch.tensor([True, False, True])):
        with torch.no_grad():
            each = [prior.log_prob_given(grids, available, row.expand(len(grids), -1)).exp() for row in TOLD]
            blank = prior.log_prob(grids, available, _generator()).exp()
        for found in each:
            assert found.sum().item() == pytest.approx(1, rel=1e-12)
            assert not found[(grids == 1).any(2).any(1)].any() or available[1]
        assert torch.equal(each[2], blank)
        assert (each[0] - each[1]).abs().max() > 0.01


def test_grids_are_drawn_as_often_as_they_are_probable_given_the_caption() -> None:
    prior, grids, every, n = _prior(), _grids(), torch.ones(CODES, dtype=torch.bool), 6000
    drawn = prior.draw_given(TOLD[:1].expand(n, -1), every, _generator())
    share = (drawn.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1).bincount(minlength=81) / n
    with torch.no_grad():
        expected = prior.log_prob_given(grids, every, TOLD[:1].expand(81, -1)).exp()
    assert ((share - expected).abs() < 5 * (expected / n).sqrt() + 1e-4).all()


# The model


def test_the_bound_is_below_the_density_given_the_caption_which_sums_to_one() -> None:
    """All 65,536 binary images of 4x4, whose grid is a single code; the bounds of one in 61."""
    model = _model((1, 4, 4), levels=2)
    x = ((torch.arange(2**16)[:, None] >> torch.arange(16)) & 1).to(torch.uint8).view(-1, 1, 4, 4)
    grids, bounds = torch.arange(CODES).view(-1, 1, 1), []
    with torch.no_grad():
        ink = model.distribution.log_levels(model.pixels(grids)).double().flatten(2)
        flat = x.flatten(1).double()
        given_code = flat @ ink[:, 1].T + (1 - flat) @ ink[:, 0].T
        for row in TOLD:
            bounds.append(model.log_prob_captioned(x[::61], row.expand(len(x[::61]), -1), _generator()).double())
            prior = _captioned(model).log_prob_given(grids, model.codebook.available, row.expand(CODES, -1))
            density = (given_code + prior.double()).logsumexp(1)
            assert density.exp().sum().item() == pytest.approx(1, rel=1e-5)
            assert (bounds[-1] <= density[::61] + 1e-5).all()
        torch.testing.assert_close(model.log_prob(x[::61], _generator()).double(), bounds[2])
    assert (bounds[0] - bounds[1]).abs().max() > 0.01


def test_the_best_of_several_is_the_most_probable_of_the_same_draws() -> None:
    model, rows = _model(), TOLD.repeat(5, 1)
    prior, available = _captioned(model), model.codebook.available
    random = _generator(3)
    with torch.no_grad():
        drawn = torch.stack([prior.draw_given(rows, available, random) for _ in range(4)])
        scores = torch.stack([prior.log_prob_given(grids, available, rows) for grids in drawn])
        best = drawn[scores.argmax(0), torch.arange(len(rows))]
        expected = model.distribution.draw(model.pixels(best), random)
        assert torch.equal(model.sample_captioned(rows, _generator(3), 4), expected)
        assert scores.max(0).values.mean() > scores.mean() + 0.1
        one = model.distribution.draw(model.pixels(prior.draw_given(rows, available, random := _generator(4))), random)
        assert torch.equal(model.sample_captioned(rows, _generator(4)), one)


def test_training_takes_one_caption_of_each_image_and_leaves_out_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    model, n, seen = _model(), 4000, list[Tensor]()
    x = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    y = torch.stack([torch.arange(n) % WORDS + 1, torch.arange(n) % WORDS + 1], 1)[:, :, None]
    y = torch.cat([y, torch.tensor([1, 2]).view(1, 2, 1).expand(n, -1, -1), torch.zeros(n, 2, 1, dtype=torch.long)], 2)

    def read(_grids: Tensor, _available: Tensor, rows: Tensor) -> Tensor:
        seen.append(rows)
        return torch.zeros(len(rows))

    monkeypatch.setattr(model.prior, "log_prob_given", read)
    model.train().loss(x, y, "model", _generator())
    model.eval().validate(x, y, _generator())
    blank = ~seen[0].any(1)
    assert abs(blank.double().mean().item() - BLANK) < 5 * (BLANK * (1 - BLANK) / n) ** 0.5
    for rows in (seen[0][~blank], seen[1]):
        assert abs((rows[:, 1] == 1).double().mean().item() - 0.5) < 5 * 0.5 / len(rows) ** 0.5
    assert torch.equal(seen[1][:, 0], y[:, 0, 0])  # each its own; none is left out where nothing is learned
    assert torch.equal(seen[0][~blank, 0], y[~blank, 0, 0])


def test_options_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match="set prior to transformer"):
        _model(prior="pixelcnn")
    entry = params.load(ROOT / "presets/lectures.yaml").models["vqvae_text"]
    with pytest.raises(BakeoffError, match="need both vocabulary and caption_length"):
        registry.build("vqvae", (1, 8, 8), 17, {**entry.hyperparameters, "caption_length": 0})


# Words and wordings


def test_what_is_kept_out_is_never_told_but_every_word_is() -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 17, (500, 1, 8, 8), np.uint8), rng.integers(10, size=500)
    known = wordings.thirds(images, labels, DIGITS)
    texts = wordings.captions_of(images, labels, DIGITS, known)
    every = wordings.wordings(DIGITS)
    used = {text for row in texts for text in row}
    assert used <= {one.text for one in every if not one.kept_out}
    assert captions.learn(used) == captions.language_of(DIGITS)
    assert texts == wordings.captions_of(images, labels, DIGITS, known)
    assert {one.label for one in every if one.kept_out} == set(range(10))
    assert not {"thin two", "a thin seven", "bold 4", "the bold digit nine"} & used
    assert {"an eight", "a one", "a drawing of a bold three", "the thin number 3"} <= {one.text for one in every}


@pytest.mark.parametrize("ink", [1, -1], ids=["white on black", "black on white"])
def test_thin_and_bold_are_the_thirds_of_a_class_with_least_and_most_ink(ink: int) -> None:
    images = np.zeros((18, 1, 8, 8), np.uint8)
    images[:, 0, 2:-2, 2:-2] = np.arange(18)[:, None, None] // 2  # the even ones are twos, the odd ones eights
    images = images if ink > 0 else 16 - images
    labels = np.array([2, 8] * 9)
    texts = wordings.captions_of(images, labels, DIGITS, wordings.thirds(images, labels, DIGITS))
    said = [{word for text in row for word in text.split()} & {"thin", "bold"} for row in texts]
    assert said[1::2] == [{"thin"}] * 3 + [set()] * 3 + [{"bold"}] * 3  # eights
    assert said[::2] == [set()] * 6 + [{"bold"}] * 3  # no two is called thin
    assert all(("two" in text or "2" in text) for row in texts[::2] for text in row)


def test_classes_that_are_no_digits_are_called_by_their_names() -> None:
    found = wordings.wordings(replace(DIGITS, classes=("ankle boot", "coat"), shape=(3, 8, 8)))
    assert {one.text for one in found if one.label == 0} == {
        "ankle boot",
        "the ankle boot",
        "a picture of the ankle boot",
        "an image of the ankle boot",
        "this is the ankle boot",
    }
    assert sum(one.kept_out for one in found) == 2
    assert not any(one.adjective for one in found)
    assert captions.language_of(replace(DIGITS, classes=())) is None
    assert captions.language_of(replace(DIGITS, channelwise=True)) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("e\u0301le\u0300ve, \u00c9L\u00c8VE", ["\u00e9l\u00e8ve"] * 2),  # as macOS writes them, and as keyboards do
        ("बिल्ली ที่", ["बिल्ली", "ที่"]),
        ("don’t 'don't' rock'n'roll ' - snake_case 2nd", ["don't", "don't", "rock'n'roll", "snake", "case", "2nd"]),
    ],
)
def test_words_are_whole_in_every_script_and_way_of_writing(text: str, words: list[str]) -> None:
    assert captions.words_in(text) == words


def test_more_words_than_have_numbers_get_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "MOST_WORDS", 3)
    assert len(captions.learn(["a b c"]).words) == 3
    with pytest.raises(BakeoffError, match=r"^captions\.csv: 4 different words; at most 3: leave rare ones out$"):
        captions.learn(["a b", "c d"])


@pytest.mark.parametrize(
    ("classes", "alike"), [(("+", "one"), r"\+"), (("C", "Rust", "C#", "C++"), r"C, C#, C\+\+"), (("a", "b"), "")]
)
def test_classes_that_no_words_tell_apart_get_one_line(classes: tuple[str, ...], alike: str) -> None:
    card = replace(DIGITS, classes=classes, shape=(3, 8, 8))
    language = captions.language_of(card)
    assert language
    entry = params.load(ROOT / "presets/lectures.yaml").models["vqvae_text"]
    own = {**entry.hyperparameters, "vocabulary": len(language.words), "caption_length": language.length}
    entry = entry.model_copy(update=own)
    card = replace(card, counts=dict.fromkeys(card.counts, 1000))
    with pytest.raises(BakeoffError, match=f"those of {alike} have no letters") if alike else nullcontext():
        check_model("reader", entry, card)


def test_numbers_are_those_of_the_words_in_the_order_of_the_alphabet() -> None:
    language = captions.learn(["A thin three.", "don't draw THREE"])
    assert language == captions.Language(("a", "don't", "draw", "thin", "three"), 3)
    rows = captions.in_numbers([["three, unknown a"], ["thin", "a three a a"]], language)
    assert rows.tolist() == [[[5, 1, 0], [5, 1, 0]], [[4, 0, 0], [1, 5, 1]]]
    assert captions.read_prompt("Thin three!", language.words, 4).tolist() == [4, 5, 0, 0]


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("a thin cat", "'cat': in no caption of the training; known: a, digit, eight, thin"),
        ("a digti", "'digti': in no caption of the training; known: digit, eight, a, thin"),
        ("?!", "'?!': has no word; name what to draw"),
        ("a thin thin thin eight", "'a thin thin thin eight': 5 words; at most 4 (caption_length)"),
    ],
)
def test_a_prompt_of_other_words_gets_one_line(prompt: str, line: str) -> None:
    with pytest.raises(BakeoffError) as error:
        captions.read_prompt(prompt, ("a", "digit", "eight", "thin"), 4)
    assert str(error.value) == line


# The user's own captions


def _pictures(root: Path, count: int = 20) -> list[str]:
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / f"{i:02}.png")
    return [f"{i:02}.png" for i in range(count)]


def _prepared(root: Path, raw: Path, prepared: Path) -> Card:
    settings = Folder(name="folder", root=root, size=8, grey=True)
    catalogue.download(settings, raw)
    sets, about = catalogue.prepare(settings, raw)
    write_prepared(prepared, sets, **about)
    return read_card(prepared)


def test_captions_beside_pictures_reach_the_training(tmp_path: Path) -> None:
    root, names = tmp_path / "own", _pictures(tmp_path / "own/below")
    lines = [f'below/{name};"number {name[:2]}; in grey"' for name in names]
    table = root / "captions.csv"
    table.write_text("\n".join(["file;text", *lines, "below/03.png;one more"]), encoding="utf-8")
    card = _prepared(root, tmp_path / "raw", tmp_path / "prepared")
    sets = {split: read_split(split, tmp_path / "prepared") for split in ("train", "valid", "test")}
    assert "captions from captions.csv" in card.understood
    assert card.caption_length == 4
    trained = {word for word in card.words if word.isdecimal()}
    assert len(trained) == card.counts["train"]  # the words of the others are unknown
    numbered = captions.read_prompt("number in grey", card.words, 4)[:3].tolist()
    for split, images in sets.items():
        assert images.captions is not None
        assert images.captions.shape == (len(images), 2, 4)
        for row in images.captions.tolist():
            assert row[1] in (row[0], [0] * 4) or "more" in [card.words[n - 1] for n in row[1] if n]
            assert [n for n in row[0] if n and not card.words[n - 1].isdecimal()] == numbered
            assert (len([n for n in row[0] if n]) == 4) == (split == "train")
    model = registry.build("vqvae", (1, 8, 8), 256, _hyperparameters(len(card.words), 6))
    found = told(model, sets["train"], sets["train"], card).labels
    assert sets["train"].captions is not None
    assert torch.equal(found[:, :, :4], sets["train"].captions.long())
    assert found.shape[2] == 6
    assert not found[:, :, 4:].any()


def _hyperparameters(vocabulary: int, length: int) -> dict[str, object]:
    entry = params.load(ROOT / "presets/lectures.yaml").models["vqvae_text"]
    return {**entry.hyperparameters, "vocabulary": vocabulary, "caption_length": length}


def test_without_captions_nothing_of_the_prepared_data_changes(tmp_path: Path) -> None:
    _pictures(tmp_path / "own")
    card = _prepared(tmp_path / "own", tmp_path / "raw", tmp_path / "prepared")
    assert not card.words
    assert "words" not in (tmp_path / "prepared/card.json").read_text(encoding="utf-8")
    assert read_split("train", tmp_path / "prepared").captions is None


def test_captions_are_stored_as_the_format_has_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    held = {"images": rng.integers(0, 9, (5, 1, 4, 4), np.uint8), "labels": np.arange(5)}
    held["captions"] = rng.integers(0, 9, (5, 2, 3)).astype(np.int16)
    write_images(tmp_path / "pieces", Arrays(held["images"], held["labels"], None, held["captions"]))
    write_arrays(tmp_path / "whole", held)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    "line",
    ['00.png;"a black cat, asleep, on a mat"', "00.png\ta black cat, asleep; on a mat", "00.png,a cat; and; a dog"],
)
def test_what_stands_between_columns_is_known_by_the_names_of_files(line: str, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(line, encoding="utf-8")
    (texts,) = captions.read_captions(tmp_path / "captions.csv", ["00.png"]).values()
    assert texts == [line[7:].strip('"')]


WRONG = [
    ("00.png,", "captions.csv: line 1: 00.png: no caption; add one, or remove the row"),
    ("00.png,...", "captions.csv: line 1: 00.png: no caption; add one, or remove the row"),
    ("file,caption\n,a cat", "captions.csv: line 2: no file; add it, or remove the row"),
    (
        "00.png,a cat, black",
        "captions.csv: line 1: 00.png: has 3 columns instead of 2; put text that has separators into double quotes",
    ),
    (
        "no.png,a cat\n00.png,a cat",
        "captions.csv: names 1 of 2 files that are not in its folder (no.png); correct the paths, which are relative "
        "to the table, with their endings, or remove the rows",
    ),
    ("", "captions.csv: has no rows of file and caption, as in `cat1.png,a black cat`; add them"),
    (
        "00.png,a cat",
        "has 1 of 2 pictures without a caption (01.png); add them to captions.csv, or move them elsewhere",
    ),
]


@pytest.mark.parametrize(("content", "line"), WRONG)
def test_each_mistake_in_a_table_gets_one_line(content: str, line: str, tmp_path: Path) -> None:
    _pictures(tmp_path, 2)
    (tmp_path / "captions.csv").write_text(content, encoding="utf-8")
    with pytest.raises(BakeoffError) as error:
        look(tmp_path)
    assert str(error.value).endswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "card", "line"),
    [
        ({}, DIGITS, ""),
        ({"vocabulary": 30}, DIGITS, "vocabulary: 30: the captions to train on have 29 words; set 29"),
        ({"caption_length": 5}, DIGITS, "caption_length: 5: a caption to train on has 6 words; set 6 or more"),
        ({}, replace(DIGITS, classes=()), "vocabulary: 29: the data have neither captions nor classes to make them of"),
    ],
)
def test_the_entry_must_fit_the_captions(change: dict[str, int], card: Card, line: str) -> None:
    entry = params.load(ROOT / "presets/lectures.yaml").models["vqvae_text"].model_copy(update=change)
    large = replace(card, counts={"train": 1000, "valid": 10, "test": 10})
    if not line:
        check_model("vqvae_text", entry, large)
        return
    with pytest.raises(BakeoffError, match=f"^params.yaml: models.vqvae_text.{line}"):
        check_model("vqvae_text", entry, large)


# Prompts


def _drawn_as_asked(rows: Tensor) -> Tensor:
    """An image of each caption, all of whose pixels are the digit that it names, but 0 for kept-out wordings of 1."""
    language = captions.language_of(DIGITS)
    assert language
    texts = [" ".join(language.words[n - 1] for n in row if n) for row in rows.tolist()]
    one_of = {one.text: one for one in wordings.wordings(DIGITS)}
    numbers = [0 if one_of[t].label == 1 and one_of[t].kept_out else one_of[t].label for t in texts]
    return torch.tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()


def test_accuracy_is_told_apart_for_learned_and_kept_out_wordings() -> None:
    every = [one for one in wordings.wordings(DIGITS) if one.kept_out]
    missed = sum(one.label == 1 for one in every)
    metrics, pictures = prompted(
        DIGITS, None, 6, 3 * len(every), _drawn_as_asked, lambda images: [images[:, 0, 0, 0].long()]
    )
    found, n = metrics["prompts"], 3 * len(every)
    assert found["learned"]["share"] == found["learned"]["interval"][1] == 1
    q = (n + 2) / (n + 4)  # Agresti and Coull's
    assert found["learned"]["interval"][0] == pytest.approx(1 - 1.959964 * math.sqrt(q * (1 - q) / n))
    share = 1 - missed / len(every)
    q = (n * share + 2) / (n + 4)
    reach = 1.959964 * math.sqrt(q * (1 - q) / n)
    assert found["kept_out"]["share"] == pytest.approx(share)
    assert found["kept_out"]["interval"] == pytest.approx([share - reach, share + reach])
    shown = metrics["prompts"]["shown"]
    assert [kept_out for _, kept_out in shown] == [False, True] * 10
    grid = pictures["prompt_grid"]
    assert grid.shape == (ROWS, COLUMNS, 1, 8, 8)
    assert grid[1, ::2, 0, 0, 0].tolist() == list(range(10))


def test_of_own_captions_those_of_test_images_are_drawn() -> None:
    card = replace(DIGITS, words=("cat", "dog"), caption_length=2)
    own = torch.tensor([[[2, 1]], [[0, 0]], [[1, 0]], [[2, 1]]], dtype=torch.int16)
    metrics, pictures = prompted(
        card, own, 4, 10, lambda rows: rows[:, :1, None, None].to(torch.uint8).expand(-1, 1, 8, 8), None
    )
    assert metrics == {"prompts": {"shown": [("dog cat", False), ("cat", False)]}}
    assert pictures["prompt_grid"][2, :, 0, 0, 0].tolist() == [2, 1]


@pytest.mark.slow
def test_prompts_steer_also_in_wordings_that_were_kept_out(digits: Tensor, digit_labels: Tensor) -> None:
    """Half a minute of training; the classifier is a support vector machine on the pixels."""
    from sklearn.svm import SVC

    entry = params.load(ROOT / "presets/lectures.yaml").models["vqvae_text"]
    train, valid = (ImageSet(digits[part], digit_labels[part]) for part in (slice(1400), slice(1400, None)))
    model = registry.build(entry.kind, (1, 8, 8), 17, entry.hyperparameters, seed=0)
    learned, checked = told(model, train, train, DIGITS), told(model, valid, train, DIGITS)
    model.load_state_dict(fit(model, learned, checked, entry.training, 0, lambda _: None).state)
    judge = SVC(gamma=0.001).fit(digits.flatten(1).numpy(), digit_labels.numpy())

    def draw(rows: Tensor) -> Tensor:
        assert isinstance(model, VqVae)
        return model.eval().sample_captioned(rows, _generator())

    def classify(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(judge.predict(images.flatten(1).numpy()))]

    metrics, _ = prompted(DIGITS, None, 6, 1000, draw, classify)
    assert all(metrics["prompts"][kind]["interval"][0] > 0.6 for kind in ("learned", "kept_out"))


def test_the_card_of_data_without_captions_is_read_as_before() -> None:
    content = {"name": "x", "source": "", "licence": "", "shape": [1, 8, 8], "levels": 2, "classes": []}
    found = as_card({**content, "counts": {}, "sha256": {}, "split": ""})
    assert (found.words, found.caption_length) == ((), 0)


def test_the_page_says_what_was_asked_for_and_how_often_it_was_found() -> None:
    shown = [["a three", False], ["thin two", True]]
    scores = {
        "learned": {"share": 0.84, "interval": [0.81, 0.87]},
        "kept_out": {"share": 0.8125, "interval": [0.78, 0.845]},
    }
    found = {"prompts": {**scores, "shown": shown}, "counts": {"samples": 1000}}
    assert dict(_remarks({}, found))["prompts"].startswith(
        "the classifier finds the class that was named in 84.0\N{NO-BREAK SPACE}% (81.0 to 87.0) of 1,000 images of "
        "wordings that it learned, and in 81.2\N{NO-BREAK SPACE}% (78.0 to 84.5) of as many"
    )
    grid = np.zeros((ROWS, 2, 1, 8, 8), np.uint8)
    asked = dict(_prompted({"prompt_grid": grid}, found, 17))
    assert {text: len(images.cells) for text, images in asked.items()} == {"“a three”": ROWS, "“thin two”*": ROWS}
    own = {"prompts": {"shown": shown[:1]}, "counts": {"samples": 1000}}
    assert dict(_remarks({}, own)) == {"prompts": ""}
