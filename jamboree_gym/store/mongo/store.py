"""The backup on MongoDB: stores the unchanged bytes of logs, in documents below its 16 MB limit."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.errors import check_threads
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.records import Copied, StoredBatch, StoredLog
from jamboree_gym.store.log import BackupIdentity, identity, log_of_identity, or_error
from jamboree_gym.store.mongo.bundle_documents import Member
from jamboree_gym.store.mongo.client import client_from_url
from jamboree_gym.store.mongo.documents import (
    DOCUMENT_VERSION,
    FoundLog,
    birth_of,
    blob_content,
    blob_document,
    checked_content,
    chunk_span,
    count_of,
    fence_of,
    found_log,
    is_chunk_of,
    is_older,
    stored_batches,
)
from jamboree_gym.store.mongo.link import CHUNK_ORDER, MongoLink
from jamboree_gym.store.mongo.writer import LogWriter
from jamboree_gym.store.urls import hosts_of

if TYPE_CHECKING:
    from pymongo import MongoClient

__all__ = ["MongoStore"]

HEADS_AT_ONCE = 1000
FEW = 8  # for parts of one batch, and leftovers of a deleted log
_IDENTITY = "identity"
_STATE = {"born": 1, "revision": 1, "count": 1, "fence": 1}  # fields of a log's document


class MongoStore(LogWriter, BackupStore):
    """Logs and blobs of one namespace, in the database with its name; `LogWriter` has its writes.

    A log has one document in `logs`, or a place in one of `bundles`, which short episodes share.
    Each later batch has a document in `chunks`, or one for each 12 MB. A deleted log leaves a
    document in `deleted`, which hides all data that a slow backup still copies of it. All writes
    wait for `w=majority, j=True`. What is damaged raises `DecodeError`.

    Args:
        client: A pymongo client. The store owns and closes it.
        namespace: The namespace, from which the name of the database is made.
        where: Hosts of the server, for messages.

    Attributes:
        where: As given.
        database: The database of the namespace.
    """

    def __init__(self, client: MongoClient[Any], namespace: str, *, where: str) -> None:
        super().__init__(MongoLink(client, namespace, where=where))
        self.where = where
        self.database = self.link.database
        self._id = ""

    @classmethod
    def from_url(cls, url: str, namespace: str) -> MongoStore:
        """Open a store by URL: `mongodb://` or `mongodb+srv://`.

        Raises:
            InvalidUrl: The scheme is unknown, the address malformed, or an option cannot be used.
            StoreUnavailable: Nothing answers there, or the server refuses the login.
        """
        check_threads()
        store = cls(client_from_url(url), namespace, where=hosts_of(url))
        try:
            store.link.check()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the client's connections. A second call does nothing."""
        self.link.close()

    # -- writing ----------------------------------------------------------------------------

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Store immutable content under its digest."""
        documents = [blob_document(name, content) for name, content in blobs.items()]
        if documents:
            self.link.insert_new(self.link.blobs, documents)

    # -- reading ----------------------------------------------------------------------------

    def deleted(self, logs: Iterable[tuple[str, float]]) -> set[tuple[str, float]]:
        """Which of these logs, given with their births, were deleted."""
        ids = {identity(*log): log for log in logs}
        if not ids or self.link.is_empty(self.link.deleted):  # often nothing was ever deleted
            return set()
        return {ids[one["_id"]] for one in self.link.find(self.link.deleted, list(ids), {"_id": 1})}

    def deletions(self) -> Iterator[tuple[str, float]]:
        """All logs that were deleted, with their births, in no order."""
        found = self.link.scan(lambda: list(self.link.deleted.find({}, {"_id": 1})))
        return (log_of_identity(str(one["_id"])) for one in found)

    def keys(self) -> Iterator[str]:
        """Keys of all logs, sorted."""
        bundled = {one.key for one in self.bundles.all_members()}
        found = self.link.scan(lambda: [log["_id"] for log in self.link.logs.find({}, {"_id": 1})])
        return iter(sorted(bundled.union(found)))

    def birth(self, key: str) -> float | None:
        """Birth of a log; None if MongoDB does not hold it."""
        births = [one.born for one in self.bundles.members([key])]
        found = self.link.find_one(self.link.logs, key)
        return next(iter(births), None) if found is None else birth_of(found)

    def logs(self, keys: Sequence[str]) -> dict[str, StoredLog | DecodeError]:
        """Read several logs; the error in place of a damaged one. Missing logs are left out."""
        found = self.bundles.find(keys)  # first: a log may just move into its own document
        documents = self.link.find(self.link.logs, keys)
        return self._not_deleted([*found, *map(self._found_log, documents)])

    def _found_log(self, document: Any) -> FoundLog:
        return found_log(document, where=f"MongoDB at {self.where}")

    def _not_deleted(self, found: Sequence[FoundLog]) -> dict[str, StoredLog | DecodeError]:
        """The logs without those that were deleted; of each the newest state."""
        ids = dict[str, FoundLog]()
        for one in found:
            id = identity(one.key, one.born)
            is_older = id in ids and -1 < one.revision < ids[id].revision
            if not is_older:  # nor damaged: a document counts more than a place in a bundle
                ids[id] = one
        for tombstone in self.link.find(self.link.deleted, list(ids), {"_id": 1}):
            del ids[tombstone["_id"]]
        return {one.key: one.log for one in ids.values()}

    def heads(self, run: str | None = None) -> Iterator[dict[str, Head | DecodeError]]:
        """Heads of all logs, or of the episodes of a run, some hundreds at a time.

        The error in place of a damaged head.
        """
        newer = dict[str, FoundLog]()
        for bundled in self.bundles.heads(run):
            keys = [one.key for one in bundled]
            documents = {one["_id"]: one for one in self.link.find(self.link.logs, keys, _STATE)}
            newer |= {
                one.key: one
                for one in bundled
                if one.key in documents and is_older(documents[one.key], one)
            }
            moved = documents.keys() - newer.keys()
            yield self._heads([one for one in bundled if one.key not in moved])
        if run is not None:
            self.link.scan(lambda: self.link.logs.create_index("run"))
        query = {} if run is None else {"run": run}
        cursor = self.link.logs.find(query, {"frames": 0})
        try:
            while found := self.link.scan(lambda: list(islice(cursor, HEADS_AT_ONCE))):
                yield self._heads(
                    [
                        self._found_log(one)
                        for one in found
                        if one["_id"] not in newer or not is_older(one, newer[one["_id"]])
                    ]
                )
        finally:
            cursor.close()

    def _heads(self, found: Sequence[FoundLog]) -> dict[str, Head | DecodeError]:
        return {
            key: log.head if isinstance(log, StoredLog) else log
            for key, log in self._not_deleted(found).items()
        }

    def runs(self) -> list[str]:
        """Names of all runs with episodes in MongoDB, in no order."""
        groups = self.link.scan(
            lambda: list(self.link.logs.aggregate([{"$group": {"_id": "$run"}}]))
        )
        names = {group["_id"] for group in groups if isinstance(group["_id"], str)}
        return list(names | self.bundles.runs())

    def batch_at(self, key: str, born: float, index: int) -> tuple[int, int, float, float] | None:
        """Indices and times of the newest batch in `chunks` that begins at or before an index."""
        self.link.index_chunks()
        query = {"key": key, "start": {"$lt": index + 1}}  # $lte of SecantusDB misses equal values
        cursor = self.link.run(
            lambda: self.link.chunks.find(query, {"content": 0}).sort("start", -1).limit(FEW)
        )
        found = self.link.run(lambda: [one for one in cursor if is_chunk_of(one["_id"], key, born)])
        return chunk_span(found[0], where=f"MongoDB at {self.where}") if found else None

    def batches_from(self, key: str, born: float, start: int, stop: int) -> Iterator[StoredBatch]:
        """Batches in `chunks` that begin at `start` or later and before `stop`, in order."""
        query = {"key": key, "start": {"$gte": start, "$lt": stop}}
        ours = identity(key, born)
        return (batch for found, batch in self._batches(query) if found == ours)

    def counts(self, keys: Sequence[str]) -> dict[str, Copied]:
        """How far each of these logs is copied; missing logs are left out."""
        bundled = self.bundles.members(keys)
        return _counts(bundled, self.link.find(self.link.logs, keys, _STATE))

    def batches_between(self, first_key: str, last_key: str) -> Iterator[tuple[str, StoredBatch]]:
        """Batches with their own documents, of all logs between two keys; sorted by key and start.

        Each has its log in the form of `identity`.
        """
        return self._batches({"key": {"$gte": first_key, "$lt": f"{last_key}$"}})

    def _batches(self, query: Any) -> Iterator[tuple[str, StoredBatch]]:
        self.link.index_chunks()
        cursor = self.link.run(lambda: self.link.chunks.find(query).sort(CHUNK_ORDER))
        try:
            yield from stored_batches(iter(lambda: self.link.run(lambda: next(cursor, None)), None))
        finally:
            cursor.close()

    def blob(self, name: str) -> bytes | None:
        """Content stored by `put_blobs`; None if it is missing."""
        found = self.link.find_one(self.link.blobs, name)
        return None if found is None else blob_content(found, where=f"MongoDB at {self.where}")

    def blobs(self) -> dict[str, bytes | DecodeError]:
        """All immutable content, by digest; the error in place of damaged content."""
        found = self.link.scan(lambda: list(self.link.blobs.find({})))
        where = f"MongoDB at {self.where}"
        return {one["_id"]: or_error(partial(blob_content, one, where=where)) for one in found}

    def damaged(self) -> dict[str, DecodeError]:
        """Bundles of which an episode cannot be told apart, or cannot be found, by their ids."""
        return self.bundles.damaged()

    def put_setting(self, name: str, content: bytes) -> None:
        """Store a setting of the namespace."""
        fields = {"format": DOCUMENT_VERSION, "content": content, "crc": zlib.crc32(content)}
        self.link.run(
            lambda: self.link.settings.update_one({"_id": name}, {"$set": fields}, upsert=True)
        )

    def setting(self, name: str) -> bytes | None:
        """A setting stored by `put_setting`; None if it is missing."""
        found = self.link.find_one(self.link.settings, name)
        return None if found is None else checked_content(found, where=f"MongoDB at {self.where}")

    def identity(self) -> BackupIdentity:
        """Identity of this MongoDB, for readers; a known id is not asked for again."""
        if not self._id:
            found = self.link.find_one(self.link.settings, _IDENTITY)
            self._id = "" if found is None else str(found.get("id", ""))
        return BackupIdentity(self._id, self.where)

    def identity_now(self) -> BackupIdentity:
        """Identity of this MongoDB, for writers; makes a new id if MongoDB was emptied."""
        self._id, new = "", secrets.token_hex(8)
        if not self.identity().id:
            self.link.insert_new(self.link.settings, [{"_id": _IDENTITY, "id": new}])
        if not self.identity().id:  # the stored id is damaged
            update = {"$set": {"id": new}}
            self.link.run(lambda: self.link.settings.update_one({"_id": _IDENTITY}, update))
        return self.identity()

    def namespaces(self) -> list[str]:
        """As `BackupStore.namespaces`."""
        return self.link.databases()

    def records(self) -> int:
        """Number of records and episode rows in all logs."""
        bundled = self.bundles.all_members()
        found = self.link.scan(lambda: list(self.link.logs.find({}, _STATE)))
        return sum(max(0, one.records) for one in _counts(bundled, found).values())


def _counts(bundled: Iterable[Member], documents: Iterable[Any]) -> dict[str, Copied]:
    """How far each log is copied, by its newest state."""
    newest = {one.key: one for one in sorted(bundled, key=attrgetter("revision"))}
    counts = {one.key: Copied(one.born, one.records) for one in newest.values()}
    for one in documents:
        key = one["_id"]
        if key not in newest or not is_older(one, newest[key]):
            counts[key] = Copied(birth_of(one), count_of(one), fence_of(one))
    return counts
