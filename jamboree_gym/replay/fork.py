"""A live environment that goes on from any step of a recorded episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.errors import EpisodeNotFound
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.rebuilding.fast_forward import Standing, check_step, stand_at
from jamboree_gym.replay.rebuilding.rebuild import rebuild_env
from jamboree_gym.replay.rebuilding.wrapping import BuiltWrapper
from jamboree_gym.wrappers import RecordEpisodes

__all__ = ["ForkedEnv", "fork"]


class ForkedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Stands where a recorded environment stood: call `step` at once.

    What comes is recorded as an episode of its own, a child of the recorded one. `reset` begins an
    ordinary episode, as it does with any environment; the child is `abandoned` then.

    Attributes:
        parent: The episode that it was forked from.
        fork_step: After so many of its steps.
        observation: What the parent's environment returned there: the first action answers it.
        info: The info beside it.
    """

    def __init__(
        self,
        standing: Standing,
        parent: Episode,
        fork_step: int,
        recorder: RecordEpisodes[Any, Any] | None,
    ) -> None:
        super().__init__(recorder or standing.env)
        self.parent = parent
        self.fork_step = fork_step
        self.observation = deepcopy(standing.observation)  # its buffer may be used again
        self.info = deepcopy(dict(standing.info))
        self._recorder = recorder
        if recorder is not None:
            recorder.begin_child(
                standing.observation, standing.info, parent=parent.id, fork_step=fork_step
            )

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override] # as in gym.Wrapper itself
        """That of the environment, without what records it."""
        return self.env.spec

    @property
    def episode_id(self) -> str:
        """Id of the current episode: the child, until it is reset.

        Raises:
            EpisodeNotFound: None is recorded (`record=False`).
        """
        if self._recorder is None:
            raise EpisodeNotFound(f"this fork of episode {self.parent.id!r} is not recorded")
        return self._recorder.episode_id

    def annotate(self, **values: Any) -> None:
        """Say something of the next step: as `RecordEpisodes.annotate`."""
        if self._recorder is not None:
            self._recorder.annotate(**values)


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
) -> ForkedEnv:
    """A live environment that stands where the recorded one stood after its first steps.

    The environment is made again as `verify` does it. It is brought there by the newest snapshot
    before that step (see `snapshot_every=` of the recorder), or by playing all actions up to it;
    whatever is played is compared with the recording, so nobody goes on from a wrong state.

    Example:
        >>> env = fork(jam.episode(id), step=40)
        >>> observation, terminated, truncated = env.observation, False, False
        >>> while not (terminated or truncated):
        ...     action = policy(observation)
        ...     observation, reward, terminated, truncated, info = env.step(action)
        >>> jam.episode(env.episode_id).parent.id == id
        True

    Args:
        episode: The parent. It may be going on, and it may be a fork itself.
        step: After so many of its steps: 0 = as it began. Its end can be forked only if it is
            none: neither terminated nor truncated.
        run: Run of the child; None = the parent's.
        tags: Tags of the child, beside the parent's.
        record: Whether to record it at all.
        render_mode: For `render`; a time limit and all else is as recorded.
        wrappers: Classes of wrappers, beside Gymnasium's and ours, that may be built again.
        trust_entry_point: Import and call what the store names, where it is not known here, and
            take arguments that name modules.
        trust_snapshots: Use the stored snapshots of ALE, which reads them unchecked: bytes that
            somebody has tampered with corrupt memory. Only for stores that nobody else writes to.

    Raises:
        EpisodeNotFound: There is no such episode.
        ReplayError: It has no such step, its environment cannot be made here, or does not do the
            same again; says why, and where they differ first.
    """
    check_step(episode, step)
    make_env = partial(
        rebuild_env,
        wrappers=wrappers,
        trust_entry_point=trust_entry_point,
        render_mode=render_mode,
    )
    standing = stand_at(
        episode,
        step,
        make_env,
        trust_entry_point=trust_entry_point,
        trust_snapshots=trust_snapshots,
    )
    try:
        recorder = _recorder_of(standing.env, episode, run, tags) if record else None
        return ForkedEnv(standing, episode, step, recorder)
    except BaseException:
        standing.env.close()
        raise


def _recorder_of(
    env: gym.Env[Any, Any], parent: Episode, run: str | None, tags: Mapping[str, Any] | None
) -> RecordEpisodes[Any, Any]:
    summary = parent.summary
    return RecordEpisodes(
        env,
        parent.connection,
        run=summary.run if run is None else run,
        tags={**summary.tags, **parent.connection.check_tags(tags or {})},
    )
