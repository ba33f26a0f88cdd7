"""What every recording wrapper of a vector environment does with its sub-environments."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.arrays.layout import NOTHING, Leaf
from jamboree_gym.arrays.step_schema import ONE_NUMBER, StepSchema
from jamboree_gym.connection import HasConnection
from jamboree_gym.delivery.row_writer import CHECK_EVERY_BYTES, ROW_OVERHEAD_BYTES
from jamboree_gym.environment.outcomes import raise_refused, refusal
from jamboree_gym.environment.provenance import carries_over, describe_sub_env, env_id_of
from jamboree_gym.errors import InvalidRecord, JamboreeError, UnsupportedSpace
from jamboree_gym.recording.annotations import AnnotationColumns, each
from jamboree_gym.recording.batch_packing import BatchPacker, rewards_of, rewards_together
from jamboree_gym.recording.block_steps import BLOCKS_FROM, BatchedStep, BlockSteps
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.recording.recorder import EpisodeRecorder, closed_environment

__all__ = ["VectorRecorder"]

NOBODY: Mapping[int, Mapping[str, Any] | None] = MappingProxyType({})
_LOST = (InvalidRecord, UnsupportedSpace)  # what these are about was not recorded

SubEnv = gym.Env[Any, Any] | EnvSpec | None


class Call:
    """One call of a vector environment.

    Attributes:
        returned: What it returned.
    """

    returned: Any = None


class VectorRecorder:
    """Writes the episodes of all sub-environments, each through a separate `EpisodeRecorder`.

    What one sub-environment returned that cannot be kept does not keep the others from being
    recorded: within `batch()`, errors wait until all have had their turn.

    Args:
        jam: Where to record.
        observation_space: Of one sub-environment.
        action_space: Likewise.
        sub_envs: The sub-environments, or their specs where they live in other processes.
        vector: What provenance says of the vector environment: see `describe_sub_env`.
        options: How episodes are recorded.

    Raises:
        UnsupportedSpace: A space cannot be recorded; names it.
        InvalidRecord: A tag cannot be kept.
        InvalidArgument: The run is no name, or the tags are no dict.

    Attributes:
        run: Name of the run.
        errors: What `begin` and `step` have met, and nobody has raised yet.
        has_blocks: Whether `step_together` is to be tried first.
        is_closed: Whether the vector environment was closed, and not reset since.
    """

    def __init__(
        self,
        jam: HasConnection,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        sub_envs: Sequence[SubEnv],
        *,
        vector: Mapping[str, Any],
        options: RecordOptions,
    ) -> None:
        self._recorders = [
            EpisodeRecorder(
                jam,
                observation_space,
                action_space,
                env_id=env_id_of(env),
                provenance=describe_sub_env(env, observation_space, action_space, vector=vector),
                options=options,
                vector_index=index,
            )
            for index, env in enumerate(sub_envs)
        ]
        self.run = self._recorders[0].run
        self.is_closed = False
        # Of one that is replayed as a whole, too: so a replay knows whether an episode is missing.
        self._remembers = bool(vector["independent"]) or "recording" in vector
        self._carries_over = [carries_over(env, wrappers=True) for env in sub_envs]
        self._tags = dict(options.tags or {})
        self._begin_anew()

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the episodes stay with this recorder."""
        lasting = ("_recorders", "run", "is_closed", "_remembers", "_carries_over", "_tags")
        return {name: getattr(self, name) for name in lasting}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Record there: the next resets begin episodes."""
        vars(self).update(state)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """As it is before the first reset."""
        # Of each, the newest episode, if every step that was taken since it began is in it.
        self._unbroken: list[str | None] = [None] * len(self._recorders)
        self.errors: list[Exception] = []
        self._jam = self._recorders[0].jam
        self._clock = self._jam.clock
        self._handlers = self.handlers
        self._takes_plain_steps = self._handlers[0].takes_plain_steps
        self._observed = BatchPacker(len(self._recorders))
        self._acted = BatchPacker(len(self._recorders))
        self._reward_layout = ONE_NUMBER  # of the newest batch
        self._annotation_columns = AnnotationColumns({})  # of the newest `annotate_numbers`
        self._annotations: Sequence[tuple[Any, ...]] | None = None  # its numbers, of the next step
        self._no_annotations = (None,) * len(self._recorders)
        self._plain = StepSchema(NOTHING, NOTHING)  # of the newest plain step
        self._plain_columns = self._annotation_columns
        self._plain_step_bytes = 0
        self._plain_bytes = 0  # put by `step_plain`, roughly
        self._checked_bytes = 0  # when it was looked at last how much waits
        self._check_at_bytes = CHECK_EVERY_BYTES  # then it checks how much is waiting
        self._blocks: BlockSteps | None = None
        is_plain = all(handler.takes_plain_steps for handler in self._handlers)
        self.has_blocks = is_plain and len(self._recorders) >= BLOCKS_FROM and self._jam.is_buffered
        if self.has_blocks:
            self._blocks = BlockSteps(self._jam, self._recorders, self._tags)

    @property
    def handlers(self) -> list[EpisodeHandler]:
        """The handlers that write; each stands on its sub-environment's current episode."""
        return [recorder.handler for recorder in self._recorders]

    @property
    def info_keys(self) -> Collection[str] | None:
        """Which keys of infos are kept; None = all."""
        return self._handlers[0].info_keys

    @property
    def episode_ids(self) -> list[str]:
        """Ids of the current episodes."""
        return [recorder.episode_id for recorder in self._recorders]

    def kept_options(self, options: Any) -> Any:
        """A copy of reset options, to be made before the environment gets them."""
        return self._recorders[0].kept_options(options)

    @contextmanager
    def batch(self, what: str = "step") -> Iterator[Call]:
        """Around one call of the vector environment and the recording of what it returned.

        An error of the environment leaves it unknown which sub-environments have moved: there may
        be a gap, so all episodes are abandoned, and recording continues with the next ones.

        Args:
            what: The call's name.

        Yields:
            The call, to be told what the environment returned.

        Raises:
            Exception: The first that `begin` or `step` has met, if possible one that ended an
                episode; all others were recorded.
        """
        call = Call()
        try:
            yield call
        except BaseException as error:
            self.lose_track(what, error, call.returned)
            raise
        if self.errors:
            self.raise_errors(what, call.returned)

    def raise_errors(self, what: str, returned: Any) -> NoReturn:
        """Raise the first of `errors`, as `batch` does, which calls this.

        Args:
            what: The call's name.
            returned: What the environment returned.
        """
        errors, self.errors = self.errors, []
        first = next((one for one in errors if isinstance(one, _LOST)), errors[0])
        raise_refused(what, first, returned)

    def lose_track(self, what: str, error: BaseException, returned: Any) -> None:
        """A call has failed, and perhaps some environments have moved: abandon all episodes.

        `batch` calls this, and so does a hot path that can't afford a context manager.

        Args:
            what: The call's name.
            error: Why it failed; raise it again afterwards.
            returned: What the environment returned; None if it raised.

        Raises:
            JamboreeError: What the environment returned can't be recorded.
        """
        self.errors.clear()
        if self._blocks is not None:
            with suppress(JamboreeError):
                self._blocks.drop_block()
        self._unbroken = [None] * len(self._recorders)
        with suppress(JamboreeError):  # another error is on its way
            self.abandon()
        if returned is not None and isinstance(error, Exception):
            raise_refused(what, error, returned)

    def begin(
        self,
        index: int,
        observation: Any,
        info: Mapping[str, Any],
        *,
        seed: int | None = None,
        rng_state: Mapping[str, Any] | None = None,
        options: Any = None,
    ) -> None:
        """Begin an episode of one sub-environment; one that has not ended is abandoned.

        It follows the episode before it where neither seed nor state of the generator are known,
        or where these do not tell all.
        """
        if self._annotations is not None:
            self._hand_out_annotations()
        follows = self._follows(index, is_known=seed is not None or rng_state is not None)
        self._unbroken[index] = None
        recorder = self._recorders[index]
        try:
            recorder.begin(
                observation,
                info,
                seed=seed,
                rng_state=rng_state,
                options=options,
                follows=follows,
            )
        except Exception as error:  # noqa: BLE001 - raised by `batch`
            self.errors.append(_named(error, index))
            if not recorder.is_recording:
                recorder.say_unrecorded(error)
        if recorder.is_recording and self._remembers:  # also where it waits in memory
            self._unbroken[index] = recorder.episode_id

    def _follows(self, index: int, *, is_known: bool) -> str | None:
        """The episode that the next one follows; `is_known` says whether a reset says how."""
        begins_anew = is_known and not self._carries_over[index]
        return None if begins_anew else self._unbroken[index]

    def step(
        self,
        index: int,
        action: Any,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any],
    ) -> None:
        """Keep one step of one sub-environment, unless nothing is being recorded there."""
        if self._annotations is not None:
            self._hand_out_annotations()
        recorder = self._recorders[index]
        if not recorder.is_recording:
            self._unbroken[index] = None
            return
        try:
            recorder.handler.step(action, observation, reward, terminated, truncated, info)
        except Exception as error:  # noqa: BLE001 - raised by `batch`
            self._refused(index, error)

    def _refused(self, index: int, error: Exception) -> None:
        """A step of one sub-environment was not recorded, or Redis has not confirmed it."""
        self.errors.append(_named(error, index))
        if isinstance(error, _LOST) or not isinstance(error, JamboreeError):
            self._give_up(index)

    def admit(self) -> None:
        """As `EpisodeRecorder.admit`: to be called before the environments move.

        Raises:
            JamboreeClosed: The vector environment was closed, and not reset since.
        """
        if self.is_closed:
            raise closed_environment()
        backpressure = self._jam.writer.backpressure
        if backpressure.is_on:
            backpressure.admit()

    def pack_actions(self, actions: Any) -> Sequence[Any] | None:
        """Pack the actions of the step that comes, before the environment gets them.

        Returns:
            One for each sub-environment; None if they are no array of numbers.
        """
        return self._acted.pack(actions)

    def unpacked_action(self, packed_action: Any) -> Any:
        """One of the actions that were packed last, as the environment got it."""
        return self._acted.unpack(packed_action)

    def step_plain(
        self,
        packed_actions: Sequence[Any],
        observations: Any,
        rewards: Any,
        skipped: Collection[int],
        infos: Mapping[int, Mapping[str, Any]],
    ) -> bool:
        """Keep one step of all sub-environments at once, if it is as plain as most are.

        It is, if actions and observations are arrays of numbers, and no episode ends. A
        sub-environment that needs more is recorded by itself: one whose layout changes, or one that
        alone has an annotation.

        Args:
            packed_actions: From `pack_actions`.
            observations: A batch.
            rewards: A batch.
            skipped: Sub-environments that are not concerned.
            infos: Those that are not empty.

        Returns:
            Whether it was done; if not, nothing was.
        """
        packed_observations = self._observed.pack(observations)
        gains: Sequence[float | bytes] | None = rewards_of(rewards, len(self._handlers))
        if gains is None:
            gains = self._packed_rewards(rewards)
        else:
            self._reward_layout = ONE_NUMBER
        if packed_observations is None or gains is None or not self._takes_plain_steps:
            return False
        schema = self._plain_schema()
        annotations, self._annotations = self._annotations or self._no_annotations, None
        now = self._clock()
        for index, handler in enumerate(self._handlers):
            annotation = annotations[index]
            steps = None if index in skipped else handler.plain_steps(schema)
            if steps is not None:
                try:
                    info = handler._quickly_encoded(infos[index]) if index in infos else None
                    steps.add_plain_step(
                        packed_actions[index],
                        packed_observations[index],
                        gains[index],
                        now,
                        annotation,
                        info,
                    )
                except Exception as error:  # noqa: BLE001 - raised by `batch`
                    self._refused(index, error)
                    continue
                if info is not None:
                    self._plain_bytes += len(info)
                continue
            if annotation is not None:
                handler._merge_annotation(self._annotation_columns.annotation(annotation))
            if index not in skipped:
                action = self.unpacked_action(packed_actions[index])
                outcome = (rewards[index], False, False)
                self.step(index, action, observations[index], *outcome, infos.get(index, {}))
        self._look_at_what_waits(CHECK_EVERY_BYTES)
        return True

    def step_together(
        self,
        actions: Any,
        observations: Any,
        rewards: Any,
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        *,
        alone: Collection[int],
        ended: Collection[int] = (),
        resets: Mapping[int, Mapping[str, Any] | None] = NOBODY,
    ) -> Collection[int] | None:
        """Keep one step of all sub-environments at once, where it is as plain as most are.

        It is, if actions and observations are arrays of numbers, and there are no infos.

        Args:
            actions: A batch of our own, as it was before the environments got it.
            observations: A batch.
            rewards: A batch.
            terminated: Flags, (size,).
            truncated: Flags, (size,).
            alone: Those that need more.
            ended: Those whose episode ends with this step.
            resets: Those whose episode begins with it, and the state of the generator before.

        Returns:
            Those that have to be recorded one by one; None if all have to be.
        """
        blocks = self._blocks
        if blocks is None:
            return None
        known = (self._observed.layout_for(observations), self._acted.layout_for(actions))
        gains = rewards_together(rewards, len(self._handlers))
        if None in known or gains is None:
            self.leave_blocks()
            return None
        self._see_rewards(gains)
        schema = self._plain_schema()
        if not blocks.takes(schema):
            self.leave_blocks()
            return None
        annotations, self._annotations = self._annotations, None
        step = BatchedStep(
            schema,
            actions,
            observations,
            gains,
            terminated,
            truncated,
            ended,
            resets,
            alone,
            annotations,
        )
        follows = {i: self._follows(i, is_known=state is not None) for i, state in resets.items()}
        left = set(blocks.step(step, follows))
        if left:
            left -= self._step_outside(step, left.difference(alone, resets, ended))
        if self._remembers:
            for index in resets:
                writing = self._handlers[index].writing
                if index not in left and writing is not None:
                    self._unbroken[index] = writing.id
        if annotations is not None:
            for index in left:
                handler = self._handlers[index]
                handler._merge_annotation(self._annotation_columns.annotation(annotations[index]))
        self.errors += [_named(error, index) for index, error in blocks.announce()]
        self._look_at_what_waits(4 * CHECK_EVERY_BYTES)
        return left

    def _step_outside(self, step: BatchedStep, waiting: Collection[int]) -> set[int]:
        """Keep a plain step of those that are not in the block yet; for whom it was done."""
        done: set[int] = set()
        now = self._clock()
        schema, annotations = step.schema, step.annotations or self._no_annotations
        for index in waiting:
            steps = self._handlers[index].plain_steps(schema)
            if steps is None:
                continue
            done.add(index)
            try:
                steps.add_plain_step(
                    schema.pack_action(step.actions[index]),
                    schema.pack_observation(step.observations[index]),
                    float(step.rewards[index])
                    if schema.has_one_number
                    else step.rewards[index].tobytes(),
                    now,
                    annotations[index],
                )
            except Exception as error:  # noqa: BLE001 - raised by `batch`
                self._refused(index, error)
        return done

    def leave_blocks(self) -> None:
        """The next steps are recorded one by one."""
        if self._blocks is not None:
            self._blocks.leave()

    def _look_at_what_waits(self, check_every_bytes: int) -> None:
        self._plain_bytes += self._plain_step_bytes
        writer = self._jam.writer
        is_late = time.monotonic() > writer.schedule.late_at
        if self._plain_bytes >= self._check_at_bytes:
            self._checked_bytes = self._plain_bytes
            self._check_at_bytes = self._plain_bytes + check_every_bytes
            writer.backpressure.check(self._checked_bytes)
        elif is_late:
            writer.backpressure.check(self._checked_bytes)  # of all that waits, adds up nothing

    def _see_rewards(self, rewards: npt.NDArray[Any]) -> None:
        """Remember the layout of a reward of this batch."""
        if rewards.ndim == 1:
            self._reward_layout = ONE_NUMBER
        else:
            leaf = Leaf(rewards.dtype, rewards.shape[1:], "array")
            if leaf != self._reward_layout:
                self._reward_layout = leaf

    def _packed_rewards(self, batch: Any) -> Sequence[bytes] | None:
        """Rewards that are arrays, packed; None if they are something else."""
        rewards = rewards_together(batch, len(self._handlers))
        if rewards is None or rewards.ndim == 1:
            return None
        self._see_rewards(rewards)
        return [reward.tobytes() for reward in rewards]

    def _plain_schema(self) -> StepSchema:
        """The schema of plain steps with the layouts of the newest batches and annotations."""
        schema = self._plain
        if (
            schema.observation is not self._observed.layout
            or schema.action is not self._acted.layout
            or self._plain_columns is not self._annotation_columns
            or schema.reward is not self._reward_layout
        ):
            schema = self._use_plain_schema()
        return schema

    def _use_plain_schema(self) -> StepSchema:
        """The schema of plain steps with the layouts of the newest batches and annotations."""
        layouts = (self._observed.layout or NOTHING, self._acted.layout or NOTHING)
        annotation = self._annotation_columns.layout
        self._plain = schema = StepSchema(*layouts, annotation, self._reward_layout).shared
        # The very objects of the schema, so that the next step need not compare what is in them.
        self._observed.layout, self._acted.layout = schema.observation, schema.action
        self._plain_columns, self._reward_layout = self._annotation_columns, schema.reward
        self._plain_step_bytes = len(self._handlers) * (schema.row_bytes + ROW_OVERHEAD_BYTES)
        return schema

    def annotate(self, values: Mapping[str, Any]) -> None:
        """Keep this beside the next step of each sub-environment.

        Args:
            values: By name; a scalar for all alike, else an array, list or dict of such with one
                value for each.

        Raises:
            InvalidRecord: A value has another length, or cannot be stored; names it.
        """
        if self._annotations is not None:
            self._hand_out_annotations()
        for recorder, share in zip(
            self._recorders, each(values, len(self._recorders)), strict=True
        ):
            recorder.annotate(share)

    def annotate_numbers(
        self, columns: AnnotationColumns, numbers: Sequence[tuple[Any, ...]]
    ) -> None:
        """As `annotate`, but quick: one call a step, which merges and copies nothing.

        Args:
            columns: What the numbers are. Give the same object at each step: a new one costs a
                comparison of layouts.
            numbers: Of each sub-environment a tuple with a number for each column: Python's own,
                exact in its dtype.
        """
        if self._annotations is not None and columns is not self._annotation_columns:
            self._hand_out_annotations()
        self._annotation_columns, self._annotations = columns, numbers

    def drop_annotations(self) -> None:
        """What was said of the next step is not recorded."""
        self._annotations = None
        for handler in self._handlers:
            handler.annotation = None

    def _hand_out_annotations(self) -> None:
        """Give each handler its own part of `annotate_numbers`: its next step is not plain."""
        annotations, self._annotations = self._annotations or (), None
        for handler, numbers in zip(self._handlers, annotations, strict=True):
            handler._merge_annotation(self._annotation_columns.annotation(numbers))

    def miss(self, index: int, error: Exception) -> None:
        """A step of one sub-environment cannot be kept, so its episode is abandoned."""
        if self._recorders[index].is_recording:
            told = error if isinstance(error, JamboreeError) else refusal("step", error)
            self.errors.append(_named(told, index))
        self._give_up(index)

    def _give_up(self, index: int) -> None:
        """There would be a gap: the rest of the episode is not recorded."""
        self._unbroken[index] = None
        self._recorders[index].break_off()

    def abandon(self) -> None:
        """End all episodes that have not ended.

        Raises:
            JamboreeError: One of them could not be ended; the others were.
        """
        errors = []
        for recorder in self._recorders:
            try:
                recorder.abandon()
            except JamboreeError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _named(error: Exception, index: int) -> Exception:
    note = f"in sub-environment {index} of a vector environment"
    if note not in getattr(error, "__notes__", ()):  # one error may be raised again and again
        error.add_note(note)
    return error
