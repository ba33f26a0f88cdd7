"""Journals that a dead process has left."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.encoding.row_format import row_format
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.encoding.summary_codec import encode_begun_note
from jamboree_gym.errors import DecodeError, EmbeddedServerError, JamboreeError
from jamboree_gym.journal.entry_log import (
    BLOB,
    RECORD,
    SCHEMA,
    StoredRecord,
    decode_entries,
    decode_record,
)
from jamboree_gym.journal.journal import DEAD_SUFFIX, LOCK_SUFFIX, JournalOwner, mark_delivered
from jamboree_gym.journal.restarts import parts_in_order
from jamboree_gym.journal.row_block import ABANDONED, DROPPED, EXTENT, EXTENT_MAGIC
from jamboree_gym.journal.row_parts import part_of
from jamboree_gym.journal.segments import (
    FIRST_BYTE,
    KIND_LOG,
    KIND_ROWS,
    KIND_VECTOR,
    READABLE_VERSIONS,
    VERSION,
    LeftBlock,
    left_block,
    read_blocks,
)
from jamboree_gym.journal.vector_block import LeftSpan, read_spans
from jamboree_gym.servers.own_files import open_own, read_own

if sys.platform != "win32":
    import fcntl

__all__ = [
    "DeadJournal",
    "LeftEpisode",
    "dead_journals",
    "dead_owners",
    "is_being_delivered",
]

DIGEST_CHARS = 16
_decode_title = msgspec.msgpack.Decoder(tuple[str, str, bytes | None, list[str]]).decode

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class LeftEpisode:
    """What is left of an episode.

    Attributes:
        key: Its log.
        id: Its id.
        note: Summary and origin as they were at the reset, encoded; None if the reset is delivered
            and gone.
        digests: Of the blobs that the origin refers to.
        parts: Rows in order; there may be rows that are delivered, and none before them.
        confirmed: Redis has confirmed the rows below this number.
        is_abandoned: Whether it was abandoned.
    """

    key: str
    id: str
    note: bytes | None = None
    digests: list[str] = field(default_factory=list)
    parts: list[RowPart] = field(default_factory=list)
    confirmed: int = 0
    is_abandoned: bool = False

    @property
    def stop(self) -> int:
        """Number of the row after the last."""
        return max((part.start + part.count for part in self.parts), default=0)


class DeadJournal:
    """The journal of a writer whose process is dead; locked for as long as it is open.

    Args:
        lock_path: Its lock file.
        descriptor: Of the lock.
        owner: Whose it was.
    """

    def __init__(self, lock_path: Path, descriptor: int, owner: JournalOwner) -> None:
        self.owner = owner
        self.blobs: dict[str, bytes] = {}
        self.episodes: dict[str, LeftEpisode] = {}
        self.records: list[StoredRecord] = []
        self._lock_path = lock_path
        self._descriptor = descriptor

    @property
    def files(self) -> list[Path]:
        """All its files, in the order in which they were made."""
        found = self._lock_path.parent.glob(f"{self.owner.writer}.*")
        numbered = [path for path in found if path.suffix[1:].isdigit()]
        return sorted(numbered, key=lambda path: int(path.suffix[1:]))

    @property
    def is_unbroken(self) -> bool:
        """Whether it is for sure as the process left it: the machine was not restarted since."""
        return bool(self.owner.boot) and self.owner.is_whole

    def read(self) -> None:
        """Read all of it.

        Raises:
            JamboreeError: A file is none of a journal, or damaged.
            OSError: It cannot be read.
        """
        try:
            self._read()
        except (JamboreeError, OSError):
            raise
        except Exception as error:
            raise DecodeError(f"it is damaged: {error!r}") from error

    def _read(self) -> None:
        blocks, vector_blocks = [], []
        schemas: dict[int, StepSchema] = {}
        for path in self.files:
            for block in read_blocks(path):
                if block.kind == KIND_ROWS:
                    blocks.append((block.generation, block.content, path))
                elif block.kind == KIND_VECTOR:
                    vector_blocks.append((block.content, block.generation, path))
                elif block.kind == KIND_LOG:
                    self._read_entries(block, schemas, path)
        for generation, content, path in blocks:
            self._read_rows(generation, content, schemas, str(path))
        for content, generation, path in vector_blocks:
            for span in read_spans(content, generation, schemas, str(path)):
                self._add_span(span, content)
        # A block that was used before may lie in front of older ones. Times ascend in each log.
        self.records.sort(key=lambda record: record.time_s)
        for episode in self.episodes.values():
            episode.parts.sort(key=lambda part: (part.start, -part.count))
            if not self.is_unbroken:
                episode.parts = [*parts_in_order(episode.parts)]

    def _read_entries(self, left: LeftBlock, schemas: dict[int, StepSchema], path: Path) -> None:
        block = None
        for kind, at, entry in decode_entries(left.content, left.used):
            if kind == SCHEMA:
                number = int.from_bytes(entry[:4], "little")
                schemas[number] = StepSchema.from_blob(entry[4:], where=str(path)).shared
            elif kind == BLOB:
                self.blobs[entry[:DIGEST_CHARS].decode()] = entry[DIGEST_CHARS:]
            elif kind == RECORD:
                block = block or left_block(path, left.start, len(left.content))
                self.records.append(decode_record(entry, (block, at)))

    def _read_rows(
        self, generation: int, content: bytes, schemas: dict[int, StepSchema], where: str
    ) -> None:
        at = FIRST_BYTE
        while at + EXTENT.size <= len(content):
            extent = EXTENT.unpack_from(content, at)
            magic, count, confirmed, state, of_generation, number, start, title_at, size = extent
            if magic != EXTENT_MAGIC or of_generation != generation or not size:
                return  # the header behind the last extent may be half written
            if number not in schemas:
                raise DecodeError(f"{where}: rows of a schema that is not in the journal")
            first, fixed = at + EXTENT.size, row_format(schemas[number])
            end = first + count * fixed.nbytes
            if end > len(content):
                raise DecodeError(f"{where}: rows beyond its end")
            at = end + -end % 8
            if state == DROPPED:
                continue
            key, id, note, digests = _decode_title(content[title_at : title_at + size])
            episode = self.episodes.setdefault(key, LeftEpisode(key, id))
            if note is not None:
                episode.note, episode.digests = note, digests
            episode.confirmed = max(episode.confirmed, start + confirmed if confirmed else 0)
            episode.is_abandoned |= state == ABANDONED
            if count:
                rows = np.ndarray(count, fixed.dtype, content, first)
                used = {int(one): schemas[int(one)] for one in np.unique(rows["schema"])}
                episode.parts.append(part_of(rows, content, start, used))

    def _add_span(self, span: LeftSpan, content: bytes) -> None:
        if span.state == DROPPED:
            return
        title, begun = span.title, span.title.begun
        episode = self.episodes.setdefault(title.key, LeftEpisode(title.key, title.id))
        if begun is not None:
            episode.note = encode_begun_note(
                begun.env_id,
                span.run,
                span.tags,
                begun.started_at,
                span.vector_index,
                bytes.fromhex(self.owner.writer),
                begun.origin,
            )
            episode.digests = [begun.provenance]
        if span.confirmed:
            episode.confirmed = max(episode.confirmed, span.start + span.confirmed)
        episode.is_abandoned |= span.state == ABANDONED
        schemas = {span.number: span.schema}
        episode.parts.append(part_of(span.rows, content, span.start, schemas))

    def remove(self) -> None:
        """Everything is delivered."""
        mark_delivered(self._descriptor, self.owner)
        for path in [*self.files, self._lock_path]:
            path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave it to the next one."""
        descriptor, self._descriptor = self._descriptor, -1  # closed twice, it may be another's
        if descriptor >= 0:
            os.close(descriptor)


