"""An episode as it lies in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from gymnasium import spaces

from jamboree_gym.arrays.packing import RowChoice, rows_of
from jamboree_gym.arrays.step_columns import take
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.checked import Count, Seconds, checked
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.batch_format import Batch
from jamboree_gym.encoding.bulk_decoder import decode_batches
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.environment.provenance import decode_provenance
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ReplayError
from jamboree_gym.handlers.follow import EpisodeTail, StepCursor
from jamboree_gym.handlers.rendered_frames import RenderHandler
from jamboree_gym.handlers.snapshots import SnapshotHandler
from jamboree_gym.process_life import StaysHere
from jamboree_gym.reading.ordering import by_start
from jamboree_gym.reading.playback import paced
from jamboree_gym.reading.summaries import read_summaries
from jamboree_gym.records import (
    EpisodeData,
    EpisodeOrigin,
    EpisodeStatus,
    EpisodeSummary,
    StepData,
    Transitions,
)
from jamboree_gym.store.log import IndexEntry, LogSlice
from jamboree_gym.tables.arrow_table import to_table
from jamboree_gym.tables.columns import to_frame
from jamboree_gym.tables.expressions import Condition

if TYPE_CHECKING:
    import vaex.dataframe

__all__ = ["Episode", "recent_of", "to_episode_data", "to_transitions", "transitions_between"]

_EVERYTHING = 2**52
_STEPS_PER_READ = 256  # as many as a batch may hold


class Episode(StaysHere):
    """Reads one episode; holds no steps itself.

    Every read asks Redis in one round trip (a large one in several) and sees all steps that this
    process has recorded; `steps`, `recent`, `between` and `as_of` do not ask where this process
    holds the rows, as it does with the newest of an episode that it records.

    Args:
        connection: Where it is stored.
        id: The episode's id.
    """

    _in_messages = "an Episode: jam.episode(id)"
    _instead = "take its `id`, and `jam.episode(id)` of a Jamboree there; or its `data()`"

    @checked
    def __init__(self, connection: Connection, id: str) -> None:
        self.id = id
        self._connection = connection
        self._key = connection.keyspace.episode(id)

    @property
    def connection(self) -> Connection:
        """Where it is stored."""
        return self._connection

    # -- what it is -------------------------------------------------------------------------

    @property
    def summary(self) -> EpisodeSummary:
        """Status, length, return and so on, as of now.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        return self._connection.as_of_now([self._notes()[0]])[0]

    @property
    def origin(self) -> EpisodeOrigin:
        """What it can be begun with again."""
        return self._notes()[1]

    @property
    def predecessor(self) -> Episode | None:
        """The episode of the same environment that its reset went on from, where that matters."""
        follows = self.origin.follows
        return None if follows is None else Episode(self._connection, follows)

    @property
    def parent(self) -> Episode | None:
        """The episode that it was forked from; None for one that began with a reset."""
        parent = self._notes()[0].parent
        return None if parent is None else Episode(self._connection, parent)

    @property
    def children(self) -> list[Episode]:
        """The episodes that were forked from it, the oldest first.

        Found in the listings of all runs, so one read of these for each call. One whose summary
        cannot be read is left out with a warning, as in `jam.episodes()`.
        """
        self._connection.settle_all()
        listed = read_summaries(self._connection, self._connection.store.listings.runs())
        found = [one for one in listed if one.parent == self.id]
        return [Episode(self._connection, one.id) for one in by_start(found)]

    @property
    def lineage(self) -> list[Episode]:
        """How it came about by forks: the one that began with a reset, ..., its parent, itself.

        Raises:
            EpisodeNotFound: One of them has been deleted, so that where it came from is not known.
            DecodeError: They are forked from each other in a circle: an origin is damaged.
        """
        line, seen = [self], {self.id}
        while (parent := line[-1]._parent_that_is_there()) is not None:
            if parent.id in seen:
                raise DecodeError(f"episode {parent.id!r} is forked from itself: it is damaged")
            seen.add(parent.id)
            line.append(parent)
        return line[::-1]

    def _parent_that_is_there(self) -> Episode | None:
        parent = self.parent
        if parent is not None:
            try:
                parent._notes()
            except EpisodeNotFound as error:
                raise EpisodeNotFound(
                    f"episode {self.id!r} was forked from {parent.id!r}, which is not there "
                    "any more"
                ) from error
        return parent

    @property
    def provenance(self) -> dict[str, Any]:
        """Environment spec, wrappers, versions, platform, host and process it came from."""
        name = self.origin.provenance
        content = self._connection.store.blobs.get(name)
        return decode_provenance(content, where=self._connection.keyspace.blob(name))

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Of the environment as it was recorded; of a vector environment, that of one."""
        return self._space("observation_space")

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Of the environment as it was recorded; of a vector environment, that of one."""
        return self._space("action_space")

    def _space(self, name: str) -> spaces.Space[Any]:
        provenance = self.provenance
        if name not in provenance:
            raise DecodeError(f"the provenance of episode {self.id!r} is damaged: it has no {name}")
        return space_from_json(provenance[name])

    @property
    def status(self) -> EpisodeStatus:
        """How it ended, or `running`, or `interrupted` if its writer died."""
        return self.summary.status

    def __len__(self) -> int:
        """Number of steps so far."""
        return self._notes()[0].steps

    def __bool__(self) -> bool:
        """Always true, also without steps."""
        return True

    def _notes(self) -> tuple[EpisodeSummary, EpisodeOrigin]:
        self._connection.settle(self._key)
        head = self._connection.store.head(self._key)
        if head is None:
            raise self._not_found()
        return decode_episode_note(head.note, episode_id=self.id, where=self._key)

    def _not_found(self) -> EpisodeNotFound:
        return EpisodeNotFound(
            f"no episode {self.id!r} in namespace {self._connection.keyspace.namespace!r} on "
            f"{self._connection.store.where}"
        )

    # -- its steps --------------------------------------------------------------------------

    def data(self) -> EpisodeData:
        """The whole episode as arrays.

        Raises:
            EpisodeNotFound: There is no such episode.
            DecodeError: Its bytes are damaged; names key and index.
        """
        return to_episode_data(self.id, self.rows())

    @checked
    def steps(self, start: int = 0, stop: int | None = None) -> Transitions:
        """Steps `start` to `stop` (exclusive; None = to the newest) as arrays, oldest first.

        They are counted as in a slice of a list: negative ones from the end.

        Example:
            >>> episode.steps(-16)  # the newest 16
            >>> episode.steps(0, -1)  # all but the newest
        """
        if start < 0 and stop is None:
            return self.recent(-start)
        if start < 0 or (stop is not None and stop < 0):
            start, stop, _ = slice(start, stop).indices(len(self))
        first, end = start, None if stop is None else max(start, stop) + 1
        held = self._connection.held(self._key)
        rows = held.window(first, end) if held is not None else None
        return to_transitions(self.rows(first, end) if rows is None else rows)

    @checked
    def recent(self, n: Count) -> Transitions:
        """The newest n steps as arrays, oldest first; `Jamboree.recent` for several episodes."""
        return recent_of([self], n)[0]

    def _recent_in_memory(self, n: int) -> Transitions | None:
        held = self._connection.held(self._key)
        rows = held.recent(n) if held is not None else None
        return None if rows is None else to_transitions(rows)

    def _recent(self, found: LogSlice | None, n: int) -> Transitions:
        rows = self._join(found, -n - 1, _EVERYTHING)
        return to_transitions(rows[max(0, len(rows) - n - 1) :])

    @checked
    def between(self, t0: float, t1: float) -> Transitions:
        """Steps with t0 <= timestamp <= t1 (epoch seconds) as arrays, oldest first.

        Example:
            >>> minute = episode.between(time.time() - 60, time.time())

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        held = self._connection.held(self._key)
        rows = held.between(t0, t1) if held is not None else None
        if rows is None:
            rows = self._timed(self._connection.store.between, t0, t1)
        first = max(1, int(rows.timestamps.searchsorted(t0)))
        stop = int(rows.timestamps.searchsorted(t1, side="right"))
        return to_transitions(rows[first - 1 : max(first, stop)])

    @checked
    def as_of(self, t: float) -> StepData | None:
        """The newest step with timestamp <= t (epoch seconds): what was known then.

        Returns:
            The step; None if there was none yet.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        held = self._connection.held(self._key)
        rows = held.as_of(t) if held is not None else None
        if rows is None:
            rows = self._timed(self._connection.store.as_of, t)
        stop = int(rows.timestamps.searchsorted(t, side="right"))
        return next(iter(to_transitions(rows[max(0, stop - 2) : stop])), None)

    def _timed(self, read: Callable[..., LogSlice | None], *times: float) -> Rows:
        """Rows of the batches that such a read finds, in one round trip.

        With the batch before them, as the first step begins with its last observation.
        """
        self._connection.settle(self._key)
        found = read(self._key, *times, before=1)
        batches = found.batches if found is not None else []
        return self._join(found, batches[0].start, batches[-1].stop) if batches else self.rows(0, 0)

    def table(self) -> pa.Table:
        """All steps as a `pyarrow.Table`, oldest first; the columns are those of `frame`.

        An array with more than 64 elements is a column of (nested) lists of fixed size.
        """
        return to_table(to_transitions(self.rows()))

    def frame(self) -> vaex.dataframe.DataFrame:
        """All steps as a vaex DataFrame, oldest first.

        Columns: `index`, `timestamp`, `reward`, `terminated`, `truncated`, `action` and
        `observation`; the elements of an array get a column each (`observation_0`, ...), but those
        of an array with more than 64 (an image) are one column of arrays. `info_<key>` for every
        key of the infos whose values are numbers, bools or texts; keys of nested dicts with a dot
        (`info_a.b`). Where an info lacks the key, or has None there, the value is missing.
        """
        return to_frame(to_transitions(self.rows()))

    @checked
    def renders(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Any]]:
        """What was rendered at steps `start` to `stop` (exclusive; None = to the newest).

        Step 0 is the reset, step k the k-th step; they are counted as in a slice of a list,
        negative ones from the end. Needs a recorder with `record_frames=`.

        Returns:
            An iterator of step and array, in order. It reads about a megabyte at a time.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        count = len(self) + 1
        if start < 0 or (stop is not None and stop < 0):
            start, stop, _ = slice(start, stop).indices(count)
        return self._renders().frames(start, stop)

    def _renders(self) -> RenderHandler:
        handler = RenderHandler(self._connection)
        handler["episode"] = self.id
        return handler

    def snapshots(self) -> SnapshotHandler:
        """Where the environment stood after some of its steps; kept with `snapshot_every=`."""
        handler = SnapshotHandler(self._connection)
        handler["episode"] = self.id
        return handler

    @checked
    def tail(self, *, timeout_s: Seconds | None = None) -> Iterator[StepData]:
        """Follow the episode from its first step on, until it ends or its writer has died.

        Each step comes once, in order, from whichever process records it. While Redis is away the
        iterator waits, and goes on when it is back.

        Example:
            >>> for step in jam.episode(id).tail():
            ...     print(step.index, step.reward)

        Args:
            timeout_s: End after so many seconds without a new step; None waits for ever.

        Raises:
            EpisodeNotFound: There is no such episode, or it was deleted meanwhile.
            DecodeError: Its bytes are damaged; names key and index.
            StoreUnavailable: Redis has been away for `timeout_s`.
        """
        return EpisodeTail(self._connection, self.id, self.cursor()).follow(timeout_s)

    @checked
    def atail(self, *, timeout_s: Seconds | None = None) -> AsyncIterator[StepData]:
        """As `tail`, for an event loop, which it does not block: it waits in a thread of its own.

        Example:
            >>> async for step in jam.episode(id).atail():
            ...     print(step.index, step.reward)
        """
        return EpisodeTail(self._connection, self.id, self.cursor()).afollow(timeout_s)

    @checked
    def play(self, speed: float = 1.0) -> Iterator[StepData]:
        """Its steps at the pace at which they were taken, counted from when the first is asked for.

        Whoever takes longer over a step than the episode did gets the next ones without waiting,
        until that is made up for. It is read in parts, and ends with the newest step that is there
        by then, also where the episode goes on; `tail` follows one that does.

        Example:
            >>> for step in episode.play(speed=2):
            ...     print(step.index, step.reward)

        Args:
            speed: How many times as quick; `math.inf` plays without waiting.

        Raises:
            EpisodeNotFound: There is no such episode.
            ReplayError: The speed is not above 0.
        """
        if not speed > 0:
            raise ReplayError(f"speed={speed!r}: choose a number above 0, or math.inf")
        return paced(self._in_parts(), self.summary.started_at, speed)

    @checked
    def find(self, test: str | Callable[[StepData], object]) -> npt.NDArray[np.int64]:
        """Indices of the steps of which something is true, ascending.

        An expression has the columns of `frame` for names, comparisons, `in (1, 2)`, and, or, not,
        arithmetic, and abs, sqrt, isnan, isfinite, min, max. It is evaluated over whole columns,
        and never run as code. `column("...")` is for a column whose name is no Python name. A step
        without the info that is asked for is no hit, whichever way it is asked.

        Example:
            >>> episode.find("reward < -1 and action == 2")
            array([17, 40])
            >>> episode.find(lambda step: step.info.get("lives") == 0)
            array([40])

        Args:
            test: An expression, or a function of a step, which is read in parts.

        Returns:
            int64 (n,).

        Raises:
            EpisodeNotFound: There is no such episode.
            InvalidExpression: The expression cannot be understood, or a column is not there.
        """
        if isinstance(test, str):
            condition = Condition(test)
            return condition.hits(self.steps())
        return np.array([step.index for step in self._in_parts() if test(step)], np.int64)

    def _in_parts(self) -> Iterator[StepData]:
        """Its steps, oldest first, to the newest that is there when it gets there."""
        start = 0
        while steps := self.steps(start, start + _STEPS_PER_READ):
            yield from steps
            start += len(steps)

    def cursor(self) -> StepCursor:
        """For reading it step by step; at its beginning."""
        return StepCursor(self._key, self._decode, to_transitions)

    def delete(self) -> None:
        """Delete it from Redis and from MongoDB, with what was rendered and its snapshots.

        What is damaged can be deleted, too, and so can what is listed and not there any more.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        entry = IndexEntry(self.id, b"", self._run(), 0.0)
        self._delete_what_lies_beside()
        self._connection.delete_log(self._key, entry=entry)

    def _run(self) -> str:
        """Its run; where its log does not say, that which lists it."""
        try:
            return self._notes()[0].run
        except (DecodeError, EpisodeNotFound):
            store = self._connection.store
            for run in store.listings.runs():
                if self.id in store.listings.summaries(run):
                    return run
            raise

    def _delete_what_lies_beside(self) -> None:
        """Asks MongoDB only where the episode has been there: where embedded, that starts it."""
        may_be_backed_up = self._may_be_backed_up()
        for handler in (self._renders(), self.snapshots()):
            if may_be_backed_up or _is_there(handler):
                handler.delete()

    def _may_be_backed_up(self) -> bool:
        try:
            head = self._connection.store.head(self._key)
        except DecodeError:
            return True
        return head is not None and bool(head.acked)

    # -- reading rows -----------------------------------------------------------------------

    def rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Rows with these numbers, as they are stored: row 0 is the reset, row k the k-th step."""
        stop = _EVERYTHING if stop is None else stop
        self._connection.settle(self._key)
        rows = self._join(self._connection.store.read(self._key, start, stop), start, stop)
        return rows[max(0, start - rows.start) : max(0, stop - rows.start)]

    def _join(self, found: LogSlice | None, start: int, stop: int) -> Rows:
        """Rows of the batches; a negative start counts from the end."""
        if found is None:
            raise self._not_found()
        count = found.head.count
        start = max(0, count + start) if start < 0 else start
        _check_complete(found.batches, start, min(stop, count), where=self._key)
        if found.batches:
            return self._decode(found.batches)
        newest = self._connection.store.last(self._key, 1)  # its layout, for arrays without rows
        if newest is None or not newest.batches:
            raise DecodeError(f"{self._key}: the log has no rows")
        rows = self._decode(newest.batches[-1:])
        return rows[len(rows) :]

    def _decode(self, batches: Sequence[Batch]) -> Rows:
        return decode_batches(batches, self._schema, where=self._key)

    def _schema(self, name: str) -> StepSchema:
        blob = self._connection.store.blobs.get(name)
        return StepSchema.from_blob(blob, where=self._connection.keyspace.blob(name))

    def __repr__(self) -> str:
        """The id."""
        return f"<Episode {self.id!r}>"


def recent_of(episodes: Sequence[Episode], n: int) -> list[Transitions]:
    """The newest n steps of each, in one round trip; all are of one connection."""
    n = max(0, n)
    recent = {episode.id: episode._recent_in_memory(n) for episode in episodes}
    asked = [episode for episode in episodes if recent[episode.id] is None]
    for episode in asked:
        episode._connection.settle(episode._key)
    if asked:
        found = asked[0]._connection.store.read_many(
            [episode._key for episode in asked], [("last", n + 1)] * len(asked)
        )
        for episode, one in zip(asked, found, strict=True):
            recent[episode.id] = episode._recent(one, n)
    return [cast(Transitions, recent[episode.id]) for episode in episodes]


def to_episode_data(episode_id: str, rows: Rows) -> EpisodeData:
    """All rows of an episode -> its arrays; the reset's reward, action and so on mean nothing."""
    columns = take(rows, slice(1, None)) | {"infos": rows.infos}
    return EpisodeData(id=episode_id, observations=rows.observations, **columns)


