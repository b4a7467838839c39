"""The simulation against closed forms where there are any, and against what it is to answer."""

import json
import math
import statistics
import sys

import pytest

from bench import capacity
from bench.capacity import compared, compared_under_load, instances_by_hour, largest_rate
from bench.simulation.demand import Demand
from bench.simulation.service import Service, interpolate, read_results
from bench.simulation.stack import Lengths, Seen, Work, closed_loop, open_loop


def service(slots: int, *, encode: float = 0.0, step: tuple[tuple[float, float], ...] = ((1.0, 0.01),)) -> Service:
    """Return a service in which nothing but reading and stepping takes time."""
    return Service(
        name="made up",
        slots=slots,
        encode=[(1.0, encode)],
        step=step,
        around=0.0,
        gateway=0.0,
        session=0.0,
        write=0.0,
    )


def many(made_up: Service, rate: float, mean_tokens: int, seconds: float) -> Seen:
    tail = Lengths(prompt=(1, 1, 1), shortest_answer=0, mean_answer=mean_tokens, longest_answer=10**6, sessions=0)
    return open_loop(made_up, rate, seconds, tail, seed=3)


def erlang_c(servers: int, load: float) -> float:
    """Return the probability of waiting in M/M/c (Erlang, 1917)."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("slots", "share"), [(1, 0.6), (4, 0.8), (8, 0.7)])
def test_with_steps_that_cost_the_same_for_any_number_it_is_the_queue_m_m_c(slots: int, share: float) -> None:
    """Steps of 20 ms and answers of 50 tokens on average, exponential: c servers of 1 s each, a grain of 2 %."""
    mean = 1.0
    rate = share * slots / mean
    seen = many(service(slots, step=((1.0, 0.02),)), rate, 50, seconds=8000 / rate)
    expected = mean + erlang_c(slots, rate * mean) * mean / (slots - rate * mean)
    assert statistics.fmean(seen.latencies) == pytest.approx(expected, rel=0.1)


def test_with_one_slot_and_answers_of_one_length_it_is_the_queue_m_d_1() -> None:
    """Pollaczek and Khinchine: the mean wait is rho s / (2 (1 - rho))."""
    fixed, rate = 0.5, 1.4
    same = Lengths(prompt=(1, 1, 1), shortest_answer=10, mean_answer=10, longest_answer=10, sessions=0)
    seen = open_loop(service(1, step=((1.0, 0.05),)), rate, 8000, same, seed=5)
    assert statistics.fmean(seen.latencies) == pytest.approx(fixed + 0.7 * fixed / (2 * 0.3), rel=0.06)


@pytest.mark.parametrize("clients", [1, 4, 8])
def test_who_fits_into_the_slots_shares_the_steps_and_waits_for_all_reading(clients: int) -> None:
    """Prompts of a whole step's budget are read one by one, each before a step of those already there."""
    steps = ((1.0, 0.01), (8.0, 0.03))
    made_up = service(8, encode=0.2, step=steps)
    _, seconds = closed_loop(made_up, clients, 1, Work(512, 40))
    # The last one comes in after `clients - 1` steps of the others, and has 40 of its own, while the others end.
    alone = sum(interpolate(steps, n) for n in range(1, clients))
    together = (40 - clients + 1) * interpolate(steps, clients)
    assert seconds == pytest.approx(clients * 0.2 + 2 * alone + together, rel=0.001)


def test_twice_the_slots_are_two_rounds() -> None:
    _, once = closed_loop(service(8), 8, 1, Work(1, 50))
    _, twice = closed_loop(service(8), 16, 1, Work(1, 50))
    assert twice == pytest.approx(2 * once, rel=0.02)  # the first comes a step before the others


def test_beyond_the_capacity_the_bound_on_waiting_keeps_latencies_and_the_rest_is_refused() -> None:
    made_up = service(8)  # 8 answers of 0.5 s at a time: 16 a second
    same = Lengths(prompt=(1, 1, 1), shortest_answer=50, mean_answer=50, longest_answer=50, sessions=0)
    endless = open_loop(made_up, 32.0, 200, same, seed=1)
    bounded = open_loop(made_up, 32.0, 200, same, seed=1, max_queue_seconds=2.0)
    assert max(endless.latencies) > 90
    assert max(bounded.latencies) < 2.0 + 16 / 16 + 1.0
    assert bounded.refused / (bounded.refused + len(bounded.latencies)) == pytest.approx(0.5, abs=0.05)


def test_what_was_measured_over_http_is_what_the_engine_s_figures_predict_within_a_quarter() -> None:
    results = read_results()
    cpu = Service.measured(results)
    for row in compared(results, cpu):
        assert row["simulated"] == pytest.approx(row["measured"], rel=0.25), row
    for pair in compared_under_load(results, cpu).values():
        assert pair["simulated"] == pytest.approx(pair["measured"], rel=0.25), pair


def test_the_largest_rate_keeps_the_goal_and_lies_below_the_capacity() -> None:
    made_up = service(4, step=((1.0, 0.04),))  # 4 answers of 30 tokens, 1.2 s, at a time: 3.3 a second
    found = largest_rate(made_up, 6.0, Lengths(prompt=(1, 1, 1), sessions=0))
    assert found is not None
    assert found.p95 <= 6.0
    assert 1.5 < found.rate < 3.4
    assert largest_rate(made_up, 0.05, Lengths(prompt=(1, 1, 1), sessions=0)) is None


def test_a_day_has_all_its_questions_and_instances_follow_the_hours() -> None:
    demand = Demand(users=100_000)
    assert sum(demand.rate(hour) * 3600 for hour in range(24)) == pytest.approx(demand.daily)
    hours = instances_by_hour(demand, rate=3.0)
    assert max(hours) == math.ceil(demand.peak / 3.0)
    assert min(hours) == 1
    assert instances_by_hour(Demand(users=10), 3.0) == [1] * 24


def test_a_curve_is_straight_between_its_points_and_goes_on_beyond() -> None:
    curve = [(1.0, 1.0), (3.0, 2.0), (5.0, 6.0)]
    assert [interpolate(curve, x) for x in (1, 2, 3, 4, 6)] == [1.0, 1.5, 2.0, 4.0, 8.0]
    assert interpolate([(8.0, 0.5)], 99) == 0.5


def test_the_command_shows_measured_beside_simulated_and_answers_for_each_number_of_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capacity, "REQUESTS", 100)
    monkeypatch.setattr(capacity, "SHORTEST", 5.0)
    monkeypatch.setattr(sys, "argv", ["capacity", "--price-cpu", "0.1"])
    capacity.main()
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert [row["clients"] for row in found["clients"]] == [1, 2, 4, 8, 16]
    for answer in found["answers"]:
        assert [row["users"] for row in answer["rows"]] == [100, 10_000, 1_000_000]
        instances = [row["instances"] for row in answer["rows"]]
        assert instances == sorted(instances)
        assert ("assumed" in answer["source"]) == ("GPU" in answer["service"])
    assert found["answers"][0]["rows"][0]["cost_per_thousand"] == pytest.approx(24 * 0.1)  # one instance, 1000 a day
    assert printed.count("an assumption") == 3
