"""What is alive in a folder, and where: built from the sections of all segments, in their order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import Any, NamedTuple

from jamboree_gym.store.folder.sections import Kind, Section

__all__ = ["FolderIndex", "IndexedLog", "Place", "Span"]

Span = tuple[int, int, float, float]
"""Start, stop, first and last time of a batch."""

SegmentName = tuple[int, int]
"""Number of a segment, and how often it was compacted."""


class Place(NamedTuple):
    """Where a section is; `content_at` and `length` say where its content is."""

    segment: SegmentName
    at: int
    content_at: int
    length: int
    crc: int


class IndexedLog:
    """A log in the folder.

    Attributes:
        head: Where its newest head is; None while only batches have arrived.
        run: Of an episode.
        revision: That of the head; -1 without one.
        count: Number of records that the head counts.
        fence: As in `Copied`.
        batches: Where each batch is, by its start, with its span.
    """

    __slots__ = ("batches", "count", "fence", "head", "revision", "run")

    def __init__(self) -> None:
        self.head: Place | None = None
        self.run: str | None = None
        self.revision = -1
        self.count = self.fence = 0
        self.batches: dict[int, tuple[Place, Span]] = {}

    def starts(self, start: int, stop: int) -> list[int]:
        """Starts of the batches that begin in a range, in order."""
        return sorted(one for one in self.batches if start <= one < stop)

    def counted(self) -> list[int]:
        """Starts of the batches that the head counts, in order."""
        return self.starts(0, self.count)

    @property
    def length(self) -> int:
        """Bytes of all batches."""
        return sum(place.length for place, _ in self.batches.values())


class FolderIndex:
    """Logs, blobs, settings and deletions of one namespace.

    Attributes:
        logs: By key and birth.
        births: Of the logs that have a head, by key.
        deleted: Keys and births of deleted logs.
        blobs, settings: Places of their content, by name.
        live_bytes: Bytes of the sections that are alive, by segment.
    """

    def __init__(self) -> None:
        self.logs: dict[tuple[str, float], IndexedLog] = {}
        self.births: dict[str, float] = {}
        self.deleted: set[tuple[str, float]] = set()
        self.blobs: dict[str, Place] = {}
        self.settings: dict[str, Place] = {}
        self.live_bytes: Counter[SegmentName] = Counter()
        self._sorted_keys: list[str] = []
        self._are_sorted = True

    def add(self, segment: SegmentName, section: Section) -> None:
        """Take in a section that follows all others."""
        place = Place(segment, section.at, section.content_at, section.length, section.crc)
        about = section.about
        if section.kind in (Kind.HEAD, Kind.BATCH):
            if (about[0], about[1]) in self.deleted:
                return
            added = self._add_head if section.kind == Kind.HEAD else self._add_batch
            added(place, *about)
        elif section.kind in (Kind.BLOB, Kind.SETTING):
            named = self._named(section)
            self._forget(named.get(about[0]))
            named[about[0]] = place
        elif section.kind == Kind.DELETION:
            self._delete(about[0], about[1])
        elif section.kind == Kind.CLEARING:
            self._clear(*about)
        self.live_bytes[segment] += section.end - section.at

    def is_live(self, segment: SegmentName, section: Section) -> bool:
        """Whether a compaction has to keep a section. What deletes is always kept."""
        about = section.about
        if section.kind == Kind.INDEX:
            return False
        if section.kind in (Kind.DELETION, Kind.CLEARING):
            return True
        if section.kind in (Kind.HEAD, Kind.BATCH):
            log = self.logs.get((about[0], about[1]))
            if log is None:
                return False
            batch = log.batches.get(about[2]) if section.kind == Kind.BATCH else None
            place = log.head if section.kind == Kind.HEAD else batch and batch[0]
        else:
            place = self._named(section).get(about[0])
        return place is not None and (place.segment, place.at) == (segment, section.at)

    def log(self, key: str) -> tuple[float, IndexedLog] | None:
        """The log of a key that has a head, and its birth."""
        born = self.births.get(key)
        return None if born is None else (born, self.logs[key, born])

    def sorted_keys(self) -> list[str]:
        """Keys of all logs that have a head. Do not change the list."""
        if not self._are_sorted:
            self._sorted_keys, self._are_sorted = sorted(self.births), True
        return self._sorted_keys

    def keys_between(self, first: str, last: str) -> list[str]:
        """Sorted keys of logs that have a head, both ends included."""
        keys = self.sorted_keys()
        return keys[bisect_left(keys, first) : bisect_right(keys, last)]

    def drop(self, section: Section) -> None:
        """Leave out a head, batch, blob or setting that is damaged, so that it can come again."""
        about = section.about
        if section.kind in (Kind.HEAD, Kind.BATCH):
            log = self.logs[about[0], about[1]]
            if section.kind == Kind.BATCH:
                self._forget(log.batches.pop(about[2])[0])
                return
            self._forget(log.head)
            log.head, log.revision, log.count = None, -1, 0
            del self.births[about[0]]
            self._are_sorted = False
        else:
            self._forget(self._named(section).pop(about[0]))

    def lacks(self, section: Section) -> bool:
        """Whether nothing has taken the place of a section that was dropped."""
        about = section.about
        if section.kind in (Kind.HEAD, Kind.BATCH):
            log = self.logs.get((about[0], about[1]))
            if log is None:
                return False
            return log.head is None if section.kind == Kind.HEAD else about[2] not in log.batches
        return about[0] not in self._named(section)

    def _named(self, section: Section) -> dict[str, Place]:
        """Blobs or settings, of which a section is one."""
        return self.blobs if section.kind == Kind.BLOB else self.settings

    def _log_of(self, key: str, born: float) -> IndexedLog:
        log = self.logs.get((key, born))
        if log is None:
            log = self.logs[key, born] = IndexedLog()
        return log

    def _add_head(
        self, place: Place, key: str, born: float, run: str | None, revision: int, count: int
    ) -> None:
        log = self._log_of(key, born)
        self._forget(log.head)
        log.head, log.run, log.revision, log.count = place, run, revision, count
        if key not in self.births:
            self._are_sorted = False
        self.births[key] = born

    def _add_batch(self, place: Place, key: str, born: float, start: int, *rest: Any) -> None:
        log = self._log_of(key, born)
        before = log.batches.get(start)
        self._forget(before and before[0])
        stop, t_first, t_last = rest
        log.batches[start] = place, (start, stop, t_first, t_last)

    def _delete(self, key: str, born: float) -> None:
        self.deleted.add((key, born))
        log = self.logs.pop((key, born), None)
        if log is not None:
            self._forget(log.head)
            for place, _ in log.batches.values():
                self._forget(place)
        if self.births.get(key) == born:
            del self.births[key]
            self._are_sorted = False

    def _clear(self, key: str, born: float, first: int) -> None:
        log = self.logs.get((key, born))
        if log is None:
            return
        log.fence += 1
        for start in log.starts(first, 2**63):
            self._forget(log.batches.pop(start)[0])
        if log.head is None and not log.batches:
            del self.logs[key, born]

    def _forget(self, place: Place | None) -> None:
        """A section is not alive any more."""
        if place is not None:
            self.live_bytes[place.segment] -= place.content_at + place.length - place.at
