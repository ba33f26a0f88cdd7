"""Deleting a log: from Redis, from the backup, and from what this process is about to write."""

from __future__ import annotations

import logging

from jamboree_gym.delivery.opened import Opened
from jamboree_gym.delivery.outbox import RecordOutbox
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.errors import DecodeError, EmbeddedServerError, StoreFull, StoreUnavailable
from jamboree_gym.store.log import IndexEntry
from jamboree_gym.store.lost_deletions import carry_out

__all__ = ["delete_log"]

log = logging.getLogger(__name__)


def delete_log(
    opened: Opened, key: str, entry: IndexEntry | None, born: float | None = None
) -> None:
    """Delete a log from Redis, and from the backup where there may be a copy.

    What the backup has to forget is noted in the same step that deletes the log in Redis: killed in
    between, or without the backup, the next `backup.flush()` does the rest.

    Args:
        opened: Of the Jamboree that deletes; an episode that it records ends with that.
        key: The log.
        entry: Of an episode, its entry in the listings.
        born: Its birth as the caller has read it: Redis may have lost the log since, and its writer
            may send it again.
    """
    has_backup = opened.has_backup
    begun = _birth(opened, key, has_backup=has_backup)
    if begun is None:
        begun = born
    outbox = opened.outboxes.get(key)
    with opened.writer.paused():  # no row may arrive after the deletion
        deleted = opened.store.delete(key, entry=entry, born=begun)
        if isinstance(outbox, StepOutbox):
            outbox.drop()
            opened.writer.forget(outbox)
            opened.outboxes.forget(key)
    if has_backup and deleted is not None:
        _delete_from_backup(opened, key, entry, deleted)
    if isinstance(outbox, RecordOutbox):
        outbox.start_over()  # other handlers of this log still use it


def _birth(opened: Opened, key: str, *, has_backup: bool) -> float | None:
    """Timestamp of the log's first record, if it is known."""
    try:
        head = opened.store.redis.head(key)
    except DecodeError:  # what is damaged can be deleted
        head = None
    if head is not None:
        return head.born
    return opened.opened_backup().birth(key) if has_backup else None


def _delete_from_backup(opened: Opened, key: str, entry: IndexEntry | None, born: float) -> None:
    """Delete a log from the backup; and from Redis once more, if it has got it back meanwhile."""
    store, deleted = opened.store.redis, [(key, born)]
    try:
        while not carry_out(store, opened.opened_backup(), deleted, are_just_deleted=True):
            store.deletions.delete(key, entry=entry, born=born, only_this=True)
    except (EmbeddedServerError, StoreFull, StoreUnavailable) as error:
        log.warning("%s; what was deleted is deleted there by the next backup.flush()", error)
