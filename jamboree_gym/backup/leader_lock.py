"""Elects the one backup that copies: it holds a lease in Redis, which expires unless renewed.

The lease only saves work: two backups that copy at once do no harm.
"""

from __future__ import annotations

import math
import os
import platform
import time
from dataclasses import replace
from functools import partial
from typing import Literal

from jamboree_gym.errors import JamboreeError
from jamboree_gym.store.log import BackupClaim
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["HOLD_S", "LeaderLock", "Kind"]

HOLD_S = 12.0  # longer than a failed attempt plus the pause after it
RENEW_S = HOLD_S / 3

Kind = Literal["process", "thread"]


class LeaderLock:
    """A backup that may hold the lease. A process replaces a thread; anyone replaces a dead holder.

    A dead holder is recognised only on this machine. The arguments are those of `Follower`.

    Attributes:
        name: Host and process id, for people.
        to: The destination that is set for the namespace.
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
        """Take or renew the lease; False if another backup holds it, or another destination is set.

        If Redis was emptied, the known destination is stored there again.

        Raises:
            JamboreeError: Redis does not accept the write.
        """
        take_lead = partial(self._store.backup_state.take_lead, self._claim)
        found, self.to = take_lead(known_to=self.to, is_new=self._is_new)
        self._is_new = False
        if found not in {"", self._id} and _may_replace(self._kind, found):
            found, self.to = take_lead(known_to=self.to, instead_of=found)
        self._renewed_at = time.monotonic()
        self._holds = found == self._id
        return self._holds

    def copy_to(self, to: str) -> None:
        """Change the name of the destination."""
        self._claim = replace(self._claim, to=to)

    def renew_if_due(self) -> None:
        """Renew the lease during a long copy."""
        if self._holds and time.monotonic() - self._renewed_at > RENEW_S:
            self.claim()

    def release(self) -> None:
        """Release the lease. If Redis is away, the lease expires by itself."""
        self._holds = False
        try:
            self._store.backup_state.release_lead(self._id)
        except JamboreeError:
            return


def _may_replace(kind: Kind, holder: str) -> bool:
    """Whether a backup of this kind may take over from this holder."""
    match holder.split(" "):
        case ["thread", *_] if kind == "process":
            return True
        case [_, node, pid, _] if node == platform.node() and pid.isdecimal():
            import psutil  # here: it takes a while to load, and few need it

            return not psutil.pid_exists(int(pid))
    return False
