"""A joint episode: the episodes of several agents in one environment, with the order of turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jamboree_gym.checked import Count, checked
from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ReplayError
from jamboree_gym.handlers.turns import AGENT_TAG, JOINT_TAG, TurnHandler, decode_actions
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.query import EpisodeQuery
from jamboree_gym.records import EpisodeStatus, EpisodeSummary, brief
from jamboree_gym.wording import counted, one_line

if TYPE_CHECKING:
    from jamboree_gym.multi_agent.joint_fork import JointFork
    from jamboree_gym.multi_agent.joint_what_if import JointWhatIf
    from jamboree_gym.multi_agent.verification import JointReport
    from jamboree_gym.replay.video import Video

__all__ = ["JointEpisode", "Turn", "joint_episode_of", "joint_episodes"]

_STATUSES: tuple[EpisodeStatus, ...] = (
    *("running", "interrupted", "abandoned", "truncated", "terminated"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One call of `step` of a joint episode.

    Attributes:
        number: Position among the turns, from 0.
        actions: The actions by agent, in the order in which they were given. In an AEC environment
            it is one; None is that of an agent which has died.
        agents: Names of the agents that are alive after it, in the environment's order.
        other: What a Parallel environment returned that is no agent's, as `common`.
        timestamp: When it was over, epoch seconds.
    """

    number: int
    actions: Mapping[Any, Any]
    agents: tuple[Any, ...]
    other: Mapping[str, Any]
    timestamp: float


