"""What is recorded, as frozen values without any I/O.

Names follow Gymnasium and Minari: singular for one step, plural for arrays over an episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "EpisodeData",
    "EpisodeOrigin",
    "EpisodeStatus",
    "EpisodeSummary",
    "StepData",
    "Transitions",
]

EpisodeStatus = Literal["running", "terminated", "truncated", "abandoned", "interrupted"]
"""`abandoned`: reset or closed before its end. `interrupted`: its writer died."""


@dataclass(frozen=True, slots=True, eq=False)
class StepData:
    """One transition.

    Attributes:
        index: Position in the episode, from 0.
        observation: What the agent saw before acting.
        action: What it did.
        reward: What this step returned.
        next_observation: What this step returned.
        terminated: Whether this step reached a terminal state.
        truncated: Whether the episode was cut off after this step.
        info: What this step returned.
        timestamp: When the step returned, epoch seconds.
    """

    index: int
    observation: Any
    action: Any
    reward: float
    next_observation: Any
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    timestamp: float


@dataclass(frozen=True, slots=True, eq=False)
class Transitions:
    """n consecutive transitions of one episode as arrays, oldest first.

    Attributes:
        indices: int64 (n,), position in the episode.
        observations: (n, ...), what the agent saw before acting.
        actions: (n, ...).
        rewards: float64 (n,).
        next_observations: (n, ...).
        terminations: bool (n,).
        truncations: bool (n,).
        infos: n dicts, what each step returned.
        timestamps: float64 (n,), epoch seconds.
    """

    indices: npt.NDArray[np.int64]
    observations: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float64]
    next_observations: npt.NDArray[Any]
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    infos: Sequence[Mapping[str, Any]]
    timestamps: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.rewards)

    def __iter__(self) -> Iterator[StepData]:
        """The transitions one by one, oldest first."""
        for i in range(len(self)):
            yield StepData(
                index=int(self.indices[i]),
                observation=self.observations[i],
                action=self.actions[i],
                reward=float(self.rewards[i]),
                next_observation=self.next_observations[i],
                terminated=bool(self.terminations[i]),
                truncated=bool(self.truncations[i]),
                info=dict(self.infos[i]),
                timestamp=float(self.timestamps[i]),
            )


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeData:
    """A whole episode of T steps as arrays.

    Attributes:
        id: The episode's id.
        observations: (T + 1, ...), the reset's first.
        actions: (T, ...).
        rewards: float64 (T,).
        terminations: bool (T,).
        truncations: bool (T,).
        infos: T + 1 dicts, the reset's first.
        timestamps: float64 (T,), when each step returned, epoch seconds.
    """

    id: str
    observations: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float64]
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    infos: Sequence[Mapping[str, Any]]
    timestamps: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of steps, T."""
        return len(self.rewards)


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """What a listing shows of an episode.

    Attributes:
        id: The episode's id.
        env_id: Gymnasium id of the environment, `""` where it has no spec.
        run: The run it belongs to.
        status: How it ended, or `running`; as read, `interrupted` where its writer died.
        steps: Number of steps so far.
        episode_return: Undiscounted sum of the rewards so far.
        started_at: When the reset returned, epoch seconds.
        elapsed_s: Seconds from the reset to the newest step.
        seed: The seed given to `reset`, None where none was given.
        tags: The recorder's tags.
        writer: Names the process that recorded it, among those that hold a lease.
    """

    id: str
    env_id: str
    run: str
    status: EpisodeStatus
    steps: int
    episode_return: float
    started_at: float
    elapsed_s: float
    seed: int | None
    tags: Mapping[str, Any] = field(default_factory=dict)
    writer: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeOrigin:
    """What is needed to begin the same episode again.

    Attributes:
        seed: Seed given to the reset; None where none was given.
        rng_state: State of the environment's `np_random` bit generator just before an unseeded
            reset; None where `seed` tells instead, or where the environment has none.
        options: The `options` given to `reset`.
        provenance: Digest of the blob that holds environment spec, versions and machine.
    """

    seed: int | None
    rng_state: Mapping[str, Any] | None
    options: Mapping[str, Any] | None
    provenance: str
