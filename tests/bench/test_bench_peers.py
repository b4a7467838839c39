"""Peers in processes of their own, over the line protocol, on the tiny checkpoint."""

from pathlib import Path

import pytest

from bench import environments
from bench.checkpoints import GEOMETRIES
from bench.peers.process import PeerError, PeerProcess, PeerSpec, own, transformers
from bench.prompts import prompt_ids

PROMPTS = [prompt_ids(40, GEOMETRIES["tiny"].vocabulary, seed) for seed in (1, 2)]


def test_transformers_and_our_engine_do_the_same_work_with_the_same_result(tiny: Path, tmp_path: Path) -> None:
    with (
        PeerProcess(transformers("fp32"), tiny, tmp_path) as theirs,
        PeerProcess(own("torch", "fp32", slots=2), tiny, tmp_path) as ours,
    ):
        expected, found = theirs.run(PROMPTS, 7), ours.run(PROMPTS, 7)
    assert [len(answer) for answer in found.answers] == [7, 7]
    assert found.answers == expected.answers
    assert found.seconds > 0


def test_a_peer_that_cannot_load_says_why_and_is_ended(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"ours: .*config.json"):
        PeerProcess(own("torch", "fp32"), tmp_path / "nowhere", tmp_path)


def test_a_failed_turn_is_an_error_with_the_peers_name(tiny: Path, tmp_path: Path) -> None:
    with (
        PeerProcess(own("torch", "fp32"), tiny, tmp_path) as peer,
        pytest.raises(PeerError, match=r"ours: .*1 to 1024 tokens"),
    ):
        peer.run([[5] * 1025], 3)


def test_an_absent_peer_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environments, "HOME", tmp_path)
    spec = PeerSpec(name="other", module="ctranslate2_peer", environment="ctranslate2")
    assert spec.absent == "other: skipped; `python -m bench.environments ctranslate2` installs what it needs"
    assert transformers("fp32").absent is None
