"""Which one copies, where several could: a name in Redis that expires unless it is renewed.

Only to spare work: two that copy at once do no harm.
"""

from __future__ import annotations

import math
import os
import platform
import time
from dataclasses import replace
from functools import partial
from typing import Literal

import psutil

from jamboree_gym.errors import JamboreeError
from jamboree_gym.store.log import BackupClaim
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["HOLD_S", "Holder", "Kind"]

HOLD_S = 12.0  # longer than a try that fails and the pause after it
RENEW_S = HOLD_S / 3

Kind = Literal["process", "thread"]


class Holder:
    """One that would copy. A process replaces a thread, and anybody one that has died here.

    Args:
        store: Where the name of the one that copies is kept.
        kind: Whether it is a process of its own, or a thread of a trainer.
        to: Where it copies to: hosts, or `EMBEDDED`.
        is_new: Whether the namespace is to be copied there from now on, wherever it was before.

    Attributes:
        name: Host and process, for whoever wants to know.
        to: Where the namespace is to be copied to.
    """

    def __init__(self, store: RedisStore, kind: Kind, *, to: str, is_new: bool) -> None:
        self.name = f"{platform.node()} {os.getpid()}"
        self._store = store
        self._kind = kind
        self._id = f"{kind} {self.name} {os.urandom(4).hex()}"
        self._claim = BackupClaim(self._id, to, HOLD_S)
        self._is_new = is_new
        self.to = to
        self._holds = False
        self._renewed_at = -math.inf

    def claim(self) -> bool:
        """Take it, or keep it; False where another copies, or it is to be copied elsewhere.

        What is known of where to is said again where Redis was emptied.

        Raises:
            JamboreeError: Redis does not take it.
        """
        hold = partial(self._store.backup_state.hold, self._claim)
        found, self.to = hold(known_to=self.to, is_new=self._is_new)
        self._is_new = False
        if found not in {"", self._id} and _may_replace(self._kind, found):
            found, self.to = hold(known_to=self.to, instead_of=found)
        self._renewed_at = time.monotonic()
        self._holds = found == self._id
        return self._holds

    def copy_to(self, to: str) -> None:
        """Where it copies to has another name from now on."""
        self._claim = replace(self._claim, to=to)

    def renew_if_due(self) -> None:
        """Keep it while a long copy goes on."""
        if self._holds and time.monotonic() - self._renewed_at > RENEW_S:
            self.claim()

    def let_go(self) -> None:
        """Leave it to another. Without Redis it expires."""
        self._holds = False
        try:
            self._store.backup_state.let_go(self._id)
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
