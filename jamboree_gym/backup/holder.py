"""Which one copies, where several could: a name in Redis that expires unless it is renewed.

Only to spare work: two that copy at once do no harm.
"""

from __future__ import annotations

import math
import os
import platform
import time
from typing import Literal

import psutil

from jamboree_gym.errors import JamboreeError
from jamboree_gym.store.redis import RedisStore

__all__ = ["HOLD_S", "Holder", "Kind"]

HOLD_S = 12.0  # longer than a try that fails and the pause after it
RENEW_S = HOLD_S / 3

Kind = Literal["process", "thread"]


class Holder:
    """One that would copy. A process replaces a thread, and anybody one that has died here.

    Args:
        store: Where the name of the one that copies is kept.
        kind: Whether it is a process of its own, or a thread of a trainer.

    Attributes:
        name: Host and process, for whoever wants to know.
    """

    def __init__(self, store: RedisStore, kind: Kind) -> None:
        self.name = f"{platform.node()} {os.getpid()}"
        self._store = store
        self._kind = kind
        self._id = f"{kind} {self.name} {os.urandom(4).hex()}"
        self._holds = False
        self._renewed_at = -math.inf

    def claim(self) -> bool:
        """Take it, or keep it; False where another copies.

        Raises:
            JamboreeError: Redis does not take it.
        """
        found = self._store.hold_backup(self._id, HOLD_S)
        if found != self._id and _may_replace(self._kind, found):
            found = self._store.hold_backup(self._id, HOLD_S, instead_of=found)
        self._renewed_at = time.monotonic()
        self._holds = found == self._id
        return self._holds

    def renew_if_due(self) -> None:
        """Keep it while a long copy goes on."""
        if self._holds and time.monotonic() - self._renewed_at > RENEW_S:
            self.claim()

    def let_go(self) -> None:
        """Leave it to another. Without Redis it expires."""
        self._holds = False
        try:
            self._store.let_go_of_backup(self._id)
        except JamboreeError:
            return


def _may_replace(kind: Kind, holder: str) -> bool:
    """Whether one of this kind may take over from a holder."""
    match holder.split(" "):
        case ["thread", *_] if kind == "process":
            return True
        case [_, node, pid, _] if node == platform.node() and pid.isdecimal():
            return not psutil.pid_exists(int(pid))
    return False
