"""`RecordAEC`: every turn of an AEC environment of PettingZoo is recorded."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pettingzoo.utils.wrappers import BaseWrapper

from jamboree_gym.multi_agent.looks import look_now
from jamboree_gym.multi_agent.recording.joint_wrapper import JointWrapper

__all__ = ["RecordAEC"]

HAS_MOVED: tuple[()] = ()
"""`returned` of an error after which an AEC environment has moved: `step` returns nothing."""


class RecordAEC(JointWrapper, BaseWrapper):  # type: ignore[misc] # it has no types
    """Records every turn of every agent; changes nothing of what the environment does or returns.

    Each agent has an episode of its own, with the tags `agent` (its name) and `joint` (the id of
    the whole). A step of it is: what the agent saw at its turn, its action, and what it saw and got
    at its next turn. An agent looks by `last`; if a turn is taken without it, the recorder looks.

    Example:
        >>> env = jam.record(pettingzoo.make("aec", "classic/tictactoe-v3"))
        >>> env.reset(seed=1)
        >>> for agent in env.agent_iter():
        ...     observation, reward, terminated, truncated, info = env.last()
        ...     env.step(None if terminated or truncated else policy(observation))
        >>> jam.joint_episode(env.joint_id).verify()

    Args:
        env: An AEC environment.
        jam: Where to record. It stays open when the environment is closed.
        run: Name of the run that the episodes belong to; None = the Jamboree's own.
        tags: Values by which episodes can be found.
        handler_class: `EpisodeHandler` or a subclass: each agent has its own.
        record_infos: Whether to record infos, or a list of the keys to record.
        strict_infos: Whether an info that cannot be stored is an error.

    Raises:
        UnsupportedSpace: A space of an agent cannot be recorded; names it.
        InvalidRecord: A tag cannot be stored; names it.
        InvalidArgument: An argument is invalid; names it.
    """

    _api = "aec"

    _has_looked = False  # the agent whose turn it is
    _waiting: dict[Any, None]  # agents that have acted since they looked

    def agent_iter(self, max_iter: int = 2**63) -> Any:
        """As that of the environment below."""
        return self.env.agent_iter(max_iter)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Reset the environment, and begin a joint episode.

        Raises:
            StoreUnavailable: As `step`.
        """
        recorder = self._recorder
        recorder.admit()
        self._finish()
        self._is_closed = False
        origin = recorder.origin(seed, options)
        try:
            self.env.reset(seed=seed, options=options)
            self._has_looked = False
            self._waiting = {}
            recorder.begin(origin, seed)
        except BaseException:
            recorder.break_off()
            raise
        recorder.raise_errors(HAS_MOVED)

    def _begin_there(self, waiting: list[Any]) -> None:
        self._waiting = dict.fromkeys(waiting)

    def last(self, observe: bool = True) -> Any:
        """As that of the environment: what the agent sees whose turn it is, and what it has got.

        It is recorded as it is now. What cannot be recorded, `step` raises. A Ctrl-C in the middle
        abandons the joint episode, because the look may be missing.
        """
        result = self.env.last(observe)
        if observe and not self._has_looked and self._recorder.is_recording:
            self._look(self.env.agent_selection, result)
        return result

    def _look(self, agent: Any, result: Any) -> None:
        try:
            self._has_looked = True
            self._waiting.pop(agent, None)
            self._recorder.arrive(agent, *result)
        except BaseException as error:
            self._recorder.note_failed_call(error)
            raise

    def step(self, action: Any) -> None:
        """Take a turn, and record it.

        A Ctrl-C in the middle abandons the joint episode, because the environment may have moved.

        Raises:
            StoreUnavailable, StoreFull: If its attribute `returned` is None, the environment has
                not moved: repeat the call when Redis is back. Else it has, and Redis has not
                confirmed the turn, which waits in memory.
            InvalidRecord: Something of an agent cannot be recorded: its episode is abandoned, and
                the others continue. The environment has moved.
            JamboreeClosed: The environment was closed, and not reset since.
        """
        if not self._is_recorded():
            self.env.step(action)
            return
        recorder, agent = self._recorder, self.env.agent_selection
        if not self._has_looked:
            self._look(agent, self.env.last())
        recorder.set_action(agent, action)
        turn = {"agent": recorder.names.of(agent), "action": recorder.packed(action)}
        try:
            self.env.step(action)
            self._has_looked = False
            if agent in recorder.writing:
                self._waiting[agent] = None
            recorder.end_turn(turn)
        except BaseException as error:
            recorder.note_failed_call(error)
            raise
        recorder.raise_errors(HAS_MOVED)

    def annotate(self, **values: Any) -> None:
        """Annotate the action of the agent whose turn it is: as `RecordEpisodes.annotate`."""
        if self._recorder.is_recording:
            agent = self.env.agent_selection
            if not self._has_looked:
                self._look(agent, self.env.last())
            self._recorder.annotate(agent, values)

    def _finish(self) -> None:
        """The joint episode ends here: what came of the agents' last actions belongs to it."""
        if not self._recorder.is_recording:
            return
        for agent in list(self._waiting):
            with suppress(Exception):  # an environment may be beyond that
                look = look_now(self.env, agent)
                self._recorder.arrive(agent, *look)
        self._waiting = {}
        super()._finish()
