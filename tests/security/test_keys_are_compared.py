"""Keys are compared as digests of one length, in constant time, and no other way."""

import ast
import hmac
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway import keys as module
from gateway.errors import Unauthenticated
from gateway.keys import ADMIN, Keys
from gateway.store.memory import MemoryStore

pytestmark = pytest.mark.anyio

ADMIN_KEY = "an admin key for tests"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The pairs that were compared."""
    pairs: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        pairs.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    return pairs


async def test_every_token_is_compared_by_digests_of_one_length(compared: list[tuple[str, str]]) -> None:
    keys = Keys(MemoryStore(), ADMIN_KEY, lambda: datetime.now(UTC))
    _, token = await keys.issue(name="", scope="chat", by=ADMIN)
    assert await keys.identify(ADMIN_KEY) == ADMIN
    assert len(compared) == 1
    await keys.identify(token)
    assert len(compared) == 3, "with the admin's, then with its own"
    for wrong in (
        ADMIN_KEY[:-1],
        f"{ADMIN_KEY}x",
        f"{token[:-1]}{'A' if token[-1] != 'A' else 'B'}",
        "\udcff",
        "x" * 9000,
    ):
        with pytest.raises(Unauthenticated):
            await keys.identify(wrong)
    assert {len(part) for pair in compared for part in pair} == {64}


def test_no_line_compares_a_secret_in_another_way() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    compared = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Compare)}
    secret = ("digest", "secret", "token", "_admin", "parts[2]")
    assert {line for line in compared if any(word in line for word in secret)} == {
        "self._admin is not None",
        "self._admin is None",
    }
