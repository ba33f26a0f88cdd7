"""What agents see and get: how it is asked of an environment, when recording and in a second run.

Recorder and replay use the same functions, so that they ask an environment for the same things in
the same order: some environments draw random numbers in `observe`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from jamboree_gym.environment.outcomes import refusal
from jamboree_gym.errors import InvalidRecord

__all__ = ["Look", "beginnings", "look_now", "others_of", "outcomes"]

OF_RESET = ("observations", "infos")
OF_STEP = ("observations", "rewards", "terminations", "truncations", "infos")


class Look(NamedTuple):
    """What an agent sees and gets, as `last` of PettingZoo returns it.

    The reward of an AEC environment has come since the agent's last turn.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Any

    def copied(self) -> Look:
        """The same with an observation and an info of its own: environments use theirs again."""
        seen = self.observation
        own = seen.copy() if seen.__class__ is np.ndarray else deepcopy(seen)
        return self._replace(observation=own, info=deepcopy(self.info) if self.info else {})


def look_now(env: Any, agent: Any) -> Look:
    """What an agent of an AEC environment would see and get if it were its turn now."""
    if agent == env.agent_selection:
        return Look(*env.last())
    ends = env.terminations[agent], env.truncations[agent]
    return Look(env.observe(agent), env._cumulative_rewards[agent], *ends, env.infos[agent])


def beginnings(agents: list[Any], result: Any) -> Iterator[tuple[Any, Look]]:
    """What the agents see after the reset of a Parallel environment.

    Raises:
        InvalidRecord: It has returned something else than (observations, infos).
    """
    try:
        observations, infos = result
        found = [
            (agent, Look(observations[agent], 0.0, False, False, infos.get(agent) or {}))
            for agent in agents
            if agent in observations
        ]
    except Exception as error:
        raise refusal("reset of a Parallel environment", error) from error
    yield from found


def outcomes(
    before: list[Any], now: list[Any], result: Any
) -> Iterator[tuple[Any, Look | None, bool]]:
    """What a step of a Parallel environment has brought to each agent.

    Args:
        before: The agents that were alive.
        now: Those that are alive.
        result: What `step` has returned.

    Yields:
        The agent; what it sees and gets, None if nothing was returned for it and it is gone; and
        whether it was born in this step. Where the environment says nothing of a living agent, its
        observation is None, its reward 0.

    Raises:
        InvalidRecord: The environment has returned something else than five dicts.
    """
    parts = result if isinstance(result, (tuple, list)) and len(result) == 5 else None
    if parts is None or not all(isinstance(part, Mapping) for part in parts):
        raise InvalidRecord("step of a Parallel environment did not return five dicts by agent")
    alive = set(now)
    for agent in before:
        is_known = agent in alive or any(agent in part for part in parts)
        yield agent, _outcome(agent, parts) if is_known else None, False
    known = set(before)
    for agent in now:
        if agent not in known:
            yield agent, _outcome(agent, parts), True


def _outcome(agent: Any, parts: Any) -> Look:
    observations, rewards, terminations, truncations, infos = parts
    return Look(
        observations.get(agent),
        rewards.get(agent, 0.0),
        terminations.get(agent, False),
        truncations.get(agent, False),
        infos.get(agent) or {},
    )


def others_of(agents: list[Any], parts: Any) -> dict[str, Any]:
    """What was returned under names that are no agent's, as `common`, by what it is."""
    names = OF_RESET if len(parts) == len(OF_RESET) else OF_STEP
    found: dict[str, Any] = {}
    known: set[Any] | None = None
    for name, part in zip(names, parts, strict=True):
        if len(part) > len(agents):
            known = set(agents) if known is None else known
            other = {key: part[key] for key in part if key not in known}
            found |= {name: other} if other else {}
    return found
