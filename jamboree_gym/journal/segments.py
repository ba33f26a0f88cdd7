"""Pieces of memory that outlive the process: mapped files, else plain memory.

The kernel keeps the pages of a mapped file when the process is killed. So what was written into one
is lost only together with the machine.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import weakref
from collections import defaultdict, deque
from contextlib import suppress
from itertools import count
from pathlib import Path

from jamboree_gym.errors import JamboreeError

__all__ = [
    "FIRST_BYTE",
    "KIND_LOG",
    "KIND_ROWS",
    "VERSION",
    "Block",
    "Segments",
    "mapped_block",
    "private_copy",
    "read_segment",
]

VERSION = 1
KIND_ROWS, KIND_LOG = 1, 2
_MAGIC = b"JGYMJRNL"
# magic, version, kind, generation, bytes used by a log
_HEADER = struct.Struct("<8sIIII")
FIRST_BYTE = 64
GENERATION_WORD, LENGTH_WORD = 4, 5  # of the header, counted in words of 4 bytes
SMALLEST_BYTES = 1 << 16
LARGEST_BYTES = 1 << 20  # larger ones only for what needs it
MAX_FREE_BYTES = 16 << 20  # beyond it, what is free is removed

log = logging.getLogger(__name__)


class _Segment:
    """A mapped file, or plain memory; used again and again.

    Attributes:
        content: The memory.
        words: The same as 32-bit numbers.
        path: The file; None = plain memory.
    """

    __slots__ = ("content", "path", "size", "words")

    def __init__(self, content: mmap.mmap, path: Path | None) -> None:
        self.size = len(content)
        self.path = path
        self.content = content
        self.words = memoryview(content).cast("I")

    @classmethod
    def new(cls, size: int, path: Path | None, kind: int) -> _Segment:
        """An empty one."""
        segment = cls(mmap.mmap(-1, size) if path is None else _mapped_file(path, size), path)
        _HEADER.pack_into(segment.content, 0, _MAGIC, VERSION, kind, 1, 0)
        return segment

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
        # Without blocks of its own, a full disk would kill the process when it writes a page.
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
    """A segment as long as somebody refers to it.

    Attributes:
        content: The memory; the first `FIRST_BYTE` bytes are the header.
        words: The same as 32-bit numbers.
        size: Bytes in all.
        generation: Tells what is in it from what was there before.
        is_durable: Whether a killed process leaves it to the next one.
    """

    __slots__ = ("__weakref__", "content", "generation", "is_durable", "size", "words")

    def __init__(self, segment: _Segment) -> None:
        self.content = segment.content
        self.words = segment.words
        self.size = segment.size
        self.generation = segment.words[GENERATION_WORD]
        self.is_durable = segment.path is not None


def private_copy(block: Block) -> Block:
    """A block of plain memory with the same content: what is written there, nobody else sees."""
    content = mmap.mmap(-1, block.size)
    content[:] = block.content[:]
    return Block(_Segment(content, None))


class Segments:
    """All segments of one writer.

    Args:
        stem: Path that their files begin with; None = plain memory.
        where: Directory, for the message that there is no journal.
    """

    def __init__(self, stem: Path | None) -> None:
        self._stem = stem
        self._numbers = count(1)
        self._is_ours = True
        self._free: defaultdict[tuple[int, bool], deque[_Segment]] = defaultdict(deque)
        self._free_bytes = 0
        self._all: set[_Segment] = set()
        self._has_said_no = False

    @property
    def is_durable(self) -> bool:
        """Whether new segments are files."""
        return self._stem is not None and not self._has_said_no

    def block(self, nbytes: int, kind: int = KIND_ROWS) -> Block:
        """A free block with at least so many bytes behind its header."""
        size = SMALLEST_BYTES
        while size < nbytes + FIRST_BYTE:
            size *= 2
        segment = self._reused(size) or self._new(size, kind)
        if segment.words[3] != kind:
            segment.words[3] = kind
        block = Block(segment)
        weakref.finalize(block, self._release, segment).atexit = False
        return block

    def _reused(self, size: int) -> _Segment | None:
        for is_durable in (True, False) if self._stem is not None else (False,):
            with suppress(IndexError):
                segment = self._free[size, is_durable].pop()
                self._free_bytes -= size
                return segment
        return None

    def _new(self, size: int, kind: int) -> _Segment:
        if self._stem is not None:
            path = self._stem.with_name(f"{self._stem.name}.{next(self._numbers)}")
            try:
                segment = _Segment.new(size, path, kind)
            except OSError as error:
                self._say_no(error)
            else:
                self._has_said_no = False
                self._all.add(segment)
                return segment
        return _Segment.new(size, None, kind)

    def _say_no(self, error: OSError) -> None:
        if not self._has_said_no:
            self._has_said_no = True
            log.warning(
                "no room for the journal in %s (%s): until there is, a process that is killed "
                "loses what it has not delivered",
                self._stem and self._stem.parent,
                error.strerror,
            )

    def _release(self, segment: _Segment) -> None:
        """Nobody refers to it any more. Called by the garbage collector: it waits for nothing."""
        if not self._is_ours:
            return
        words = segment.words
        words[LENGTH_WORD] = 0
        words[GENERATION_WORD] = (words[GENERATION_WORD] + 1) & 0xFFFFFFFF
        if self._free_bytes + segment.size > MAX_FREE_BYTES:
            self._all.discard(segment)
            segment.remove()
            return
        self._free_bytes += segment.size
        self._free[segment.size, segment.path is not None].append(segment)

    def remove(self) -> None:
        """Remove all files: everything is delivered.

        Also those that a Ctrl-C has kept from becoming segments.
        """
        if self._is_ours:
            self._is_ours = False
            if self._stem is not None:
                for path in self._stem.parent.glob(f"{self._stem.name}.[0-9]*"):
                    with suppress(OSError):
                        path.unlink()

    def leave(self) -> None:
        """Change nothing more: they are another process's."""
        self._is_ours = False


def mapped_block(path: Path) -> Block:
    """A segment that another process has left, to write into it.

    Raises:
        OSError: It cannot be written.
        ValueError: It is empty.
    """
    with path.open("r+b") as file:
        content = mmap.mmap(file.fileno(), len(file.read()) // 4 * 4)
    return Block(_Segment(content, path))


def read_segment(path: Path) -> tuple[int, int, int, bytes] | None:
    """Kind, generation, bytes used and content of a segment's file.

    None where its process was killed while it made the file, before anything was written there.

    Raises:
        JamboreeError: It is no segment, or one of another version.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    if not content:
        return None
    if len(content) < FIRST_BYTE:
        raise JamboreeError(f"{path}: shorter than a header")
    magic, version, kind, generation, used = _HEADER.unpack_from(content)
    if not generation:  # the header is written from front to back; the first one is 1
        return None
    if magic != _MAGIC:
        raise JamboreeError(f"{path}: no segment of a journal")
    if version != VERSION:
        raise JamboreeError(
            f"{path}: version {version} of the journal; this release reads {VERSION}"
        )
    return kind, generation, used, content
