"""Writes tests/store/format_2.json.xz: a store with batches of rows of version 1 (Arrow).

It was run with the last release that wrote them, and cannot make the same file with a later one. It
is kept to show what is in the file:

    python tests/store/make_format_2.py

Beside the bytes of both servers there is what the same release read of each episode, so that a test
compares every value, dtype and type after a migration.
"""

from __future__ import annotations

import json
import lzma
import platform
import socket
import tempfile
from base64 import b64encode
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import GraphInstance

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.arrays.values import encode_value

NAMESPACE = "format-2"
FILE = Path(__file__).with_name("format_2.json.xz")
FLOATS = spaces.Box(-np.inf, np.inf, (4,), np.float32)
TREE = spaces.Dict(
    picture=spaces.Box(0, 255, (2, 2, 3), np.uint8),
    pair=spaces.Tuple((spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(3, start=-1))),
    bits=spaces.MultiBinary(11),
    empty=spaces.Box(0, 1, (0, 2), np.float64),
)
ODD = spaces.Dict(
    text=spaces.Text(8),
    number=spaces.Box(-1, 1, (), np.float16),
    seen=spaces.Sequence(spaces.Discrete(5)),
    graph=spaces.Graph(spaces.Box(-1, 1, (2,)), None),
)
BIG_ENDIAN = spaces.Box(-1, 1, (3,), np.dtype(">f4"))


class Notes(DBHandler):
    """Records beside the episodes."""

    def __init__(self, event: Jamboree) -> None:
        super().__init__(event)
        self.entity = "note"
        self.required = {"topic": str}


class Scripted(gym.Env[Any, Any]):
    """Observes what it was given, one value after the other."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        observations: Sequence[Any],
        action_space: spaces.Space[Any] | None = None,
        info: Callable[[int], dict[str, Any]] = lambda _: {},
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(3)
        self.observations, self.tell, self.at = observations, info, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Begin with the first one."""
        super().reset(seed=seed)
        self.at = 0
        return self.observations[0], self.tell(0)

    def step(self, action: Any) -> Any:
        """Go on to the next one."""
        self.at += 1
        is_last = self.at == len(self.observations) - 1
        return self.observations[self.at], self.at / 7, is_last, False, self.tell(self.at)


def sampled(space: spaces.Space[Any], n: int) -> list[Any]:
    """Values of a space, always the same."""
    space.seed(n)
    return [space.sample() for _ in range(n)]


def info_of(step: int) -> dict[str, Any]:
    """An info in every third row."""
    return {"lives": step, "pose": np.arange(2.0), "names": ("a", "b")} if step % 3 == 0 else {}


def tree(n: int) -> list[Any]:
    """Nested values; the bits are bools, eleven in each."""
    return [{**one, "bits": one["bits"].astype(np.bool_)} for one in sampled(TREE, n)]


def graph(step: int) -> dict[str, Any]:
    """Values that have no fixed shape."""
    return {
        "text": "ä" * (step % 5),
        "number": np.float16(step / 3),
        "seen": tuple(np.int64(n) for n in range(step % 4)),
        "graph": GraphInstance(np.full((step % 3 + 1, 2), step, np.float32), None, None),
    }


def record(jam: Jamboree, run: str, env: Scripted, *, annotate: bool = False) -> str:
    """One episode, to the end of its observations."""
    recorded = jam.record(env, run=run)
    env.action_space.seed(3)
    recorded.reset(seed=1)
    for step in range(len(env.observations) - 1):
        action = env.action_space.sample()
        if run == "numbers" and step % 5 < 2:
            action = int(action)  # Python's numbers and NumPy's in one batch
        if annotate and step % 2:
            recorded.annotate(value=step / 3, logits=np.arange(3.0), is_new=True)
        recorded.step(action)
    return str(recorded.episode_id)