def to_transitions(rows: Rows) -> Transitions:
    """Rows -> the transitions between them, one fewer."""
    indices = np.arange(rows.start, rows.start + max(0, len(rows) - 1), dtype=np.int64)
    return transitions_between(rows, slice(-1), slice(1, None), indices)


def transitions_between(
    rows: Rows, before: RowChoice, after: RowChoice, indices: npt.NDArray[np.int64]
) -> Transitions:
    """The transitions from some rows to others.

    Args:
        rows: Of one episode or of several.
        before: The rows that the transitions begin at.
        after: The rows that they lead to, as many.
        indices: int64 (n,), position of each transition in its episode.
    """
    return Transitions(
        indices=indices,
        observations=rows_of(rows.observations, before),
        next_observations=rows_of(rows.observations, after),
        schemas=rows.schemas,
        **take(rows, after),
    )


def _is_there(handler: RenderHandler | SnapshotHandler) -> bool:
    try:
        return handler.count() > 0
    except DecodeError:  # what is damaged can be deleted
        return True


def _check_complete(batches: Sequence[Batch], start: int, stop: int, *, where: str) -> None:
    """Make sure that no row from `start` to `stop` is missing."""
    for batch in batches:
        if start < min(batch.start, stop):
            raise DecodeError(f"{where}: rows {start} to {batch.start - 1} are missing")
        start = batch.stop
    if start < stop:
        raise DecodeError(f"{where}: rows {start} to {stop - 1} are missing")
