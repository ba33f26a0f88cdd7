"""The rows of many environments that step together, in one block of memory.

A block is a table: a row for each vector step, a column for each environment. All its rows have one
format. A *span* is the part of a column that belongs to one episode. Rows fill the block from the
front, groups of spans from the back; each group names the one before it. Two numbers in the header
publish what is complete: how many rows there are, and which group is the newest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.encoding.row_format import RowFormat
from jamboree_gym.encoding.row_format import row_format as row_format_of
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.errors import DecodeError
from jamboree_gym.journal.row_parts import part_of
from jamboree_gym.journal.segments import (
    FIRST_BYTE,
    KIND_VECTOR,
    LARGEST_BYTES,
    Block,
    Segments,
    private_copy,
)

if TYPE_CHECKING:
    from jamboree_gym.journal.row_block import Span

__all__ = [
    "BegunEpisode",
    "ColumnSpan",
    "LeftSpan",
    "SpanTitle",
    "VectorBlock",
    "VectorLane",
    "encode_titles",
    "read_spans",
]

# magic, rows, newest group, generation, number of the schema, number of environments
_HEADER = struct.Struct("<4sIIIII")
_MAGIC = b"vrow"
_COUNT_WORD, _GROUP_WORD = FIRST_BYTE // 4 + 1, FIRST_BYTE // 4 + 2
_ROWS_AT = FIRST_BYTE + 64
_GROUP = struct.Struct("<IIII")  # the group before, number of spans, place of their titles
_SPAN = struct.Struct("<IIIIIIQ")
# Of a span, in words behind its first byte: environment, first row of the block, the one after the
# last, rows that Redis has confirmed, state; then an empty one, and the row number of the first.
_INDEX, _FIRST, _STOP, _CONFIRMED, _STATE, _, _START = range(7)
_SPAN_DTYPE = np.dtype(
    [(name, "<u4") for name in ("index", "first", "stop", "confirmed", "state", "empty")]
    + [("start", "<u8")]
)
_OPEN = 2**32 - 1  # the episode has not ended
_ROOM_FOR_STEPS = 16  # vector steps for which a block has room, at least
_TITLE_BYTES = 160  # of a span in which an episode continues, at most about
MAX_BLOCK_BYTES = 16 << 20


class BegunEpisode(msgspec.Struct, array_like=True, frozen=True, eq=False, gc=False):
    """What the journal keeps of an episode that begins in a block; all else is the same for all.

    Attributes:
        env_id: Of its environment.
        started_at: Timestamp of row 0, epoch seconds.
        origin: Encoded.
        provenance: Digest of a blob.
    """

    env_id: str
    started_at: float
    origin: bytes
    provenance: str


class SpanTitle(msgspec.Struct, array_like=True, frozen=True, eq=False, gc=False):
    """Says in the journal of which episode the rows of a span are.

    Attributes:
        key: The episode's log.
        id: Its id.
        begun: Where row 0 is in the span.
    """

    key: str
    id: str
    begun: BegunEpisode | None = None


class _Titles(NamedTuple):
    """The titles of a group.

    Attributes:
        run: Of all that have begun.
        tags: Of all that have begun, encoded.
        titles: In the order of the spans.
    """

    run: str
    tags: bytes
    titles: list[SpanTitle]


_encode_titles = msgspec.msgpack.Encoder().encode
_decode_titles = msgspec.msgpack.Decoder(_Titles).decode


class VectorBlock:
    """A block, and its rows as arrays.

    Attributes:
        schema: Of all rows.
        number: That of the schema in this journal.
        schemas: The schema by its number.
        width: Number of environments.
        row_format: Of all rows.
        content: The block.
        words: The same as 32-bit numbers.
        rows: The table, of the format's dtype.
        packed: The same, a row as its bytes.
    """

    def __init__(self, block: Block, schema: StepSchema, number: int, width: int) -> None:
        self._block = block
        self.schema, self.number, self.width = schema, number, width
        self.schemas = {number: schema}
        self.row_format = row_format_of(schema)
        self.content, self.words = block.content, block.words
        self._line_bytes = width * self.row_format.nbytes
        lines = (block.size - _ROWS_AT) // self._line_bytes
        self.rows = np.ndarray((lines, width), self.row_format.dtype, block.content, _ROWS_AT)
        # NumPy copies these at once, and rows of several fields field by field.
        self.packed = self.rows.view(np.dtype((np.void, self.row_format.nbytes)))
        self._back = block.size
        self._copy: VectorBlock | None = None

    def begin(self) -> None:
        """Write the header, and what is the same in all rows."""
        self.content[_ROWS_AT : self._block.size] = bytes(self._block.size - _ROWS_AT)
        self.rows["schema"] = self.number
        content = (_MAGIC, 0, 0, self._block.generation, self.number, self.width)
        _HEADER.pack_into(self.content, FIRST_BYTE, *content)

    @property
    def count(self) -> int:
        """Number of vector steps."""
        return self.words[_COUNT_WORD]

    def publish(self, count: int) -> None:
        """This number of rows is complete."""
        self.words[_COUNT_WORD] = count

    def has_room(self, title_bytes: int, spans: int) -> bool:
        """Whether one more row fits in, and a group with that number of spans."""
        end = _ROWS_AT + (self.count + 1) * self._line_bytes
        return end + _group_bytes(title_bytes, spans) <= self._back

    @cached_property
    def fields(self) -> tuple[npt.NDArray[Any], ...]:
        """Of the table: flags, rewards, timestamps, then the columns of observation and action."""
        names = ("flags", "reward", "timestamp", *(name for name, _ in self.row_format.fields[0]))
        return tuple([self.rows[name] for name in names])

    @cached_property
    def said(self) -> tuple[npt.NDArray[Any], ...]:
        """Of the table: the columns of the annotation."""
        return tuple([self.rows[name] for name, _ in self.row_format.fields[1]])

    def open_spans(
        self, indices: Sequence[int], starts: Sequence[int], titles: bytes
    ) -> list[ColumnSpan]:
        """Spans that begin with the next row.

        Args:
            indices: Of the environments.
            starts: Row number that the next row has in each episode.
            titles: From `encode_titles`.
        """
        size, first = len(indices), self.count
        at = self._back - _group_bytes(len(titles), size)
        spans_at = at + _GROUP.size
        titles_at = spans_at + size * _SPAN.size
        self.content[titles_at : titles_at + len(titles)] = titles
        spans = np.ndarray(size, _SPAN_DTYPE, self.content, spans_at)
        spans[:] = 0  # `begin` has left the number of the schema here and there
        spans["index"], spans["first"], spans["stop"] = indices, first, _OPEN
        spans["start"] = starts
        _GROUP.pack_into(self.content, at, self.words[_GROUP_WORD], size, titles_at, len(titles))
        self._back = at
        self.words[_GROUP_WORD] = at
        word, step = spans_at // 4, _SPAN.size // 4
        return [
            ColumnSpan(self, word + n * step, index, first, start)
            for n, (index, start) in enumerate(zip(indices, starts, strict=True))
        ]

    def rows_of(self, spans: Sequence[Span]) -> npt.NDArray[Any]:
        """A copy of the rows of several spans, one span behind the other."""
        firsts: list[int] = []
        counts: list[int] = []
        for span in spans:
            column, first = span.extent, span.first
            assert isinstance(column, ColumnSpan)
            firsts.append((column._first + first - column.start) * self.width + column._index)
            counts.append(span.stop - first)
        sizes = np.array(counts)
        begins = np.cumsum(sizes) - sizes  # of each span, in the copy
        positions = np.arange(sum(counts)) - np.repeat(begins, sizes)
        at = np.repeat(firsts, sizes) + positions * self.width
        rows: npt.NDArray[Any] = self.packed.reshape(-1).take(at).view(self.row_format.dtype)
        return rows

    @property
    def private(self) -> VectorBlock:
        """A copy in memory of this process alone; one for all episodes."""
        if self._copy is None:
            block = private_copy(self._block)
            self._copy = VectorBlock(block, self.schema, self.number, self.width)
        return self._copy


def _group_bytes(title_bytes: int, spans: int) -> int:
    needed = _GROUP.size + spans * _SPAN.size + title_bytes
    return needed + -needed % 8


class ColumnSpan(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Consecutive rows of one episode in a column of a block; what `Extent` is in other blocks.

    Attributes:
        block: Where they are.
        start: Row number of the first.
    """

    block: VectorBlock
    _at: int  # in words
    _index: int
    _first: int
    start: int

    @property
    def content(self) -> memoryview:
        """The block."""
        return self.block.content

    @property
    def words(self) -> memoryview:
        """The same as 32-bit numbers."""
        return self.block.words

    @property
    def row_format(self) -> RowFormat:
        """Of all rows."""
        return self.block.row_format

    @property
    def count(self) -> int:
        """Number of rows."""
        words = self.block.words
        return min(words[self._at + _STOP], words[_COUNT_WORD]) - self._first

    @property
    def stop(self) -> int:
        """Number of the row after the last."""
        words = self.block.words
        stop, count = words[self._at + _STOP], words[_COUNT_WORD]
        return self.start - self._first + (stop if stop < count else count)

    def rows(self, first: int, stop: int) -> npt.NDArray[Any]:
        """A view of the rows with these numbers, of the format's dtype."""
        skipped = self._first - self.start
        rows: npt.NDArray[Any] = self.block.rows[first + skipped : stop + skipped, self._index]
        return rows

    def packed(self, first: int, stop: int) -> bytes:
        """The bytes of the rows with these numbers."""
        skipped = self._first - self.start
        return self.block.packed[first + skipped : stop + skipped, self._index].tobytes()

    def part(self, first: int, stop: int, schemas: Mapping[int, StepSchema]) -> RowPart:
        """The rows with these numbers; its arrays share their memory."""
        block = self.block
        return part_of(self.rows(first, stop), block.content, first, block.schemas)

    def close(self) -> None:
        """The rows that the block gets from now on are not of this episode."""
        self.block.words[self._at + _STOP] = self.block.count

    def confirm(self, row: int) -> None:
        """Redis has all rows below this number, and no others."""
        self.block.words[self._at + _CONFIRMED] = row - self.start

    def set_state(self, state: int) -> None:
        """Write how the episode has ended, or `DROPPED`."""
        self.block.words[self._at + _STATE] = state

    def copy(self) -> ColumnSpan:
        """The same rows in memory of this process alone."""
        return ColumnSpan(self.block.private, self._at, self._index, self._first, self.start)


