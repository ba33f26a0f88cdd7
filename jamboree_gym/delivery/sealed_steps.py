"""Rows of an episode -> a batch, and the summary that is stored with it."""

from __future__ import annotations

from functools import reduce
from operator import add

from jamboree_gym.encoding.batch_format import CODEC_STEPS, encode_batch
from jamboree_gym.encoding.row_parts import RowPart
from jamboree_gym.encoding.rows import (
    REWARD,
    ROW_WIDTH,
    TERMINATED,
    TIMESTAMP,
    TRUNCATED,
    encode_rows,
)
from jamboree_gym.encoding.summary_codec import encode_episode_note, encode_summary
from jamboree_gym.records import EpisodeStatus, EpisodeSummary
from jamboree_gym.store.redis.store import IndexEntry

__all__ = ["seal_note", "seal_rows", "status_after", "summary_after"]


def seal_rows(part: RowPart, writer: bytes) -> bytes:
    """The batch of these rows."""
    return encode_batch(
        codec=CODEC_STEPS,
        start=part.start,
        count=part.count,
        writer=writer,
        t_first=part.rows[TIMESTAMP],
        t_last=part.rows[TIMESTAMP - ROW_WIDTH],
        body=encode_rows(part.rows, part.schema, part.changes),
    )


def seal_note(summary: EpisodeSummary, origin: bytes) -> tuple[bytes, IndexEntry]:
    """What is stored beside the batches: the episode's note, and its entry in the listing."""
    content = encode_summary(summary)
    written_at = summary.started_at + summary.elapsed_s
    entry = IndexEntry(summary.id, content, summary.run, written_at)
    return encode_episode_note(content, origin), entry


def summary_after(
    known: EpisodeSummary, part: RowPart, status: EpisodeStatus = "running"
) -> EpisodeSummary:
    """The summary as it is after these rows."""
    return EpisodeSummary(  # dataclasses.replace takes four times as long
        known.id,
        known.env_id,
        known.run,
        status,
        part.start + part.count - 1,
        # One by one: the sum is the same however the rows were cut.
        reduce(add, part.rows[REWARD::ROW_WIDTH], known.episode_return),
        known.started_at,
        part.rows[TIMESTAMP - ROW_WIDTH] - known.started_at,
        known.seed,
        known.tags,
        known.vector_index,
        known.writer,
        known.parent,
    )


def status_after(part: RowPart) -> EpisodeStatus:
    """What the newest row says of the episode."""
    if part.rows[TERMINATED - ROW_WIDTH]:
        return "terminated"
    return "truncated" if part.rows[TRUNCATED - ROW_WIDTH] else "running"
