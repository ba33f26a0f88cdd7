"""A log of records that went on without what MongoDB holds of it: its records move behind that.

So it is where Redis was emptied while MongoDB was away, and the log was begun anew; and where a
backup brought to MongoDB what Redis lost at that moment, while others went on saving.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence

from jamboree_gym.backup.pages import pages
from jamboree_gym.encoding.batch_format import CODEC_RECORDS, Frame, Head, decode_head, encode_frame
from jamboree_gym.store.mongo.documents import KeptLog
from jamboree_gym.store.mongo.frame_reader import KeptFrames
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["rejoin"]

MAX_MOVED_BYTES = 64 << 20


def rejoin(store: RedisStore, mongo: MongoStore, key: str, *, epoch: str) -> bool:
    """Move the records of Redis that MongoDB does not hold behind those that it does.

    They get new indices, and keep their times, if these are later than those before them.

    Args:
        store: Where they are moved.
        mongo: What they are moved behind.
        key: The log.
        epoch: In which it was found that both sides differ.

    Returns:
        Whether that was done: not with episodes, nor where both differ in what MongoDB has
        acknowledged, nor where the log has just changed.

    Raises:
        DecodeError: Something of it is damaged.
    """
    raw = store.reader.undecoded_head(key)
    kept = mongo.logs([key]).get(key)
    if not raw or not isinstance(kept, KeptLog):
        return False
    head = decode_head(raw, where=key)
    if head.codec != CODEC_RECORDS or head.first > max(head.acked, head.held):
        return False
    ours = _own_frames(store, mongo, key, head, kept)
    if not ours or sum(len(frame.blob) for frame in ours) > MAX_MOVED_BYTES:
        return False
    moved = list(_behind(kept.head, ours))
    count = kept.head.count + sum(frame.count for frame in ours)
    joined = Head(
        codec=CODEC_RECORDS,
        first=kept.head.first,
        held=kept.head.count,
        newest=kept.head.count,
        count=count,
        acked=kept.head.count,
        revision=max(head.revision, kept.head.revision) + 1,
        t_last=moved[-1][1],
        born=kept.head.born,
        note=b"",
    )
    return store.restorer.replace(
        key, joined, [blob for blob, _ in moved], instead_of=raw, epoch=epoch
    )


def _own_frames(
    store: RedisStore, mongo: MongoStore, key: str, head: Head, kept: KeptLog
) -> list[Frame]:
    """The frames of Redis from the first on that differs from MongoDB's; none if none does."""
    is_same_log = head.born == kept.head.born
    if not is_same_log and (head.acked or head.held):
        return []
    start = max(head.acked, head.held) if is_same_log else 0
    ours = [frame for page in pages(store, key, start, head.count) for frame in page]
    theirs: Sequence[Frame] = ()
    if is_same_log and start < kept.head.count:
        theirs = KeptFrames(mongo, key, kept, kept.head.count).covering(start, kept.head.count)
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same].blob == theirs[same].blob:
        same += 1
    is_beyond = is_same_log and same == len(theirs)
    return [] if is_beyond else ours[same:]


def _behind(kept: Head, frames: Sequence[Frame]) -> Iterator[tuple[bytes, float]]:
    """The same records, with indices and times that follow those of a log; and their last times."""
    start, t_last = kept.count, kept.t_last
    for frame in frames:
        split = frame.count * 8
        times = list[float]()
        for time_s in struct.unpack(f"<{frame.count}d", frame.body[:split]):
            t_last = time_s if time_s > t_last else math.nextafter(t_last, math.inf)
            times.append(t_last)
        body = struct.pack(f"<{frame.count}d", *times) + bytes(frame.body[split:])
        blob = encode_frame(
            codec=CODEC_RECORDS,
            start=start,
            count=frame.count,
            writer=frame.writer,
            t_first=times[0],
            t_last=t_last,
            body=body,
        )
        start += frame.count
        yield blob, t_last