def record_all(jam: Jamboree) -> dict[str, str]:
    """An episode of each kind; their ids."""
    changing: list[Any] = [np.full(2, n, np.float32) for n in range(4)]
    changing += [np.full(2, n, np.float64) for n in range(4)]
    pixels = spaces.Box(0, 255, (9, 9, 3), np.uint8)
    return {
        "plain": record(jam, "plain", Scripted(FLOATS, sampled(FLOATS, 22))),
        "tree": record(jam, "tree", Scripted(TREE, tree(12), TREE)),
        "encoded": record(jam, "encoded", Scripted(ODD, [graph(n) for n in range(14)])),
        "annotated": record(
            jam, "annotated", Scripted(FLOATS, sampled(FLOATS, 15)), annotate=True
        ),
        "numbers": record(jam, "numbers", Scripted(FLOATS, sampled(FLOATS, 20))),
        "changing": record(jam, "changing", Scripted(spaces.Box(-9, 9, (2,)), changing)),
        "big-endian": record(jam, "big-endian", Scripted(BIG_ENDIAN, sampled(BIG_ENDIAN, 9))),
        "infos": record(jam, "infos", Scripted(FLOATS, sampled(FLOATS, 13), info=info_of)),
        "long": record(jam, "long", Scripted(pixels, [np.full((9, 9, 3), n % 256, np.uint8)
                                                      for n in range(700)])),
    }  # fmt: skip


def values_of(jam: Jamboree, id: str) -> str:
    """Everything that was read of an episode: its arrays, and its steps with their types."""
    data, steps = jam.episode(id).data(), list(jam.episode(id).steps())
    names = ("observations", "actions", "rewards", "terminations", "truncations", "timestamps")
    arrays = [getattr(data, name) for name in (*names, "infos", "annotated", "annotations")]
    few = steps if len(steps) < 100 else []
    seen = [(s.observation, s.action, s.next_observation, s.reward, s.info) for s in few]
    return b64encode(encode_value([arrays, seen])).decode()


def contents_of_redis(jam: Jamboree) -> dict[str, Any]:
    """Every key of the namespace."""

    def text(content: bytes) -> str:
        return b64encode(content).decode()

    found: dict[str, Any] = {}
    for raw in sorted(jam.redis.keys(f"{NAMESPACE}:*")):
        key, kind = raw.decode(), jam.redis.type(raw).decode()
        if kind == "list":
            found[key] = {kind: [text(one) for one in jam.redis.lrange(raw, 0, -1)]}
        elif kind == "hash":
            pairs = jam.redis.hgetall(raw).items()
            found[key] = {kind: {name.decode(): text(one) for name, one in pairs}}
        elif kind == "zset":
            pairs = jam.redis.zrange(raw, 0, -1, withscores=True)
            found[key] = {kind: {name.decode(): score for name, score in pairs}}
        elif kind == "string" and ":lease:" not in key and ":holder" not in key:
            found[key] = {kind: text(jam.redis.get(raw))}
    return found


def stored(value: Any) -> Any:
    """A field of a document as JSON."""
    if isinstance(value, bytes):
        return {"$b": b64encode(value).decode()}
    return [stored(one) for one in value] if isinstance(value, list) else value


def contents_of_mongodb(jam: Jamboree) -> dict[str, Any]:
    """Every document of the namespace."""
    return {
        name: [
            {field: stored(value) for field, value in document.items()}
            for document in jam.mongo[name].find().sort("_id", 1)
        ]
        for name in sorted(jam.mongo.list_collection_names())
    }


def main() -> None:
    """Record, back up, and write the file."""
    socket.gethostname = lambda: "host"
    platform.platform = lambda *_: "Linux"
    with tempfile.TemporaryDirectory() as home:
        ticks = count()
        with Jamboree(home=home, namespace=NAMESPACE, clock=lambda: 1e9 + next(ticks) / 64) as jam:
            notes = Notes(jam)
            notes["topic"] = "weather"
            notes.save_many([{"n": n} for n in range(4)])
            ids = record_all(jam)
            jam.backup.flush()
            # Half of it is copied by now; the rest of this one gets documents of its own.
            env = Scripted(FLOATS, sampled(FLOATS, 60))
            growing = jam.record(env, run="growing")
            growing.reset(seed=2)
            for step in range(59):
                growing.step(step % 3)
                if step % 20 == 10:
                    jam.flush()
                    jam.backup.flush()
            ids["growing"] = str(growing.episode_id)
            jam.flush()
            jam.backup.flush()
            read = {kind: values_of(jam, id) for kind, id in ids.items()}
            assert jam.backup.verify()
            content = {
                "episodes": ids,
                "read": read,
                "redis": contents_of_redis(jam),
                "mongo": contents_of_mongodb(jam),
            }
    FILE.write_bytes(lzma.compress(json.dumps(content, indent=1).encode(), preset=9))


if __name__ == "__main__":
    main()