class JointEpisode:
    """The episodes of all agents between two resets of one environment, and their turns.

    It reads nothing until it is used.

    Example:
        >>> joint = jam.joint_episodes(run="first")[-1]
        >>> joint.agents["player_1"].data().rewards.sum()
        1.0
        >>> bool(joint.verify())
        True

    Attributes:
        id: Its id: that of the episode of its first agent.
    """

    def __init__(
        self,
        connection: Connection,
        id: str,
        summaries: Sequence[EpisodeSummary] | None = None,
    ) -> None:
        self.id = id
        self._connection = connection
        self._summaries = None if summaries is None else list(summaries)

    # -- as a whole -------------------------------------------------------------------------

    @property
    def summaries(self) -> list[EpisodeSummary]:
        """Summaries of the agents' episodes, the one that began first at the front.

        Raises:
            EpisodeNotFound: There is no such joint episode.
        """
        if self._summaries is None:
            run = Episode(self._connection, self.id).summary.run
            query = EpisodeQuery(self._connection, forks=True)
            self._summaries = query.where(run=run, tags={JOINT_TAG: self.id}).summaries()
        return self._summaries

    @property
    def episodes(self) -> list[Episode]:
        """The agents' episodes, the one that began first at the front."""
        return [Episode(self._connection, one.id) for one in self.summaries]

    @property
    def agents(self) -> dict[Any, Episode]:
        """The episode of each agent, by its name. Of one that was born twice, the second."""
        return {one.tags[AGENT_TAG]: Episode(self._connection, one.id) for one in self.summaries}

    @property
    def returns(self) -> dict[Any, float]:
        """The return of each agent, by its name."""
        found: dict[Any, float] = {}
        for one in self.summaries:
            name = one.tags[AGENT_TAG]
            found[name] = found.get(name, 0.0) + one.episode_return
        return found

    @property
    def run(self) -> str:
        """The run that it belongs to."""
        return self.summaries[0].run

    @property
    def env_id(self) -> str:
        """Name of the environment."""
        return self.summaries[0].env_id

    @property
    def seed(self) -> int | None:
        """The seed of the reset; None if there was none."""
        return self.summaries[0].seed

    @property
    def started_at(self) -> float:
        """When its first agent's episode began, epoch seconds."""
        return min(one.started_at for one in self.summaries)

    @property
    def status(self) -> EpisodeStatus:
        """`running` while one agent is, `terminated` if all are; see `EpisodeSummary.status`."""
        found = {one.status for one in self.summaries}
        return next(status for status in _STATUSES if status in found)

    @property
    def steps(self) -> int:
        """Number of steps of all agents."""
        return sum(one.steps for one in self.summaries)

    # -- its turns --------------------------------------------------------------------------

    @property
    def api(self) -> str:
        """`aec` or `parallel`."""
        return str(self.beginning["api"])

    @property
    def parent(self) -> JointEpisode | None:
        """The joint episode that it was forked from."""
        return self._other("parent")

    @property
    def fork_turn(self) -> int | None:
        """Number of the parent's turns before the fork."""
        found = self.beginning.get("fork_turn")
        return None if found is None else int(found)

    @property
    def predecessor(self) -> JointEpisode | None:
        """The joint episode before an unseeded reset of the same environment."""
        return self._other("follows")

    def _other(self, name: str) -> JointEpisode | None:
        id = self.beginning.get(name)
        return None if id is None else JointEpisode(self._connection, str(id))

    @property
    def turns(self) -> list[Turn]:
        """All turns so far, in order.

        Raises:
            ReplayError: They are not there any more: they go with the first agent's episode.
            DecodeError: They are damaged.
        """
        return list(self._turns())

    def _turns(self) -> Iterator[Turn]:
        beginning, *records = self._records
        acting: Sequence[Any] = ()
        agents, number = tuple(beginning["agents"]), 0
        try:
            for record in records:
                agents = tuple(record.get("agents", agents))
                if "agent" in record:
                    actions = {record["agent"]: self._decoded(record["action"])}
                elif "actions" in record:
                    acting = record.get("acting", acting)
                    actions = dict(zip(acting, self._decoded(record["actions"]), strict=True))
                else:
                    continue
                yield Turn(number, actions, agents, record.get("other", {}), record["timestamp"])
                number += 1
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DecodeError(f"turn {number} of joint episode {self.id}: {error!r}") from error

    def _decoded(self, content: Any) -> Any:
        return decode_actions(content, where=f"joint episode {self.id}")

    @property
    def births(self) -> dict[Any, int]:
        """For each agent that was not there from the beginning, the turn that brought it."""
        return dict(self._changes(lambda before, now: now - before))

    @property
    def deaths(self) -> dict[Any, int]:
        """For each agent that is gone, the turn with which it went."""
        return dict(self._changes(lambda before, now: before - now))

    def _changes(
        self, between: Callable[[set[Any], set[Any]], set[Any]]
    ) -> Iterator[tuple[Any, int]]:
        before = tuple(self.beginning["agents"])
        for turn in self._turns():
            if turn.agents != before:
                changed = between(set(before), set(turn.agents))
                in_order = [agent for agent in (*before, *turn.agents) if agent in changed]
                yield from ((agent, turn.number) for agent in in_order)
                before = turn.agents

    @property
    def early_rewards(self) -> list[tuple[Any, Any]]:
        """Rewards that agents got before their first action, which no row of theirs has."""
        return [
            (agent, reward)
            for record in self._records[1:]
            for agent, reward in record.get("early_rewards", ())
        ]

    @property
    def beginning(self) -> Mapping[str, Any]:
        """How it began, as it is stored: `api`, `agents`, `parent`, and what a replay needs."""
        return self._records[0]

    def origin(self, name: str) -> Any:
        """`seed`, `rng_state` or `options` of the reset."""
        content = self.beginning.get(name)
        return None if content is None else self._decoded(content)

    @property
    def _records(self) -> list[dict[str, Any]]:
        records = self._kept_records
        if not records or "api" not in records[0]:
            raise ReplayError(
                f"joint episode {self.id} has no turns any more: they were deleted with the "
                "episode of its first agent; each agent's own episode can still be read"
            )
        return records

    @cached_property
    def _kept_records(self) -> list[dict[str, Any]]:
        return TurnHandler(self._connection, self.id).all()

    # -- again ------------------------------------------------------------------------------

    def verify(self, **options: Any) -> JointReport:
        """Simulate it again, and compare all agents bit for bit: as `multi_agent.verify`."""
        from jamboree_gym.multi_agent.verification import verify  # stands on this module

        return verify(self, **options)

    @checked
    def fork(self, turn: Count, **options: Any) -> JointFork:
        """A live environment as it was after that many turns: as `multi_agent.fork`."""
        from jamboree_gym.multi_agent.joint_fork import fork  # stands on this module

        return fork(self, turn, **options)

    def what_if(self, turn: int, policy: Any = None, n: int = 100, **options: Any) -> JointWhatIf:
        """How it could have continued from a turn on: as `multi_agent.what_if`."""
        from jamboree_gym.multi_agent.joint_what_if import what_if  # stands on this module

        return what_if(self, turn, policy, n, **options)

    def video(self, path: str | os.PathLike[str], **options: Any) -> Video:
        """Write it into a video file: as `multi_agent.video`."""
        from jamboree_gym.multi_agent.joint_video import video  # stands on this module

        return video(self, path, **options)

    def delete(self) -> None:
        """Delete the episodes of all agents, and the turns, from Redis and from the backup."""
        for episode in reversed(self.episodes):  # the first one takes the turns with it
            episode.delete()

    def __eq__(self, other: object) -> bool:
        """Whether it is the same joint episode of the same Jamboree."""
        if not isinstance(other, JointEpisode):
            return NotImplemented
        return self.id == other.id and self._connection is other._connection

    def __hash__(self) -> int:
        """Of its id."""
        return hash(self.id)

    def __repr__(self) -> str:
        """The id."""
        return f"<JointEpisode {self.id!r}>"

    def __str__(self) -> str:
        """The whole in one line, and each agent in another."""
        head = (
            f"{self.id} {one_line(self.run)}: {one_line(self.env_id)}, {self.status}, "
            f"{counted(len(self.summaries), 'agent')}, {counted(self.steps, 'step')}"
        )
        lines = [
            f"  {one_line(str(one.tags[AGENT_TAG]))}: {one.status}, "
            f"{counted(one.steps, 'step')}, return {brief(one.episode_return)}"
            for one in self.summaries
        ]
        return "\n".join([head, *lines])


