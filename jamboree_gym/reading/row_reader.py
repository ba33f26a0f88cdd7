"""Reads the rows of one episode's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.batch_format import Batch
from jamboree_gym.encoding.bulk_decoder import decode_batches
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.errors import DecodeError, EpisodeNotFound
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.store.log import LogSlice

__all__ = ["EVERYTHING", "RowReader"]

EVERYTHING = 2**52  # more rows than any episode can have


class RowReader:
    """Row 0 is the reset, row k the k-th step. What this process has recorded is delivered first.

    Args:
        connection: Where the episode is stored.
        id: Its id.
    """

    def __init__(self, connection: Connection, id: str) -> None:
        self._connection = connection
        self._id = id
        self.key = connection.keyspace.episode(id)

    def notes(self) -> tuple[EpisodeSummary, EpisodeOrigin]:
        """What stands beside the rows.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        self._connection.settle(self.key)
        head = self._connection.store.head(self.key)
        if head is None:
            raise self._not_found()
        return decode_episode_note(head.note, episode_id=self._id, where=self.key)

    def rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Rows `start` to `stop` (exclusive; None = to the newest)."""
        stop = EVERYTHING if stop is None else stop
        self._connection.settle(self.key)
        rows = self.joined(self._connection.store.read(self.key, start, stop), start, stop)
        return rows[max(0, start - rows.start) : max(0, stop - rows.start)]

    def timed(self, read: Callable[..., LogSlice | None], *times: float) -> Rows:
        """Rows of the batches that such a read finds, in one round trip.

        With the batch before them, as the first step begins with its last observation.
        """
        self._connection.settle(self.key)
        found = read(self.key, *times, before=1)
        batches = found.batches if found is not None else []
        return (
            self.joined(found, batches[0].start, batches[-1].stop) if batches else self.rows(0, 0)
        )

    def joined(self, found: LogSlice | None, start: int, stop: int) -> Rows:
        """Rows of the batches that were found; a negative start counts from the end.

        Raises:
            EpisodeNotFound: Nothing was found.
            DecodeError: Rows are missing or damaged.
        """
        if found is None:
            raise self._not_found()
        count = found.head.count
        start = max(0, count + start) if start < 0 else start
        _check_complete(found.batches, start, min(stop, count), where=self.key)
        if found.batches:
            return self.decode(found.batches)
        newest = self._connection.store.last(self.key, 1)  # its layout, for arrays without rows
        if newest is None:  # Redis was emptied, or the episode deleted, since it was found
            raise self._not_found()
        if not newest.batches:
            raise DecodeError(f"{self.key}: the log has no rows")
        rows = self.decode(newest.batches[-1:])
        return rows[len(rows) :]

    def decode(self, batches: Sequence[Batch]) -> Rows:
        """Rows of these batches."""
        return decode_batches(batches, self._schema, where=self.key)

    def _schema(self, name: str) -> StepSchema:
        store = self._connection.store
        try:
            blob = store.blobs.get(name)
        except DecodeError:
            if store.head(self.key) is None:  # as above: nothing is damaged
                raise self._not_found() from None
            raise
        return StepSchema.from_blob(blob, where=self._connection.keyspace.blob(name))

    def _not_found(self) -> EpisodeNotFound:
        store, namespace = self._connection.store, self._connection.keyspace.namespace
        is_run = self._id in store.listings.runs()
        hint = (
            f"; it is a run: jam.run({self._id!r}), in a shell jamboree-gym run {self._id}"
            if is_run
            else ""
        )
        return EpisodeNotFound(
            f"no episode {self._id!r} in namespace {namespace!r} on {store.where}{hint}"
        )


def _check_complete(batches: Sequence[Batch], start: int, stop: int, *, where: str) -> None:
    """Make sure that no row from `start` to `stop` is missing."""
    for batch in batches:
        if start < min(batch.start, stop):
            raise DecodeError(f"{where}: rows {start} to {batch.start - 1} are missing")
        start = batch.stop
    if start < stop:
        raise DecodeError(f"{where}: rows {start} to {stop - 1} are missing")
