"""Reads the logs of several handlers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jamboree_gym.handlers.db_handler import DBHandler

__all__ = ["count_together", "read_together"]

_EVERYTHING = 2**52


def read_together(handlers: Sequence[DBHandler]) -> list[list[dict[str, Any]]]:
    """All records of each handler, oldest first, in two or three round trips.

    The handlers are of one Jamboree, and what this process has saved is settled. The backup is
    asked as `ReadThroughStore.heads_of_records` says.

    Raises:
        DecodeError: A log is damaged; names key and index.
    """
    if not handlers:
        return []
    store, keys = handlers[0]._connection.store, [one._key for one in handlers]
    there = list(store.heads_of_records(keys))
    slices = store.read_many(there, [("last", _EVERYTHING)] * len(there))
    found = dict(zip(there, slices, strict=True))
    return [one._records(found.get(key)) for one, key in zip(handlers, keys, strict=True)]


def count_together(handlers: Sequence[DBHandler]) -> list[int]:
    """How many records of each handler can be read, in one or two round trips.

    Raises:
        DecodeError: The head of a log is damaged; names its key.
    """
    if not handlers:
        return []
    keys = [one._key for one in handlers]
    heads = handlers[0]._connection.store.heads_of_records(keys)
    return [heads[key].count - heads[key].first if key in heads else 0 for key in keys]
