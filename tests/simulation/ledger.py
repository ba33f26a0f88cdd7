"""What was promised to whom, and whether it holds (docs/promises.md).

The ledger sees into both servers. So it knows what an emptied Redis took with it, and excuses just
that: `may_be_lost`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

from cluster_model import ClusterModel
from mongo_model import MongoModel
from redis_model import RedisModel

from jamboree_gym.encoding.batch_format import Head, decode_batch, decode_head, decode_records
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import identity

__all__ = ["Episode", "Found", "Ledger", "Note", "deleted_in_mongo", "in_mongo", "in_redis"]

DELETION_LOST = "its deletion was lost"
UNKNOWN_TO_JOURNAL = "it was deleted or taken off, and its journal may not know"
POP_LOST = "it was taken off, and that was lost"
COMES_AT_THE_END = (DELETION_LOST, UNKNOWN_TO_JOURNAL, POP_LOST)  # of its log, if it is back
Name = tuple[str, str, int]
"""A note: the log, who wrote it, its number."""


@dataclass(eq=False)
class Note:
    """A record that somebody has saved.

    Attributes:
        is_promised: Whether a call has returned that promises it.
        is_in_journal: Whether it outlives its process.
        may_be_lost: Why it may be missing; empty = it may not.
        is_deleted: Whether it must not be seen any more.
    """

    name: Name
    is_promised: bool = False
    is_in_journal: bool = False
    may_be_lost: str = ""
    is_deleted: bool = False


@dataclass(eq=False)
class Episode:
    """An episode that somebody records.

    Attributes:
        rows: How many rows `reset` and `step` have returned.
        has_begun_step: Whether one more may be there.
        status: What it has to be in the end; empty = that is not certain.
        has_lost_status: Whether Redis has lost its newest status, which the backup lacks.
        length: After so many steps it is terminated.
        is_back: Whether Redis has lost that it was deleted, and the backup has not looked yet.
        run: Its run, as far as it is known.
    """

    id: str
    by: str
    length: int = 0
    rows: int = 1
    has_begun_step: bool = False
    is_in_journal: bool = True
    status: str = "running"
    may_be_lost: str = ""
    is_deleted: bool = False
    is_back: bool = False
    has_lost_status: bool = False
    run: str = ""

    def ends(self, status: str) -> None:
        """A call has returned that ends it, and nothing was lost meanwhile."""
        if not (self.may_be_lost or self.has_lost_status):
            self.status = status

    def lose_status(self) -> None:
        """What its status is in the end is not certain."""
        self.status, self.has_lost_status = "", True


@dataclass
class Found:
    """What is in a server, or was read: notes of each log in order; rows and status of episodes."""

    notes: dict[str, list[Name]] = field(default_factory=dict)
    episodes: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[Name]:
        """All notes."""
        return {name for names in self.notes.values() for name in names}


class Ledger:
    """All notes and episodes.

    Attributes:
        violations: Promises that were broken, in words.
        unsynced: Processes whose journals a power cut has met.
        has_unknown_episodes: Whether a process was killed in a reset: it may be there all the same.
        popped: Notes that somebody has taken off their logs.
        were_popped: Logs of which somebody has begun to take notes.
        may_be_twice: Notes of which a first try may have arrived after a later one was refused.
        being_deleted: Logs, once for each deletion that has begun and not ended.
    """

    def __init__(self) -> None:
        self.notes: dict[Name, Note] = {}
        self.episodes: dict[str, Episode] = {}
        self.violations: list[str] = []
        self.unsynced: set[str] = set()
        self.has_unknown_episodes = False
        self.popped: set[Name] = set()
        self.were_popped: set[str] = set()
        self.may_be_twice: set[Name] = set()
        self.being_deleted: list[str] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._evicted_back: set[str] = set()  # came back without a record: all were evicted

    def violated(self, what: str) -> None:
        """A promise was broken."""
        if what not in self.violations:
            self.violations.append(what)

    def begin(self, log: str, by: str) -> Note:
        """Somebody is about to save a note."""
        number = self._numbers[log, by] = self._numbers.get((log, by), 0) + 1
        note = self.notes[log, by, number] = Note((log, by, number))
        return note

    # -- what excuses ----------------------------------------------------------------------------

    def lose(self, names: Iterable[Name], episodes: Iterable[str], why: str) -> None:
        """These may be missing from now on."""
        for name in names:
            if name in self.notes and self.notes[name].may_be_lost not in COMES_AT_THE_END:
                self.notes[name].may_be_lost = why
        for id in episodes:
            if id in self.episodes:
                self.episodes[id].may_be_lost, self.episodes[id].status = why, ""

    def came_back(self) -> set[str]:
        """Logs and episodes of which something is visible again because a deletion was lost."""
        logs = {log for (log, *_), one in self.notes.items() if one.may_be_lost == DELETION_LOST}
        episodes = self.episodes.values()
        return logs | {one.id for one in episodes if one.may_be_lost == DELETION_LOST}

    def come_back(self, found: Found, carried_out: Collection[str]) -> None:
        """What was deleted, and is visible again because the deletion itself was lost.

        An episode whose deletion was carried out in the backup is back until the next copy.
        """
        deleted = {log for (log, *_), note in self.notes.items() if note.is_deleted}
        self._evicted_back |= {log for log in deleted if found.notes.get(log) == []}
        for name in found.names:
            if name in self.notes and self.notes[name].is_deleted:
                self.notes[name].is_deleted = False
                self.notes[name].may_be_lost = DELETION_LOST
        for id in found.episodes:
            if id not in self.episodes or not self.episodes[id].is_deleted:
                continue
            if id in carried_out:
                self.episodes[id].is_back = True
            else:
                self.episodes[id].is_deleted = False
                self.lose((), [id], DELETION_LOST)

    def come_back_late(self, names: Iterable[Name]) -> None:
        """Notes of an append that has come after its log was deleted."""
        for name in names:
            if name in self.notes and self.notes[name].is_deleted:
                self.notes[name].is_deleted = False
                self.notes[name].may_be_lost = DELETION_LOST

    def forget_deletions(self, carried_out: Collection[str]) -> None:
        """Redis alone knew of some deletions: writers without an answer may send these again."""
        for id, episode in self.episodes.items():
            if episode.is_deleted and not episode.is_back and id not in carried_out:
                episode.is_deleted = False
                self.lose((), [id], DELETION_LOST)

    def all_is_copied(self) -> None:
        """A copy has ended: no deletion that the backup has carried out is lost any more."""
        for episode in self.episodes.values():
            episode.is_back = False

    def meet_power_cut(self, journals_of: Collection[str]) -> None:
        """A power cut has met the journals of these processes.

        On the disk they may lack that a note was delivered. So it is delivered again, even if its
        log was deleted meanwhile.
        """
        self.unsynced |= set(journals_of)
        for name in self.deleted_notes():
            if name[1] in journals_of:
                self.notes[name].is_deleted = False
                self.notes[name].may_be_lost = UNKNOWN_TO_JOURNAL

    def process_ends(self, by: str, stored: set[Name]) -> None:
        """A process is dead: what was neither in its journal nor stored is gone."""
        for name, note in self.notes.items():
            is_kept = note.is_in_journal or name in stored
            if name[1] == by and not is_kept and not note.may_be_lost:
                note.may_be_lost = "its process was killed, and it was in no journal"
        for episode in self.episodes.values():
            if episode.by == by and episode.status == "running":
                episode.status = "interrupted"

    # -- what has to hold -------------------------------------------------------------------------

    def check_notes(
        self,
        log: str,
        read: Sequence[Any],
        required: set[Name],
        when: str,
        *,
        deleted: Collection[Name],
    ) -> None:
        """Check what was read of a log; `deleted` are those deleted before the read began."""
        names = [(log, one["by"], one["n"]) for one in read]
        indices = [one["index"] for one in read]
        # A log that has come back lacks the records that its deletion has taken from the backup.
        may_begin_later = log in self.were_popped | self.came_back() | self._evicted_back
        first = indices[0] if indices and may_begin_later else 0
        if indices != list(range(first, first + len(read))):
            self.violated(f"{when}: the indices of {log!r} are {indices}")
        times = [one["timestamp"] for one in read]
        if times != sorted(set(times)):
            self.violated(f"{when}: the times of {log!r} do not ascend")
        seen: set[Name] = set()
        newest: dict[str, int] = {}
        for name in names:
            if name in seen and (name[1] in self.unsynced or name in self.may_be_twice):
                continue  # its journal may lack that it was delivered, and where
            if name in seen:
                self.violated(f"{when}: note {_words(name)} is there twice")
                continue
            seen.add(name)
            if name not in self.notes:
                self.violated(f"{when}: nobody has saved note {_words(name)}")
            elif name in deleted and self.notes[name].is_deleted:
                self.violated(f"{when}: note {_words(name)} was deleted, and is back")
            why = self.notes[name].may_be_lost if name in self.notes else ""
            is_back = why in COMES_AT_THE_END
            is_back |= name in self.popped and name[1] in self.unsynced
            if newest.get(name[1], 0) > name[2] and not is_back:
                self.violated(f"{when}: note {_words(name)} comes after {newest[name[1]]}")
            newest[name[1]] = name[2]
        for name in sorted(required - seen):
            self.violated(f"{when}: note {_words(name)} is missing")

    def pop(self, log: str, read: Sequence[Any], *, may_be_again: bool) -> None:
        """Somebody was given these: nobody else may be, unless Redis has lost that."""
        for one in read:
            name = log, one["by"], one["n"]
            note = self.notes.get(name)
            is_again = name in self.popped and not may_be_again and name[1] not in self.unsynced
            if note is None or (is_again and not note.may_be_lost):
                self.violated(f"note {_words(name)} is taken, and nobody has saved it, or again")
            elif name[1] in self.unsynced:
                note.may_be_lost = UNKNOWN_TO_JOURNAL
            else:
                note.is_deleted = True
            self.popped.add(name)

    def may_forget_pops(self, names: Iterable[Name]) -> None:
        """Redis has lost that these notes were taken off; they may come back.

        From the backup, or from a writer that has heard of no answer, and sends them again.
        """
        for name in self.popped.intersection(self.notes, names):
            if self.notes[name].is_deleted:
                self.notes[name].is_deleted = False
                self.notes[name].may_be_lost = POP_LOST

    def required_notes(self, log: str) -> set[Name]:
        """Notes that have to be there: none where a deletion may just have taken them."""
        if log in self.being_deleted:
            return set()
        return {
            name
            for name, one in self.notes.items()
            if name[0] == log and one.is_promised and not one.may_be_lost and not one.is_deleted
        }

    def deleted_notes(self) -> set[Name]:
        """Whose deletion has ended: a read that begins now must not see them."""
        return {name for name, note in self.notes.items() if note.is_deleted}

    def deleted_episodes(self) -> set[str]:
        """Whose deletion has ended: a read that begins now must not see them."""
        return {id for id, episode in self.episodes.items() if episode.is_deleted}

    def check_rows(
        self, id: str, observed: Sequence[float], when: str, *, deleted: Collection[str]
    ) -> None:
        """Check the rows of an episode; `deleted` are those deleted before the read began."""
        if list(observed) != list(range(len(observed))):
            self.violated(f"{when}: the rows of episode {id[-4:]} are {list(observed)}")
        episode = self.episodes.get(id)
        if episode is None and self.has_unknown_episodes and len(observed) == 1:
            return
        if episode is None:
            self.violated(f"{when}: nobody has recorded episode {id[-4:]}")
            return
        if id in deleted and episode.is_deleted and not episode.is_back:
            self.violated(f"{when}: episode {id[-4:]} was deleted, and is back")
        most = episode.rows + episode.has_begun_step
        if len(observed) > most:
            self.violated(f"{when}: episode {id[-4:]} has {len(observed)} rows, and not {most}")


@lru_cache(20_000)
def _status(note: bytes) -> str:
    return decode_episode_note(note, episode_id="", where="a model")[0].status


def _words(name: Name) -> str:
    return f"{name[2]} of {name[1]} in {name[0]!r}"


# -- what is in the servers ------------------------------------------------------------------


@lru_cache(20_000)
def _names_in(raw: bytes) -> tuple[tuple[int, str, int], ...]:
    records = decode_records(decode_batch(raw, where="a model"), where="a model")
    return tuple((one["index"], one.get("by", ""), one.get("n", 0)) for one in records)


def _notes(log: str, head: Head, batches: Iterable[bytes]) -> Iterator[Name]:
    for raw in batches:
        for index, by, number in _names_in(raw):
            if head.first <= index < head.count:
                yield log, by, number


def _add(found: Found, space: Keyspace, key: str, head: Head, batches: Sequence[bytes]) -> None:
    if space.is_episode(key):
        id = space.episode_id(key)
        found.episodes[id] = head.count
        found.statuses[id] = _status(head.note)
    else:
        log = key.partition("name=")[2].rstrip("}")
        found.notes[log] = list(_notes(log, head, batches))


def in_redis(model: RedisModel | ClusterModel, namespace: str) -> Found:
    """What Redis holds."""
    found, space = Found(), Keyspace(namespace)
    for stored, value in chain(*(part.keyspace.values.items() for part in model.parts)):
        if isinstance(value, list) and value and b"}:" in stored:
            key = space.out_of_bucket(stored.decode())
            _add(found, space, key, decode_head(value[0], where=key), value[1:])
    return found


def deleted_in_mongo(model: MongoModel, database: str, namespace: str) -> set[str]:
    """Episodes that MongoDB has been told to forget."""
    space, logs = Keyspace(namespace), model.documents(database, "deleted")
    keys = {log.rpartition("#")[0] for log in logs}
    return {space.episode_id(key) for key in keys if space.is_episode(key)}


def in_mongo(model: MongoModel, database: str, namespace: str) -> Found:
    """What MongoDB holds and has not been told to forget."""
    found, space = Found(), Keyspace(namespace)
    deleted = model.documents(database, "deleted")
    chunks: dict[str, list[bytes]] = {}
    for id, document in sorted(model.documents(database, "chunks").items()):
        chunks.setdefault(id.rsplit("#", 2)[0], []).append(document["content"])
    entries = [one | {"key": id} for id, one in model.documents(database, "logs").items()]
    bundled = model.documents(database, "bundles").values()
    entries += [entry for one in bundled for entry in one["logs"]]
    for entry in entries:
        key, log = entry["key"], identity(entry["key"], entry["born"])
        if log not in deleted:
            head = decode_head(entry["head"], where=key)
            _add(found, space, key, head, [*entry.get("frames", ()), *chunks.get(log, ())])
    return found
