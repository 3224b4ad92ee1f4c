"""One service for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with SQLite and a Ray head of its own."""
    made = Server(tmp_path_factory.mktemp("service") / "data")
    yield made
    made.stop()
