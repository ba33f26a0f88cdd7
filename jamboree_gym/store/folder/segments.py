"""The files of a folder: finds them, reads, appends, closes a full one, and compacts."""

from __future__ import annotations

import os
import platform
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.folder.index import SegmentName
from jamboree_gym.store.folder.sections import (
    FORMAT_VERSION,
    SEGMENT_HEADER,
    Damage,
    Kind,
    Section,
    check_segment_header,
    encode_index,
    index_at,
    indexed_sections,
    is_cut_off,
    scan,
)

__all__ = ["Contents", "OpenFiles", "SegmentFiles", "file_name"]

LOCK_TIMEOUT_S = 10.0
LOCK_POLL_S = 0.005
OPEN_FILES = 16
_NAME = re.compile(r"(\d{8})\.(\d{4})\.segment")
_LOCK, _WRITER = "writer.lock", "writer"


class Contents(NamedTuple):
    """Sections of a segment from a place on, where they end, and whether it grows no more."""

    sections: list[Section]
    damages: list[Damage]
    end: int
    is_closed: bool


class OpenFiles:
    """Keeps the files that were read last open. Reads do not depend on each other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._opened: OrderedDict[SegmentName, int] = OrderedDict()

    def read(self, name: SegmentName, at: int, length: int) -> bytes:
        """Bytes of a segment, fewer at its end; raises `FileNotFoundError` if it is gone."""
        with self._lock:
            file = self._opened.pop(name, None)
            if file is None:
                flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
                file = os.open(self._directory / file_name(name), flags)
            self._opened[name] = file
            if len(self._opened) > OPEN_FILES:
                os.close(self._opened.popitem(last=False)[1])
            return _read_at(file, at, length)

    def close(self) -> None:
        """Close all."""
        with self._lock:
            while self._opened:
                os.close(self._opened.popitem()[1])


def _read_at(file: int, at: int, length: int) -> bytes:
    parts = []
    while length > 0:
        if hasattr(os, "pread"):
            part = os.pread(file, length, at)
        else:
            os.lseek(file, at, os.SEEK_SET)
            part = os.read(file, length)
        if not part:
            break
        parts.append(part)
        at, length = at + len(part), length - len(part)
    return b"".join(parts)


def file_name(name: SegmentName) -> str:
    """Name of a segment's file."""
    return f"{name[0]:08d}.{name[1]:04d}.segment"


