"""The state of one namespace's folder: an index that is as of now, and appends to the segments."""

from __future__ import annotations

import logging
import math
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jamboree_gym.errors import DecodeError
from jamboree_gym.store.folder.errors import gone, translated
from jamboree_gym.store.folder.index import FolderIndex, Place, SegmentName
from jamboree_gym.store.folder.sections import SEGMENT_HEADER, Kind, Section, encode_section
from jamboree_gym.store.folder.segments import SegmentFiles, file_name

__all__ = ["FolderState"]

SEGMENT_BYTES = 64 << 20  # a larger segment grows no more
APPENDED_AT_ONCE = 8 << 20
DEAD_SHARE = 1 / 2  # of a segment that is compacted
COMPACT_AGAIN_S = 60.0  # after there was no space for it
ATTEMPTS = 5  # while others compact

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class FolderState:
    """Reads and writes the folder of one namespace, for one thread at a time.

    Other processes may write to it, too. So each question first takes in what they have appended,
    and each write has the lock of the folder.

    Args:
        root: The folder that the URL names; the last part of its path is made if it is missing.
        name: Of the directory in it.

    Attributes:
        index: What is alive; only valid inside `look` and `writing`.
        root: As given.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.index = FolderIndex()
        self._segments = SegmentFiles(root / name)
        self._lock = threading.RLock()
        self._was_there = False
        self._compact_at = -math.inf  # of `time.monotonic`
        self._reset()

    def _reset(self) -> None:
        """Forget everything; the next question reads all segments."""
        self.index = FolderIndex()
        self._known: list[SegmentName] = []
        self._closed: set[SegmentName] = set()  # they grow no more
        self._bytes: Counter[SegmentName] = Counter()  # of all sections
        self._end = 0  # of the last section in the newest segment
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._unreadable: list[tuple[SegmentName, Section]] = []
        self._is_checked = False

    def close(self) -> None:
        """Close all files."""
        self._segments.files.close()

    # -- reading ----------------------------------------------------------------------------

    def look(self, question: Callable[[FolderIndex], _T]) -> _T:
        """The answer to a question, which may read contents; it may be asked again.

        Raises:
            BackupUnavailable: The folder cannot be read.
        """
        with self._lock, translated(self.root):
            for _ in range(ATTEMPTS):
                try:
                    self._refresh()
                    return question(self.index)
                except FileNotFoundError:  # another process has just compacted this segment
                    self._forget_files()
            raise gone(self.root)

    def content(self, place: Place) -> bytes | None:
        """What is at a place; None if it is damaged. For questions."""
        content = self._segments.files.read(place.segment, place.content_at, place.length)
        is_whole = len(content) == place.length and zlib.crc32(content) == place.crc
        return content if is_whole else None

    def _forget_files(self) -> None:
        self._reset()
        self._segments.files.close()

    def _refresh(self) -> None:
        """Take in what was appended since the last time."""
        names = self._names()
        if names[: len(self._known)] != self._known or self._has_shrunk():
            self._forget_files()
        for name in names[max(len(self._known) - 1, 0) :]:
            self._take_in(name)

    def _names(self) -> list[SegmentName]:
        try:
            names = self._segments.names()
        except FileNotFoundError:
            if self._was_there or not self.root.parent.is_dir():
                raise gone(self.root) from None
            return []
        self._was_there = self._was_there or bool(names)
        return names

    def _has_shrunk(self) -> bool:
        return bool(self._known) and self._segments.size(self._known[-1]) < self._end

    def _take_in(self, name: SegmentName) -> None:
        if not self._known or name != self._known[-1]:
            self._known.append(name)
            self._end = 0
        size = self._segments.size(name)
        if name in self._closed or size < len(SEGMENT_HEADER) or size == self._end:
            return
        found = self._segments.load(name, self._end)
        for section in found.sections:
            self._add(name, section)
        self._end = found.end
        if found.is_closed:
            self._closed.add(name)

    def _add(self, name: SegmentName, section: Section) -> None:
        self._bytes[name] += section.end - section.at
        self.index.add(name, section)

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[FolderIndex]:
        """Write in a block, by `add`; what was added is on disk when the block ends without error.

        Raises:
            BackupUnavailable: The folder cannot be written.
            StoreFull: The disk is full. What was added before may be there.
        """
        with self._lock, translated(self.root):
            try:
                self._make_directory()
                with self._segments.locked():
                    self._refresh()
                    self._take_over()
                    yield self.index
                    self._append_waiting()
                    self._compact_if_due()
            except FileNotFoundError as error:
                self._reset()
                raise gone(self.root) from error
            except BaseException:
                self._reset()
                raise

    def add(self, kind: Kind, about: list[Any], content: bytes = b"") -> None:
        """Add a section, in a block of `writing`."""
        name, encoded = self._known[-1], encode_section(kind, about, content)
        at = self._end + self._waiting_bytes
        content_at = at + len(encoded) - len(content)
        crc = zlib.crc32(content)
        self._add(name, Section(kind, about, at, content_at, len(content), crc))
        self._waiting.append(encoded)
        self._waiting_bytes += len(encoded)
        if self._waiting_bytes > APPENDED_AT_ONCE:
            self._append_waiting()

    def _make_directory(self) -> None:
        if self._was_there and not self._segments.directory.is_dir():
            raise gone(self.root)
        if not self.root.parent.is_dir():
            raise gone(self.root)
        self._segments.directory.mkdir(parents=True, exist_ok=True)

    def _append_waiting(self) -> None:
        content = b"".join(self._waiting)
        if content:
            self._segments.append(self._known[-1], content, self._end)
            self._end += len(content)
            self._waiting, self._waiting_bytes = [], 0

    def _take_over(self) -> None:
        """Make the newest segment ready for an append, whatever its last writer has left."""
        if not self._known:
            self._begin(1)
        elif self._segments.size(self._known[-1]) < len(SEGMENT_HEADER):
            self._segments.create(self._known[-1])  # its writer died while it was made
            self._end = len(SEGMENT_HEADER)
        newest = self._known[-1]
        if not self._is_checked:
            self._segments.remove_leftovers()
            self._leave_out_unreadable(newest)
            self._is_checked = True
        if newest in self._closed:
            self._begin(newest[0] + 1)
        elif not self._segments.is_cut_off(newest, self._end):
            log.warning(
                "the end of %s is damaged, and left as it is; `backup verify` says what is missing",
                self._segments.directory / file_name(newest),
            )
            self._begin(newest[0] + 1)
        elif self._end > SEGMENT_BYTES:
            sections = self._segments.scan(newest, len(SEGMENT_HEADER)).sections
            self._segments.close_segment(newest, sections, self._end)
            self._closed.add(newest)
            self._begin(newest[0] + 1)

    def _begin(self, number: int) -> None:
        name = (number, 0)
        self._segments.create(name)
        self._known.append(name)
        self._end = len(SEGMENT_HEADER)
        self._was_there = True

    def _leave_out_unreadable(self, name: SegmentName) -> None:
        """Leave out of the index what a power cut has damaged: it was never acknowledged.

        So it can be copied again.
        """
        for section in self._segments.scan(name, len(SEGMENT_HEADER)).sections:
            if self.index.is_live(name, section) and not self._is_readable(name, section):
                self._unreadable.append((name, section))
                if section.kind not in (Kind.DELETION, Kind.CLEARING):
                    self.index.drop(section)

    def _is_readable(self, name: SegmentName, section: Section) -> bool:
        place = Place(name, section.at, section.content_at, section.length, section.crc)
        return self.content(place) is not None

    def _compact_if_due(self) -> None:
        """Compact. All that was written is on disk already, so a full disk is no error here."""
        if time.monotonic() < self._compact_at:
            return
        try:
            self._compact()
        except FileNotFoundError:
            raise
        except OSError as error:
            self._compact_at = time.monotonic() + COMPACT_AGAIN_S
            self._segments.remove_leftovers()
            log.warning("what was deleted still takes space in %s: %s", self.root, error)

    def _compact(self) -> None:
        """Write one segment anew of which much is dead."""
        for name in sorted(self._closed):
            if self.index.live_bytes[name] >= self._bytes[name] * (1 - DEAD_SHARE):
                continue
            found = self._segments.scan(name, len(SEGMENT_HEADER))
            if found.damages or not found.is_closed:
                continue  # `damaged` names what is wrong with it
            live = [section for section in found.sections if self.index.is_live(name, section)]
            self._segments.rewrite(name, live)
            self._forget_files()
            return

    # -- checking ---------------------------------------------------------------------------

    def damaged(self) -> dict[str, DecodeError]:
        """What is wrong with the segments, by file and place."""
        found: dict[str, DecodeError] = {}
        for name in self.look(lambda _: list(self._known)):
            found |= self.look(partial(self._all_damages_of, name))
        return found

    def _all_damages_of(self, name: SegmentName, _: FolderIndex) -> dict[str, DecodeError]:
        return dict(self._damages_of(name))

    def _damages_of(self, name: SegmentName) -> Iterator[tuple[str, DecodeError]]:
        if name not in self._known or self._segments.size(name) < len(SEGMENT_HEADER):
            return
        found = self._segments.scan(name, len(SEGMENT_HEADER))
        if not self._segments.header_is_whole(name):
            yield self._damage(name, 0, "the header is damaged")
        for at, end in found.damages:
            yield self._damage(name, at, f"{end - at} bytes are no section, they are damaged")
        for section in found.sections:
            is_wanted = self.index.is_live(name, section)
            if is_wanted and not self._is_readable(name, section):
                yield self._damage(name, section.at, f"the content of {_what(section)} is damaged")
        for segment, section in self._unreadable:
            if segment == name and self.index.lacks(section):
                yield self._damage(name, section.at, f"the content of {_what(section)} is damaged")
        is_newest = name == self._known[-1]
        if found.is_closed and not self._segments.index_is_whole(name):
            yield self._damage(name, found.end, "the index at its end is damaged")
        is_longer = self._segments.size(name) > found.end
        is_growing = is_newest and self._segments.is_cut_off(name, found.end)
        if is_longer and not found.is_closed and not is_growing:
            yield self._damage(name, found.end, "what follows is no section, it is damaged")

    def _damage(self, name: SegmentName, at: int, what: str) -> tuple[str, DecodeError]:
        place = f"{self._segments.directory / file_name(name)} at byte {at}"
        return place, DecodeError(f"{place}: {what}")


def _what(section: Section) -> str:
    about = section.about
    match section.kind:
        case Kind.BATCH:
            return f"the batch of {about[0]} at index {about[2]}"
        case Kind.HEAD:
            return f"the head of {about[0]}"
        case Kind.BLOB:
            return f"the blob {about[0]}"
        case Kind.SETTING:
            return f"the setting {about[0]}"
    return f"a record about {about[0]}"
