"""Round trips to one Redis server: repeated once after a lost connection, errors translated.

`cluster.link` is the same for a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any, ClassVar, TypeVar, cast

import redis
from hiredis import pack_command
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from jamboree_gym.errors import (
    DecodeError,
    JamboreeClosed,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
    UnsupportedServer,
)
from jamboree_gym.keys import without_buckets
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.opening.sentinels import PrimaryPool, address_of
from jamboree_gym.store.redis.scripts import Script
from jamboree_gym.store.tls_advice import REDIS_WORDS, SENTINEL_WORDS, tls_advice

__all__ = [
    "AccessRefused",
    "Call",
    "RedisLink",
    "answer_of",
    "as_named",
    "as_pairs",
    "as_text",
    "refused_to_all",
    "script_call",
    "without_numbers",
]

_T = TypeVar("_T")
SCAN_COUNT = 1000
SENT_AHEAD = 500  # calls
_NUMBERS = frozenset({bool, int, float})
# Errors that concern the one key they answer. Whatever else Redis refuses, it refuses to all.
_ERRORS_OF_ONE_KEY = ("WRONGTYPE", "JAMBOREEFORMAT", "user_script:")
_FREE_DISK = "free disk space there, and it continues by itself"
_FREE_MEMORY = (
    "a running backup makes room by letting go of what it holds: look at `jamboree-gym backup "
    "status`, start one with `python -m jamboree_gym.backup --follow`, keep less by "
    "`backup.retain()`, or raise maxmemory there, and it continues by itself"
)
_REFUSED_IN_A_SCRIPT = ("ACL failure in script", "The user executing the script can't")

Call = tuple[Any, ...]
"""Name and arguments of a command."""


class AccessRefused(StoreUnavailable):
    """The server answers, and does not let this user do it."""


class RedisLink:
    """Sends commands in one round trip each; safe to use from several threads.

    Args:
        client: A redis-py client that answers bytes. Its connections are used, and kept in hand.
        revive: Called once after a lost connection, before the one retry.

    Attributes:
        where: Host and port, or socket path, or service and Sentinels, or the nodes of a cluster
            that the URL names; never a user or a password.
        is_cluster: Whether several servers hold a part each.
    """

    is_cluster: ClassVar[bool] = False

    def __init__(self, client: redis.Redis, *, revive: Callable[[], None] | None = None) -> None:
        self._client = client
        self.where = _where(client)
        self._losses = 0
        self._has_answered = False
        self._is_tls = issubclass(client.connection_pool.connection_class, redis.SSLConnection)
        self._may_move = isinstance(client.connection_pool, PrimaryPool)
        self._words = SENTINEL_WORDS if self._may_move else REDIS_WORDS
        self._revive = revive
        self._is_closed = False
        self._idle: list[Any] = []  # append and pop are atomic

    @property
    def losses(self) -> int:
        """How often a connection was lost or dropped: what was known of the server may be untrue.

        The next one may reach another server, which has taken the place of this one.
        """
        return self._losses

    @property
    def client(self) -> redis.Redis:
        """The redis-py client; that of a cluster is a `RedisCluster`, with the same methods."""
        return self._client

    @property
    def database(self) -> int:
        """The number of the database."""
        return int(self._client.connection_pool.connection_kwargs.get("db") or 0)

    def address(self) -> str:
        """Where the server is that answers now: with Sentinels the primary, else as `where`."""
        return self.run(lambda: address_of(self._client))

    def servers(self) -> Sequence[redis.Redis]:
        """A client for each server that holds a part: here one, of a cluster each primary.

        To be called by what `run` does, as a cluster may have to be asked for them.
        """
        return (self._client,)

    def watched_by_server(self, keys: Sequence[str]) -> Sequence[tuple[Any, list[list[str]]]]:
        """The connection pool of each server that holds some of these keys, and which these are.

        They are given in groups of which one command may name all.
        """
        return [(self._client.connection_pool, [list(keys)])]

    def close(self) -> None:
        """Close all connections, also those that another thread reads from. Twice is quiet."""
        self._is_closed = True
        self._idle.clear()
        self._client.close()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent process; the client's pool does so by itself."""
        self._idle = []

    def script(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any], *, again: bool = True
    ) -> Any:
        """Run one script; `again` says whether it may run a second time if its answer is lost."""
        call = script_call(script, keys, arguments)
        return self.checked(self.pipeline(lambda: [call], again=again)[0], key=keys[0])

    def call(self, name: str, key: str, *arguments: Any) -> Any:
        """Send one command that may be sent twice."""
        return self.checked(self.send([(name, key, *arguments)])[0], key=key)

    def send(self, calls: Sequence[Call]) -> list[Any]:
        """Send calls that may be sent twice, if any, in one round trip: see `pipeline`."""
        return self.pipeline(lambda: calls) if calls else []

    def keys(self, pattern: str) -> list[str]:
        """Keys that match a pattern, in no order."""

        def found() -> set[bytes]:
            pages = (one.scan_iter(match=pattern, count=SCAN_COUNT) for one in self.servers())
            return {key for keys in pages for key in keys}

        return list(map(as_text, self.run(found)))

    def scan(self, pattern: str) -> Iterator[list[bytes]]:
        """Keys that match a pattern, some hundred at a time; some may be there twice."""
        for server in self.run(self.servers):
            cursor, is_first = 0, True
            while cursor or is_first:
                ask = partial(server.scan, cursor, match=pattern, count=SCAN_COUNT)
                cursor, found = cast(Any, self.run(ask))
                is_first = False
                if found:
                    yield found

    def pipeline(
        self,
        calls: Callable[[], Sequence[Call]],
        *,
        again: bool = True,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        """Send calls in one round trip; raises what the server refuses for all keys alike.

        `calls` is asked again before a second try, which `again` allows when the connection breaks.
        `meanwhile` is called while one server works on a try; it may not use the link.

        Returns:
            The answers; where the server refused just one key, the error.
        """

        def run() -> list[Any]:
            sent = calls()
            answers = self._send(sent, check=not again, meanwhile=meanwhile)
            if NoScriptError in map(type, answers):
                self._load_scripts()
                answers = self._send(sent)
            if (refusal := refused_to_all(answers)) is not None:
                raise refusal
            return answers

        return self.run(run, again=again)

    def _load_scripts(self) -> None:
        loads = [("SCRIPT", "LOAD", script.source) for script in scripts.ALL]
        for answer in self._send(loads):
            if isinstance(answer, RedisError):
                raise answer

    def _send(
        self,
        calls: Sequence[Call],
        *,
        check: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        """One round trip, without a pipeline object's overhead.

        Of many calls, some are sent ahead: the server answers them while answers are read.
        """
        connection = self._connection(check)
        answers: list[Any] = []
        try:
            _write(connection, calls[:SENT_AHEAD])
            if meanwhile is not None:
                meanwhile()
            for at in range(SENT_AHEAD, len(calls), SENT_AHEAD):
                _write(connection, calls[at : at + SENT_AHEAD])
                answers += [answer_of(connection) for _ in range(SENT_AHEAD)]
            answers += [answer_of(connection) for _ in range(len(answers), len(calls))]
        except BaseException:
            self._drop(connection)  # half-read answers must never meet the next caller
            raise
        self._idle.append(connection)
        return answers

    def _connection(self, check: bool) -> Any:
        """An open connection; on `check` one that the server has not closed meanwhile."""
        while (connection := self._idle_connection()) is not None:
            if not (check and _has_ended(connection)):
                return connection
            self._drop(connection)
        return self._client.connection_pool.get_connection()

    def _idle_connection(self) -> Any:
        # No generator: Python swallows a Ctrl-C that comes while it closes one.
        try:
            return self._idle.pop()
        except IndexError:  # none is left, or another thread took it
            return None

    def _drop(self, connection: Any) -> None:
        self._losses += 1
        connection.disconnect()
        self._client.connection_pool.release(connection)

    def run(self, action: Callable[[], _T], *, again: bool = True) -> _T:
        """Do it; after a lost connection once more; translate what still fails.

        redis-py raises whatever it runs into where another thread closes its connection. What has
        been connected meanwhile is closed, too.
        """
        try:
            if self._is_closed:
                raise ConnectionError("closed")
            try:
                answer = action()
                self._has_answered = True
                return answer
            except AuthenticationError:
                raise
            except ConnectionError:
                self.forget_connections()
                if not again or self._is_closed:
                    raise
                if self._revive is not None:
                    self._revive()
                return action()
            except TimeoutError:
                if self._may_move:  # another server may take its place
                    self.forget_connections()
                raise
        except Exception as error:
            if self._is_closed:
                raise JamboreeClosed("this Jamboree was closed while it was read from") from error
            if isinstance(error, RedisError):
                raise self.translated(error) from error
            raise
        finally:
            if self._is_closed:
                self.close()

    def forget_connections(self) -> None:
        """Connect anew from now on: nothing that was known of the server has to be true."""
        self._losses += 1
        while (connection := self._idle_connection()) is not None:
            self._drop(connection)
        self._client.connection_pool.disconnect(inuse_connections=False)

    def checked(self, answer: Any, *, key: str) -> Any:
        """One answer of `pipeline`; raises it if it is an error."""
        if isinstance(answer, RedisError):
            raise self.translated(answer, key=key) from answer
        return answer

    def all_checked(self, answers: list[Any], *, keys: Sequence[str]) -> list[Any]:
        """The answers of `pipeline`, one for each key; raises the first error among them."""
        if not {bytes, list, int, NoneType}.issuperset(map(type, answers)):
            for key, answer in zip(keys, answers, strict=True):
                self.checked(answer, key=key)
        return answers

    def translated(self, error: RedisError, *, key: str = "") -> JamboreeError:
        """What a caller is told."""
        text, where = without_buckets(str(error)), f"Redis at {self.where}"
        if _is_of_one_key(error):
            log = without_buckets(key)
            return DecodeError(f"{log} on {where} is not a log of this release: {text}")
        if isinstance(error, NoPermissionError) or text.startswith(_REFUSED_IN_A_SCRIPT):
            return AccessRefused(
                f"{where} does not let this user do it: {text.rstrip('.')}; "
                "ACL LOG there names the command or key, docs/security.md what each use needs"
            )
        if isinstance(error, ReadOnlyError):
            return AccessRefused(f"{where} is a replica, which takes no writes: {text}")
        if isinstance(error, AuthenticationError):
            return StoreUnavailable(
                f"{where} refuses the login ({text.rstrip('.')}): "
                "check user and password in redis_url"
            )
        if isinstance(error, TimeoutError):
            return StoreUnavailable(f"{where} did not answer in time: {self._advised(text)}")
        if isinstance(error, InvalidResponse):
            return UnsupportedServer(f"{self.where} answers, but not as Redis or Valkey does")
        if isinstance(error, ConnectionError):
            return StoreUnavailable(f"{where} cannot be reached: {self._advised(text)}")
        if isinstance(error, OutOfMemoryError) or text.startswith(("OOM", "MISCONF")):
            advice = _FREE_DISK if text.startswith("MISCONF") else _FREE_MEMORY
            return StoreFull(f"{where} takes no more writes: {text.rstrip('.')}; {advice}")
        return StoreUnavailable(f"{where} answered with an error: {text}")

    def _advised(self, text: str) -> str:
        """The reason, and what to do if it is TLS. Of a server that has answered it is not."""
        advice = tls_advice(text, self._words, is_tls=self._is_tls)
        return text if self._has_answered or not advice else f"{text.rstrip('.')}; {advice}"


def as_text(name: bytes) -> str:
    """A name out of Redis; where it is no text, others than we wrote it: there is no such thing."""
    return name.decode(errors="replace")


def as_named(found: Any) -> dict[str, bytes]:
    """What HGETALL answers: with RESP 3 a dict, with RESP 2 a list."""
    pairs = found.items() if isinstance(found, dict) else as_pairs(found)
    return {name.decode(errors="replace"): content for name, content in pairs}


def as_pairs(found: Any) -> Iterable[tuple[bytes, Any]]:
    """What ZRANGE answers WITHSCORES: with RESP 3 pairs, with RESP 2 a flat list."""
    is_flat = not found or not isinstance(found[0], list)
    return zip(*[iter(found)] * 2, strict=True) if is_flat else found


def script_call(script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Call:
    """The command that runs a script."""
    return ("EVALSHA", script.sha, str(len(keys)), *keys, *arguments)


def refused_to_all(answers: Iterable[Any]) -> RedisError | None:
    """The first error that does not concern just the one key that it answers."""
    for answer in answers:
        if isinstance(answer, RedisError) and not _is_of_one_key(answer):
            return answer
    return None


def without_numbers(call: Call) -> Call:
    """A call of strings and bytes only.

    hiredis 3.5 turns a number into text in C, where a Ctrl-C can come in; it does not look, and the
    process dies of a segmentation fault instead of a KeyboardInterrupt.
    """
    if not _NUMBERS.isdisjoint(map(type, call)):
        return tuple([str(part) if type(part) in _NUMBERS else part for part in call])
    return call


def _write(connection: Any, calls: Sequence[Call]) -> None:
    """One send, past redis-py, whose pieces of 6 kB would be a system call each."""
    packed = b"".join([pack_command(without_numbers(call)) for call in calls])
    connection.send_packed_command([packed])


def answer_of(connection: Any) -> Any:
    """The next answer; an error of the server stands in its place."""
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _has_ended(connection: Any) -> bool:
    try:
        return bool(connection.can_read())
    except (OSError, RedisError):
        return True


def _is_of_one_key(error: RedisError) -> bool:
    return str(error).startswith(_ERRORS_OF_ONE_KEY)


def _where(client: redis.Redis) -> str:
    pool = client.connection_pool
    return pool.where if isinstance(pool, PrimaryPool) else address_of(client)
