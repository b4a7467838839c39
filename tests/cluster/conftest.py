"""The cluster, made once for all tests here."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.properties import ROOT
from launcher.trial import ARCHIVE
from tests.cluster.load import make_bots
from tests.cluster.topology import Cluster, running_cluster
from tests.e2e.worker_config import with_config

CLUSTER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder runs on the cluster."""
    for item in items:
        if CLUSTER in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(300))  # all of it starts within the first


# Not for the whole session: this thread is on one of its machines meanwhile.
@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two gateways, two model servers and one with a newer version, behind HAProxy; each client's bot is there."""
    folder = tmp_path_factory.mktemp("cluster")
    assert ARCHIVE.is_file(), "run `make archive` first, or `make test`, which does"
    newer = folder / "built" / "godel.mar"
    subprocess.run(
        [sys.executable, "-m", "training.archive", "--model", "models/embedded", "--version", "2.0", "--output", newer],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    # A core for each server, so that a second one has something to add.
    archives = []
    for version, archive in (("1.0", ARCHIVE), ("2.0", newer)):
        (folder / version).mkdir()
        archives.append(with_config(archive, folder / version / "godel.mar", handler={"threads": 1}))
    with running_cluster(folder, *archives) as running:
        make_bots(running.url)
        yield running
