"""`Episode`: reads one stored episode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from gymnasium import spaces

from jamboree_gym.checked import Count, EpochSeconds, Seconds, checked
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.environment.provenance import decode_provenance
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ReplayError
from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.handlers.flags import Flag, FlaggedHandler, FlagHandler
from jamboree_gym.handlers.follow import EpisodeTail, StepCursor
from jamboree_gym.handlers.rendered_frames import RenderHandler
from jamboree_gym.handlers.snapshots import SnapshotHandler
from jamboree_gym.handlers.turns import JOINT_TAG, TurnHandler
from jamboree_gym.reading.finding.names import id_of
from jamboree_gym.reading.finding.ordering import by_start
from jamboree_gym.reading.finding.summaries import read_summaries
from jamboree_gym.reading.playback import paced
from jamboree_gym.reading.row_arrays import (
    newest_transitions,
    to_episode_data,
    to_transitions,
)
from jamboree_gym.reading.row_reader import EVERYTHING, RowReader
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
from jamboree_gym.tables.text_table import ReadWhenShown, ago, html_table, return_cell

if TYPE_CHECKING:
    import os
    from types import ModuleType

    import vaex.dataframe

    from jamboree_gym.reading.diff import EpisodeDiff
    from jamboree_gym.replay import ForkedEnv, VerifyReport, Video, WhatIf
    from jamboree_gym.replay.what_if import ChooseAction, Predictor

__all__ = ["Episode", "recent_of"]

_STEPS_PER_READ = 256  # as many as a batch may hold
_SideLog = TypeVar("_SideLog", bound=DBHandler)


class Episode(ReadWhenShown):
    """Reads one episode; holds no steps itself. `jam.episode(id)` makes one.

    Each read asks Redis in one round trip (a large one in several), and sees all steps that this
    process has recorded. If this process records the episode, `steps`, `recent`, `between` and
    `as_of` take its newest steps from memory.

    Example:
        >>> episode = jam.episodes(run="first").last()
        >>> episode.data().observations.shape
        (24, 4)

    Args:
        connection: Where it is stored.
        id: The episode's id.
    """

    _in_messages = "an Episode: jam.episode(id)"

    @checked
    def __init__(self, connection: Connection, id: str) -> None:
        self.id = id
        self._connection = connection
        self._reader = RowReader(connection, id)

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
        """How it began: seed or state of the generator, options, provenance."""
        return self._notes()[1]

    @property
    def predecessor(self) -> Episode | None:
        """The earlier episode that a replay has to play first; None if there is none."""
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
        return self._reader.notes()

    # -- its steps --------------------------------------------------------------------------

    def data(self) -> EpisodeData:
        """The whole episode as arrays.

        Raises:
            EpisodeNotFound: There is no such episode.
            DecodeError: Its bytes are damaged; names key and index.
        """
        return to_episode_data(self.id, self._rows())

    @checked
    def steps(self, start: int = 0, stop: int | None = None) -> Transitions:
        """Steps `start` to `stop` (exclusive; None = to the newest) as arrays, oldest first.

        They are counted as in a slice of a list: negative ones from the end.

        Example:
            >>> episode.steps(-16)  # the newest 16
            >>> episode.steps(0, -1)  # all but the newest

        Raises:
            EpisodeNotFound: There is no such episode.
            DecodeError: Its bytes are damaged; names key and index.
        """
        if start < 0 and stop is None:
            return self.recent(-start)
        if start < 0 or (stop is not None and stop < 0):
            start, stop, _ = slice(start, stop).indices(len(self))
        first, end = start, None if stop is None else max(start, stop) + 1
        held = self._connection.held(self._reader.key)
        rows = held.window(first, end) if held is not None else None
        return to_transitions(self._rows(first, end) if rows is None else rows)

    @checked
    def recent(self, n: Count) -> Transitions:
        """The newest n steps as arrays, oldest first; `Jamboree.recent` for several episodes.

        Raises:
            EpisodeNotFound: There is no such episode.
            DecodeError: Its bytes are damaged; names key and index.
        """
        found = newest_transitions(self._connection.held(self._reader.key), n)
        return _newest_stored([self], n)[0] if found is None else found

    def _recent(self, found: LogSlice | None, n: int) -> Transitions:
        rows = self._reader.joined(found, -n - 1, EVERYTHING)
        return to_transitions(rows, max(0, len(rows) - n - 1))

    @checked
    def between(self, t0: EpochSeconds, t1: EpochSeconds) -> Transitions:
        """Steps with t0 <= timestamp <= t1 (epoch seconds) as arrays, oldest first.

        Example:
            >>> minute = episode.between(time.time() - 60, time.time())

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        held = self._connection.held(self._reader.key)
        rows = held.between(t0, t1) if held is not None else None
        if rows is None:
            rows = self._reader.timed(self._connection.store.between, t0, t1)
        first = max(1, int(rows.timestamps.searchsorted(t0)))
        stop = int(rows.timestamps.searchsorted(t1, side="right"))
        return to_transitions(rows[first - 1 : max(first, stop)])

    @checked
    def as_of(self, t: EpochSeconds) -> StepData | None:
        """The newest step with timestamp <= t (epoch seconds): what was known then.

        Returns:
            The step; None if there was none yet.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        held = self._connection.held(self._reader.key)
        rows = held.as_of(t) if held is not None else None
        if rows is None:
            rows = self._reader.timed(self._connection.store.as_of, t)
        stop = int(rows.timestamps.searchsorted(t, side="right"))
        return next(iter(to_transitions(rows[max(0, stop - 2) : stop])), None)

    def table(self) -> pa.Table:
        """All steps as a `pyarrow.Table`, oldest first; the columns are those of `frame`.

        An array with more than 64 elements is a column of (nested) lists of fixed size.
        """
        return to_table(to_transitions(self._rows()))

    def frame(self) -> vaex.dataframe.DataFrame:
        """All steps as a vaex DataFrame, oldest first.

        Columns: `index`, `timestamp`, `reward`, `terminated`, `truncated`, `action` and
        `observation`; the elements of an array get a column each (`observation_0`, ...), but those
        of an array with more than 64 (an image) are one column of arrays. `info_<key>` for every
        key of the infos whose values are numbers, bools or texts; keys of nested dicts with a dot
        (`info_a.b`). Where an info lacks the key, or has None there, the value is missing.
        """
        return to_frame(to_transitions(self._rows()))

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
        return self._handler(RenderHandler)

    def snapshots(self) -> SnapshotHandler:
        """States of the environment after some of its steps; kept with `snapshot_every=`."""
        return self._handler(SnapshotHandler)

    def _handler(self, of_class: Callable[[Connection], _SideLog]) -> _SideLog:
        """The handler of one of its side logs."""
        handler = of_class(self._connection)
        handler["episode"] = self.id
        return handler

    @checked
    def flag(self, note: str, *, step: Count | None = None) -> None:
        """Mark it with a note, which is kept in the store until it is deleted.

        Example:
            >>> jam.run("ppo").episodes.order_by("episode_return").first().flag("falls at once")
            >>> jam.run("ppo").flagged()

        Args:
            note: Why.
            step: The step that the note is about; None = all of it.

        Raises:
            EpisodeNotFound: There is no such episode.
            InvalidArgument: The note is empty or longer than 2,000 characters.
        """
        run = self._notes()[0].run
        self._handler(FlagHandler).put(note, step=step)
        FlaggedHandler(self._connection, run).put(self.id)
        self._connection.flush()

    def flags(self) -> list[Flag]:
        """The notes with which it was marked, the oldest first."""
        return self._handler(FlagHandler).flags()

    def unflag(self) -> None:
        """Delete all notes with which it was marked."""
        self._handler(FlagHandler).delete()

    @checked
    def tail(self, *, timeout_s: Seconds | None = None) -> Iterator[StepData]:
        """Follow the episode from its first step on, until it ends or its writer has died.

        Each step comes once, in order, from whichever process records it. While Redis is away the
        iterator waits, and continues when it is back.

        Example:
            >>> for step in jam.episode(id).tail():
            ...     print(step.index, step.reward)

        Args:
            timeout_s: End after this many seconds without a new step; None waits for ever.

        Raises:
            EpisodeNotFound: There is no such episode, or it was deleted meanwhile.
            DecodeError: Its bytes are damaged; names key and index.
            StoreUnavailable: Redis has been away for `timeout_s`.
        """
        return EpisodeTail(self._connection, self.id, self._cursor()).follow(timeout_s)

    @checked
    def atail(self, *, timeout_s: Seconds | None = None) -> AsyncIterator[StepData]:
        """As `tail`, for an event loop, which it does not block: it waits in a separate thread.

        Example:
            >>> async for step in jam.episode(id).atail():
            ...     print(step.index, step.reward)
        """
        return EpisodeTail(self._connection, self.id, self._cursor()).afollow(timeout_s)

    @checked
    def play(self, speed: float = 1.0) -> Iterator[StepData]:
        """Its steps with the pauses that were between them; the time begins with the first `next`.

        A slow consumer receives steps without delay until it has caught up. The episode is read in
        parts. The iterator ends with the newest step that is stored when it arrives there, even if
        the episode is still being recorded; `tail` follows such an episode.

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
        and never run as code. `column("...")` is for a column whose name is no Python name. If a
        step lacks an info that a comparison needs, the comparison is unknown, and so is its `not`.

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

    def _cursor(self) -> StepCursor:
        """For reading it step by step; at its beginning."""
        return StepCursor(self._reader.key, self._reader.decode, to_transitions)

    def delete(self) -> None:
        """Delete it from Redis and from the backup, with its frames, snapshots and flags.

        What is damaged can be deleted, too, and so can what is listed and not there any more.

        Raises:
            EpisodeNotFound: There is no such episode.
            StoreUnavailable: Redis did not answer, and may still carry it out. Call again to be
                sure.
        """
        self._connection.settle(self._reader.key)
        try:
            head = self._connection.store.head(self._reader.key)
            may_be_backed_up = head is not None and bool(head.acked)
        except DecodeError:
            head, may_be_backed_up = None, True
        entry = IndexEntry(self.id, b"", self._run(), 0.0)  # last: raises if it is gone by now
        self._delete_what_lies_beside(may_be_backed_up=may_be_backed_up)
        born = None if head is None else head.born
        self._connection.delete_log(self._reader.key, entry=entry, born=born)

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

    def _delete_what_lies_beside(self, *, may_be_backed_up: bool) -> None:
        """Asks the backup only where the episode has been there: where embedded, that starts it."""
        beside = (RenderHandler, SnapshotHandler, FlagHandler)
        handlers: list[DBHandler] = [self._handler(of_class) for of_class in beside]
        if self._begins_joint_episode():
            handlers.append(TurnHandler(self._connection, self.id))
        for handler in handlers:
            if may_be_backed_up or _is_there(handler):
                handler.delete()

    def _begins_joint_episode(self) -> bool:
        """Whether the turns of several agents lie beside it."""
        try:
            return bool(self._notes()[0].tags.get(JOINT_TAG) == self.id)
        except (DecodeError, EpisodeNotFound):
            return False

    # -- simulating it again ----------------------------------------------------------------

    def verify(self, **options: Any) -> VerifyReport:
        """Simulate it again, and compare bit for bit: as `jamboree_gym.replay.verify`.

        Example:
            >>> print(episode.verify())
        """
        done: VerifyReport = _replay().verify(self, **options)
        return done

    def fork(self, step: int, **options: Any) -> ForkedEnv:
        """A live environment as it was after that many steps: as `jamboree_gym.replay.fork`.

        Example:
            >>> env = episode.fork(40)
            >>> observation, reward, terminated, truncated, info = env.step(action)
        """
        done: ForkedEnv = _replay().fork(self, step, **options)
        return done

    def what_if(
        self, step: int, policy: ChooseAction | Predictor, n: int = 100, **options: Any
    ) -> WhatIf:
        """Continue it n times under another policy: as `jamboree_gym.replay.what_if`.

        Example:
            >>> print(episode.what_if(40, model, n=200))
        """
        done: WhatIf = _replay().what_if(self, step, policy, n, **options)
        return done

    def video(self, path: str | os.PathLike[str], **options: Any) -> Video:
        """Write it into a video file, simulated again: as `jamboree_gym.replay.video`.

        Example:
            >>> episode.video("worst.mp4")
        """
        done: Video = _replay().video(self, path, **options)
        return done

    @checked
    def diff(self, other: Episode | str) -> EpisodeDiff:
        """Where it begins to differ from another one: as `jam.diff`.

        Example:
            >>> print(parent.diff(child))
        """
        found: EpisodeDiff = _diffing().diff(
            self, Episode(self._connection, id_of(self._connection, other))
        )
        return found

    # -- as it is stored --------------------------------------------------------------------

    def _rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Rows with these numbers, as they are stored: row 0 is the reset, row k the k-th step."""
        return self._reader.rows(start, stop)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same episode of the same Jamboree."""
        if not isinstance(other, Episode):
            return NotImplemented
        return self.id == other.id and self._connection is other._connection

    def __hash__(self) -> int:
        """Of its id."""
        return hash(self.id)

    def __repr__(self) -> str:
        """The id."""
        return f"<Episode {self.id!r}>"

    def _as_text(self) -> str:
        return str(self.summary)

    def _as_html(self) -> str:
        one = self.summary
        columns: dict[str, list[object]] = {
            "episode": [one.id],
            "run": [one.run],
            "environment": [one.env_id],
            "status": [one.status],
            "steps": [one.steps],
            "return": [return_cell(one)],
            "seed": [one.seed],
            "began": [ago(one.started_at, self._connection.clock())],
        }
        if one.parent is not None:
            columns["from step"] = [f"{one.fork_step} of {one.parent}"]
        return html_table(columns, rows=1)


