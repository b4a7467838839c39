"""Contenders asked in turn, round after round, so that what slows the machine for a while slows all alike.

A figure is the median over rounds of the rival's seconds over ours within the same round. Contenders that wait
are idle: between turns nobody works for PAUSE_SECONDS, longer than the thread pools of any of them spin after
work (Intel's OpenMP, 0.2 s, is the longest), so that none needs settings other than those it comes with.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

PAUSE_SECONDS: Final = 0.3

Seconds = dict[str, list[float]]
"""By contender, one figure for each round."""


def rounds(
    contenders: Mapping[str, Callable[[], float]],
    count: int,
    pause: float = PAUSE_SECONDS,
    *,
    forgive: Callable[[str, Exception], bool] = lambda _name, _error: False,
) -> Seconds:
    """Ask every contender once to warm up and then `count` times, in turn; return what they said, in seconds.

    One that fails is asked no more and left out, if `forgive` says so; otherwise its failure ends the rounds.
    """
    found: Seconds = {name: [] for name in contenders}
    for number in range(count + 1):
        for name in list(found):
            time.sleep(pause)
            try:
                seconds = contenders[name]()
            except Exception as error:
                if not forgive(name, error):
                    raise
                del found[name]
                continue
            if number:
                found[name].append(seconds)
    return found


def times_better(rival: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over rounds of rival / ours, of what is better when small."""
    return statistics.median(theirs / own for theirs, own in zip(rival, ours, strict=True))


def times_better_than(rivals: Sequence[str], seconds: Mapping[str, Sequence[float]]) -> float | None:
    """Return `times_better` of "ours" against the fastest of `rivals` that took part; None when none did."""
    there = [seconds[name] for name in rivals if name in seconds]
    if not there or "ours" not in seconds:
        return None
    return times_better(min(there, key=statistics.median), seconds["ours"])
