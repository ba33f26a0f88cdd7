"""Simulates joint episodes again, and compares every agent with what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jamboree_gym.arrays.difference import EXACT, Tolerance
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.checked import checked
from jamboree_gym.errors import InvalidRecord, ReplayError
from jamboree_gym.handlers.turns import AGENT_TAG
from jamboree_gym.multi_agent.comparison import AgentComparison
from jamboree_gym.multi_agent.joint_episode import JointEpisode, Turn
from jamboree_gym.multi_agent.looks import Look
from jamboree_gym.multi_agent.playing import JointRun, OtherOrder, play_before
from jamboree_gym.multi_agent.rebuilding import MakeJointEnv, made_env, put_generator_state
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.replay.verification.compare import Mismatch
from jamboree_gym.replay.verification.report import VerifyReport, changes_since

__all__ = ["ComparedRun", "JointReport", "WatchTurns", "compared", "report_of", "verify"]

WatchTurns = Callable[[Any], object]
"""Called with the environment at the beginning and after each turn of the joint episode."""


@dataclass(frozen=True, slots=True, eq=False)
class JointReport(VerifyReport):
    """Result of `verify`; true when all agents saw, got and did the same, in the same order.

    It has the attributes of `VerifyReport`; `steps` are those of all agents. The `field` of its
    `mismatch` is also `turn` (another agent's turn) or `agents` (others are alive).

    Attributes:
        turns: Number of turns that were played.
        agent: Name of the agent of the difference; None if it is of no single agent.
        turn: The turn of the difference.
    """

    turns: int = 0
    agent: Any = None
    turn: int | None = None

    @property
    def joint_id(self) -> str:
        """The joint episode."""
        return self.episode_id

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes: as of a single episode, with `turns`, `agent` and `turn`."""
        agent = None if self.agent is None else str(self.agent)
        known = VerifyReport.as_json(self)  # `super()` knows no class with slots
        return {**known, "turns": self.turns, "agent": agent, "turn": self.turn}

    def __str__(self) -> str:
        """One line; of a joint episode that differs, a second one with what has changed since."""
        if self.error is not None:
            return f"joint episode {self.joint_id} cannot be verified: {self.error}"
        if self.mismatch is None:
            return (
                f"joint episode {self.joint_id}: {self.turns:,} turns and {self.steps:,} steps of "
                "its agents are equal"
            )
        whose = "" if self.agent is None else f"agent {self.agent!r}, "
        changed = ", ".join(map(str, self.changed)) or "nothing of versions, platform and commit"
        return (
            f"joint episode {self.joint_id} differs at turn {self.turn}: {whose}{self.mismatch}\n"
            f"  changed since it was recorded: {changed}"
        )


class ComparedRun:
    """A second run of a joint episode, with all agents compared.

    Args:
        env: The environment.
        joint: The joint episode.
        tolerance: How far apart floats may be.
        infos: Whether infos are compared.
        watch: Sees the environment; an error that it raises ends the run.

    Attributes:
        run: The run.
        last: What each agent has seen last, by its name.
        acted: What it did last.
        mismatch, agent, turn: As in `JointReport`.
        had_earlier: Whether the joint episodes before it were played first.
    """

    def __init__(
        self,
        env: Any,
        joint: JointEpisode,
        tolerance: Tolerance,
        *,
        infos: bool = True,
        watch: WatchTurns | None = None,
        had_earlier: bool = False,
    ) -> None:
        self.joint = joint
        self.had_earlier = had_earlier
        self._watch = watch
        self.run = JointRun(env, joint.api, self._arrive)
        self.last: dict[Any, Look] = {}
        self.acted: dict[Any, Any] = {}
        self.mismatch: Mismatch | None = None
        self.agent: Any = None
        self.turn: int | None = None
        self._keeps_last = False
        self._is_before = True  # the turns of the joint episode itself are still to come
        self._comparisons: dict[Any, list[AgentComparison]] = {}
        self._early: list[tuple[Any, Any]] = []
        for episode, summary in zip(joint.episodes, joint.summaries, strict=True):
            one = AgentComparison(episode, summary, tolerance, infos=infos)
            self._comparisons.setdefault(summary.tags[AGENT_TAG], []).append(one)

    def play(self, turns: int | None = None) -> None:
        """Reset, and take this many turns; None = all.

        Of a fork, the turns before it are played first, without comparing.
        """
        line = _line_of(self.joint)
        self._keeps_last = turns is not None or len(line) > 1
        try:
            self._is_before = len(line) > 1
            self.run.begin(line[0])
            for parent, child in pairwise(line):
                self._take(parent.turns[: child.fork_turn])
                self.run.turn = 0
                if (state := child.origin("rng_state")) is not None:
                    put_generator_state(self.run.env.unwrapped, state)
            if self._is_before:
                self._begin_fork()
            self._show()
            self._take(self.joint.turns[:turns])
            if turns is None:
                self._look_once_more()
        except OtherOrder as error:
            self.mismatch = Mismatch(error.what, error.recorded, error.now, step=error.turn)
            self.turn = error.turn
        except ReplayError:  # a turn fails: because something was different before?
            self._find_first(is_whole=False)
            if self.mismatch is None:
                raise
            return
        self._find_first(is_whole=self.mismatch is None and turns is None)
        if self.mismatch is None and turns is None:
            self._compare_early()

    def _take(self, turns: list[Turn]) -> None:
        for turn in turns:
            self.run.play([turn])
            self.acted |= turn.actions
            if not self._is_before:
                self._show()

    def _show(self) -> None:
        if self._watch is not None:
            self._watch(self.run.env)

    def _begin_fork(self) -> None:
        """Each agent's episode begins with what it saw last before the fork."""
        self._is_before = False
        for name in self.run.names.all_of(self.run.env.agents):
            if name in self.last:
                self._arrive(0, name, self.last[name], False)
        self._early.clear()

    def _arrive(self, turn: int, name: Any, look: Look, is_born: bool) -> None:
        if self._keeps_last:
            self.last[name] = look.copied()
        waiting = self._comparisons.get(name)
        if self._is_before or not waiting:
            return  # not compared, or its episode was deleted
        if is_born and waiting[0].seen and len(waiting) > 1:
            waiting.append(waiting.pop(0))
        if waiting[0].seen == 0:
            self._note_early(name, look)
        waiting[0].add(turn, look)

    def seen(self, name: Any) -> tuple[EpisodeSummary, int] | None:
        """The summary of an agent's episode, and how many steps of it were played; None = none."""
        waiting = self._comparisons.get(name)
        return None if not waiting else (waiting[0].summary, max(0, waiting[0].seen - 1))

    def to_come(self) -> Iterator[tuple[Any, Episode, int]]:
        """Each agent's name, its episodes, and how many rows of each were seen."""
        for name, episodes in self._comparisons.items():
            for one in sorted(episodes, key=lambda one: one.summary.started_at):
                yield name, one.episode, one.seen

    def _look_once_more(self) -> None:
        """Agents that looked after their last action, before the joint episode ended."""
        for name, episodes in self._comparisons.items():
            if self.joint.api == "aec" and episodes[0].is_short:
                self.run.look(name)

    def _find_first(self, *, is_whole: bool) -> None:
        for name, episodes in self._comparisons.items():
            for one in episodes:
                one.finish(self.run.turn, is_whole=is_whole)
                if one.mismatch is not None and (self.turn is None or one.turn <= self.turn):
                    self.mismatch, self.agent, self.turn = one.mismatch, name, one.turn

    def _note_early(self, name: Any, look: Look) -> None:
        try:
            if bool(look.reward != 0):
                self._early.append((name, look.reward))
        except Exception:  # noqa: BLE001 - as when it was recorded
            return

    def _compare_early(self) -> None:
        recorded = self.joint.early_rewards
        if _encoded(recorded) != _encoded(self._early):
            self.mismatch = Mismatch("early_rewards", recorded, self._early, step=0)
            self.turn = 0

    @property
    def difference(self) -> str:
        """Where it differs: turn, agent and value."""
        whose = "" if self.agent is None else f"agent {self.agent!r}, "
        return f"at turn {self.turn}, {whose}{self.mismatch}"

    @property
    def steps(self) -> int:
        """Number of steps of all agents that were compared."""
        return sum(one.compared for those in self._comparisons.values() for one in those)


def _line_of(joint: JointEpisode) -> list[JointEpisode]:
    """The joint episodes that one was forked from: first the one that began with a reset."""
    line = [joint]
    while (parent := line[0].parent) is not None:
        if parent in line:
            raise ReplayError(f"joint episode {parent.id} is its own parent: it is damaged")
        line.insert(0, parent)
    return line


def _encoded(rewards: list[tuple[Any, Any]]) -> Any:
    try:
        return encode_value([list(one) for one in rewards])
    except InvalidRecord:
        return repr(rewards)


@checked
def verify(
    joint: JointEpisode,
    *,
    make: Any = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    infos: bool = True,
    trust_entry_point: bool = False,
) -> JointReport:
    """Simulate a joint episode again: all agents' actions in their order, all values compared.

    The environment is made of the classes that are loaded in this process, with the arguments that
    the environment remembers. Observations, rewards, ends, infos, the order of turns and who is
    alive must be equal, bit for bit. A reset without a seed starts from the recorded state of the
    generator `np_random`; where that is not enough, the joint episodes before are played, too.

    Example:
        >>> bool(verify(jam.joint_episode(id)))
        True
        >>> verify(jam.joint_episode(id), make=lambda: my_env(size=8))

    Args:
        joint: The joint episode.
        make: Makes the environment, with all its wrappers: needed where it does not remember its
            arguments, or has wrappers that are not PettingZoo's own.
        rtol: Allowed difference of floats, relative to the recorded ones.
        atol: Allowed absolute difference of floats. If both are 0, every bit must be equal.
        infos: Whether infos are compared.
        trust_entry_point: Import and call what the store names, if it is not loaded here. **Anyone
            who can write to the store can then run any code in this process.**

    Raises:
        ReplayError: The environment cannot be made or stepped here, or turns are missing; says why.
    """
    if not (rtol >= 0 and atol >= 0):
        raise ReplayError(f"rtol={rtol}, atol={atol}: choose 0 or more")
    found = compared(
        *(joint, make, Tolerance(rtol, atol)), infos=infos, trust_entry_point=trust_entry_point
    )
    found.run.env.close()
    return report_of(found)


def report_of(found: ComparedRun) -> JointReport:
    """The report on a second run that has come to its end."""
    return JointReport(
        found.joint.id,
        found.steps,
        found.mismatch,
        changed=changes_since(found.joint.episodes[0].provenance),
        turns=found.run.turn,
        agent=found.agent,
        turn=found.turn,
    )


def compared(
    joint: JointEpisode,
    make: MakeJointEnv | None,
    tolerance: Tolerance = EXACT,
    *,
    infos: bool = True,
    turns: int | None = None,
    watch: WatchTurns | None = None,
    render_mode: str | None = None,
    trust_entry_point: bool = False,
) -> ComparedRun:
    """Play a joint episode in a new environment, which stays open.

    If it differs, and it followed another one, it is played once more, after that one.

    Args:
        joint: The joint episode.
        make: As in `verify`.
        tolerance: How far apart floats may be.
        infos: Whether infos are compared.
        turns: How many turns; None = all.
        watch: Sees the environment, in one run alone.
        render_mode: Of the environment; None = as recorded.
        trust_entry_point: As in `verify`.
    """
    root = _line_of(joint)[0]
    had_earlier = False
    if watch is not None and root.predecessor is not None:  # find out which run is to be seen
        options: dict[str, Any] = {"turns": turns, "trust_entry_point": trust_entry_point}
        unseen = compared(joint, make, tolerance, infos=infos, **options)
        unseen.run.env.close()
        had_earlier = unseen.had_earlier
    while True:
        env = made_env(root, make, render_mode=render_mode, trust_entry_point=trust_entry_point)
        try:
            if had_earlier:
                play_before(env, root)
            found = ComparedRun(
                *(env, joint, tolerance), infos=infos, watch=watch, had_earlier=had_earlier
            )
            found.play(turns)
        except BaseException:
            env.close()
            raise
        is_only = root.predecessor is None or watch is not None
        if is_only or had_earlier or found.mismatch is None:
            return found
        env.close()
        had_earlier = True
