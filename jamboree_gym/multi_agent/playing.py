"""Plays the recorded turns of a joint episode in a live environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from jamboree_gym.encoding.info_codec import holds_unrecorded
from jamboree_gym.errors import ReplayError
from jamboree_gym.multi_agent.agent_names import AgentNames
from jamboree_gym.multi_agent.joint_episode import JointEpisode, Turn
from jamboree_gym.multi_agent.looks import Look, beginnings, look_now, outcomes
from jamboree_gym.multi_agent.rebuilding import reset_as_recorded

__all__ = ["Arrive", "JointRun", "OtherOrder", "play_before"]

Arrive: TypeAlias = Callable[[int, Any, Look, bool], object]
"""Called with the number of the turn, the agent's name, what it sees, and whether it is born."""


class OtherOrder(Exception):
    """Another agent's turn, or other agents alive, than recorded.

    Attributes:
        turn: The turn.
        what: What differs.
        recorded: What was recorded.
        now: What is so now.
    """

    def __init__(self, turn: int, what: str, recorded: Any, now: Any) -> None:
        super().__init__(what)
        self.turn, self.what, self.recorded, self.now = turn, what, recorded, now


@dataclass(slots=True, eq=False)
class JointRun:
    """A second run of joint episodes, in one environment.

    Attributes:
        env: The environment.
        api: `aec` or `parallel`.
        arrive: Told what each agent sees.
        names: Names of the agents.
        turn: The turn that comes next.
        result: What a Parallel environment returned last.
    """

    env: Any
    api: str
    arrive: Arrive
    names: AgentNames = field(default_factory=AgentNames)
    turn: int = 0
    result: Any = None
    _living: list[Any] = field(default_factory=list)

    def begin(self, joint: JointEpisode) -> None:
        """Reset as recorded."""
        self.names.all_of(getattr(self.env, "possible_agents", None) or ())
        self.result = reset_as_recorded(self.env, joint)
        self.turn = 0
        self._living = list(self.env.agents)
        self._check("agents", list(joint.beginning["agents"]), self.names.all_of(self._living))
        if self.api == "parallel":
            for agent, look in beginnings(self._living, self.result):
                self.arrive(0, self.names.of(agent), look, True)

    def play(self, turns: Iterable[Turn]) -> None:
        """Take these turns.

        Raises:
            OtherOrder: Another agent has its turn, or others are alive.
            ReplayError: A turn fails, or an action was not stored.
        """
        take = self._take_one if self.api == "aec" else self._take_together
        for turn in turns:
            if holds_unrecorded(list(turn.actions.values())):
                raise ReplayError(f"an action of turn {self.turn} could not be stored")
            take(turn)
            now = self.names.all_of(self.env.agents)
            self._check("agents", list(turn.agents), now)
            self.turn += 1

    def _take_one(self, turn: Turn) -> None:
        ((name, action),) = turn.actions.items()
        self._check("turn", name, self._selected())
        self.arrive(self.turn, name, self._stepped(self._look), False)
        self._stepped(lambda: self.env.step(action))

    def _look(self) -> Look:
        return Look(*self.env.last())

    def _selected(self) -> Any:
        return self.names.of(self.env.agent_selection) if self.env.agents else None

    def _take_together(self, turn: Turn) -> None:
        actions = {self._agent(name): action for name, action in turn.actions.items()}
        self.result = self._stepped(lambda: self.env.step(actions))
        before, self._living = self._living, list(self.env.agents)
        for agent, look, is_born in outcomes(before, self._living, self.result):
            if look is not None:
                self.arrive(self.turn, self.names.of(agent), look, is_born)

    def look(self, name: Any) -> None:
        """Let an agent look, after the last turn."""
        agent = self._agent(name)
        if agent in self.env.agents:
            self.arrive(self.turn, name, self._stepped(lambda: look_now(self.env, agent)), False)

    def _agent(self, name: Any) -> Any:
        try:
            return self.names.agent(name)
        except KeyError:
            raise OtherOrder(self.turn, "agents", name, None) from None

    def _stepped(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except OtherOrder:
            raise
        except Exception as error:
            raise ReplayError(f"turn {self.turn} fails in the second run: {error!r}") from error

    def _check(self, what: str, recorded: Any, now: Any) -> None:
        if recorded != now:
            raise OtherOrder(self.turn, what, recorded, now)


def play_before(env: Any, joint: JointEpisode) -> None:
    """Play the joint episodes that this one follows, the oldest first, without comparing."""
    before: list[JointEpisode] = []
    seen = {joint.id}
    previous = joint.predecessor
    while previous is not None:
        if previous.id in seen:
            raise ReplayError(f"joint episode {previous.id} follows itself: it is damaged")
        seen.add(previous.id)
        before.append(previous)
        previous = previous.predecessor
    for one in reversed(before):
        run = JointRun(env, one.api, lambda *_: None)
        try:
            run.begin(one)
            run.play(one.turns)
        except OtherOrder as error:
            raise ReplayError(
                f"joint episode {one.id}, which comes before, does not happen again: at turn "
                f"{error.turn}, {error.what}"
            ) from error
