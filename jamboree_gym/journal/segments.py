"""Memory that outlives the process: blocks of mapped files, else plain memory.

The kernel keeps the pages of a mapped file when the process is killed. So what was written into one
is lost only together with the machine. A file holds several blocks of one size, because each mapped
file takes a file descriptor.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from jamboree_gym.errors import JamboreeError

__all__ = [
    "FIRST_BYTE",
    "KIND_LOG",
    "KIND_ROWS",
    "KIND_VECTOR",
    "LARGEST_BYTES",
    "LENGTH_WORD",
    "READABLE_VERSIONS",
    "VERSION",
    "Block",
    "LeftBlock",
    "Segments",
    "left_block",
    "private_copy",
    "read_blocks",
]

VERSION = 2
READABLE_VERSIONS = (1, 2)  # version 1 has no blocks of vector environments
KIND_ROWS, KIND_LOG, KIND_VECTOR = 1, 2, 3
_MAGIC = b"JGYMJRNL"
# magic, version, kind, generation, bytes used by a log, bytes of the block
_HEADER = struct.Struct("<8sIIIII")
FIRST_BYTE = 64
# Of the header, counted in words of 4 bytes.
VERSION_WORD, KIND_WORD, GENERATION_WORD, LENGTH_WORD, SIZE_WORD = range(2, 7)
SMALLEST_BYTES = 1 << 14
LARGEST_BYTES = 1 << 20  # larger blocks only for what needs them
FILE_BYTES = 1 << 20
FILES = 16  # when there are more, files become larger
MAX_FREE_BYTES = 16 << 20  # beyond it, files without a block in use are removed

log = logging.getLogger(__name__)


class _File:
    """A mapped file, or plain memory, of blocks of one size; used again and again.

    Attributes:
        content: The memory.
        path: The file; None = plain memory.
    """

    __slots__ = ("__weakref__", "block_bytes", "content", "path")

    def __init__(self, block_bytes: int, blocks: int, path: Path | None) -> None:
        size = block_bytes * blocks
        self.block_bytes = block_bytes
        self.path = path
        self.content = mmap.mmap(-1, size) if path is None else _mapped_file(path, size)

    def starts(self) -> range:
        """Where its blocks begin."""
        return range(0, len(self.content), self.block_bytes)

    def remove(self) -> None:
        """Remove the file; the memory goes with the last reference."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()


def _mapped_file(path: Path, size: int) -> mmap.mmap:
    """A new file of this size, mapped; an OSError leaves no file behind."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        # If no blocks are reserved, a full disk would kill the process when it writes a page.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:  # macOS
            os.write(descriptor, bytes(size))
        return mmap.mmap(descriptor, size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


class Block:
    """A part of a file, as long as somebody refers to it.

    Attributes:
        content: The memory; the first `FIRST_BYTE` bytes are the header.
        words: The same as 32-bit numbers.
        quads: The same as 64-bit numbers.
        size: Bytes in all.
        generation: Tells what is in it from what was there before.
        is_durable: Whether a killed process leaves it to the next one.
    """

    __slots__ = ("__weakref__", "content", "generation", "is_durable", "quads", "size", "words")

    def __init__(self, content: memoryview, *, is_durable: bool) -> None:
        self.content = content
        self.words = content.cast("I")
        self.quads = content.cast("Q")
        self.size = len(content)
        self.is_durable = is_durable
        self.generation = self.words[GENERATION_WORD]


def _write_header(content: memoryview, kind: int) -> None:
    """The generation comes last: before, a new block counts as unused.

    Not in one piece: `pack_into` writes zeros before, and killed then, it would hide how large the
    blocks of the file are.
    """
    content[: len(_MAGIC)] = _MAGIC
    words = content.cast("I")
    words[VERSION_WORD] = VERSION
    words[KIND_WORD] = kind
    words[LENGTH_WORD] = 0
    words[SIZE_WORD] = len(content)
    words[GENERATION_WORD] += 1


def private_copy(block: Block) -> Block:
    """A block of plain memory with the same content: what is written there, nobody else sees."""
    return Block(memoryview(bytearray(block.content)), is_durable=False)


def left_block(path: Path, start: int, size: int) -> Block:
    """A block that another process has left, to write into it.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("r+b") as file:
        content = mmap.mmap(file.fileno(), 0)
    return Block(memoryview(content)[start : start + size], is_durable=True)


