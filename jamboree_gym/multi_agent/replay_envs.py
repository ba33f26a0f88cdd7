"""A joint episode as an environment of PettingZoo that returns recorded values."""

from __future__ import annotations

from typing import Any, Literal

from pettingzoo import AECEnv, ParallelEnv

from jamboree_gym.checked import checked
from jamboree_gym.errors import InvalidArgument, ReplayError, ReplayMismatch
from jamboree_gym.multi_agent.joint_episode import JointEpisode, Turn
from jamboree_gym.multi_agent.looks import Look
from jamboree_gym.multi_agent.recorded_agents import check_action, recorded_agents

__all__ = ["ReplayAEC", "ReplayParallel"]

OnMismatch = Literal["raise", "ignore"]


class _Replay:
    """What both have in common: spaces, the turns, and which one is next."""

    render_mode = None

    def __init__(self, joint: JointEpisode, api: str, on_mismatch: OnMismatch) -> None:
        if joint.api != api:
            other = {"aec": "ReplayAEC", "parallel": "ReplayParallel"}[joint.api]
            raise InvalidArgument(f"joint episode {joint.id}: {other} plays it")
        self.joint = joint
        self.metadata = {"render_modes": [], "name": joint.env_id, "is_parallelizable": False}
        self._on_mismatch = on_mismatch
        self._turns = joint.turns
        self._beginning = list(joint.beginning["agents"])
        self._recorded = recorded_agents(joint)
        named = [*self._beginning, *(agent for turn in self._turns for agent in turn.agents)]
        self.possible_agents = list(dict.fromkeys([*named, *self._recorded]))
        self.agents: list[Any] = []
        self._next = -1  # before the reset

    @property
    def remaining(self) -> int:
        """Number of turns left."""
        return len(self._turns) - max(0, self._next)

    def observation_space(self, agent: Any) -> Any:
        """The recorded space."""
        return self._recorded[agent].observation_space

    def action_space(self, agent: Any) -> Any:
        """The recorded space."""
        return self._recorded[agent].action_space

    def _begin(self, seed: Any) -> None:
        if self._on_mismatch == "raise" and seed is not None and seed != self.joint.seed:
            raise ReplayMismatch(
                f"joint episode {self.joint.id} was recorded otherwise: its seed is "
                f"{self.joint.seed}, not {seed} (on_mismatch='ignore' plays on)"
            )
        for agent in self._recorded.values():
            agent.rewind()
        self._next = 0
        self.agents = list(self._beginning)

    def _turn(self) -> Turn:
        """The turn that comes next."""
        if self._next < 0:
            raise ReplayError("reset the replay before its first turn")
        if not self.remaining:
            raise ReplayError(
                f"joint episode {self.joint.id} is {self.joint.status} after {self._next} turns: "
                "there is no more"
            )
        return self._turns[self._next]

    def _check(self, agent: Any, action: Any, recorded: Any) -> None:
        if self._on_mismatch == "raise":
            check_action(self.joint, self._next, agent, action, recorded)

    def render(self) -> None:
        """Nothing: there are no frames."""

    def close(self) -> None:
        """Nothing is open."""


