"""Records the episodes of one agent among several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym

from jamboree_gym.connection import HasConnection
from jamboree_gym.handlers.turns import AGENT_TAG, JOINT_TAG
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.recording.recorder import EpisodeRecorder
from jamboree_gym.records import EpisodeSummary

__all__ = ["AgentRecorder"]


class AgentRecorder(EpisodeRecorder):
    """Writes the episodes of one agent: as `EpisodeRecorder`, with the tags `agent` and `joint`.

    Args:
        jam: Where to record.
        spaces: Observation and action space of the agent.
        name: Its name, as it can be stored.
        env_id: Name of the environment.
        provenance: What `describe_agent` says.
        options: How episodes are recorded.

    Attributes:
        spaces: As given.
        joint: Id of the joint episode that its next episode belongs to; None = it is the first of a
            joint episode, which gets its id.
    """

    def __init__(
        self,
        jam: HasConnection,
        spaces: tuple[gym.Space[Any], gym.Space[Any]],
        name: Any,
        *,
        env_id: str,
        provenance: bytes,
        options: RecordOptions,
    ) -> None:
        super().__init__(jam, *spaces, env_id=env_id, provenance=provenance, options=options)
        self.spaces = spaces
        self.joint: str | None = None
        self._agent_tags: dict[str, Any] = {**self._tags, AGENT_TAG: name}

    def take_row(
        self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> None:
        """What came of the action that `handler.set_action` was told."""
        handler, steps = self.handler, self.handler.writing
        if steps is None:
            return
        if steps.may_be_common and info.__class__ is dict:
            encoded = handler._encoded_of_step(info) if info else None
            annotation = handler.annotation
            if steps.add_common_step(
                observation, reward, terminated, truncated, encoded, annotation
            ):
                if annotation is not None:
                    handler.annotation = None
                return
        handler.add_step(observation, reward, terminated, truncated, info)

    @property
    def _has_one_template(self) -> bool:
        return False  # the tags name the joint episode

    def _new_summary(
        self,
        id: str,
        started_at: float,
        seed: Any,
        parent: EpisodeSummary | None,
        fork_step: int | None,
    ) -> EpisodeSummary:
        summary = super()._new_summary(id, started_at, seed, parent, fork_step)
        self.joint = self.joint or id
        tags: Mapping[str, Any] = {**self._agent_tags, JOINT_TAG: self.joint}
        return replace(summary, tags=tags)