class VectorLane:
    """Gives the blocks of one recorder of many environments.

    Args:
        segments: Gives blocks of memory.
        width: Number of environments.
    """

    def __init__(self, segments: Segments, width: int) -> None:
        self._segments = segments
        self._width = width
        self._size = 0
        self._taken: StepSchema | None = None  # the schema that was taken last

    def takes(self, schema: StepSchema) -> bool:
        """Whether rows of this schema are of fixed size, and not too large."""
        if schema is not self._taken:
            if schema.has_encoded or self._least_bytes(schema, 0) > MAX_BLOCK_BYTES:
                return False
            self._taken = schema
        return True

    def _least_bytes(self, schema: StepSchema, title_bytes: int) -> int:
        line_bytes = self._width * row_format_of(schema).nbytes
        group_bytes = _group_bytes(self._width * _TITLE_BYTES + title_bytes, self._width)
        return _ROWS_AT + _ROOM_FOR_STEPS * line_bytes + group_bytes

    def block(self, schema: StepSchema, number: int, title_bytes: int) -> VectorBlock:
        """A new block without rows; the next is larger.

        Args:
            schema: Of its rows.
            number: That of the schema.
            title_bytes: Size of the titles of its first group.
        """
        least = self._least_bytes(schema, title_bytes)
        self._size = max(least, min(4 * self._size, LARGEST_BYTES))
        memory = self._segments.block(self._size - FIRST_BYTE, KIND_VECTOR)
        self._size = memory.size
        block = VectorBlock(memory, schema, number, self._width)
        block.begin()
        return block


