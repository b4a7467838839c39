"""Redis dies, hangs and comes back: answers go on without a limit meanwhile, and are counted again afterwards."""

import signal
import time

import httpx

from tests.faults.conftest import Start
from tests.faults.load import Load
from tests.faults.report import Report
from tests.gateway.redis_server import running_redis_server


def limited(url: str) -> bool:
    """Whether the second question within a minute to a bot that may have one is refused."""
    httpx.put(f"{url}/v1/bots/one", json={"knowledge": "k", "limits": {"requests_per_minute": 1}}).raise_for_status()
    statuses = [httpx.post(f"{url}/v1/bots/one/chat", json={"message": "x"}).status_code for _ in range(2)]
    return statuses[1] == 429


def test_without_redis_every_request_is_answered_and_with_it_again_they_are_counted_again(
    start: Start, report: Report
) -> None:
    with running_redis_server() as redis:
        gateway = start(GODEL_REDIS_URL=redis.url, GODEL_REQUESTS_PER_MINUTE="1000000")
        assert limited(gateway.url)
        with Load(gateway.url) as load:

            def all_served(since: float) -> None:
                load.until(lambda: load.seen(since)["200"] >= 20, 30)

            def counted_again(fault: str, since: float) -> None:
                back = time.monotonic()
                load.until(lambda: limited(gateway.url), 30)
                assert set(load.seen(since)) == {"200"}
                report.add(f"Redis {fault} (limits back)", load.outcome(since, time.monotonic() - back))

            killed = time.monotonic()
            redis.stop(signal.SIGKILL)
            all_served(killed)
            redis.start()
            counted_again("killed", killed)
            frozen = time.monotonic()
            with redis.frozen():
                all_served(frozen)
            counted_again("hangs", frozen)
    assert "limits are not kept" in gateway.log