class SegmentFiles:
    """The segments of one namespace, as files in a directory.

    Its methods raise `OSError`; what they mean is for the caller.

    Attributes:
        directory: Where they are.
        files: Reads them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = OpenFiles(directory)

    def names(self) -> list[SegmentName]:
        """Of all segments, in order; of each number only the one that was compacted last."""
        newest: dict[int, int] = {}
        for number, edition in self._all_names():
            newest[number] = max(edition, newest.get(number, 0))
        return sorted(newest.items())

    def _all_names(self) -> Iterator[SegmentName]:
        for name in os.listdir(self.directory):
            if found := _NAME.fullmatch(name):
                yield int(found[1]), int(found[2])

    def size(self, name: SegmentName) -> int:
        """Bytes of a segment."""
        return os.stat(self.directory / file_name(name)).st_size

    def load(self, name: SegmentName, start: int) -> Contents:
        """The sections of a segment from a place on; from 0 on, its index is used if it has one.

        Raises:
            BackupUnavailable: Another release wrote it.
        """
        size = self.size(name)
        if start == 0:
            self._check_version(name)
            at = index_at(self._reader(name), size)
            sections = None if at is None else indexed_sections(self._reader(name), at, size)
            if sections is not None:
                return Contents(sections, [], size, is_closed=True)
        return self.scan(name, max(start, len(SEGMENT_HEADER)))

    def index_is_whole(self, name: SegmentName) -> bool:
        """Whether the index of a segment that grows no more can be read."""
        size = self.size(name)
        at = index_at(self._reader(name), size)
        return at is not None and indexed_sections(self._reader(name), at, size) is not None

    def header_is_whole(self, name: SegmentName) -> bool:
        """Whether the first bytes of a segment are those of one."""
        header = self.files.read(name, 0, len(SEGMENT_HEADER))
        return check_segment_header(header) is not None

    def is_cut_off(self, name: SegmentName, at: int) -> bool:
        """Whether what follows the last section is the beginning of one, or nothing."""
        size = self.size(name)
        return size <= at or is_cut_off(self._reader(name), at, size)

    def scan(self, name: SegmentName, start: int) -> Contents:
        """The sections of a segment from a place on, without a look at its index."""
        sections, damages, end, is_closed = list[Section](), list[Damage](), start, False
        for found in scan(self._reader(name), start, self.size(name)):
            end = found.end
            if isinstance(found, Damage):
                damages.append(found)
            elif found.kind == Kind.INDEX:
                is_closed = True
            else:
                sections.append(found)
        return Contents(sections, damages, end, is_closed)

    def _reader(self, name: SegmentName) -> Callable[[int, int], bytes]:
        return lambda at, length: self.files.read(name, at, length)

    def _check_version(self, name: SegmentName) -> None:
        version = check_segment_header(self.files.read(name, 0, len(SEGMENT_HEADER)))
        if version not in (None, FORMAT_VERSION):
            raise BackupUnavailable(
                f"{self.directory / file_name(name)} is of format version {version}, and this "
                f"release reads {FORMAT_VERSION}: upgrade jamboree-gym, or name another folder"
            )

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers out, also those of other processes.

        Raises:
            BackupUnavailable: Another one writes, for longer than `LOCK_TIMEOUT_S`.
        """
        from filelock import FileLock, Timeout  # here: it takes a while to load

        lock = FileLock(self.directory / _LOCK, thread_local=False)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S, poll_interval=LOCK_POLL_S)
        except Timeout as error:
            raise BackupUnavailable(
                f"the folder {self.directory} is being written by {self._writer()}, for more than "
                f"{LOCK_TIMEOUT_S:.3g} s: wait until it is done, or end that process"
            ) from error
        except NotImplementedError as error:
            raise BackupUnavailable(
                f"the folder {self.directory} is on a disk without file locks: use another one"
            ) from error
        try:
            (self.directory / _WRITER).write_text(f"{platform.node()} {os.getpid()}\n")
            yield
        finally:
            lock.release()

    def _writer(self) -> str:
        with suppress(OSError, ValueError):
            node, pid = (self.directory / _WRITER).read_text().split()
            return f"process {pid} on {node}"
        return "another process"

    def create(self, name: SegmentName) -> None:
        """Make a new segment, durably; one of which only a part was made is made anew."""
        path = self.directory / file_name(name)
        with open(path, "wb") as file:
            file.write(SEGMENT_HEADER)
            file.flush()
            os.fsync(file.fileno())
        self._sync_directory()

    def append(self, name: SegmentName, content: bytes, at: int) -> None:
        """Append to a segment which has so many bytes, durably; or leave it as it was."""
        flags = os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.open(self.directory / file_name(name), flags)
        try:
            os.ftruncate(file, at)  # what a dead writer has left
            os.lseek(file, at, os.SEEK_SET)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(file, view) :]
                os.fsync(file)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(file, at)
                raise
        finally:
            os.close(file)

    def close_segment(self, name: SegmentName, sections: list[Section], at: int) -> None:
        """Append the index to a segment, which then grows no more."""
        self.append(name, encode_index(sections, at), at)

    def rewrite(self, name: SegmentName, sections: list[Section]) -> SegmentName:
        """Write a segment anew with these sections alone, and remove the old one.

        If the process is killed midway, either the old one counts, or both are there and the new
        one counts.
        """
        new = name[0], name[1] + 1
        path = self.directory / file_name(new)
        aside = path.with_suffix(".part")
        kept, at = list[Section](), len(SEGMENT_HEADER)
        with open(aside, "wb") as file:
            file.write(SEGMENT_HEADER)
            for section in sections:
                file.write(self.files.read(name, section.at, section.end - section.at))
                moved = section._replace(at=at, content_at=at + section.content_at - section.at)
                kept.append(moved)
                at = moved.end
            file.write(encode_index(kept, at))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        self._sync_directory()
        self.remove_leftovers()
        return new

    def remove_leftovers(self) -> None:
        """Remove what a compaction has replaced, and what a killed one has left."""
        newest = set(self.names())
        for name in set(self._all_names()) - newest:
            (self.directory / file_name(name)).unlink(missing_ok=True)
        for path in self.directory.glob("*.part"):
            path.unlink(missing_ok=True)

    def _sync_directory(self) -> None:
        if hasattr(os, "O_DIRECTORY"):
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
