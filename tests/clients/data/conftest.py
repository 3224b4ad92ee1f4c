from pathlib import Path

import pytest

from fedcosim.clients.data import DataOptions
from fedcosim.core.options import validate


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """Every test has an empty cache, and no data sets but the system's."""
    monkeypatch.setenv("FEDCOSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDCOSIM_DATA", raising=False)
    return tmp_path / "cache" / "data"


@pytest.fixture
def options():
    """Build options the way a spec does."""

    def build(**fields) -> DataOptions:
        return validate(DataOptions, {"source": "digits", **fields}, "data")

    return build
