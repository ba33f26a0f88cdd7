"""Following what is recorded: one episode, a run, everything; through outages; awaited."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from conftest import Server
from processes import NoteHandler, read_line, start_python, wait_until
from recorded_envs import ACTION, CountingEnv, play
from stored import beside, in_buckets
from warm import start_warm

from jamboree_gym import EpisodeHandler, Jamboree, StepData
from jamboree_gym.encoding.batch_format import encode_batch
from jamboree_gym.errors import EpisodeNotFound, JamboreeClosed, StoreUnavailable
from jamboree_gym.handlers.follow import EpisodeTail
from jamboree_gym.reading.episode import Episode
from jamboree_gym.store.log import Append, IndexEntry
from jamboree_gym.store.redis.feed import LIFETIME_S
from jamboree_gym.store.redis.link import Call
from jamboree_gym.store.redis.scripts import FEED_ENTRIES

OpenJamboree = Callable[..., Jamboree]
Pairs = list[tuple[Episode, StepData]]


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks again soon, also where nothing tells of what happened."""
    monkeypatch.setattr("jamboree_gym.handlers.follow.LONGEST_WAIT_S", 0.05)


def record(jam: Jamboree, steps: int, *, length: int = 10**9, **options: Any) -> Any:
    """An environment that was reset and has taken so many steps."""
    env = jam.record(CountingEnv(length=length), **options)
    play(env, [ACTION] * steps)
    return env


def places(pairs: Pairs) -> list[tuple[str, int]]:
    return [(episode.id, step.index) for episode, step in pairs]


def all_of(env_or_id: Any, steps: int) -> list[tuple[str, int]]:
    episode_id = getattr(env_or_id, "episode_id", env_or_id)
    return [(episode_id, index) for index in range(steps)]


# -- one episode --------------------------------------------------------------------------------


def test_a_finished_episode_is_at_most_one_round_trip_for_each_256_rows(
    open_jamboree: OpenJamboree, sent: list[list[Call]]
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 600, length=600)
    writer.flush()
    episode = reader.episode(env.episode_id)
    list(episode.tail())  # fetches the schema
    sent.clear()

    assert [step.index for step in episode.tail()] == list(range(600))
    assert len(sent) <= 3


def test_steps_are_those_that_are_read_later(jam: Jamboree) -> None:
    env = record(jam, 300)
    tail = jam.episode(env.episode_id).tail(timeout_s=0)
    seen = [next(tail) for _ in range(100)]
    env.close()
    seen += tail

    expected = list(jam.episode(env.episode_id).steps())
    assert [repr(step) for step in seen] == [repr(step) for step in expected]


@pytest.mark.usefixtures("prompt_writer")
def test_an_abandoned_episode_ends_the_tail(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 2)
    writer.flush()
    tail = reader.episode(env.episode_id).tail()
    assert [next(tail).index, next(tail).index] == [0, 1]
    env.reset()

    assert list(tail) == []


def test_a_deleted_episode_ends_the_tail_with_an_error(
    open_jamboree: OpenJamboree, short_waits: None
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 2)
    writer.flush()
    tail = reader.episode(env.episode_id).tail()
    next(tail)
    reader.episode(env.episode_id).delete()

    with pytest.raises(EpisodeNotFound, match=env.episode_id):
        list(tail)


def test_a_closed_jamboree_ends_a_tail_that_waits(open_jamboree: OpenJamboree) -> None:
    jam, writer = open_jamboree(), open_jamboree()
    env = record(writer, 1)
    writer.flush()
    tail = jam.episode(env.episode_id).tail()
    next(tail)
    jam.close()

    with pytest.raises(JamboreeClosed):
        next(tail)


def test_what_others_record_does_not_keep_a_tail_from_its_timeout(
    open_jamboree: OpenJamboree,
) -> None:
    writer, reader = open_jamboree(flush_interval_s=0.001), open_jamboree()
    quiet, busy = record(writer, 1), record(writer, 1)
    writer.flush()
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.001):
            busy.step(ACTION)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        assert [step.index for step in reader.episode(quiet.episode_id).tail(timeout_s=0.3)] == [0]
    finally:
        stop.set()
        thread.join()


