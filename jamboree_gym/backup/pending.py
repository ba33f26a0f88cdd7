"""What the backup does not hold yet."""

from __future__ import annotations

from typing import NamedTuple

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.store.redis.link import AccessRefused
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["Pending", "read_pending"]


class Pending(NamedTuple):
    """What the backup does not hold yet.

    Attributes:
        place: Where the backup is that acknowledges; None where none has yet.
        logs: Number of logs with changes that it has not acknowledged.
        records: Number of records and rows of these logs that it lacks; of a damaged log 0.
    """

    place: str | None
    logs: int
    records: int


def read_pending(store: RedisStore) -> Pending:
    """Ask Redis what the backup does not hold yet.

    While one backup takes the place of another, logs count as acknowledged that only the other one
    holds. Until that is over, all logs are pending.
    """
    # First: if another backup comes after this, the answer is that of the one before.
    place, is_settled = store.backup_state.acknowledging()
    logs = [key for key, _ in store.acknowledgements.unbacked()]
    least = 0
    if not is_settled:
        try:
            logs = list(store.log_keys())
        except AccessRefused:  # a user who only reads has no SCAN
            least = 1
    heads = store.reader.heads(logs) if logs else {}
    known = [one for one in heads.values() if isinstance(one, Head)]
    records = sum(one.count - (one.acked if is_settled else 0) for one in known)
    return Pending(place, max(len(logs), least), records)
