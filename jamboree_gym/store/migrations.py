"""Stores that an older release wrote -> the format of this one, in place.

Version 1 had heads without `held`, `newest`, `born` and a checksum, and in MongoDB a document for
each frame, named without the log's birth. Frames, notes and blobs are the same in both.

Each log is changed in one step, so a migration that was interrupted can be begun again.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from jamboree_gym.codec import Head, frame_span
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.mongo import MongoStore
from jamboree_gym.store.mongo_documents import (
    DOCUMENT_VERSION,
    chunk_documents,
    head_fields,
    kept_frames,
)
from jamboree_gym.store.redis import RedisStore

__all__ = ["migrate"]

# magic, version, codec, first, count, acked, revision, t_last
_HEAD_1 = struct.Struct("<2sBBQQQQd")


def migrate(store: RedisStore, mongo: MongoStore | None) -> int:
    """Bring a namespace up to date. Nobody may write to it meanwhile.

    Args:
        store: Its Redis.
        mongo: Its MongoDB, None where there is none.

    Returns:
        Number of logs that were changed.

    Raises:
        DecodeError: A log is damaged; it was left as it is, and so were those after it.
        StoreUnavailable: Redis or MongoDB does not answer; begin again.
    """
    born: dict[str, float] = {}
    if mongo is not None:
        for key, head in _migrated_in_mongo(mongo):
            born[key] = head.born
    return len(born.keys() | set(_migrated_in_redis(store, born)))


def _upgraded(raw: bytes, born: float, *, where: str) -> Head:
    if len(raw) < _HEAD_1.size or raw[:3] != b"JH\x01":
        raise DecodeError(f"{where}: the head of the log is damaged")
    _, _, codec, first, count, acked, revision, t_last = _HEAD_1.unpack_from(raw)
    note = raw[_HEAD_1.size :]
    return Head(codec, first, 0, count, count, acked, revision, t_last, born, note)


def _migrated_in_redis(store: RedisStore, born: dict[str, float]) -> Iterator[str]:
    for key in store.log_keys():
        raw, oldest = store.client.lindex(key, 0), store.client.lindex(key, 1)
        if not isinstance(raw, bytes) or raw[:3] != b"JH\x01":
            continue
        first_time = frame_span(oldest)[2] if isinstance(oldest, bytes) else -math.inf
        head = _upgraded(raw, born.get(key, first_time), where=key)
        store.client.lset(key, 0, head.encode())  # type: ignore[arg-type]  # bytes are taken, too
        yield key


def _migrated_in_mongo(mongo: MongoStore) -> Iterator[tuple[str, Head]]:
    database = mongo.database
    is_old: dict[str, Any] = {"format": {"$exists": False}}
    database.blobs.update_many(is_old, {"$set": {"format": DOCUMENT_VERSION}})
    for document in list(database.logs.find({"format": 1})):
        yield document["_id"], _migrate_log(mongo, document)


def _migrate_log(mongo: MongoStore, document: Any) -> Head:
    key, where = document["_id"], f"MongoDB at {mongo.where}: {document['_id']}"
    if zlib.crc32(document["head"]) != document["crc"]:
        raise DecodeError(f"{where}: the head of the log is damaged")
    is_of_log = {"_id": {"$gte": f"{key}#", "$lt": f"{key}$"}, "format": {"$exists": False}}
    chunks = mongo.database.chunks
    old = [{**one, "format": DOCUMENT_VERSION} for one in chunks.find(is_of_log).sort("_id", 1)]
    frames = [frame for _, frame in kept_frames(old)]
    for frame in frames:
        if frame.blob is None:
            raise DecodeError(f"{where} at index {frame.start}: checksum does not match")
    blobs = [frame.blob for frame in frames if frame.blob is not None]
    head = _upgraded(document["head"], frame_span(blobs[0])[2] if blobs else -math.inf, where=where)
    for blob in blobs:
        for part in chunk_documents(key, head.born, blob):
            chunks.replace_one({"_id": part["_id"]}, part, upsert=True)
    mongo.database.logs.update_one({"_id": key}, {"$set": head_fields(head)})
    chunks.delete_many(is_of_log)
    return head
