"""Questions to the backup behind a Redis; while it is away, none is asked for half a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from jamboree_gym.errors import JamboreeError
from jamboree_gym.store.backups.errors import BackupUnavailable, InterpreterEnds
from jamboree_gym.store.backups.protocol import BackupStore

__all__ = ["BackupQuestions"]

ASK_AGAIN_S = 30.0

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class BackupQuestions:
    """Puts questions to the backup.

    Args:
        redis_where: Where Redis is, for messages.
        find_backup: Opens the backup; returns None if there is none.
    """

    def __init__(self, redis_where: str, find_backup: Callable[[], BackupStore | None]) -> None:
        self._redis_where = redis_where
        self._find_backup = find_backup
        self._away: BackupUnavailable | None = None
        self._ask_again_at = 0.0

    @property
    def may_be_answered(self) -> bool:
        """Whether there is a backup, or may be: to be looked at before others are asked for it."""
        if self._is_away:
            return True
        try:
            return self._find_backup() is not None
        except JamboreeError:
            return True

    @property
    def _is_away(self) -> bool:
        return self._away is not None and time.monotonic() < self._ask_again_at

    def __call__(self, question: Callable[[BackupStore], _T]) -> _T | None:
        """The backup's answer to a question; None if there is no backup.

        Raises:
            BackupUnavailable: The backup does not answer, or did not a moment ago.
        """
        if self._away is not None and self._is_away:
            raise self._away.with_traceback(None)
        try:
            backup = self._find_backup()
        except JamboreeError as error:
            raise self._note_outage(error) from error
        if backup is None:
            return None
        try:
            answer = question(backup)
        except BackupUnavailable as error:
            raise self._note_outage(error) from error
        self._away = None
        return answer

    def _note_outage(self, error: JamboreeError) -> BackupUnavailable:
        if self._away is None and not isinstance(error, InterpreterEnds):
            log.warning("%s; what Redis does not have cannot be read until it answers", error)
        self._away = BackupUnavailable(f"not in Redis at {self._redis_where}, and {error}")
        self._ask_again_at = time.monotonic() + ASK_AGAIN_S
        return self._away
