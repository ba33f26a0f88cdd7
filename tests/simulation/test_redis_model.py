"""The simulated Redis answers as a real one: random commands and scripts are run on both."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
import redis_model
from conftest import Server
from lengths import examples
from redis_model import RedisModel

from jamboree_gym.store.redis import scripts

pytestmark = [pytest.mark.once, pytest.mark.one_server]  # as the model is

CALLS = 1500
SEED_NAME = "JAMBOREE_SIMULATED_SEED"  # CI sets it, and prints it
SEED = int(os.environ.get(SEED_NAME) or 1)
AGAIN = f"again: {SEED_NAME}={SEED}"
Draw = Callable[[], Any]


@pytest.fixture
def both(valkey: Server) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    real = redis.Redis.from_url(valkey.url, protocol=2)
    yield real, redis_model.client_of(RedisModel(redis_model.now))
    real.close()


class Drawn:
    """Random commands with a few keys, of which some have another type than a command wants."""

    def __init__(self, seed: int, prefix: str) -> None:
        self.rng = random.Random(seed)
        self._prefix = prefix

    def key(self) -> str:
        return f"{self._prefix}:{self.rng.randrange(6)}"

    def name(self) -> str:
        return self.rng.choice("abcd")

    def number(self) -> str:
        return self.rng.choice(["-7", "-2", "-1", "0", "1", "2", "3", "9", "1.5", "x", "", "01"])

    def score(self) -> str:
        return self.rng.choice(
            ["-inf", "inf", "0", "-1.5", "3", "0.1", "1e300", "x", "1700000000.25"]
        )

    def content(self) -> bytes:
        return self.rng.choice([b"", b"1", b"-5", b"\x00\xff", b"abc", b"12345678"])

    def some(self, draw: Draw) -> list[Any]:
        return [draw() for _ in range(self.rng.randrange(1, 4))]

    def id(self) -> str:
        return self.rng.choice(["1-1", "1-2", "2-0", "5", "5-1", "0-0"])

    def pairs(self, *draws: Draw) -> list[Any]:
        return [draw() for _ in range(self.rng.randrange(1, 3)) for draw in draws]

    def call(self) -> Sequence[Any]:
        """One command."""
        key, name, content, number = self.key, self.name, self.content, self.number
        return self.rng.choice(
            [
                lambda: ("SET", key(), content(), *self.rng.choice([(), ("NX",), ("PX", 10**7)])),
                lambda: ("GET", key()),
                lambda: ("MGET", *self.some(key)),
                lambda: ("INCR", key()),
                lambda: ("DEL", *self.some(key)),
                lambda: ("EXISTS", *self.some(key)),
                lambda: ("TYPE", key()),
                lambda: ("EXPIRE", key(), self.rng.choice(["1000", "-1", "x"])),
                lambda: ("HSET", key(), *self.pairs(name, content)),
                lambda: ("HSET", key(), name()),
                lambda: ("HSETNX", key(), name(), content()),
                lambda: ("HGET", key(), name()),
                lambda: ("HMGET", key(), *self.some(name)),
                lambda: ("HGETALL", key()),
                lambda: ("HLEN", key()),
                lambda: ("HDEL", key(), *self.some(name)),
                lambda: ("HINCRBY", key(), name(), number()),
                lambda: ("RPUSH", key(), *self.some(content)),
                lambda: ("LPUSH", key(), *self.some(content)),
                lambda: ("LPOP", key()),
                lambda: ("LLEN", key()),
                lambda: ("LINDEX", key(), number()),
                lambda: ("LSET", key(), number(), content()),
                lambda: ("LRANGE", key(), number(), number()),
                lambda: ("LTRIM", key(), number(), number()),
                lambda: ("ZADD", key(), *self.pairs(self.score, name)),
                lambda: ("ZADD", key(), "GT", self.score(), name()),
                lambda: ("ZSCORE", key(), name()),
                lambda: ("ZREM", key(), *self.some(name)),
                lambda: ("ZREMRANGEBYRANK", key(), number(), number()),
                lambda: ("ZCARD", key()),
                lambda: ("ZRANGE", key(), "0", "-1", "WITHSCORES"),
                lambda: ("ZRANGE", key(), number(), number()),
                lambda: ("XADD", key(), self.id(), name(), content()),
                lambda: ("XADD", key(), "MAXLEN", "2", self.id(), name(), content()),
                lambda: ("XLEN", key()),
                lambda: ("XRANGE", key(), "-", self.id(), "COUNT", "2"),
                lambda: ("XREVRANGE", key(), "+", "-", "COUNT", "1"),
                lambda: ("XREAD", "COUNT", "2", "STREAMS", key(), key(), "0", self.id()),
                lambda: ("NONSENSE", key()),
            ]
        )()


SCRIPTS = (
    "return redis.call(unpack(ARGV))",
    "return {redis.pcall(unpack(ARGV)), 'after'}",
    "local ok, answer = pcall(redis.call, unpack(ARGV)); "
    "return {ok and 1 or 0, type(answer), type(answer) == 'table' and answer.err or ''}",
    "redis.call('RPUSH', KEYS[1], 'x'); return redis.call('LRANGE', KEYS[1], 0, -1)",
    "return {1, 2.9, -2.9, true, false, 'x', nil, 'never'}",
    "return {ok = 'FINE'}",
    "return redis.error_reply('JAMBOREEFORMAT no')",
    "return redis.sha1hex(ARGV[1])",
    "return {struct.pack('<c2BBI8d', 'JH', 2, 1, 2^53 - 1, -0.1), "
    "struct.unpack('<I4I8c8dd', string.rep('\\1', 40), 3)}",
    "return {struct.pack('>d', 1.5), string.format('%.17g', 0.1), tostring(1e15), tostring(2^53)}",
    "return string.format('%.17g', (struct.unpack('<d', ARGV[1])))",
    "return redis.call('SET', KEYS[1], 12345678901)",
    "redis.call('SET', KEYS[1], 0.1); return redis.call('GET', KEYS[1])",
    "error('of its own')",
    "return nil",
)


def answer_of(client: redis.Redis, call: Sequence[Any]) -> Any:
    try:
        answer = client.execute_command(*call)
    except redis.RedisError as error:
        return as_error(error)
    return [as_error(one) for one in answer] if isinstance(answer, list) else answer


def as_error(answer: Any) -> Any:
    """An error as its code and the beginning of its text: a script's ends with where it was."""
    if not isinstance(answer, redis.RedisError):
        return answer
    text = re.sub(r"^\S*( \S*)?:\d+: ", "", str(answer).split(" script:")[0])
    for beginning in ("wrong number of arguments", "unknown command", "Wrong number"):
        if beginning in text:
            return beginning.lower()[:12]
    return type(answer).__name__, text


