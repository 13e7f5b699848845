"""Stored responses: limits for each owner, expiry and chains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.server.clock import now
from ftpipe.server.storage import ResponseRow, Store, open_store
from ftpipe.server.storage.cleanup import delete_expired
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.server.storage.responses import ChainLimitError, MissingResponseError

LATER = 4_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty database."""
    store = open_store(tmp_path / "server.db")
    yield store
    store.close()


def add(
    store: Store, name: str, *, owner: str = "ann", previous: str | None = None, size: int = 10, expires: int = LATER
) -> None:
    """Store a response."""
    row = ResponseRow(
        id=name,
        owner=owner,
        bytes=size,
        created_at=1,
        expires_at=expires,
        previous_response_id=previous,
        input_items=[],
        body={},
        deltas={},
    )
    with store.write() as tx:
        tx.responses.add(row)


def names(store: Store) -> list[str]:
    """Ids of all responses, oldest first."""
    with store.read() as tx:
        return [row.id for row in tx.responses.all()]


def chain(store: Store, name: str) -> list[str]:
    """Ids of the responses of a conversation."""
    with store.read() as tx:
        return [row.id for row in tx.responses.chain("ann", name, now=2)]


def test_responses_beyond_number_are_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest ones, and those of the same owner only."""
    monkeypatch.setattr("ftpipe.server.storage.responses.MAX_RESPONSES_PER_OWNER", 2)
    add(store, "of bob", owner="bob")
    for name in "abcd":
        add(store, name)
    assert names(store) == ["of bob", "c", "d"]


def test_responses_beyond_bytes_are_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one stays, even if it alone is too large."""
    monkeypatch.setattr("ftpipe.server.storage.responses.MAX_BYTES_PER_OWNER", 25)
    for name in "abc":
        add(store, name)
    assert names(store) == ["b", "c"]
    add(store, "large", size=99)
    assert names(store) == ["large"]


def test_expired_responses_are_invisible_and_deleted(store: Store, tmp_path: Path) -> None:
    add(store, "old", expires=now() - 1)
    add(store, "new")
    with store.read() as tx:
        assert tx.responses.get("ann", "old", now=now()) is None
        assert tx.responses.get("ann", "new", now=now()) is not None
        assert tx.responses.get("bob", "new", now=now()) is None
    delete_expired(store, DataDirectory(tmp_path))
    assert names(store) == ["new"]


def test_chain_is_bounded_and_complete(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "a")
    add(store, "b", previous="a")
    add(store, "c", previous="b")
    assert chain(store, "c") == ["a", "b", "c"]
    monkeypatch.setattr("ftpipe.server.storage.responses.MAX_CHAIN_RESPONSES", 2)
    with pytest.raises(ChainLimitError):
        chain(store, "c")
    monkeypatch.undo()
    monkeypatch.setattr("ftpipe.server.storage.responses.MAX_CHAIN_BYTES", 29)
    with pytest.raises(ChainLimitError):
        chain(store, "c")
    monkeypatch.undo()
    with store.write() as tx:
        tx.responses.delete("a")
    with pytest.raises(MissingResponseError, match="a"):
        chain(store, "c")
