"""`RecordParallel`: every step of a Parallel environment of PettingZoo is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pettingzoo.utils import BaseParallelWrapper

from jamboree_gym.environment.outcomes import raise_refused
from jamboree_gym.multi_agent.looks import beginnings, others_of, outcomes
from jamboree_gym.multi_agent.recording.joint_wrapper import JointWrapper

__all__ = ["RecordParallel"]


class RecordParallel(JointWrapper, BaseParallelWrapper):  # type: ignore[misc] # it has no types
    """Records every step of every agent; changes nothing of what the environment does or returns.

    Each agent has an episode of its own, with the tags `agent` (its name) and `joint` (the id of
    the whole). An agent that is born later has an episode that begins with what it sees first.

    Example:
        >>> env = jam.record(mpe2.simple_spread_v3.parallel_env())
        >>> observations, infos = env.reset(seed=1)
        >>> while env.agents:
        ...     env.step({agent: env.action_space(agent).sample() for agent in env.agents})
        >>> jam.joint_episode(env.joint_id).verify()

    Args:
        env: A Parallel environment.
        jam: Where to record. It stays open when the environment is closed.
        run: As for `RecordAEC`, like the options that follow.
        tags: Values by which episodes can be found.
        handler_class: `EpisodeHandler` or a subclass: each agent has its own.
        record_infos: Whether to record infos, or a list of the keys to record.
        strict_infos: Whether an info that cannot be stored is an error.

    Raises:
        UnsupportedSpace, InvalidRecord, InvalidArgument: As `RecordAEC`.
    """

    _api = "parallel"
    _acting: list[Any] | None = None  # agents that the newest turn has actions of
    _living: list[Any]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment, and begin a joint episode.

        Raises:
            StoreUnavailable: As `step`.
            InvalidRecord: The result cannot be recorded; nothing is recorded until the next reset.
        """
        recorder = self._recorder
        recorder.admit()
        recorder.abandon()
        self._is_closed = False
        origin = recorder.origin(seed, options)
        result = None
        try:
            result = self.env.reset(seed=seed, options=options)
            recorder.begin(origin, seed)
            self._acting = None
            self._living = list(self.env.agents)
            for agent, look in beginnings(self._living, result):
                recorder.arrive(agent, *look)
            if other := others_of(self._living, result):
                recorder.keep("other", other)
        except BaseException as error:
            recorder.break_off()
            if result is None or not isinstance(error, Exception):
                raise
            raise_refused("reset", error, result)
        recorder.raise_errors(result)
        return result

    def _begin_there(self, waiting: list[Any]) -> None:
        self._living = list(self.env.agents)

    def step(self, actions: dict[Any, Any]) -> Any:
        """Step all agents, and record what each of them did, saw and got.

        A Ctrl-C in the middle abandons the joint episode, because the environment may have moved.

        Raises:
            StoreUnavailable, StoreFull: If its attribute `returned` is None, the environment has
                not moved: repeat the call when Redis is back. Else it has, and Redis has not
                confirmed the step; take what it would have returned from `returned`.
            InvalidRecord: Something of an agent cannot be recorded: its episode is abandoned, and
                the others continue. The environment has moved, as above.
            JamboreeClosed: The environment was closed, and not reset since.
        """
        if not self._is_recorded():
            return self.env.step(actions)
        recorder = self._recorder
        result = None
        try:
            turn, acting = self._packed_turn(actions), list(actions)
            result = self.env.step(actions)
            self._record(turn, result)
            self._acting = acting
        except BaseException as error:
            recorder.note_failed_call(error, has_returned=result is not None)
            if result is None or not isinstance(error, Exception):
                raise
            raise_refused("step", error, result)
        recorder.raise_errors(result)
        return result

    def _packed_turn(self, actions: Mapping[Any, Any]) -> dict[str, Any]:
        """What all agents do, before the environment gets it."""
        recorder = self._recorder
        for agent in recorder.writing.keys() - actions.keys():
            recorder.set_action(agent, None)
        for agent, action in actions.items():
            recorder.set_action(agent, action)
        turn: dict[str, Any] = {"actions": recorder.packed(list(actions.values()))}
        if (acting := list(actions)) != self._acting:
            turn["acting"] = recorder.names.all_of(acting)
        return turn

    def _record(self, turn: Mapping[str, Any], result: Any) -> None:
        recorder, before, now = self._recorder, self._living, list(self.env.agents)
        found = list(outcomes(before, now, result))
        if other := others_of([agent for agent, _, _ in found], result):
            recorder.keep("other", other)
        recorder.end_turn(turn)
        for agent, look, is_born in found:
            if look is None:
                recorder.leave(agent)
            elif is_born or agent in recorder.writing:
                recorder.arrive(agent, *look)
        self._living = now

    def annotate(self, agent: Any, **values: Any) -> None:
        """Annotate the next step of an agent: as `RecordEpisodes.annotate`."""
        self._recorder.annotate(agent, values)
