"""Environments of several agents, and players for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from pettingzoo import AECEnv, ParallelEnv

MASK = "action_mask"


def chosen(space: Any, seen: Any, info: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """A legal action."""
    mask = seen.get(MASK) if isinstance(seen, dict) else info.get(MASK)
    if mask is not None:
        return int(rng.choice(np.flatnonzero(mask)))
    if isinstance(space, spaces.Discrete):
        return int(rng.integers(space.n))
    return rng.uniform(-1, 1, space.shape).astype(space.dtype)


def play_turns(env: Any, turns: int, seed: int | None = 1, *, begin: bool = True) -> list[Any]:
    """Play an AEC environment with legal actions; what each `last` said."""
    rng, said = np.random.default_rng(0), []
    if begin:
        env.reset(seed=seed)
    for number, agent in enumerate(env.agent_iter()):
        if number == turns:
            break
        seen, reward, terminated, truncated, info = env.last()
        said.append((agent, np.array(repr(seen)), float(reward), terminated, truncated))
        is_over = terminated or truncated
        env.step(None if is_over else chosen(env.action_space(agent), seen, info, rng))
    return said


def play_steps(env: Any, steps: int, seed: int | None = 1, *, begin: bool = True) -> None:
    """Play a Parallel environment."""
    rng = np.random.default_rng(0)
    if begin:
        env.reset(seed=seed)
    while env.agents and steps:
        steps -= 1
        env.step({one: chosen(env.action_space(one), None, {}, rng) for one in env.agents})


class CountingAEC(EzPickle, AECEnv):
    """Each agent sees how many turns there were; agent k dies after `lives[k]` turns of its own."""

    metadata = {"render_modes": [], "name": "counting_v0"}  # noqa: RUF012 - as in PettingZoo
    render_mode = None

    def __init__(self, lives: tuple[int, ...] = (3, 5), names: tuple[Any, ...] = ()) -> None:
        EzPickle.__init__(self, lives, names)
        self.lives = lives
        self.possible_agents = list(names) or [f"agent_{k}" for k in range(len(lives))]
        self._seen = spaces.Box(0, 1e6, (1,), np.float32)
        self._acts = spaces.Discrete(3)
        self.buffer = np.zeros(1, np.float32)  # used again for every observation

    def observation_space(self, agent: Any) -> Any:
        return self._seen

    def action_space(self, agent: Any) -> Any:
        return self._acts

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = self.possible_agents[:]
        self.count, self.acted = 0, dict.fromkeys(self.agents, 0)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[Any, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[0]

    def observe(self, agent: Any) -> Any:
        self.buffer[0] = self.count
        return self.buffer

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        following = self.agents[(self.agents.index(agent) + 1) % len(self.agents)]
        if self.terminations[agent]:
            self._was_dead_step(action)
            if self.agents:
                self.agent_selection = following
            return
        if not 0 <= action < 3:
            raise ValueError("illegal")
        self._cumulative_rewards[agent] = 0.0
        self.count += 1
        self.acted[agent] += 1
        for one in self.agents:
            self.rewards[one] = float(action) if one != agent else -0.25
        number = self.possible_agents.index(agent)
        self.terminations[agent] = self.acted[agent] >= self.lives[number]
        self.infos[agent] = {"acted": self.acted[agent]}
        self._accumulate_rewards()
        self.agent_selection = following


class GrowingTeam(EzPickle, ParallelEnv):
    """Agents are born and die by the numbers of the steps; they see their age."""

    metadata = {"render_modes": [], "name": "growing_v0"}  # noqa: RUF012 - as in PettingZoo
    render_mode = None
    possible_agents = ["a", "b", "c"]  # noqa: RUF012 - as in PettingZoo

    def __init__(self, odd: Callable[[str, int], Any] | None = None) -> None:
        EzPickle.__init__(self)
        self.odd = odd

    def observation_space(self, agent: Any) -> Any:
        return _AGE if agent != "b" else _TWO

    def action_space(self, agent: Any) -> Any:
        return _MOVE

    def _see(self, agent: str) -> Any:
        age = np.full(2 if agent == "b" else 1, self.count - self.born[agent], np.int64)
        return age if self.odd is None else self.odd(agent, self.count) or age

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.count, self.agents, self.born = 0, ["a", "b"], {"a": 0, "b": 0}
        self.np_random = np.random.default_rng(seed)
        return {one: self._see(one) for one in self.agents}, {one: {} for one in self.agents}

    def step(self, actions: Any) -> Any:
        self.count += 1
        if self.count == 3:
            self.agents.append("c")
            self.born["c"] = 3
        seen = {one: self._see(one) for one in self.agents}
        rewards = {one: float(self.np_random.random()) for one in self.agents}
        ends = {one: one == "a" and self.count == 5 for one in self.agents}
        cut = {one: self.count == 8 for one in self.agents}
        infos = {one: {"count": self.count} for one in self.agents}
        infos["common"] = {"step": self.count}
        self.agents = [one for one in self.agents if not (ends[one] or cut[one])]
        return seen, rewards, ends, cut, infos


_AGE, _TWO = spaces.Box(0, 100, (1,), np.int64), spaces.Box(0, 100, (2,), np.int64)
_MOVE = spaces.Discrete(4)