class ReplayAEC(_Replay, AECEnv):  # type: ignore[misc] # it has no types
    """A recorded joint episode as an AEC environment; needs no simulator.

    The turns come in the recorded order, and `last` returns the recorded values. An action must be
    the recorded one, bit for bit, unless `on_mismatch="ignore"`. An agent's reward is given at its
    turn, not at the turns of the others before; its end shows at its turn, too.

    Example:
        >>> env = ReplayAEC(joint)
        >>> env.reset()
        >>> while env.remaining:
        ...     observation, reward, terminated, truncated, info = env.last()
        ...     env.step(env.recorded_action)

    Args:
        joint: A joint episode of an AEC environment.
        on_mismatch: What happens if an action or a seed differs from the recording: `raise` refuses
            it, and the replay does not move; `ignore` continues.

    Raises:
        InvalidArgument: It was recorded in a Parallel environment.
        ReplayError: Its turns are not there any more.
    """

    @checked
    def __init__(self, joint: JointEpisode, *, on_mismatch: OnMismatch = "raise") -> None:
        super().__init__(joint, "aec", on_mismatch)

    @property
    def recorded_action(self) -> Any:
        """The next recorded action; None is that of an agent that has died."""
        return next(iter(self._turn().actions.values()))

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Go to the beginning."""
        self._begin(seed)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[Any, dict[str, Any]] = {agent: {} for agent in self.agents}
        self._arrive()

    def _arrive(self) -> None:
        """The next agent looks."""
        if self.remaining:
            (agent,) = self._turns[self._next].actions
        else:
            agent = next((one for one in self.agents if self._recorded[one].has_next), None)
            if agent is None:
                return
        self.agent_selection = agent
        recorded = self._recorded[agent]
        look = recorded.look() if recorded.has_next else recorded.current()
        self.rewards[agent] = self._cumulative_rewards[agent] = look.reward
        self.terminations[agent], self.truncations[agent] = look.terminated, look.truncated
        self.infos[agent] = look.info

    def observe(self, agent: Any) -> Any:
        """What the agent saw last."""
        return self._recorded[agent].current().observation

    def step(self, action: Any) -> None:
        """Take the next turn.

        Raises:
            ReplayMismatch: The action differs from the recorded one, with `on_mismatch="raise"`.
            ReplayError: There is no next turn, or the replay was not reset.
        """
        turn = self._turn()
        ((agent, recorded),) = turn.actions.items()
        self._check(agent, action, recorded)
        self._next += 1
        self.agents = list(turn.agents)
        for values in (self.rewards, self._cumulative_rewards):
            _keep_only(values, self.agents, 0.0)
        for flags in (self.terminations, self.truncations):
            _keep_only(flags, self.agents, False)
        for name in self.infos.keys() - set(self.agents):
            del self.infos[name]
        for name in self.agents:
            self.infos.setdefault(name, {})
            self.rewards[name] = 0.0
        if agent in self._cumulative_rewards:
            self._cumulative_rewards[agent] = 0.0
        self._arrive()


def _keep_only(values: dict[Any, Any], names: list[Any], nothing: Any) -> None:
    for name in values.keys() - set(names):
        del values[name]
    for name in names:
        values.setdefault(name, nothing)


class ReplayParallel(_Replay, ParallelEnv):  # type: ignore[misc] # it has no types
    """A recorded joint episode as a Parallel environment; needs no simulator.

    Example:
        >>> env = ReplayParallel(joint)
        >>> observations, infos = env.reset()
        >>> while env.remaining:
        ...     observations, rewards, *_ = env.step(env.recorded_actions)

    Args:
        joint: A joint episode of a Parallel environment.
        on_mismatch: As in `ReplayAEC`.

    Raises:
        InvalidArgument: It was recorded in an AEC environment.
        ReplayError: Its turns are not there any more.
    """

    @checked
    def __init__(self, joint: JointEpisode, *, on_mismatch: OnMismatch = "raise") -> None:
        super().__init__(joint, "parallel", on_mismatch)

    @property
    def recorded_actions(self) -> dict[Any, Any]:
        """The next recorded actions."""
        return dict(self._turn().actions)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Go to the beginning: the recorded observations and infos."""
        self._begin(seed)
        looks = self._looks(self.agents)
        return (
            {agent: look.observation for agent, look in looks.items()},
            {agent: look.info for agent, look in looks.items()},
        )

    def step(self, actions: dict[Any, Any]) -> Any:
        """Take the next step: the recorded results, by agent.

        Raises:
            ReplayMismatch: Actions differ from the recorded ones, with `on_mismatch="raise"`.
            ReplayError: There is no next turn, or the replay was not reset.
        """
        turn = self._turn()
        if self._on_mismatch == "raise":
            if actions.keys() != turn.actions.keys():
                raise ReplayMismatch(
                    f"joint episode {self.joint.id} was recorded otherwise: at turn {self._next}, "
                    f"{list(turn.actions)} act, not {list(actions)} (on_mismatch='ignore' plays on)"
                )
            for agent, recorded in turn.actions.items():
                self._check(agent, actions[agent], recorded)
        before = self.agents
        self._next += 1
        self.agents = list(turn.agents)
        looks = self._looks(list(dict.fromkeys([*before, *self.agents])))
        names = ("observation", "reward", "terminated", "truncated", "info")
        return tuple(
            {agent: getattr(look, name) for agent, look in looks.items()} for name in names
        )

    def _looks(self, agents: list[Any]) -> dict[Any, Look]:
        known = {agent: self._recorded[agent] for agent in agents if agent in self._recorded}
        return {agent: one.look() for agent, one in known.items() if one.has_next}
