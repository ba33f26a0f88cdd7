"""A summary that is damaged in its listing hides no run, and is not passed over in silence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from processes import NoteHandler
from pyarrow import parquet
from recorded_envs import ACTION, CountingEnv, play
from stored import at, beside, listed, listing_of

from jamboree_gym import Jamboree
from jamboree_gym.errors import DecodeError, EpisodeNotFound
from jamboree_gym.integrations.rlds import to_rlds
from jamboree_gym.replay import fork, verify
from jamboree_gym.store.log import IndexEntry
from jamboree_gym.store.mongo import client as mongo_client

OpenJamboree = Callable[..., Jamboree]


def record(jam: Jamboree, run: str = "a") -> str:
    """Record an episode of two steps; its id."""
    env = jam.record(CountingEnv(length=2), run=run)
    play(env, [ACTION] * 2)
    env.close()
    jam.flush()
    return env.episode_id


@pytest.fixture
def ids(jam: Jamboree) -> list[str]:
    """Three episodes."""
    return [record(jam) for _ in range(3)]


def flipped(content: bytes, place: int = -1) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def damage_summary(jam: Jamboree, id: str, run: str = "a") -> None:
    listing = listing_of(jam, run, id)
    jam.redis.hset(listing, id, flipped(jam.redis.hget(listing, id)))


def damage_head(jam: Jamboree, id: str, place: int = 30) -> None:
    key = jam._connection.keyspace.episode(id)
    jam.redis.lset(at(jam, key), 0, flipped(jam.redis.lindex(at(jam, key), 0), place))


# -- the log has it, too ------------------------------------------------------------------------


def test_it_is_read_from_the_log(jam: Jamboree, ids: list[str], tmp_path: Path) -> None:
    query = jam.episodes(run="a")
    whole, table = query.summaries(), query.table()
    damage_summary(jam, ids[1])

    assert query.summaries() == whole
    assert query.table().equals(table)
    assert query.where(min_steps=2).ids() == ids
    query.to_parquet(tmp_path)
    assert parquet.read_table(tmp_path).num_rows == 6


def test_that_is_said_once(jam: Jamboree, ids: list[str], caplog: pytest.LogCaptureFixture) -> None:
    damage_summary(jam, ids[1])
    for _ in range(3):
        list(jam.episodes())

    (warning,) = caplog.messages
    keyspace = jam._connection.keyspace
    assert warning == (
        f"{keyspace.summaries('a')}: summary of {ids[1]}: the checksum does not match; it is "
        f"read from the head of {keyspace.episode(ids[1])}. jam.backup.restore() puts it right"
    )


def test_it_is_read_from_mongodb_where_redis_does_not_have_the_log(
    jam: Jamboree, ids: list[str]
) -> None:
    whole = jam.episodes().summaries()
    jam.backup.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(ids[1])))
    damage_summary(jam, ids[1])

    assert jam.episodes().summaries() == whole


def test_a_summary_of_which_nothing_is_left_is_read_from_the_log(
    jam: Jamboree, ids: list[str]
) -> None:
    whole = jam.episodes().summaries()
    for nothing in (b"", b"no"):
        jam.redis.hset(listing_of(jam, "a", ids[1]), ids[1], nothing)
        assert jam.episodes().summaries() == whole


def test_children_are_found(jam: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"))
    play(env, [0, 1], seed=1)
    env.close()
    parent = jam.episode(env.episode_id)
    forked = fork(parent, 1, run="b")
    forked.step(0)
    forked.close()
    jam.flush()
    (child,) = parent.children
    damage_summary(jam, child.id, run="b")

    assert [one.id for one in parent.children] == [child.id]


def test_a_tail_goes_on(jam: Jamboree, ids: list[str]) -> None:
    damage_summary(jam, ids[1])

    tail = jam.tail(run="a", since=0, timeout_s=0.01)
    assert {episode.id for episode, _ in tail} == set(ids)


# -- the log is damaged as well -----------------------------------------------------------------


def test_the_others_are_listed_and_it_is_named(
    jam: Jamboree, ids: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    damage_summary(jam, ids[1])
    damage_head(jam, ids[1])
    for _ in range(2):
        assert jam.episodes().ids() == [ids[0], ids[2]]

    (warning,) = caplog.messages
    assert f"{jam._connection.keyspace.summaries('a')}: summary of {ids[1]}" in warning
    assert jam._connection.keyspace.episode(ids[1]) in warning
    assert f"jam.backup.restore(['{ids[1]}'])" in warning
    assert f"jam.episode('{ids[1]}').delete()" in warning


@pytest.mark.parametrize(
    "read",
    [
        lambda query, _: query.table(),
        lambda query, _: query.frame(),
        lambda query, folder: query.to_arrow(folder / "steps.arrow"),
        lambda query, folder: query.to_parquet(folder / "steps"),
        lambda query, _: list(to_rlds(query)),
        lambda query, _: verify(query),
    ],
)
def test_no_export_leaves_it_out(
    jam: Jamboree, ids: list[str], tmp_path: Path, read: Callable[[Any, Path], Any]
) -> None:
    damage_summary(jam, ids[1])
    damage_head(jam, ids[1])

    with pytest.raises(DecodeError, match=f"summary of {ids[1]}"):
        read(jam.episodes(run="a"), tmp_path)
    assert list(tmp_path.rglob("*.parquet")) == []
    assert not jam.episodes(run="other", wait=True).table()


def test_an_export_says_how_many_there_are(jam: Jamboree, ids: list[str]) -> None:
    for id in ids:
        damage_summary(jam, id)
        damage_head(jam, id)

    with pytest.raises(DecodeError, match=r"\(2 more like it\)$"):
        jam.episodes(run="a").table()


def test_a_backup_that_is_away_hides_no_other_episode(
    jam: Jamboree,
    ids: list[str],
    open_jamboree: OpenJamboree,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(ids[1])))
    damage_summary(jam, ids[1])
    without = open_jamboree(mongo_url="mongodb://127.0.0.1:1")

    assert without.episodes().ids() == [ids[0], ids[2]]


# -- put right ----------------------------------------------------------------------------------


def test_verify_names_it_and_restore_puts_it_right(
    jam: Jamboree, ids: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    listing = jam._connection.keyspace.summaries("a")
    jam.backup.flush()
    whole = listed(jam, "a")
    damage_summary(jam, ids[1])
    key = jam._connection.keyspace.episode(ids[1])

    different = jam.backup.verify().different
    assert different == {key: f"{listing}: summary of {ids[1]}: the checksum does not match"}
    assert jam.backup.restore([ids[0]]) == 0
    assert jam.backup.restore() == 1
    assert listed(jam, "a") == whole
    assert jam.backup.verify()
    assert jam.backup.restore() == 0
    assert jam.episodes().ids() == ids
    assert not caplog.messages


def test_a_restore_lists_what_mongodb_alone_holds(jam: Jamboree, ids: list[str]) -> None:
    key = jam._connection.keyspace.episode(ids[1])
    jam.backup.flush()
    whole, log = listed(jam, "a"), jam.redis.lrange(at(jam, key), 1, -1)
    damage_summary(jam, ids[1])
    jam.redis.delete(at(jam, key))

    assert jam.backup.restore([ids[1]]) == 1
    assert listed(jam, "a") == whole
    assert jam.redis.lrange(at(jam, key), 1, -1) == log


@pytest.mark.parametrize("place", [30, -1], ids=["head", "note"])
def test_a_log_with_a_damaged_head_is_replaced(jam: Jamboree, ids: list[str], place: int) -> None:
    key = jam._connection.keyspace.episode(ids[1])
    jam.backup.flush()
    whole, log = listed(jam, "a"), jam.redis.lrange(at(jam, key), 0, -1)
    damage_summary(jam, ids[1])
    damage_head(jam, ids[1], place)

    assert jam.backup.restore([ids[1]]) == 1
    assert listed(jam, "a") == whole
    assert jam.redis.lrange(at(jam, key), 0, -1) == log
    assert jam.backup.verify()


def test_a_log_of_which_mongodb_does_not_hold_all_is_not_replaced(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=9), run="a")
    play(env, [ACTION] * 2)
    jam.backup.flush()
    env.step(ACTION)
    env.close()
    jam.flush()
    key = jam._connection.keyspace.episode(env.episode_id)
    damage_head(jam, env.episode_id)
    log = jam.redis.lrange(at(jam, key), 0, -1)

    for _ in range(2):
        with pytest.raises(DecodeError, match=re.escape(key)):
            jam.backup.restore()
        assert jam.redis.lrange(at(jam, key), 0, -1) == log
        # As where MongoDB was put back to before.
        jam.redis.zrem(beside(jam, key, "unbacked"), at(jam, key))


def test_a_record_that_was_taken_off_does_not_come_back_with_a_damaged_head(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "n")
    notes.save_many([{"n": 1}, {"n": 2}])
    jam.backup.flush()
    notes.pop(1)  # no frame tells of it
    jam.redis.lset(at(jam, notes._key), 0, flipped(jam.redis.lindex(at(jam, notes._key), 0), 30))
    log = jam.redis.lrange(at(jam, notes._key), 0, -1)

    with pytest.raises(DecodeError, match=re.escape(notes._key)):
        jam.backup.restore()
    assert jam.redis.lrange(at(jam, notes._key), 0, -1) == log


def test_a_log_and_a_summary_that_were_put_right_meanwhile_are_left_alone(
    jam: Jamboree, ids: list[str]
) -> None:
    store, listing, key = (
        jam._connection.redis_store,
        listing_of(jam, "a", ids[1]),
        jam._connection.keyspace.episode(ids[1]),
    )
    jam.backup.flush()
    summary, log = jam.redis.hget(listing, ids[1]), jam.redis.lrange(at(jam, key), 0, -1)
    head, entry = store.head(key), IndexEntry(ids[1], b"what was there before", "a", 1.0)
    assert head is not None

    standing = store.restorer.standing()
    mongo = jam._connection.backup_store.identity()
    assert not store.restorer.restore(
        key, head, (), None, standing=standing, mongo=mongo, instead_of=b"damaged"
    )
    assert not store.listings.mend("a", entry, instead_of=b"damaged")
    assert jam.redis.lrange(at(jam, key), 0, -1) == log
    assert jam.redis.hget(listing, ids[1]) == summary


def test_what_cannot_be_put_right_is_named_and_can_be_deleted(
    jam: Jamboree, ids: list[str]
) -> None:
    for id in ids[1:]:
        damage_summary(jam, id)
    damage_head(jam, ids[1])
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(ids[2])))

    with pytest.raises(DecodeError, match=r"the checksum does not match.*1 more like it"):
        jam.backup.restore()
    for id in ids[1:]:
        jam.episode(id).delete()
        with pytest.raises(EpisodeNotFound):
            jam.episode(id).delete()
    assert len(jam.episodes().table()) == 2
    assert jam.backup.flush() > 0
    assert jam.backup.verify()
    assert jam.backup.restore() == 0
