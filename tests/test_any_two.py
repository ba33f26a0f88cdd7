"""Any two operations, one of them in a gap of the other: nothing is lost, twice, or back again.

The second is done between any two calls that the first makes to a server, or the first is killed
there. What has to hold afterwards does not depend on where that is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from random import Random
from typing import Any

import pytest
from conftest import Server
from lengths import quick_and_long
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from redis.exceptions import ConnectionError as RedisConnectionError
from stored import keys_like
from test_importing import bring, new_episode

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeInUse, EpisodeNotFound, JamboreeError
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.mongo.link import MongoLink
from jamboree_gym.store.redis.cluster.link import ClusterLink
from jamboree_gym.store.redis.link import RedisLink
from jamboree_gym.store.redis.store import RedisStore

pytestmark = pytest.mark.usefixtures("as_processes")

STEPS = 3
COPIED_NOTES = [0, 1, 2]


class Killed(BaseException):
    """A process ends where it stands."""


class Gap:
    """Has something done before or after one of the calls to a server, counted from now on."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at = at
        self.act = act
        self.count = 0
        self.was_reached = False

    def look(self) -> None:
        """A call begins, or is over."""
        self.count += 1
        if self.count == self.at + 1:
            self.was_reached = True
            self.act()


class Calls:
    """All calls to the servers that this thread makes.

    Attributes:
        gap: Where something is done, if anywhere.
        loses_next_answer: Whether the next append is stored, and its answer lost.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gap: Gap | None = None
        self.loses_next_answer = False
        self._thread = threading.current_thread()
        self._depth = 0
        for owner, name in ((RedisLink, "run"), (MongoLink, "run")):
            monkeypatch.setattr(owner, name, self._seen(getattr(owner, name)))
        for link in (RedisLink, ClusterLink):
            monkeypatch.setattr(link, "_send", self._losing(link._send))

    def _seen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is not self._thread or self._depth or self.gap is None:
                return real(*arguments, **options)
            self._look()
            self._depth += 1
            try:
                answer = real(*arguments, **options)
            finally:
                self._depth -= 1
            self._look()
            return answer

        return run

    def _look(self) -> None:
        gap, self.gap = self.gap, None
        assert gap is not None
        gap.look()
        self.gap = gap

    def _losing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def send(link: RedisLink, calls: Any, **options: Any) -> Any:
            answers = real(link, calls, **options)
            if self.loses_next_answer and threading.current_thread() is self._thread:
                self.loses_next_answer = False
                raise RedisConnectionError("the answer was lost")
            return answers

        return send


class World:
    """One namespace with what is copied and what is not, and what has to be there in the end."""

    def __init__(self, redis_url: str, mongo_url: str, namespace: str, calls: Calls) -> None:
        self._urls = redis_url, mongo_url
        self._namespace = namespace
        self._opened: list[Jamboree] = []
        self.calls = calls
        self.was_emptied = False
        self.is_gone: set[str] = set()
        self.may_be_gone: set[str] = set()
        self.writer = self.open(write="sync")
        self.env = self.writer.record(CountingEnv(length=100), run="a")
        self.begun_notes = [*COPIED_NOTES, 3]
        self.old = self.record()
        play(self.env, [ACTION])
        self.going = str(self.env.episode_id)
        self.imported = new_episode(self.writer).summary.id
        notes = NoteHandler(self.writer, "n")
        notes.save_many([{"n": n} for n in COPIED_NOTES])
        self.writer.backup.retain(max_redis_bytes=1)
        self.writer.backup.flush()
        self.fresh = self.record()
        self.env.step(ACTION)
        self.steps = 2
        notes.save({"n": 3})
        self.saved_notes = list(self.begun_notes)
        self.was_imported = False

    def open(self, **options: Any) -> Jamboree:
        jam = Jamboree(*self._urls, namespace=self._namespace, backup=False, **options)
        self._opened.append(jam)
        return jam

    def record(self) -> str:
        env = self.writer.record(CountingEnv(length=STEPS), run="a")
        play(env, [ACTION] * STEPS)
        return str(env.episode_id)

    def close(self) -> None:
        self.calls.gap = None
        for jam in self._opened:
            with suppress(JamboreeError):  # one that was killed
                jam.close(1.0)

    # -- what is done ---------------------------------------------------------------------------

    def step(self) -> None:
        self.env.step(ACTION)
        self.steps += 1

    def step_again(self) -> None:
        self.calls.loses_next_answer = True
        self.step()

    def note(self, *, again: bool = False) -> None:
        number = len(self.begun_notes)
        self.begun_notes.append(number)
        notes = NoteHandler(self.open(write="sync"), "n")
        self.calls.loses_next_answer = again
        notes.save({"n": number})
        self.saved_notes.append(number)

    def note_again(self) -> None:
        self.note(again=True)

    def begin_again(self) -> None:
        """The first append of an episode, whose answer is lost."""
        self.env.reset()
        self.calls.loses_next_answer = True
        self.env.step(ACTION)
        self.going, self.steps = str(self.env.episode_id), 1

    def delete_old(self) -> None:
        self._delete(self.old)

    def delete_fresh(self) -> None:
        self._delete(self.fresh)

    def _delete(self, episode_id: str) -> None:
        self.may_be_gone.add(episode_id)
        self.open().episode(episode_id).delete()
        self.is_gone.add(episode_id)

    def bring(self) -> None:
        bring(self.open(), new_episode(self.writer))
        self.was_imported = True

    def bring_again(self) -> None:
        jam = self.open()
        bring(jam, new_episode(jam))
        jam.episode(self.imported).delete()
        self.bring()

    def restore(self) -> None:
        self.open().backup.restore()

    def read(self) -> None:
        jam = self.open()
        for episode_id in jam.episodes().ids():
            with suppress(EpisodeNotFound):  # deleted meanwhile
                jam.episode(episode_id).data()
        NoteHandler(jam, "n").many(99)

    def trim(self) -> None:
        self.open().backup.trim()

    def copy(self) -> None:
        self.open().backup.flush()

    def empty(self) -> None:
        self.was_emptied = True
        # A client of its own: what a killed writer's threads do closes that writer's connections.
        with closing(RedisStore.from_url(self._urls[0], Keyspace(self._namespace))) as store:
            store.client.delete(*keys_like(store.client, f"*{self._namespace}:*"))

    def kill(self) -> None:
        """None of its threads says anything to Redis any more."""
        for jam in self._opened:
            jam._connection.redis_store.link.close()
        raise Killed

    # -- what has to hold -----------------------------------------------------------------------

    def check(self) -> None:
        """All of it, and once more after Redis was emptied."""
        self.calls.gap = None
        reader = self.open()
        reader.backup.flush()
        report = reader.backup.verify()
        assert report, dict(report.different)
        assert reader.backup.status().pending_records == 0
        before = self.contents(reader)
        self.check_contents(*before)
        self.empty()
        assert self.contents(self.open()) == before

    def contents(self, jam: Jamboree) -> tuple[dict[str, int], list[int]]:
        """Number of steps of each episode, and the notes."""
        ids = jam.episodes().ids()
        episodes = {one: len(jam.episode(one).data()) for one in ids}
        return episodes, [note["n"] for note in NoteHandler(jam, "n").many(99)]

    def check_contents(self, episodes: dict[str, int], notes: list[int]) -> None:
        sure = {self.old: STEPS} | ({} if self.was_emptied else {self.fresh: STEPS})
        for episode_id, steps in sure.items():
            if episode_id not in self.may_be_gone:
                assert episodes.get(episode_id) == steps, (episode_id, episodes)
        assert not self.is_gone & episodes.keys()
        assert notes[: len(COPIED_NOTES)] == COPIED_NOTES
        assert len(notes) == len(set(notes))
        assert set(notes) <= set(self.begun_notes)
        if not self.was_emptied:
            assert set(self.saved_notes) <= set(notes)
            assert self.steps <= episodes[self.going] <= self.steps + 1
            assert not self.was_imported or episodes[self.imported] == STEPS
        assert episodes.get(self.fresh, STEPS) == STEPS
        assert episodes.get(self.imported, STEPS) == STEPS


Act = Callable[[World], None]
ACTS: list[Act] = [
    *(World.step, World.step_again, World.note, World.note_again, World.begin_again),
    *(World.delete_old, World.delete_fresh, World.bring, World.bring_again),
    *(World.restore, World.read, World.trim, World.copy, World.empty),
]
DELETIONS = (World.delete_old, World.delete_fresh)
IMPORTS = (World.bring, World.bring_again)
OF_ONE_ENVIRONMENT = (World.step, World.step_again, World.begin_again)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def do(
    world: World, first: Callable[[World], None], second: Callable[[World], None], at: int
) -> bool:
    """The second in a gap of the first; whether there is that gap."""

    def act(one: Act) -> None:
        try:
            one(world)
        except EpisodeNotFound:
            was_deleted_twice = first is second and one in DELETIONS
            assert was_deleted_twice or world.was_emptied
            assert was_deleted_twice or one in (*OF_ONE_ENVIRONMENT, *DELETIONS, World.bring_again)
        except EpisodeInUse:  # two processes import the same episode
            assert {first, second} <= set(IMPORTS)

    gap = world.calls.gap = Gap(at, lambda: act(second))
    try:
        act(first)
    except Killed:
        world.calls.gap = None
    world.check()
    return gap.was_reached


def pairs(first: Act, *, is_thorough: bool) -> Iterator[tuple[Act, Iterable[int]]]:
    """What is done meanwhile, and where: all of it in every third place, or what is drawn."""
    rng = Random(first.__name__)
    seconds = [*ACTS, World.kill]
    if first in OF_ONE_ENVIRONMENT:
        seconds = [one for one in seconds if one not in OF_ONE_ENVIRONMENT]
    for second in seconds if is_thorough else rng.sample(seconds, 2):
        yield second, range(rng.randrange(3), 1000, 3) if is_thorough else [rng.randrange(8)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("first", "is_thorough"),
    quick_and_long(
        [(act, thorough) for act in ACTS for thorough in (False, True)],
        quick=[(act, False) for act in ACTS],
    ),
    ids=lambda one: getattr(one, "__name__", None),
)
def test_nothing_is_lost_or_twice_or_back(
    *, valkey: Server, mongo: Server, namespace: str, calls: Calls, first: Act, is_thorough: bool
) -> None:
    for second, places in pairs(first, is_thorough=is_thorough):
        for at in places:
            world = World(valkey.url, mongo.url, f"{namespace}-{second.__name__}-{at}", calls)
            try:
                was_reached = do(world, first, second, at)
            except Exception as error:
                raise AssertionError(f"{second.__name__} in gap {at}") from error
            finally:
                world.close()
            if not was_reached:
                break
