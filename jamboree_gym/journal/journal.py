"""The journal of a writer: what it has not delivered yet, in files that outlive its process.

The files of a journal stand in one directory and begin with the writer's name. `NAME.lock` says to
which store the journal belongs; its writer holds an exclusive lock on it, so the lock tells the
dead from the living at once.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.journal.entry_log import (
    BLOB,
    SCHEMA,
    EntryLog,
    RecordPlace,
)
from jamboree_gym.journal.restarts import boot_id
from jamboree_gym.journal.row_block import RowLane
from jamboree_gym.journal.segments import VERSION, Block, Segments
from jamboree_gym.journal.vector_block import VectorLane
from jamboree_gym.servers.own_files import check_entry, open_own

if sys.platform != "win32":
    import fcntl

__all__ = [
    "DEAD_SUFFIX",
    "LOCK_SUFFIX",
    "Journal",
    "JournalOwner",
    "file_system_in",
    "file_system_of",
    "is_on_another_machine",
    "mark_delivered",
]

LOCK_SUFFIX = ".lock"
DEAD_SUFFIX = ".dead"  # of a lock whose writer is known to be dead
# Files of other machines: a mapped page may be lost there, or kill the process.
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "afs", "ceph", "lustre", "gfs")
_ESCAPED = re.compile(rb"\\([0-7]{3})")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JournalOwner:
    """Whose a journal is.

    Attributes:
        writer: Name of the writer.
        where: Address of its Redis, without a password.
        database: Its number there.
        namespace: Of the keys.
        version: Of the files.
        is_delivered: Whether Redis has everything: what is left of the files is to be removed.
        boot: Tells from which start of the machine on it was written.
    """

    writer: str
    where: str
    database: int
    namespace: str
    version: int = VERSION
    is_delivered: bool = False
    boot: str = field(default_factory=boot_id)

    @property
    def is_whole(self) -> bool:
        """Whether the machine runs since it was written, so that no page of it is missing."""
        return self.boot == boot_id()

    def is_of(self, other: JournalOwner) -> bool:
        """Whether both write to the same place."""
        mine, others = asdict(self), asdict(other)
        return all(mine[name] == others[name] for name in ("where", "database", "namespace"))


class Journal:
    """What one writer keeps in files until Redis has it.

    Makes no file before something is recorded. Where none can be made, memory takes their place,
    and `is_durable` is false.

    Args:
        directory: Where the files go; None = memory only.
        owner: Whose it is.

    Attributes:
        owner: As given.
    """

    __slots__ = (
        "_blobs",
        "_descriptor",
        "_directory",
        "_in_memory",
        "_kept",
        "_lock",
        "_records",
        "_schema_numbers",
        "_segments",
        "_static",
        "owner",
    )

    def __init__(self, directory: Path | None, owner: JournalOwner) -> None:
        self._directory = directory
        self.owner = owner
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._segments: Segments | None = None
        self._static: EntryLog | None = None
        self._records: EntryLog | None = None
        self._schema_numbers: dict[StepSchema, int] = {}
        self._blobs: set[str] = set()
        self._kept: set[Block] = set()  # of schemas and blobs, as long as the journal
        self._in_memory: list[tuple[int, bytes]] = []  # of these, what has found no room in files

    @property
    def directory(self) -> Path | None:
        """Where the files are."""
        return self._directory

    def is_durable(self) -> bool:
        """Whether what is written now outlives the process."""
        return self._opened().is_durable

    @property
    def after_close(self) -> str:
        """What becomes of what is not delivered when the journal is closed, in words."""
        segments = self._segments
        if segments is None or not segments.is_durable:
            return "It is lost with this process: there is no journal."
        return f"It stays in {self._directory}: the next Jamboree of this store delivers it."

    def _opened(self) -> Segments:
        segments = self._segments
        if segments is None:
            with self._lock:
                segments = self._segments
                if segments is None:
                    stem = self._begin()
                    segments = Segments(stem, self._move_to_files)
                    self._static = EntryLog(segments)
                    self._segments = segments
        return segments

    def _begin(self) -> Path | None:
        """Make the directory and take the lock; the path that all files begin with."""
        directory = self._directory
        if directory is None:
            return None
        try:
            _prepare(directory)
            self._descriptor = _new_lock(directory, self.owner)
        except (OSError, EmbeddedServerError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            log.warning(
                "no journal in %s (%s): a process that is killed loses what it has not delivered, "
                "at most a flush interval",
                directory,
                reason.splitlines()[0],
            )
            return None
        return directory / self.owner.writer

    # -- writing ----------------------------------------------------------------------------

    def lane(self) -> RowLane:
        """Where one recorder writes its rows."""
        return RowLane(self._opened(), self.number_of)

    def vector_lane(self, width: int) -> VectorLane:
        """Where the recorder of that many environments writes what they return together."""
        return VectorLane(self._opened(), width)

    def number_of(self, schema: StepSchema) -> int:
        """The number that rows of this schema have here."""
        number = self._schema_numbers.get(schema)
        if number is None:
            self._opened()
            with self._lock:
                number = self._schema_numbers.get(schema)
                if number is None:
                    number = len(self._schema_numbers)
                    self._keep(SCHEMA, number.to_bytes(4, "little") + schema.blob)
                    self._schema_numbers[schema] = number
        return number

    def keep_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Keep what episodes refer to by digest."""
        if blobs.keys() <= self._blobs:
            return
        self._opened()
        with self._lock:
            for digest, blob in blobs.items():
                if digest not in self._blobs:
                    self._keep(BLOB, digest.encode() + blob)
                    self._blobs.add(digest)

    def _keep(self, kind: int, content: bytes) -> None:
        if self._static is None:
            return
        block = self._static.append(kind, content)
        if block.is_durable:
            self._kept.add(block)
        elif self._directory is not None:
            self._in_memory.append((kind, content))

    def _move_to_files(self) -> None:
        """There is room again: rows that go into files from now on need their schemas there."""
        if self._segments is None:
            return
        self._records = None  # the next record begins a log in a file
        self._static = EntryLog(self._segments)
        waiting, self._in_memory = self._in_memory, []
        for kind, content in waiting:
            self._keep(kind, content)

    def keep_record(self, key: bytes, time_s: float, record: bytes) -> RecordPlace | None:
        """Keep a record of a log; where it is, None without files."""
        records = self._records or self._record_log()
        return None if records is None else records.append_record(key, time_s, record)

    def _record_log(self) -> EntryLog | None:
        if self._directory is None:
            return None
        segments = self._opened()
        with self._lock:
            if self._records is None:
                self._records = EntryLog(segments)
            return self._records

    # -- the end ----------------------------------------------------------------------------

    def close(self, *, keep: bool = False) -> None:
        """End it. With `keep` the files stay, for the next process that opens the store."""
        with self._lock:
            segments, descriptor = self._segments, self._descriptor
            if segments is not None:
                if keep:
                    segments.leave()
                else:
                    if descriptor is not None:
                        mark_delivered(descriptor, self.owner)
                    segments.remove()
            if descriptor is not None:
                if not keep and self._directory is not None:
                    _remove(self._lock_path(self._directory))
                os.close(descriptor)
            self._descriptor = self._static = self._records = None
            self._kept.clear()

    def _lock_path(self, directory: Path) -> Path:
        return directory / f"{self.owner.writer}{LOCK_SUFFIX}"

    def after_fork_in_child(self) -> None:
        """The files stay the parent's."""
        if self._segments is not None:
            self._segments.leave()
        if self._descriptor is not None:
            os.close(self._descriptor)  # the parent's own descriptor keeps the lock
            self._descriptor = None