class Segments:
    """All blocks of one writer.

    Args:
        stem: Path that their files begin with; None = plain memory.
        on_room: Called when there is room for files again, before the first of them is used.
    """

    def __init__(self, stem: Path | None, on_room: Callable[[], None] = lambda: None) -> None:
        self._stem = stem
        self._on_room = on_room
        self._numbers = count(1)
        self._is_ours = True
        self._free: defaultdict[int, deque[tuple[_File, int]]] = defaultdict(deque)
        self._files: set[_File] = set()
        self._has_said_no = False

    @property
    def is_durable(self) -> bool:
        """Whether all blocks that are in use outlive the process."""
        if self._stem is None or self._has_said_no:
            return False
        return all(file.path is not None for file in list(self._files))

    def block(self, nbytes: int, kind: int = KIND_ROWS) -> Block:
        """A free block with at least that many bytes behind its header."""
        size = SMALLEST_BYTES
        while size < nbytes + FIRST_BYTE:
            size *= 2
        file, start = self._free_place(size)
        content = memoryview(file.content)[start : start + size]
        _write_header(content, kind)
        block = Block(content, is_durable=file.path is not None)
        weakref.finalize(block, self._release, file, start, block.words).atexit = False
        return block

    def _free_place(self, size: int) -> tuple[_File, int]:
        free = self._free[size]
        with suppress(IndexError):
            while True:
                file, start = free.pop()
                if file in self._files:  # another thread may just be removing it
                    return file, start
        was_full = self._has_said_no
        file = self._new_file(size)
        first, *others = file.starts()
        free.extend((file, start) for start in others)
        if was_full and not self._has_said_no:
            self._on_room()
        return file, first

    def _new_file(self, block_bytes: int) -> _File:
        blocks = max(1, FILE_BYTES * max(1, len(self._files) // FILES) // block_bytes)
        file = None
        if self._stem is not None:
            path = self._stem.with_name(f"{self._stem.name}.{next(self._numbers)}")
            try:
                file = _File(block_bytes, blocks, path)
                self._has_said_no = False
            except OSError as error:
                self._say_no(error)
        file = file or _File(block_bytes, 1, None)
        self._files.add(file)
        return file

    def _say_no(self, error: OSError) -> None:
        if not self._has_said_no:
            self._has_said_no = True
            log.warning(
                "no room for the journal in %s (%s): until there is, a process that is killed "
                "loses what it has not delivered",
                self._stem and self._stem.parent,
                error.strerror,
            )

    def _release(self, file: _File, start: int, words: memoryview) -> None:
        """Nobody refers to a block any more. The garbage collector calls it: it waits for nothing.

        What is in it counts no longer.
        """
        if not self._is_ours:
            return
        words[LENGTH_WORD] = 0
        words[GENERATION_WORD] = (words[GENERATION_WORD] + 1) & 0x7FFFFFFF
        self._free[file.block_bytes].append((file, start))
        if self._is_unused(file) and (file.path is None or self._unused_bytes() > MAX_FREE_BYTES):
            self._remove(file)

    def _is_unused(self, file: _File) -> bool:
        """Whether all its places are free; one that `_free_place` has just taken is not."""
        free = list(self._free[file.block_bytes])
        return sum(one is file for one, _ in free) == len(file.starts())

    def _unused_bytes(self) -> int:
        return sum(len(file.content) for file in list(self._files) if self._is_unused(file))

    def _remove(self, file: _File) -> None:
        self._files.discard(file)  # from here on, `_free_place` gives none of its places
        if not self._is_unused(file):  # it has just given one
            self._files.add(file)
            return
        free = self._free[file.block_bytes]
        self._free[file.block_bytes] = deque(place for place in list(free) if place[0] is not file)
        file.remove()

    def remove(self) -> None:
        """Remove all files: everything is delivered.

        Also those that a Ctrl-C has kept from being used.
        """
        if self._is_ours and self._stem is not None:
            for path in self._stem.parent.glob(f"{self._stem.name}.[0-9]*"):
                with suppress(OSError):
                    path.unlink()
        self.leave()

    def leave(self) -> None:
        """Change nothing more: the files are another process's."""
        self._is_ours = False
        self._files.clear()
        self._free.clear()


class LeftBlock(NamedTuple):
    """A block in a file that a dead process has left.

    Attributes:
        start: Where in the file it begins.
        kind: `KIND_ROWS`, `KIND_LOG` or `KIND_VECTOR`.
        generation: Of what is in it.
        used: Bytes that a log has used.
        content: All of it.
    """

    start: int
    kind: int
    generation: int
    used: int
    content: bytes


def read_blocks(path: Path) -> Iterator[LeftBlock]:
    """The blocks of a file. One whose process was killed while it made the header is left out.

    Raises:
        JamboreeError: It is no file of a journal, or one of another version.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    if 0 < len(content) < FIRST_BYTE:
        raise JamboreeError(f"{path}: shorter than a header")
    at, size = 0, SMALLEST_BYTES  # until a block says how large they are
    while at + FIRST_BYTE <= len(content):
        magic, version, kind, generation, used, its_size = _HEADER.unpack_from(content, at)
        if not its_size or not generation:  # unused: all behind its header is 0
            at += size
            continue
        if magic != _MAGIC:
            raise JamboreeError(f"{path}: no file of a journal")
        if version not in READABLE_VERSIONS:
            raise JamboreeError(
                f"{path}: version {version} of the journal; this release reads up to {VERSION}"
            )
        if its_size < FIRST_BYTE or at + its_size > len(content):
            raise JamboreeError(f"{path}: a block beyond its end")
        size = its_size
        yield LeftBlock(at, kind, generation, used, content[at : at + size])
        at += size
