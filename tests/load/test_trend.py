"""The slope of what was seen at rest: a leak is found, noise is not taken for one, and a short look decides nothing."""

import math
import random

import pytest

from bench.load.report import Findings
from bench.load.trend import student_t, trend
from bench.load.vitals import ALLOWED

MEMORY = "gateway memory, MB"


def rests(leak_per_hour: float, *, minutes: int = 60, noise: float = 0.5, seed: int = 0) -> list[tuple[float, float]]:
    """Return what a rest each minute would show: seconds and megabytes."""
    rng = random.Random(seed)
    return [(60.0 * n, 90.0 + leak_per_hour * n / 60 + rng.gauss(0, noise)) for n in range(minutes)]


def findings(seen: list[tuple[float, float]]) -> Findings:
    return Findings(
        minutes=60,
        capacities=[10.0],
        tallies={},
        rests=[(moment, {MEMORY: value}) for moment, value in seen],
        peaks={},
        warm_up=0,
        sessions=0,
        exchanges=0,
        broken=0,
        broken_first=[],
    )


def test_the_slope_of_a_straight_line_is_certain() -> None:
    found = trend([0.0, 60.0, 120.0, 180.0], [1.0, 2.0, 3.0, 4.0])
    assert found.per_hour == pytest.approx(60)
    assert found.half_width == pytest.approx(0, abs=1e-6)


def test_the_uncertainty_is_that_of_the_text_book() -> None:
    """The slope's standard error is sqrt(SSR / (n - 2) / Sxx); Student's t for three degrees of freedom is 3.182."""
    hours, values = [0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 5.0, 3.0, 4.0, 7.0]
    # By hand: mean 4, slope (-2*1 - 1*5 + 0 + 1*4 + 2*7) / 10 = 1.1, residuals -0.8, 2.1, -1, -1.1, 0.8.
    found = trend([hour * 3600 for hour in hours], values)
    assert found.per_hour == pytest.approx(1.1)
    assert found.half_width == pytest.approx(3.1824 * math.sqrt((0.64 + 4.41 + 1 + 1.21 + 0.64) / 3 / 10), rel=2e-3)


@pytest.mark.parametrize(("freedom", "quantile"), [(2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423)])
def test_students_t_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, rel=2e-3)


def test_the_true_slope_lies_within_the_uncertainty_as_often_as_is_said() -> None:
    inside = 0
    for seed in range(400):
        found = trend(*zip(*rests(7.0, minutes=12, seed=seed), strict=True))
        inside += abs(found.per_hour - 7.0) <= found.half_width
    assert 0.92 < inside / 400 < 0.98


@pytest.mark.parametrize("seed", range(10))
def test_a_leak_is_found_and_breaks_the_promise(seed: int) -> None:
    found = findings(rests(3 * ALLOWED[MEMORY], seed=seed))
    assert found.growing() == [MEMORY]
    assert not found.kept


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_no_leak_and_an_hour_of_it_is_flat(seed: int) -> None:
    found = findings(rests(0.0, seed=seed))
    assert found.growing() == []
    assert found.kept
    assert found.trends()[MEMORY].verdict(ALLOWED[MEMORY]) == "flat"


def test_one_file_left_open_every_five_minutes_is_found() -> None:
    seen = [(60.0 * n, {"gateway files": 30.0 + n // 5}) for n in range(60)]
    found = findings([(0.0, 0.0)])
    assert Findings(**{name: getattr(found, name) for name in Findings.__slots__} | {"rests": seen}).growing() == [
        "gateway files"
    ]


def test_a_minute_decides_nothing() -> None:
    assert trend(*zip(*rests(0.0, minutes=3), strict=True)).half_width == math.inf
    seen = [(10.0 * n, 90 + random.Random(n).gauss(0, 0.5)) for n in range(6)]
    assert trend(*zip(*seen, strict=True)).verdict(ALLOWED[MEMORY]) == "undecided"


def test_a_cache_that_fills_up_within_minutes_is_no_leak_and_a_leak_of_minutes_is_one() -> None:
    steps = [(50.0 * n, 140.0 + 9.0 * (n > 5)) for n in range(12)]
    assert trend(*zip(*steps, strict=True)).verdict(ALLOWED[MEMORY]) == "undecided"
    leak = [(50.0 * n, 140.0 + 4.0 * n) for n in range(12)]
    assert trend(*zip(*leak, strict=True)).verdict(ALLOWED[MEMORY]) == "grows"


def test_what_fills_up_at_the_start_is_left_out() -> None:
    warming = [(60.0 * n, 90.0 - 30.0 * math.exp(-n / 3)) for n in range(60)]
    found = findings(warming)
    after = Findings(**{name: getattr(found, name) for name in Findings.__slots__} | {"warm_up": 900.0})
    assert after.growing() == []
