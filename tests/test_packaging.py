"""The repository root is the package: what is in the tree must be in the wheel, and imports must stay cheap and in order."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_PACKAGES = {"tests", "docs", "deploy", "experiments", "benchmarks", "build", "runs"}


def subpackages() -> set[str]:
    inits = [
        p.parent.relative_to(ROOT)
        for p in ROOT.rglob("__init__.py")
        if not any(part.startswith(".") for part in p.parts[len(ROOT.parts) :])
    ]
    return {".".join(("fedcosim", *p.parts)) for p in inits if not p.parts or p.parts[0] not in NOT_PACKAGES}


def test_every_subpackage_is_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(declared) == subpackages()


def test_the_wheel_holds_every_module_and_template(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in subpackages():
        folder = ROOT.joinpath(*package.split(".")[1:])
        wanted = [*folder.glob("*.py"), *folder.glob("*.html"), *folder.glob("*.json")]
        missing = {f"{package.replace('.', '/')}/{path.name}" for path in wanted} - names
        assert not missing
    assert not any(name.startswith(("fedcosim/tests", "fedcosim/benchmarks", "tests/")) for name in names)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("fedcosim.server.cli", ["torch", "ray", "flwr", "matplotlib"]),
        ("fedcosim.server.report", ["torch", "ray"]),
        ("fedcosim.clients.worker", ["matplotlib", "transformers", "diffusers", "datasets", "sklearn"]),
        ("fedcosim.clients.client_app", ["matplotlib", "transformers", "diffusers", "datasets", "sklearn", "torchvision"]),
    ],
)
def test_importing_a_module_does_not_import_what_it_does_not_need(module, forbidden):
    """`--help` answers at once, a worker starts in seconds, and nothing pulls torchvision in."""
    code = f"import sys, {module}; print(*[m for m in {forbidden!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.split() == []
