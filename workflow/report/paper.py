"""What goes into a paper: the main results as a LaTeX and as a Markdown table, and a paragraph on what was done."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from workflow.evaluation.columns import COST, DASH, MEASURED, Column
from workflow.report.markdown import SHOWN
from workflow.report.results import Results
from workflow.report.tables import covers, labels, model_groups, present, reference_rows

PACKAGES = ("torch", "numpy", "scikit-learn")
TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}"}
SIGNS = {
    "≤": r"$\le$",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "−": "$-$",
    "∞": r"$\infty$",
}
TIED = "°"  # after values that are tied


def markdown(summary: dict[str, Any]) -> str:
    """The main results, mean ± half the width of the 95 % interval, best in bold, ties marked, notes below."""
    head, rows = _table(summary)
    lines = [head, ["---"] * len(head), *([label, *map(_bold, cells)] for label, cells in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n" + "\n".join(_notes(summary)) + "\n"


def latex(summary: dict[str, Any]) -> str:
    """The same for LaTeX; it needs the package booktabs."""
    head, rows = _table(summary)
    lines = [f"{label} & {' & '.join(map(_bold_tex, cells))}" for label, cells in ((_tex(r[0]), r[1]) for r in rows)]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            rf"{' & '.join(map(_tex, head))} \\",
            r"\midrule",
            *(rf"{line} \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\medskip\noindent\footnotesize " + _tex(" ".join(_notes(summary))),
            "",
        ]
    )


def methods(summary: dict[str, Any], results: Results) -> str:
    """What was done, as a paragraph: data, splits, models, budgets, measures, counts, seeds, versions and hashes."""
    card, settings, counts = results.card, results.settings, results.card.counts
    channels, height, width = card.shape
    samples = next(iter(summary["models"].values()))["counts"]["samples"]
    hashes = ", ".join(f"{split} {sha256[:16]}" for split, sha256 in card.sha256.items())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    seeds = ", ".join(str(seed) for seed in settings.seeds)
    return " ".join(
        [
            f"All models were trained on {card.name} ({card.source}): {counts['train']:,} images for training, "
            f"{counts['valid']:,} for choosing checkpoints and {counts['test']:,} for testing ({card.split}), "
            f"{width} x {height} pixels, {channels} channel{'s' * (channels > 1)}, {card.levels} levels.",
            f"The models are {_and([_model(model, name) for name, model in summary['models'].items()])}.",
            f"Each was trained with {len(settings.seeds)} seed{'s' * (len(settings.seeds) > 1)} ({seeds}); the weights "
            "of the lowest validation loss are evaluated.",
            f"Measures of samples are means over {settings.evaluate.draws} draws of {samples:,} images against the "
            f"test images. Distances rest on {results.extractor['about']} ({results.extractor['features']} features), "
            "so they are comparable with each other, and with figures from elsewhere only if these used the same "
            "features."
            if results.extractor["name"] != "Inception"
            else f"Measures of samples are means over {settings.evaluate.draws} draws of {samples:,} images against "
            f"the test images, on {results.extractor['about']}.",
            f"Intervals are 95 % intervals by Student's t {covers(summary)}. Models are compared by their paired "
            "differences, with Holm's adjustment for the number of models. Bits per dimension are of the discrete "
            "images; an upper bound is compared with an exact value only if it is below it.",
            f"Software: {packages}. SHA-256 of the splits: {hashes}; of the feature extractor: "
            f"{results.extractor['sha256'][:16]} (the first 16 digits of each).\n",
        ]
    )


def _table(summary: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """The head, and for each row its label and the text of each cell with whether it is marked as the best."""
    columns = present([next(column for column in MEASURED if column.key == key) for key in SHOWN], summary)
    names = {label: name for name, label in labels(summary["models"]).items()}
    rows = []
    for _, group in model_groups(summary, columns):
        for row in group:
            model = summary["models"][names[row.label]]
            cells = [
                (_value(c, model, cell.kind) + TIED * cell.tied, cell.best)
                for c, cell in zip(columns, row.cells, strict=True)
            ]
            rows.append((row.label, cells))
    rows += [(row.label, [(cell.text, False) for cell in row.cells]) for row in reference_rows(summary, columns)]
    return ["", *(f"{column.title} {column.arrow}".strip() for column in columns)], rows


def _value(column: Column, model: dict[str, Any], kind: str) -> str:
    mean, interval = model["mean"].get(column.key), model["interval"].get(column.key)
    if mean is None:
        return DASH
    text = ("≤ " if kind == "upper bound" else "") + column.text(mean)
    return (
        f"{text} ± {column.bare((interval[1] - interval[0]) / 2)}" if interval and interval[0] < interval[1] else text
    )


def _notes(summary: dict[str, Any]) -> list[str]:
    """What the marks and the figures after ± mean."""
    return [
        f"Mean ± half the width of the 95 % interval {covers(summary)}.",
        f"Bold: the best of a column; {TIED}: several that cannot be told apart from it (paired differences, Holm).",
        "≤: an upper bound, ranked only if it is below an exact value.",
        *(["One training seed: verdicts are about these weights."] if len(summary["seeds"]) == 1 else []),
    ]


def _model(model: dict[str, Any], name: str) -> str:
    """A model with its paper and its budget: "VAE (Kingma & Welling 2014, …; 300 GFLOPs of training)"."""
    budget = next(column for column in COST if column.key == "training_gflops")
    cost = model["mean"].get(budget.key)
    spent = f"; {budget.text(cost)} GFLOPs of training" if cost else ""
    return f"{model['title']} ({name}: {model['paper']}{spent})"


def _and(parts: Sequence[str]) -> str:
    return f"{'; '.join(parts[:-1])}; and {parts[-1]}" if len(parts) > 1 else parts[0]


def _bold(cell: tuple[str, bool]) -> str:
    return f"**{cell[0]}**" if cell[1] else cell[0]


def _bold_tex(cell: tuple[str, bool]) -> str:
    return rf"\textbf{{{_tex(cell[0])}}}" if cell[1] else _tex(cell[0])


def _tex(text: str) -> str:
    signs = {**TEX, **SIGNS, TIED: r"\textdegree{}", "\N{NO-BREAK SPACE}": "~"}
    return "".join(signs.get(sign, sign) for sign in text)
