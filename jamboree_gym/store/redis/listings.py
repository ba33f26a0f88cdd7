"""The listings: the summaries of each run's episodes, and the runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jamboree_gym.store.log import IndexEntry
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import RedisPart, as_named, as_text

__all__ = ["Listings", "listing_arguments", "newest_in_runs"]


class Listings(RedisPart):
    """Summaries of episodes by run, and whether they are all there."""

    def summaries(self, run: str) -> dict[str, bytes]:
        """All summaries of a run by episode id."""
        return as_named(self._link.call("HGETALL", self._keyspace.summaries(run)))

    def summaries_and_coverage(self, runs: Sequence[str]) -> tuple[list[dict[str, bytes]], str]:
        """All summaries of each run, and `coverage`, in one round trip."""
        keys = [self._keyspace.summaries(run) for run in runs]
        calls = [*(("HGETALL", key) for key in keys), ("GET", self._keyspace.coverage)]
        *answers, coverage = self._link.send(calls)
        pairs = zip(keys, answers, strict=True)
        found = [as_named(self._link.checked(answer, key=key)) for key, answer in pairs]
        return found, as_text(coverage or b"")

    def runs(self) -> list[str]:
        """Names of all runs, the one written last at the end."""
        return [as_text(name) for name in self._link.call("ZRANGE", self._keyspace.runs, 0, -1)]

    def list_episodes(self, entries: Sequence[IndexEntry], *, standing: str) -> int | None:
        """List episodes of one run; return how many were not listed.

        None if anything was deleted meanwhile, or Redis emptied.
        """
        run, newest = entries[0].run, max(entry.time for entry in entries)
        space = self._keyspace
        keys = (space.summaries(run), space.runs, space.deletions, space.epoch)
        pairs = [part for entry in entries for part in (entry.name, entry.summary)]
        arguments = (standing, run, repr(newest), *pairs)
        added = self._link.script(scripts.LIST_EPISODES, keys, arguments)
        return None if added is None else int(added)

    def mend(self, run: str, entry: IndexEntry, *, instead_of: bytes) -> bool:
        """Replace a damaged summary in the listing of a run; False where it is another by now."""
        keys, arguments = (self._keyspace.summaries(run),), (entry.name, instead_of, entry.summary)
        return bool(self._link.script(scripts.REPLACE_SUMMARY, keys, arguments))

    def coverage(self) -> str:
        """Whether the listings hold what MongoDB does: `all` or `part`; anything else: unknown."""
        return as_text(self._link.call("GET", self._keyspace.coverage) or b"")

    def put_coverage(self, value: str) -> None:
        """Set the coverage marker."""
        self._link.call("SET", self._keyspace.coverage, value)

    def settle_coverage(self, expected: str, value: str) -> bool:
        """Set it if nobody else has, and Redis was not emptied meanwhile; whether it was set."""
        keys = (self._keyspace.coverage,)
        return bool(self._link.script(scripts.SET_COVERAGE, keys, (expected, value)))


def listing_arguments(entry: IndexEntry | None, runs: Mapping[str, str]) -> tuple[Any, ...]:
    """What a script needs to list a log: field, summary, run, time of the run."""
    if entry is None:
        return "", "", "", "0"
    return entry.name, entry.summary, entry.run, runs[entry.run]


def newest_in_runs(entries: Iterable[IndexEntry | None]) -> dict[str, str]:
    """The runs of these entries, with the time of the newest in each.

    One text for each run, as a number with 17 digits takes longer than the rest of an entry.
    """
    newest: dict[str, float] = {}
    for entry in entries:
        if entry is not None and (entry.run not in newest or entry.time > newest[entry.run]):
            newest[entry.run] = entry.time
    return {run: repr(time) for run, time in newest.items()}
