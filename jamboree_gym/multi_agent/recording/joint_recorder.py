"""What both recorders of PettingZoo environments do: an episode for each agent, and the turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import gymnasium as gym

from jamboree_gym.connection import HasConnection
from jamboree_gym.environment.outcomes import refusal
from jamboree_gym.errors import (
    InvalidArgument,
    JamboreeError,
    NotReset,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.handlers.turns import AGENT_TAG, JOINT_TAG, TurnHandler
from jamboree_gym.multi_agent.agent_names import AgentNames
from jamboree_gym.multi_agent.recording.agent_recorder import AgentRecorder
from jamboree_gym.multi_agent.recording.description import (
    describe_agent,
    describe_layers,
    env_name,
    generator_state_of,
    space_of,
)
from jamboree_gym.process_life import follow_forks
from jamboree_gym.recording.episode_handler import unconfirmed
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.wrappers.returned import checked_info

__all__ = ["JointRecorder"]

FORMAT_VERSION = 1
MAX_DESCRIBED = 20  # pairs of spaces


class ForkPoint(Protocol):
    """What a second run has brought, where it is forked."""

    @property
    def last(self) -> Mapping[Any, Any]:
        """What each agent has seen last, by its name."""

    @property
    def acted(self) -> Mapping[Any, Any]:
        """What each agent did last."""

    def seen(self, name: Any) -> tuple[EpisodeSummary, int] | None:
        """The summary of an agent's episode, and how many steps of it were played."""


