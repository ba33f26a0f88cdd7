"""Requests to one MongoDB, with its errors translated; and the collections of one namespace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from jamboree_gym.errors import JamboreeError, StoreFull
from jamboree_gym.keys import (
    MONGO_BLOBS,
    MONGO_BUNDLES,
    MONGO_CHUNKS,
    MONGO_DELETED,
    MONGO_LOGS,
    MONGO_SETTINGS,
    database_name,
)
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.mongo.client import reason_of

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection
    from pymongo.database import Database
    from pymongo.errors import BulkWriteError

__all__ = ["CHUNK_ORDER", "MongoLink"]

CHUNK_ORDER = [("key", 1), ("start", 1), ("part", 1)]
# SecantusDB compares each document with each id: of 400 ids one takes 300 µs, of 50 it takes 70.
IDS_AT_ONCE = 50
SCAN_TIMEOUT_S = 600.0  # for requests that read a whole collection before the first answer
CLOSE_TIMEOUT_S = 0.25
_DUPLICATE = 11000
_DISK_FULL = 14031
_INTERNAL_ERROR = 1
_LOGIN_REFUSED = (13, 18)
_T = TypeVar("_T")

log = logging.getLogger(__name__)


class MongoLink:
    """Sends requests, and knows the collections of one namespace; arguments as `MongoStore`.

    Attributes:
        where: Hosts of the server, for messages.
        database: The database. Its writes wait for `w=majority, j=True`; its reads ask the primary
            for what a failover cannot take back, because Redis evicts what they show. No option of
            the URL changes that.
        logs, chunks: Documents of single logs, and the batches that have their own.
        bundles: Documents with many short episodes.
        blobs, deleted: Immutable content, and the tombstones.
        settings: Settings of the namespace, and the identity of this MongoDB.
    """

    def __init__(self, client: MongoClient[Any], namespace: str, *, where: str) -> None:
        from pymongo import ReadPreference, WriteConcern
        from pymongo.read_concern import ReadConcern

        self.where = where
        self._client = client
        self._has_answered = False
        self._indexed = set[str]()
        self.database: Database[Any] = client.get_database(
            database_name(namespace),
            write_concern=WriteConcern(w="majority", j=True),
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        self.logs = self.database[MONGO_LOGS]
        self.chunks = self.database[MONGO_CHUNKS]
        self.bundles = self.database[MONGO_BUNDLES]
        self.blobs = self.database[MONGO_BLOBS]
        self.deleted = self.database[MONGO_DELETED]
        self.settings = self.database[MONGO_SETTINGS]

    def check(self) -> None:
        """Check that a server answers and accepts the login; else `StoreUnavailable`."""
        self.run(lambda: self.logs.find_one({"_id": ""}))
        self._has_answered = True

    def databases(self) -> list[str]:
        """Names of all databases but those of MongoDB itself, sorted; empty if we may not ask."""
        try:
            names = self.run(self._client.list_database_names)
        except BackupUnavailable as error:
            log.debug("the databases cannot be listed: %s", error)
            return []
        return sorted(set(names) - {"admin", "config", "local"})

    def close(self) -> None:
        """Close the client's connections. A second call does nothing.

        pymongo tells the server which sessions have ended, and would wait for one that is away. The
        server ends them by itself, too.
        """
        import pymongo

        with pymongo.timeout(CLOSE_TIMEOUT_S):
            self._client.close()

    def find_one(self, collection: Collection[Any], id: str) -> Any:
        """A document by its id; None if there is none."""
        return self.run(lambda: collection.find_one({"_id": id}))

    def find(
        self, collection: Collection[Any], ids: Sequence[str], fields: Any = None
    ) -> list[Any]:
        """Documents by their ids, in no order; missing ones are left out."""

        def find_some(first: int) -> list[Any]:
            wanted = {"_id": {"$in": list(ids[first : first + IDS_AT_ONCE])}}
            return list(collection.find(wanted, fields))

        found = list[Any]()
        for first in range(0, len(ids), IDS_AT_ONCE):
            found += self.run(partial(find_some, first))
        return found

    def is_empty(self, collection: Collection[Any]) -> bool:
        """Whether a collection holds no document."""
        return self.run(lambda: collection.find_one({}, {"_id": 1})) is None

    def insert_new(
        self, collection: Collection[Any], documents: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Insert documents; return those whose id already exists."""
        from pymongo.errors import BulkWriteError

        try:
            self.run(lambda: collection.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            return [documents[failure["index"]] for failure in self.duplicates(error)]
        return []

    def duplicates(self, error: BulkWriteError) -> list[dict[str, Any]]:
        """The writes whose id already exists; raises any other error."""
        failures = error.details["writeErrors"]
        others = [failure for failure in failures if failure["code"] != _DUPLICATE]
        others += error.details["writeConcernErrors"]
        if others:
            raise self._refused(others[0]["code"], others[0]["errmsg"]) from error
        return list(failures)

    def index_chunks(self) -> None:
        """Make the index, once: without it, a search for batches reads the whole collection."""
        self._index(self.chunks, CHUNK_ORDER)

    def index_bundles(self) -> None:
        """Make the index, once: without it, a search for an episode reads all bundles."""
        self._index(self.bundles, [("slots", 1)])

    def index_slots(self) -> None:
        """Make the index, once: with it, a backup sees soon that no episode has a document."""
        self._index(self.logs, [("slot", 1)])

    def _index(self, collection: Collection[Any], order: list[tuple[str, int]]) -> None:
        from pymongo.errors import OperationFailure

        if collection.name not in self._indexed:
            try:
                self.scan(lambda: collection.create_index(order))
            except BackupUnavailable as error:  # reads work without it, slowly
                if not isinstance(error.__cause__, OperationFailure):
                    raise
                log.debug("no index: %s", error)
            self._indexed.add(collection.name)

    def scan(self, action: Callable[[], _T]) -> _T:
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
