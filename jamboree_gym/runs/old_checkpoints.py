"""Which checkpoints of a run may go, found while it makes more of them."""

from __future__ import annotations

from typing import Any

from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.runs.checkpoints import Checkpoint, CheckpointHandler

__all__ = ["OldCheckpoints"]


class OldCheckpoints:
    """Finds the checkpoints of a run that may go. Each call reads what is new since the last one.

    Args:
        handler: That of the run.
        newest: How many of the newest checkpoints stay, beside the last one of each session.
    """

    def __init__(self, handler: CheckpointHandler, newest: int) -> None:
        self._newest = newest
        self._handler = handler
        self._added, self._deleted = _NewRecords(handler), _NewRecords(handler.deletions)
        self._known: dict[int, Checkpoint] = {}

    def found(self) -> list[Checkpoint]:
        """Those that may go now, the oldest first.

        Raises:
            DecodeError: The stored records are not those of checkpoints.
        """
        added = self._added.read()
        if self._added.is_first_read:
            self._known = {}
        self._known |= {one["index"]: self._handler._checkpoint(one) for one in added}
        for one in self._deleted.read():
            self._known.pop(one["number"], None)
        return [one for one in list(self._known.values())[: -self._newest] if not one.is_final]


class _NewRecords:
    """Reads the records of a log that are new since the last time.

    Attributes:
        is_first_read: Whether the last time was the first one of this log: it may have been deleted
            and begun anew.
    """

    def __init__(self, handler: DBHandler) -> None:
        self._handler = handler
        self._born: float | None = None
        self._next_index = 0
        self.is_first_read = True

    def read(self) -> list[dict[str, Any]]:
        """The new records; all of a log that was not read before."""
        start = self._next_index
        found, head = self._handler._read_from(start)
        born = None if head is None else head.born
        self.is_first_read = born != self._born
        if self.is_first_read and start:
            start, (found, _) = 0, self._handler._read_from(0)
        records = []
        while found:
            records += found
            start = found[-1]["index"] + 1
            found, _ = self._handler._read_from(start)
        self._born, self._next_index = born, start
        return records
