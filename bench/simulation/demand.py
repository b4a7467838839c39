"""How many questions come, and when: people by the day, a curve of hours. Assumptions, each a parameter."""

from dataclasses import dataclass
from typing import Final

NIGHT: Final = (0.3, 0.2, 0.1, 0.1, 0.1, 0.2)
DAY: Final = (0.4, 0.8, 1.2, 1.5, 1.6, 1.5, 1.3, 1.3, 1.5, 1.6, 1.5, 1.4)
EVENING: Final = (1.3, 1.5, 1.7, 1.4, 0.9, 0.6)
CURVE: Final = NIGHT + DAY + EVENING
"""Twenty-four hours against each other: an office's day and an evening at home, in one zone of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """So many people a day, each with so many questions."""

    users: int
    questions: float = 10.0
    curve: tuple[float, ...] = CURVE

    @property
    def daily(self) -> float:
        """Questions a day."""
        return self.users * self.questions

    def rate(self, hour: int) -> float:
        """Questions a second in that hour of the day."""
        share = self.curve[hour] / sum(self.curve)
        return self.daily * share / 3600

    @property
    def peak(self) -> float:
        """Questions a second in the busiest hour."""
        return max(self.rate(hour) for hour in range(len(self.curve)))
