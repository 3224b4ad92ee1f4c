"""Client states in a folder and below URLs: one layout, one check, whatever keeps the bytes."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import fsspec
import numpy as np
import pytest
from flwr.app import RecordDict
from fsspec.implementations.local import LocalFileSystem

from fedcosim.clients.objects import Objects, trouble
from fedcosim.clients.state import StateRef, StateStore
from fedcosim.core.errors import StateError
from fedcosim.core.records import array_record


@pytest.fixture(params=["path", "file", "memory"])
def place(request, tmp_path) -> tuple[Path | str, Callable[[], dict[str, bytes]]]:
    """Where a store may be, and what is there."""
    if request.param == "memory":
        system = fsspec.filesystem("memory")
        system.store.clear()
        system.pseudo_dirs[:] = [""]
        return "memory://a/b", lambda: {name.removeprefix("/a/b/"): system.cat_file(name) for name in system.find("/a/b")}
    root = tmp_path if request.param == "path" else f"file://{tmp_path}"
    return root, lambda: {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def state(value: float) -> RecordDict:
    return RecordDict({"head": array_record({"w": np.full(3, value, np.float32)})})


def w(record: RecordDict) -> list[float]:
    return record["head"]["w"].numpy().tolist()


def test_what_was_saved_is_loaded_by_anyone_who_has_the_reference(place):
    root, _ = place
    refs = [StateStore(root).save(client, 1, state(client)) for client in (0, 7, 300)]
    assert [w(StateStore(root).load(client, ref)) for client, ref in zip((0, 7, 300), refs, strict=True)] == [
        [0.0] * 3,
        [7.0] * 3,
        [300.0] * 3,
    ]


def test_a_client_without_a_state_starts_empty(place):
    assert not StateStore(place[0]).load(3, None)


def test_every_generation_is_one_object_whose_checksum_the_reference_has(place):
    root, contents = place
    ref = StateStore(root).save(300, 12, state(1))
    ((name, blob),) = contents().items()
    assert name == "2c/300/000012.safetensors"
    assert ref == StateRef(12, sha256(blob).hexdigest())


def test_a_missing_state_is_an_error_that_says_where(place):
    with pytest.raises(StateError, match=r"client 5: state of round 2 cannot be read \(.*05/5/000002.safetensors\)"):
        StateStore(place[0]).load(5, StateRef(2, "0" * 64))


def test_a_state_that_is_half_there_is_an_error(place):
    """A file system behind a URL may leave that behind; a client must not start anew, or from something else."""
    root, contents = place
    store = StateStore(root)
    ref = store.save(5, 2, state(1))
    system, path = fsspec.url_to_fs(str(root))
    system.pipe_file(f"{path}/05/5/000002.safetensors", contents()["05/5/000002.safetensors"][:-9])
    with pytest.raises(StateError, match="client 5: state of round 2 is damaged"):
        store.load(5, ref)


def test_pruning_leaves_what_is_referred_to_and_other_clients_alone(place):
    root, contents = place
    store = StateStore(root)
    refs = [store.save(1, generation, state(generation)) for generation in (1, 2, 3, 4)]
    store.save(257, 1, state(0))
    store.prune(1, refs[2:])
    assert set(contents()) == {"01/1/000003.safetensors", "01/1/000004.safetensors", "01/257/000001.safetensors"}
    assert w(store.load(1, refs[3])) == [4.0] * 3


def test_a_place_that_can_be_used_has_no_trouble_and_is_left_as_it_was(tmp_path):
    assert trouble(f"file://{tmp_path}") is None
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_cannot_see_is_trouble(tmp_path):
    """Such as a path that every node has, but each for itself."""
    (tmp_path / "there").write_bytes(b"")
    assert trouble(f"file://{tmp_path}", "there") is None
    assert "No such file" in trouble(f"file://{tmp_path}", "elsewhere")


@pytest.mark.parametrize("missing", ["folder", "folder/below"])
def test_the_folder_of_a_url_is_not_made(missing, tmp_path):
    """It may be a mount that is not there today, or, elsewhere, a bucket with a slip of the pen in its name."""
    assert "No such file" in trouble(f"file://{tmp_path}/{missing}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_worker_has_just_made_will_do(tmp_path, monkeypatch):
    """Both find it missing, both make it, one is slower."""
    make = LocalFileSystem.mkdir

    def slower(self, path, **options):
        make(self, path, **options)
        make(self, path, **options)

    monkeypatch.setattr(LocalFileSystem, "mkdir", slower)
    Objects(f"file://{tmp_path}").write("a/b/c", b"x")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"


def test_what_cannot_be_opened_is_an_os_error_with_the_librarys_words():
    """`lakefs` stands for any protocol whose package is not installed."""
    with pytest.raises(OSError, match="lakefs") as raised:
        Objects("lakefs://repository/branch").read("x")
    assert "nstall" in raised.value.strerror
