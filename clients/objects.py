"""Client states as objects below an fsspec URL: S3 and its like, and whatever else fsspec reaches (docs/decisions/0015).

Object stores have no folders and write an object as a whole, or not at all. File systems behind a URL have folders, made here
where they are missing, and may leave a file half written, which its checksum tells.
"""

from __future__ import annotations

import errno
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PASSWORD = re.compile(r"(?<=://)[^@]*:[^@]*(?=@)")


class Objects:
    """Objects below a URL, by name. Nothing is imported or opened before the first use.

    Parameters
    ----------
    url : str
        A bucket, with or without a prefix, or a folder; it must exist.

    Notes
    -----
    Whatever goes wrong is an OSError with a `strerror`, from every method.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def make(self) -> None:
        """Make the URL's last folder, where there are folders; it must not be a bucket, and the one above must be there."""
        with _as_os_error():
            self._make_folder("")

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        with _as_os_error():
            return self._system.cat_file(self._path(name))

    def write(self, name: str, blob: bytes) -> None:
        """Write an object."""
        with _as_os_error():
            try:
                self._system.pipe_file(self._path(name), blob)
            except FileNotFoundError:
                self._make_folders(name)
                self._system.pipe_file(self._path(name), blob)

    def names(self, folder: str) -> list[str]:
        """Return what is directly in a folder; nothing where there is no such folder."""
        with _as_os_error():
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in found]

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        with _as_os_error():
            try:
                self._system.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def where(self, name: str) -> str:
        """Return an object's URL, for messages."""
        return f"{self.url}/{name}"

    @cached_property
    def _opened(self) -> tuple[AbstractFileSystem, str]:
        import fsspec  # takes a quarter of a second

        return fsspec.url_to_fs(self.url)

    @property
    def _system(self) -> AbstractFileSystem:
        return self._opened[0]

    def _path(self, name: str) -> str:
        return f"{self._opened[1].rstrip('/')}/{name}".rstrip("/")

    def _make_folders(self, name: str) -> None:
        """Make the folders on the way to an object, but never the URL's own."""
        parts = name.split("/")[:-1]
        for depth in range(len(parts)):
            self._make_folder("/".join(parts[: depth + 1]))

    def _make_folder(self, name: str) -> None:
        folder = self._path(name)
        try:
            self._system.mkdir(folder, create_parents=False)
        except Exception:  # another worker may have been faster
            self._system.invalidate_cache()
            if not self._system.isdir(folder):
                raise


def objection(url: str) -> str | None:
    """Say why a text cannot be the URL that states are kept below, without going there; None if it can."""
    from fsspec import available_protocols

    protocol, separator, rest = url.partition("://")
    if not separator or not rest or "::" in url or "?" in url:
        return "must be a URL like 's3://bucket/prefix'; leave it out to keep states in the run's folder"
    if _PASSWORD.search(url):
        return "would write a password into the record; leave it out and give credentials by the environment of all nodes"
    if protocol not in available_protocols():
        return f"fsspec knows no protocol {protocol!r}; choose s3, gs, abfs, sftp or another that it knows"
    return None


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    return _PASSWORD.sub("***", url)


def trouble(url: str, others: str | None = None) -> str | None:
    """Try with a small object whether this process can keep states below a URL; return what is in the way, None if nothing is.

    Parameters
    ----------
    url : str
        As in `Objects`.
    others : str, optional
        Name of an object that another process has written there.
    """
    objects, own = Objects(url), f"probe-{token_hex(8)}"
    try:
        if others is not None:
            objects.read(others)
        objects.write(own, own.encode())
        whole = own in objects.names("") and objects.read(own) == own.encode()
        objects.delete(own)
    except OSError as error:
        return f"objects cannot be written, read, listed and deleted there ({error.strerror})"
    return None if whole else "an object that was written there is not there"


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Make one kind of error of those of all the libraries behind fsspec, which has none of its own."""
    try:
        yield
    except Exception as error:
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise OSError(errno.EIO, textwrap.shorten(said, 300)) from error
