"""Servers that tests start when they are installed. In CI they have to be."""

import os
from typing import TypeVar

import pytest

T = TypeVar("T")


def require(found: T | None, name: str, remedy: str) -> T:
    """Return what was found; without it skip the test, or fail where nothing may be skipped (REQUIRE_SERVERS=1)."""
    if found is not None:
        return found
    message = f"{name} is not installed: {remedy}"
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(message)
    pytest.skip(message)
