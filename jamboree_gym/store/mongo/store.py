"""The backup on MongoDB: stores the unchanged bytes of logs, in documents below its 16 MB limit."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from jamboree_gym.encoding.batch_format import Head, decode_batch
from jamboree_gym.errors import (
    DecodeError,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.keys import (
    MONGO_BLOBS,
    MONGO_CHUNKS,
    MONGO_DELETED,
    MONGO_LOGS,
    MONGO_SETTINGS,
)
from jamboree_gym.store.log import MongoIdentity, identity
from jamboree_gym.store.mongo.client import client_from_url, reason_of
from jamboree_gym.store.mongo.documents import (
    DOCUMENT_VERSION,
    GrownLog,
    KeptBatch,
    KeptLog,
    NewLog,
    birth_of,
    blob_content,
    blob_document,
    checked_content,
    chunk_documents,
    chunk_span,
    database_name,
    head_fields,
    is_chunk_of,
    kept_batches,
    kept_log,
    log_document,
)
from jamboree_gym.store.urls import hosts_of

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection
    from pymongo.database import Database
    from pymongo.errors import BulkWriteError

__all__ = ["BackupUnavailable", "InterpreterEnds", "MongoStore", "check_threads"]

MAX_INSERT_BYTES = 8 * 2**20
MAX_DOCUMENTS = 10_000
HEADS_AT_ONCE = 1000
CHUNK_ORDER = [("key", 1), ("start", 1), ("part", 1)]
FEW = 8  # for parts of one batch, and leftovers of a deleted log
SCAN_TIMEOUT_S = 600.0  # for requests that read a whole collection before the first answer
_IDENTITY = "identity"
_DUPLICATE = 11000
_DISK_FULL = 14031
_INTERNAL_ERROR = 1
_LOGIN_REFUSED = (13, 18)
_T = TypeVar("_T")

log = logging.getLogger(__name__)


class BackupUnavailable(StoreUnavailable):
    """MongoDB does not answer."""


class InterpreterEnds(BackupUnavailable):
    """pymongo needs threads, and Python 3.12 and newer starts none while the interpreter ends."""

    def __init__(self) -> None:
        super().__init__(
            "MongoDB cannot be opened while the interpreter ends; a Jamboree that is closed "
            "before, by `close()` or `with`, waits for its backup"
        )


def check_threads() -> None:
    """Check that threads can start; a new client would wait for its threads in vain.

    Raises:
        InterpreterEnds: No thread can be started any more.
    """
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise InterpreterEnds from error


class MongoStore:
    """Logs and blobs of one namespace, in the database with its name.

    A log has one document in `logs`: its head, and the batches of its first copy if these are
    small. Each later batch has a document in `chunks`, or one for each 12 MB. A deleted log leaves
    a document in `deleted`, which hides all data that a slow backup still copies of it. All writes
    wait for `w=majority, j=True`.

    Args:
        client: A pymongo client. The store owns and closes it.
        namespace: The namespace, from which the name of the database is made.
    """

    def __init__(self, client: MongoClient[Any], namespace: str, *, where: str) -> None:
        from pymongo import WriteConcern

        self.where = where
        self._client = client
        self._has_answered = False
        self._is_indexed = False
        self._id = ""
        self.database: Database[Any] = client.get_database(
            database_name(namespace), write_concern=WriteConcern(w="majority", j=True)
        )
        self._logs = self.database[MONGO_LOGS]
        self._chunks = self.database[MONGO_CHUNKS]
        self._blobs = self.database[MONGO_BLOBS]
        self._deleted = self.database[MONGO_DELETED]
        self._settings = self.database[MONGO_SETTINGS]

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
            store.check()
        except BaseException:
            store.close()
            raise
        return store

    def check(self) -> None:
        """Check that a server answers and accepts the login.

        Raises:
            StoreUnavailable: It does not answer, or refuses the login.
        """
        self.run(lambda: self._logs.find_one({"_id": ""}))
        self._has_answered = True

    def close(self) -> None:
        """Close the client's connections. A second call does nothing."""
        self._client.close()

    # -- writing ----------------------------------------------------------------------------

    def insert_logs(self, logs: Mapping[str, NewLog]) -> dict[str, str]:
        """Store logs that are copied for the first time, each with all its batches.

        Returns:
            Logs of which MongoDB holds something else, each with the difference; these are not
            changed.

        Raises:
            StoreUnavailable: MongoDB does not answer; insert again.
        """
        refused: dict[str, str] = {}
        for documents in _by_size(log_document(key, log) for key, log in logs.items()):
            for taken in self._insert_new(self._logs, documents):
                key = taken["_id"]
                difference = self._merge(key, logs[key])
                if difference is not None:
                    refused[key] = difference
        return refused

    def _merge(self, key: str, log: NewLog) -> str | None:
        """Update a log that MongoDB already holds; return the difference if it is another log."""
        while True:
            document = self._find_one(self._logs, key)
            if document is None:  # the log has just been deleted
                if not self._insert_new(self._logs, [log_document(key, log)]):
                    return None
                continue
            difference, is_done = self._compare(key, document, log)
            if is_done:
                return difference
            fields = {
                name: value for name, value in log_document(key, log).items() if name != "_id"
            }
            seen = {name: document[name] for name in ("_id", "born", "revision")}
            if self.run(partial(self._logs.update_one, seen, {"$set": fields})).matched_count:
                return None

    def _compare(self, key: str, document: Any, log: NewLog) -> tuple[str | None, bool]:
        """The difference to the stored log, and whether there is nothing to do."""
        try:
            kept = kept_log(document, where=f"MongoDB at {self.where}")
        except DecodeError as error:
            return str(error), True
        if kept.head.born != log.head.born:
            if not self._clear_if_deleted(key, kept.head.born):
                return "another log of the same name", True
            return None, self._insert_new(self._logs, [log_document(key, log)]) == []
        for ours, theirs in zip(log.batches, kept.batches, strict=False):
            if ours != theirs:
                return f"other bytes at index {decode_batch(ours, where=key).start}", True
        return None, kept.head.revision >= log.head.revision

    def insert_batches(self, batches: Iterable[tuple[str, float, bytes]]) -> dict[str, str]:
        """Store further batches of logs. A batch that is already there stays, if it is the same.

        Args:
            batches: For each batch its log, the log's birth, and its bytes.

        Returns:
            Logs with other bytes in MongoDB, each with the first such index.

        Raises:
            StoreUnavailable: MongoDB does not answer; insert again.
        """
        self._index_chunks()
        refused: dict[str, str] = {}
        parts = (part for batch in batches for part in chunk_documents(*batch))
        for documents in _by_size(parts):
            taken = {one["_id"]: one for one in self._insert_new(self._chunks, documents)}
            for kept in self._find(self._chunks, list(taken), {"crc": 1}):
                ours = taken[kept["_id"]]
                if kept["crc"] != ours["crc"]:
                    refused.setdefault(ours["key"], f"other bytes at index {ours['start']}")
        return refused

    def _insert_new(
        self, collection: Collection[Any], documents: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Insert documents; return those whose id already exists."""
        from pymongo.errors import BulkWriteError

        try:
            self.run(lambda: collection.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            return [documents[failure["index"]] for failure in self._duplicates(error)]
        return []

    def _duplicates(self, error: BulkWriteError) -> list[dict[str, Any]]:
        """The writes whose id already exists; raises any other error."""
        failures = error.details["writeErrors"]
        others = [failure for failure in failures if failure["code"] != _DUPLICATE]
        others += error.details["writeConcernErrors"]
        if others:
            raise self._refused(others[0]["code"], others[0]["errmsg"]) from error
        return list(failures)

    def put_heads(self, logs: Mapping[str, GrownLog]) -> dict[str, str | None]:
        """Store the heads of logs that have grown; an older revision never replaces a newer one.

        Returns:
            Logs whose heads were not stored. The value is the difference if MongoDB holds another
            log of the same name. It is None if MongoDB holds more batches than expected, so that
            they must be compared.
        """
        unsettled: dict[str, str | None] = {}
        for key in self._update_heads(logs):
            log, document = logs[key], self._find_one(self._logs, key)
            if document is None or self._clear_if_deleted(key, birth_of(document)):
                self._update_heads({key: log})
                continue
            kept = self._decoded(document)
            if isinstance(kept, DecodeError):
                unsettled[key] = str(kept)
            elif kept.head.born != log.head.born:
                unsettled[key] = "another log of the same name"
            elif kept.head.count > log.since:
                unsettled[key] = None
        return unsettled

    def _update_heads(self, logs: Mapping[str, GrownLog]) -> list[str]:
        """Update or insert; return the logs whose stored state is not the expected one."""
        from pymongo import UpdateOne
        from pymongo.errors import BulkWriteError

        keys = list(logs)
        updates = [UpdateOne(*_update_of(key, log), upsert=True) for key, log in logs.items()]
        try:
            if updates:
                self.run(lambda: self._logs.bulk_write(updates, ordered=False))
        except BulkWriteError as error:
            return [keys[failure["index"]] for failure in self._duplicates(error)]
        return []

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Store immutable content under its digest."""
        documents = [blob_document(name, content) for name, content in blobs.items()]
        if documents:
            self._insert_new(self._blobs, documents)

    # -- deleting ---------------------------------------------------------------------------

    def delete(self, key: str, born: float) -> None:
        """Delete a log for good: data that a slow backup copies afterwards stays hidden."""
        tombstone = {"_id": identity(key, born), "at": time.time()}
        self._insert_new(self._deleted, [tombstone])
        self._clear(key, born)

    def _clear(self, key: str, born: float) -> None:
        self.run(lambda: self._logs.delete_one({"_id": key, "born": born}))
        self.clear_batches(key, born, 0)

    def clear_batches(self, key: str, born: float, start: int) -> int:
        """Remove the batches of a log from an index on; return the number of documents."""
        self._index_chunks()
        query: dict[str, Any] = {"key": key}  # without the start: a damaged document may lack it
        if start:
            query["start"] = {"$gte": start}
        found = self.run(lambda: [one["_id"] for one in self._chunks.find(query, {"_id": 1})])
        ids = [id for id in found if is_chunk_of(id, key, born)]
        for first in range(0, len(ids), MAX_DOCUMENTS):
            part = ids[first : first + MAX_DOCUMENTS]
            self.run(partial(self._chunks.delete_many, {"_id": {"$in": part}}))
        return len(ids)

    def _clear_if_deleted(self, key: str, born: float) -> bool:
        """Remove the remains of a log if it was deleted; return whether it was."""
        if self._find_one(self._deleted, identity(key, born)) is None:
            return False
        self._clear(key, born)
        return True

    def clear_deleted(self, logs: Iterable[tuple[str, float]]) -> None:
        """Remove data that arrived for these logs after their deletion."""
        for key, born in logs:
            self._clear_if_deleted(key, born)

    def deleted(self, logs: Iterable[tuple[str, float]]) -> set[tuple[str, float]]:
        """Which of these logs, given with their births, were deleted."""
        ids = {identity(*log): log for log in logs}
        return {ids[one["_id"]] for one in self._find(self._deleted, list(ids), {"_id": 1})}

    # -- reading ----------------------------------------------------------------------------

    def keys(self) -> Iterator[str]:
        """Keys of all logs, sorted."""
        found = self._scan(lambda: [log["_id"] for log in self._logs.find({}, {"_id": 1})])
        return iter(sorted(found))

    def birth(self, key: str) -> float | None:
        """Birth of a log; None if MongoDB does not hold it."""
        found = self._find_one(self._logs, key)
        return None if found is None else birth_of(found)

    def logs(self, keys: Sequence[str]) -> dict[str, KeptLog | DecodeError]:
        """Read several logs; the error in place of a damaged one. Missing logs are left out."""
        return self._not_deleted(self._find(self._logs, keys))

    def _not_deleted(self, found: Sequence[Any]) -> dict[str, KeptLog | DecodeError]:
        ids = {identity(one["_id"], birth_of(one)): one for one in found}
        for one in self._find(self._deleted, list(ids), {"_id": 1}):
            del ids[one["_id"]]
        return {document["_id"]: self._decoded(document) for document in ids.values()}

    def _decoded(self, document: Any) -> KeptLog | DecodeError:
        try:
            return kept_log(document, where=f"MongoDB at {self.where}")
        except DecodeError as error:
            return error

    def heads(self, run: str | None = None) -> Iterator[dict[str, Head | DecodeError]]:
        """Heads of all logs, or of the episodes of a run, a thousand at a time.

        The error in place of a damaged head.
        """
        if run is not None:
            self._scan(lambda: self._logs.create_index("run"))
        query = {} if run is None else {"run": run}
        cursor = self._logs.find(query, {"frames": 0})
        try:
            while found := self._scan(lambda: list(islice(cursor, HEADS_AT_ONCE))):
                logs = self._not_deleted(found)
                yield {
                    key: log.head if isinstance(log, KeptLog) else log for key, log in logs.items()
                }
        finally:
            cursor.close()

    def runs(self) -> list[str]:
        """Names of all runs with episodes in MongoDB, in no order."""
        groups = self._scan(lambda: list(self._logs.aggregate([{"$group": {"_id": "$run"}}])))
        return [group["_id"] for group in groups if isinstance(group["_id"], str)]

    def batch_at(self, key: str, born: float, index: int) -> tuple[int, int, float, float] | None:
        """Indices and times of the newest batch in `chunks` that begins at or before an index.

        Raises:
            DecodeError: The batch's document is damaged.
        """
        self._index_chunks()
        query = {"key": key, "start": {"$lt": index + 1}}  # $lte of SecantusDB misses equal values
        cursor = self.run(
            lambda: self._chunks.find(query, {"content": 0}).sort("start", -1).limit(FEW)
        )
        found = self.run(lambda: [one for one in cursor if is_chunk_of(one["_id"], key, born)])
        return chunk_span(found[0], where=f"MongoDB at {self.where}") if found else None

    def batches_from(self, key: str, born: float, start: int, stop: int) -> Iterator[KeptBatch]:
        """Batches in `chunks` that begin at `start` or later and before `stop`, in order."""
        query = {"key": key, "start": {"$gte": start, "$lt": stop}}
        ours = identity(key, born)
        return (batch for found, batch in self._batches(query) if found == ours)

    def counts(self, keys: Sequence[str]) -> dict[str, tuple[float, int]]:
        """Birth and number of records of each of these logs; missing logs are left out."""
        found = self._find(self._logs, keys, {"born": 1, "count": 1})
        return {one["_id"]: (birth_of(one), one["count"]) for one in found}

    def batches_between(self, first_key: str, last_key: str) -> Iterator[tuple[str, KeptBatch]]:
        """Batches with their own documents, of all logs from one key to another.

        Yields:
            The log in the form of `identity`, and its batch; sorted by key and start.
        """
        return self._batches({"key": {"$gte": first_key, "$lt": f"{last_key}$"}})

    def _batches(self, query: Any) -> Iterator[tuple[str, KeptBatch]]:
        self._index_chunks()
        cursor = self.run(lambda: self._chunks.find(query).sort(CHUNK_ORDER))
        try:
            yield from kept_batches(iter(lambda: self.run(lambda: next(cursor, None)), None))
        finally:
            cursor.close()

    def blob(self, name: str) -> bytes | None:
        """Content stored by `put_blobs`; None if it is missing.

        Raises:
            DecodeError: The content is damaged.
        """
        found = self._find_one(self._blobs, name)
        return None if found is None else blob_content(found, where=f"MongoDB at {self.where}")

    def blobs(self) -> dict[str, bytes | DecodeError]:
        """All immutable content, by digest; the error in place of damaged content."""
        found = self._scan(lambda: list(self._blobs.find({})))
        return {blob["_id"]: self._content(blob) for blob in found}

    def _content(self, document: Any) -> bytes | DecodeError:
        try:
            return blob_content(document, where=f"MongoDB at {self.where}")
        except DecodeError as error:
            return error

    def put_setting(self, name: str, content: bytes) -> None:
        """Store a setting of the namespace."""
        fields = {"format": DOCUMENT_VERSION, "content": content, "crc": zlib.crc32(content)}
        self.run(lambda: self._settings.update_one({"_id": name}, {"$set": fields}, upsert=True))

    def setting(self, name: str) -> bytes | None:
        """A setting stored by `put_setting`; None if it is missing.

        Raises:
            DecodeError: The setting is damaged, or has another format.
        """
        found = self._find_one(self._settings, name)
        return None if found is None else checked_content(found, where=f"MongoDB at {self.where}")

    def identity(self) -> MongoIdentity:
        """Identity of this MongoDB, for readers; a known id is not asked for again."""
        if not self._id:
            found = self._find_one(self._settings, _IDENTITY)
            self._id = "" if found is None else str(found.get("id", ""))
        return MongoIdentity(self._id, self.where)

    def identity_now(self) -> MongoIdentity:
        """Identity of this MongoDB, for writers; makes a new id if MongoDB was emptied."""
        self._id, new = "", secrets.token_hex(8)
        if not self.identity().id:
            self._insert_new(self._settings, [{"_id": _IDENTITY, "id": new}])
        if not self.identity().id:  # the stored id is damaged
            update = {"$set": {"id": new}}
            self.run(lambda: self._settings.update_one({"_id": _IDENTITY}, update))
        return self.identity()

    def records(self) -> int:
        """Number of records and episode rows in all logs."""
        found = self._scan(lambda: list(self._logs.find({}, {"count": 1})))
        return sum(log["count"] for log in found)

    def _find_one(self, collection: Collection[Any], id: str) -> Any:
        return self.run(lambda: collection.find_one({"_id": id}))

    def _find(
        self, collection: Collection[Any], ids: Sequence[str], fields: Any = None
    ) -> list[Any]:
        wanted = {"_id": {"$in": list(ids)}}
        return self.run(lambda: list(collection.find(wanted, fields))) if ids else []

    def _index_chunks(self) -> None:
        """Make the index, once: without it, a search for batches reads the whole collection."""
        from pymongo.errors import OperationFailure

        if not self._is_indexed:
            try:
                self._scan(lambda: self._chunks.create_index(CHUNK_ORDER))
            except BackupUnavailable as error:  # reads work without it, slowly
                if not isinstance(error.__cause__, OperationFailure):
                    raise
                log.debug("no index: %s", error)
            self._is_indexed = True

    def _scan(self, action: Callable[[], _T]) -> _T:
        """As `run`, for a request that the server answers only after reading a whole collection."""
        import pymongo

        self.run(lambda: self._client.admin.command("ping"))  # so that an absent server fails soon
        with pymongo.timeout(SCAN_TIMEOUT_S):
            return self.run(action)

    def run(self, action: Callable[[], _T]) -> _T:
        """Run an action and translate its errors, except write errors of single documents."""
        from pymongo import errors

        try:
            return action()
        except (errors.BulkWriteError, errors.DuplicateKeyError):
            raise
        except errors.OperationFailure as error:
            raise self._refused(error.code, self._reason(error)) from error
        except errors.PyMongoError as error:
            raise BackupUnavailable(
                f"MongoDB at {self.where} cannot be reached: {self._reason(error)}"
            ) from error

    def _reason(self, error: Exception) -> str:
        return reason_of(error, self._client, has_answered=self._has_answered)

    def _refused(self, code: int | None, message: str) -> JamboreeError:
        if code == _DISK_FULL:
            return StoreFull(
                f"MongoDB at {self.where} has no disk space left: free some there, and try again"
            )
        if code == _INTERNAL_ERROR:  # the storage engine gives no other reason for a failed write
            message += (
                "; its log says why. If its disk is full: free some space there, and start it again"
            )
        if code in _LOGIN_REFUSED:
            message += "; check user and password in mongo_url"
        return BackupUnavailable(f"MongoDB at {self.where} refuses: {message}")


def _update_of(key: str, log: GrownLog) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document to update, and its new fields."""
    expected = {
        "_id": key,
        "born": log.head.born,
        "revision": {"$lt": log.head.revision},
        "count": {"$lte": log.since},
    }
    return expected, {"$set": {"run": log.run, **head_fields(log.head)}}


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