# -- all of them --------------------------------------------------------------------------------


@pytest.mark.usefixtures("prompt_writer")
def test_episodes_that_go_on_or_begin_later_are_followed_from_their_first_step(
    open_jamboree: OpenJamboree,
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    ended = record(writer, 3, length=3).episode_id
    env = record(writer, 3)
    writer.flush()
    tail = reader.tail(timeout_s=60)
    expected = Counter(all_of(env, 3))
    later = [record(writer, 5, length=length) for length in (5, 6)]
    for other in later:
        expected.update(all_of(other, 5))
    seen = [next(tail) for _ in range(13)]

    assert Counter(places(seen)) == expected
    assert ended not in {episode.id for episode, _ in seen}
    for one in (env, *later):
        indices = [step.index for episode, step in seen if episode.id == one.episode_id]
        assert indices == sorted(indices)
    env.step(ACTION)
    assert places([next(tail)]) == [(env.episode_id, 3)]


@pytest.mark.usefixtures("prompt_writer")
def test_every_kind_of_server_can_be_followed(
    any_redis: Server, open_jamboree: OpenJamboree, short_waits: None
) -> None:
    writer, reader = open_jamboree(any_redis.url), open_jamboree(any_redis.url)
    env = record(writer, 1, length=3)
    writer.flush()
    pairs, steps = reader.tail(timeout_s=60), reader.episode(env.episode_id).tail()
    seen = [(next(pairs)[1].index, next(steps).index)]
    env.step(ACTION)
    seen += [(next(pairs)[1].index, next(steps).index)]
    env.step(ACTION)

    assert [*seen, (next(pairs)[1].index, next(steps).index)] == [(0, 0), (1, 1), (2, 2)]
    assert list(steps) == []


def test_an_episode_that_was_read_to_its_end_is_not_read_again(
    open_jamboree: OpenJamboree,
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 1, length=2)
    writer.flush()
    tail = reader.tail(timeout_s=0.1)
    env.step(ACTION)
    writer.flush()

    assert places(list(tail)) == all_of(env, 2)  # the feed tells of it after that


def test_with_since_what_has_ended_comes_too(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    ended = record(writer, 3, length=3)
    middle = reader.redis.time()
    going_on = record(writer, 2)
    writer.flush()

    everything = all_of(ended, 3) + all_of(going_on, 2)
    assert places(list(reader.tail(since=0, timeout_s=0))) == everything
    since = middle[0] + middle[1] / 1e6
    assert places(list(reader.tail(since=since, timeout_s=0))) == all_of(going_on, 2)


def test_a_tail_is_of_one_run_one_environment_and_some_tags(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    before = record(writer, 1, run="a", tags={"lr": 1})
    writer.flush()
    tails = [
        reader.tail(run="a", timeout_s=0.2),
        reader.tail(tags={"lr": 1}, timeout_s=0.2),
        reader.tail(run="b", tags={"lr": 1}, timeout_s=0.2, wait=True),
        reader.tail(env_id="Another-v0", timeout_s=0.2),
    ]
    others = [
        record(writer, 1, length=1, run="a", tags={"lr": 2}),
        record(writer, 1, length=1, run="b", tags={"lr": 1}),
        record(writer, 1, length=1, run="b", tags={"lr": 2}),
    ]
    names = [env.episode_id for env in (before, *others)]
    writer.flush()

    seen = [sorted(names.index(episode.id) for episode, _ in tail) for tail in tails]
    assert seen == [[0, 1], [0, 2], [2], []]


def test_a_tail_sees_what_its_own_process_has_recorded(jam: Jamboree) -> None:
    env = record(jam, 5)

    assert places(list(jam.tail(timeout_s=0))) == all_of(env, 5)


def test_pairs_of_an_episode_share_it_and_it_can_be_read(jam: Jamboree) -> None:
    env = record(jam, 2)
    (one, _), (other, step) = jam.tail(timeout_s=0)

    assert one is other
    assert one.recent(1).indices.tolist() == [step.index] == [1]
    assert one.id == env.episode_id


def test_many_episodes_are_read_in_few_round_trips(
    open_jamboree: OpenJamboree, sent: list[list[Call]]
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    envs = [record(writer, 1) for _ in range(64)]
    writer.flush()
    tail = reader.tail(timeout_s=60)
    for _ in envs:
        next(tail)
    for env in envs:
        env.step(ACTION)
    sent.clear()
    writer.flush()
    seen = [next(tail) for _ in envs]

    assert sorted(places(seen)) == sorted((env.episode_id, 1) for env in envs)
    assert len(sent) < 32


def test_an_interrupted_episode_is_followed_once_it_goes_on(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    process = start_warm(ONE_BY_ONE, jam._connection.redis_url, jam._connection.keyspace.namespace)
    episode_id = read_line(process).strip()
    jam.redis.delete(jam._connection.keyspace.lease(jam.episode(episode_id).summary.writer))
    assert jam.episode(episode_id).status == "interrupted"
    tail = jam.tail(timeout_s=60)
    process.communicate("step\n")

    assert places(list(next(tail) for _ in range(2))) == all_of(episode_id, 2)


ONE_BY_ONE = """
import sys
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree
jam = Jamboree(sys.argv[1], namespace=sys.argv[2])
env = jam.record(CountingEnv(length=10**9))
env.reset()
env.step(ACTION)
jam.flush()
print(env.episode_id, flush=True)
for line in sys.stdin:
    env.step(ACTION)
    jam.flush()
jam.close()
"""


# -- the feed -----------------------------------------------------------------------------------


def test_there_is_a_feed_only_while_somebody_follows(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 2, length=2)
    writer.flush()
    list(reader.episode(env.episode_id).tail())
    assert not writer.redis.exists(*in_buckets(writer, "feed"))

    list(reader.tail(timeout_s=0))
    for feed in in_buckets(writer, "feed"):
        assert 0 < writer.redis.ttl(feed) <= LIFETIME_S


def test_a_feed_that_expired_under_a_slow_follower_costs_it_nothing(
    open_jamboree: OpenJamboree, short_waits: None
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 1)
    writer.flush()
    pairs, steps = reader.tail(timeout_s=60), reader.episode(env.episode_id).tail(timeout_s=60)
    assert next(pairs)[1].index == next(steps).index == 0
    for expected in (1, 2):
        writer.redis.delete(*in_buckets(writer, "feed"))
        env.step(ACTION)
        writer.flush()

        assert places([next(pairs)]) == [(env.episode_id, expected)]
        assert next(steps).index == expected


@pytest.mark.parametrize("what", ["episode", "all"])
def test_a_follower_keeps_the_feed_from_expiring(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch, what: str, short_waits: None
) -> None:
    monkeypatch.setattr("jamboree_gym.store.redis.feed.RENEW_S", 0.0)
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 1)
    writer.flush()
    tail = reader.tail() if what == "all" else reader.episode(env.episode_id).tail()
    next(tail)
    thread = threading.Thread(target=lambda: next(tail))
    thread.start()
    key = reader._connection.keyspace.episode(env.episode_id)
    feeds = in_buckets(reader, "feed") if what == "all" else [beside(reader, key, "feed")]
    wait_until(lambda: reader.redis.exists(*feeds) == len(feeds))
    for feed in feeds:
        reader.redis.expire(feed, LIFETIME_S - 10)
    wait_until(lambda: all(reader.redis.ttl(feed) > LIFETIME_S - 10 for feed in feeds))
    env.step(ACTION)
    thread.join()


def one_frame() -> bytes:
    times = {"t_first": 1.0, "t_last": 1.0}
    return encode_batch(codec=2, start=0, count=1, writer=bytes(8), body=b"", **times)


def test_the_feed_is_capped(jam: Jamboree) -> None:
    jam._connection.store.feed.position()
    fill_the_feed(jam, FEED_ENTRIES)
    assert all(jam.redis.xlen(feed) > FEED_ENTRIES for feed in in_buckets(jam, "feed"))
    frame = one_frame()
    for start in range(0, 4000, 500):
        appends = [
            Append(
                jam._connection.keyspace.episode(f"e{n}"),
                2,
                [frame],
                1,
                b"note",
                IndexEntry(f"e{n}", b"summary", "r", 0.0),
            )
            for n in range(start, start + 500)
        ]
        assert len(jam._connection.store.append(appends)) == 500

    for feed in in_buckets(jam, "feed"):
        assert FEED_ENTRIES <= jam.redis.xlen(feed) < FEED_ENTRIES * 1.1


def test_an_append_that_is_sent_again_is_not_told_again(jam: Jamboree) -> None:
    entry = IndexEntry("e", b"summary", "r", 0.0)
    jam._connection.store.feed.position()
    for _ in range(3):
        jam._connection.store.append(
            [Append(jam._connection.keyspace.episode("e"), 2, [one_frame()], 1, b"note", entry)]
        )

    key = jam._connection.keyspace.episode("e")
    assert jam.redis.xlen(beside(jam, key, "feed")) == 2


def test_what_the_feed_has_forgotten_is_not_missed(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    going_on = record(writer, 1, run="a")
    writer.flush()
    tail = reader.tail(run="a", timeout_s=60)
    next(tail)
    begun_and_ended = record(writer, 4, length=4, run="a")
    going_on.step(ACTION)
    writer.flush()
    fill_the_feed(writer, FEED_ENTRIES + 1000, maxlen=FEED_ENTRIES)  # nothing else is left of it
    after = record(writer, 2, length=2, run="a")
    writer.flush()

    expected = Counter([*all_of(begun_and_ended, 4), (going_on.episode_id, 1), *all_of(after, 2)])
    assert Counter(places([next(tail) for _ in range(7)])) == expected
    last = record(writer, 1, length=1, run="a")
    writer.flush()
    assert places([next(tail)]) == all_of(last, 1)  # and nothing before it


def fill_the_feed(jam: Jamboree, entries: int, *, maxlen: int | None = None) -> None:
    """Others write so much."""
    fields = {"episode": "other", "run": "another"}
    with jam.redis.pipeline(transaction=False) as pipe:
        for feed in in_buckets(jam, "feed"):
            for _ in range(entries):
                pipe.xadd(feed, fields, maxlen=maxlen, approximate=maxlen is not None)
        pipe.execute()


# -- outages ------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_tail_goes_on_after_outages_and_says_each_once(
    durable_valkey: Server, open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="jamboree_gym")
    writer, reader = open_jamboree(durable_valkey.url), open_jamboree(durable_valkey.url)
    env = record(writer, 10, length=40)
    writer.flush()
    seen: list[StepData] = []
    pairs: Pairs = []
    follow_all = reader.tail()
    episode = reader.episode(env.episode_id)
    threads = [
        threading.Thread(target=lambda: seen.extend(episode.tail())),
        threading.Thread(target=lambda: pairs.extend(next(follow_all) for _ in range(40))),
    ]
    for thread in threads:
        thread.start()
    for outage in range(1, 3):
        durable_valkey.kill()
        wait_until(lambda n=outage: caplog.text.count("followers continue") == 2 * n)
        for _ in range(10):
            env.step(ACTION)
        durable_valkey.start()
        wait_until(lambda n=outage: caplog.text.count("following continues") == 2 * n)
    for _ in range(10):
        env.step(ACTION)
    for thread in threads:
        thread.join(60)

    assert [step.index for step in seen] == list(range(40))
    assert places(pairs) == all_of(env, 40)
    assert caplog.text.count("followers continue") == 4


@pytest.mark.faults
def test_records_are_followed_through_an_outage(
    durable_valkey: Server, open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    writer, reader = open_jamboree(durable_valkey.url), open_jamboree(durable_valkey.url)
    notes, seen = NoteHandler(writer, "n"), list[int]()
    tail = NoteHandler(reader, "n").tail()
    thread = threading.Thread(target=lambda: seen.extend(next(tail)["i"] for _ in range(20)))
    notes.save_many({"i": i} for i in range(10))
    thread.start()
    wait_until(lambda: len(seen) == 10)
    durable_valkey.kill()
    wait_until(lambda: "followers continue" in caplog.text)
    notes.save_many({"i": i} for i in range(10, 20))
    durable_valkey.start()
    thread.join(60)

    assert seen == list(range(20))


@pytest.mark.faults
def test_a_redis_that_stays_away_is_an_error_after_the_timeout(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    writer, reader = open_jamboree(durable_valkey.url), open_jamboree(durable_valkey.url)
    env = record(writer, 1)
    writer.flush()
    tails = [reader.episode(env.episode_id).tail(timeout_s=0.3), reader.tail(timeout_s=0.3)]
    for tail in tails:
        next(tail)
    durable_valkey.kill()
    for tail in tails:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            list(tail)
    durable_valkey.start()


@pytest.mark.faults
def test_a_lease_that_expired_while_redis_was_away_is_not_the_end(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    reader = open_jamboree(durable_valkey.url)
    process = start_warm(
        ONE_BY_ONE, reader._connection.redis_url, reader._connection.keyspace.namespace
    )
    episode_id = read_line(process).strip()
    writer = reader.episode(episode_id).summary.writer
    tail = EpisodeTail(reader._connection, episode_id, reader.episode(episode_id)._cursor())
    assert [step.index for step in tail.look(0)] == [0]
    process.kill()
    process.communicate()
    durable_valkey.kill()
    durable_valkey.start()
    reader.redis.delete(reader._connection.keyspace.lease(writer))

    assert tail.look(0) == []
    assert reader.episode(episode_id).status == "interrupted"
    assert not tail.is_over


TRAINER = """
import sys
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from jamboree_gym import Jamboree

torch.set_num_threads(1)
jam = Jamboree(sys.argv[1], namespace=sys.argv[2])
envs = jam.record(make_vec_env("CartPole-v1", n_envs=4, seed=3), run="ppo")
PPO("MlpPolicy", envs, n_steps=64, n_epochs=1, seed=3, device="cpu").learn(6000)
envs.close()
jam.close()
"""

FOLLOWER = """
import logging, sys
from jamboree_gym import Jamboree
from test_tail import as_line

url, namespace, path, log = sys.argv[1:]
logging.basicConfig(filename=log, level=logging.INFO)
jam = Jamboree(url, namespace=namespace)
tail = jam.tail(run="ppo", wait=True)
print("follows", flush=True)
with open(path, "w") as file:
    for episode, step in tail:
        print(as_line(episode, step), file=file, flush=True)
"""


def as_line(episode: Episode, step: StepData) -> str:
    fields = {name: getattr(step, name) for name in StepData.__slots__}
    return f"{episode.id} {fields}".replace("\n", "")


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.torch
@pytest.mark.timeout(240)
def test_a_process_that_follows_a_trainer_gets_all_it_records_though_redis_is_killed(
    durable_valkey: Server, open_jamboree: OpenJamboree, tmp_path: Any
) -> None:
    jam = open_jamboree(durable_valkey.url)
    names, path, log = (
        (durable_valkey.url, jam._connection.keyspace.namespace),
        tmp_path / "got",
        tmp_path / "l",
    )
    path.touch()
    follower = start_python(FOLLOWER, *names, path, log)
    assert read_line(follower) == "follows\n"
    trainer = start_python(TRAINER, *names)

    def has_got(steps: int) -> bool:
        return path.read_bytes().count(b"\n") >= steps

    try:
        for outage, steps in enumerate((800, 3000), 1):
            wait_until(lambda steps=steps: has_got(steps), timeout_s=60)
            durable_valkey.kill()
            wait_until(lambda n=outage: log.read_text().count("followers continue") == n)
            assert trainer.poll() is None, "it was to train while Redis was away"
            durable_valkey.start()
        assert trainer.wait(100) == 0, trainer.communicate()[1]
        kept = {episode.id: list(episode.steps()) for episode in jam.episodes(run="ppo")}
        wait_until(lambda: has_got(sum(map(len, kept.values()))))
    finally:
        for process in (trainer, follower):
            process.kill()
            process.communicate()

    by_episode: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        by_episode.setdefault(line.split()[0], []).append(line)
    assert sum(map(len, kept.values())) >= 6000
    assert by_episode == {
        name: [as_line(jam.episode(name), step) for step in steps]
        for name, steps in kept.items()
        if steps
    }


# -- awaited ------------------------------------------------------------------------------------


async def collect(tail: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in tail]


def test_what_is_awaited_is_what_is_waited_for(jam: Jamboree) -> None:
    env = record(jam, 300)
    episode = jam.episode(env.episode_id)

    steps = asyncio.run(collect(episode.atail(timeout_s=0)))
    pairs = asyncio.run(collect(jam.atail(since=0, timeout_s=0)))

    assert [step.index for step in steps] == list(range(300))
    assert places(pairs) == all_of(env, 300)


def test_the_loop_goes_on_while_many_tails_wait(
    open_jamboree: OpenJamboree, short_waits: None
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    envs = [record(writer, 1) for _ in range(40)]
    writer.flush()

    async def follow() -> list[list[int]]:
        tails = [reader.episode(env.episode_id).atail() for env in envs]
        for tail in tails:
            await anext(tail)
        waiting = [asyncio.create_task(collect(tail)) for tail in tails]
        for env in envs:
            await asyncio.sleep(0)
            env.step(ACTION)
            env.close()
        return [[step.index for step in await task] for task in waiting]

    assert asyncio.run(follow()) == [[1]] * 40


@pytest.mark.usefixtures("prompt_writer")
def test_who_stops_waiting_and_goes_on_misses_nothing(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = record(writer, 1)
    writer.flush()

    async def follow() -> list[int]:
        tail = reader.episode(env.episode_id).atail()
        seen = [(await anext(tail)).index]
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(tail), 0.001)
        env.step(ACTION)
        env.close()
        return [*seen, *[step.index for step in await collect(tail)]]

    assert asyncio.run(follow()) == [0, 1]


def test_an_error_reaches_who_awaits(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound, match="nowhere"):
        asyncio.run(collect(jam.episode("nowhere").atail()))


def test_a_tail_that_nobody_awaits_any_more_lets_the_loop_end(
    jam: Jamboree, short_waits: None
) -> None:
    env = record(jam, 1)
    before = set(threading.enumerate())  # a failed expectation elsewhere may keep a tail alive

    async def look_once() -> int:
        tail = jam.episode(env.episode_id).atail()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(collect(tail), 0.05)
        return threading.active_count()

    asyncio.run(look_once())
    wait_until(
        lambda: not [t for t in {*threading.enumerate()} - before if "jamboree-tail" in t.name]
    )


# -- the newest of several ----------------------------------------------------------------------


def test_the_newest_steps_of_several_episodes_are_one_round_trip(
    open_jamboree: OpenJamboree, sent: list[list[Call]]
) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    envs = [record(writer, steps) for steps in (0, 3, 16, 300)]
    writer.flush()
    ids = [env.episode_id for env in envs]
    reader.recent(ids, 16)  # fetches the schema
    sent.clear()
    found = reader.recent([ids[0], *map(reader.episode, ids[1:])], 16)

    assert len(sent) == 1
    assert [len(steps) for steps in found] == [0, 3, 16, 16]
    for episode_id, steps in zip(ids, found, strict=True):
        expected = reader.episode(episode_id).steps()
        assert steps.indices.tolist() == expected.indices.tolist()[-16:]
        assert steps.observations.tolist() == expected.observations.tolist()[-16:]


def test_the_newest_steps_of_none_are_none(jam: Jamboree) -> None:
    assert jam.recent([], 16) == []


def test_an_episode_that_is_not_there_has_no_newest_steps(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound, match="nowhere"):
        jam.recent([record(jam, 1).episode_id, "nowhere"], 16)


def test_a_handler_follows_as_its_episode_does(jam: Jamboree) -> None:
    handler = EpisodeHandler(jam)
    handler["episode"] = record(jam, 3).episode_id

    awaited = asyncio.run(collect(handler.atail(timeout_s=0)))

    assert [step["index"] for step in handler.tail(timeout_s=0)] == [0, 1, 2]
    assert [step["index"] for step in awaited] == [0, 1, 2]


def test_records_are_awaited_as_they_are_waited_for(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "n")
    notes.save_many({"i": i} for i in range(5000))

    awaited = asyncio.run(collect(notes.atail(timeout_s=0)))

    assert [note["i"] for note in awaited] == list(range(5000))
