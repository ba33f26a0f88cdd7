"""Parts -> batches: the half that writes. `rows` is the one that reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.encoding.batch_format import CODEC_STEPS, encode_batch
from jamboree_gym.encoding.column_batch import encode_columns, encode_each
from jamboree_gym.encoding.row_part import RowPart

__all__ = ["encode_rows", "prepare", "seal_each", "seal_rows"]


def seal_rows(part: RowPart, writer: bytes) -> bytes:
    """The batch of these rows."""
    times = part.timestamps
    return encode_batch(
        codec=CODEC_STEPS,
        start=part.start,
        count=len(times),
        writer=writer,
        t_first=float(times[0]),
        t_last=float(times[-1]),
        body=encode_rows(part),
    )


def seal_each(
    part: RowPart, starts: Sequence[int], counts: Sequence[int], writer: bytes
) -> list[bytes]:
    """The batches of many episodes, a batch of each.

    Args:
        part: The rows of all, one episode behind the other; no infos, changes and encoded columns.
        starts: Of each episode the number of its first row here.
        counts: Of each episode the number of rows here.
        writer: Of all of them.
    """
    stops = np.cumsum(counts)
    first_times, last_times = part.timestamps[stops - counts], part.timestamps[stops - 1]
    bodies = encode_each(part.schema, part.columns, counts)  # type: ignore[arg-type]
    return [
        encode_batch(
            codec=CODEC_STEPS,
            start=start,
            count=count,
            writer=writer,
            t_first=t_first,
            t_last=t_last,
            body=body,
        )
        for start, count, t_first, t_last, body in zip(
            starts, counts, first_times.tolist(), last_times.tolist(), bodies, strict=True
        )
    ]


def encode_rows(part: RowPart) -> bytes:
    """Body of a batch that holds these rows."""
    digests = [(offset, changed.digest_bytes) for offset, changed in part.changes]
    return encode_columns(part.schema, part.columns, part.infos, digests)


def prepare(schema: StepSchema) -> None:
    """Derive now what batches of this schema will need, rather than at the first one."""
    _ = schema.digest_bytes, schema.column_bytes, schema.encoded_columns
