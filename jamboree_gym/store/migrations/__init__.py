"""Migrates stores of older releases to the current format, in place.

`buckets` moves the keys of Redis into buckets. `heads` changes heads and documents of version 1.
`rows` changes batches of rows of version 1, which were Arrow; `arrow_rows` reads those.

Imports: `arrays`, `encoding`, `errors`, `keys`.
Imported by: `cli`.
"""

from __future__ import annotations

from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.migrations import buckets, heads, rows
from jamboree_gym.store.migrations.outcome import Outcome
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["Outcome", "migrate"]


def migrate(store: RedisStore, backup: BackupStore | None) -> Outcome:
    """Migrate a namespace. Nobody may write meanwhile; if it is interrupted, start it again.

    A backup in a folder is never of an older format, nor is what lies in a cluster.

    Returns:
        The logs that were changed, and what is damaged: that is left as it is.

    Raises:
        StoreUnavailable: Redis or MongoDB does not answer; start again.
    """
    outcome = Outcome()
    mongo = backup if isinstance(backup, MongoStore) else None
    is_new = store.link.is_cluster
    if not is_new:
        buckets.migrate_redis(store, outcome)
    if mongo is not None:
        heads.migrate_mongo(mongo, outcome)
    if not is_new:
        heads.migrate_redis(store, mongo, outcome)
    if mongo is not None:
        rows.migrate_mongo(store, mongo, outcome)
    if not is_new:
        rows.migrate_redis(store, mongo, outcome)
    if mongo is not None and not outcome.damaged:
        rows.clear_schemas(store, mongo)
    return outcome
