"""Delivers what a killed process has left in its journal.

The embedded supervisor does so as soon as a client dies, and every process that opens the store
does so before it reads. Nothing comes twice: rows have numbers, and what Redis has it is not sent.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from jamboree_gym.connection import Connection
from jamboree_gym.delivery.outbox import RecordOutbox
from jamboree_gym.delivery.row_writer import ROW_OVERHEAD_BYTES, rows_per_batch
from jamboree_gym.encoding.batch_format import Batch, raw_records, times_of
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.encoding.summary_codec import decode_episode_note, encode_origin
from jamboree_gym.errors import (
    EpisodeInUse,
    EpisodeNotFound,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.journal.dead import (
    DeadJournal,
    LeftEpisode,
    dead_journals,
    dead_owners,
    is_being_delivered,
)
from jamboree_gym.journal.entry_log import RecordPlace, StoredRecord
from jamboree_gym.journal.journal import JournalOwner
from jamboree_gym.recording.part_appends import appends_of
from jamboree_gym.records import EpisodeStatus
from jamboree_gym.servers.journal_delivery import JOURNAL_DIRECTORY
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.log import Append, AppendResult, LogSlice

__all__ = ["deliver_dead_journals"]

OTHERS_S = 10.0  # so long it waits for another process that delivers
LOOK_S = 0.01
TRIES = 5  # the last append of the dead process may still arrive

log = logging.getLogger(__name__)


def deliver_dead_journals(connection: Connection, *, is_restarted: bool = False) -> int:
    """Deliver the journals of dead processes that wrote to the same place.

    What cannot be delivered now stays for the next one who opens the store, and a warning says so.
    While another process delivers, it waits for that.

    Args:
        connection: To that place.
        is_restarted: Deliver also what was left before the machine was restarted, as far as it is
            in order.

    Returns:
        How many journals were delivered.
    """
    directory = connection.journal_directory
    if directory is None or not os.access(directory, os.R_OK | os.X_OK):
        return 0
    failed: set[str] = set()
    delivered = 0

    def is_wanted(owner: JournalOwner) -> bool:
        if owner.writer in failed or not connection.journal.owner.is_of(owner):
            return False
        if is_restarted or owner.is_whole or owner.is_delivered:
            return True
        _leave(connection, owner)
        failed.add(owner.writer)
        return False

    deadline = time.monotonic() + OTHERS_S
    while True:
        for journal in dead_journals(directory, is_wanted):
            if _deliver(connection, journal):
                delivered += 1
            else:
                failed.add(journal.owner.writer)
        if not is_being_delivered(directory, is_wanted) or time.monotonic() > deadline:
            return delivered
        time.sleep(LOOK_S)


def _leave(connection: Connection, owner: JournalOwner) -> None:
    """Say why a journal is not delivered, and how it would be."""
    directory = connection.journal_directory
    url = "" if connection.opened.redis_url is None else " --redis-url URL"
    log.warning(
        "the machine was restarted since writer %s left its journal: after a power cut, rows of it "
        "may be damaged, so it is not delivered.\nAfter a clean restart, deliver it: python -m "
        "jamboree_gym.recording.recovery --restarted --home %s%s; else delete %s.*",
        owner.writer,
        directory and directory.parent,
        url,
        directory and directory / owner.writer,
    )


def _deliver(connection: Connection, journal: DeadJournal) -> bool:
    """Deliver and remove a journal; False, and a warning, if that is not possible."""
    try:
        if not journal.owner.is_delivered:
            journal.read()
            _Recovery(connection, journal).run()
        journal.remove()
    except (JamboreeError, OSError, msgspec.MsgspecError) as error:
        log.warning(
            "the journal of writer %s in %s could not be delivered, and stays there: %s",
            journal.owner.writer,
            connection.journal_directory,
            error,
        )
        return False
    finally:
        journal.close()
    return True


class _Recovery:
    def __init__(self, connection: Connection, journal: DeadJournal) -> None:
        self._connection = connection
        self._journal = journal
        self._writer = bytes.fromhex(journal.owner.writer)
        self._failures: list[str] = []

    def run(self) -> None:
        """Deliver all of it; then the writer counts as dead.

        Raises:
            JamboreeError: Some of it cannot be delivered now; the rest is delivered.
        """
        for episode in self._journal.episodes.values():
            self._try(episode.key, partial(self._deliver, episode))
        by_key: dict[str, list[StoredRecord]] = {}
        for record in self._journal.records:
            by_key.setdefault(record.key, []).append(record)
        for key, records in by_key.items():
            self._try(key, partial(self._deliver_records, key, records))
        if self._failures:
            raise JamboreeError("; ".join(self._failures))
        self._connection.store.leases.drop(self._journal.owner.writer)

    def _try(self, key: str, deliver: Callable[[], None]) -> None:
        """What one log cannot take, does not keep the others from being delivered."""
        try:
            deliver()
        except BackupUnavailable as error:  # logs that are in Redis can do without it
            self._failures.append(f"{key}: {error}")
        except (StoreFull, StoreUnavailable):
            raise
        except EpisodeNotFound as error:  # it was deleted, or Redis was emptied: that stays so
            log.error("%s: what a dead process has left of it cannot be delivered: %s", key, error)
        except JamboreeError as error:
            self._failures.append(f"{key}: {error}")
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            self._failures.append(f"{key}: what is left of it is damaged: {error!r}")

    # -- episodes ---------------------------------------------------------------------------

    def _deliver(self, episode: LeftEpisode) -> None:
        for _ in range(TRIES):
            if self._deliver_once(episode):
                return
        raise EpisodeInUse("somebody else writes to it")

    def _deliver_once(self, episode: LeftEpisode) -> bool:
        """Whether the log is as the dead process has left it."""
        store = self._connection.store
        head = store.redis.head(episode.key)
        if head is None and (episode.confirmed or not self._journal.is_unbroken):
            head = store.head(episode.key)  # after a power cut, it may know more of the end
        note = episode.note if head is None else head.note
        start = 0 if head is None else head.count
        if note is None or (head is None and episode.confirmed):
            if episode.confirmed == episode.stop:
                return True
            raise EpisodeNotFound(
                f"its first {episode.confirmed} rows are no longer in Redis, so the other "
                f"{episode.stop - episode.confirmed} cannot be added"
            )
        known, origin = decode_episode_note(note, episode_id=episode.id, where=episode.key)
        if known.status != "running":
            return True
        parts = list(_continued(episode.parts, start))
        status: EpisodeStatus = parts[-1].status if parts else "running"
        if status == "running" and episode.is_abandoned:
            status = "abandoned"
        if not parts and status == "running":
            return True
        blobs = {name: self._journal.blobs[name] for name in episode.digests}
        for append in appends_of(
            episode.key, parts, known, origin=encode_origin(origin), blobs=blobs, status=status
        ):
            result = self._append(append)
            if result.is_deleted:
                log.info("%s was deleted: what a dead process left is not delivered", episode.key)
                return True
            if result.stored < len(append.batches) or result.count != append.after:
                return False
        return True

    # -- records ----------------------------------------------------------------------------

    def _deliver_records(self, key: str, records: Sequence[StoredRecord]) -> None:
        waiting = [record for record in records if not record.is_confirmed]
        waiting = self._unsent(key, waiting)
        if not waiting:
            return
        head = self._connection.store.head(key)
        times = iter([record.time_s for record in waiting])
        places = iter([record.place for record in waiting])  # who is killed here is followed, too
        outbox = RecordOutbox(
            key,
            self._writer,
            lambda _: math.inf,
            clock=lambda: next(times),
            keep_record=lambda key, time_s, record: next(places),
            run=self._connection.keyspace.run_of(key),
            # The journal keeps the index: it must not be that of another record of this writer.
            start=0 if head is None else head.count,
        )
        # What was never sent cannot have been deleted with what was.
        for was_sent, some in groupby(waiting, lambda record: record.planned_index is not None):
            for record in some:
                outbox.append(record.record)
            outbox.seal()
            while append := outbox.next_append():
                outbox.settle(self._append(replace(append, may_predate_epoch=was_sent)))

    def _append(self, append: Append) -> AppendResult:
        """The dead process may have stored it, and somebody may have deleted it then."""
        (result,) = self._connection.append_whole([replace(append, is_repeated=True)])
        return result

    def _unsent(self, key: str, records: Sequence[StoredRecord]) -> list[StoredRecord]:
        """Those that have not arrived, although nobody heard of it.

        What was never sent has not, and the journal says what was; but not after a power cut.
        """
        doubtful = [
            one for one in records if one.planned_index is not None or not self._journal.is_unbroken
        ]
        arrived = self._arrived(key, doubtful) if doubtful else set()
        return [one for one in records if one.place not in arrived]

    def _arrived(self, key: str, records: Sequence[StoredRecord]) -> set[RecordPlace]:
        """Those that are stored.

        The index tells, with which a record was sent last. If Redis was emptied since, an older
        record of this writer may have had it: that one has other content, or an earlier time, as
        times only move forward. Or a copy has moved it: then it has its time and content still. Its
        time alone does not tell, because one that was moved behind those of others may have got the
        same.

        Raises:
            BackupUnavailable: One that was sent is not in Redis, so the backup has to say it.
        """
        store = self._connection.store
        planned = [one.planned_index for one in records if one.planned_index is not None]
        times = [one.time_s for one in records]
        reads: list[tuple[Any, ...]] = [("between", repr(min(times)), repr(max(times)), 0)]
        found = [store.select(key, *reads[0])]
        if planned:
            span = min(planned), max(planned) + 1
            reads.append(("range", *span))
            found.append(store.select(key, "range", *span))
            found.append(store.redis.reader.read(key, "rest", *span))  # if they were taken off
        arrived = self._among(records, found)
        if any(one.planned_index is not None and one.place not in arrived for one in records):
            arrived |= self._among(records, [store.in_backup(key, *how) for how in reads])
        return arrived

    def _among(
        self, records: Sequence[StoredRecord], found: Iterable[LogSlice | None]
    ) -> set[RecordPlace]:
        """Those that are among what was read."""
        indices: dict[int | None, tuple[float, bytes]] = {}
        contents: set[tuple[float, bytes]] = set()
        for batch in self._own(found):
            stored = [*zip(times_of(batch), raw_records(batch), strict=True)]
            indices.update(enumerate(stored, batch.start))
            contents.update(stored)

        def is_at_its_index(one: StoredRecord) -> bool:
            stored_at, record = indices.get(one.planned_index, (-math.inf, b""))
            return record == one.record and stored_at >= one.time_s

        return {
            one.place
            for one in records
            if (one.time_s, one.record) in contents or is_at_its_index(one)
        }

    def _own(self, found: Iterable[LogSlice | None]) -> list[Batch]:
        """The batches that the dead process has sent."""
        batches = [batch for one in found if one is not None for batch in one.batches]
        return [batch for batch in batches if batch.writer == self._writer]


def _continued(parts: Sequence[RowPart], start: int) -> Iterator[RowPart]:
    """The rows from one on, as they become batches.

    Raises:
        EpisodeNotFound: Rows are missing before them.
    """
    for part in parts:
        stop = part.start + part.count
        if part.start > start:
            raise EpisodeNotFound(f"its rows {start} to {part.start - 1} are missing")
        if stop > start:
            size = rows_per_batch(part.schema.row_bytes + ROW_OVERHEAD_BYTES)
            yield from part[start - part.start :].cut(size)
            start = stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Deliver all journals of a home that belong to its Redis; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jamboree_gym.recording.recovery")
    parser.add_argument("--home", required=True, type=Path, help="directory of the servers")
    parser.add_argument("--redis-url", help="of its Redis; without it: the embedded one")
    parser.add_argument(
        "--restarted",
        action="store_true",
        help="deliver also what was left before a restart of the machine: of each episode the "
        "first rows, as long as their times ascend",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(process)d] %(message)s")
    owners = dead_owners(options.home / JOURNAL_DIRECTORY)
    for namespace in sorted({owner.namespace for owner in owners}):
        try:
            with Connection(
                options.redis_url, home=options.home, namespace=namespace, write="buffered"
            ) as connection:
                count = deliver_dead_journals(connection, is_restarted=options.restarted)
                log.info("%s: %d journals of dead writers delivered", namespace, count)
        except JamboreeError as error:
            log.error("%s: %s", namespace, error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
