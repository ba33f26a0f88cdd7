"""The backup on MongoDB: the very bytes of the logs, in documents below MongoDB's 16 MB."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from jamboree_gym.codec import Head, decode_head
from jamboree_gym.errors import (
    DecodeError,
    InvalidUrl,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.keys import MONGO_BLOBS, MONGO_CHUNKS, MONGO_LOGS
from jamboree_gym.store.mongo_documents import (
    chunk_documents,
    chunk_id,
    database_name,
    hosts_of,
    is_whole,
    log_document,
    whole_frames,
)

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection
    from pymongo.database import Database

__all__ = ["MongoStore"]

CONNECT_TIMEOUT_S = 4.0
ANSWER_TIMEOUT_S = 30.0
MAX_INSERT_BYTES = 8 * 2**20
_SCHEMES = ("mongodb", "mongodb+srv")
_DUPLICATE = 11000
_DISK_FULL = 14031
_INTERNAL_ERROR = 1
_LOGIN_REFUSED = (13, 18)
_T = TypeVar("_T")


class MongoStore:
    """Logs and blobs of one namespace, in the database of the same name.

    A log is one document in `logs` (its head) and one in `chunks` for each frame, or for each 12 MB
    of a frame that is longer. All writes wait for `w=majority, j=True`.

    Args:
        client: A pymongo client. The store owns it.
        namespace: Name of the database.
    """

    def __init__(self, client: MongoClient[Any], namespace: str, *, where: str) -> None:
        from pymongo import WriteConcern

        self.where = where
        self._client = client
        self.database: Database[Any] = client.get_database(
            database_name(namespace), write_concern=WriteConcern(w="majority", j=True)
        )
        self._logs = self.database[MONGO_LOGS]
        self._chunks = self.database[MONGO_CHUNKS]
        self._blobs = self.database[MONGO_BLOBS]

    @classmethod
    def from_url(cls, url: str, namespace: str) -> MongoStore:
        """Open by URL: `mongodb://` or `mongodb+srv://`.

        Raises:
            InvalidUrl: Another scheme, or a malformed address.
            StoreUnavailable: Nothing answers there, or it refuses the login.
        """
        from pymongo import MongoClient
        from pymongo.errors import ConfigurationError, InvalidURI
        from pymongo.server_api import ServerApi

        scheme, where = urlsplit(url).scheme, hosts_of(url)
        if scheme not in _SCHEMES:
            raise InvalidUrl(
                f"mongo_url begins with {scheme!r}; use mongodb://host:port or mongodb+srv://"
            )
        try:
            client: MongoClient[Any] = MongoClient(
                url,
                server_api=ServerApi("1", strict=True),
                serverSelectionTimeoutMS=int(CONNECT_TIMEOUT_S * 1000),
                connectTimeoutMS=int(CONNECT_TIMEOUT_S * 1000),
                socketTimeoutMS=int(ANSWER_TIMEOUT_S * 1000),
                appname="jamboree-gym",
            )
        except (InvalidURI, ConfigurationError, ValueError) as error:
            if "@" in url:  # pymongo's message may hold a part of the password
                raise InvalidUrl(
                    f"mongo_url for {where} cannot be read; user and password have to be quoted: "
                    "urllib.parse.quote_plus(password)"
                ) from None
            raise InvalidUrl(f"mongo_url for {where} cannot be read: {error}") from error
        store = cls(client, namespace, where=where)
        try:
            store.check()
        except BaseException:
            store.close()
            raise
        return store

    def check(self) -> None:
        """Make sure that a server answers and lets us in.

        Raises:
            StoreUnavailable: It does not.
        """
        self._run(lambda: self._logs.find_one({"_id": ""}))

    def close(self) -> None:
        """Close the client's connections. Twice is quiet."""
        self._client.close()

    # -- writing ----------------------------------------------------------------------------

    def insert_frames(self, frames: Iterable[tuple[str, int, bytes]]) -> dict[str, int]:
        """Keep frames. What is already there stays, if it is the same.

        Args:
            frames: Log, start index and bytes of each; those of a log in ascending order.

        Returns:
            Logs of which other bytes are kept, and at which index; nothing of them was inserted
            from there on.

        Raises:
            StoreUnavailable: No answer; insert again.
        """
        refused: dict[str, int] = {}
        documents: list[dict[str, Any]] = []
        size = 0
        for key, start, frame in frames:
            for document in chunk_documents(key, start, frame):
                documents.append(document)
                size += len(document["content"])
                if size >= MAX_INSERT_BYTES:
                    self._insert(documents, refused)
                    documents, size = [], 0
        if documents:
            self._insert(documents, refused)
        return refused

    def _insert(self, documents: list[dict[str, Any]], refused: dict[str, int]) -> None:
        self._refuse_others(documents, refused)
        new = [document for document in documents if document["key"] not in refused]
        taken = self._insert_new(self._chunks, new) if new else []
        self._refuse_others(taken, refused)

    def _refuse_others(self, documents: list[dict[str, Any]], refused: dict[str, int]) -> None:
        """Add the logs of which another document is kept."""
        wanted = {"_id": {"$in": [document["_id"] for document in documents]}}
        found = self._run(lambda: list(self._chunks.find(wanted, {"crc": 1}))) if documents else []
        kept = {document["_id"]: document["crc"] for document in found}
        for document in documents:
            if kept.get(document["_id"], document["crc"]) != document["crc"]:
                refused.setdefault(document["key"], document["start"])

    def _insert_new(
        self, collection: Collection[Any], documents: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Insert; the documents whose id was taken."""
        from pymongo.errors import BulkWriteError

        try:
            self._run(lambda: collection.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            failures = error.details["writeErrors"]
            others = [failure for failure in failures if failure["code"] != _DUPLICATE]
            others += error.details["writeConcernErrors"]
            if others:
                raise self._refused(others[0]["code"], others[0]["errmsg"]) from error
            return [documents[failure["index"]] for failure in failures]
        return []

    def put_heads(self, heads: Mapping[str, Head]) -> None:
        """Keep heads of logs; an older revision never replaces a newer one."""
        documents = [log_document(key, head) for key, head in heads.items()]
        for document in self._insert_new(self._logs, documents) if documents else []:
            self._replace_older(document)

    def _replace_older(self, document: dict[str, Any]) -> None:
        older = {"_id": document["_id"], "revision": {"$lt": document["revision"]}}
        self._run(lambda: self._logs.replace_one(older, document))

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Keep immutable content under its digest."""
        documents = [
            {"_id": name, "content": content, "crc": zlib.crc32(content)}
            for name, content in blobs.items()
        ]
        if documents:
            self._insert_new(self._blobs, documents)

    # -- reading ----------------------------------------------------------------------------

    def keys(self) -> Iterator[str]:
        """Keys of all logs, sorted."""
        found = self._run(lambda: [log["_id"] for log in self._logs.find({}, {"_id": 1})])
        return iter(sorted(found))

    def head(self, key: str) -> Head | None:
        """Head of a log as last kept, None when there is no such log.

        Raises:
            DecodeError: It is damaged.
        """
        document = self._run(lambda: self._logs.find_one({"_id": key}))
        if document is None:
            return None
        if not is_whole(document["head"], document["crc"]):
            raise DecodeError(f"MongoDB at {self.where}: the head of {key} is damaged")
        return decode_head(document["head"], where=key)

    def heads(self, keys: Iterable[str]) -> dict[str, Head]:
        """Heads of several logs; those not kept, or damaged, are left out."""
        wanted = {"_id": {"$in": list(keys)}}
        found = self._run(lambda: list(self._logs.find(wanted)))
        return {
            log["_id"]: decode_head(log["head"], where=log["_id"])
            for log in found
            if is_whole(log["head"], log["crc"])
        }

    def frames(self, key: str, *, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Frames of a log that begin at `start` or later, and before `stop`, byte for byte.

        Raises:
            DecodeError: One is damaged.
        """
        end = f"{key}$" if stop is None else chunk_id(key, stop)
        frames = []
        for _, begin, frame in self._scan(chunk_id(key, start), end):
            if frame is None:
                raise DecodeError(f"MongoDB at {self.where}: {key} at index {begin} is damaged")
            frames.append(frame)
        return frames

    def frames_between(
        self, first_key: str, last_key: str
    ) -> Iterator[tuple[str, int, bytes | None]]:
        """Frames of all logs from one key to another, sorted by key and index.

        Yields:
            Key, start index and bytes; None instead of the bytes of one that is damaged.
        """
        return self._scan(chunk_id(first_key, 0), f"{last_key}$")

    def _scan(self, first_id: str, end_id: str) -> Iterator[tuple[str, int, bytes | None]]:
        query = {"_id": {"$gte": first_id, "$lt": end_id}}
        cursor = self._run(lambda: self._chunks.find(query).sort("_id", 1))
        try:
            yield from whole_frames(iter(lambda: self._run(lambda: next(cursor, None)), None))
        finally:
            cursor.close()

    def blobs(self) -> dict[str, bytes]:
        """All immutable content, by digest.

        Raises:
            DecodeError: One is damaged.
        """
        found = self._run(lambda: list(self._blobs.find({})))
        for blob in found:
            if not is_whole(blob["content"], blob["crc"]):
                raise DecodeError(f"MongoDB at {self.where}: the blob {blob['_id']} is damaged")
        return {blob["_id"]: blob["content"] for blob in found}

    def records(self) -> int:
        """Number of records and episode rows in all logs."""
        found = self._run(lambda: list(self._logs.find({}, {"count": 1})))
        return sum(log["count"] for log in found)

    def delete(self, key: str) -> None:
        """Delete a log."""
        self._run(lambda: self._logs.delete_one({"_id": key}))
        self._run(lambda: self._chunks.delete_many({"_id": {"$gte": f"{key}#", "$lt": f"{key}$"}}))

    def _run(self, action: Callable[[], _T]) -> _T:
        """Do it; translate what fails. Write errors by document go through as they are."""
        from pymongo import errors

        try:
            return action()
        except (errors.BulkWriteError, errors.DuplicateKeyError):
            raise
        except errors.OperationFailure as error:
            raise self._refused(error.code, _message(error)) from error
        except errors.PyMongoError as error:
            raise StoreUnavailable(
                f"MongoDB at {self.where} cannot be reached: {_message(error)}"
            ) from error

    def _refused(self, code: int | None, message: str) -> JamboreeError:
        if code == _DISK_FULL:
            return StoreFull(
                f"MongoDB at {self.where} has no disk space left: free some there, and try again"
            )
        if code == _INTERNAL_ERROR:  # all that a storage engine says which could not write
            message += (
                "; its log says why. If its disk is full: free some space there, and start it again"
            )
        if code in _LOGIN_REFUSED:
            message += "; check user and password in mongo_url"
        return StoreUnavailable(f"MongoDB at {self.where} refuses: {message}")


def _message(error: Exception) -> str:
    """The first sentence; pymongo appends its whole topology."""
    return str(error).split(", Timeout:")[0].split(", full error:")[0]