def dead_journals(
    directory: Path, is_wanted: Callable[[JournalOwner], bool]
) -> Iterator[DeadJournal]:
    """Those that nobody holds any more; each is locked until it is closed or removed.

    Args:
        directory: Of the journals.
        is_wanted: Whether to take the journal of this owner.
    """
    for path, owner in _owners(directory):
        descriptor = _taken(path) if is_wanted(owner) else None
        if descriptor is not None:
            dead_path = path.with_suffix(DEAD_SUFFIX)
            path.rename(dead_path)
            yield DeadJournal(dead_path, descriptor, owner)


def is_being_delivered(directory: Path, is_wanted: Callable[[JournalOwner], bool]) -> bool:
    """Whether another process delivers such a dead journal just now."""
    return any(
        path.suffix == DEAD_SUFFIX and is_wanted(owner) for path, owner in _owners(directory)
    )


def dead_owners(directory: Path) -> list[JournalOwner]:
    """The owners of the journals that nobody holds any more."""
    found = []
    for path, owner in _owners(directory):
        descriptor = _taken(path)
        if descriptor is not None:
            os.close(descriptor)
            found.append(owner)
    return found


def _owners(directory: Path) -> Iterator[tuple[Path, JournalOwner]]:
    """All lock files, and whose journals these are."""
    suffixes = (LOCK_SUFFIX, DEAD_SUFFIX)
    for path in sorted(path for path in directory.glob("*.*") if path.suffix in suffixes):
        owner = _owner(path)
        if owner is not None:
            yield path, owner


def _taken(path: Path) -> int | None:
    """A descriptor that holds the lock; None if its writer lives, or another process reads it."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = open_own(path, os.O_RDWR)
    except (OSError, EmbeddedServerError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:  # it is held, or gone
        pass
    os.close(descriptor)
    return None


def _owner(path: Path) -> JournalOwner | None:
    """What a lock file says; None, and a warning, where this release cannot read it."""
    try:
        said = json.loads(read_own(path))
        if said.get("version") in READABLE_VERSIONS:
            bytes.fromhex(said["writer"])  # a name that is none may match files of others
            return JournalOwner(**said)
        why = f"version {said.get('version')}; this release reads up to {VERSION}"
    except FileNotFoundError:  # it was removed meanwhile
        return None
    except (EmbeddedServerError, OSError) as error:
        why = str(error)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        why = repr(error)
    log.warning(
        "%s is left alone (%s): the release of jamboree-gym that wrote it can deliver it", path, why
    )
    return None
