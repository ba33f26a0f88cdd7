"""The rows of episodes in blocks of memory.

Rows fill a block from the front, bytes without a fixed size from the back. An *extent* is a header
and the rows of one episode that follow it. All rows of an extent have the same format. The last
extent of a block is open: it grows until the block is full, or the episode is over. One number in
the header, the count, publishes a row that is complete.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.encoding.row_format import Place, RowFormat
from jamboree_gym.encoding.row_format import row_format as row_format_of
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.journal.row_parts import part_of
from jamboree_gym.journal.segments import FIRST_BYTE, LARGEST_BYTES, Block, Segments, private_copy

if TYPE_CHECKING:
    from jamboree_gym.journal.vector_block import ColumnSpan

__all__ = [
    "COUNT",
    "EXTENT",
    "EXTENT_MAGIC",
    "ABANDONED",
    "DROPPED",
    "Extent",
    "RowLane",
    "Span",
    "private_lane",
]

# magic, count, rows that Redis has confirmed, state, generation, number of the schema, first row,
# place of the title
EXTENT = struct.Struct("<4sIIIIIQII")
EXTENT_MAGIC = b"rows"
COUNT, CONFIRMED, STATE = 1, 2, 3  # in words behind the extent's first byte
ABANDONED, DROPPED = 1, 2  # states of an extent: the episode was abandoned; nobody wants the rows


class Extent(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Rows of one episode that lie side by side.

    Attributes:
        start: Row number of the first.
        row_format: Of all rows.
        words: The block as 32-bit numbers; `words[count_at]` is the number of rows.
        count_at: Where the count is.
        content: The block.
        first_at: Offset of the first row.
    """

    _block: Block
    content: memoryview
    words: memoryview
    count_at: int
    first_at: int
    start: int
    row_format: RowFormat

    @classmethod
    def at(cls, at: int, block: Block, start: int, row_format: RowFormat) -> Extent:
        """That whose header is at this offset of a block."""
        count_at, first_at = at // 4 + COUNT, at + EXTENT.size
        return cls(block, block.content, block.words, count_at, first_at, start, row_format)

    def copy(self) -> Extent:
        """The same rows in memory of this process alone."""
        at, block = self.first_at - EXTENT.size, private_copy(self._block)
        return Extent.at(at, block, self.start, self.row_format)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.words[self.count_at]

    @property
    def stop(self) -> int:
        """Number of the row after the last."""
        return self.start + self.words[self.count_at]

    def rows(self, first: int, stop: int) -> npt.NDArray[Any]:
        """A view of the rows with these numbers, of the format's dtype."""
        row_format = self.row_format
        offset = self.first_at + (first - self.start) * row_format.nbytes
        return np.ndarray(stop - first, row_format.dtype, self.content, offset)

    def part(self, first: int, stop: int, schemas: Mapping[int, StepSchema]) -> RowPart:
        """The rows with these numbers; its arrays share their memory."""
        return part_of(self.rows(first, stop), self.content, first, schemas)

    def confirm(self, row: int) -> None:
        """Redis has all rows below this number, and no others."""
        self.words[self.count_at - COUNT + CONFIRMED] = row - self.start

    def set_state(self, state: int) -> None:
        """Write how the episode has ended, or `DROPPED`."""
        self.words[self.count_at - COUNT + STATE] = state


class Span(msgspec.Struct, frozen=True, gc=False):
    """Some of the rows of an extent: from number `first` to before `stop`."""

    extent: Extent | ColumnSpan
    first: int
    stop: int

    def part(self, schemas: Mapping[int, StepSchema]) -> RowPart:
        """The same; its arrays share their memory."""
        return self.extent.part(self.first, self.stop, schemas)

    def cut(self, size: int) -> Iterator[Span]:
        """The same rows in spans of no more than `size`."""
        for first in range(self.first, self.stop, size):
            yield Span(self.extent, first, min(first + size, self.stop))


def private_lane() -> RowLane:
    """A lane in memory of this process alone, which delivers nothing of it."""
    numbers: dict[StepSchema, int] = {}
    first = 1 << 31  # other than the numbers in rows of a journal
    return RowLane(Segments(None), lambda one: numbers.setdefault(one, first + len(numbers)))


class RowLane:
    """Where the episodes of one recorder write their rows, one episode after the other.

    Args:
        segments: Gives blocks.
        number_of: Gives the number that rows of a schema have.

    Attributes:
        number: That of the schema of the newest extent.
        schemas: That schema by its number.
        back: Where the bytes without a fixed size begin: rows end there.
    """

    __slots__ = (
        "_block",
        "_newest",
        "_number_of",
        "_row_format",
        "_schema",
        "_segments",
        "back",
        "number",
        "schemas",
    )

    def __init__(self, segments: Segments, number_of: Callable[[StepSchema], int]) -> None:
        self._segments = segments
        self._number_of = number_of
        self._schema: StepSchema | None = None  # of the newest extent
        self.number = -1
        self.schemas: Mapping[int, StepSchema] = {}
        self._block = segments.block(0)
        self.back = self._block.size
        self._newest: Extent | None = None

    def extent(self, schema: StepSchema, start: int, title: bytes, room: int) -> Extent:
        """A new extent without rows; there is room for a row, and `room` bytes.

        Args:
            schema: Of its first row.
            start: Number of its first row.
            title: Says of which episode the rows are.
            room: Bytes without a fixed size that the first row brings.
        """
        if schema is not self._schema:
            self._row_format, self.number = row_format_of(schema), self._number_of(schema)
            self._schema, self.schemas = schema, {self.number: schema}
        row_format = self._row_format
        at = self._end_of_newest()
        needed = EXTENT.size + row_format.nbytes + len(title) + room
        if at + needed > self.back:
            at = self._new_block(needed)
        block = self._block
        place = self.keep(title)
        extent = Extent.at(at, block, start, row_format)
        known = block.generation, self.number, start
        EXTENT.pack_into(block.content, at, EXTENT_MAGIC, 0, 0, 0, *known, *place)
        self._newest = extent
        return extent

    def _end_of_newest(self) -> int:
        newest = self._newest
        if newest is None:
            return FIRST_BYTE
        end = newest.first_at + newest.words[newest.count_at] * newest.row_format.nbytes
        return end + -end % 8

    def _new_block(self, needed: int) -> int:
        size = min(4 * self._block.size, LARGEST_BYTES) - FIRST_BYTE
        block = self._segments.block(max(needed, size))
        # No call among these: a Ctrl-C comes at calls alone.
        self._newest = None
        self._block = block
        self.back = block.size
        return FIRST_BYTE

    def number_of(self, schema: StepSchema) -> int:
        """The number that rows of this schema have."""
        return self.number if schema is self._schema else self._number_of(schema)

    def keep(self, content: bytes) -> Place:
        """Put bytes into the block; there has to be room."""
        at, size = self.back - len(content), len(content)
        self._block.content[at : self.back] = content
        self.back = at
        return at, size
