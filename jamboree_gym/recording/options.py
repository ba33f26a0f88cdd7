"""How episodes are recorded, as the wrappers hand it on to what records."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jamboree_gym.recording.episode_handler import EpisodeHandler

__all__ = ["RecordOptions"]


@dataclass(frozen=True, slots=True, eq=False)
class RecordOptions:
    """How episodes are recorded.

    Attributes:
        run: Name of the run that the episodes belong to; None = the Jamboree's own.
        tags: Values by which episodes can be found: `{"lr": 3e-4, "branch": "main"}`.
        handler_class: `EpisodeHandler` or a subclass.
        record_infos: Whether infos are kept, or a list of the keys that are.
        strict_infos: Whether an info that cannot be stored is an error, instead of a mark in place
            of what cannot.
    """

    run: str | None = None
    tags: Mapping[str, Any] | None = None
    handler_class: type[EpisodeHandler] = EpisodeHandler
    record_infos: bool | Collection[str] = True
    strict_infos: bool = False
