"""Reading logs as Redis itself holds them."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Any, TypeVar

from jamboree_gym.encoding.batch_format import Batch, Head, batch_span, decode_head, head_span
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.log import LogSlice, or_error
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BucketPart, Buckets
from jamboree_gym.store.redis.link import Call, RedisLink, script_call

__all__ = ["LogReader"]

FEW_BATCHES = "2"  # an episode usually has at most this many batches
MAX_BATCHES = 16  # each may have a megabyte
MAX_BYTES = 1 << 20
MAX_LOGS = 1024
SLACK = 32  # this many more records are asked for: the newest batches may be smaller than before
_NOT_ASKED = object()
_T = TypeVar("_T")


class LogReader(BucketPart):
    """Reads logs that Redis holds. What the backup alone holds, it does not see.

    An answer of more than 8 MB is asked for part by part.
    """

    def __init__(self, link: RedisLink, buckets: Buckets) -> None:
        super().__init__(link, buckets)
        self._newest = _NewestBatches()

    def read(self, key: str, *how: Any) -> LogSlice | None:
        """A slice of one log; `how` as in lua/read.lua. None when there is no such log."""
        return self.read_many([key], [how])[0]

    def _in_parts(self, key: str, how: tuple[Any, ...], answer: Any = _NOT_ASKED) -> Any:
        """What the script `READ` answers without a limit, asked for part by part.

        Redis puts an answer together before it sends any of it, and who waits for it gives up
        after a time; so no answer may be large. `answer` is the first part, if it is there already.
        """
        stored = (self._buckets.log(key),)
        if answer is _NOT_ASKED:
            answer = self._link.script(scripts.READ, stored, (*how, scripts.PART_BYTES))
        if answer is None or len(answer) == 2:
            return answer
        raw_head, batches, stop = answer
        head, end = decode_head(raw_head, where=key), _end_of(batches)
        while end < stop:
            part = ("rest", end, stop, scripts.PART_BYTES)
            more = self._link.script(scripts.READ, stored, part)
            if more is None:
                return None
            now = decode_head(more[0], where=key)
            is_forgotten = now.first != head.first and not _begins_at(more[1], end)
            # It is another log, the backup has the rest now, or it was popped and is forgotten.
            if now.born != head.born or now.held > end or is_forgotten:
                return self._in_parts(key, how)
            batches += more[1]
            if not more[1] or _end_of(more[1]) <= end:  # damaged: decoding it says so
                break
            end = _end_of(more[1])
        return raw_head, batches

    def read_many(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]]
    ) -> list[LogSlice | None]:
        """Slices of several logs in one round trip: see `LogStore.read_many`."""
        calls: list[Call] = []
        stops: list[int] = []
        for key, how in zip(keys, reads, strict=True):
            stored, count = self._buckets.log(key), self._newest.count(key, how)
            if count:
                calls += [("LRANGE", stored, str(-count), "-1"), ("LINDEX", stored, "0")]
            else:
                calls.append(script_call(scripts.READ, (stored,), (*how, scripts.PART_BYTES)))
            stops.append(len(calls))
        answers = self._link.send(calls)
        return [
            self._slice(key, answers[start:stop], how)
            for key, how, start, stop in zip(keys, reads, [0, *stops], stops, strict=False)
        ]

    def _slice(self, key: str, answers: Sequence[Any], how: tuple[Any, ...]) -> LogSlice | None:
        if len(answers) == 1:
            answer = self._in_parts(key, how, self._link.checked(answers[0], key=key))
        else:
            answer = self._newest.found(how[1], answers) or self._in_parts(key, how)
        found = LogSlice.from_answer(answer, where=key)
        if found is not None and how[0] == "last":
            self._newest.learn(key, found.batches)
        return found

    def unacked(self, keys: Sequence[str]) -> dict[str, tuple[Head, list[bytes]] | DecodeError]:
        """Heads, and undecoded batches that the backup has not acknowledged, in two round trips.

        What is wrong with a log stands in its place; logs that do not exist are left out.
        """

        def decoded(key: str, answer: Any) -> tuple[Head, list[bytes]] | None:
            self._link.checked(answer, key=key)
            answer = self._in_parts(key, ("unacked",), answer)
            return None if answer is None else (decode_head(answer[0], where=key), answer[1])

        found = self._short(keys)
        rest = [key for key, one in found.items() if isinstance(one, tuple) and not _is_new(*one)]
        how = ("unacked", scripts.PART_BYTES)
        calls = [script_call(scripts.READ, (self._buckets.log(key),), how) for key in rest]
        read = self._found(rest, calls, decoded)
        return {key: one for key, one in found.items() if key not in rest} | read

    def _short(self, keys: Sequence[str]) -> dict[str, tuple[Head, list[bytes]] | DecodeError]:
        """The head of each log and its first batches, without a script: that costs a tenth."""

        def decoded(key: str, answer: Any) -> tuple[Head, list[bytes]] | None:
            raw = self._link.checked(answer, key=key)
            return (decode_head(raw[0], where=key), raw[1:]) if raw else None

        stored = map(self._buckets.log, keys)
        return self._found(keys, [("LRANGE", key, "0", FEW_BATCHES) for key in stored], decoded)

    def _found(
        self, keys: Sequence[str], calls: Sequence[Call], decoded: Callable[[str, Any], _T | None]
    ) -> dict[str, _T | DecodeError]:
        """What is decoded of each answer, or what is wrong with it; nothing of None."""
        pairs = zip(keys, self._link.send(calls), strict=True)
        found = {key: or_error(partial(decoded, key, answer)) for key, answer in pairs}
        return {key: one for key, one in found.items() if one is not None}

    def whole(self, keys: Sequence[str]) -> list[list[bytes]]:
        """All that several logs hold, in one round trip: head and batches, undecoded.

        Without a script, which would take three times as long for short ones; a single one, which
        may be large, in parts. Empty where there is no such log. Not for logs that are popped.
        """
        if len(keys) == 1:
            return [self._whole_one(keys[0])]
        answers = self._link.send([("LRANGE", log, "0", "-1") for log in self._buckets.logs(keys)])
        return self._link.all_checked(answers, keys=keys)

    def _whole_one(self, key: str) -> list[bytes]:
        try:
            answer = self._in_parts(key, ("all",))
        except DecodeError:  # reading it by itself says what is wrong
            return [self.undecoded_head(key)]
        return [] if answer is None else [answer[0], *answer[1]]

    def head(self, key: str) -> Head | None:
        """The head of a log, None when there is no such log."""
        raw: bytes | None = self._link.call("LINDEX", self._buckets.log(key), 0)
        return None if raw is None else decode_head(raw, where=key)

    def undecoded_head(self, key: str) -> bytes:
        """The bytes of a log's head, whether they are whole or not; none where there is no log."""
        return self._link.call("LINDEX", self._buckets.log(key), 0) or b""

    def heads(self, keys: Sequence[str]) -> dict[str, Head | DecodeError]:
        """Heads of several logs in one round trip; of one that is damaged, what is wrong."""

        def decoded(key: str, answer: Any) -> Head | None:
            found = self._link.checked(answer, key=key)
            return None if found is None else decode_head(found, where=key)

        stored = map(self._buckets.log, keys)
        return self._found(keys, [("LINDEX", key, "0") for key in stored], decoded)

    def memory(self, key: str) -> int:
        """Bytes that a log takes up in the server, roughly; 0 when there is no such log."""
        return int(self._link.call("MEMORY", "USAGE", self._buckets.log(key)) or 0)


