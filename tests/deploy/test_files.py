"""What the files for deployment say, without an engine."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_every_service_is_checked_and_limited():
    """In the file itself, profiles that were not started included."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert "healthcheck" in service, name
        assert "mem_limit" in service, name
        assert ("ports" in service) == (name == "api"), name
