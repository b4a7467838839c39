"""Whether something grows: a straight line through what was seen at rest, with the uncertainty of its slope."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["flat", "grows", "undecided"]

FEWEST_POINTS: Final = 4
"""A line through three points has one degree of freedom left: its uncertainty says nothing."""

HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A slope per hour; the true one lies within `half_width` of it with a probability of 95 %."""

    per_hour: float
    half_width: float
    points: int
    hours: float = 1.0
    """From the first point to the last."""

    def verdict(self, allowed_per_hour: float) -> Verdict:
        """Return "grows" when it certainly grows faster than allowed, "flat" when it certainly does not.

        Less than an hour may take all that an hour may: a cache fills by steps, and minutes of it look like a leak.
        """
        if (self.per_hour - self.half_width) * min(self.hours, 1.0) > allowed_per_hour:
            return "grows"
        return "flat" if self.per_hour + self.half_width <= allowed_per_hour else "undecided"


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the slope of `values` over `seconds` by least squares, its uncertainty by Student's t.

    That supposes points whose errors do not depend on each other: give values from moments of rest, far apart, not
    from samples taken every second. Of fewer than FEWEST_POINTS points nothing is known: the half width is infinite.
    """
    count = len(values)
    if count < FEWEST_POINTS:
        return Trend(per_hour=0.0, half_width=math.inf, points=count)
    slope, intercept = statistics.linear_regression(seconds, values)
    mean = statistics.fmean(seconds)
    spread = math.fsum((second - mean) ** 2 for second in seconds)
    rest = math.fsum((value - intercept - slope * second) ** 2 for second, value in zip(seconds, values, strict=True))
    error = math.sqrt(rest / (count - 2) / spread)
    return Trend(
        per_hour=slope * HOUR,
        half_width=student_t(count - 2) * error * HOUR,
        points=count,
        hours=(max(seconds) - min(seconds)) / HOUR,
    )


def student_t(freedom: int, probability: float = 0.975) -> float:
    """Return the quantile of Student's t for `freedom` degrees of freedom (2 or more).

    Abramowitz and Stegun, 26.7.5; exact for 2, and within 0.5 % beyond.
    """
    if freedom == 2:  # there is a closed form
        return (2 * probability - 1) * math.sqrt(2 / (1 - (2 * probability - 1) ** 2))
    z = statistics.NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