def joint_episodes(found: EpisodeQuery | Iterable[Episode]) -> list[JointEpisode]:
    """The joint episodes that some agents' episodes belong to, in the order of these.

    Each has all its agents, also those that were not among what was found. Episodes of environments
    with a single agent are left out.
    """
    if isinstance(found, EpisodeQuery):
        connection: Connection | None = found._connection
        summaries = found.summaries()
    else:
        episodes = list(found)
        connection = episodes[0]._connection if episodes else None
        summaries = [episode.summary for episode in episodes]
    grouped: dict[str, list[EpisodeSummary]] = {
        str(one.tags[JOINT_TAG]): [] for one in summaries if JOINT_TAG in one.tags
    }
    if connection is None or not grouped:
        return []
    runs = sorted({one.run for one in summaries if JOINT_TAG in one.tags})
    for one in EpisodeQuery(connection, forks=True).where(run=runs).summaries():
        if (joint := str(one.tags.get(JOINT_TAG))) in grouped:
            grouped[joint].append(one)
    return [JointEpisode(connection, id, those) for id, those in grouped.items() if those]


def joint_episode_of(connection: Connection, id: str) -> JointEpisode:
    """The joint episode with this id, or to which the agent's episode with this id belongs.

    Raises:
        EpisodeNotFound: There is no such episode, or it is none of several agents.
    """
    tags = Episode(connection, id).summary.tags
    if JOINT_TAG not in tags:
        raise EpisodeNotFound(
            f"episode {id!r} is not of one agent among several: jam.episode({id!r}) reads it"
        )
    return JointEpisode(connection, str(tags[JOINT_TAG]))
