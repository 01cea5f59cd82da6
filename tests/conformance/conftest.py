"""Fixtures of the suites that hold every implementation of a port to the same rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import stores


@pytest.fixture(params=stores.NAMES)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[stores.StoreUnderTest]:
    """Each store in turn."""
    url = request.getfixturevalue("redis_url") if request.param.startswith("redis") else None
    made = stores.make(request.param, tmp_path, url)
    yield made
    made.store.close()


@pytest.fixture
def redis(redis_url: str, tmp_path: Path) -> Iterator[stores.StoreUnderTest]:
    """The store on Redis, as most have it."""
    made = stores.make("redis", tmp_path, redis_url)
    yield made
    made.store.close()
