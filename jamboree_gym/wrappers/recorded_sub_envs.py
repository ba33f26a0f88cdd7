"""What all recording wrappers of vector environments share with their user."""

from __future__ import annotations

from typing import Any

from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.vector_recorder import VectorRecorder

__all__ = ["RecordedSubEnvs"]


class RecordedSubEnvs:
    """What a recorded vector environment says of its episodes, and what it is told."""

    _recorder: VectorRecorder

    @property
    def handlers(self) -> list[EpisodeHandler]:
        """The handlers that write; each stands on its sub-environment's current episode."""
        return self._recorder.handlers

    @property
    def episode_ids(self) -> list[str]:
        """Ids of the current episodes, one per sub-environment.

        Raises:
            NotReset: There are none yet.
        """
        return self._recorder.episode_ids

    @property
    def run(self) -> str:
        """Name of the run that the episodes belong to."""
        return self._recorder.run

    def annotate(self, **values: Any) -> None:
        """Say something of the next step: it is recorded beside it.

        As `jamboree_gym.wrappers.RecordEpisodes.annotate`, where the names are explained.

        Args:
            **values: By name; a scalar for all alike, else an array (num_envs, ...), a list, or a
                dict of such.

        Raises:
            InvalidRecord: A value has another length, or cannot be stored; names it.
        """
        self._recorder.annotate(values)

    def close(self, **kwargs: Any) -> None:
        """Close the environment; episodes that have not ended are abandoned."""
        self._recorder.is_closed = True
        try:
            self._recorder.abandon()
        finally:
            super().close(**kwargs)  # type: ignore[misc] # of the wrapper that it is mixed into
