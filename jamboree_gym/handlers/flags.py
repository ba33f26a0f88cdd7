"""Flags: what people note of an episode, and which episodes of a run have such a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from jamboree_gym.arrays.values import check_text
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import DecodeError, InvalidArgument
from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.handlers.read_together import count_together

__all__ = ["Flag", "FlagHandler", "FlaggedHandler", "flagged_episodes"]

MAX_NOTE: Final = 2000  # characters
_EVERYTHING: Final = 2**52


@dataclass(frozen=True, slots=True)
class Flag:
    """A note on an episode.

    Attributes:
        note: What it says.
        step: The step that it is about; None = the whole episode.
        at: When it was made, epoch seconds.
    """

    note: str
    step: int | None
    at: float

    def __str__(self) -> str:
        """The note in one line."""
        return self.note if self.step is None else f"step {self.step}: {self.note}"


class FlagHandler(DBHandler):
    """The flags of an episode.

    Example:
        >>> handler = FlagHandler(jam)
        >>> handler["episode"] = episode_id
        >>> handler.put("it jumps here", step=40)
        >>> handler.flags()
        [Flag(note='it jumps here', step=40, at=...)]
    """

    def __init__(self, jam: HasConnection | None = None) -> None:
        super().__init__(jam)
        self.entity = "flag"
        self.required = {"episode": str}

    def put(self, note: str, *, step: int | None = None) -> None:
        """Add a flag.

        Raises:
            InvalidArgument: The note is empty or too long, or the step is negative.
        """
        text = check_text("note", note, InvalidArgument).strip()
        if not 0 < len(text) <= MAX_NOTE:
            raise InvalidArgument(f"note={note!r:.40}: write 1 to {MAX_NOTE} characters")
        if step is not None and step < 0:
            raise InvalidArgument(f"step={step}: choose a step of the episode, from 0, or None")
        self.save({"note": text, "step": step})

    def flags(self) -> list[Flag]:
        """All flags, the oldest first.

        Raises:
            DecodeError: One is damaged; names it.
        """
        return [
            _flag(one, f"{self._key} at index {one['index']}") for one in self.many(_EVERYTHING)
        ]


def _flag(record: dict[str, Any], where: str) -> Flag:
    note, step = record.get("note"), record.get("step")
    if not isinstance(note, str) or not (step is None or type(step) is int):
        raise DecodeError(f"{where}: not a flag")
    return Flag(note, step, record["timestamp"])


class FlaggedHandler(DBHandler):
    """Which episodes of a run have ever been flagged; holds no note, only ids."""

    def __init__(self, jam: HasConnection | None = None, run: str = "") -> None:
        super().__init__(jam)
        self.entity = "run-flagged"
        self.required = {"run": str}
        self["run"] = run

    def put(self, episode: str) -> None:
        """Note that an episode has a flag; a second time is no harm."""
        self.save({"episode": episode})

    def ids(self) -> Sequence[str]:
        """Each of them once, the one that was flagged first at the front."""
        records = self.many(_EVERYTHING)
        return list(dict.fromkeys(str(one["episode"]) for one in records if "episode" in one))


def flagged_episodes(jam: HasConnection, run: str) -> list[str]:
    """Ids of the episodes of a run that have a flag now, in three or four round trips."""
    ids = FlaggedHandler(jam, run).ids()
    handlers = []
    for one in ids:
        handler = FlagHandler(jam)
        handler["episode"] = one
        handler._settle()
        handlers.append(handler)
    return [one for one, count in zip(ids, count_together(handlers), strict=True) if count]
