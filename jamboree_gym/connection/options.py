"""The options of a connection, checked before anything is opened."""

from __future__ import annotations

from typing import get_args

from jamboree_gym.delivery.backpressure import WhenFull
from jamboree_gym.delivery.writer import WriteMode
from jamboree_gym.errors import InvalidArgument

__all__ = ["check_options"]

LONGEST_FLUSH_INTERVAL_S = 3600
LONGEST_BACKUP_INTERVAL_S = 3600


def check_options(
    *,
    write: WriteMode,
    when_full: WhenFull,
    flush_interval_s: float,
    backup_interval_s: float,
    max_pending_bytes: int,
    namespace: str,
) -> None:
    """Raise `InvalidArgument` for the first that cannot be used; names it, and what can be."""
    for name, mode, modes in (("write", write, WriteMode), ("when_full", when_full, WhenFull)):
        if mode not in get_args(modes):
            choices = ", ".join(get_args(modes))
            raise InvalidArgument(f"{name}={mode!r}: choose one of {choices}")
    if not 0 <= flush_interval_s <= LONGEST_FLUSH_INTERVAL_S:
        raise InvalidArgument(
            f"flush_interval_s={flush_interval_s!r}: choose 0 to {LONGEST_FLUSH_INTERVAL_S} s"
        )
    if not 0 <= backup_interval_s <= LONGEST_BACKUP_INTERVAL_S:
        raise InvalidArgument(
            f"backup_interval_s={backup_interval_s!r}: choose 0 to {LONGEST_BACKUP_INTERVAL_S} s"
        )
    if max_pending_bytes <= 0 or not namespace or not isinstance(namespace, str):
        raise InvalidArgument(
            "max_pending_bytes must be 1 or more, and namespace a text, not empty"
        )
