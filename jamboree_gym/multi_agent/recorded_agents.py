"""What each agent of a joint episode saw, one look after the other, without a simulator."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np

from jamboree_gym.arrays.layout import ENCODED
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import ReplayError, ReplayMismatch
from jamboree_gym.handlers.turns import AGENT_TAG
from jamboree_gym.multi_agent.joint_episode import JointEpisode
from jamboree_gym.multi_agent.looks import Look
from jamboree_gym.replay.playback.actions import is_same

__all__ = ["RecordedAgent", "check_action", "recorded_agents"]


class RecordedAgent:
    """The looks of one agent, in order.

    Attributes:
        observation_space: Its space, as recorded.
        action_space: Likewise.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self._looks: list[tuple[Any, int]] = []
        self._next = 0

    def extend(self, rows: Any) -> None:
        """Add the rows of an episode."""
        self._looks += [(rows, row) for row in range(len(rows))]

    def rewind(self) -> None:
        """Go to the beginning."""
        self._next = 0

    @property
    def has_next(self) -> bool:
        """Whether there is another look."""
        return self._next < len(self._looks)

    def look(self) -> Look:
        """The next look."""
        self._next += 1
        return self.current()

    def current(self) -> Look:
        """The newest look; before the first one, the first."""
        if not self._looks:
            raise ReplayError("an agent was never recorded, so there is nothing to show of it")
        rows, row = self._looks[min(max(0, self._next - 1), len(self._looks) - 1)]
        observation, info = rows.observation(row), rows.infos[row]
        own = observation.copy() if observation.__class__ is np.ndarray else deepcopy(observation)
        return Look(
            own,
            _reward(rows.rewards[row]) if row else 0.0,
            bool(rows.terminations[row]),
            bool(rows.truncations[row]),
            dict(deepcopy(info)) if info else {},
        )


def _reward(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else np.array(value)


def recorded_agents(joint: JointEpisode) -> dict[Any, RecordedAgent]:
    """All agents by name; reads the whole joint episode."""
    return dict(_read(joint))


def _read(joint: JointEpisode) -> Iterator[tuple[Any, RecordedAgent]]:
    found: dict[Any, RecordedAgent] = {}
    spaces: dict[str, tuple[Any, Any]] = {}
    for episode, summary in zip(joint.episodes, joint.summaries, strict=True):
        name = summary.tags[AGENT_TAG]
        if name not in found:
            digest = episode.origin.provenance
            if digest not in spaces:
                known = episode.provenance
                spaces[digest] = _space(known, "observation_space"), _space(known, "action_space")
            found[name] = RecordedAgent(*map(deepcopy, spaces[digest]))
        found[name].extend(episode._rows())
    yield from found.items()


def _space(provenance: Any, name: str) -> gym.Space[Any]:
    try:
        return space_from_json(provenance[name])
    except KeyError as error:
        raise ReplayError(f"the episode's provenance is damaged: it has no {name}") from error


def check_action(joint: JointEpisode, turn: int, agent: Any, given: Any, recorded: Any) -> None:
    """Refuse an action that is not the recorded one, bit for bit; an int equals the same int64."""
    plain = given.item() if isinstance(given, np.generic) else given
    known = recorded.item() if isinstance(recorded, np.generic) else recorded
    if not is_same(plain, known, ENCODED):
        raise ReplayMismatch(
            f"joint episode {joint.id} was recorded otherwise: at turn {turn}, {agent!r} did "
            f"{recorded!r:.80}, not {given!r:.80} (on_mismatch='ignore' plays on)"
        )
