"""Heads and documents of version 1 -> version 2.

The heads of version 1 lack `held`, `newest`, `born` and a checksum. In MongoDB, version 1 has one
document for each batch, and its id lacks the log's birth. Batches, notes and blobs are unchanged.
Each log is changed in one step, so an interrupted migration can be started again.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

from jamboree_gym.encoding.batch_format import Head, batch_span
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.migrations.outcome import Outcome
from jamboree_gym.store.mongo.documents import (
    DOCUMENT_VERSION,
    chunk_documents,
    head_fields,
    stored_batches,
)
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["migrate_mongo", "migrate_redis"]

# magic, version, codec, first, count, acked, revision, t_last
_HEAD_1 = struct.Struct("<2sBBQQQQd")
_IS_OLD: dict[str, Any] = {"format": {"$exists": False}}  # of a chunk or a blob


def _upgraded(raw: bytes, born: float, *, where: str) -> Head:
    if len(raw) < _HEAD_1.size or raw[:3] != b"JH\x01":
        raise DecodeError(f"{where}: the head of the log is damaged")
    _, _, codec, first, count, acked, revision, t_last = _HEAD_1.unpack_from(raw)
    note = raw[_HEAD_1.size :]
    return Head(codec, first, 0, count, count, acked, revision, t_last, born, note)


def migrate_mongo(mongo: MongoStore, outcome: Outcome) -> None:
    """Change all logs in MongoDB."""
    mongo.link.run(lambda: _migrate_mongo(mongo, outcome))


def _migrate_mongo(mongo: MongoStore, outcome: Outcome) -> None:
    database = mongo.database
    database.blobs.update_many(_IS_OLD, {"$set": {"format": DOCUMENT_VERSION}})
    is_whole = True
    for document in list(database.logs.find({"format": 1})):
        try:
            _migrate_log(mongo, document)
            outcome.changed.add(document["_id"])
        except DecodeError as error:
            outcome.note_damage(error)
            is_whole = False
    if is_whole:
        database.chunks.delete_many(_IS_OLD)  # also leftovers of an interrupted backup or migration


def migrate_redis(store: RedisStore, mongo: MongoStore | None, outcome: Outcome) -> None:
    """Change all logs in Redis, after those in MongoDB."""
    store.run(lambda: _migrate_redis(store, mongo, outcome))


def _migrate_redis(store: RedisStore, mongo: MongoStore | None, outcome: Outcome) -> None:
    for key in store.log_keys():
        stored = store.buckets.log(key)
        raw, oldest = store.client.lindex(stored, 0), store.client.lindex(stored, 1)
        if not isinstance(raw, bytes) or raw[:3] != b"JH\x01":
            continue
        born = None if mongo is None else mongo.birth(key)
        if born is None:
            born = batch_span(oldest)[2] if isinstance(oldest, bytes) else -math.inf
        try:
            head = _upgraded(raw, born, where=key).encode()
        except DecodeError as error:
            outcome.note_damage(error)
            continue
        store.client.lset(stored, 0, head)  # type: ignore[arg-type]  # bytes are taken, too
        outcome.changed.add(key)


def _migrate_log(mongo: MongoStore, document: Any) -> None:
    key, where = document["_id"], f"MongoDB at {mongo.where}: {document['_id']}"
    if zlib.crc32(document["head"]) != document["crc"]:
        raise DecodeError(f"{where}: the head of the log is damaged")
    is_of_log = {"_id": {"$gte": f"{key}#", "$lt": f"{key}$"}, **_IS_OLD}
    chunks = mongo.database.chunks
    old = [{**one, "format": DOCUMENT_VERSION} for one in chunks.find(is_of_log).sort("_id", 1)]
    batches = [batch for _, batch in stored_batches(old)]
    for batch in batches:
        if batch.blob is None:
            raise DecodeError(f"{where} at index {batch.start}: checksum does not match")
    blobs = [batch.blob for batch in batches if batch.blob is not None]
    head = _upgraded(document["head"], batch_span(blobs[0])[2] if blobs else -math.inf, where=where)
    for blob in blobs:
        for part in chunk_documents(key, head.born, blob):
            chunks.replace_one({"_id": part["_id"]}, part, upsert=True)
    mongo.database.logs.update_one({"_id": key}, {"$set": head_fields(head)})
