"""Batches of rows of version 1 -> version 2, each in the place of the old one.

A batch is replaced in one step, and neither its span nor its place in the log changes. So a
migration that was interrupted anywhere can be started again: it finds the batches that are left. A
damaged batch is named and left as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

from redis.exceptions import WatchError

from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.records import StoredBatch
from jamboree_gym.store.migrations.arrow_rows import (
    FindBlob,
    is_arrow_batch,
    is_arrow_schema,
    upgraded,
)
from jamboree_gym.store.migrations.outcome import Outcome
from jamboree_gym.store.mongo.documents import chunk_documents, stored_log
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["clear_schemas", "migrate_mongo", "migrate_redis"]

BATCHES_AT_ONCE = 16  # a batch has a megabyte at most, nearly always
_EVERYTHING = 2**53
_COPIES = "migrating"  # a collection that is empty unless a batch of several parts is replaced


class _Converter:
    """Converts batches; `put_blobs` stores the schemas that the new ones refer to, each once."""

    def __init__(
        self,
        find_blob: FindBlob,
        put_blobs: Callable[[Mapping[str, bytes]], None],
        outcome: Outcome,
    ) -> None:
        self._find_blob = find_blob
        self._put_blobs = put_blobs
        self._stored = set[str]()
        self._outcome = outcome

    def converted(self, batches: Sequence[bytes], *, where: str) -> dict[int, bytes]:
        """The new batches, by their place among these; without those that stay as they are."""
        new, blobs = {}, dict[str, bytes]()
        for place, raw in enumerate(batches):
            if not is_arrow_batch(raw):
                continue
            try:
                one = upgraded(raw, self._find_blob, where=where)
            except DecodeError as error:
                self._outcome.note_damage(error)
                continue
            blobs |= one.blobs
            new[place] = one.batch
        missing = {name: blobs[name] for name in blobs.keys() - self._stored}
        self._put_blobs(missing)
        self._stored |= missing.keys()
        return new


def _finder(store: RedisStore, mongo: MongoStore | None) -> FindBlob:
    def find(name: str) -> bytes:
        try:
            return store.blobs.get(name)
        except DecodeError:
            content = None if mongo is None else mongo.blob(name)
            if content is None:
                raise
            return content

    return find


# -- Redis ------------------------------------------------------------------------------------


def migrate_redis(store: RedisStore, mongo: MongoStore | None, outcome: Outcome) -> None:
    """Change all batches of rows in Redis."""

    def put_blobs(blobs: Mapping[str, bytes]) -> None:
        for name, content in blobs.items():
            store.blobs.put(name, content)

    converter = _Converter(_finder(store, mongo), put_blobs, outcome)
    for key in filter(store.keyspace.is_episode, store.log_keys()):
        place: int | None = 1
        while place is not None:
            page = partial(_migrate_page, store, key, place, converter, outcome)
            place = store.run(page)


def _migrate_page(
    store: RedisStore,
    key: str,
    place: int,
    converter: _Converter,
    outcome: Outcome,
) -> int | None:
    """Change some batches in one transaction; the place of the next one, None after the last."""
    stored = store.buckets.log(key)
    with store.client.pipeline() as pipe:
        pipe.watch(stored)  # type: ignore[no-untyped-call]
        batches: Any = pipe.lrange(stored, place, place + BATCHES_AT_ONCE - 1)
        new = converter.converted(batches, where=key)
        if new:
            pipe.multi()
            for offset, batch in new.items():
                pipe.lset(stored, place + offset, batch)  # type: ignore[arg-type]  # bytes, too
            try:
                pipe.execute()
            except WatchError:  # a part of it was evicted, or all of it deleted
                return 1
            outcome.changed.add(key)
    return place + len(batches) if len(batches) == BATCHES_AT_ONCE else None


# -- MongoDB ----------------------------------------------------------------------------------


def migrate_mongo(store: RedisStore, mongo: MongoStore, outcome: Outcome) -> None:
    """Change all batches of rows in MongoDB."""
    converter = _Converter(_finder(store, mongo), mongo.put_blobs, outcome)
    mongo.link.run(lambda: _restore_copies(mongo))
    for key in filter(store.keyspace.is_episode, mongo.keys()):
        document = mongo.link.find_one(mongo.link.logs, key)
        if document is None:
            continue
        try:
            is_changed = _migrate_document(mongo, document, converter)
            if _migrate_chunks(mongo, key, document["born"], converter, outcome) or is_changed:
                outcome.changed.add(key)
        except DecodeError as error:
            outcome.note_damage(error)


def _migrate_document(mongo: MongoStore, document: Any, converter: _Converter) -> bool:
    """Change the batches in the document of a log; whether there were any."""
    key, where = document["_id"], f"MongoDB at {mongo.where}"
    batches = list(stored_log(document, where=where).batches)
    new = converter.converted(batches, where=f"{where}: {key}")
    if not new:
        return False
    for place, batch in new.items():
        batches[place] = batch
    seen = {name: document[name] for name in ("_id", "revision", "frames_crc")}
    crc = reduce(lambda crc, batch: zlib.crc32(batch, crc), batches, 0)
    fields = {"frames": batches, "frames_crc": crc}
    update = partial(mongo.link.logs.update_one, seen, {"$set": fields})
    if not mongo.link.run(update).matched_count:
        raise DecodeError(f"{where}: {key} was changed meanwhile, start the migration again")
    return True


def _migrate_chunks(
    mongo: MongoStore, key: str, born: float, converter: _Converter, outcome: Outcome
) -> bool:
    """Change the batches of a log that have separate documents; whether there were any."""
    where, is_changed = f"MongoDB at {mongo.where}: {key}", False
    for stored in mongo.batches_from(key, born, 0, _EVERYTHING):
        if stored.blob is None:
            what = f"{where} at index {stored.start}: checksum does not match"
            outcome.note_damage(DecodeError(what))
            continue
        new = converter.converted([stored.blob], where=where)
        if new:
            documents = list(chunk_documents(key, born, new[0]))
            mongo.link.run(partial(_replace, mongo, key, born, stored, documents))
            is_changed = True
    return is_changed


def _replace(
    mongo: MongoStore, key: str, born: float, stored: StoredBatch, new: Sequence[dict[str, Any]]
) -> None:
    """Put documents in the place of those of a batch.

    MongoDB replaces one document in one step. If there are several, copies of the old ones are kept
    until all are replaced: a migration that is interrupted there begins by putting them back.
    """
    old = list(chunk_documents(key, born, stored.blob or b""))
    if len(old) > 1:
        copies = [{"_id": one["_id"], "parts": len(old), "document": one} for one in old]
        for copy in copies:
            mongo.database[_COPIES].replace_one({"_id": copy["_id"]}, copy, upsert=True)
    for document in new:
        mongo.link.chunks.replace_one({"_id": document["_id"]}, document, upsert=True)
    surplus = {one["_id"] for one in old} - {one["_id"] for one in new}
    if surplus:
        mongo.link.chunks.delete_many({"_id": {"$in": sorted(surplus)}})
    if len(old) > 1:
        mongo.database[_COPIES].delete_many({})


def _restore_copies(mongo: MongoStore) -> None:
    """Put back the old documents of a batch of which only some may have been replaced.

    Where copies are missing, nothing was replaced yet, or everything was.
    """
    copies = list(mongo.database[_COPIES].find({}))
    if copies and len(copies) == copies[0]["parts"]:
        for copy in copies:
            mongo.link.chunks.replace_one({"_id": copy["_id"]}, copy["document"], upsert=True)
        log_and_start = copies[0]["_id"].rsplit("#", 1)[0]
        of_batch = {"$gte": f"{log_and_start}#", "$lt": f"{log_and_start}$"}
        old = [copy["_id"] for copy in copies]
        mongo.link.chunks.delete_many({"_id": {**of_batch, "$nin": old}})
    mongo.database[_COPIES].delete_many({})


# -- schemas ----------------------------------------------------------------------------------


def clear_schemas(store: RedisStore, mongo: MongoStore) -> None:
    """Delete the schemas to which no batch refers any more."""
    here, there = store.blobs.all(), mongo.blobs()
    for name in (name for name, blob in here.items() if _is_old(blob)):
        store.run(partial(store.client.delete, store.keyspace.blob(name)))
    names = [name for name, blob in there.items() if _is_old(blob)]
    mongo.link.run(lambda: mongo.link.blobs.delete_many({"_id": {"$in": names}}))


def _is_old(blob: bytes | DecodeError) -> bool:
    return isinstance(blob, bytes) and is_arrow_schema(blob)
