"""What the tests of images and manifests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio alone; the gateway knows no other."""
    return "asyncio"
