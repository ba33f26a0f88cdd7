"""What the page reads again of a run that grows: nothing that it has read and that is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Server
from processes import read_line
from recorded_envs import ACTION, CountingEnv, play
from stored import at, listing_of
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.page import listing, run_reader
from jamboree_gym.page.answers import Answers
from jamboree_gym.page.run_reader import RunReader
from jamboree_gym.reading.finding.known_ids import KnownIds, packed_ids
from jamboree_gym.reading.finding.names import DOTS, ShortIds, ShortIdsOfStore, brief_id
from jamboree_gym.store.protocol import ListingPart
from jamboree_gym.store.redis.listings import Listings

PORTION = 4
RECORD = """
import sys
from jamboree_gym import Jamboree
from recorded_envs import ACTION, CountingEnv
jam = Jamboree(sys.argv[1], namespace=sys.argv[2], backup=False)
env = jam.record(CountingEnv(length=9), run="a")
env.reset()
env.step(ACTION)
jam.flush()
print(env.episode_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def jam(own_valkey: Server, namespace: str) -> Iterator[Jamboree]:
    with Jamboree(own_valkey.url, namespace=namespace, backup=False) as opened:
        yield opened


@pytest.fixture
def reader(jam: Jamboree, monkeypatch: pytest.MonkeyPatch) -> RunReader:
    monkeypatch.setattr(run_reader, "PORTION", PORTION)
    return RunReader(jam._connection, KnownIds(jam._connection), "a")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of whom the summary was read, and which parts of listings were."""
    found: list[Any] = []

    def noting(read: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Listings, *what: Any) -> Any:
            found.extend(what if isinstance(what[-1], ListingPart) else what[-1])
            return read(self, *what)

        return noted

    for name in ("some_summaries", "ids_of"):
        monkeypatch.setattr(Listings, name, noting(getattr(Listings, name)))
    return found


def record(jam: Jamboree, episodes: int = 1, run: str = "a", **options: Any) -> list[str]:
    """Record some episodes that end; their ids."""
    env, ids = jam.record(CountingEnv(length=3), run=run, **options), []
    for _ in range(episodes):
        play(env, [ACTION] * 3)
        ids.append(env.episode_id)
    jam.flush()
    return ids


def check(reader: RunReader, jam: Jamboree) -> None:
    """It finds what a query finds, in the same order."""
    found = reader.read()
    assert [one.decoded() for one in found] == jam.episodes(run="a", forks=True).summaries()


def test_an_episode_that_is_over_is_read_once(
    reader: RunReader, jam: Jamboree, asked: list[Any]
) -> None:
    record(jam, 3 * PORTION + 1)
    check(reader, jam)
    before = reader._full
    asked.clear()
    found = reader.read()
    assert reader.read() is found
    assert asked == []
    (new,) = record(jam)
    record(jam, run="another")
    check(reader, jam)
    assert [one for one in asked if isinstance(one, str)] == [new]
    assert len(asked) == 2  # the other is the part with its id
    assert len(before) == 3
    assert all(one is other for one, other in zip(before, reader._full, strict=True))


def test_what_the_page_reads_of_one_new_episode_is_a_part_of_what_it_has_read(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(listing, "SHARE", 0.0)
    record(jam, 300)
    answers, read = Answers(jam), []
    for _ in range(3):
        before = int(jam.redis.info("stats")["total_net_output_bytes"])
        assert answers.run("a")["episodes"] == 300 + len(read)
        read.append(int(jam.redis.info("stats")["total_net_output_bytes"]) - before)
        record(jam)
    assert max(read[1:]) < read[0] / 2


def test_an_episode_that_is_running_is_read_until_it_is_over(
    reader: RunReader, jam: Jamboree, asked: list[Any]
) -> None:
    record(jam, PORTION)
    env = jam.record(CountingEnv(length=3), run="a")
    env.reset()
    for _ in range(3):
        env.step(ACTION)
        jam.flush()
        check(reader, jam)
    asked.clear()
    check(reader, jam)
    assert asked == []


def test_an_episode_of_a_killed_process_is_interrupted(reader: RunReader, jam: Jamboree) -> None:
    process = start_warm(RECORD, jam._connection.redis_url, jam._connection.keyspace.namespace)
    id = read_line(process).strip()
    assert [one.status for one in reader.read()] == ["running"]
    process.kill()
    process.communicate()
    jam.redis.delete(jam._connection.keyspace.lease(jam.episode(id).summary.writer))
    assert [one.status for one in reader.read()] == ["interrupted"]
    check(reader, jam)


def test_what_was_deleted_is_gone_and_an_emptied_redis_is_read_anew(
    reader: RunReader, jam: Jamboree
) -> None:
    ids = record(jam, 2 * PORTION)
    check(reader, jam)
    jam.episode(ids[1]).delete()
    record(jam)  # so there are as many as before
    check(reader, jam)
    assert len(reader.read()) == 2 * PORTION
    jam.redis.flushall()
    assert len(reader.read()) == 0
    record(jam, 2)
    check(reader, jam)
    assert len(reader.read()) == 2


def test_a_damaged_summary_is_read_again_and_the_others_once(
    reader: RunReader, jam: Jamboree, asked: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    ids = record(jam, 3)
    key = listing_of(jam, "a", ids[1])
    whole = jam.redis.hget(key, ids[1])
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(ids[1])))
    jam.redis.hset(key, ids[1], b"damaged")
    assert [one.id for one in reader.read()] == [ids[0], ids[2]]
    assert "it is left out" in caplog.text
    asked.clear()
    jam.redis.hset(key, ids[1], whole)
    assert [one.id for one in reader.read()] == ids
    assert asked == [ids[1]]


def test_short_ids_are_made_anew_only_where_an_episode_has_come_or_gone(jam: Jamboree) -> None:
    ids = record(jam, 3)
    known = KnownIds(jam._connection)
    short = ShortIdsOfStore(known)
    found = short.read()
    known.of("a")
    assert short.read() is found
    ids += record(jam, run="b")
    assert [jam.episode(short.read().of(one)).id for one in ids] == ids
    jam.episode(ids[0]).delete()
    assert short.read().of(ids[0]) == brief_id(ids[0])


def test_ids_that_are_none_of_ours_have_short_forms_that_mean_them() -> None:
    ids = ["é", "x", "xy", "a" * 33, "a" * 100, *(f"{n:040x}" for n in range(3)), "f" * 32]
    short = ShortIds(packed_ids(ids))
    for id in ids:
        first, _, last = short.of(id).partition(DOTS)
        alike = [one for one in ids if one.startswith(first) and one.endswith(last)]
        assert short.of(id) == id or alike == [id]


def test_episodes_that_only_the_backup_lists_are_found_too(
    valkey: Server, mongo: Server, namespace: str
) -> None:
    with Jamboree(valkey.url, mongo.url, namespace=namespace, backup=False) as jam:
        reader = RunReader(jam._connection, KnownIds(jam._connection), "a")
        ids = record(jam, 3)
        jam.backup.flush()
        jam._connection.redis_store.listings.put_coverage("part")
        jam.redis.hdel(listing_of(jam, "a", ids[0]), ids[0])
        jam.redis.delete(at(jam, jam._connection.keyspace.episode(ids[0])))
        for _ in range(2):
            check(reader, jam)
            assert ids[0] in [one.id for one in reader.read()]
            record(jam)
        assert ShortIdsOfStore(KnownIds(jam._connection)).read().of(ids[0]) != brief_id(ids[0])
