"""The buckets in which the logs of a namespace lie: how many, which has a log, their epochs.

All keys of a bucket share a hash tag. So a script that works on logs of one bucket touches one slot
of a cluster. Only this package knows of buckets: all others name a log by its key without a bucket,
and take what is known of several buckets (epochs, places in feeds) as one text.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import RedisError

from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import BucketKeys, Keyspace
from jamboree_gym.process_life import follow_forks
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import AccessRefused, Call, RedisLink, script_call

__all__ = ["BUCKETS", "NUMBER", "BucketPart", "Buckets", "as_one_text", "new_epoch", "part_of"]

BUCKETS = 16
"""How many a new namespace gets."""

MAX_BUCKETS = 256
ATTEMPTS = 3  # Redis may be emptied after each
NUMBER = "buckets"  # a field


class Buckets:
    """The buckets of one namespace. It asks Redis how many there are when it is first used.

    A process that finds no number there stores one. Redis may be emptied, and another process may
    store another number first: so a writer that meets an emptied Redis has to `forget` the number.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self._link = link
        self._wanted = BUCKETS
        self._all: tuple[BucketKeys, ...] | None = None

    @property
    def all(self) -> tuple[BucketKeys, ...]:
        """Every bucket.

        Raises:
            DecodeError: An older or a newer release has written the namespace.
        """
        found = self._all
        if found is None:
            self._wanted = self._learn()
            found = self._all = self.keyspace.buckets(self._wanted)
        return found

    def of(self, key: str) -> BucketKeys:
        """The bucket of a log."""
        found = self._all or self.all
        return found[self.keyspace.bucket_of(key, len(found))]

    def log(self, key: str) -> str:
        """The key under which Redis has a log."""
        return self.keyspace.in_bucket(key, self.of(key))

    def logs(self, keys: Sequence[str]) -> list[str]:
        """The keys under which Redis has some logs."""
        return self.keyspace.in_buckets(keys, self._all or self.all)

    def grouped(self, keys: Iterable[str]) -> list[tuple[BucketKeys, list[str]]]:
        """The buckets of some logs, and which logs are in each."""
        found: dict[BucketKeys, list[str]] = {}
        for key in keys:
            found.setdefault(self.of(key), []).append(key)
        return list(found.items())

    def some(self, keys: Iterable[str] | None) -> Sequence[BucketKeys]:
        """The buckets of some logs; of None, every bucket."""
        return self.all if keys is None else list(dict.fromkeys(map(self.of, keys)))

    def forget(self) -> None:
        """Ask again how many there are: Redis was emptied."""
        self._all = None

    def store_calls(self) -> list[Call]:
        """Commands that store the number, unless there is one; a full server takes them, too."""
        stored = ("HSETNX", NUMBER, self._wanted)
        return [script_call(scripts.PUT, (key,), stored) for key in self.keyspace.layout]

    def _learn(self) -> int:
        is_older, stored = self.look()
        for _ in range(ATTEMPTS):
            if is_older or stored is not None:
                break
            try:
                self._link.send(self.store_calls())
            except AccessRefused:  # who may only read: there is nothing to be read yet
                return self._wanted
            is_older, stored = self.look()
        where = f"namespace {self.keyspace.namespace!r} on Redis at {self._link.where}"
        if is_older:
            raise DecodeError(
                f"{where} was written by an older release; bring the store up to date: "
                "jamboree-gym migrate"
            )
        if stored is None or not (stored.isdigit() and 1 <= int(stored) <= MAX_BUCKETS):
            raise DecodeError(
                f"{where}: {self.keyspace.layout[0]} does not say how many buckets there are; if a "
                "newer release wrote it, upgrade jamboree-gym"
            )
        return int(stored)

    def look(self) -> tuple[bool, bytes | None]:
        """Whether a release without buckets has written here, and the number of buckets."""
        keys = (*self.keyspace.layout, self.keyspace.without_bucket("unbacked"))
        answers = self._link.send([("HGET", key, NUMBER) for key in keys])
        if any(isinstance(answer, RedisError) for answer in answers):  # they are of another type
            return True, None
        return False, answers[0]


class BucketPart:
    """A part of a store: commands and scripts for one kind of key."""

    def __init__(self, link: RedisLink, buckets: Buckets) -> None:
        self._link = link
        self._buckets = buckets
        self._keyspace = buckets.keyspace

    def _of_each(
        self,
        call: Callable[[BucketKeys], Call],
        buckets: Sequence[BucketKeys],
        *,
        is_first: bool = False,
    ) -> list[tuple[BucketKeys, Any]]:
        """Each of some buckets, and its answer to a command; in one round trip.

        If the commands may be the first ones of an emptied Redis, the number is stored before them.
        """
        number = self._buckets.store_calls() if is_first else []
        answers = self._link.send([*number, *(call(bucket) for bucket in buckets)])
        for key, answer in zip(self._keyspace.layout if number else (), answers, strict=False):
            self._link.checked(answer, key=key)
        return [
            (bucket, self._link.checked(answer, key=bucket.tag))
            for bucket, answer in zip(buckets, answers[len(number) :], strict=True)
        ]

    def _of_groups(
        self, keys: Iterable[str], call: Callable[[BucketKeys, list[str]], Call]
    ) -> list[tuple[list[str], Any]]:
        """Some logs by bucket, and the answer to one command for each bucket."""
        groups = dict(self._buckets.grouped(keys))
        found = self._of_each(lambda bucket: call(bucket, groups[bucket]), list(groups))
        return [(groups[bucket], answer) for bucket, answer in found]

    def _logs_of_run(self, run: str, bucket: BucketKeys) -> list[str]:
        """The keys in one bucket of a run's sessions, metrics and checkpoints."""
        logs = self._keyspace.logs_of_run(run) if run else ()
        return self._logs(bucket, [key for key in logs if self._buckets.of(key).at == bucket.at])

    def _logs(self, bucket: BucketKeys, keys: Iterable[str]) -> list[str]:
        """The keys under which Redis has some logs of one bucket."""
        return [self._keyspace.in_bucket(key, bucket) for key in keys]


def as_one_text(parts: Iterable[tuple[int, str]]) -> str:
    """What is known of several buckets, given by number; `part_of` finds it again."""
    return ",".join([f"{at}={part}" for at, part in parts])


def part_of(text: str, bucket: BucketKeys) -> str:
    """What is known of one bucket; empty if it is nothing."""
    before = f"{bucket.at}="
    return next((part[len(before) :] for part in text.split(",") if part.startswith(before)), "")


class _EpochNames:
    """Names that no other process gives: each begins with random digits of this process."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Draw other digits than the parent process. A process id may come again; they do not."""
        self._process = secrets.token_hex(8)
        self._counter = itertools.count()

    def new(self) -> str:
        return f"{self._process}-{next(self._counter)}"


_epoch_names = _EpochNames()
follow_forks(_epoch_names)


def new_epoch() -> str:
    """A name that no epoch has had."""
    return _epoch_names.new()
