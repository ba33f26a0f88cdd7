"""Names of epochs: the times of a namespace between two losses of all that Redis held."""

from __future__ import annotations

import itertools
import secrets

from jamboree_gym.process_life import follow_forks

__all__ = ["new_epoch"]


class _Names:
    """Names that no other process gives: each begins with random digits of this process."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Draw other digits than the parent process. A process id may come again; they do not."""
        self._process = secrets.token_hex(8)
        self._counter = itertools.count()

    def new(self) -> str:
        return f"{self._process}-{next(self._counter)}"


_names = _Names()
follow_forks(_names)


def new_epoch() -> str:
    """A name that no epoch has had."""
    return _names.new()
