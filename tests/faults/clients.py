"""What goes on in each process of a history: it works until a file appears, and notes what it does.

    python tests/faults/clients.py '{"role": "single", ...}'

The fields are those of `Client`.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from history import AFTER_ALL, EMPTIED_AFTER_ALL, LOG, NAMESPACE
from operations import OperationLog
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.errors import JamboreeError
from jamboree_gym.keys import digest
from jamboree_gym.recording.importer import (
    EpisodeImporter,
    NewEpisode,
    episode_id_of,
    layout_of_arrays,
)
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary

LONGEST = 40
LARGEST_TOKEN = 2**23  # float32 has each of these
FLUSH_TIMEOUT_S = 3.0
QUIET_S = 2.0  # a follower gives up after so long
SESSION_S = 5.0  # or after so long, to begin anew
VECTOR_ENVS = 8  # so many are recorded a row for all at once


@dataclass(frozen=True)
class Client:
    """What a process is told.

    Attributes:
        role: Of `ROLES`.
        name: Of the process.
        mode: How it writes: `buffered`, `sync`, `fsync`.
        redis_url: None = embedded servers, which copy by themselves.
        mongo_url: As above.
        home: Has the journals.
        directory: Has the logs of operations, and at the end the file `stop`.
    """

    role: str
    name: str
    mode: str
    redis_url: str | None
    mongo_url: str | None
    home: str
    directory: str

    @property
    def is_over(self) -> bool:
        """Whether to end."""
        return (Path(self.directory) / "stop").exists()

    def open(self) -> Jamboree:
        """A Jamboree, as soon as there can be one."""
        while True:
            with suppress(JamboreeError):  # it is away just now
                return Jamboree(
                    self.redis_url,
                    self.mongo_url,
                    home=self.home,
                    namespace=NAMESPACE,
                    write=self.mode,  # type: ignore[arg-type]
                    backup=self.redis_url is None,
                )
            time.sleep(0.1)


class TokenEnv(CountingEnv):
    """Observes the number of its steps, and what tells this episode from others."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.token = 0

    def observe(self) -> Any:
        return np.array([self.count, self.token], np.float32)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        is_long = self.chance.random() < 0.05
        self.length = self.chance.randint(1, LONGEST * 50 if is_long else LONGEST)
        self.ending = self.chance.choice(["terminated", "truncated"])
        self.token = self.chance.randrange(LARGEST_TOKEN)
        return super().reset(**options)

    def next_step(self) -> tuple[int, str]:
        """Its number, and how the episode ends with it; empty if it does not."""
        return self.count + 1, self.ending if self.count + 1 == self.length else ""


class Role:
    """What one process does.

    Args:
        client: What it was told.
        jam: Its Jamboree.
        log: Where it notes what it does.
    """

    pause_s = 0.3

    def __init__(self, client: Client, jam: Jamboree, log: OperationLog) -> None:
        self.client, self.jam, self.log = client, jam, log
        self.chance = random.Random(client.name)

    def go_on(self) -> None:
        """Do some of it."""
        raise NotImplementedError

    def end(self) -> None:
        """Come to an end."""
        with self.log.call("close", asked=self.still_open()):
            self.jam.close()

    def still_open(self) -> list[str]:
        """Episodes that it has begun and not ended."""
        return []

    def ids(self) -> list[str]:
        """All episodes that are listed."""
        with suppress(JamboreeError):
            return self.jam.episodes().ids()
        return []


# -- who writes -----------------------------------------------------------------------------------


class Writer(Role):
    """Records episodes, and saves records into a log that all writers share."""

    def __init__(self, client: Client, jam: Jamboree, log: OperationLog) -> None:
        super().__init__(client, jam, log)
        self.notes = NoteHandler(jam, LOG)
        self.saved = 0
        self.newest: list[Any] = []  # the number of the last one that was confirmed, and when
        self.env: Any = self.new_env()

    def new_env(self) -> Any:
        """What it plays."""
        raise NotImplementedError

    def play(self) -> None:
        """An episode, or a part of one."""
        raise NotImplementedError

    def go_on(self) -> None:
        self.play()
        if self.chance.random() < 0.5:
            self.save()
        if self.chance.random() < 0.2:
            self.look()
        if self.chance.random() < 0.3:
            with self.log.call("flush"):
                self.jam.flush(FLUSH_TIMEOUT_S)

    def save(self) -> None:
        """Save a record."""
        self.saved += 1
        at = time.monotonic()
        with self.log.call("save", LOG, self.saved) as call:
            self.notes.save({"by": self.client.name, "n": self.saved})
            call.result, self.newest = True, [self.saved, at]

    def look(self) -> None:
        """Look for what it has saved itself."""
        if not self.newest:
            return
        with self.log.call("own", LOG, self.newest) as call:
            own = [one["n"] for one in self.notes.many(500) if one["by"] == self.client.name]
            call.result = max(own, default=0)


