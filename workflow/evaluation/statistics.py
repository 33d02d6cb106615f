"""How far a mean can be trusted, and which models can be told apart, from the few repetitions that there are.

A number is a mean over units (draws of one model's samples, or trainings with other seeds), measured by each of several
extractors, against a finite set of test images. Each is a source of chance, and the interval of a mean covers all those
that were varied. It is Student's t, which holds at two or three repetitions, where a bootstrap does not.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
Table = Sequence[Sequence[float]]  # a row a unit, a column an extractor


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and the degrees of freedom of that error, math.inf if it is as good as known."""

    mean: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end of the 95 % interval of the mean."""
        from scipy.special import stdtrit

        reach = self.error * (float(stdtrit(self.freedom, 0.5 + LEVEL / 2)) if self.error else 0.0)
        return self.mean - reach, self.mean + reach

    @property
    def p_value(self) -> float:
        """Of a mean of 0, two-sided; 1 where there is no doubt that it is 0, 0 where there is none that it is not."""
        from scipy.special import stdtr

        if not self.error:
            return float(self.mean == 0)
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


def estimate(table: Table, variance: float = 0.0) -> Estimate | None:
    """The mean of a table, with an error that covers its rows, its columns and a source that was not repeated.

    Rows and columns are crossed: all extractors look at the same draws. The variance of the mean is at most the sum of
    what the means of the rows scatter and what the means of the columns do; its degrees of freedom are those of
    Satterthwaite (1946). With one column this is Student's interval of the mean of the rows.

    Args:
        table: a number for each unit (row) and extractor (column), all rows of one length.
        variance: of the mean, by what is not repeated in the table, such as the choice of test images.

    Returns:
        None if nothing was varied: a single number and no variance, or an empty table.

    """
    if not table:
        return None
    rows = [statistics.fmean(row) for row in table]
    columns = [statistics.fmean(column) for column in zip(*table, strict=True)]
    parts = [(statistics.variance(means) / len(means), len(means) - 1) for means in (rows, columns) if len(means) > 1]
    if not parts and not variance:
        return None
    total = sum(part for part, _ in parts) + variance
    doubt = sum(part**2 / freedom for part, freedom in parts)
    return Estimate(statistics.fmean(rows), math.sqrt(total), total**2 / doubt if doubt else math.inf)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number (Holm 1979): each can be held against 0.05 as if it were the only one."""
    adjusted, least = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
