"""The handler of episodes: its log holds the steps of one episode."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

from gymnasium import spaces

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.checked import Count, EpochSeconds, Seconds, checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.delivery.outbox import Outbox
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.info_codec import InfoEncoder
from jamboree_gym.encoding.summary_codec import Beginning, SummaryTemplate
from jamboree_gym.environment.outcomes import flag_of, refusal
from jamboree_gym.environment.spaces import check_space, layout_of_space
from jamboree_gym.errors import (
    EpisodeNotFound,
    InvalidRecord,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.journal.journal import Journal
from jamboree_gym.journal.row_block import RowLane
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.row_arrays import newest_transitions, reversed_transitions
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary, StepData, Transitions
from jamboree_gym.tables.columns import to_frame

if TYPE_CHECKING:
    import vaex.dataframe

__all__ = ["EpisodeHandler", "unconfirmed"]

DEFAULT_LIMIT = 100
_MOVED = "Do not repeat the call: the environment has moved, and what it returned"
_SEES_STEPS = ("step", "set_action", "add_step")

log = logging.getLogger(__name__)


class _Lane(NamedTuple):
    """Where a handler writes rows in a process.

    Attributes:
        journal: The journal of the process.
        rows: Where they go there.
        mark: Tells the writer of that journal that there is something to deliver.
    """

    journal: Journal
    rows: RowLane
    mark: Callable[[Outbox], float]


class EpisodeHandler(DBHandler):
    """Writes the steps of episodes, one episode at a time, and reads them back.

    A recorder calls `begin`, `step` and `end`. To read, set `handler["episode"] = id`. A subclass
    can have methods that derive something from the steps: `jam.record(env, handler_class=...)`.

    Example:
        >>> handler = EpisodeHandler(jam)
        >>> handler["episode"] = episode_id
        >>> handler.recent(16).rewards.sum()
        16.0

    Attributes:
        limit: Number of steps that `transactions` shows, and that stay in memory while recording.
        info_keys: Which keys of infos are kept; None = all.
        annotation: What the agent has said of the next step, by name.
        writing: What the current episode is written to; None when none is.
        summary_template: A template that fits the summaries of most episodes, if one is known.
        strict_infos: Whether an info that cannot be stored is an error, instead of a mark in place
            of what cannot.
    """

    @checked
    def __init__(self, jam: HasConnection | None = None) -> None:
        super().__init__(jam)
        self.entity = "episode"
        self.required = {"episode": str}
        self.limit = DEFAULT_LIMIT
        self.info_keys: Collection[str] | None = None
        self.strict_infos = False
        self.annotation: dict[str, Any] | None = None
        self.writing: StepOutbox | None = None
        self.summary_template: SummaryTemplate | None = None
        self._steps: StepOutbox | None = None  # of the episode written last: `recent` reads it
        self._schema: StepSchema | None = None
        self._infos = InfoEncoder()
        self._reset_infos = self._infos.sibling()  # these have other keys
        self._lane: _Lane | None = None
        self._blank: StepOutbox | None = None  # those of episodes are copies of it
        self._buffered = True
        ours, kind = EpisodeHandler, type(self)
        self._is_common = (kind.add_step, kind.set_action) == (ours.add_step, ours.set_action)

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a required key; another episode ends the writing of the current one."""
        if isinstance(value, Episode):
            value = value.id
        super().__setitem__(name, value)
        if self._steps is not None and self._steps.id != value:
            self._steps = self.writing = None

    def _unshared(self) -> dict[str, Any]:
        """The episode that is being written stays where it is: a copy begins the next one."""
        of_writing = ("writing", "annotation", "summary_template", "_steps", "_lane", "_blank")
        infos = InfoEncoder()
        encoders = {"_infos": infos, "_reset_infos": infos.sibling()}
        return {**super()._unshared(), **dict.fromkeys(of_writing), **encoders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As every handler."""
        super().__setstate__(state)
        if self._schema is not None:
            self._schema = self._schema.prepared()

    # -- writing ----------------------------------------------------------------------------

    def use_spaces(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        """Say what the steps will look like.

        Raises:
            UnsupportedSpace: One of them cannot be recorded; names it.
        """
        check_space(observation_space, "observation")
        check_space(action_space, "action")
        schema = StepSchema(layout_of_space(observation_space), layout_of_space(action_space))
        self._schema = schema.prepared()

    def begin(
        self,
        observation: Any,
        info: Mapping[str, Any],
        *,
        summary: EpisodeSummary,
        origin: EpisodeOrigin,
        blobs: Mapping[str, bytes] | None = None,
    ) -> None:
        """Begin an episode with what `reset` returned.

        Args:
            observation: The first observation.
            info: The reset's info.
            summary: Id, run, environment and so on; no steps yet. Without a writer: this process.
            origin: Seed or RNG state, options, provenance.
            blobs: What `origin` refers to, by digest.

        Raises:
            InvalidRecord: Something in summary, origin or observation, or with `strict_infos` in
                the info, cannot be kept; names it.
            StoreUnavailable, StoreFull: In `sync` and `fsync` mode, Redis has not confirmed it. The
                episode has begun and continues: do not begin it again.
        """
        if not summary.writer:
            summary = replace(summary, writer=self._connection.writer_name)
        begun = Beginning.of(summary, origin, self.summary_template)
        self._begin(begun, observation, info, blobs or {})

    def _begin(
        self,
        begun: Beginning,
        observation: Any,
        info: Mapping[str, Any],
        blobs: Mapping[str, bytes],
    ) -> None:
        """As `begin`, of an episode whose summary and origin are encoded."""
        if self._schema is None:
            raise InvalidRecord("say what the steps look like first: handler.use_spaces(...)")
        encoded = self._encoded(info, self._reset_infos)
        self.annotation = None
        steps = self._new_steps(begun, self._schema, blobs)
        steps.add_reset(observation, encoded)
        self._steps = self.writing = steps
        if self._connection.writer.backpressure.has_outage or not self._buffered:
            self._after_append(_MOVED)

    def _new_steps(
        self, begun: Beginning, schema: StepSchema, blobs: Mapping[str, bytes]
    ) -> StepOutbox:
        """What a new episode is written to; no row is in it."""
        jam, lane = self._connection, self._lane
        if lane is None or lane.journal is not jam.journal:  # another one also after a fork
            lane = self._lane = _Lane(jam.journal, jam.journal.lane(), jam.writer.mark)
            self._blank = None
        key, blank = jam.keyspace.episode(begun.id), self._blank
        self._keys["episode"] = begun.id
        self._buffered = jam.write_mode == "buffered"
        if blank is None or not blank.fits(schema, blobs, self.limit + 1):
            blank = self._blank = StepOutbox(
                key,
                jam.writer_id,
                lane.mark,
                begun=begun,
                schema=schema,
                lane=lane.rows,
                keep=self.limit + 1,
                blobs=blobs,
                clock=jam.clock,
            )
            blank.may_be_common = self._buffered and self._is_common
        lane.journal.keep_blobs(blobs)
        steps = blank.another(key, begun)
        jam.adopt(steps)
        return steps

    def step(
        self,
        action: Any,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any],
        annotation: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one step: the action, and the five things that `env.step` returned for it.

        Args:
            action: What the agent did.
            observation: What the environment returned, as the next four.
            reward: A number.
            terminated: Whether this was the end.
            truncated: Whether the episode was cut off.
            info: Whatever else.
            annotation: What the agent says of the step, by name.

        Raises:
            InvalidRecord: Something in it cannot be kept; names it. There would be a gap, so the
                episode is abandoned.
            StoreUnavailable, StoreFull: In `sync` and `fsync` mode, Redis has not confirmed it. It
                waits in memory, and the episode continues: do not keep it again.
        """
        self.set_action(action)
        if annotation is not None:
            self._add_annotation(annotation)
        self.add_step(observation, reward, terminated, truncated, info)

    def set_action(self, action: Any) -> None:
        """The first half of `step`, to be called before the environment gets the action."""
        steps = self.writing
        if steps is None:
            raise InvalidRecord("no episode is being written: handler.begin(...) first")
        try:
            steps.packed_action = steps.pack_action(action)
        except Exception:  # noqa: BLE001 - whatever it is, the slow way says it
            self._set_action_slowly(steps, action)

    def _set_action_slowly(self, steps: StepOutbox, action: Any) -> None:
        try:
            steps.set_action(action)
        except InvalidRecord as error:
            self._give_up(error)
            raise

    def _add_annotation(self, annotation: Mapping[str, Any]) -> None:
        try:
            self.annotation = {**(self.annotation or {}), **annotation}
        except Exception as error:
            refused = refusal("annotation", error)
            self._give_up(refused)
            raise refused from error

    def _give_up(self, error: InvalidRecord) -> None:
        """There would be a gap: end the episode, and say that nothing more is recorded."""
        log.warning("%s; nothing more is recorded until the next reset", error)
        with suppress(JamboreeError):  # the other error tells more
            self.end("abandoned")

    def add_step(
        self,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any],
    ) -> None:
        """The second half of `step`: what the environment returned."""
        steps = self.writing
        if steps is None:
            raise InvalidRecord("no episode is being written: handler.begin(...) first")
        annotation, self.annotation = self.annotation, None
        encoded = self._encoded_of_step(info) if info.__class__ is not dict or info else None
        try:
            if terminated.__class__ is not bool:
                terminated = flag_of("terminated", terminated)
            if truncated.__class__ is not bool:
                truncated = flag_of("truncated", truncated)
            should_check = steps.add_step(
                observation, reward, terminated, truncated, encoded, annotation
            )
        except InvalidRecord as error:
            self._give_up(error)
            raise
        if terminated or truncated:  # first: it is over even where this cannot be confirmed
            self._end(steps, "terminated" if terminated else "truncated")
            should_check = should_check or steps.error is not None
        if should_check or not self._buffered:
            self._after_append(_MOVED)

    def _quickly_encoded(self, info: Mapping[str, Any]) -> bytes | None:
        """As `_encoded_of_step`; in C, if it is as the ones before it."""
        template = self._infos.compiled
        if template is not None and self.info_keys is None:
            encoded: bytes | None = template.encode(info)
            if encoded is not None:
                return encoded
        return self._encoded_of_step(info)

    def _encoded_of_step(self, info: Mapping[str, Any]) -> bytes | None:
        """As `_encoded`; where an info is refused, the episode ends."""
        try:
            return self._encoded(info, self._infos)
        except InvalidRecord as error:
            self._give_up(error)
            raise

    def _encoded(self, info: Mapping[str, Any], infos: InfoEncoder) -> bytes | None:
        """What is kept of an info, in bytes; None if that is nothing.

        Raises:
            InvalidRecord: A value of it cannot be stored, and `strict_infos` is set.
        """
        try:
            if not info:
                return None
            keys = self.info_keys
            if keys is not None:
                info = {key: info[key] for key in keys if key in info}
            return infos.encode(info, strict=self.strict_infos)
        except Exception as error:
            if isinstance(error, InvalidRecord) and self.strict_infos:
                raise
            raise refusal("info", error) from error

    def plain_steps(self, schema: StepSchema) -> StepOutbox | None:
        """Where `add_plain_step` may put the next step, if it has this (shared) schema."""
        steps = self.writing
        if steps is None or steps.schema is not schema or self.annotation is not None:
            return None
        if steps.error is not None or steps.is_deleted:
            return None  # `step` raises why
        return steps if self._buffered else None

    @property
    def takes_plain_steps(self) -> bool:
        """Whether steps may go to `plain_steps`: a subclass may want to see each of them."""
        own = type(self)
        return all(getattr(own, name) is getattr(EpisodeHandler, name) for name in _SEES_STEPS)

    def _begins_plainly(self, schema: StepSchema) -> bool:
        """Whether `_begin_plainly` may begin the next episode, if its rows have this schema."""
        is_alike = self.writing is None and self._schema is schema
        return is_alike and self._buffered and type(self).begin is EpisodeHandler.begin

    def _begin_plainly(self, begun: Beginning, blobs: Mapping[str, bytes]) -> StepOutbox:
        """Begin an episode whose rows somebody else writes, row 0 among them.

        Args:
            begun: The episode.
            blobs: As in `begin`.
        """
        assert self._schema is not None
        self.annotation = None
        steps = self._new_steps(begun, self._schema, blobs)
        self._steps = self.writing = steps
        return steps

    def _merge_annotation(self, said: dict[str, Any]) -> None:
        """Add to the annotation of the next step; nobody else may change this, or what is in it."""
        known = self.annotation
        self.annotation = {**known, **said} if known else said

    @property
    def was_deleted(self) -> bool:
        """Whether the episode that was written last has been deleted since."""
        return self._steps is not None and self._steps.is_deleted

    @property
    def newest_at(self) -> float:
        """Timestamp of the newest step, epoch seconds; none: long ago."""
        return -math.inf if self._steps is None else self._steps.newest_at

    def end(self, status: EpisodeStatus) -> None:
        """The episode is over. A second call does nothing."""
        steps = self.writing
        if steps is not None:
            self._end(steps, status)
            if steps.error is not None or not self._buffered:
                self._after_append("It is over, and that")

    def _end(self, steps: StepOutbox, status: EpisodeStatus) -> None:
        self._schema = steps.schema
        steps.end(status)
        self.writing = None  # last, so that one more call completes one that Ctrl-C has cut off

    def _end_written(self, steps: StepOutbox, status: EpisodeStatus) -> None:
        """The episode is over; its last row has been written past this handler."""
        self._end(steps, status)
        if steps.error is not None:
            self._after_append(_MOVED)

    def _after_append(self, what: str) -> None:
        """Keep the promises of the write mode for what waits now."""
        steps = self._steps
        if steps is None:
            return
        if steps.is_deleted:
            self.writing = None
            return
        try:
            self._connection.writer.after_append(steps, steps.pending_bytes)
        except JamboreeError as error:
            if steps.error is not None:  # nothing more of it can be written: said once
                self.writing = None
                raise
            if isinstance(error, (StoreFull, StoreUnavailable)):
                raise unconfirmed(error, what) from error
            raise
        if steps.is_deleted:  # the delivery has found out
            self.writing = None

    def save(self, record: Mapping[str, Any]) -> None:
        """Save one step as a dict with the arguments of `step`."""
        self._connection.writer.backpressure.admit()
        try:
            self.step(**record)
        except TypeError:
            self._check_arguments(record)  # only then: it takes longer than the step
            raise

    def _check_arguments(self, record: Mapping[str, Any]) -> None:
        try:
            signature(self.step).bind(**record)
        except TypeError as error:
            raise InvalidRecord(f"{self._name}.save: not a step: {error}") from error

    def save_many(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Save several steps."""
        for record in records:
            self.save(record)

    # -- reading ----------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return self._connection.keyspace.episode(self["episode"])

    @property
    def episode(self) -> Episode:
        """The episode of `handler["episode"]`."""
        return Episode(self._connection, self["episode"])

    @checked
    def recent(self, n: Count) -> Transitions:
        """The newest n steps as arrays, oldest first; from memory while this handler writes them.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        steps = self._steps
        found = None if steps is None or steps.is_deleted else newest_transitions(steps, n)
        return self.episode.recent(n) if found is None else found

    @property
    def transactions(self) -> vaex.dataframe.DataFrame:
        """The newest `limit` steps as a vaex DataFrame, newest first (columns: `Episode.frame`)."""
        return to_frame(reversed_transitions(self.recent(self.limit)))

    @checked
    def many(self, limit: Count) -> list[dict[str, Any]]:
        """The newest `limit` steps as dicts (fields of `StepData`), oldest first."""
        try:
            return _as_dicts(self.recent(limit)) if limit > 0 else []
        except EpisodeNotFound:
            return []

    @checked
    def between(self, t0: EpochSeconds, t1: EpochSeconds) -> list[dict[str, Any]]:
        """Steps with t0 <= timestamp <= t1 (epoch seconds) as dicts, oldest first."""
        try:
            return _as_dicts(self.episode.between(t0, t1))
        except EpisodeNotFound:
            return []

    @checked
    def as_of(self, t: EpochSeconds) -> dict[str, Any] | None:
        """The newest step with timestamp <= t (epoch seconds) as a dict; None if there is none."""
        try:
            step = self.episode.as_of(t)
        except EpisodeNotFound:
            return None
        return None if step is None else _as_dict(step)

    def count(self) -> int:
        """Number of steps."""
        return max(0, self._connection.store.count(self._settled_key()) - 1)

    @checked
    def tail(self, *, timeout_s: Seconds | None = None) -> Iterator[dict[str, Any]]:
        """Follow the episode until it ends, step by step."""
        return (_as_dict(step) for step in self.episode.tail(timeout_s=timeout_s))

    @checked
    async def atail(self, *, timeout_s: Seconds | None = None) -> AsyncIterator[dict[str, Any]]:
        """As `tail`, for an event loop, which it does not block."""
        async for step in self.episode.atail(timeout_s=timeout_s):
            yield _as_dict(step)

    @checked
    def pop(self, n: Count = 1) -> list[dict[str, Any]]:
        """Not for episodes: their steps stay together.

        Raises:
            InvalidRecord: Always.
        """
        raise InvalidRecord(f"the {n} oldest steps cannot be popped: an episode stays whole")

    def delete(self) -> None:
        """Delete the episode, from Redis and from the backup."""
        self.episode.delete()
        self._steps = self.writing = None

    def _settled_key(self) -> str:
        self._connection.settle(self._key)
        return self._key


def unconfirmed(
    error: StoreFull | StoreUnavailable, what: str = _MOVED
) -> StoreFull | StoreUnavailable:
    """The same, of something that waits in memory and is delivered later."""
    kind = StoreFull if isinstance(error, StoreFull) else StoreUnavailable
    told = kind(f"{str(error).rstrip('.')}. {what} waits in memory until Redis takes it")
    told.__cause__ = error
    return told


def _as_dicts(steps: Transitions) -> list[dict[str, Any]]:
    return [_as_dict(step) for step in steps]


def _as_dict(step: StepData) -> dict[str, Any]:
    return {field.name: getattr(step, field.name) for field in fields(step)}
