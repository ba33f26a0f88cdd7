"""Checks whether the backup holds what Redis holds, byte for byte."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter

from msgspec.structs import replace

from jamboree_gym.backup.portions import FEW_REVISIONS, FIRST_LOGS, next_portion, pages
from jamboree_gym.encoding.batch_format import Batch, Head, decode_head
from jamboree_gym.encoding.rows import schema_digest
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.reader import checked_chain, stored_logs
from jamboree_gym.store.log import or_error
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import backup_name

__all__ = ["Comparison"]

Log = tuple[Head, Iterable[Batch]]


class Comparison:
    """Compares logs; many short logs share a round trip. Logs only in the backup are checked alone.

    Attributes:
        batches: Number of batches compared so far.
        different: By key, a description of what differs, is missing or is damaged.
    """

    def __init__(self, store: RedisStore, backup: BackupStore) -> None:
        self.batches = 0
        self.different: dict[str, str] = {}
        self._store = store
        self._backup = backup

    def keys(self) -> list[str]:
        """All logs of both sides, sorted."""
        return sorted({*self._store.log_keys(), *self._backup.keys()})

    def compare(self, keys: Sequence[str]) -> Iterator[int]:
        """Compare sorted logs; yield how many have been compared so far."""
        done, at_once, trimmed = 0, FIRST_LOGS, list[str]()
        while done < len(keys):
            part = keys[done : done + at_once]
            ours, size = self._read_from_redis(part)
            for key, kept in stored_logs(self._backup, part):
                try:
                    self.batches += self._compare(key, ours.get(key), kept)
                except DecodeError as error:
                    if self._was_trimmed(key, ours.get(key)):
                        trimmed.append(key)
                    else:
                        self.different[key] = str(error)
                done += 1
                yield done
            while trimmed:  # Redis gives up each log once
                deque(self.compare([trimmed.pop()]), maxlen=0)
            at_once = next_portion(at_once, len(part), size)

    def check_places(self) -> None:
        """Check what reading the logs does not show: that every log can be found."""
        damaged = self._backup.damaged()
        self.different |= {name: str(error) for name, error in damaged.items()}

    def _was_trimmed(self, key: str, ours: Log | DecodeError | None) -> bool:
        """Whether Redis has given up some of a log since its head was read."""
        if ours is None or isinstance(ours, DecodeError):
            return False
        with suppress(DecodeError):
            now = self._store.head(key)
            return now is None or now.held > ours[0].held
        return False

    def compare_blobs(self) -> None:
        """Compare the schemas and provenances that logs refer to.

        A blob that the backup lacks is no difference if only a deleted episode referred to it.
        """
        here, kept = self._store.blobs.all(), self._backup.blobs()
        lacking = here.keys() - kept.keys()
        lacking &= self._digests_in_use() if lacking else set()
        for name in sorted({*here, *kept}):
            key = self._store.keyspace.blob(name)
            for content in (here.get(name), kept.get(name)):
                if isinstance(content, DecodeError):
                    self.different[key] = str(content)
            if name in lacking:
                self.different[key] = f"blob {name}: the backup does not hold it"

    def _digests_in_use(self) -> set[str]:
        """Digests of the blobs to which readable episodes in Redis refer."""
        names = set[str]()
        keyspace = self._store.keyspace
        for key in filter(keyspace.is_episode, self._store.log_keys()):
            with suppress(DecodeError):
                head = self._store.head(key)
                if head is not None:
                    episode_id = keyspace.episode_id(key)
                    _, origin = decode_episode_note(head.note, episode_id=episode_id, where=key)
                    names.add(origin.provenance)
                    for page in pages(self._store, key, max(head.first, head.held), head.count):
                        names |= {schema_digest(batch, where=key) for batch in page}
        return names

    def _read_from_redis(self, keys: Sequence[str]) -> tuple[dict[str, Log | DecodeError], int]:
        """Logs as Redis holds them, and the number of bytes read."""
        found: dict[str, Log | DecodeError] = {}
        small = []
        for key, head in self._store.reader.heads(keys).items():
            if isinstance(head, DecodeError):
                found[key] = head
            elif head.first == 0 and head.revision <= FEW_REVISIONS:
                small.append(key)
            else:
                since = max(head.first, head.held)
                read = pages(self._store, key, since, head.count)
                found[key] = head, (batch for page in read for batch in page)
        whole = {key: log for key, log in zip(small, self._store.whole(small), strict=True) if log}
        found |= {key: or_error(partial(_whole, key, log)) for key, log in whole.items()}
        return found, sum(len(part) for log in whole.values() for part in log)

    def _compare(
        self,
        key: str,
        ours: Log | DecodeError | None,
        kept: tuple[Head, Iterator[bytes]] | DecodeError | None,
    ) -> int:
        """Compare one log; return the number of its batches. A `DecodeError` says what differs."""
        if isinstance(kept, DecodeError):
            raise kept
        if isinstance(ours, DecodeError):
            raise ours
        name = self._store.keyspace.in_words(key)
        if kept is None:
            if ours is None:  # the log was deleted meanwhile
                return 0
            raise DecodeError(f"{name}: the backup does not hold it")
        kept_head, blobs = kept
        theirs = checked_chain(blobs, kept_head, where=f"{backup_name(self._backup.where)}: {key}")
        if ours is None:
            return sum(1 for _ in theirs)
        return _equal_batches(name, ours, kept_head, theirs)


def _whole(key: str, log: Sequence[bytes]) -> Log:
    head = decode_head(log[0], where=key)
    there = replace(head, first=max(head.first, head.held))
    return head, checked_chain(log[1:], there, where=key)


def _equal_batches(name: str, ours: Log, kept_head: Head, theirs: Iterator[Batch]) -> int:
    """Number of batches; raises `DecodeError` if the two sides differ."""
    head, batches = ours
    of_log = attrgetter("born", "count", "first", "note")
    if of_log(kept_head) != of_log(head):
        raise DecodeError(
            f"{name}: the backup holds {kept_head.count} records as of change {kept_head.revision},"
            f" Redis {head.count} as of change {head.revision}"
        )
    compared = 0
    for batch in batches:
        same = next((one for one in theirs if one.start == batch.start), None)
        if same is None or same.blob != batch.blob:
            raise DecodeError(f"{name} at index {batch.start}: the backup holds other bytes")
        compared += 1
    return compared
