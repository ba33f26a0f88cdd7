"""What `RecordAEC` and `RecordParallel` have in common; each is a wrapper of PettingZoo, too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Literal

from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import JamboreeClosed
from jamboree_gym.multi_agent.recording.joint_recorder import ForkPoint, JointRecorder
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.recording.recorder import closed_environment

__all__ = ["JointWrapper"]


class JointWrapper:
    """Base of both; the classes describe the arguments.

    Attributes:
        env: The environment below.
    """

    _api: ClassVar[Literal["aec", "parallel"]]

    env: Any

    @checked
    def __init__(
        self,
        env: Any,
        jam: HasConnection,
        *,
        run: str | None = None,
        tags: Mapping[str, Any] | None = None,
        handler_class: type[EpisodeHandler] = EpisodeHandler,
        record_infos: bool | Collection[str] = True,
        strict_infos: bool = False,
    ) -> None:
        super().__init__(env)  # type: ignore[call-arg] # that of PettingZoo's wrapper
        options = RecordOptions(run, tags, handler_class, record_infos, strict_infos)
        self._recorder = JointRecorder(jam, env, self._api, options)
        self._connection = jam._connection
        self._is_closed = False

    @property
    def joint_id(self) -> str:
        """Id of the current joint episode.

        Raises:
            NotReset: There is none yet. In an AEC environment it begins when the first agent looks.
        """
        return self._recorder.joint_id

    def _is_recorded(self) -> bool:
        """Whether a step is recorded, which waits for room first: the environment has not moved."""
        if not self._recorder.is_recording:
            if self._is_closed:
                raise closed_environment()
            return False
        if self._connection.writer.backpressure.is_on:
            self._recorder.admit()
        return True

    def _begin_child(self, run: ForkPoint, origin: Mapping[str, Any]) -> None:
        """Begin a joint episode in the environment's current state."""
        self._recorder.admit()
        try:
            self._begin_there(self._recorder.begin_child(run, origin))
            self._recorder.raise_errors(None)
        except BaseException:
            self._recorder.break_off()  # nobody will get the environment
            raise

    def _begin_there(self, waiting: list[Any]) -> None:
        """A joint episode has begun at a fork.

        Args:
            waiting: The agents whose newest action is known, and what came of it is not.
        """

    def _finish(self) -> None:
        """The joint episode ends here."""
        self._recorder.abandon()

    def close(self) -> None:
        """Close the environment; unfinished episodes become `abandoned`.

        Raises:
            StoreUnavailable, StoreFull: In `sync` and `fsync` mode, Redis has not confirmed an end,
                which waits in memory. The environment is closed.
        """
        self._is_closed = True
        try:
            with suppress(JamboreeClosed):
                self._finish()
                self._recorder.raise_errors(None)
        finally:
            self.env.close()
