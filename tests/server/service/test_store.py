"""The store, on both databases: nothing is done twice, nothing acknowledged is lost, races have one winner."""

from __future__ import annotations

import threading

import alembic.command
import pytest
import sqlalchemy
from postgres import Postgres

from fedcosim.core.errors import SpecError
from fedcosim.server.store import Experiment, Store, StoreError, TakenKeyError
from fedcosim.server.store.tables import Table


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    if request.param == "sqlite":
        made = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    else:
        url = request.getfixturevalue("postgres").url
        with sqlalchemy.create_engine(url).begin() as connection:
            connection.execute(sqlalchemy.text("drop schema public cascade; create schema public"))
        made = Store(url)
    yield made
    made.close()


def experiment(name: str, **fields) -> Experiment:
    return Experiment(id=name, name=name, owner="alice", spec={"federation": {"rounds": 3}}, **fields)


def test_migrations_make_what_the_tables_say_and_can_be_undone(store):
    """Column by column; and once more from nothing."""
    for _ in range(2):
        inspector = sqlalchemy.inspect(store.engine)
        for table in Table.metadata.sorted_tables:
            columns = {column["name"]: bool(column["nullable"]) for column in inspector.get_columns(table.name)}
            assert columns == {column.name: bool(column.nullable) for column in table.columns}
            assert {index["name"] for index in inspector.get_indexes(table.name)} >= {index.name for index in table.indexes}
        store.submit(experiment("kept"))
        alembic.command.downgrade(store.migrations(), "base")
        assert not set(sqlalchemy.inspect(store.engine).get_table_names()) & set(Table.metadata.tables)
        alembic.command.upgrade(store.migrations(), "head")


def test_the_same_key_submits_once(store):
    first, new = store.submit(experiment("a", key="k", body="1"))
    again, newer = store.submit(experiment("b", key="k", body="1"))
    assert (new, newer, again.id) == (True, False, first.id)
    with pytest.raises(TakenKeyError, match="'k': it came before, with another"):
        store.submit(experiment("c", key="k", body="2"))
    other = Experiment(id="d", name="d", owner="bob", spec={}, key="k", body="2")
    assert store.submit(other)[1]


def test_an_id_that_is_taken_is_refused(store):
    store.submit(experiment("a"))
    with pytest.raises(StoreError, match="'a': there is one already"):
        store.submit(experiment("a"))


def test_many_submissions_at_once_are_all_kept_and_keys_still_submit_once(store):
    """Eight threads, each the same key and then an experiment of its own; turns are distinct."""
    ids = []

    def submit(number: int) -> None:
        ids.append(store.submit(experiment(f"same-{number}", key="k", body="1"))[0].id)
        store.submit(experiment(f"own-{number}"))

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = store.page(100).rows
    assert len(set(ids)) == 1
    assert {row.id for row in rows} == {*ids, *(f"own-{n}" for n in range(8))}
    assert len({row.turn for row in rows}) == len(rows) == 9


def test_the_queue_is_first_come_first_served_up_to_a_limit(store):
    for name in "abc":
        store.submit(experiment(name))
    assert [store.claim(2).id, store.claim(2).id] == ["a", "b"]
    assert store.claim(2) is None
    assert store.move("a", ("starting", "running"), "failed", reason="x")
    claimed = store.claim(2)
    assert (claimed.id, claimed.status, claimed.attempt) == ("c", "starting", 1)
    assert store.counts() == {**dict.fromkeys(store.counts(), 0), "starting": 2, "failed": 1}


def test_of_two_changes_from_one_status_only_one_happens(store):
    store.submit(experiment("a"))
    results = []
    threads = [threading.Thread(target=lambda: results.append(store.move("a", ("queued",), "starting"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 5 + [True]


def test_events_are_kept_once_and_in_order_and_tell_the_status(store):
    store.submit(experiment("a"))
    store.claim(1)
    events = [(1, {"event": "started"}), (2, {"event": "round", "round": 1}), (3, {"event": "round", "round": 2})]
    store.append("a", events[:2], {"accuracy_mean": 0.1})
    assert (store.get("a").status, store.get("a").rounds) == ("running", 1)
    store.append("a", events, {"accuracy_mean": 0.2})
    store.append("a", [(4, {"event": "cancelled", "reason": "enough"})], {"accuracy_mean": 0.2})
    row = store.get("a")
    assert (row.status, row.reason, row.rounds, row.final, row.lease) == (
        "cancelled",
        "enough",
        2,
        {"accuracy_mean": 0.2},
        None,
    )
    assert [event.seq for event in store.events("a")] == [1, 2, 3, 4]
    assert [event.data["round"] for event in store.events("a", after=2, kind="round")] == [2]
    assert store.last_event("a") == 4


def test_a_driver_learns_that_it_is_to_stop(store):
    """Because somebody asked, because a later attempt has taken over, or because it was given up."""
    store.submit(experiment("a"))
    store.claim(1)
    store.append("a", [(1, {"event": "started"})], {})
    assert not store.beat("a", 1)
    assert store.beat("a", 0)
    assert store.ask_to_stop("a")
    assert store.beat("a", 1)
    store.move("a", ("running",), "failed")
    assert store.beat("a", 1)
    assert not store.ask_to_stop("a")


def test_what_is_queued_is_cancelled_at_once(store):
    store.submit(experiment("a"))
    assert store.ask_to_stop("a")
    assert (store.get("a").status, store.claim(1)) == ("cancelled", None)


def test_pages_hold_everything_once_newest_first(store):
    for number in range(7):
        store.submit(experiment(f"e{number}", sweep="s" if number % 2 else None))
    seen, cursor = [], None
    while True:
        page = store.page(3, cursor)
        seen += [row.id for row in page.rows]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [f"e{number}" for number in reversed(range(7))]
    assert [row.id for row in store.page(10, sweep="s").rows] == ["e5", "e3", "e1"]
    assert [row.id for row in store.page(10, name="e2", status=("queued",)).rows] == ["e2"]


@pytest.mark.parametrize("url", ["mysql://x/y", "store.sqlite", "postgresql://x/y"])
def test_other_databases_are_refused(url):
    with pytest.raises(SpecError, match=r"must be sqlite:///FILE or postgresql\+psycopg"):
        Store(url)


def test_a_database_that_is_away_is_said_to_be(tmp_path):
    with pytest.raises(StoreError, match="the database did not do what it was asked"):
        Store("postgresql+psycopg://nobody@127.0.0.1:9/none")
