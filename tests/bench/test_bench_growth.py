"""Growth: the line through the lengths, and that the work measured is done."""

from pathlib import Path

import pytest

from bench.growth import PLACES, fit, reading, writing
from handler.engines import load_engine


def test_what_grows_as_the_line_says_is_fitted_exactly() -> None:
    assert fit({n: 1.5 * n + 0.002 * n * n for n in (64, 128, 512)}) == pytest.approx((1.5, 0.002))


def test_every_length_is_read_and_every_part_of_an_answer_written(tiny: Path) -> None:
    engine = load_engine("torch", "fp32", tiny, slots=2)
    read = reading(engine, 512, (16, 32), repeats=1)
    assert list(read) == [16, 32]
    assert min(read.values()) > 0
    assert len(writing(engine, 512, 2, prompt=16, answer=8)) == PLACES
