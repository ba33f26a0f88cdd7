"""What every recording wrapper does with the episodes of one environment."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from gymnasium import spaces

from jamboree_gym.arrays.layout import as_array, is_more_than_an_array
from jamboree_gym.arrays.marks import encode_marked
from jamboree_gym.arrays.values import check_text, decode_value, encode_value
from jamboree_gym.connection import HasConnection
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.info_codec import InfoEncoder, info_keys
from jamboree_gym.encoding.summary_codec import (
    Beginning,
    SummaryTemplate,
    encode_optional,
    encode_reset_origin,
)
from jamboree_gym.environment.outcomes import refusal
from jamboree_gym.errors import (
    InvalidArgument,
    InvalidRecord,
    JamboreeClosed,
    JamboreeError,
    NotReset,
    UnknownKey,
)
from jamboree_gym.journal.vector_block import BegunEpisode, SpanTitle
from jamboree_gym.keys import digest
from jamboree_gym.process_life import follow_forks
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary

__all__ = ["EpisodeRecorder", "closed_environment"]

_NUMBERS = frozenset({bool, int, float, np.float64, np.float32, np.int64})
_SCALARS = (bool, int, float, bytes, np.generic)

log = logging.getLogger(__name__)


class EpisodeRecorder:
    """Writes the episodes of one environment through a handler, one after the other.

    Args:
        jam: Where to record.
        observation_space: Of the one environment, not of a batch.
        action_space: Of the one environment.
        env_id: Gymnasium id, `""` where there is none.
        provenance: What `provenance.describe` says of the environment.
        options: How they are recorded.
        vector_index: Which sub-environment of a vector environment it is.

    Raises:
        UnsupportedSpace: A space cannot be recorded; names it.
        InvalidRecord: A tag cannot be kept.
        InvalidArgument: The run is no name, the tags are no dict, or the keys of infos are none.

    Attributes:
        jam: Where it records.
        handler: Stands on the current episode, and takes its steps.
    """

    def __init__(
        self,
        jam: HasConnection,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        env_id: str,
        provenance: bytes,
        options: RecordOptions,
        vector_index: int | None = None,
    ) -> None:
        run = options.run
        self.jam = jam._connection
        self.jam.check_open()
        self.handler = options.handler_class()
        self.handler.event = jam
        self.handler.use_spaces(observation_space, action_space)
        self.handler.info_keys = info_keys(options.record_infos)
        self.handler.strict_infos = options.strict_infos
        self.run = self.jam.own_run if run is None else check_text("run", run, InvalidArgument)
        self._env_id = check_text("env_id", env_id)
        self._tags = decode_value(
            encode_value(self.jam.check_tags(options.tags or {})), where="memory"
        )
        self._vector_index = vector_index
        self._provenance = digest(provenance)
        self._blobs = {self._provenance: provenance}
        self._reset_options = InfoEncoder()
        self._template: SummaryTemplate | None = None
        self._use_template()
        follow_forks(self)

    def _use_template(self) -> SummaryTemplate:
        """A template that fits the summaries of most episodes."""
        template = SummaryTemplate(
            EpisodeSummary(
                *("", self._env_id, self.run, "running", 0, 0.0, 0.0, 0.0, None),
                *(self._tags, self._vector_index, self.jam.writer_name),
            )
        )
        self._template = self.handler.summary_template = template
        return template

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the episode stays with this recorder."""
        if self.is_recording:
            log.info("episode %s is recorded where it began, not by the copy", self.episode_id)
        return {**vars(self), "_reset_options": InfoEncoder(), "_template": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Record there: the next reset begins an episode."""
        vars(self).update(state)
        self._use_template()
        follow_forks(self)

    @property
    def is_recording(self) -> bool:
        """Whether an episode has begun and not ended."""
        return self.handler.writing is not None

    @property
    def episode_id(self) -> str:
        """Id of the current episode.

        Raises:
            NotReset: There is none yet.
        """
        try:
            episode_id: str = self.handler["episode"]
        except UnknownKey as error:
            raise NotReset("there is no episode yet: call reset() first") from error
        return episode_id

    def kept_options(self, options: Any) -> Any:
        """A copy of reset options, to be made before the environment gets them.

        Whatever they are: what cannot be stored leaves a mark.
        """
        return None if options is None else self._reset_options.copy(options)

    def admit(self) -> None:
        """To be called before the environment moves: it has not moved if this raises.

        Blocks, or raises, while `max_pending_bytes` wait for a Redis that does not answer.

        Raises:
            StoreUnavailable: So much waits, and the Jamboree was opened with `when_full="raise"`.
                Nothing is lost: repeat the call when Redis is back.
        """
        self.jam.writer.backpressure.admit()

    def begin(
        self,
        observation: Any,
        info: Mapping[str, Any],
        *,
        seed: int | None = None,
        rng_state: Mapping[str, Any] | None = None,
        options: Any = None,
        follows: str | None = None,
        parent: EpisodeSummary | None = None,
        fork_step: int | None = None,
        carried: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin an episode with what a reset returned; one that has not ended is abandoned.

        Or, as the child of another one, with what that one's environment returned last.

        Raises:
            InvalidRecord: It cannot be begun with this: nothing is recorded until the next one.
            JamboreeError: What was recorded, of this episode or of the one before, is not confirmed
                or cannot be written. This one has begun all the same.
        """
        seed = _own_seed(seed)
        id, started_at = self._new_stamp()
        failure: JamboreeError | None = None
        if self.handler.writing is not None:
            try:
                self.abandon()
            except JamboreeError as error:
                failure = error
        if parent is None and self._has_one_template:
            begun = self._beginning(id, started_at, seed, rng_state, options, follows, carried)
            self.handler._begin(begun, observation, info, self._blobs)
        else:
            summary = self._new_summary(id, started_at, seed, parent, fork_step)
            self.handler.begin(
                observation,
                info,
                summary=summary,
                origin=EpisodeOrigin(
                    seed,
                    rng_state,
                    options,
                    self._provenance,
                    follows,
                    summary.parent,
                    fork_step,
                    carried,
                ),
                blobs=self._blobs,
            )
        if failure is not None:
            raise failure

    def _beginning(
        self,
        id: str,
        started_at: float,
        seed: Any,
        rng_state: Mapping[str, Any] | None,
        options: Any,
        follows: str | None,
        carried: Sequence[Mapping[str, Any]] | None,
    ) -> Beginning:
        """An episode that is no fork: its summary has the template of most."""
        encoded_seed = encode_optional(seed)
        origin = encode_reset_origin(
            self._provenance,
            rng_state,
            follows,
            seed=encoded_seed,
            options=options,
            carried=carried,
        )
        template = self._template or self._use_template()
        return Beginning(id, started_at, encoded_seed, origin, template)

    def begin_plainly(
        self,
        id: str,
        started_at: float,
        rng_state: Mapping[str, Any] | None,
        follows: str | None,
    ) -> tuple[StepOutbox, SpanTitle]:
        """Begin an episode, without a seed or an info, whose rows somebody else writes.

        Args:
            id: Of the episode.
            started_at: Timestamp of row 0, epoch seconds.
            rng_state: As in `begin`.
            follows: Likewise.

        Returns:
            What it is written to, and what the journal has to know of it.
        """
        begun = self._beginning(id, started_at, None, rng_state, None, follows, None)
        steps = self.handler._begin_plainly(begun, self._blobs)
        return steps, SpanTitle(
            steps.key, id, BegunEpisode(self._env_id, started_at, begun.origin, self._provenance)
        )

    @property
    def _has_one_template(self) -> bool:
        """Whether all its episodes that are no forks share the template of their summaries."""
        return type(self.handler).begin is EpisodeHandler.begin  # else it wants to see them

    def _new_stamp(self) -> tuple[str, float]:
        """Id and start time of an episode that begins now."""
        jam = self.jam
        return jam.new_episode_id(), jam.start_time(after=self.handler.newest_at)

    def _new_summary(
        self,
        id: str,
        started_at: float,
        seed: Any,
        parent: EpisodeSummary | None,
        fork_step: int | None,
    ) -> EpisodeSummary:
        """That of an episode that begins with this id at this time."""
        parent_id, parent_run = (None, None) if parent is None else (parent.id, parent.run)
        return EpisodeSummary(  # by position: keywords take twice as long
            id,
            self._env_id,
            self.run,
            "running",
            0,  # steps
            0.0,  # episode_return
            started_at,
            0.0,  # elapsed_s
            seed,
            self._tags,
            self._vector_index,
            self.jam.writer_name,
            parent_id,
            fork_step,
            parent_run,
        )

    def annotate(self, values: Mapping[str, Any]) -> None:
        """Keep this beside the next step, with what was said of it before.

        Raises:
            InvalidRecord: A value cannot be stored; names it.
        """
        said = {}
        try:
            for name, value in values.items():
                is_plain = name.__class__ is str and name.isascii()
                own_name = name if is_plain else check_text("name", name)
                said[own_name] = value if value.__class__ in _NUMBERS else _copied(value)
        except Exception as error:
            raise refusal("annotation", error) from error
        self.handler._merge_annotation(said)

    def abandon(self) -> None:
        """End an episode that has not ended."""
        self.handler.end("abandoned")

    def break_off(self) -> None:
        """A call did not come to its end, so the environment may have moved: nothing can follow."""
        with suppress(JamboreeError):  # what is not saved, flush and close will say
            self.handler.end("abandoned")
        self.handler.writing = None

    def say_unrecorded(self, error: BaseException) -> None:
        """Warn that nothing is recorded; not after a Ctrl-C, which the user has seen."""
        if isinstance(error, Exception):
            log.warning("a reset failed (%s): nothing is recorded until the next one", error)

    def after_fork_in_child(self) -> None:
        """The episode stays with the parent process; here, the next reset begins one."""
        self._template = None  # it names the parent as writer
        if self.is_recording:
            self.handler.writing = None
            log.info("episode %s is recorded by the parent of this process", self.episode_id)


def _own_seed(seed: Any) -> Any:
    """A seed that nobody changes: a list of numbers would be written again with each summary."""
    if seed is None or seed.__class__ is int:
        return seed
    try:
        return decode_value(encode_value(seed), where="memory")
    except InvalidRecord as error:
        raise refusal("seed", error) from error


def _copied(value: Any) -> Any:
    """A copy. What NumPy can make an array of numbers of (lists, tensors) becomes one."""
    if isinstance(value, str):
        return check_text("value", value)
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, dict):
        names = [check_text("key", name) if isinstance(name, str) else name for name in value]
        return dict(zip(names, map(_copied, value.values()), strict=True))
    array = None if is_more_than_an_array(value) else as_array(value)
    if array is not None:
        return np.array(array)
    return decode_value(encode_marked(value), where="memory")  # a deep copy of what is kept


def closed_environment() -> JamboreeClosed:
    """What a step of a closed environment raises."""
    return JamboreeClosed("this environment is closed: call reset() first, or make a new one")