def mark_delivered(descriptor: int, owner: JournalOwner) -> None:
    """Say in a lock file that Redis has everything. Killed then, nobody reads half a journal."""
    content = json.dumps(asdict(replace(owner, is_delivered=True))).encode()
    with suppress(OSError):
        os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size), 0)  # in one piece


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _prepare(directory: Path) -> None:
    for made in (
        directory.parent,
        directory,
    ):  # the embedded servers want their home for them alone
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_entry(directory)
    if not directory.is_dir() or directory.stat().st_mode & 0o077:
        raise OSError(errno.EPERM, "the directory is open to other users")
    kind = file_system_of(directory)
    if is_on_another_machine(kind):
        raise OSError(errno.EREMOTE, f"it is on another machine: {kind}")


def is_on_another_machine(kind: str) -> bool:
    """Whether a file system of this kind is another machine's."""
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


def file_system_of(directory: Path) -> str:
    """Kind of the file system, as Linux names it; empty where that is not known."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return ""
    return file_system_in(mounts, directory.resolve())


def file_system_in(mounts: bytes, place: Path) -> str:
    """Kind of the file system that a place is on.

    Args:
        mounts: As in `/proc/self/mountinfo`.
        place: Absolute, and without links.
    """
    found, depth = "", -1
    for line in mounts.splitlines():
        mount, _, source = line.partition(b" - ")
        name = _ESCAPED.sub(lambda escaped: bytes([int(escaped[1], 8)]), mount.split(b" ")[4])
        point = Path(os.fsdecode(name))
        if place.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = os.fsdecode(source.split(b" ")[0]), len(point.parts)
    return found


def _new_lock(directory: Path, owner: JournalOwner) -> int:
    """A lock file that is locked before anybody can find it."""
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "Windows has no such locks")
    draft = directory / f"{owner.writer}.new"
    descriptor = open_own(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(owner)).encode())
        draft.rename(directory / f"{owner.writer}{LOCK_SUFFIX}")
    except BaseException:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
        raise
    return descriptor