class SingleWriter(Writer):
    """Records one environment."""

    pause_s = 0.02

    def new_env(self) -> Any:
        return self.jam.record(TokenEnv(self.chance), run=self.client.name)

    def still_open(self) -> list[str]:
        handler = self.env.handler
        return [] if handler.writing is None else [self.env.episode_id]

    def play(self) -> None:
        inner: TokenEnv = self.env.unwrapped
        begun_at = time.monotonic()
        with self.log.call("begin", asked=self.still_open()) as call:
            try:
                self.env.reset()
            finally:
                call.result = [[id, inner.token] for id in self.still_open()]
        if not (episodes := self.still_open()):
            return
        (episode,) = episodes
        given_up_at = self.chance.choice([math.inf] * 9 + [5])
        has_failed = False
        while self.still_open() == [episode] and inner.count < given_up_at:
            if self.client.is_over:
                return
            number, ending = inner.next_step()
            error = True
            with self.log.call("step", asked=[[episode, number, ending]]):
                self.env.step(ACTION)
                error = False
            has_failed = has_failed or error
            if number == 3 and not has_failed and self.chance.random() < 0.3:
                with self.log.call("own", episode, [number, begun_at]) as call:
                    call.result = len(self.jam.episode(episode))
            time.sleep(self.chance.random() * 0.01)


