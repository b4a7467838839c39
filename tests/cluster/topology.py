"""Two gateways, three model servers, PostgreSQL, Redis and HAProxy, each on a machine of its own. All of it is real."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx

from launcher.processes import Child
from launcher.properties import ROOT
from launcher.torchserve import TorchServe
from tests.cluster.network import SUBNET, Network, running_network
from tests.gateway.postgres import running_postgres
from tests.gateway.redis_server import running_redis
from tests.gateway.required import require

ADMIN_KEY: Final = "the admin key of a cluster in a test"
CLIENT, BALANCER, DATABASE, CACHE = 1, 2, 3, 4
GATEWAYS: Final = (11, 12)
MODELS: Final = (31, 32)
"""The servers of the first version."""
NEW_MODEL: Final = 33
HEADERS: Final = {"Authorization": f"Bearer {ADMIN_KEY}"}

REQUEST_SECONDS: Final = 20
STOP_SECONDS: Final = 10


def url_of(number: int, port: int = 8000) -> str:
    """Return an address on a machine."""
    return f"http://{SUBNET}.{number}:{port}"


def until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """Return after how many seconds `holds` did. Fails when it does not within `seconds`."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - start


class Cluster:
    """The machines and what runs on them. Made by `running_cluster`; the thread that made it is on the client's."""

    def __init__(self, folder: Path, network: Network, database: str, cache: str, archive: Path, new: Path) -> None:
        self.network = network
        self._folder, self._database, self._cache, self._archive = folder, database, cache, archive
        self._archives = {**dict.fromkeys(MODELS, archive), NEW_MODEL: new}
        self._processes: dict[int, Child | TorchServe] = {}

    @property
    def url(self) -> str:
        """What clients know: the balancer's address."""
        return url_of(BALANCER)

    def start(self, number: int) -> None:
        """Start what belongs on a machine; `ready` tells when it serves."""
        with self.network.inside(host(number)):
            if number in self._archives:
                server = self._torchserve(number)
                server.start()
                self._processes[number] = server
            else:
                self._processes[number] = self._balancer() if number == BALANCER else self._gateway(number)

    def kill(self, number: int) -> None:
        """End what runs on a machine at once, as a machine that loses its power does."""
        process = self._processes.pop(number)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        self._end(process)

    def stop(self, number: int) -> None:
        """End what runs on a machine in its own way."""
        self._end(self._processes.pop(number))

    def close(self) -> None:
        """End everything that runs, clients' side first."""
        for number in sorted(self._processes):
            with contextlib.suppress(Exception):
                self.stop(number)

    def ready(self, number: int) -> bool:
        """Whether what runs on a machine serves."""
        process = self._processes[number]
        if isinstance(process, TorchServe):
            assert process.running, f"TorchServe on {number} ended; see {process.logs}"
            return process.worker_ready()
        assert process.exit_code is None, f"{host(number)} ended:\n{(self._folder / f'{number}.log').read_text()}"
        try:
            return httpx.get(f"{url_of(number)}/readyz", timeout=3).is_success
        except httpx.TransportError:
            return False

    def deployments(self, gateway: int) -> list[dict[str, Any]]:
        """Return the deployments as one gateway sees them."""
        found: list[dict[str, Any]] = (
            httpx.get(f"{url_of(gateway)}/v1/deployments", headers=HEADERS, timeout=5).raise_for_status().json()
        )["deployments"]
        return found

    def all_live(self) -> bool:
        """Whether every gateway is there and asks every model server."""
        try:
            return all(
                instance["live"]
                for gateway in GATEWAYS
                for deployment in self.deployments(gateway)
                for instance in deployment["instances"]
            )
        except httpx.HTTPError:
            return False

    def _torchserve(self, number: int) -> TorchServe:
        archive = self._archives[number]
        return TorchServe(
            self._folder / f"model{number}",
            {
                "inference_address": url_of(number, 8080),
                "management_address": url_of(number, 8081),
                "metrics_address": url_of(number, 8082),
                "model_store": str(archive.parent),
                "load_models": f"godel={archive.name}",
            },
        )

    def _gateway(self, number: int) -> Child:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GODEL_")}
        environment = inherited | {
            "GODEL_HOST": f"{SUBNET}.{number}",
            "GODEL_PORT": "8000",
            "GODEL_ADMIN_KEY": ADMIN_KEY,
            "GODEL_DATABASE_URL": self._database,
            "GODEL_REDIS_URL": self._cache,
            "GODEL_INFERENCE_URL": url_of(MODELS[0], 8080),
            "GODEL_MANAGEMENT_URL": url_of(MODELS[0], 8081),
            "GODEL_TOKENIZER": str(self._archive),
            "GODEL_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
        }
        return self._child([sys.executable, "-m", "gateway"], number, environment)

    def _balancer(self) -> Child:
        haproxy = require(
            shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin"), "HAProxy", "apt-get install haproxy"
        )
        environment = dict(os.environ) | {
            "LISTEN": f"{SUBNET}.{BALANCER}:8000",
            **{f"GATEWAY_{place}": f"{SUBNET}.{number}:8000" for place, number in enumerate(GATEWAYS, start=1)},
        }
        return self._child([haproxy, "-db", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")], BALANCER, environment)

    def _child(self, command: list[str], number: int, environment: dict[str, str]) -> Child:
        with (self._folder / f"{number}.log").open("ab") as log:
            return Child(command, environment=environment, cwd=ROOT, output=log)

    @staticmethod
    def _end(process: Child | TorchServe) -> None:
        if isinstance(process, TorchServe):
            process.stop()
        else:
            process.end(STOP_SECONDS)


def host(number: int) -> str:
    """Return the name of a machine."""
    return f"host{number}"


@contextlib.contextmanager
def running_cluster(folder: Path, archive: Path, new: Path) -> Iterator[Cluster]:
    """Yield the cluster when all of it serves, with the version of `archive`; `new` runs, but gets no requests yet.

    End and remove all of it after. Skips where there may be no namespaces, or a server is not installed.
    """
    with ExitStack() as stack:
        network = stack.enter_context(running_network())
        for number in (CLIENT, BALANCER, DATABASE, CACHE, *GATEWAYS, *MODELS, NEW_MODEL):
            network.plug_in(host(number), number)
        with network.inside(host(DATABASE)):
            database = stack.enter_context(running_postgres(f"{SUBNET}.{DATABASE}")).new_url()
        with network.inside(host(CACHE)):
            cache = stack.enter_context(running_redis(f"{SUBNET}.{CACHE}"))
        stack.enter_context(network.inside(host(CLIENT)))
        cluster = Cluster(folder, network, database, cache, archive, new)
        stack.callback(cluster.close)
        for some, seconds in (((*MODELS, NEW_MODEL), 120), (GATEWAYS, 60), ((BALANCER,), 30)):
            for number in some:
                cluster.start(number)
            for number in some:
                until(lambda number=number: cluster.ready(number), seconds, f"{host(number)} serves")  # type: ignore[misc]
        yield cluster