def encode_titles(run: str, tags: bytes, titles: Sequence[SpanTitle]) -> bytes:
    """The titles of a group."""
    return _encode_titles((run, tags, titles))


class LeftSpan(NamedTuple):
    """Rows of an episode that a dead process has left in a block.

    Attributes:
        run: Of an episode that has begun here.
        tags: Likewise; encoded.
        title: Of which episode they are.
        vector_index: Of its environment.
        start: Row number of the first.
        rows: Of the format's dtype.
        confirmed: How many Redis has confirmed.
        state: How the episode has ended.
        schema: Of all rows.
        number: That of the schema.
    """

    run: str
    tags: bytes
    title: SpanTitle
    vector_index: int
    start: int
    rows: npt.NDArray[Any]
    confirmed: int
    state: int
    schema: StepSchema
    number: int


def read_spans(
    content: bytes, generation: int, schemas: Mapping[int, StepSchema], where: str
) -> Iterator[LeftSpan]:
    """All spans of a block that have rows, in no order.

    Raises:
        DecodeError: The block is damaged.
    """
    magic, count, group_at, its_generation, number, width = _HEADER.unpack_from(content, FIRST_BYTE)
    if magic != _MAGIC or its_generation != generation or not (count and group_at):
        return  # it is empty, or the header is half written
    if number not in schemas:
        raise DecodeError(f"{where}: rows of a schema that is not in the journal")
    schema = schemas[number]
    fixed = row_format_of(schema)
    if _ROWS_AT + count * width * fixed.nbytes > len(content):
        raise DecodeError(f"{where}: rows beyond its end")
    rows = np.ndarray((count, width), fixed.dtype, content, _ROWS_AT)
    seen = 0
    while group_at:
        if group_at <= seen:
            raise DecodeError(f"{where}: groups of spans in a circle")
        seen = group_at
        group_at, size, titles_at, titles_bytes = _GROUP.unpack_from(content, group_at)
        run, tags, titles = _decode_titles(content[titles_at : titles_at + titles_bytes])
        for n, title in zip(range(size), titles, strict=True):
            span = _SPAN.unpack_from(content, seen + _GROUP.size + n * _SPAN.size)
            index, first, stop, confirmed, state, _, start = span
            own = rows[first : min(stop, count), index]
            if len(own):
                yield LeftSpan(
                    run, tags, title, index, start, own, confirmed, state, schema, number
                )
