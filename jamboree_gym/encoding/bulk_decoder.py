"""Rows of many batches -> arrays, all at once.

A policy that fails makes many batches of 20 rows, as does an environment that is slow. An array for
each column of each batch would take longer than to read it. So the pieces of a column are joined as
bytes, and become one array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from jamboree_gym.arrays.packing import as_objects
from jamboree_gym.arrays.step_schema import DAMAGED, FindSchema, SchemaChanges, StepSchema
from jamboree_gym.arrays.values import decode_value
from jamboree_gym.encoding.batch_format import (
    BATCH_BODY,
    CODEC_STEPS,
    Batch,
    checked_body,
    first_bytes,
)
from jamboree_gym.encoding.column_batch import (
    NO_TAIL,
    PREFIX,
    Alike,
    Tail,
    batch_version,
    decode_tail,
    join_columns,
    rows_in,
)
from jamboree_gym.encoding.rows import Rows, decode_infos, schema_digest, schemas_of
from jamboree_gym.errors import DecodeError

__all__ = ["RowCollector", "decode_batches", "plain_batch", "read_tail"]


def plain_batch(raw: bytes) -> tuple[int, int, bytes]:
    """Start, count and body of a batch of rows; a count of 0 if anything is wrong."""
    start, count, body = checked_body(raw, CODEC_STEPS)
    return (start, count, body) if len(body) >= PREFIX.size else (0, 0, b"")


def decode_batches(batches: Sequence[Batch], find_schema: FindSchema, *, where: str) -> Rows:
    """Rows of successive batches of one episode, in new memory.

    Args:
        batches: The batches, at least one.
        find_schema: Gives the schema of a digest.
        where: Key of the log, for the error message.

    Raises:
        DecodeError: The body of one is damaged.
    """
    runs = groupby(batches, key=partial(schema_digest, where=where))
    parts = [_run(list(run), find_schema(name), find_schema, where) for name, run in runs]
    return parts[0] if len(parts) == 1 else Rows.concatenate(parts)


def _run(batches: Sequence[Batch], schema: StepSchema, find_schema: FindSchema, where: str) -> Rows:
    """Rows of batches that begin with the same schema."""
    collector = RowCollector(schema)
    schemas: list[tuple[int, StepSchema]] = []
    for batch in batches:
        at = f"{where} at index {batch.start}"
        tail = read_tail(batch.body, schema, batch.count, where=at)
        collector.add([(batch.body, batch.count)], [tail])
        try:
            schemas += schemas_of(batch.start, schema, tail.changes, find_schema)
        except ValueError as error:
            raise DecodeError(f"{at}: {error}") from error
    return collector.rows(list(_changes(schemas)))


def _changes(schemas: SchemaChanges) -> Iterator[tuple[int, StepSchema]]:
    """Without those that hold already."""
    known = None
    for row, schema in schemas:
        if schema is not known:
            yield row, schema
        known = schema


def read_tail(body: bytes | memoryview, schema: StepSchema, count: int, *, where: str) -> Tail:
    """What follows the columns of a body, with its infos and encoded values decoded.

    Raises:
        DecodeError: The body is damaged.
    """
    try:
        tail = decode_tail(body, schema, count)
        if tail is NO_TAIL:
            return tail
        infos = decode_infos(tail.infos, where=where)
        values = [[decode_value(one, where=where) for one in column] for column in tail.values]
        return Tail(values, list(infos.items()), tail.changes)
    except DAMAGED as error:
        raise DecodeError(f"{where}: {error}") from error


class RowCollector:
    """Collects batches of one schema, of whichever episodes.

    Args:
        schema: Their schema.
    """

    def __init__(self, schema: StepSchema) -> None:
        self._schema = schema
        self._alike: list[Alike] = []
        self._bodies: list[tuple[bytes | memoryview, int]] = []
        self._tails: list[Tail] = []

    def add(self, bodies: Sequence[tuple[bytes | memoryview, int]], tails: Sequence[Tail]) -> None:
        """Keep the bodies of batches, each with its number of rows and what `read_tail` gave."""
        self._bodies += bodies
        self._tails += tails

    def add_alike(self, batches: Sequence[bytes], count: int) -> bool:
        """Keep batches of one size whose checksums fit, each with the first `count` rows of a log.

        They are cut into columns all at once. Their rows come before those of `add`.

        Returns:
            Whether they are such batches, without infos and encoded values; if not, none of them
            is kept.
        """
        schema = self._schema
        if schema.encoded_columns:
            return False
        size = BATCH_BODY + PREFIX.size + count * schema.stored_row_bytes
        if len(batches[0]) != size:
            return False
        first = first_bytes(CODEC_STEPS, count, batch_version(schema))
        prefix = PREFIX.pack(schema.digest_bytes, 0, 0)
        if not all(
            [one.startswith(first) and one.startswith(prefix, BATCH_BODY) for one in batches]
        ):
            return False
        self._alike.append((batches, count))
        return True

    def rows(self, schemas: SchemaChanges | None = None) -> Rows:
        """All rows that were added, one batch after the other, as if they were of one episode.

        First come those of `add_alike`.

        Args:
            schemas: Row number from which on a schema holds, the first that of the first row; None
                = the one schema from row 0 on.
        """
        schemas = schemas or [(0, self._schema)]
        columns = join_columns(self._bodies, self._schema, self._tails, self._alike)
        arrays = [as_objects(one) if isinstance(one, list) else one for one in columns]
        return Rows.of_columns(schemas[0][0], iter(arrays), self._infos(), schemas)

    def _infos(self) -> list[Mapping[str, Any]]:
        first = sum(map(rows_in, self._alike))
        infos: list[Mapping[str, Any]] = [{}] * (first + sum(count for _, count in self._bodies))
        for (_, count), tail in zip(self._bodies, self._tails, strict=True):
            for row, info in tail.infos:
                infos[first + row] = info
            first += count
        return infos
