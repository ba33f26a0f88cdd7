"""`RecordEpisodes`: every reset and step of an environment goes into an episode's log."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, SupportsFloat, TypeVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.environment.outcomes import raise_refused
from jamboree_gym.environment.provenance import carries_over, describe, env_id_of, rng_state_of
from jamboree_gym.environment.wrapper_state import (
    carriers_of,
    has_carriers,
    is_in_mid_game,
    take_carried,
)
from jamboree_gym.errors import (
    InvalidArgument,
    InvalidRecord,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.handlers.rendered_frames import (
    RENDER_MODE,
    RecordFrames,
    RenderRecorder,
    rendered,
)
from jamboree_gym.handlers.snapshots import SnapshotRecorder
from jamboree_gym.recording.episode_handler import EpisodeHandler, unconfirmed
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.recording.plain_steps import add_plain_step
from jamboree_gym.recording.recorder import EpisodeRecorder, closed_environment
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.wrappers.returned import NoResult, of_reset, of_step

__all__ = ["RecordEpisodes"]

ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")


class RecordEpisodes(gym.Wrapper[ObsType, ActType, ObsType, ActType]):
    """Records every episode of an environment; changes nothing of what it does or returns.

    An episode that is reset or closed before its end is `abandoned`. The seed of a reset is
    recorded; without a seed, the state of the environment's random generator just before it, so
    that unseeded episodes can be replayed, too.

    Example:
        >>> env = RecordEpisodes(gym.make("CartPole-v1"), jam, run="first")
        >>> observation, info = env.reset(seed=1)
        >>> observation, reward, terminated, truncated, info = env.step(0)
        >>> len(jam.episode(env.episode_id))
        1

    Args:
        env: An environment with spaces of Gymnasium, which may be nested.
        jam: Where to record. It stays open when the environment is closed.
        run: Name of the run that the episodes belong to; None = the Jamboree's own.
        tags: Values by which episodes can be found: `{"lr": 3e-4, "branch": "main"}`.
        handler_class: `EpisodeHandler` or a subclass.
        record_infos: Whether to record infos, or a list of the keys to record.
        strict_infos: Whether an info that cannot be stored is an error, which abandons the episode.
            If False, a mark takes the place of such a value, and one warning is logged.
        record_frames: Record what `env.render()` returns: k for every k-th step (the reset is step
            0), or a function from the number of a step to whether its frame is recorded. Off by
            default, because a replay can render frames again.
        snapshot_every: Record the environment's state after the reset and after every k-th step, so
            that forks need not play all steps again; None = no snapshots.

    Attributes:
        handler: The handler that writes the current episode.

    Raises:
        UnsupportedSpace: A space cannot be recorded; names it.
        InvalidRecord: A tag cannot be stored; names it.
        InvalidArgument: An argument is invalid; names it. Or the environment was not made with
            `render_mode="rgb_array"` and cannot render frames, or it offers no snapshots.
    """

    @checked
    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        jam: HasConnection,
        *,
        run: str | None = None,
        tags: Mapping[str, Any] | None = None,
        handler_class: type[EpisodeHandler] = EpisodeHandler,
        record_infos: bool | Collection[str] = True,
        strict_infos: bool = False,
        record_frames: RecordFrames = None,
        snapshot_every: int | None = None,
    ) -> None:
        super().__init__(env)
        self._recorder = EpisodeRecorder(
            jam,
            env.observation_space,
            env.action_space,
            env_id=env_id_of(env),
            provenance=describe(env),
            options=RecordOptions(run, tags, handler_class, record_infos, strict_infos),
        )
        self.handler = self._recorder.handler
        self._base = env.unwrapped
        self._carries_over = carries_over(env)
        self._carriers = carriers_of(env)
        self._may_be_in_mid_game = has_carriers(env)
        self._is_closed = False
        self._unbroken: str | None = None  # newest episode, if every step since it began is in it
        self._sidecars: list[RenderRecorder | SnapshotRecorder] = []
        if record_frames is not None and record_frames is not False:
            _check_render_mode(env)
            self._sidecars.append(RenderRecorder(jam, partial(rendered, env), record_frames))
        if snapshot_every is not None:
            self._sidecars.append(SnapshotRecorder(jam, env, snapshot_every))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied. The episode stays with this one: a reset begins the next."""
        follows = None if self._recorder.is_recording else self._unbroken
        return {**vars(self), "_unbroken": follows}

    @property
    def run(self) -> str:
        """Name of the run that the episodes belong to."""
        return self._recorder.run

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override] # as in gym.Wrapper itself
        """Spec of the environment, without the recorder."""
        return self.env.spec

    @property
    def episode_id(self) -> str:
        """Id of the current episode.

        Raises:
            NotReset: There is none yet.
        """
        return self._recorder.episode_id

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Reset the environment and begin a new episode.

        Raises:
            StoreUnavailable, StoreFull: As `step`.
            InvalidRecord: The result cannot be recorded; nothing is recorded until the next reset.
        """
        self._recorder.admit()
        self._is_closed = False
        rng_state = None if seed is not None else rng_state_of(self._base)
        kept_options = self._recorder.kept_options(options)
        goes_on = self._carries_over or (self._may_be_in_mid_game and is_in_mid_game(self.env))
        follows, self._unbroken = self._unbroken if goes_on else None, None
        carried = take_carried(self._carriers) if self._carriers else None
        result = None
        try:
            result = self.env.reset(seed=seed, options=options)
            failure = self._begin(
                of_reset(result),
                seed=seed,
                rng_state=rng_state,
                options=kept_options,
                follows=follows,
                carried=carried,
            )
        except BaseException as error:
            self._recorder.break_off()
            self._recorder.say_unrecorded(error)
            if result is None or not isinstance(error, Exception):
                raise
            raise_refused("reset", error, result)
        if failure is not None:
            failure.returned = result
            raise failure
        return result

    def _begin(
        self, returned: tuple[ObsType, Mapping[str, Any]], **origin: Any
    ) -> JamboreeError | None:
        """Begin an episode; return why Redis has not confirmed it, if it has begun all the same."""
        failure: JamboreeError | None = None
        try:
            self._recorder.begin(*returned, **origin)
        except JamboreeError as error:
            if not self._recorder.is_recording:
                raise
            failure = error
        writing = self.handler.writing
        self._unbroken = None if writing is None else writing.id
        for sidecar in self._sidecars:
            try:
                sidecar.begin(self._recorder.episode_id)
            except (StoreFull, StoreUnavailable) as error:
                failure = failure or unconfirmed(error)
        return failure

    def begin_child(
        self,
        observation: ObsType,
        info: Mapping[str, Any],
        *,
        parent: EpisodeSummary,
        fork_step: int,
        rng_state: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin an episode in the environment's current state, as a child of the one it came from.

        Args:
            observation: The last observation that the environment returned.
            info: The info that came with it.
            parent: Summary of the episode whose steps were played.
            fork_step: Number of these steps.
            rng_state: A state that the environment's generator was set to since; None = it was not.
        """
        self._recorder.admit()
        failure = self._begin(
            (observation, info), rng_state=rng_state, parent=parent, fork_step=fork_step
        )
        if failure is not None:
            self._recorder.break_off()  # nobody will get the environment
            raise failure

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and record what it returned.

        A Ctrl-C in the middle abandons the episode, because the environment may have moved.

        Raises:
            StoreUnavailable, StoreFull: If its attribute `returned` is None, the environment has
                not moved: `max_pending_bytes` wait for a Redis that does not answer, and the
                Jamboree was opened with `when_full="raise"`. Repeat the call when Redis is back.
                Else, in `sync` and `fsync` mode, the environment has moved and Redis has not
                confirmed the step. It waits in memory and the episode continues: do not repeat the
                call, but take what it would have returned from `returned`.
            InvalidRecord: Something in the step cannot be recorded; the episode is abandoned.
            JamboreeClosed: The environment was closed, and not reset since.
        """
        handler = self.handler
        steps = handler.writing
        if steps is None:
            self._unbroken = None
            if self._is_closed:
                raise closed_environment()
            return self.env.step(action)
        if self._recorder.jam.writer.backpressure.is_on:
            self._recorder.admit()
        if steps.may_be_common:
            pack = steps.pack_action  # a call of a slot takes longer
            try:
                steps.packed_action = pack(action)
            except Exception:  # noqa: BLE001 - whatever it is, the slow way says it
                handler.set_action(action)
        else:
            handler.set_action(action)
        result: tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]] | None = None
        failure: JamboreeError | None = None
        try:
            result = self.env.step(action)
            annotation = handler.annotation
            if add_plain_step is not None and not self._sidecars:
                template = handler._infos.compiled if handler.info_keys is None else None
                status = add_plain_step(steps, result, template, annotation)
                if status is not None:
                    if annotation is not None:
                        handler.annotation = None
                    if status != "running":
                        handler._end_written(steps, status)
                    return result
            if result.__class__ is tuple and len(result) == 5 and result[4].__class__ is dict:
                observation, reward, terminated, truncated, info = result
                if steps.may_be_common and not self._sidecars:
                    encoded = handler._encoded_of_step(info) if info else None
                    if steps.add_common_step(
                        observation, reward, terminated, truncated, encoded, annotation
                    ):
                        if annotation is not None:
                            handler.annotation = None
                        return result
            else:
                observation, reward, terminated, truncated, info = of_step(result)
            try:
                handler.add_step(observation, reward, terminated, truncated, info)
            except (StoreFull, StoreUnavailable) as error:  # it waits in memory
                failure = error
            if self._sidecars and not handler.was_deleted:
                sidecar_failure = self._step_sidecars()
                failure = failure or sidecar_failure
        except BaseException as error:
            self._unbroken = None
            is_known = isinstance(error, JamboreeError) and not isinstance(error, InvalidRecord)
            is_lost = result is not None and not is_known
            if not isinstance(error, Exception) or _has_moved(error) or is_lost:
                self._recorder.break_off()
            if result is None or not isinstance(error, Exception):
                raise
            raise_refused("step", error, result)
        if failure is not None:
            failure.returned = result
            raise failure
        return result

    def _step_sidecars(self) -> StoreFull | StoreUnavailable | None:
        """Record frames and snapshots of the step; return why Redis has not confirmed them."""
        failure = None
        for sidecar in self._sidecars:
            try:
                sidecar.step()
            except (StoreFull, StoreUnavailable) as error:
                failure = unconfirmed(error)
        return failure

    def annotate(self, **values: Any) -> None:
        """Annotate the next step with what the agent knows when it acts.

        These names mean the same everywhere:

        | name | what | dtype |
        |---|---|---|
        | `value` | its estimate of the return from the current observation | float |
        | `log_prob` | log-probability (or density) of the action that it takes | float |
        | `policy_version` | number of updates that its policy has had | int |
        | `q_values` | its estimate for each action | float (n,) |

        Several calls before one step are merged. A reset drops annotations.

        Args:
            **values: Scalars or arrays by name; dicts and tuples of these; any dtype.

        Raises:
            InvalidRecord: A value cannot be stored; names it.

        Example:
            >>> env.annotate(value=0.7, log_prob=-0.69)
            >>> env.step(1)
            >>> jam.episode(env.episode_id).data().annotations["value"]
            array([0.7])
        """
        self._recorder.annotate(values)

    def close(self) -> None:
        """Close the environment; an unfinished episode becomes `abandoned`."""
        self._is_closed = True
        try:
            self._recorder.abandon()
        finally:
            super().close()


def _has_moved(error: BaseException) -> bool:
    """Whether the environment has moved although it raised.

    A recorder inside this one raised, or the environment returned something that is no result.
    """
    has_returned = isinstance(error, JamboreeError) and error.returned is not None
    return has_returned or isinstance(error, NoResult)


def _check_render_mode(env: gym.Env[Any, Any]) -> None:
    if env.render_mode != RENDER_MODE:
        raise InvalidArgument(
            f"record_frames= needs an environment that renders arrays, and this one has "
            f"render_mode={env.render_mode!r}: make it with "
            f'gymnasium.make(..., render_mode="{RENDER_MODE}")'
        )
