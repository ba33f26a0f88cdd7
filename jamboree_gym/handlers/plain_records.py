"""The quickest way of a record into the journal, if the compiled core is there.

It encodes and queues a plain record, as `DBHandler.save` and `RecordOutbox.append` do, byte for
byte, and leaves all others to Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from jamboree_gym.arrays.values import pack_plain
from jamboree_gym.compiled import compiled_core
from jamboree_gym.delivery.backpressure import CHECK_AFTER_BYTES
from jamboree_gym.delivery.outbox import CHECK_EVERY_BYTES, RecordOutbox
from jamboree_gym.journal.entry_log import EntryLog
from jamboree_gym.journal.journal import Journal
from jamboree_gym.journal.segments import Block

__all__ = ["append_plain"]

AppendPlain: TypeAlias = Callable[[RecordOutbox, Any, frozenset[str]], bool]
"""Takes the outbox, what is to be saved, and the names that it must not have; whether it is queued,
and nothing has to be looked at. If not, nothing is changed."""


def _chosen() -> AppendPlain | None:
    core = compiled_core()
    classes = (RecordOutbox, Journal, EntryLog, Block, type(threading.Lock()))
    sizes = (CHECK_AFTER_BYTES, CHECK_EVERY_BYTES)
    return None if core is None else core.record_writer_of(*classes, pack_plain, *sizes)


append_plain = _chosen()
"""None if Python saves all records."""
