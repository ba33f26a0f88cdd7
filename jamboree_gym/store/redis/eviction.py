"""Room in Redis: how much there is, what takes it up, and letting go of what MongoDB holds."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from redis.exceptions import RedisError

from jamboree_gym.encoding.batch_format import Head, decode_head, decode_note, encode_note
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import Call, RedisLink, as_text

__all__ = ["Candidate", "Let", "Memory", "Room"]

SCAN_COUNT = 1000
_BORN = struct.Struct("<d")
_ENDLESS = 1e300  # Lua need not read `inf` from text
_ENTRY_BYTES = 48  # of a hash, beside name and value


@dataclass(frozen=True, slots=True)
class Memory:
    """What a server says of its memory.

    Attributes:
        used_bytes: What it uses.
        max_bytes: What it has been given (`maxmemory`), None where that is not limited.
        policy: What it does where that is used up (`maxmemory-policy`).
    """

    used_bytes: int
    max_bytes: int | None
    policy: str


class Candidate(NamedTuple):
    """A log that may be let go of, or a part of it. They sort by time.

    Attributes:
        time: No record that may go is older, epoch seconds.
        key: The log.
        born: Its birth.
        over_at: The revision at which its episode was over; None for one that goes on, and for
            records.
    """

    time: float
    key: str
    born: float
    over_at: int | None


class Let(NamedTuple):
    """What was let go of.

    Attributes:
        freed_bytes: How much, roughly.
        later: The candidates of which some may go later.
    """

    freed_bytes: int
    later: Sequence[Candidate]


class Room:
    """What one namespace takes up on a server.

    Args:
        link: To the server.
        keyspace: Names of all keys.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._space = keyspace

    def memory(self) -> Memory:
        """How much memory the server uses, for all that it holds, and how much it may."""
        found = cast(Any, self._link.run(lambda: self._link.client.info("memory")))
        limit, policy = found.get("maxmemory", 0), found.get("maxmemory_policy", "noeviction")
        return Memory(found["used_memory"], limit or None, policy)

    # -- the policy -------------------------------------------------------------------------

    def policy(self) -> bytes | None:
        """What `put_policy` has put there; None where there was none, or the server was emptied.

        Raises:
            DecodeError: It is damaged.
        """
        note: bytes | None = self._link.call("GET", self._space.retention)
        return None if note is None else decode_note(note, where=self._space.retention)

    def put_policy(self, content: bytes) -> None:
        """Say what may be let go of; also where the memory is full."""
        self._link.script(scripts.PUT, (self._space.retention,), ("SET", encode_note(content)))

    # -- logs -------------------------------------------------------------------------------

    def heads(self) -> Iterator[dict[str, Head]]:
        """Heads of all logs, some hundred at a time. Damaged ones are left out."""
        for pattern in self._space.log_patterns():
            for keys in self._pages("SCAN", pattern):
                yield self._heads(list(map(as_text, keys)))

    def _heads(self, keys: Sequence[str]) -> dict[str, Head]:
        found: dict[str, Head] = {}
        answers = self._answers([("LINDEX", key, "0") for key in keys])
        for key, answer in zip(keys, answers, strict=True):
            try:
                if isinstance(answer, bytes):
                    found[key] = decode_head(answer, where=key)
            except DecodeError:  # it stays where it is, and whoever reads it is told
                continue
        return found

    def trim(
        self,
        candidates: Sequence[Candidate],
        kept: Mapping[str, int],
        *,
        before: float,
        enough_bytes: float = math.inf,
    ) -> Let:
        """Let go of what MongoDB has acknowledged, and of nothing else, the first logs first.

        Args:
            candidates: Logs that were found; what has changed since is left alone.
            kept: How many records of each MongoDB holds.
            before: Only what is older, epoch seconds.
            enough_bytes: End once so much is free.
        """
        arguments: list[Any] = [repr(min(limit, _ENDLESS)) for limit in (before, enough_bytes)]
        for one in candidates:
            over_at = "" if one.over_at is None else one.over_at
            arguments += (_BORN.pack(one.born), kept.get(one.key, 0), over_at)
        keys = (self._space.unbacked, self._space.backup, *(one.key for one in candidates))
        answers = self._link.script(scripts.TRIM, keys, arguments) if candidates else []
        later = list(candidates[len(answers) :])
        for one, (_, time) in zip(candidates, answers, strict=False):
            if time:
                later.append(one._replace(time=float(time)))
        return Let(sum(freed for freed, _ in answers), later)

    # -- listings ---------------------------------------------------------------------------

    def listed_only(self, run: str) -> Iterator[dict[str, int]]:
        """Episodes of a run that are listed, and whose logs are not here; some at a time.

        Yields:
            Their ids, and how many bytes their summaries take up, roughly.
        """
        for pairs in self._pages("HSCAN", self._space.summaries(run)):
            sizes = {
                as_text(name): len(name) + len(summary) + _ENTRY_BYTES
                for name, summary in zip(pairs[::2], pairs[1::2], strict=True)
            }
            calls: list[Call] = [("EXISTS", self._space.episode(id)) for id in sizes]
            answers = self._answers(calls)
            yield {id: sizes[id] for id, there in zip(sizes, answers, strict=True) if not there}

    def unlist(self, run: str, ids: Sequence[str]) -> None:
        """Take episodes out of the listing of their run, if their logs are still not here."""
        space = self._space
        logs = [space.episode(id) for id in ids]
        keys = (space.unbacked, space.coverage, space.summaries(run), *logs)
        self._link.script(scripts.UNLIST, keys, ids)

    # -- round trips ------------------------------------------------------------------------

    def _pages(self, command: str, of: str) -> Iterator[list[bytes]]:
        """What `SCAN` finds by a pattern, or `HSCAN` in a hash."""
        cursor, count = b"0", ("COUNT", str(SCAN_COUNT))
        while True:
            if command == "SCAN":
                call: Call = ("SCAN", cursor, "MATCH", of, *count)
            else:
                call = ("HSCAN", of, cursor, *count)
            answer = self._answers([call])[0]
            if isinstance(answer, RedisError):
                raise self._link.translated(answer, key=of) from answer
            cursor, found = answer
            if found:
                yield found
            if cursor in (b"0", 0):
                return

    def _answers(self, calls: Sequence[Call]) -> list[Any]:
        return self._link.pipeline(lambda: calls) if calls else []
