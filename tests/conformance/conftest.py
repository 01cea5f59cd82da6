"""Fixtures of the suites that test every implementation of a port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import stores


@pytest.fixture(params=stores.NAMES)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[stores.StoreUnderTest]:
    """Return each store in turn."""
    url = request.getfixturevalue("redis_url") if request.param.startswith("redis") else None
    made = stores.make(request.param, tmp_path, url)
    yield made
    made.store.close()


@pytest.fixture
def redis(redis_url: str, tmp_path: Path) -> Iterator[stores.StoreUnderTest]:
    """Return a store on Redis with default settings."""
    made = stores.make("redis", tmp_path, redis_url)
    yield made
    made.store.close()
