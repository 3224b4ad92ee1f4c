"""One composed cluster for the tests that can share it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import containers
import pytest
from containers import Composed, Service
from serving import wait


@pytest.fixture(scope="session")
def images() -> str:
    containers.need_engine()
    containers.build(containers.POSTGRES_TAG, "deploy/postgres")
    return containers.image()


@pytest.fixture(scope="session")
def service(images, tmp_path_factory) -> Iterator[Service]:
    composed = Composed(tmp_path_factory.mktemp("composed"))
    try:
        token = composed.admin()
        started = time.monotonic()
        composed("up", "-d", "--scale", "ray-worker=2")
        made = Service(composed, token)
        wait(made.ready, 120)
        print(f"\nup in {time.monotonic() - started:.0f} s")
        yield made
    finally:
        composed.down()
