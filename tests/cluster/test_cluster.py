"""Past one machine: what holds when there are several of each, and one of them is lost.

The tests are the chapters of one story, in this order: they share the cluster and leave it as they found it.
"""

import re
import time
from collections.abc import Sequence

import httpx
import pytest

from gateway.command_line import main
from tests.cluster.load import CLEAN, WORDS, Load, Outcome, astray, exchanges, load
from tests.cluster.topology import (
    ADMIN_KEY,
    GATEWAYS,
    HEADERS,
    MODELS,
    NEW_MODEL,
    REQUEST_SECONDS,
    Cluster,
    until,
    url_of,
)

BACK_SECONDS = 30
"""Within how long all is as before, once what was lost is there again."""

START_SECONDS = 120
"""How long a process may take to start: nothing that is promised here, but the test ends."""

SILENCE_SECONDS = 10
"""Within how long a machine without network is given up, with a margin for a busy test machine."""


def godel(cluster: Cluster, *command: str) -> None:
    """Run `godel deploy` as an operator does, through the balancer."""
    assert main(["deploy", *command], {"GODEL_URL": cluster.url, "GODEL_API_KEY": ADMIN_KEY}) == 0


def report(title: str, text: str) -> None:
    """Say what was measured; pytest shows it with -s, and when a test fails."""
    print(f"\n{title}: {text}")


def check_outcomes(cluster: Cluster, experienced: Load) -> None:
    """Assert what holds whatever broke: only clean errors, no answer astray, none late, no session lost."""
    assert experienced.answered, "nobody was answered"
    assert [each for each in experienced.failed if each.status not in CLEAN] == []
    assert astray(experienced.answered) == []
    knowing = [each for each in experienced.answered if WORDS[each.client % len(WORDS)] in each.text]
    assert len(knowing) > len(experienced.answered) / 2, "answers without secrets could not be told apart"
    assert max(each.seconds for each in experienced.outcomes) < REQUEST_SECONDS + SILENCE_SECONDS
    for client, session in experienced.sessions:
        told = [each.text for each in experienced.answered if each.session == session]
        assert is_part(told, exchanges(cluster.url, client, session)), f"{session} forgot an answer"


