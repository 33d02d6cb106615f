"""What figures and images are called in MLflow: figures as in the report, because MLflow shows nothing but the name."""

from workflow.evaluation.columns import EXTRACTOR_NAME, LEAST_VALID_LOSS, MEASURED, Column, keys_on_features

LEAST = LEAST_VALID_LOSS.title  # of a run's kept checkpoint; of a sweep's parent run, that of its best trial
SECTION, IMAGES = "Samples", "Samples/by percent of training"  # samples over training: their section, their key
# MLflow takes what is before a slash for a section, and allows few other signs.
_IN_WORDS = {"/": " per ", "∞": " infinity"}


def title(column: Column) -> str:
    """The column's title in the report, in signs that MLflow allows, without the extractor."""
    text = column.title.replace(EXTRACTOR_NAME, "")
    for sign, words in _IN_WORDS.items():
        text = text.replace(sign, words)
    return text.strip()


def _titles(column: Column) -> dict[str, str]:
    """Of the figures in `metrics.json` that are a column's: its value, and its spread if it has one."""
    names = {column.path or column.key: title(column)}
    if column.spread:
        names[column.spread] = f"{title(column)} {column.spread.rpartition('_')[2]}"
    return names


TITLES = {path: name for column in MEASURED for path, name in _titles(column).items()}
ON_FEATURES = keys_on_features()


def metric(path: str, extractor: str) -> str:
    """The name of a figure in MLflow. Figures that rest on features are in a section with their extractor's name.

    path: where it is in `metrics.json`, parts joined by dots. extractor: the name of the feature extractor.
    """
    name = TITLES.get(path) or path.replace(".", "/").replace("_", " ")
    return f"{extractor}/{name}" if path in ON_FEATURES else name
