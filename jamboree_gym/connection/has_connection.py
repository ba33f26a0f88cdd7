"""What recorders and handlers take: a `Jamboree`, as the rooms below it see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from jamboree_gym.errors import closing_after

if TYPE_CHECKING:
    from types import TracebackType

    from jamboree_gym.connection.connection import Connection

__all__ = ["HasConnection"]


class HasConnection(ABC):
    """A `Jamboree`, as the rooms below it see it: what recorders and handlers take."""

    _in_messages = "a Jamboree"

    @property
    @abstractmethod
    def _connection(self) -> Connection:
        """The servers, the writer and the outboxes."""

    @classmethod
    @abstractmethod
    def _on(cls, connection: Connection) -> Self:
        """One that uses a connection which is open already."""

    def __enter__(self) -> Self:
        """Use as a context manager: `close` at the end."""
        self._connection.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close. After an error in the block, what `close` raises is a note of that error."""
        with closing_after(error):
            self._connection.close()
