"""Names of agents as they can be stored: PettingZoo takes any hashable object for one."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import Any

__all__ = ["AgentNames"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in what `repr` says of most objects; never the same


class AgentNames:
    """Gives each agent of an environment a name that can be stored, and that no other agent has.

    A text or an int is its own name. Any other agent is named by what `repr` says of it.
    Names depend only on the agents and on the order in which they come, so a second run of the same
    environment gives the same names.
    """

    def __init__(self) -> None:
        self._names: dict[Any, Any] = {}
        self._agents: dict[Any, Any] = {}

    def of(self, agent: Hashable) -> Any:
        """The name of an agent."""
        try:
            return self._names[agent]
        except KeyError:
            return self._add(agent)

    def all_of(self, agents: Iterable[Hashable]) -> list[Any]:
        """The names of several agents, in their order."""
        return [self.of(agent) for agent in agents]

    def agent(self, name: Any) -> Any:
        """The agent with a name; a `KeyError` if there was none."""
        return self._agents[name]

    def _add(self, agent: Hashable) -> Any:
        first = name = _storable(agent)
        number = 1
        while name in self._agents:
            number += 1
            name = f"{first} ({number})"
        self._names[agent] = name
        self._agents[name] = agent
        return name


def _storable(agent: Hashable) -> Any:
    if agent.__class__ is int:
        return agent
    text = str(agent) if isinstance(agent, str) else _ADDRESS.sub("", repr(agent))
    return text.encode("utf-8", "backslashreplace").decode()
