"""Rows of many batches -> arrays, all at once.

pyarrow takes as long to read a batch of 20 rows as one of 2,000, and a policy that fails makes many
of 20, as does an environment that is slow. But the header of a plain batch is known beforehand (see
`row_encoder`), and with it where each column lies. So the batches are cut there, and the pieces
of a column are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.step_schema import FindSchema, StepSchema
from jamboree_gym.encoding.batch_format import BATCH_BODY, CODEC_STEPS, Batch, plain_span
from jamboree_gym.encoding.row_encoder import NO_REST, PREFIX, template_of
from jamboree_gym.encoding.rows import Rows, decode_rest, decode_rows, schema_digest
from jamboree_gym.errors import DecodeError

__all__ = ["RowCollector", "decode_batches", "plain_batch"]

_NO_INFOS: Mapping[int, dict[str, Any]] = MappingProxyType({})
_MESSAGE = BATCH_BODY + PREFIX.size  # where the Arrow message begins


def plain_batch(raw: bytes) -> tuple[int, int, bytes]:
    """Start, count and schema digest of a batch of rows; a count of 0 if anything is wrong."""
    start, count = plain_span(raw, CODEC_STEPS)
    return (start, count, raw[BATCH_BODY : BATCH_BODY + 8]) if len(raw) >= _MESSAGE else (0, 0, b"")


def decode_batches(batches: Sequence[Batch], find_schema: FindSchema, *, where: str) -> Rows:
    """Rows of successive batches of one episode, in memory of their own.

    Args:
        batches: The batches, at least one.
        find_schema: Gives the schema of a digest.
        where: Key of the log, for the error message.

    Raises:
        DecodeError: The body of one is damaged.
    """
    rows = _plain_rows(batches, find_schema, where)
    if rows is not None:
        return rows
    return Rows.concatenate([decode_rows(batch, find_schema, where=where) for batch in batches])


def _plain_rows(batches: Sequence[Batch], find_schema: FindSchema, where: str) -> Rows | None:
    """The same without pyarrow; None where a batch is not plain, or has another schema."""
    digests = {schema_digest(batch, where=where) for batch in batches}
    if len(digests) > 1:
        return None
    collector = RowCollector(find_schema(*digests))
    is_plain = collector.add((batch.blob, batch.count) for batch in batches)
    return collector.rows(start=batches[0].start) if is_plain else None


class _Pieces(NamedTuple):
    """A batch that has been cut.

    Attributes:
        rows: Number of rows.
        columns: The bytes of each column.
        infos: Infos that are not empty, by row of the batch.
    """

    rows: int
    columns: list[bytes]
    infos: Mapping[int, dict[str, Any]]


class RowCollector:
    """Collects batches of one schema, of whichever episodes.

    Args:
        schema: Their schema.
    """

    def __init__(self, schema: StepSchema) -> None:
        self._schema = schema
        self._template = template_of(schema)
        self._pieces: list[_Pieces] = []
        # What was added so far: number of rows, the columns, the infos by row.
        self._parts: list[tuple[int, list[npt.NDArray[Any]], Mapping[int, dict[str, Any]]]] = []

    def add(self, batches: Iterable[tuple[bytes, int]]) -> bool:
        """Cut and keep batches, each given with its number of rows.

        Returns:
            Whether they are plain; if not, none of them is kept.
        """
        pieces = []
        for raw, count in batches:
            if (piece := self._cut(raw, count)) is None:
                return False
            pieces.append(piece)
        self._pieces += pieces
        return True

    def _cut(self, raw: bytes, count: int) -> _Pieces | None:
        if self._template is None:
            return None
        places = self._template.buffers(count)
        end = _MESSAGE + PREFIX.unpack_from(raw, BATCH_BODY)[1]
        if not raw.startswith(self._template.header(count), _MESSAGE):
            return None
        if _MESSAGE + places[-1][1] > end:
            return None
        infos: Mapping[int, dict[str, Any]] = _NO_INFOS
        if not raw.endswith(NO_REST) or len(raw) != end + len(NO_REST):
            try:
                infos, changes = decode_rest(memoryview(raw)[end:], count, where="")
            except DecodeError:
                return None
            if changes:
                return None
        columns = [raw[_MESSAGE + start : _MESSAGE + stop] for start, stop in places]
        return _Pieces(count, columns, infos)

    def add_alike(self, batches: Sequence[bytes], count: int) -> bool:
        """Cut and keep batches of one size, each with so many rows, all at once.

        Returns:
            Whether they are plain and without infos; if not, none of them is kept.
        """
        if self._template is None:
            return False
        bytes_of = np.frombuffer(b"".join(batches), np.uint8).reshape(len(batches), -1)
        header, places = self._template.header(count), self._template.buffers(count)
        end = bytes_of.shape[1] - len(NO_REST)
        if end < _MESSAGE + places[-1][1]:
            return False
        fixed = (
            (BATCH_BODY + 8, PREFIX.pack(b"", end - _MESSAGE)[8:]),
            (_MESSAGE, header),
            (end, NO_REST),
        )
        if not all(_each_has(bytes_of, *one) for one in fixed):
            return False
        self._take_pieces()
        columns = [
            _column(leaf, bytes_of[:, _MESSAGE + start : _MESSAGE + stop], count)
            for leaf, (start, stop) in zip(self._schema.columns, places, strict=True)
        ]
        self._parts.append((len(batches) * count, columns, _NO_INFOS))
        return True

    def rows(self, *, start: int = 0) -> Rows:
        """All rows that were added, one batch after the other, as if they were of one episode.

        Args:
            start: Row number of the first.
        """
        self._take_pieces()
        total = sum(count for count, _, _ in self._parts)
        joined = zip(*[columns for _, columns, _ in self._parts], strict=True)
        columns = (one[0] if len(one) == 1 else np.concatenate(one) for one in joined)
        return Rows.of_columns(start, columns, self._infos(total), [(start, self._schema)])

    def _take_pieces(self) -> None:
        """Join the pieces that were added one by one."""
        if not self._pieces:
            return
        counts = np.array([one.rows for one in self._pieces], np.int64)
        joined = zip(*[one.columns for one in self._pieces], strict=True)
        pairs = zip(self._schema.columns, joined, strict=True)
        columns = [_array(leaf, content, counts) for leaf, content in pairs]
        infos, first = dict[int, dict[str, Any]](), 0
        for one in self._pieces:
            infos.update((first + row, info) for row, info in one.infos.items())
            first += one.rows
        self._parts.append((first, columns, infos))
        self._pieces = []

    def _infos(self, total: int) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = [{}] * total
        first = 0
        for count, _, some in self._parts:
            for row, info in some.items():
                infos[first + row] = info
            first += count
        return infos


def _each_has(batches: npt.NDArray[np.uint8], place: int, content: bytes) -> bool:
    """Whether each batch has these bytes there."""
    expected = np.frombuffer(content, np.uint8)
    return bool((batches[:, place : place + len(content)] == expected).all())


def _column(leaf: Any, content: npt.NDArray[np.uint8], count: int) -> npt.NDArray[Any]:
    """The bytes of one column, a line for each batch of `count` rows -> its array."""
    if leaf.dtype.kind == "b":
        bits = np.unpackbits(content, axis=1, count=count * leaf.size, bitorder="little")
        flat: npt.NDArray[Any] = bits.reshape(-1).view(np.bool_)
    else:
        flat = content.reshape(-1).view(leaf.dtype)
    return flat.reshape((len(content) * count, *leaf.shape))


def _array(leaf: Any, pieces: Sequence[bytes], counts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The bytes of one column, batch by batch -> its array, which may be written to."""
    content = bytearray().join(pieces)
    if leaf.dtype.kind == "b":
        flat = _from_bits(content, counts * leaf.size)
    else:
        flat = np.frombuffer(content, leaf.dtype)
    return flat.reshape((-1, *leaf.shape))


def _from_bits(content: bytearray, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Bits, of which those of each batch begin with a byte of their own."""
    bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    if len(widths) == 1:
        return bits[: widths[0]].view(np.bool_)
    padded = (widths + 7) // 8 * 8
    shifts = (padded.cumsum() - padded) - (widths.cumsum() - widths)
    chosen: npt.NDArray[np.uint8] = bits[np.arange(widths.sum()) + shifts.repeat(widths)]
    return chosen.view(np.bool_)
