"""The listings: the summaries of each run's episodes, and the runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from jamboree_gym.keys import BucketKeys
from jamboree_gym.store.log import IndexEntry
from jamboree_gym.store.protocol import ListingPart, PartState
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BucketPart, part_of
from jamboree_gym.store.redis.link import Call, as_named, as_pairs, as_text, script_call

__all__ = ["Listings"]

SUMMARIES_AT_ONCE: Final = 4096


class Listings(BucketPart):
    """Summaries of episodes by run, and whether they are all there."""

    def summaries(self, run: str) -> dict[str, bytes]:
        """All summaries of a run by episode id."""
        return self.summaries_and_coverage([run])[0][0]

    def summaries_and_coverage(self, runs: Sequence[str]) -> tuple[list[dict[str, bytes]], str]:
        """All summaries of each run, and `coverage`, in one round trip."""
        buckets = self._buckets.all
        keys = [bucket.summaries(run) for run in runs for bucket in buckets]
        calls = [("GET", bucket.coverage) for bucket in buckets]
        answers = self._link.send([*(("HGETALL", key) for key in keys), *calls])
        found: list[dict[str, bytes]] = [{} for _ in runs]
        for place, (key, answer) in enumerate(zip(keys, answers, strict=False)):
            if answer:
                named = as_named(self._link.checked(answer, key=key))
                found[place // len(buckets)] |= named
        return found, _joined(self._texts(answers[len(keys) :], buckets))

    def ids(self, runs: Sequence[str]) -> set[str]:
        """Ids of all episodes of some runs; a third of the bytes of their summaries."""
        keys = [bucket.summaries(run) for run in runs for bucket in self._buckets.all]
        answers = self._link.send([("HKEYS", key) for key in keys])
        listed = (
            self._link.checked(answer, key=key) for key, answer in zip(keys, answers, strict=True)
        )
        return {as_text(id) for ids in listed for id in ids}

    def parts(self, runs: Sequence[str]) -> dict[ListingPart, PartState]:
        """The parts of the listings of some runs; those without an episode are left out."""
        buckets = self._buckets.all
        places = [(run, bucket) for run in runs for bucket in buckets]
        sizes = [("HLEN", bucket.summaries(run)) for run, bucket in places]
        lives = [("MGET", bucket.epoch, bucket.deletions) for bucket in buckets]
        answers = self._link.send([*lives, *sizes])
        of_buckets = [
            b" ".join(part or b"" for part in self._link.checked(answer, key=bucket.tag)).decode()
            for bucket, answer in zip(buckets, answers, strict=False)
        ]
        found = {}
        for (run, bucket), answer in zip(places, answers[len(buckets) :], strict=True):
            size = self._link.checked(answer, key=bucket.summaries(run))
            if size:
                found[ListingPart(run, bucket.at)] = PartState(of_buckets[bucket.at], size)
        return found

    def ids_of(self, part: ListingPart) -> list[str]:
        """Ids of the episodes of a part."""
        key = self._buckets.all[part.place].summaries(part.run)
        (answer,) = self._link.send([("HKEYS", key)])
        return list(map(as_text, self._link.checked(answer, key=key)))

    def some_summaries(self, run: str, ids: Sequence[str]) -> Iterator[dict[str, bytes]]:
        """Summaries of some episodes of a run by id, some thousand at a time; not of lost ones."""
        for first in range(0, len(ids), SUMMARIES_AT_ONCE):
            yield self.of_episodes(run, ids[first : first + SUMMARIES_AT_ONCE])

    def runs(self) -> list[str]:
        """Names of all runs, the one written last at the end."""
        whole = ("0", "-1", "WITHSCORES")
        newest: dict[bytes, float] = {}
        for _, flat in self._of_each(lambda one: ("ZRANGE", one.runs, *whole), self._buckets.all):
            for run, time in as_pairs(flat):
                newest[run] = max(float(time), newest.get(run, -math.inf))
        return [as_text(run) for _, run in sorted((time, run) for run, time in newest.items())]

    def unlist_run(self, run: str) -> bool:
        """Take a run out of the runs, in each bucket in which nothing of it is left.

        The caller knows that the backup holds none of its episodes. Returns whether it was listed.
        """

        def call(bucket: BucketKeys) -> Call:
            keys = (bucket.runs, bucket.summaries(run), *self._logs_of_run(run, bucket))
            return script_call(scripts.UNLIST_RUN, keys, (run,))

        return any(answer for _, answer in self._of_each(call, self._buckets.all))

    def list_episodes(self, entries: Sequence[IndexEntry], *, standing: str) -> int | None:
        """List episodes of one run; return how many were not listed.

        None if anything was deleted meanwhile, or Redis emptied.
        """
        run, by_log = entries[0].run, {self._keyspace.episode(one.name): one for one in entries}

        def call(bucket: BucketKeys, logs: list[str]) -> Call:
            some = [by_log[log] for log in logs]
            keys = (bucket.summaries(run), bucket.runs, bucket.deletions, bucket.epoch)
            pairs = [part for entry in some for part in (entry.name, entry.summary)]
            newest = repr(max(entry.time for entry in some))
            arguments = (part_of(standing, bucket), run, newest, *pairs)
            return script_call(scripts.LIST_EPISODES, keys, arguments)

        added = [answer for _, answer in self._of_groups(by_log, call)]
        return None if None in added else sum(map(int, added))

    def of_episodes(self, run: str, names: Collection[str]) -> dict[str, bytes]:
        """Summaries of some episodes of a run; those that are not listed are left out."""
        logs = {name: self._keyspace.episode(name) for name in names}
        keys = {name: self._buckets.of(log).summaries(run) for name, log in logs.items()}
        answers = self._link.send([("HGET", key, name) for name, key in keys.items()])
        pairs = zip(keys.items(), answers, strict=True)
        found = {name: self._link.checked(answer, key=key) for (name, key), answer in pairs}
        return {name: content for name, content in found.items() if content is not None}

    def mend(self, run: str, entry: IndexEntry, *, instead_of: bytes) -> bool:
        """Replace a damaged summary in the listing of a run; False where it is another by now."""
        bucket = self._buckets.of(self._keyspace.episode(entry.name))
        keys, arguments = (bucket.summaries(run),), (entry.name, instead_of, entry.summary)
        return bool(self._link.script(scripts.REPLACE_SUMMARY, keys, arguments))

    def coverage(self) -> str:
        """Whether the listings hold what the backup does: `all`, `part`; anything else: unknown."""
        buckets = self._buckets.all
        answers = self._link.send([("GET", bucket.coverage) for bucket in buckets])
        return _joined(self._texts(answers, buckets))

    def put_coverage(self, value: str) -> None:
        """Set the coverage marker."""
        self._of_each(lambda bucket: ("SET", bucket.coverage, value), self._buckets.all)

    def settle_coverage(self, expected: str, value: str) -> bool:
        """Set it if nobody else has, and Redis was not emptied meanwhile; whether it was set."""

        def call(bucket: BucketKeys) -> Call:
            return script_call(scripts.SET_COVERAGE, (bucket.coverage,), (expected, value))

        return all(answer for _, answer in self._of_each(call, self._buckets.all))

    def _texts(self, answers: Sequence[Any], buckets: Sequence[BucketKeys]) -> set[str]:
        pairs = zip(answers, buckets, strict=True)
        checked = [self._link.checked(answer, key=one.coverage) for answer, one in pairs]
        return {as_text(answer or b"") for answer in checked}


def _joined(markers: Collection[str]) -> str:
    """What the markers of all buckets say together: the least of it."""
    unknown = [marker for marker in markers if marker not in ("all", "part")]
    return min(unknown, default="part" if "part" in markers else "all")
