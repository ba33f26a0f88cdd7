"""Writes logs to MongoDB and deletes them there. A late copy changes nothing that it holds."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from jamboree_gym.encoding.batch_format import decode_batch
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.protocol import LogInserter
from jamboree_gym.store.backups.records import (
    ANOTHER_LOG,
    GrownLog,
    Inserted,
    NewLog,
    StoredBatch,
    StoredLog,
    is_other_head,
)
from jamboree_gym.store.log import identity, or_error
from jamboree_gym.store.mongo.bundles import Bundles, Bundling
from jamboree_gym.store.mongo.documents import (
    FoundLog,
    birth_of,
    chunk_documents,
    count_of,
    fence_of,
    head_fields,
    log_document,
    log_of_chunk,
    slot_field,
    stored_log,
)
from jamboree_gym.store.mongo.link import MongoLink

__all__ = ["LogWriter"]

MAX_INSERT_BYTES = 8 * 2**20
MAX_DOCUMENTS = 10_000
DELETED_AT_ONCE = 200
_TO_COMPARE = "MongoDB has batches apart from the log's document, or a newer head"


class _Inserter(LogInserter):
    """Stores logs for the first time, short episodes in bundles."""

    def __init__(self, writer: LogWriter, bundling: Bundling) -> None:
        self._writer = writer
        self._bundling = bundling

    def insert(self, logs: Mapping[str, NewLog]) -> Inserted:
        """Store logs, each with all its batches."""
        return self._writer.insert_logs(logs, self._bundling)

    def close(self) -> None:
        """Finish the bundles."""
        self._bundling.close()


class LogWriter:
    """Stores and deletes logs and their batches.

    Attributes:
        link: Sends the requests.
        bundles: The documents that many short episodes share.
    """

    def __init__(self, link: MongoLink) -> None:
        self.link = link
        self.bundles = Bundles(link)

    def inserter(self, keys: Iterable[str]) -> LogInserter:
        """What stores some of these logs for the first time."""
        return _Inserter(self, self.bundling(keys))

    def bundling(self, keys: Iterable[str]) -> Bundling:
        """What `insert_logs` needs to store some of these logs."""
        return Bundling(self.bundles, self.link, keys)

    def insert_logs(self, logs: Mapping[str, NewLog], bundling: Bundling) -> Inserted:
        """Store logs that are copied for the first time, each with all its batches.

        Short episodes that have ended share documents. The other logs are inserted without a look
        at what is there: nearly always none of them is.

        Raises:
            StoreUnavailable: MongoDB does not answer; insert again.
        """
        inserted = Inserted({}, set())
        rest = self._insert_bundles(logs, bundling, inserted)
        for documents in _by_size(log_document(key, log) for key, log in rest.items()):
            present = [one["_id"] for one in self.link.insert_new(self.link.logs, documents)]
            stored = self.link.find(self.link.logs, present, {"count": 1})
            counts = {one["_id"]: count_of(one) for one in stored}
            for key in present:
                is_as_long = counts.get(key, logs[key].head.count) == logs[key].head.count
                difference = self._merge(key, logs[key]) if is_as_long else _TO_COMPARE
                if difference == _TO_COMPARE:
                    inserted.of_other_length.add(key)
                elif difference is not None:
                    inserted.refused[key] = difference
        return inserted

    def _insert_bundles(
        self, logs: Mapping[str, NewLog], bundling: Bundling, inserted: Inserted
    ) -> dict[str, NewLog]:
        """Store what can be bundled; return the logs that need their own documents."""
        rest = self._without_bundled(logs, bundling.bundled, inserted)
        stored, repeated = bundling.insert(rest)
        rest = {key: log for key, log in rest.items() if key not in stored}
        return self._without_bundled(rest, repeated, inserted)

    def _without_bundled(
        self, logs: Mapping[str, NewLog], bundled: Collection[str], inserted: Inserted
    ) -> dict[str, NewLog]:
        """The logs that still have to be stored, after a look at those that bundles hold."""
        rest = dict(logs)
        present = rest.keys() & bundled
        for found in self.bundles.find(present) if present else ():
            log = logs[found.key]
            if found.born == log.head.born and isinstance(found.log, StoredLog):
                there = found.log.head
                if there.count != log.head.count or is_other_head(there, log.head):
                    inserted.of_other_length.add(found.key)
                elif (difference := _first_difference(found.key, log, found.log)) is not None:
                    inserted.refused[found.key] = difference
                elif found.log.head.revision < log.head.revision:
                    self._give_document(found)
                    continue
            elif isinstance(found.log, DecodeError):
                inserted.refused[found.key] = str(found.log)
            elif self._clear_if_deleted(found.key, found.born):
                continue
            else:
                inserted.refused[found.key] = ANOTHER_LOG
            rest.pop(found.key, None)
        return rest

    def _give_document(self, found: FoundLog) -> None:
        """Move a log from its bundle into its own document, so that it can change."""
        if isinstance(found.log, StoredLog):
            key, new = found.key, NewLog(found.log.head, found.log.batches, found.run)
            older = {"_id": key, "born": found.born, "revision": {"$lt": found.revision}}
            is_new = not self.link.insert_new(self.link.logs, [log_document(key, new)])
            if not is_new and not self._replace(older, key, new):
                self._merge(key, new)
            self.bundles.remove([(key, found.born)], until_revision=found.revision)

    def _merge(self, key: str, log: NewLog) -> str | None:
        """Update a log that MongoDB already holds; return the difference if it is another log."""
        while True:
            document = self.link.find_one(self.link.logs, key)
            if document is None:  # the log has just been deleted
                if not self.link.insert_new(self.link.logs, [log_document(key, log)]):
                    return None
                continue
            difference, is_done = self._compare(key, document, log)
            if is_done:
                return difference
            seen = {name: document[name] for name in ("_id", "born", "revision")}
            if self._replace(seen, key, log):
                return None

    def _replace(self, which: Mapping[str, Any], key: str, log: NewLog) -> bool:
        """Have the document of a log contain this, if it is such a one; return whether it was."""
        fields = log_document(key, log)
        del fields["_id"]
        update = partial(self.link.logs.update_one, which, {"$set": fields})
        return bool(self.link.run(update).matched_count)

    def _compare(self, key: str, document: Any, log: NewLog) -> tuple[str | None, bool]:
        """The difference to the stored log, and whether there is nothing to do."""
        stored = self._decoded(document)
        if isinstance(stored, DecodeError):
            return str(stored), True
        if stored.head.born != log.head.born:
            if not self._clear_if_deleted(key, stored.head.born):
                return ANOTHER_LOG, True
            return None, self.link.insert_new(self.link.logs, [log_document(key, log)]) == []
        difference = _first_difference(key, log, stored)
        if difference is None and (
            len(stored.batches) < len(log.batches) or is_other_head(stored.head, log.head)
        ):
            difference = _TO_COMPARE
        is_done = difference is not None or stored.head.revision >= log.head.revision
        return difference, is_done

    def _decoded(self, document: Any) -> StoredLog | DecodeError:
        return or_error(partial(stored_log, document, where=f"MongoDB at {self.link.where}"))

    def insert_batches(self, batches: Iterable[tuple[str, float, bytes]]) -> dict[str, str]:
        """Store further batches of logs, given with their log and its birth.

        A batch that is already there stays, if it is the same.

        Returns:
            Logs with other bytes in MongoDB, each with the first such index. Others of these
            batches are there now: another backup may need them (`clear_batches`).

        Raises:
            StoreUnavailable: MongoDB does not answer; insert again.
        """
        self.link.index_chunks()
        refused: dict[str, str] = {}
        parts = (part for batch in batches for part in chunk_documents(*batch))
        for documents in _by_size(parts):
            while documents:
                present = self.link.insert_new(self.link.chunks, documents)
                ids = [one["_id"] for one in present]
                stored = self.link.find(self.link.chunks, ids, {"crc": 1})
                crcs = {one["_id"]: one.get("crc") for one in stored}
                for one in present:
                    if crcs.get(one["_id"], one["crc"]) != one["crc"]:
                        refused.setdefault(one["key"], f"other bytes at index {one['start']}")
                documents = [one for one in present if one["_id"] not in crcs]  # just cleared
        return refused

    def put_heads(self, logs: Mapping[str, GrownLog]) -> dict[str, str | None]:
        """Store the heads of logs that have grown; an older revision never replaces a newer one.

        Returns:
            Logs whose heads were not stored. The value is the difference if MongoDB holds another
            log of the same name. It is None if MongoDB holds more batches than expected, or another
            head that is not older, or if batches were removed meanwhile, so that they must be
            compared.
        """
        unsettled = self._give_documents(logs)
        logs = {key: log for key, log in logs.items() if key not in unsettled}
        for key in self._update_heads(logs):
            log, document = logs[key], self.link.find_one(self.link.logs, key)
            if document is None or self._clear_if_deleted(key, birth_of(document)):
                self._update_heads({key: log})
                continue
            stored = self._decoded(document)
            if isinstance(stored, DecodeError):
                unsettled[key] = str(stored)
            elif stored.head.born != log.head.born:
                unsettled[key] = ANOTHER_LOG
            elif (
                stored.head.count > log.since
                or is_other_head(stored.head, log.head)
                or fence_of(document) != log.fence
            ):
                unsettled[key] = None
        return unsettled

    def _give_documents(self, logs: Mapping[str, GrownLog]) -> dict[str, str | None]:
        """Move logs out of their bundles; return those that bundles hold under the same name."""
        others: dict[str, str | None] = {}
        bundled = self.bundles.members(logs)
        for found in self.bundles.find([one.key for one in bundled]) if bundled else ():
            if isinstance(found.log, DecodeError):
                others[found.key] = str(found.log)
            elif found.born == logs[found.key].head.born:
                self._give_document(found)
            elif not self._clear_if_deleted(found.key, found.born):
                others[found.key] = ANOTHER_LOG
        return others

    def _update_heads(self, logs: Mapping[str, GrownLog]) -> list[str]:
        """Update or insert; return the logs whose stored state is not the expected one."""
        from pymongo import UpdateOne
        from pymongo.errors import BulkWriteError

        keys = list(logs)
        updates = [UpdateOne(*_update_of(key, log), upsert=True) for key, log in logs.items()]
        try:
            if updates:
                self.link.run(lambda: self.link.logs.bulk_write(updates, ordered=False))
        except BulkWriteError as error:
            return [keys[failure["index"]] for failure in self.link.duplicates(error)]
        return []

    def delete(self, logs: Iterable[tuple[str, float]]) -> None:
        """Delete logs, given with their births, for good.

        Data that a slow backup copies afterwards stays hidden.
        """
        logs, now = list(logs), time.time()
        for first in range(0, len(logs), DELETED_AT_ONCE):
            some = logs[first : first + DELETED_AT_ONCE]
            tombstones = [{"_id": identity(*log), "at": now} for log in some]
            self.link.insert_new(self.link.deleted, tombstones)
            self._clear(some)

    def _clear(self, logs: Sequence[tuple[str, float]]) -> None:
        from pymongo import DeleteOne

        self.bundles.remove(logs)
        deletions = [DeleteOne({"_id": key, "born": born}) for key, born in logs]
        self.link.run(lambda: self.link.logs.bulk_write(deletions, ordered=False))
        self._clear_chunks({"key": {"$in": [key for key, _ in logs]}}, logs)

    def clear_batches(
        self, key: str, born: float, batches: Sequence[StoredBatch], *, count: int
    ) -> None:
        """Remove batches that no head counts, unless others have taken their places.

        Nothing is removed if the head does not count `count` records any more; 0 = there is none.
        """
        if count:
            is_as_seen = self._raise_fence(key, born, count)
        else:
            is_as_seen = self.link.find_one(self.link.logs, key) is None
        for batch in batches if is_as_seen else ():
            self._clear_batch(key, born, batch)

    def _raise_fence(self, key: str, born: float, count: int) -> bool:
        """Refuse heads of those who have looked before now, unless such a head is there already.

        See M. Kleppmann, "How to do distributed locking" (2016), on fencing tokens.
        """
        for found in self.bundles.find([key]) if self.bundles.members([key]) else ():
            if found.born == born:
                self._give_document(found)
        which = {"_id": key, "born": born, "count": count}
        update = partial(self.link.logs.update_one, which, {"$inc": {"fence": 1}})
        return bool(self.link.run(update).matched_count)

    def _clear_batch(self, key: str, born: float, batch: StoredBatch) -> None:
        from pymongo import DeleteOne

        if batch.blob is None:
            self._clear_chunks({"key": key, "start": batch.start}, [(key, born)])
            return
        parts = chunk_documents(key, born, batch.blob)
        deletions = [DeleteOne({"_id": part["_id"], "crc": part["crc"]}) for part in parts]
        self.link.run(lambda: self.link.chunks.bulk_write(deletions, ordered=False))

    def _clear_chunks(self, query: Mapping[str, Any], logs: Sequence[tuple[str, float]]) -> None:
        """Remove the documents of these logs, and of no others with the same keys."""
        self.link.index_chunks()
        found = self.link.run(
            lambda: [one["_id"] for one in self.link.chunks.find(query, {"_id": 1})]
        )
        wanted = {identity(*log) for log in logs}
        self._delete_chunks([id for id in found if log_of_chunk(id) in wanted])

    def _delete_chunks(self, ids: Sequence[str]) -> None:
        for first in range(0, len(ids), MAX_DOCUMENTS):
            part = ids[first : first + MAX_DOCUMENTS]
            self.link.run(partial(self.link.chunks.delete_many, {"_id": {"$in": part}}))

    def _clear_if_deleted(self, key: str, born: float) -> bool:
        """Remove the remains of a log if it was deleted; return whether it was."""
        if self.link.find_one(self.link.deleted, identity(key, born)) is None:
            return False
        self._clear([(key, born)])
        return True

    def clear_deleted(self, logs: Iterable[tuple[str, float]]) -> None:
        """Remove data that arrived for these logs after their deletion."""
        for key, born in logs:
            self._clear_if_deleted(key, born)


def _first_difference(key: str, log: NewLog, stored: StoredLog) -> str | None:
    """How the batches that both have differ."""
    for ours, theirs in zip(log.batches, stored.batches, strict=False):
        if ours != theirs:
            return f"other bytes at index {decode_batch(ours, where=key).start}"
    return None


def _update_of(key: str, log: GrownLog) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document to update, and its new fields."""
    expected: dict[str, Any] = {
        "_id": key,
        "born": log.head.born,
        "count": {"$lte": log.since},
    }
    older = {"$lt": log.head.revision}
    expected["revision"] = older if log.instead_of < 0 else log.instead_of
    expected["fence"] = log.fence or {"$exists": False}
    return expected, {"$set": {"run": log.run, **slot_field(key), **head_fields(log.head)}}


def _by_size(documents: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Documents in groups of some megabytes."""
    part, size = list[dict[str, Any]](), 0
    for document in documents:
        part.append(document)
        size += len(document.get("content", b"")) + sum(map(len, document.get("frames", ())))
        if size >= MAX_INSERT_BYTES or len(part) == MAX_DOCUMENTS:
            yield part
            part, size = [], 0
    if part:
        yield part
