"""Which MongoDB acknowledges: one at a time, told from others by its identity."""

from __future__ import annotations

import logging

from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["adopt"]

LOGS_AT_ONCE = 500

log = logging.getLogger(__name__)


def adopt(store: RedisStore, mongo: MongoStore, *, to: str) -> str:
    """Have this one acknowledge; where that was another, it begins with nothing acknowledged.

    So it does where it was emptied. Killed on the way, the next one to be adopted goes on.

    Args:
        store: Where it is noted.
        mongo: This one.
        to: In which words the namespace is copied there by itself; empty = it is not.

    Returns:
        The epoch in which it acknowledges.
    """
    adoption = store.acknowledgements.adopt(mongo.identity_now(), to=to)
    if adoption.instead_of:
        has_let_go = store.backup_state.trimmed_bytes() > 0
        log.log(
            logging.WARNING if has_let_go else logging.INFO,
            "MongoDB at %s takes the place of the one at %s as the backup of %s: all that Redis "
            "holds is copied there%s",
            *(mongo.where, adoption.instead_of, store.keyspace.namespace),
            "; what it has let go of stays in the other one alone" if has_let_go else "",
        )
    if adoption.is_unsettled:
        keys = list(store.log_keys())
        for first in range(0, len(keys), LOGS_AT_ONCE):
            store.acknowledgements.unacknowledge(
                keys[first : first + LOGS_AT_ONCE], epoch=adoption.epoch
            )
        store.acknowledgements.adopted(epoch=adoption.epoch)
    return adoption.epoch