def _replay() -> ModuleType:
    from jamboree_gym import replay  # stands on this module

    return replay


def _diffing() -> ModuleType:
    from jamboree_gym.reading import diff  # stands on this module

    return diff


def recent_of(episodes: Sequence[Episode], n: int) -> list[Transitions]:
    """The newest n steps of each, in one round trip; all are of one connection."""
    n = max(0, n)
    held = {one.id: one._connection.held(one._reader.key) for one in episodes}
    recent = {id: newest_transitions(rows, n) for id, rows in held.items()}
    asked = [episode for episode in episodes if recent[episode.id] is None]
    for episode, read in zip(asked, _newest_stored(asked, n), strict=True):
        recent[episode.id] = read
    return [cast(Transitions, recent[episode.id]) for episode in episodes]


def _newest_stored(episodes: Sequence[Episode], n: int) -> list[Transitions]:
    """The same of those that this process does not hold in memory."""
    keys = [episode._reader.key for episode in episodes]
    if not keys:
        return []
    connection = episodes[0]._connection
    for key in keys:
        connection.settle(key)
    found = connection.store.read_many(keys, [("last", n + 1)] * len(keys))
    return [episode._recent(one, n) for episode, one in zip(episodes, found, strict=True)]


def _is_there(handler: DBHandler) -> bool:
    try:
        return handler.count() > 0
    except DecodeError:  # what is damaged can be deleted
        return True