def test_random_commands_have_the_same_answers(
    both: tuple[redis.Redis, redis.Redis], namespace: str
) -> None:
    real, model = both
    drawn = Drawn(SEED, namespace)
    history = []
    for _ in range(examples(CALLS)):
        call = drawn.call()
        history.append(call)
        assert answer_of(model, call) == answer_of(real, call), (AGAIN, history[-20:])


def test_random_scripts_have_the_same_answers(
    both: tuple[redis.Redis, redis.Redis], namespace: str
) -> None:
    real, model = both
    drawn = Drawn(SEED, namespace)
    for _ in range(examples(CALLS // 3)):
        script = drawn.rng.choice(SCRIPTS)
        command = drawn.call()
        if command[0] == "NONSENSE":  # a script is told so by a text, not by a table
            continue
        call = ("EVAL", script, "1", drawn.key(), *command)
        assert answer_of(model, call) == answer_of(real, call), (AGAIN, call)


def test_a_full_server_refuses_the_same_scripts(
    both: tuple[redis.Redis, redis.Redis], namespace: str
) -> None:
    plain = "redis.call('SET', KEYS[1], 'x'); return 1"
    deleting = "redis.call('DEL', KEYS[1]); redis.call('SET', KEYS[1], 'x'); return 1"
    model = RedisModel(redis_model.now)
    client = redis_model.client_of(model)
    model.is_full = True
    with pytest.raises(redis.OutOfMemoryError):
        client.set("a", "b")
    for source, is_refused in (
        (plain, True),
        (f"#!lua\n{deleting}", True),
        (deleting, False),
        (f"#!lua flags=allow-oom\n{plain}", False),
    ):
        answer = answer_of(client, ("EVAL", source, "1", "a"))
        assert (answer != 1) == is_refused, source


def test_all_scripts_of_the_package_compile() -> None:
    client = redis_model.client_of(RedisModel(redis_model.now))
    for script in scripts.ALL:
        assert client.script_load(script.source) == script.sha
        answer = answer_of(client, ("EVALSHA", script.sha, "0"))
        assert "compiling" not in str(answer)