class VectorWriter(Writer):
    """Records a vector environment."""

    pause_s = 0.02

    def new_env(self) -> Any:
        self.inner = [TokenEnv(self.chance) for _ in range(VECTOR_ENVS)]
        mode = self.chance.choice([AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
        envs = SyncVectorEnv([lambda env=env: env for env in self.inner], autoreset_mode=mode)
        self.is_reset = False
        return self.jam.record(envs, run=self.client.name)

    def writing(self) -> dict[str, TokenEnv]:
        """The episodes that are being recorded."""
        pairs = zip(self.env.handlers, self.env.episode_ids, self.inner, strict=True)
        return {id: env for handler, id, env in pairs if handler.writing is not None}

    def still_open(self) -> list[str]:
        return [*self.writing()] if self.is_reset else []

    def play(self) -> None:
        if not self.is_reset or self.chance.random() < 0.02:
            with self.log.call("begin", asked=self.still_open()) as call:
                try:
                    self.env.reset()
                finally:
                    call.result = self.begun(set())
            self.is_reset = True
        for _ in range(20):
            self.step()
            time.sleep(self.chance.random() * 0.01)

    def step(self) -> None:
        """Step all of them."""
        before = self.writing()
        actions = np.tile(ACTION, (VECTOR_ENVS, 1))
        asked = [[id, *env.next_step()] for id, env in before.items()]
        with self.log.call("step", asked=asked) as call:
            try:
                self.env.step(actions)
            finally:
                call.result = self.begun(set(before))

    def begun(self, before: set[str]) -> list[list[Any]]:
        """The episodes that are new, and their tokens."""
        return [[id, env.token] for id, env in self.writing().items() if id not in before]


class Importer(Role):
    """Imports episodes, each of them once."""

    pause_s = 1.0
    count = 0

    def go_on(self) -> None:
        self.count += 1
        steps, token = self.chance.randint(1, LONGEST), self.chance.randrange(LARGEST_TOKEN)
        episode = self.new_episode(episode_id_of(self.client.name, self.count), steps, token)
        status = "terminated"
        call = self.log.call("import", episode.summary.id, [steps, token, status])
        with call, EpisodeImporter(self.jam._connection) as importer:
            importer.add(episode)

    def new_episode(self, id: str, steps: int, token: int) -> NewEpisode:
        """Like those of `TokenEnv`."""
        env = TokenEnv(self.chance)
        observations = np.full((steps + 1, 2), token, np.float32)
        observations[:, 0] = np.arange(steps + 1)
        actions = np.tile(ACTION, (steps, 1))
        layouts = (
            layout_of_arrays(observations, env.observation_space),
            layout_of_arrays(actions, env.action_space),
        )
        summary = EpisodeSummary(
            id, "", self.client.name, "terminated", 0, 0.0, time.time(), 0.0, None, {}, None,
            self.jam._connection.writer_name,
        )  # fmt: skip
        return NewEpisode(
            summary,
            EpisodeOrigin(None, None, None, digest(b"{}")),
            {digest(b"{}"): b"{}"},
            [(0, StepSchema(*layouts))],
            observations,
            actions,
            np.arange(1.0, steps + 1),
            np.arange(1, steps + 1) == steps,
            np.zeros(steps, np.bool_),
        )


# -- who reads ------------------------------------------------------------------------------------


class Reader(Role):
    """Lists episodes, reads some of them, and the records."""

    def go_on(self) -> None:
        found = self.list()
        for id in self.chance.sample(found, min(4, len(found))) + found[-2:]:
            self.read(id)
        if self.chance.random() < 0.3:
            self.read_records()

    def list(self) -> list[str]:
        """All episodes."""
        with self.log.call("list") as call:
            summaries = self.jam.episodes().summaries()
            call.result = {one.id: [one.status, one.steps] for one in summaries}
        return [*(call.result or ())]

    def read(self, id: str) -> None:
        """One episode."""
        with self.log.call("read", id) as call:
            data = self.jam.episode(id).data()
            status = self.jam.episode(id).status
            call.result = {
                "rows": ranges(data.observations[:, 0].astype(int).tolist()),
                "tokens": sorted({int(token) for token in data.observations[:, 1]}),
                "steps": len(data),
                "status": status,
            }

    def read_records(self) -> None:
        """All records."""
        with self.log.call("records", LOG) as call:
            call.result = list(map(as_triple, NoteHandler(self.jam, LOG).many(10**6)))


class LastReader(Reader):
    """Copies, compares, and reads all there is, once."""

    def go_on(self) -> None:
        deadline = time.monotonic() + FLUSH_TIMEOUT_S * 10
        is_copied = False
        while not is_copied and time.monotonic() < deadline:
            with self.log.call("copy") as call:
                self.jam.backup.flush()
                call.result = is_copied = True
        for id in self.list():
            self.read(id)
        self.read_records()
        with self.log.call("verify") as call:
            call.result = dict(self.jam.backup.verify().different)


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """First and last of each run of numbers that follow each other."""
    groups = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return [[run[0], run[-1]] for run in runs]


def as_triple(record: dict[str, Any]) -> list[Any]:
    """Index, writer, number."""
    return [record["index"], record["by"], record["n"]]


class Follower(Role):
    """Follows one episode after the other, all that go on, or the records.

    A session ends when nothing has come for a while; then the next one begins.
    """

    session = 0

    def go_on(self) -> None:
        self.session += 1
        self.chance.choice([self.follow_one, self.follow_one, self.follow_all, self.follow_log])()

    def items(self, source: Iterator[Any]) -> Iterator[Any]:
        """Those of a session."""
        until = time.monotonic() + SESSION_S
        for item in source:
            yield item
            if time.monotonic() > until or self.client.is_over:
                return

    def follow_one(self) -> None:
        """Follow a new episode."""
        ids = self.ids()[-8:]
        if not ids:
            return
        id = self.chance.choice(ids)
        with self.log.call("follow", id, self.session) as call:
            newest_at = time.monotonic()
            for step in self.jam.episode(id).tail(timeout_s=QUIET_S):
                self.log.note("saw", id, step.index, self.session)
                newest_at = time.monotonic()
            is_quiet = time.monotonic() - newest_at > QUIET_S * 0.9
            call.result = "quiet" if is_quiet else "over"

    def follow_all(self) -> None:
        """Follow whatever goes on."""
        with self.log.call("follow", "", self.session):
            for episode, step in self.items(self.jam.tail(timeout_s=QUIET_S)):
                self.log.note("saw", episode.id, step.index, self.session)

    def follow_log(self) -> None:
        """Follow the records."""
        with self.log.call("follow", LOG, self.session):
            for record in self.items(NoteHandler(self.jam, LOG).tail(timeout_s=QUIET_S)):
                self.log.note("saw record", LOG, as_triple(record), self.session)


# -- who tidies up --------------------------------------------------------------------------------


class Deleter(Role):
    """Deletes episodes, also those that are being recorded."""

    pause_s = 0.8

    def go_on(self) -> None:
        ids = self.ids()
        if ids:
            id = self.chance.choice([*ids[-4:], self.chance.choice(ids)])
            with self.log.call("delete", id):
                self.jam.episode(id).delete()


class Keeper(Role):
    """Copies, restores, and has Redis give up as much as it may."""

    pause_s = 1.0

    def go_on(self) -> None:
        self.chance.choice([self.copy, self.copy, self.trim, self.restore])()

    def copy(self) -> None:
        """Copy all."""
        with self.log.call("copy"):
            self.jam.backup.flush()

    def trim(self) -> None:
        """Evict all that MongoDB has."""
        with self.log.call("trim"):
            self.jam.backup.retain(max_redis_bytes=1)
            self.jam.backup.trim()
        with self.log.call("retain"):
            self.jam.backup.retain()

    def restore(self) -> None:
        """Bring it back."""
        with self.log.call("restore"):
            self.jam.backup.restore()


ROLES: dict[str, Callable[[Client, Jamboree, OperationLog], Role]] = {
    "single": SingleWriter,
    "vector": VectorWriter,
    "importer": Importer,
    "reader": Reader,
    "last": LastReader,
    "follower": Follower,
    "deleter": Deleter,
    "keeper": Keeper,
}


def main(text: str) -> None:
    """Work until it is over; who reads last does so once."""
    client = Client(**json.loads(text))
    errors = (Path(client.directory) / f"{client.name}.errors").open("wb")
    os.dup2(errors.fileno(), sys.stderr.fileno())
    faulthandler.enable()  # SIGABRT: where does it hang?
    log = OperationLog(Path(client.directory) / f"{client.name}.log", JamboreeError)
    jam = client.open()
    log.note("open", client.role, None, client.mode)
    role = ROLES[client.role](client, jam, log)
    is_last = client.name in (AFTER_ALL, EMPTIED_AFTER_ALL)
    while is_last or not client.is_over:
        role.go_on()
        if is_last:
            break
        time.sleep(role.chance.random() * role.pause_s)
    role.end()


if __name__ == "__main__":
    main(sys.argv[1])
