"""Migrates stores of older releases to the current format, in place.

The heads of version 1 lack `held`, `newest`, `born` and a checksum. In MongoDB, version 1 has one
document for each batch, and its id lacks the log's birth. Batches, notes and blobs are unchanged.
Each log is changed in one step, so an interrupted migration can be started again.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from jamboree_gym.encoding.batch_format import Head, batch_span
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.mongo.documents import (
    DOCUMENT_VERSION,
    chunk_documents,
    head_fields,
    stored_batches,
)
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["migrate"]

# magic, version, codec, first, count, acked, revision, t_last
_HEAD_1 = struct.Struct("<2sBBQQQQd")
_IS_OLD: dict[str, Any] = {"format": {"$exists": False}}  # of a chunk or a blob


def migrate(store: RedisStore, mongo: MongoStore | None) -> int:
    """Migrate a namespace; return the number of logs that were changed. Nobody may write meanwhile.

    Raises:
        DecodeError: A log is damaged. This log and those after it were not changed.
        StoreUnavailable: Redis or MongoDB does not answer; start again.
    """
    changed = set() if mongo is None else mongo.link.run(lambda: set(_migrated_in_mongo(mongo)))
    return len(changed | store.run(lambda: set(_migrated_in_redis(store, mongo))))


def _upgraded(raw: bytes, born: float, *, where: str) -> Head:
    if len(raw) < _HEAD_1.size or raw[:3] != b"JH\x01":
        raise DecodeError(f"{where}: the head of the log is damaged")
    _, _, codec, first, count, acked, revision, t_last = _HEAD_1.unpack_from(raw)
    note = raw[_HEAD_1.size :]
    return Head(codec, first, 0, count, count, acked, revision, t_last, born, note)


def _migrated_in_mongo(mongo: MongoStore) -> Iterator[str]:
    database = mongo.database
    database.blobs.update_many(_IS_OLD, {"$set": {"format": DOCUMENT_VERSION}})
    for document in list(database.logs.find({"format": 1})):
        _migrate_log(mongo, document)
        yield document["_id"]
    database.chunks.delete_many(_IS_OLD)  # also leftovers of an interrupted backup or migration


def _migrated_in_redis(store: RedisStore, mongo: MongoStore | None) -> Iterator[str]:
    for key in store.log_keys():
        raw, oldest = store.client.lindex(key, 0), store.client.lindex(key, 1)
        if not isinstance(raw, bytes) or raw[:3] != b"JH\x01":
            continue
        born = None if mongo is None else mongo.birth(key)
        if born is None:
            born = batch_span(oldest)[2] if isinstance(oldest, bytes) else -math.inf
        head = _upgraded(raw, born, where=key).encode()
        store.client.lset(key, 0, head)  # type: ignore[arg-type]  # bytes are taken, too
        yield key


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
