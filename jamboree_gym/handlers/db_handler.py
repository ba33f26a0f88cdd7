"""Handlers: objects that store and read the records of one log each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.checked import Count, EpochSeconds, Seconds, checked
from jamboree_gym.connection import Connection, HasConnection
from jamboree_gym.delivery.outbox import RecordOutbox
from jamboree_gym.encoding.batch_format import Batch, Head, decode_records
from jamboree_gym.errors import InvalidArgument, InvalidRecord, UnknownKey
from jamboree_gym.handlers.follow import Tail
from jamboree_gym.handlers.plain_records import append_plain
from jamboree_gym.store.log import LogSlice

__all__ = ["DBHandler"]

STORED_FIELDS = frozenset({"index", "timestamp"})
TAIL_PAUSE_S = 0.02
TAIL_RECORDS = 4096  # how many records a tail reads at once
_KEY_TYPES = (str, int, float, bool)


class DBHandler:
    """Saves and reads dicts. An entity and required keys name the log of a handler.

    A subclass sets both in `__init__`:

    Example:
        >>> class TradeHandler(DBHandler):
        ...     def __init__(self, jam=None):
        ...         super().__init__(jam)
        ...         self.entity = "trade"
        ...         self.required = {"episode": str}
        >>> handler = TradeHandler(jam)
        >>> handler["episode"] = "e1"
        >>> handler.save({"value": 3})
        >>> handler.last()["value"]
        3

    Args:
        jam: The `Jamboree` that stores the records; it can also be set later, as `handler.event`.

    Attributes:
        entity: The kind of record; part of the log's key.
        required: Name and type of each key that must be set before saving or reading.
    """

    @checked
    def __init__(self, jam: HasConnection | None = None) -> None:
        self.entity = ""
        self.required: dict[str, type] = {}
        self._event: HasConnection | None = None
        self._linked: Connection | None = None
        self._keys: dict[str, Any] = {}
        self._outbox: RecordOutbox | None = None
        self._reserved: frozenset[str] = STORED_FIELDS
        if jam is not None:
            self.event = jam

    # -- in another process, or a copy ------------------------------------------------------

    def _unshared(self) -> dict[str, Any]:
        """What a copy does not share with the handler, as it is at the beginning."""
        return {"_linked": None, "_outbox": None}

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the Jamboree as its address, nothing that is being written.

        Raises:
            JamboreeClosed: The Jamboree is closed.
            NotCopyable: It cannot be opened in the process that `multiprocessing` starts now.
        """
        event = None if self._event is None else (type(self._event), self._linked)
        return {**vars(self), **self._unshared(), "_event": event}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be that; a copy in the same process uses the same connection."""
        event = state["_event"]
        vars(self).update(state, _event=None)
        if event is not None:
            kind, connection = event
            self.event = kind._on(connection)

    @property
    def event(self) -> HasConnection:
        """The `Jamboree` that stores the records.

        Raises:
            UnknownKey: No Jamboree has been set.
        """
        if self._event is None:
            raise self._has_no_jamboree()
        return self._event

    @event.setter
    def event(self, jam: HasConnection) -> None:
        if not isinstance(jam, HasConnection):
            raise InvalidArgument(f"handler.event must be a Jamboree, not {type(jam).__name__}")
        self._event = jam
        self._linked = jam._connection
        self._outbox = None

    @property
    def _connection(self) -> Connection:
        if self._linked is None:
            raise self._has_no_jamboree()
        return self._linked

    def _has_no_jamboree(self) -> UnknownKey:
        return UnknownKey(
            f"{type(self).__name__} has no Jamboree: set handler.event = Jamboree() first"
        )

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a required key.

        Raises:
            UnknownKey: `required` does not declare the key.
            InvalidArgument: The value does not have the declared type.
        """
        self._check_declared(name)
        kind = self.required[name]
        if not isinstance(value, kind) or not isinstance(value, _KEY_TYPES):
            raise InvalidArgument(
                f"{self._name}: key {name!r} must be {kind.__name__}, "
                f"got {value!r} of type {type(value).__name__}"
            )
        self._keys[name] = value
        self._outbox = None

    def __getitem__(self, name: str) -> Any:
        """The value of a required key.

        Raises:
            UnknownKey: `required` does not declare the key, or it is not set yet.
        """
        self._check_declared(name)
        if name not in self._keys:
            raise UnknownKey(f"{self._name}: key {name!r} is not set: handler[{name!r}] = ...")
        return self._keys[name]

    def _check_declared(self, name: str) -> None:
        if name not in self.required:
            raise UnknownKey(
                f"{self._name} has no key {name!r}; its required keys are "
                f"{', '.join(map(repr, self.required)) or 'none'}"
            )

    @property
    def _name(self) -> str:
        return f"{type(self).__name__}({self.entity!r})"

    @property
    def _key(self) -> str:
        if not self.entity:
            raise UnknownKey(f"{type(self).__name__} has no entity: set self.entity in __init__")
        keys = {name: self[name] for name in self.required}
        return self._connection.keyspace.records(self.entity, keys)

    # -- saving -----------------------------------------------------------------------------

    def save(self, record: Mapping[str, Any]) -> None:
        """Save one record; it gets an `index` and a `timestamp`. The caller's dict does not change.

        Args:
            record: Field names and values: numbers, texts, bytes, None, times, NumPy arrays and
                scalars, tensors, enums, dataclasses, and lists, tuples, sets and dicts of these.

        Raises:
            UnknownKey: A required key or the Jamboree is not set.
            InvalidRecord: A field cannot be stored, or its name is reserved; names the field.
            StoreUnavailable: In `sync` and `fsync` mode, Redis has not confirmed the record. The
                record stays queued: do not save it again. With `when_full="raise"`, the queue is
                full, and the record is not queued: save it again when Redis is back.
        """
        outbox = self._outbox or self._open_outbox()
        writer = self._connection.writer
        pressure = writer.backpressure
        if (
            append_plain is not None
            and not (pressure.is_on or pressure.has_outage)
            and append_plain(outbox, record, self._reserved)
        ):
            return
        encoded = self._encode(record)
        if pressure.is_on:
            pressure.admit()
        writer.after_append(outbox, outbox.append(encoded))

    def save_many(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Save several records, in order; if one of them cannot be stored, save none.

        Raises:
            As `save`.
        """
        outbox = self._outbox or self._open_outbox()
        queued_bytes = 0
        encoded_records = [self._encode(record) for record in records]
        self._connection.writer.backpressure.admit()
        for encoded in encoded_records:
            queued_bytes = outbox.append(encoded)
        self._connection.writer.after_append(outbox, queued_bytes)

    def _open_outbox(self) -> RecordOutbox:
        self._reserved = STORED_FIELDS.union(self.required)
        self._outbox = self._connection.record_outbox(self._key)
        return self._outbox

    def _encode(self, record: Mapping[str, Any]) -> bytes:
        try:
            if not self._reserved.isdisjoint(record):
                taken = ", ".join(map(repr, sorted(self._reserved.intersection(record))))
                raise InvalidRecord(
                    f"the field name {taken} is taken: index and timestamp are given on saving, "
                    "required keys are set on the handler"
                )
            return encode_mapping(record)
        except (InvalidRecord, AttributeError, TypeError) as error:
            kind = type(record).__name__
            what = error if isinstance(record, Mapping) else f"a record is a dict, not {kind}"
            raise InvalidRecord(f"{self._name}.save: {what}") from error

    # -- reading ----------------------------------------------------------------------------

    @checked
    def many(self, limit: Count) -> list[dict[str, Any]]:
        """The newest `limit` records, oldest first; an empty list when there are none."""
        if limit <= 0:
            return []
        outbox = self._outbox
        if outbox is not None:
            outbox.newest.expect(limit)
        has_answered = self._settle()
        if outbox is not None:
            own = outbox.newest.last(limit)
            if has_answered and own is not None:
                return own
        key = self._key if outbox is None else outbox.key
        found = self._connection.store.last(key, limit)
        records = self._records(found)[-limit:]
        if outbox is not None and found is not None:
            outbox.newest.learn(found, records)
        return records

    def last(self) -> dict[str, Any] | None:
        """The newest record, None when there is none."""
        return next(iter(self.many(1)), None)

    @checked
    def between(self, t0: EpochSeconds, t1: EpochSeconds) -> list[dict[str, Any]]:
        """Records with t0 <= timestamp <= t1 (epoch seconds), oldest first."""
        records = self._records(self._connection.store.between(self._settled_key(), t0, t1))
        return [record for record in records if t0 <= record["timestamp"] <= t1]

    @checked
    def as_of(self, t: EpochSeconds) -> dict[str, Any] | None:
        """The newest record with timestamp <= t (epoch seconds): what was known at that time."""
        records = self._records(self._connection.store.as_of(self._settled_key(), t))
        return next((record for record in reversed(records) if record["timestamp"] <= t), None)

    def count(self) -> int:
        """Number of records that can be read."""
        return self._connection.store.count(self._settled_key())

    @checked
    def tail(self, *, timeout_s: Seconds | None = None) -> Iterator[dict[str, Any]]:
        """Follow the log: yield every record from the oldest on, and wait for new ones.

        If Redis is away, the iterator waits, and continues when Redis is back.

        Args:
            timeout_s: End when no record has come for this many seconds; None waits for ever.

        Raises:
            DecodeError: Stored bytes are damaged; names key and index.
            StoreUnavailable: Redis has been away for `timeout_s`.
        """
        return _RecordTail(self._read_from).follow(timeout_s)

    @checked
    def atail(self, *, timeout_s: Seconds | None = None) -> AsyncIterator[dict[str, Any]]:
        """As `tail`, for an event loop, which it does not block: it waits in its own thread.

        Example:
            >>> async for record in handler.atail():
            ...     print(record["index"], record["value"])
        """
        return _RecordTail(self._read_from).afollow(timeout_s)

    def _read_from(self, index: int) -> tuple[list[dict[str, Any]], Head | None]:
        """Some records from an index on, and the head of the log."""
        found = self._connection.store.read(self._settled_key(), index, index + TAIL_RECORDS)
        records = [record for record in self._records(found) if record["index"] >= index]
        return records, None if found is None else found.head

    @checked
    def pop(self, n: Count = 1) -> list[dict[str, Any]]:
        """Take the n oldest records off the log, as from a queue, and return them.

        Indices are never reused: the next saved record continues the count. Each record goes to one
        caller only. If the connection breaks before the answer arrives, the records of that call go
        to nobody.

        Raises:
            StoreUnavailable: Redis did not answer. It may still take records off, also some that
                are saved after this: they go to nobody.
        """
        if n <= 0:
            return []
        key = self._settled_key()
        start, stop, batches = self._connection.store.pop(key, n)
        return [r for r in self._decode(key, batches) if start <= r["index"] < stop]

    def delete(self) -> None:
        """Delete all records under the handler's keys, from Redis and from the backup.

        Raises:
            StoreUnavailable: Redis did not answer. It may still carry the deletion out, with what
                was saved in the meantime. Call again to be sure.
        """
        self._connection.delete_log(self._settled_key())
        self._outbox = None

    def _settled_key(self) -> str:
        """Key of the log, once all records that this process has saved have arrived there."""
        self._settle()
        return self._key if self._outbox is None else self._outbox.key

    def _settle(self) -> bool:
        """As `Connection.settle`, for the handler's log."""
        return self._connection.settle(self._key if self._outbox is None else self._outbox.key)

    def _records(self, found: LogSlice | None) -> list[dict[str, Any]]:
        if found is None:
            return []
        records = self._decode(self._key, found.batches)
        return [record for record in records if record["index"] >= found.head.first]

    def _decode(self, key: str, batches: Iterable[Batch]) -> list[dict[str, Any]]:
        return [record for batch in batches for record in decode_records(batch, where=key)]

    def __repr__(self) -> str:
        """Entity and keys."""
        keys = ", ".join(f"{name}={value!r}" for name, value in self._keys.items())
        return f"<{self._name} {keys}>"


class _RecordTail(Tail[dict[str, Any]]):
    """Follows a log of records. No feed announces them, so it polls the log."""

    def __init__(
        self, read_from: Callable[[int], tuple[list[dict[str, Any]], Head | None]]
    ) -> None:
        self._read_from = read_from
        self._next_index = 0

    def look(self, wait_s: float) -> list[dict[str, Any]]:
        records, head = self._read_from(self._next_index)
        if records:
            self._next_index = records[-1]["index"] + 1
        if head is None or head.count < self._next_index:
            self._next_index = 0  # the log was deleted, and has begun anew
        elif self._next_index < head.first:
            self._next_index = head.first  # the other records have been popped
        elif not records:
            time.sleep(min(wait_s, TAIL_PAUSE_S))
        return records
