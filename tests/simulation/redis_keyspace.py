"""The keys of a simulated Redis: what its commands do to them, without a server.

It has the commands and the options that this project uses, and refuses all others. What it answers
is what Redis answers; `test_redis_model.py` compares it with a real server.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

__all__ = ["OK", "Keyspace", "Refused", "Status", "copy_of", "name_of"]

Args = Sequence[bytes]
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_A_NUMBER = "ERR value is not an integer or out of range"
NOT_A_FLOAT = "ERR value is not a valid float"
SYNTAX = "ERR syntax error"


class Refused(Exception):
    """The server answers with an error; the message begins with its code."""


class Status(bytes):
    """An answer such as OK, which is no string of the store."""


class SortedSet(dict[bytes, float]):
    """Members and their scores."""


class Stream:
    """A stream: its entries, and the newest id that it has ever had."""

    def __init__(self) -> None:
        self.entries: list[tuple[tuple[int, int], list[bytes]]] = []
        self.newest = (0, 0)

    def copy(self) -> Stream:
        """The same entries, apart."""
        copied = Stream()
        copied.entries, copied.newest = list(self.entries), self.newest
        return copied


OK = Status(b"OK")
_ZERO = ord("0")


class Keyspace:
    """Executes commands.

    Args:
        now: Gives the server's time, epoch seconds.

    Attributes:
        values: Content of each key.
        expires: When keys expire, epoch seconds.
        changes: How many commands have written something.
    """

    # Commands that a full server refuses.
    GROWS: ClassVar[frozenset[str]] = frozenset(
        ["SET", "HSET", "HSETNX", "HINCRBY", "INCR", "LPUSH", "RPUSH", "LSET", "ZADD", "XADD"]
    )

    _CHANGES: ClassVar[frozenset[str]] = GROWS | {
        "DEL",
        "LTRIM",
        "ZREM",
        "ZREMRANGEBYRANK",
        "HDEL",
        "FLUSHALL",
    }

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._methods: dict[bytes, tuple[Callable[..., Any], bool]] = {}
        self.values: dict[bytes, Any] = {}
        self.expires: dict[bytes, float] = {}
        self.changes = 0

    def run(self, call: Args) -> Any:
        """Answer one command; an int, bytes, None, a list, or a `Status`.

        Raises:
            Refused: As the server would.
        """
        found = self._methods.get(call[0])
        if found is None:
            name = name_of(call[0])
            found = self._methods[call[0]] = self._method(name), name in self._CHANGES
        method, is_change = found
        try:
            answer = method(*call[1:])
        except TypeError as error:
            raise Refused(
                f"ERR wrong number of arguments for '{name_of(call[0]).lower()}' command ({error})"
            ) from error
        self.changes += is_change
        return answer

    def _method(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] | None = getattr(self, f"_{name.lower()}", None)
        if method is None:
            raise Refused(f"ERR unknown command '{name}'")
        return method

    def copied(self) -> tuple[dict[bytes, Any], dict[bytes, float]]:
        """All keys as they are now."""
        return {key: copy_of(value) for key, value in self.values.items()}, dict(self.expires)

    def put_back(self, copied: tuple[dict[bytes, Any], dict[bytes, float]]) -> None:
        """All keys as they were."""
        self.values = {key: copy_of(value) for key, value in copied[0].items()}
        self.expires = dict(copied[1])

    def drop_expired(self) -> None:
        """Drop the keys whose time is over; none goes while a script runs."""
        if self.expires:
            now = self._now()
            for key in [key for key, at in self.expires.items() if at <= now]:
                self._drop(key)

    def _drop(self, key: bytes) -> bool:
        self.expires.pop(key, None)
        return self.values.pop(key, None) is not None

    def _of(self, kind: type, key: bytes) -> Any:
        found = self.values.get(key)
        if found is not None and type(found) is not kind:
            raise Refused(WRONG_TYPE)
        return found

    def _made(self, kind: type, key: bytes) -> Any:
        found = self._of(kind, key)
        if found is None:
            found = self.values[key] = kind()
        return found

    def _drop_if_empty(self, key: bytes) -> None:
        if not self.values.get(key):
            self._drop(key)

    # -- keys -------------------------------------------------------------------------------

    def _ping(self) -> Any:
        return Status(b"PONG")

    def _time(self) -> Any:
        seconds, rest = divmod(self._now(), 1)
        return [str(int(seconds)).encode(), str(int(rest * 1e6)).encode()]

    def _del(self, *keys: bytes) -> Any:
        return sum([self._drop(key) for key in keys])

    def _exists(self, *keys: bytes) -> Any:
        return sum([key in self.values for key in keys])

    def _type(self, key: bytes) -> Any:
        names = {bytes: b"string", dict: b"hash", list: b"list"}
        names |= {SortedSet: b"zset", Stream: b"stream", type(None): b"none"}
        return Status(names[type(self.values.get(key))])

    def _expire_in(self, key: bytes, seconds: float) -> int:
        if key not in self.values:
            return 0
        if seconds <= 0:
            self._drop(key)
        else:
            self.expires[key] = self._now() + seconds
        return 1

    def _expire(self, key: bytes, seconds: bytes) -> Any:
        return self._expire_in(key, _integer(seconds))

    def _pexpire(self, key: bytes, milliseconds: bytes) -> Any:
        return self._expire_in(key, _integer(milliseconds) / 1000)

    def _pttl(self, key: bytes) -> Any:
        if key not in self.values:
            return -2
        at = self.expires.get(key)
        return -1 if at is None else round((at - self._now()) * 1000)

    def _scan(self, cursor: bytes, *options: bytes) -> Any:
        pattern = _option(options, b"MATCH", b"*")
        return [b"0", [key for key in sorted(self.values) if _matches(key, pattern)]]

    def _keys(self, pattern: bytes) -> Any:
        return [key for key in sorted(self.values) if _matches(key, pattern)]

    def _flushall(self) -> Any:
        self.values, self.expires = {}, {}
        return OK

    def _dbsize(self) -> Any:
        return len(self.values)

    def _memory(self, what: bytes, key: bytes) -> Any:
        if what.upper() != b"USAGE":
            raise Refused(SYNTAX)
        found = self.values.get(key)
        return None if found is None else 64 + len(key) + _size(found)

    # -- strings ----------------------------------------------------------------------------

    def _get(self, key: bytes) -> Any:
        return self._of(bytes, key)

    def _mget(self, *keys: bytes) -> Any:
        found = [self.values.get(key) for key in keys]
        return [one if type(one) is bytes else None for one in found]

    def _set(self, key: bytes, content: bytes, *options: bytes) -> Any:
        names, at, seconds = [one.upper() for one in options], 0, None
        only_new = False
        while at < len(names):
            if names[at] in (b"PX", b"EX") and at + 1 < len(names):
                seconds = _integer(options[at + 1]) / (1000 if names[at] == b"PX" else 1)
                if seconds <= 0:
                    raise Refused("ERR invalid expire time in 'set' command")
                at += 1
            elif names[at] == b"NX":
                only_new = True
            else:
                raise Refused(SYNTAX)
            at += 1
        if only_new and key in self.values:
            return None
        self._drop(key)
        self.values[key] = content
        if seconds is not None:
            self.expires[key] = self._now() + seconds
        return OK

    def _incr(self, key: bytes) -> Any:
        found = self._of(bytes, key)
        number = 1 if found is None else _integer(found) + 1
        self.values[key] = str(number).encode()
        return number

    # -- hashes -----------------------------------------------------------------------------

    def _hset(self, key: bytes, *pairs: bytes) -> Any:
        if not pairs or len(pairs) % 2:
            raise Refused("ERR wrong number of arguments for 'hset' command")
        found = self._made(dict, key)
        before = len(found)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    def _hsetnx(self, key: bytes, field: bytes, content: bytes) -> Any:
        found = self._made(dict, key)
        if field in found:
            return 0
        found[field] = content
        return 1

    def _hget(self, key: bytes, field: bytes) -> Any:
        return (self._of(dict, key) or {}).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> Any:
        if not fields:
            raise Refused("ERR wrong number of arguments for 'hmget' command")
        found = self._of(dict, key) or {}
        return [found.get(field) for field in fields]

    def _hgetall(self, key: bytes) -> Any:
        found = self._of(dict, key) or {}
        return [part for pair in found.items() for part in pair]

    def _hlen(self, key: bytes) -> Any:
        return len(self._of(dict, key) or {})

    def _hdel(self, key: bytes, *fields: bytes) -> Any:
        found = self._of(dict, key)
        if found is None:
            return 0
        gone = sum([found.pop(field, None) is not None for field in fields])
        self._drop_if_empty(key)
        return gone

    def _hincrby(self, key: bytes, field: bytes, by: bytes) -> Any:
        added, found = _integer(by), self._of(dict, key) or {}
        number = _hash_integer(found.get(field, b"0")) + added
        self._made(dict, key)[field] = str(number).encode()
        return number

    def _hscan(self, key: bytes, cursor: bytes, *options: bytes) -> Any:
        return [b"0", self._hgetall(key)]

    # -- lists ------------------------------------------------------------------------------

    def _rpush(self, key: bytes, *contents: bytes) -> Any:
        found = self._made(list, key)
        found.extend(contents)
        return len(found)

    def _lpush(self, key: bytes, *contents: bytes) -> Any:
        found = self._made(list, key)
        found[:0] = contents[::-1]
        return len(found)

    def _lpop(self, key: bytes) -> Any:
        found = self._of(list, key)
        if found is None:
            return None
        content = found.pop(0)
        self._drop_if_empty(key)
        return content

    def _llen(self, key: bytes) -> Any:
        return len(self._of(list, key) or ())

    def _lindex(self, key: bytes, index: bytes) -> Any:
        found = self._of(list, key)
        if found is None:
            return None
        at = _integer(index)
        return found[at] if -len(found) <= at < len(found) else None

    def _lset(self, key: bytes, index: bytes, content: bytes) -> Any:
        found = self._of(list, key)
        if found is None:
            raise Refused("ERR no such key")
        at = _integer(index)
        if not -len(found) <= at < len(found):
            raise Refused("ERR index out of range")
        found[at] = content
        return OK

    def _lrange(self, key: bytes, start: bytes, stop: bytes) -> Any:
        span = _integer(start), _integer(stop)
        found = self._of(list, key) or []
        return found[_slice(*span, len(found))]

    def _ltrim(self, key: bytes, start: bytes, stop: bytes) -> Any:
        span = _integer(start), _integer(stop)
        found = self._of(list, key)
        if found is not None:
            found[:] = found[_slice(*span, len(found))]
            self._drop_if_empty(key)
        return OK

    # -- sorted sets ------------------------------------------------------------------------

    def _zadd(self, key: bytes, *rest: bytes) -> Any:
        only_greater = rest[0].upper() == b"GT"
        pairs = rest[1:] if only_greater else rest
        if not pairs or len(pairs) % 2:
            raise Refused(SYNTAX)
        scores = [_float(one) for one in pairs[::2]]
        found = self._made(SortedSet, key)
        added = 0
        for score, member in zip(scores, pairs[1::2], strict=True):
            added += member not in found
            if not only_greater or score > found.get(member, -math.inf) or member not in found:
                found[member] = score
        return added

    def _zscore(self, key: bytes, member: bytes) -> Any:
        score = (self._of(SortedSet, key) or {}).get(member)
        return None if score is None else _score_text(score)

    def _zrem(self, key: bytes, *members: bytes) -> Any:
        found = self._of(SortedSet, key)
        if found is None:
            return 0
        gone = sum([found.pop(member, None) is not None for member in members])
        self._drop_if_empty(key)
        return gone

    def _zremrangebyrank(self, key: bytes, start: bytes, stop: bytes) -> Any:
        span = _integer(start), _integer(stop)
        found = self._of(SortedSet, key) or SortedSet()
        ranked = sorted(found.items(), key=lambda one: (one[1], one[0]))
        gone = [name for name, _ in ranked[_slice(*span, len(ranked))]]
        for name in gone:
            del found[name]
        self._drop_if_empty(key)
        return len(gone)

    def _zcard(self, key: bytes) -> Any:
        return len(self._of(SortedSet, key) or ())

    def _zrange(self, key: bytes, start: bytes, stop: bytes, *options: bytes) -> Any:
        span = _integer(start), _integer(stop)
        found = self._of(SortedSet, key) or SortedSet()
        ranked = sorted(found.items(), key=lambda one: (one[1], one[0]))
        some = ranked[_slice(*span, len(ranked))]
        if options and options[0].upper() == b"WITHSCORES":
            return [part for name, score in some for part in (name, _score_text(score))]
        return [name for name, _ in some]

    # -- streams ----------------------------------------------------------------------------

    def _xadd(self, key: bytes, *rest: bytes) -> Any:
        limit, at = None, 0
        if rest[0].upper() == b"MAXLEN":
            at = 2 if rest[1] in (b"~", b"=") else 1
            limit, at = _integer(rest[at]), at + 1
        id, fields = rest[at], list(rest[at + 1 :])
        if not fields or len(fields) % 2:
            raise Refused("ERR wrong number of arguments for 'xadd' command")
        if id != b"*" and _stream_id(id, 0) == (0, 0):
            raise Refused("ERR The ID specified in XADD must be greater than 0-0")
        found = self._of(Stream, key) or Stream()
        if id == b"*":
            now = (int(self._now() * 1000), 0)
            new = now if now > found.newest else (found.newest[0], found.newest[1] + 1)
        else:
            new = _stream_id(id, 0)
            if new <= found.newest:
                raise Refused(
                    "ERR The ID specified in XADD is equal or smaller than the target stream top "
                    "item"
                )
        found.entries.append((new, fields))
        found.newest = new
        if limit is not None:
            del found.entries[: max(0, len(found.entries) - limit)]
        self.values[key] = found
        return _id_text(new)

    def _xlen(self, key: bytes) -> Any:
        found = self._of(Stream, key)
        return 0 if found is None else len(found.entries)

    def _xrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Any:
        return self._entries(key, first, last, options)

    def _xrevrange(self, key: bytes, last: bytes, first: bytes, *options: bytes) -> Any:
        return self._entries(key, first, last, options, step=-1)

    def _entries(
        self, key: bytes, first: bytes, last: bytes, options: Args, step: int = 1
    ) -> list[Any]:
        found = self._of(Stream, key) or Stream()
        low = (0, 0) if first == b"-" else _stream_id(first, 0)
        high = (2**63, 0) if last == b"+" else _stream_id(last, 2**63)
        some = [one for one in found.entries if low <= one[0] <= high][::step]
        count = _option(options, b"COUNT", None)
        return [[_id_text(id), list(fields)] for id, fields in _first(some, count)]

    def _xread(self, *rest: bytes) -> Any:
        names = [one.upper() for one in rest]
        at = names.index(b"STREAMS")
        keys = rest[at + 1 :][: (len(rest) - at - 1) // 2]
        places = rest[at + 1 + len(keys) :]
        count = _option(rest[:at], b"COUNT", None)
        answer = []
        for key, place in zip(keys, places, strict=True):
            found = self._of(Stream, key) or Stream()
            after = _stream_id(place, 0)
            some = _first([one for one in found.entries if one[0] > after], count)
            if some:
                answer.append([key, [[_id_text(id), list(fields)] for id, fields in some]])
        return answer or None


def copy_of(value: Any) -> Any:
    """What a key has, apart: what is in it is never changed in place."""
    if type(value) is bytes:
        return value
    if type(value) is Stream:
        return value.copy()
    return type(value)(value)


@cache
def name_of(command: bytes) -> str:
    """The name of a command, in capitals."""
    return command.upper().decode()


def _integer(text: bytes) -> int:
    if text.isdigit() and (text[0] != _ZERO or len(text) == 1):
        return int(text)
    if re.fullmatch(rb"-?(0|[1-9]\d*)", text) is None or text == b"-0":
        raise Refused(NOT_A_NUMBER)
    return int(text)


def _hash_integer(text: bytes) -> int:
    try:
        return _integer(text)
    except Refused:
        raise Refused("ERR hash value is not an integer") from None


def _float(text: bytes) -> float:
    try:
        found = float(text)
    except ValueError:
        raise Refused(NOT_A_FLOAT) from None
    if math.isnan(found):
        raise Refused(NOT_A_FLOAT)
    return found


def _score_text(score: float) -> bytes:
    if math.isinf(score):
        return b"inf" if score > 0 else b"-inf"
    if score == int(score) and abs(score) < 1e17:
        return str(int(score)).encode()
    return repr(score).encode()


def _slice(first: int, last: int, length: int) -> slice:
    first = max(0, first + length if first < 0 else first)
    last = last + length if last < 0 else last
    return slice(first, max(first, last + 1))


def _option(options: Args, name: bytes, default: Any) -> Any:
    for at, one in enumerate(options[:-1]):
        if one.upper() == name:
            return options[at + 1]
    return default


def _first(found: list[Any], count: bytes | None) -> list[Any]:
    return found if count is None else found[: _integer(count)]


def _matches(key: bytes, pattern: bytes) -> bool:
    # Python's `[!` is the glob's `[^`; the project's patterns have neither.
    return fnmatch.fnmatchcase(key.decode("latin-1"), pattern.decode("latin-1"))


def _stream_id(text: bytes, default: int) -> tuple[int, int]:
    milliseconds, found, number = text.partition(b"-")
    return _integer(milliseconds), _integer(number) if found else default


def _id_text(id: tuple[int, int]) -> bytes:
    return f"{id[0]}-{id[1]}".encode()


def _size(found: Any) -> int:
    if isinstance(found, bytes):
        return len(found)
    if isinstance(found, Stream):
        return sum(16 + sum(map(len, fields)) for _, fields in found.entries)
    if isinstance(found, SortedSet):
        return sum(16 + len(one) for one in found)
    if isinstance(found, dict):
        return sum(len(name) + len(content) + 16 for name, content in found.items())
    return sum(len(one) + 16 for one in found)