def is_part(some: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether `some` stand in `whole` in the same order; an answer that was lost on its way is remembered too."""
    rest = iter(whole)
    return all(each in rest for each in some)


@pytest.mark.usefixtures("cluster")
def test_one_gateways_key_and_its_limits_hold_at_the_other() -> None:
    first, second = (httpx.Client(base_url=url_of(number), timeout=30) for number in GATEWAYS)
    with first, second:
        wanted = {"scope": "chat", "bots": ["bot0"], "limits": {"requests_per_minute": 4}}
        made = first.post("/v1/keys", json=wanted, headers=HEADERS)
        key = {"X-API-Key": made.raise_for_status().json()["token"]}
        said = {"message": "What is the secret word?", "parameters": {"max_length": 8}}
        asked = [each.post("/v1/bots/bot0/chat", json=said, headers=key) for each in (first, second) * 3]
        assert [reply.status_code for reply in asked] == [200] * 4 + [429] * 2
        assert second.post("/v1/bots/bot1/chat", json=said, headers=key).status_code == 403
        assert second.delete(f"/v1/keys/{made.json()['key_id']}", headers=HEADERS).is_success
        assert first.post("/v1/bots/bot0/chat", json=said, headers=key).status_code == 401


def test_a_second_model_server_shares_the_load(cluster: Cluster) -> None:
    rates = []
    for servers in (MODELS[:1], MODELS):
        godel(cluster, "add", "default", *(url_of(number, 8080) for number in servers))
        until(
            lambda servers=servers: all(
                len(cluster.deployments(each)[0]["instances"]) == len(servers) for each in GATEWAYS
            ),  # type: ignore[misc]
            10,
            "every gateway knows of it",
        )
        with load(cluster.url, clients=16, min_length=48, max_length=48) as experienced:
            time.sleep(8)
        assert experienced.failed == []
        check_outcomes(cluster, experienced)
        start = min(each.asked_at for each in experienced.outcomes)
        took = max(each.asked_at + each.seconds for each in experienced.outcomes) - start
        rates.append(len(experienced.answered) / took)
    report(
        "throughput", f"{rates[0]:.1f} answers/s by one server, {rates[1]:.1f} by two: {rates[1] / rates[0]:.2f} times"
    )
    shares = [requests_of(number) for number in MODELS]
    assert min(shares) > 0, f"the servers were asked {shares} times"


def requests_of(number: int) -> float:
    """Return how many predictions a model server has answered."""
    text = httpx.get(f"{url_of(number, 8082)}/metrics", timeout=5).text
    lines = [line for line in text.splitlines() if line.startswith("ts_inference_requests_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("number", [MODELS[1], GATEWAYS[1]], ids=["model server", "gateway"])
def test_a_machine_that_is_cut_off_is_done_without_and_taken_back(cluster: Cluster, number: int) -> None:
    with load(cluster.url) as experienced:
        time.sleep(2)
        cluster.network.cut(number)
        cut_at = time.monotonic()
        time.sleep(SILENCE_SECONDS + 2)
        silent_until = time.monotonic()
        cluster.network.mend(number)
        back = until(cluster.all_live, BACK_SECONDS, "all is as before")
        time.sleep(2)
    check_outcomes(cluster, experienced)
    meanwhile = [each for each in experienced.answered if cut_at < each.asked_at < silent_until]
    assert meanwhile, "nobody was answered while it was away"
    after = recovered(experienced, silent_until + back)
    report(
        "cut off", f"{experienced.summary()}; {len(meanwhile)} answered meanwhile; back {back:.1f} s after the cable"
    )
    assert after, "nobody was answered afterwards"


def test_processes_that_are_killed_are_done_without_and_taken_back(cluster: Cluster) -> None:
    with load(cluster.url) as experienced:
        time.sleep(2)
        for number in (GATEWAYS[0], MODELS[0]):
            cluster.kill(number)
            time.sleep(2)
            cluster.start(number)  # as whatever watches over the machines does
            start = until(lambda number=number: cluster.ready(number), START_SECONDS, "it serves again")  # type: ignore[misc]
            back = until(cluster.all_live, BACK_SECONDS, "all is as before")
            report("killed", f"machine {number} started in {start:.1f} s, was taken back {back:.1f} s later")
        time.sleep(2)
        last = time.monotonic()
    check_outcomes(cluster, experienced)
    report("killed", experienced.summary())
    assert recovered(experienced, last - 2), "nobody was answered afterwards"


def recovered(experienced: Load, moment: float) -> list[Outcome]:
    """Return what was answered of the requests after a moment; of these none may fail."""
    later = [each for each in experienced.outcomes if each.asked_at > moment]
    assert [each for each in later if each.status != 200] == []
    return later


def test_a_new_version_takes_over_by_and_by_and_back_without_losing_a_request(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    share = 20
    with load(cluster.url) as experienced:
        time.sleep(1)
        godel(cluster, "add", "2.0", url_of(NEW_MODEL, 8080))
        godel(cluster, "weight", "2.0", str(share))
        agreed = until(lambda: weights() == [{"2.0": share, "default": 100 - share}] * 2, 10, "all agree")
        canary = time.monotonic()
        enough = len(experienced.answered) + 150
        until(lambda: len(experienced.answered) > enough, 60, "enough is asked")
        promoted = time.monotonic()
        godel(cluster, "promote", "2.0")
        until(lambda: weights() == [{"2.0": 100, "default": 0}] * 2, 10, "all agree")
        taken_over = time.monotonic()
        time.sleep(2)
        godel(cluster, "rollback")
        godel(cluster, "rollback")
        until(lambda: weights() == [{"2.0": 0, "default": 100}] * 2, 10, "all agree")
        rolled_back = time.monotonic()
        time.sleep(2)
        godel(cluster, "promote", "2.0")
        godel(cluster, "remove", "default")
        until(lambda: weights() == [{"2.0": 100}] * 2, 10, "all agree")
        time.sleep(1)  # what was in flight
        for number in MODELS:
            cluster.stop(number)
        time.sleep(2)
    print(capsys.readouterr().out)
    assert experienced.failed == []
    check_outcomes(cluster, experienced)
    between = [each.deployment for each in experienced.answered if canary < each.asked_at < promoted]
    count = between.count("2.0")
    report(
        "canary",
        f"{count} of {len(between)} for {share} %; all gateways agreed after {agreed:.1f} s; {experienced.summary()}",
    )
    # Four times the standard deviation of a fair draw.
    fair = len(between) * share / 100
    assert abs(count - fair) < 4 * (fair * (1 - share / 100)) ** 0.5
    assert {each.deployment for each in experienced.answered if taken_over < each.asked_at < taken_over + 1.5} == {
        "2.0"
    }
    assert {each.deployment for each in experienced.answered if rolled_back < each.asked_at < rolled_back + 1.5} == {
        "default"
    }
    described = httpx.get(f"{cluster.url}/v1/model", headers=HEADERS, timeout=5).json()
    assert (described["version"], [each["name"] for each in described["deployments"]]) == ("2.0", ["2.0"])


def weights() -> list[dict[str, int]]:
    """Return the shares of the versions by which each gateway goes just now; a look at the deployments would make it
    look at the store first."""
    found = []
    for number in GATEWAYS:
        text = httpx.get(f"{url_of(number)}/metrics", headers=HEADERS, timeout=5).text
        rows = re.findall(r'^godel_deployment_weight{deployment="(.*)"} (\S+)$', text, re.MULTILINE)
        found.append({name: int(float(weight)) for name, weight in rows})
    return found
