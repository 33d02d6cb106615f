"""What a model with captions draws for prompts, and whether a classifier finds in it what was asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow.data.arrays import Card
from workflow.data.captions import language_of, read_prompt
from workflow.data.wordings import Wording, shown, wordings
from workflow.evaluation.statistics import estimate

ROWS, COLUMNS = 4, 20  # of the grid with one column per prompt


def prompted(
    card: Card,
    own: Tensor | None,
    length: int,
    count: int,
    draw: Callable[[Tensor], Tensor],
    classify: Callable[[Tensor], Sequence[Tensor]] | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metrics "prompts" and the picture "prompt_grid", uint8 (ROWS, prompts, C, H, W).

    Of prompts made of class names, the metrics have the share of `count` images in which the classifiers, on average,
    find the class that was named, with its 95 % interval, in wordings that were learned and in those kept out of
    training; "shown" is the prompts of the grid, each with whether it was kept out. Of the user's own captions they
    have the prompts alone.

    Args:
        card: of the data.
        own: captions of test images, int16 (N, K, length), if the user has any.
        length: of the model's captions.
        count: how many images of prompts are classified, of each kind.
        draw: images, uint8 (N, C, H, W), of captions, int64 (N, length).
        classify: the classes of images by each extractor, int64 (N,); None if they do not know the classes.
    """
    language, made = language_of(card), [] if card.words else wordings(card)
    assert language  # `check_model` lets no other data pass

    def images_of(texts: Sequence[str]) -> Tensor:
        rows = {text: read_prompt(text, language.words, length) for text in set(texts)}
        return draw(torch.from_numpy(np.stack([rows[text] for text in texts])))

    found: dict[str, Any] = {}
    for kind, kept_out in (("learned", False), ("kept_out", True)):
        some = [one for one in made if one.kept_out == kept_out]
        if some and classify:
            found[kind] = _accuracy([some[i % len(some)] for i in range(count)], images_of, classify)
    columns = [(one.text, one.kept_out) for one in shown(made)] if made else _own(own, language.words)
    columns = columns[:COLUMNS]
    if not columns:  # test captions of unknown words alone
        return {"prompts": {"shown": []}}, {}
    grid = images_of([text for text, _ in columns * ROWS])
    return {"prompts": {**found, "shown": columns}}, {"prompt_grid": grid.unflatten(0, (ROWS, len(columns)))}


def _accuracy(
    asked: list[Wording],
    images_of: Callable[[Sequence[str]], Tensor],
    classify: Callable[[Tensor], Sequence[Tensor]],
) -> dict[str, Any]:
    """The share of hits, and an interval that covers the choice of images and that of the classifiers' seeds.

    Where nearly all images are hits, or none, their variance says little of that of other images. So it is at least
    that of two more hits and two more misses (Agresti & Coull 1998, Approximate is Better than "Exact").
    """
    y = torch.tensor([one.label for one in asked])
    hits = torch.stack([classes == y for classes in classify(images_of([one.text for one in asked]))]).double()
    each = hits.mean(0)
    likely = (float(each.sum()) + 2) / (len(y) + 4)
    found = estimate([hits.mean(1).tolist()], max(float(each.var()), likely * (1 - likely)) / len(y))
    assert found  # as its variance is above 0
    return {"share": found.mean, "interval": [min(1.0, max(0.0, end)) for end in found.interval]}


def _own(captions: Tensor | None, words: Sequence[str]) -> list[tuple[str, bool]]:
    """The first caption of each of the first test images, as text; none of them was kept out on purpose."""
    assert captions is not None
    texts = [" ".join(words[number - 1] for number in row.tolist() if number) for row in captions[:, 0]]
    return [(text, False) for text in dict.fromkeys(texts) if text]
