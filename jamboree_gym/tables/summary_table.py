"""Converts summaries of episodes into a table."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import pyarrow as pa

from jamboree_gym.encoding.summary_codec import StoredSummary, decode_seeds
from jamboree_gym.tables.columns import scalar_columns

__all__ = ["to_summary_table"]

_COLUMNS = (
    ("env_id", pa.string()),
    ("run", pa.string()),
    ("status", pa.string()),
    ("steps", pa.int64()),
    ("episode_return", pa.float64()),
    ("started_at", pa.float64()),
    ("elapsed_s", pa.float64()),
)


def to_summary_table(summaries: Sequence[StoredSummary]) -> pa.Table:
    """One row per summary; the columns are those of `EpisodeQuery.summary_table`."""
    columns: dict[str, Any] = {
        "episode_id": pa.array([one.id for one in summaries], pa.string()),
        **{name: pa.array(list(map(attrgetter(name), summaries)), kind) for name, kind in _COLUMNS},
        "seed": _seeds(summaries),
        "vector_index": pa.array([one.vector_index for one in summaries], pa.int64()),
        "parent": pa.array([one.parent for one in summaries], pa.string()),
        **_return_columns(summaries),
        **_tag_columns(summaries),
    }
    return pa.table(columns)


def _return_columns(summaries: Sequence[StoredSummary]) -> dict[str, pa.Array]:
    """A column for each component, where rewards are several numbers; null where there is none."""
    found = [one.returns or () for one in summaries]
    return {
        f"return_{n}": pa.array([one[n] if n < len(one) else None for one in found], pa.float64())
        for n in range(max(map(len, found), default=0))
    }


def _seeds(summaries: Sequence[StoredSummary]) -> pa.Array:
    seeds = decode_seeds(summaries)
    try:
        return pa.array(seeds, pa.int64())
    except (pa.ArrowException, OverflowError):  # a user can pass anything to `reset`
        return pa.array([None if seed is None else str(seed) for seed in seeds], pa.string())


def _tag_columns(summaries: Sequence[StoredSummary]) -> dict[str, pa.Array]:
    """Columns of the tags: built from the few distinct tags, and then repeated per episode."""
    known = {one.tags: one for one in summaries}
    position_of = {tags: position for position, tags in enumerate(known)}
    positions = pa.array([position_of[one.tags] for one in summaries], pa.int64())
    columns = scalar_columns("tag", [one.decoded_tags() for one in known.values()])
    return {
        name: pa.array(column).take(positions)
        for name, column in columns.items()
        if column is not None
    }
