"""A connection that is cut at any byte of an append, on the way there or on the way back.

Whatever arrived: what is in Redis afterwards is, key by key and byte by byte, what a recording
without a cut leaves there. Every how many positions one is tried is said by the environment
variable JAMBOREE_CUT_EVERY; `make faults` tries all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from conftest import Server
from lengths import quick_and_long
from processes import NoteHandler
from proxy import Ending, Lane, Proxy
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.delivery.lease import Lease

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.one_server]  # through one proxy

EVERY = int(os.environ.get("JAMBOREE_CUT_EVERY", "448"))
BEGAN_AT = 1.7e9
STEPS = 2
NOTES = 2
EPISODE_ID = "0" * 32
ENDINGS: list[Ending] = ["fin", "rst"]


class Recording:
    """Records the same episode and the same notes again and again, through a proxy.

    Its clock stands still but for what is set here, and the episode's id is always the same: so two
    recordings leave the same bytes.
    """

    def __init__(self, server: Server, namespace: str, write: str, patch: pytest.MonkeyPatch):
        self.opened = ExitStack()
        self.proxy = self.opened.enter_context(Proxy(server.url))
        patch.setattr(Lease, "_run", lambda _: None)  # its thread would send when it likes
        self.now = BEGAN_AT
        options: Any = {"namespace": namespace, "write": write, "flush_interval_s": 3600}
        options["clock"] = lambda: self.now
        self.jam = self.opened.enter_context(Jamboree(self.proxy.url, **options))
        patch.setattr(self.jam._connection, "new_episode_id", lambda: EPISODE_ID)
        patch.setattr(self.jam._connection, "start_time", lambda *, after: self.now)
        self.env = self.jam.record(CountingEnv(length=STEPS), run="r")
        self.direct = self.opened.enter_context(redis.Redis.from_url(server.url))
        self.rounds = 0
        self._bucket = self.bucket()

    def close(self) -> None:
        """Close all of it."""
        self.opened.close()

    def prepare(self) -> None:
        """Delete what was recorded, and connect anew: of such a server nothing is known."""
        for key in self.keys():
            self.direct.delete(key)
        self.now = BEGAN_AT
        self.rounds += 1
        while self.bucket() != self._bucket:
            self.rounds += 1
        self.proxy.cut()
        self.jam._connection.store.head("nothing")

    def record(self) -> None:
        """An episode, and records of a handler that has saved none so far."""
        self.env.reset(seed=1)
        for _ in range(STEPS):
            self.now += 0.01
            self.env.step(ACTION)
        handler = NoteHandler(self.jam, self.name)
        for number in range(NOTES):
            handler.save({"n": number})
        self.jam.flush()

    @property
    def name(self) -> str:
        """What the handler's records are saved under; always as long."""
        return f"note-{self.rounds:06}"

    def bucket(self) -> int:
        """Where the handler's records lie; always the same."""
        buckets, space = self.jam._connection.redis_store.buckets, self.jam._connection.keyspace
        return buckets.of(space.records("note", {"name": self.name})).at

    def keys(self) -> list[bytes]:
        """All keys of the namespace."""
        return sorted(self.direct.scan_iter(f"*{self.jam._connection.keyspace.namespace}:*"))

    def contents(self) -> dict[bytes, Any]:
        """All that lies in the namespace, but for lease and epoch."""
        return {
            key.replace(self.name.encode(), b""): self._without_name(content(self.direct, key))
            for key in self.keys()
            if b":lease:" not in key and not key.endswith(b":epoch")
        }

    def _without_name(self, value: Any) -> Any:
        """The list of what is not backed up names the logs."""
        if isinstance(value, list) and isinstance(value[0], tuple):
            return [(key.replace(self.name.encode(), b""), score) for key, score in value]
        return value


def content(client: Any, key: bytes) -> Any:
    """The value of a key, of any type."""
    kind = client.type(key)
    if kind == b"list":
        return client.lrange(key, 0, -1)
    if kind == b"hash":
        return client.hgetall(key)
    if kind == b"zset":
        return client.zrange(key, 0, -1, withscores=True)
    return client.get(key)


@pytest.fixture
def recording(
    request: pytest.FixtureRequest,
    valkey: Server,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Recording]:
    opened = Recording(valkey, namespace, request.param, monkeypatch)
    yield opened
    opened.close()


@pytest.mark.timeout(600 + 3600 // EVERY)
@pytest.mark.parametrize(
    ("recording", "direction"),
    quick_and_long(
        [(write, direction) for write in ("sync", "buffered") for direction in ("up", "down")],
        quick=[("sync", "down"), ("buffered", "up")],
    ),
    indirect=["recording"],
)
def test_an_append_that_is_cut_at_any_byte_is_there_once_and_unchanged(
    recording: Recording, direction: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lane: Lane = getattr(recording.proxy, direction)
    recording.record()  # the server knows the scripts from now on
    recording.prepare()
    passed = lane.passed
    recording.record()
    size, uncut = lane.passed - passed, recording.contents()
    positions = [*range(random.Random(EVERY).randrange(EVERY), size, EVERY), size]

    for position in positions:
        recording.prepare()
        losses = recording.jam._connection.store.losses
        lane.cut_after(position, ENDINGS[position // EVERY % 2])
        recording.record()
        assert not lane.is_cut_pending, position
        assert recording.jam._connection.store.losses > losses or position == size, position
        assert recording.contents() == uncut, position

    with capsys.disabled():
        mode = recording.jam._connection.write_mode
        print(f"\n{len(positions)} cuts in the {size} bytes that go {direction}, write={mode!r}")
    assert len(uncut) == 9
