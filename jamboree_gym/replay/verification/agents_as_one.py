"""An environment of several agents, played as if one agent took all actions.

What plays environments without a store (`check_reproducible`) so plays those of PettingZoo, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib import import_module
from operator import attrgetter
from typing import Any, Final

import gymnasium as gym
import numpy as np

from jamboree_gym.errors import InvalidArgument, MissingExtra
from jamboree_gym.wording import did_you_mean

__all__ = ["AS_ONE_ID", "AgentsAsOne", "LegalDraws", "is_of_several", "made_of_several"]

AS_ONE_ID: Final = "jamboree/AgentsAsOne-v0"
AEC: Final = "aec"
_KINDS: Final = (AEC, "parallel")
_MASK: Final = "action_mask"


def is_of_several(env_id: str) -> bool:
    """Whether a text names an environment of PettingZoo: `aec:ID` or `parallel:ID`."""
    return env_id.partition(":")[0] in _KINDS and ":" in env_id


def made_of_several(env_id: str, **arguments: Any) -> Any:
    """The environment of PettingZoo that a text names.

    Args:
        env_id: `aec:classic/tictactoe-v3` or `parallel:...`, as in PettingZoo's registry; or
            `aec:module:function`, a function that makes it.
        arguments: For PettingZoo, or for this function.

    Raises:
        InvalidArgument: There is none of this name, or it cannot be made.
        MissingExtra: PettingZoo is not installed.
    """
    kind, _, name = env_id.partition(":")
    try:
        pettingzoo = import_module("pettingzoo")
    except ImportError as error:
        raise MissingExtra(f"{env_id} needs: pip install 'jamboree-gym[pettingzoo]'") from error
    try:
        if ":" in name:
            module, _, path = name.partition(":")
            env = attrgetter(path)(import_module(module))(**arguments)
        else:
            env = pettingzoo.make(kind, name, **arguments)
    except Exception as error:
        known = pettingzoo.aec_registry if kind == AEC else pettingzoo.parallel_registry
        reason = str(error).partition(" Available environments")[0]
        raise InvalidArgument(
            f"{env_id} cannot be made: {reason}{did_you_mean(name, known)}"
        ) from error
    wanted = pettingzoo.AECEnv if kind == AEC else pettingzoo.ParallelEnv
    if not isinstance(env, wanted):
        raise InvalidArgument(f"{env_id} is a {type(env).__name__}, not an {wanted.__name__}")
    return env


class AgentsAsOne(gym.Env[Any, Any]):
    """Plays an environment of PettingZoo.

    In an AEC environment, an action is that of the agent whose turn it is; agents that have died
    take their empty turns by themselves. In a Parallel one, it is a list, an action for each living
    agent. A reward is the sum of what the agents got.

    Args:
        of: The environment; or a text that names it, as `made_of_several` takes it.
        arguments: For `made_of_several`.
    """

    def __init__(self, of: Any, **arguments: Any) -> None:
        self.env = made_of_several(of, **arguments) if isinstance(of, str) else of
        self.is_aec = hasattr(self.env, "agent_iter")
        self.drawn = _DrawnActions(self)
        self.action_space: Any = self.drawn
        self.seen: dict[Any, Any] = {}
        self.told: Mapping[Any, Any] = {}

    @property
    def np_random(self) -> Any:
        """The generator of the environment, so that an unseeded reset can be played again."""
        found = getattr(self.env.unwrapped, "np_random", None)
        return found if isinstance(found, np.random.Generator) else None

    @np_random.setter
    def np_random(self, generator: Any) -> None:
        self.env.unwrapped.np_random = generator

    _np_random = np_random

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset it; what the first agent sees, or all of a Parallel environment."""
        if self.is_aec:
            self.env.reset(seed=seed, options=options)
            observation, _, info = self._turn()
            return observation, info
        self.seen, self.told = self.env.reset(seed=seed, options=options)
        return _named(self.seen), {"infos": _named(self.told)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a turn of one agent, or of all of them."""
        if self.is_aec:
            self.env.step(action)
            observation, reward, info = self._turn()
            return observation, reward, not self.env.agents, False, info
        actions = dict(zip(self.env.agents, action, strict=True))
        self.seen, rewards, terminated, truncated, self.told = self.env.step(actions)
        info = {"rewards": rewards, "terminated": terminated, "truncated": truncated}
        named = {name: _named(values) for name, values in info.items()}
        named["infos"] = _named(self.told)
        return _named(self.seen), sum(rewards.values()), not self.env.agents, False, named

    def _turn(self) -> tuple[Any, Any, dict[str, Any]]:
        """What the next living agent sees; rewards and infos also of those that have died."""
        total, told = 0.0, {}
        while self.env.agents:
            agent = self.env.agent_selection
            seen, reward, terminated, truncated, info = self.env.last()
            total, told[str(agent)] = total + reward, {"reward": reward, "info": info}
            if not (terminated or truncated):
                self.seen, self.told = {agent: seen}, {agent: info}
                return {"agent": str(agent), "sees": seen}, total, told
            self.env.step(None)
        return {"agent": None, "sees": None}, total, told

    def close(self) -> None:
        """Close it."""
        self.env.close()


def _named(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(agent): value for agent, value in values.items()}


class LegalDraws:
    """Draws actions of agents at random, only legal ones where a mask says which these are.

    Args:
        space_of: Gives the action space of an agent.
        seed: Of all draws.
    """

    def __init__(self, space_of: Callable[[Any], gym.Space[Any]], seed: int = 0) -> None:
        self._space_of = space_of
        self._spaces: dict[Any, Any] = {}
        self._seed = seed

    def action(self, agent: Any, seen: Any, told: Any) -> Any:
        """The next action of an agent, which sees this and has this info."""
        if agent not in self._spaces:
            # A copy: what is drawn of it changes nothing in the environment.
            self._spaces[agent] = deepcopy(self._space_of(agent))
            self._spaces[agent].seed(self._seed + len(self._spaces))
        known = seen if isinstance(seen, Mapping) else told or {}
        mask = known.get(_MASK)
        if mask is None:
            return self._spaces[agent].sample()
        return self._spaces[agent].sample(np.asarray(mask, np.int8))


class _DrawnActions:
    """Draws the actions of whose turn it is."""

    def __init__(self, env: AgentsAsOne) -> None:
        self._env = env
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Make the next draws repeatable."""
        # The environment may be exchanged for one that records.
        self._draws = LegalDraws(lambda agent: self._env.env.action_space(agent), seed)

    def sample(self) -> Any:
        """An action, or a list of them."""
        env = self._env.env
        if self._env.is_aec:
            return self._drawn(env.agent_selection)
        return [self._drawn(agent) for agent in env.agents]

    def _drawn(self, agent: Any) -> Any:
        return self._draws.action(agent, self._env.seen.get(agent), self._env.told.get(agent))


gym.register(
    AS_ONE_ID,
    entry_point=f"{__name__}:AgentsAsOne",
    disable_env_checker=True,
    order_enforce=False,
)
