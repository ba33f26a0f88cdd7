"""The turns of a joint episode: which agents acted, in which order, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.connection import HasConnection
from jamboree_gym.encoding.info_codec import InfoEncoder
from jamboree_gym.errors import InvalidRecord
from jamboree_gym.handlers.db_handler import DBHandler

__all__ = ["AGENT_TAG", "JOINT_TAG", "TurnHandler", "decode_actions"]

AGENT_TAG: Final = "agent"
"""Tag of an episode of one agent among several: the agent's name."""
JOINT_TAG: Final = "joint"
"""Tag of such an episode: the id of the joint episode, which is that of its first agent's."""

_EVERYTHING: Final = 2**52


class TurnHandler(DBHandler):
    """The turns of a joint episode, in a side log of the episode of its first agent.

    The first record is how the joint episode began; each other one is a turn.
    """

    def __init__(self, jam: HasConnection | None = None, joint: str | None = None) -> None:
        super().__init__(jam)
        self.entity = "turn"
        self.required = {"episode": str}
        self._values = InfoEncoder()
        if joint is not None:
            self["episode"] = joint

    def packed(self, value: Any) -> bytes:
        """A value in bytes, as it is now; a mark takes the place of what cannot be stored."""
        try:
            return encode_value(value)
        except InvalidRecord:
            return encode_value(self._values.copy(value))

    def put(self, record: Mapping[str, Any]) -> None:
        """Store a record. The turn is over, so a full queue does not refuse it."""
        outbox = self._outbox or self._open_outbox()
        try:
            encoded = self._encode(record)
        except InvalidRecord:
            encoded = self._encode({name: self._values.copy(record[name]) for name in record})
        self._connection.writer.after_append(outbox, outbox.append(encoded))

    def all(self) -> list[dict[str, Any]]:
        """All records, oldest first."""
        return self.many(_EVERYTHING)


def decode_actions(content: bytes, *, where: str) -> Any:
    """Inverse of `TurnHandler.packed`."""
    return decode_value(content, where=where)
