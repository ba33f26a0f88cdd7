"""A live environment that continues from any step of a recorded episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.checked import checked
from jamboree_gym.errors import EpisodeNotFound
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.rebuilding.fast_forward import LiveEnv, check_step, fast_forward
from jamboree_gym.replay.rebuilding.rebuild import MakeAgain, rebuild_env
from jamboree_gym.replay.rebuilding.wrapping import BuiltWrapper
from jamboree_gym.wrappers import RecordEpisodes

__all__ = ["ForkedEnv", "fork"]


class ForkedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A live environment in the state of a recorded one: call `step` without a reset.

    The new steps are recorded as a child of the recorded episode. `reset` begins an ordinary
    episode, and the child gets the status `abandoned`.

    Attributes:
        parent: The episode that it was forked from.
        fork_step: Number of the parent's steps before the fork.
        observation: The parent's observation at the fork: the first action answers it.
        info: The info with that observation.
    """

    def __init__(
        self,
        live: LiveEnv,
        parent: Episode,
        fork_step: int,
        recorder: RecordEpisodes[Any, Any] | None,
    ) -> None:
        super().__init__(recorder or live.env)
        self.parent = parent
        self.fork_step = fork_step
        self.observation = deepcopy(live.observation)  # the environment may reuse its buffer
        self.info = deepcopy(dict(live.info))
        self._recorder = recorder
        if recorder is not None:
            recorder.begin_child(
                live.observation, live.info, parent=parent.summary, fork_step=fork_step
            )

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override] # as in gym.Wrapper itself
        """Spec of the environment, without the recorder."""
        return self.env.spec

    @property
    def episode_id(self) -> str:
        """Id of the current episode: the child until the next reset.

        Raises:
            EpisodeNotFound: Nothing is recorded (`record=False`).
        """
        if self._recorder is None:
            raise EpisodeNotFound(f"this fork of episode {self.parent.id!r} is not recorded")
        return self._recorder.episode_id

    def annotate(self, **values: Any) -> None:
        """Annotate the next step: as `RecordEpisodes.annotate`."""
        if self._recorder is not None:
            self._recorder.annotate(**values)


@checked
def fork(
    episode: Episode,
    step: int,
    *,
    run: str | None = None,
    tags: Mapping[str, Any] | None = None,
    record: bool = True,
    render_mode: str | None = None,
    wrappers: Sequence[BuiltWrapper] = (),
    trust_entry_point: bool = False,
    trust_snapshots: bool = False,
    make: MakeAgain | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> ForkedEnv:
    """A live environment in the state that the recorded one had after a number of steps.

    The environment is rebuilt as by `verify`. The newest snapshot before that step (see
    `snapshot_every=` of the recorder) brings it near, or it plays all actions from the reset. All
    steps that it plays are compared with the recording, so a fork never starts from a wrong state.

    Example:
        >>> env = fork(jam.episode(id), step=40)
        >>> observation, terminated, truncated = env.observation, False, False
        >>> while not (terminated or truncated):
        ...     action = policy(observation)
        ...     observation, reward, terminated, truncated, info = env.step(action)
        >>> jam.episode(env.episode_id).parent.id == id
        True

    Args:
        episode: The parent. It may still be running, and it may be a fork itself.
        step: Number of steps before the fork: 0 = the beginning. The last step can be forked only
            if the episode was neither terminated nor truncated there.
        run: Run of the child; None = the parent's.
        tags: Tags of the child, added to the parent's.
        record: Whether to record the child.
        render_mode: For `render`; a time limit and everything else is as recorded.
        wrappers: As in `verify`.
        trust_entry_point: Import and call the code that the store names, if it is unknown here, and
            accept arguments that name modules.
        trust_snapshots: Use stored snapshots of ALE. ALE reads them unchecked: tampered bytes
            corrupt memory. Use it only for stores that nobody else can write to.
        make: As in `verify`.
        env_kwargs: As in `verify`.

    Raises:
        EpisodeNotFound: The episode does not exist.
        ReplayError: The episode has no such step, or its environment cannot be made here, or the
            replay differs; says why, and names the first difference.
    """
    check_step(episode, step)
    make_env = partial(
        rebuild_env,
        wrappers=wrappers,
        trust_entry_point=trust_entry_point,
        render_mode=render_mode,
        make=make,
        env_kwargs=env_kwargs,
    )
    live = fast_forward(
        episode,
        step,
        make_env,
        trust_entry_point=trust_entry_point,
        trust_snapshots=trust_snapshots,
    )
    try:
        recorder = _recorder_of(live.env, episode, run, tags) if record else None
        return ForkedEnv(live, episode, step, recorder)
    except BaseException:
        live.env.close()
        raise


def _recorder_of(
    env: gym.Env[Any, Any], parent: Episode, run: str | None, tags: Mapping[str, Any] | None
) -> RecordEpisodes[Any, Any]:
    summary = parent.summary
    return RecordEpisodes(
        env,
        parent._connection,
        run=summary.run if run is None else run,
        tags={**summary.tags, **parent._connection.check_tags(tags or {})},
    )
