"""Rows that are complete -> the appends that store them, without an outbox."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from jamboree_gym.delivery.outbox import MAX_APPEND_BYTES, MAX_BATCHES_PER_APPEND
from jamboree_gym.delivery.step_outbox import progress_after
from jamboree_gym.encoding.batch_format import CODEC_STEPS
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.encoding.summary_codec import encode_episode_note, encode_summary
from jamboree_gym.records import EpisodeStatus, EpisodeSummary, Progress
from jamboree_gym.store.log import Append, IndexEntry

__all__ = ["appends_of"]


def appends_of(
    key: str,
    parts: Sequence[RowPart],
    summary: EpisodeSummary,
    *,
    origin: bytes,
    blobs: Mapping[str, bytes],
    status: EpisodeStatus,
) -> Iterator[Append]:
    """The appends that store these rows, in order.

    Args:
        key: The log of the episode.
        parts: Rows in order, each a batch.
        summary: As it is before these rows; names the writer.
        origin: Encoded.
        blobs: What the origin refers to, by digest. Those of the schemas are added.
        status: Of the episode after these rows.
    """
    writer, progress = bytes.fromhex(summary.writer), Progress.of(summary)
    batches: list[bytes] = []
    size, used = 0, dict(blobs)
    for number, part in enumerate(parts, 1):
        batches.append(part.sealed(writer))
        size += len(batches[-1])
        used |= {one.digest: one.blob for one in (part.schema, *(at[1] for at in part.changes))}
        elapsed_s = float(part.timestamps[-1]) - summary.started_at
        now = status if number == len(parts) else "running"
        progress = progress_after(progress, part.stop, part.rewards, elapsed_s, now)
        is_full = len(batches) == MAX_BATCHES_PER_APPEND or size >= MAX_APPEND_BYTES
        if is_full and number < len(parts):
            yield _append(key, progress.in_summary(summary), batches, origin, used)
            batches, size = [], 0
    progress = replace(progress, status=status)
    yield _append(key, progress.in_summary(summary), batches, origin, used)


def _append(
    key: str,
    summary: EpisodeSummary,
    batches: Sequence[bytes],
    origin: bytes,
    blobs: Mapping[str, bytes],
) -> Append:
    content = encode_summary(summary)
    note = encode_episode_note(content, origin)
    written_at = summary.started_at + summary.elapsed_s
    entry = IndexEntry(summary.id, content, summary.run, written_at)
    after = summary.steps + 1
    return Append(key, CODEC_STEPS, batches, after, note, entry, dict(blobs), summary.started_at)
