"""Decides which MongoDB acknowledges copies: exactly one at a time, known by its identity."""

from __future__ import annotations

import logging

from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["adopt"]

LOGS_AT_ONCE = 500

log = logging.getLogger(__name__)


def adopt(store: RedisStore, mongo: MongoStore, *, to: str) -> str:
    """Make this MongoDB the one that acknowledges copies of the namespace.

    If another MongoDB did so before, or this one was emptied, nothing counts as acknowledged yet.
    If the process is killed midway, the next call finishes the change.

    Args:
        store: The Redis store, which remembers the choice.
        mongo: The MongoDB that is to acknowledge.
        to: The hosts to which the automatic backup copies; empty = there is no automatic backup.

    Returns:
        The epoch in which this MongoDB acknowledges.
    """
    adoption = store.acknowledgements.adopt(mongo.identity_now(), to=to)
    if adoption.instead_of:
        has_evicted = store.backup_state.trimmed_bytes() > 0
        log.log(
            logging.WARNING if has_evicted else logging.INFO,
            "MongoDB at %s takes the place of the one at %s as the backup of %s: all that Redis "
            "holds is copied there%s",
            *(mongo.where, adoption.instead_of, store.keyspace.namespace),
            "; what Redis has evicted is only in the other one" if has_evicted else "",
        )
    if adoption.is_unsettled:
        keys = list(store.log_keys())
        for first in range(0, len(keys), LOGS_AT_ONCE):
            store.acknowledgements.unacknowledge(
                keys[first : first + LOGS_AT_ONCE], epoch=adoption.epoch
            )
        store.acknowledgements.adopted(epoch=adoption.epoch)
    return adoption.epoch