class JointRecorder:
    """Writes joint episodes: the episode of each agent, and a side log with the turns.

    Args:
        jam: Where to record.
        env: The environment, without the recorder.
        api: `aec` or `parallel`.
        options: How episodes are recorded.

    Raises:
        UnsupportedSpace: A space of an agent cannot be recorded; names it.
        InvalidRecord: A tag cannot be kept.
        InvalidArgument: The tags `agent` or `joint` are given, which recorders set.

    Attributes:
        names: Names of the agents, as they are stored.
        is_recording: Whether a joint episode is being recorded.
        joint: Its id; None until the first episode of an agent begins.
    """

    def __init__(self, jam: HasConnection, env: Any, api: str, options: RecordOptions) -> None:
        taken = {AGENT_TAG, JOINT_TAG}.intersection(options.tags or {})
        if taken:
            raise InvalidArgument(
                f"tags={{{min(taken)!r}: ...}}: the recorder of several agents sets this tag; "
                "choose another name"
            )
        self.names = AgentNames()
        self.is_recording = False
        self.joint: str | None = None
        self._jam = jam
        self._env = env
        self._api = api
        self._options = options
        self._layers = describe_layers(env)
        self._env_id = env_name(env)
        self._described: list[tuple[tuple[gym.Space[Any], gym.Space[Any]], bytes]] = []
        self._recorders: dict[Any, AgentRecorder] = {}
        self._writing: dict[Any, AgentRecorder] = {}
        self._turns = TurnHandler(jam)
        self._beginning: dict[str, Any] = {}
        self._ended: set[Any] = set()  # agents that are there, and whose episodes have ended
        self._parents: dict[Any, EpisodeSummary] = {}  # of a fork: of agents that are to come
        self._living: list[Any] = []  # agents, as the last record says
        self._extra: dict[str, Any] = {}
        self._before: str | None = None  # the joint episode before, if nothing is missing in it
        self._is_whole = False
        self._seed: Any = None
        self._errors: list[JamboreeError] = []
        for agent in getattr(env, "possible_agents", None) or ():
            self.recorder_of(agent)
        follow_forks(self)

    def recorder_of(self, agent: Any) -> AgentRecorder:
        """The recorder of an agent; a new one if its spaces have changed."""
        known, spaces = self._recorders.get(agent), space_of(self._env, agent)
        if known is not None:
            is_same = all(a is b or a == b for a, b in zip(known.spaces, spaces, strict=True))
            if is_same:
                return known
        recorder = AgentRecorder(
            self._jam,
            spaces,
            self.names.of(agent),
            env_id=self._env_id,
            provenance=self._provenance_of(spaces),
            options=self._options,
        )
        self._recorders[agent] = recorder
        return recorder

    def _provenance_of(self, spaces: tuple[gym.Space[Any], gym.Space[Any]]) -> bytes:
        """The same for all agents that share their spaces, which are often many."""
        same = [
            one for known, one in self._described if known[0] is spaces[0] and known[1] is spaces[1]
        ]
        if same:
            return same[0]
        provenance = describe_agent(self._layers, self._api, *spaces)
        self._described = [*self._described[-MAX_DESCRIBED:], (spaces, provenance)]
        return provenance

    # -- the beginning and the end ----------------------------------------------------------

    def admit(self) -> None:
        """As `EpisodeRecorder.admit`."""
        self._jam._connection.writer.backpressure.admit()

    def origin(self, seed: Any, options: Any) -> dict[str, Any]:
        """What a replay needs of the next reset; to be asked before it."""
        self._before = self.joint if self._is_whole else None
        unseeded = seed is None
        return {
            "seed": self._turns.packed(seed),
            "rng_state": self._turns.packed(generator_state_of(self._env) if unseeded else None),
            "options": self._turns.packed(options),
            "follows": self._before if unseeded else None,
        }

    def begin(self, origin: Mapping[str, Any], seed: Any) -> None:
        """A joint episode begins: the environment was reset."""
        self.abandon()
        possible = set(getattr(self._env, "possible_agents", None) or ())
        self._recorders = {
            agent: one for agent, one in self._recorders.items() if agent in possible
        }
        self.joint = None
        self.is_recording = self._is_whole = True
        self._ended = set()
        self._parents = {}
        self._seed = seed
        self._extra = {}
        self._living = list(self._env.agents)
        self._beginning = {
            "format": FORMAT_VERSION,
            "api": self._api,
            "agents": self.names.all_of(self._living),
            **origin,
        }

    def begin_child(self, run: ForkPoint, origin: Mapping[str, Any]) -> list[Any]:
        """A joint episode begins where another one was forked.

        Returns:
            The agents whose newest action is known, and what came of it is not.
        """
        self.begin(origin, None)
        waiting = []
        for agent in self._living:
            name = self.names.of(agent)
            look, played = run.last.get(name), run.seen(name)
            if played is None:
                continue
            parent, fork_step = played
            if look is None:
                self._parents[agent] = parent  # it has not looked yet
                continue
            self.arrive(agent, *look, parent=parent, fork_step=fork_step)
            if self._api == "aec" and name in run.acted and agent in self._writing:
                self.set_action(agent, run.acted[name])
                waiting.append(agent)
        return waiting

    def arrive(
        self,
        agent: Any,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: Any,
        *,
        parent: EpisodeSummary | None = None,
        fork_step: int | None = None,
    ) -> None:
        """What an agent sees and gets: the first row of its episode, or what its action led to."""
        if not self.is_recording or agent in self._ended:
            return
        is_new = parent is None
        if is_new and agent in self._parents:
            parent, fork_step = self._parents.pop(agent), 0
        with self._noting_errors(agent):
            recorder = self._writing.get(agent)
            info = checked_info(info)
            if recorder is not None:
                recorder.take_row(observation, reward, terminated, truncated, info)
            else:
                recorder = self._begun(agent, observation, info, parent, fork_step)
                if is_new:
                    self._keep_early(agent, reward)
                if terminated or truncated:
                    recorder.handler.end("terminated" if terminated else "truncated")
        self._note_end(agent)

    def _note_end(self, agent: Any) -> None:
        recorder = self._writing.get(agent)
        if recorder is not None and not recorder.is_recording:
            del self._writing[agent]
            self._ended.add(agent)

    def _begun(
        self,
        agent: Any,
        observation: Any,
        info: Any,
        parent: EpisodeSummary | None,
        fork_step: int | None,
    ) -> AgentRecorder:
        recorder = self.recorder_of(agent)
        recorder.joint = self.joint
        self._writing[agent] = recorder
        failure: JamboreeError | None = None
        try:
            recorder.begin(observation, info, seed=self._seed, parent=parent, fork_step=fork_step)
        except JamboreeError as error:  # it may have begun all the same
            failure = error
        if self.joint is None and recorder.is_recording:
            self.joint = recorder.joint
            self._turns["episode"] = recorder.joint
            self._put(self._beginning)
        if failure is not None:
            raise failure
        return recorder

    def _keep_early(self, agent: Any, reward: Any) -> None:
        """A reward that came before the first action has no row."""
        with suppress(Exception):
            if reward is not None and bool(reward != 0):
                self._extra.setdefault("early_rewards", []).append([self.names.of(agent), reward])

    def set_action(self, agent: Any, action: Any) -> None:
        """What an agent does, before the environment gets it."""
        recorder = self._writing.get(agent)
        if recorder is None:
            return
        with self._noting_errors(agent):
            recorder.handler.set_action(action)
        self._note_end(agent)

    def keep(self, name: str, value: Any) -> None:
        """Keep something beside the next turn that no agent's row has."""
        self._extra[name] = value

    def packed(self, value: Any) -> bytes:
        """As `TurnHandler.packed`."""
        return self._turns.packed(value)

    def end_turn(self, record: Mapping[str, Any]) -> None:
        """A turn is over: store it."""
        if not self.is_recording or self.joint is None:
            return
        living = self._env.agents
        if living != self._living:
            self._living = list(living)
            self._ended.intersection_update(living)  # the others may be born again
            self._extra["agents"] = self.names.all_of(living)
        if self._extra:
            record, self._extra = {**record, **self._extra}, {}
        self._put(record)

    def _put(self, record: Mapping[str, Any]) -> None:
        try:
            self._turns.put(record)
        except (StoreFull, StoreUnavailable) as error:
            self._errors.append(unconfirmed(error))
        except JamboreeError as error:
            self._errors.append(error)

    def leave(self, agent: Any) -> None:
        """An agent is gone, without a word of how its episode ended."""
        recorder = self._writing.pop(agent, None)
        if recorder is not None:
            with self._noting_errors(agent):
                recorder.abandon()

    def abandon(self) -> None:
        """End the joint episode: all episodes of agents that have not ended."""
        for agent in list(self._writing):
            self.leave(agent)
        if self._extra and self.is_recording and self.joint is not None:
            self._put(self._extra)
        self._extra = {}
        self.is_recording = False

    def break_off(self) -> None:
        """A call did not come to its end, so the environment may have moved."""
        self.abandon()
        self._errors.clear()
        self._is_whole = False

    def note_failed_call(self, error: BaseException, *, has_returned: bool = False) -> None:
        """A call was cut off or raised. If the environment may have moved, break off.

        Args:
            error: What it has raised; a recorder inside this one says by it that it has moved.
            has_returned: Whether the environment has, and what it returned cannot be recorded.
        """
        self._is_whole = False
        has_moved = has_returned or getattr(error, "returned", None) is not None
        if has_moved or not isinstance(error, Exception):
            self.break_off()

    @property
    def writing(self) -> Mapping[Any, AgentRecorder]:
        """The agents whose episodes have begun and not ended."""
        return self._writing

    @property
    def joint_id(self) -> str:
        """Id of the current joint episode.

        Raises:
            NotReset: There is none yet.
        """
        if self.joint is None:
            raise NotReset("there is no joint episode yet: reset, and let the first agent look")
        return self.joint

    def annotate(self, agent: Any, values: Mapping[str, Any]) -> None:
        """Keep this beside the next step of an agent."""
        recorder = self._writing.get(agent)
        if recorder is not None:
            recorder.annotate(values)

    # -- errors -----------------------------------------------------------------------------

    @contextmanager
    def _noting_errors(self, agent: Any) -> Iterator[None]:
        """What stops the episode of one agent does not stop those of the others."""
        try:
            yield
        except JamboreeError as error:
            self._errors.append(error)
        except Exception as error:  # noqa: BLE001 - raised by `raise_errors`
            self._errors.append(refusal("step", error))
            recorder = self._writing.get(agent)
            if recorder is not None:
                recorder.break_off()

    def raise_errors(self, returned: Any) -> None:
        """Raise the first error since the last call, with what the call would have returned."""
        if not self._errors:
            return
        errors, self._errors = self._errors, []
        errors[0].returned = returned
        raise errors[0]

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the joint episode stays with this recorder."""
        return {**vars(self), "_jam": (type(self._jam), self._jam._connection)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Record there: the next reset begins a joint episode."""
        kind, connection = state["_jam"]
        vars(self).update(state, _jam=kind._on(connection))
        self.after_fork_in_child()
        follow_forks(self)

    def after_fork_in_child(self) -> None:
        """The joint episode stays with the parent process; here, the next reset begins one."""
        self._writing = {}
        self._extra = {}
        self._errors = []
        self.joint = None
        self.is_recording = self._is_whole = False
        self._turns = TurnHandler(self._jam)
