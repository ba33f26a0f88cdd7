"""Records that go into a backup and come out of it; frozen, without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from jamboree_gym.encoding.batch_format import Head

__all__ = [
    "ANOTHER_LOG",
    "MAX_INLINE_BYTES",
    "Copied",
    "GrownLog",
    "Inserted",
    "NewLog",
    "StoredBatch",
    "StoredLog",
    "is_other_head",
]

ANOTHER_LOG = "another log of the same name"
MAX_INLINE_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True, eq=False)
class NewLog:
    """A log that is copied for the first time, with all its batches; only episodes have a run."""

    head: Head
    batches: Sequence[bytes]
    run: str | None = None
    has_ended: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class GrownLog:
    """A log to which records from `since` on have been added; only episodes have a run.

    A head of the revision `instead_of` may be replaced, also if that is newer. `fence` is that of
    `Copied`, asked for before the records were inserted.
    """

    head: Head
    since: int
    run: str | None = None
    instead_of: int = -1
    fence: int = 0

    def may_replace(self, revision: int) -> bool:
        """Whether this head takes the place of one of a revision."""
        return revision < self.head.revision if self.instead_of < 0 else revision == self.instead_of


@dataclass(frozen=True, slots=True, eq=False)
class StoredLog:
    """A log in the backup; `batches` are those that come with it, from the first on.

    The others are read one by one (`BackupStore.batches_from`).
    """

    head: Head
    batches: Sequence[bytes]


@dataclass(frozen=True, slots=True, eq=False)
class StoredBatch:
    """A batch in the backup, and the index of its first record; `blob` is None if it is damaged."""

    start: int
    blob: bytes | None


class Copied(NamedTuple):
    """How far a log is copied: its birth, and the number of its records.

    `fence` is how often batches that no head counted were removed. A head is refused if its batches
    may have been removed since it was read.
    """

    born: float
    records: int
    fence: int = 0


class Inserted(NamedTuple):
    """What of new logs was there already; these are not changed.

    `refused` are logs of which the backup holds something else, each with the difference;
    `of_other_length` are those of which it holds fewer records, or more, or some that are stored
    apart, or a newer head: they must be compared.
    """

    refused: dict[str, str]
    of_other_length: set[str]


def is_other_head(stored: Head, head: Head) -> bool:
    """Whether the backup has a head that is not older, and says something else of the log.

    A failover has lost that one in Redis, or somebody else was faster.
    """
    content = attrgetter("born", "first", "count", "t_last", "note")
    return stored.revision >= head.revision and bool(content(stored) != content(head))
