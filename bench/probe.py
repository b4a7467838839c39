"""Asks a gateway's probes from a process of its own, as whatever watches over it does: `python -m bench.probe URL`.

Each line on its input starts or stops it; when the input ends it prints the milliseconds of each probe as JSON.
"""

import http.client
import json
import select
import sys
import time
from urllib.parse import urlsplit

from gateway.turns import PROBES

PAUSE_SECONDS = 0.3
"""Between two rounds of them: what they cost the gateway counts there as what its clients cost it."""


def main() -> None:
    """Ask until the input ends."""
    address = urlsplit(sys.argv[1])
    times: dict[str, list[float]] = {path: [] for path in sorted(PROBES)}
    asking = False
    while True:
        if select.select([sys.stdin], [], [], PAUSE_SECONDS if asking else None)[0]:
            if not sys.stdin.readline():
                break
            asking = not asking
        for path in sorted(PROBES) if asking else ():
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
            start = time.perf_counter()
            connection.request("GET", path)
            status = connection.getresponse().status
            times[path].append((time.perf_counter() - start) * 1e3)
            connection.close()
            if status != http.client.OK:
                raise SystemExit(f"{path} answered with {status}")
    print(json.dumps(times))


if __name__ == "__main__":
    main()
