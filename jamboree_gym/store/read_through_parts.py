"""Listings and blobs of Redis, with those that only the backup holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from jamboree_gym.errors import DecodeError, StoreFull
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.backups.questions import BackupQuestions
from jamboree_gym.store.listing_recovery import (
    NO_ROOM,
    PARTLY_COVERED,
    cover,
    is_covered,
    stored_summaries,
)
from jamboree_gym.store.protocol import BlobReader, ListingPart, ListingReader, PartState
from jamboree_gym.store.redis.link import AccessRefused
from jamboree_gym.store.redis.plain_keys import Blobs
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["ReadThroughBlobs", "ReadThroughListings"]

ALL_PARTS: Final = -1  # a place
RUNS_AT_ONCE: Final = 32  # an answer with all listings of a large store would be too large

log = logging.getLogger(__name__)


class ReadThroughListings(ListingReader):
    """The listings, with what the backup lists."""

    def __init__(self, redis: RedisStore, ask: BackupQuestions) -> None:
        self._redis = redis
        self._ask = ask

    def runs(self) -> list[str]:
        """As `Listings.runs`."""
        stored: list[str] = []
        if self.cover() == NO_ROOM:
            stored = self._ask(lambda backup: backup.runs()) or []
        return list(dict.fromkeys([*stored, *self._redis.listings.runs()]))

    def summaries(self, run: str) -> dict[str, bytes]:
        """As `Listings.summaries`, with those for which Redis had no room."""
        return next(self.summaries_of([run]))[1]

    def summaries_of(self, runs: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Each run and its `summaries`; a round trip for every `RUNS_AT_ONCE` runs."""
        names = list(runs)
        for first in range(0, len(names), RUNS_AT_ONCE):
            some = names[first : first + RUNS_AT_ONCE]
            yield from zip(some, self._summaries(some), strict=True)

    def _summaries(self, runs: Sequence[str]) -> list[dict[str, bytes]]:
        found, coverage = self._redis.listings.summaries_and_coverage(runs)
        if not is_covered(coverage):
            coverage = self._covered(coverage)
            if is_covered(coverage):
                found, coverage = self._redis.listings.summaries_and_coverage(runs)
        if coverage not in (PARTLY_COVERED, NO_ROOM):
            return found
        pairs = zip(runs, found, strict=True)
        return [self._stored_summaries(run) | listed for run, listed in pairs]

    def _stored_summaries(self, run: str) -> dict[str, bytes]:
        return self._ask(lambda backup: stored_summaries(self._redis, backup, run)) or {}

    def ids(self, runs: Sequence[str]) -> set[str]:
        """As `Listings.ids`, with those for which Redis had no room."""
        if self._lists_all():
            return self._redis.listings.ids(runs)
        return {id for _, listed in self.summaries_of(runs) for id in listed}

    def parts(self, runs: Sequence[str]) -> dict[ListingPart, PartState]:
        """As `Listings.parts`; where Redis had no room, a listing is one part that is not known."""
        if self._lists_all():
            return self._redis.listings.parts(runs)
        return {
            ListingPart(run, ALL_PARTS): PartState("", len(listed))
            for run, listed in self.summaries_of(runs)
            if listed
        }

    def ids_of(self, part: ListingPart) -> list[str]:
        """As `Listings.ids_of`."""
        if part.place == ALL_PARTS:
            return list(self.summaries(part.run))
        return self._redis.listings.ids_of(part)

    def some_summaries(self, run: str, ids: Sequence[str]) -> Iterator[dict[str, bytes]]:
        """As `Listings.some_summaries`; at once where Redis had no room."""
        if self._lists_all():
            yield from self._redis.listings.some_summaries(run, ids)
        else:
            listed = self.summaries(run)
            yield {id: listed[id] for id in ids if id in listed}

    def _lists_all(self) -> bool:
        """Whether Redis lists all that the backup holds."""
        return self.cover() not in (PARTLY_COVERED, NO_ROOM)

    def cover(self) -> str:
        """See to it that Redis lists what the backup holds; how far it does."""
        return self._covered(self._redis.listings.coverage())

    def _covered(self, coverage: str) -> str:
        if is_covered(coverage):
            return coverage
        try:
            return self._ask(lambda backup: cover(self._redis, backup)) or coverage
        except BackupUnavailable:  # it has been said
            return coverage


class ReadThroughBlobs(BlobReader):
    """The blobs, with those that the backup holds."""

    def __init__(self, redis: RedisStore, ask: BackupQuestions) -> None:
        # Its own: the backup, which uses those of `redis`, has to see what is there.
        self._redis = Blobs(redis.link, redis.keyspace)
        self._ask = ask

    def get(self, name: str) -> bytes:
        """As `Blobs.get`; what is missing or damaged in Redis comes from the backup."""
        try:
            return self._redis.get(name)
        except DecodeError:
            content: bytes | None = self._ask(lambda backup: backup.blob(name))
            if content is None:
                raise
        try:
            self._redis.put(name, content)
        except (AccessRefused, StoreFull) as error:
            log.debug("blob %s: read from the backup alone: %s", name, error)
        return content
