"""What has to be done before a connection is closed, as long as something can still be saved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from jamboree_gym.errors import JamboreeError

__all__ = ["CloseCallbacks"]


class CloseCallbacks:
    """Functions that are called once, the one added last at first."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._waiting)

    def add(self, callback: Callable[[], None]) -> None:
        """Have this called."""
        self._waiting.append(callback)

    def remove(self, callback: Callable[[], None]) -> None:
        """Take that back."""
        with suppress(ValueError):  # it has been called already
            self._waiting.remove(callback)

    def call_all(self) -> None:
        """Call each of them, whatever another one raises."""
        if self._waiting:
            try:
                with suppress(JamboreeError):  # what is not saved, the writer will say
                    self._waiting.pop()()
            finally:
                self.call_all()