class _NewestBatches:
    """The newest batches of a log without a script, which costs the server several times as much.

    It guesses from an answer of a log how many batches the next one takes. Commands that are sent
    together are not one step: others may write in between. The head comes last, and knows count and
    time of the newest batch. If the batches end with that one, they are its log's.
    """

    def __init__(self) -> None:
        self._records_per_batch: dict[str, float] = {}

    def learn(self, key: str, batches: Sequence[Batch]) -> None:
        """These were the newest batches of a log."""
        known = self._records_per_batch
        known.pop(key, None)
        if len(known) >= MAX_LOGS:
            known.clear()
        if batches and sum([len(batch.body) for batch in batches]) <= MAX_BYTES:
            known[key] = (batches[-1].stop - batches[0].start) / len(batches)

    def count(self, key: str, how: Sequence[Any]) -> int:
        """How many to ask for instead of a read of the script `READ`; 0 where the script is."""
        size = self._records_per_batch.get(key)
        if how[0] != "last" or not size or size <= 0:
            return 0
        count = ceil((how[1] + SLACK) / size)
        return count if count <= MAX_BATCHES else 0

    @staticmethod
    def found(n: int, answers: Sequence[Any]) -> tuple[bytes, list[bytes]] | None:
        """Head, and the batches that hold any of the newest n records; None = ask the script."""
        batches, head = answers
        if not isinstance(head, bytes) or not isinstance(batches, list):
            return None
        if batches and batches[0].startswith(head[:2]):  # a head: there are no more batches
            del batches[0]
        try:
            first, count, t_last = head_span(head)
            spans = [batch_span(batch) for batch in batches]
        except struct.error:
            return None
        start = max(first, count - n)
        if not spans or spans[0][0] > start or (spans[-1][1], spans[-1][3]) != (count, t_last):
            return None
        skipped = sum(stop <= start for _, stop, *_ in spans)
        return head, batches[skipped:]


def _is_new(head: Head, batches: Sequence[bytes]) -> bool:
    """Whether these are all batches of a log of which nothing is acknowledged."""
    return head.acked == 0 and bool(batches) and _end_of(batches) == head.count


def _end_of(batches: Sequence[bytes]) -> int:
    """Index after the last record of stored batches; a large one if the last is damaged."""
    try:
        return batch_span(batches[-1])[1]
    except struct.error:
        return sys.maxsize


def _begins_at(batches: Sequence[bytes], index: int) -> bool:
    """Whether no record is missing before these; a damaged batch is named when it is decoded."""
    try:
        return bool(batches) and batch_span(batches[0])[0] <= index
    except struct.error:
        return True
