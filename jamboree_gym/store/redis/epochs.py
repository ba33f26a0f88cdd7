"""Names of epochs: the times of a namespace between two losses of all that Redis held."""

from __future__ import annotations

import itertools
import os
import secrets

__all__ = ["new_epoch"]

_PROCESS = secrets.token_hex(8)
_counter = itertools.count()


def new_epoch() -> str:
    """One that nobody else has named, nor ever will."""
    return f"{_PROCESS}-{os.getpid()}-{next(_counter)}"
