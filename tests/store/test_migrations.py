"""Heads and documents of version 1 (tests/store/format_1.json) are brought up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from old_stores import fill, migrate
from processes import NoteHandler
from recorded_envs import ACTION

from jamboree_gym import Jamboree
from jamboree_gym.errors import DecodeError, StoreUnavailable
from jamboree_gym.store.migrations import Outcome, buckets
from jamboree_gym.store.migrations import migrate as migrate_store

OLD = json.loads(Path(__file__).with_name("format_1.json").read_text())


@pytest.fixture
def old(open_jamboree: Callable[..., Jamboree], own_valkey: Server, mongo: Server) -> Jamboree:
    """A Jamboree on the stored bytes."""
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, namespace="format-1")
    fill(jam, OLD)
    return jam


def test_what_an_older_release_wrote_says_what_to_do(old: Jamboree) -> None:
    with pytest.raises(DecodeError, match="jamboree-gym migrate"):
        old.episode(OLD["episode"]).data()
    with pytest.raises(DecodeError, match="jamboree-gym migrate"):
        NoteHandler(old, "new").many(9)
    with pytest.raises(DecodeError, match="jamboree-gym migrate"):
        old.backup.verify()


def test_heads_of_which_only_the_keys_were_migrated_say_it_too(old: Jamboree) -> None:
    buckets.migrate_redis(old._connection.redis_store, Outcome())

    with pytest.raises(DecodeError, match=r"the head of .* older release.*jamboree-gym migrate"):
        old.episode(OLD["episode"]).data()
    assert all("jamboree-gym migrate" in what for what in old.backup.verify().different.values())


def test_after_the_migration_everything_is_there_and_goes_on(old: Jamboree) -> None:
    assert "3 logs" in migrate(old)

    data = old.episode(OLD["episode"]).data()
    assert np.array_equal(data.actions, [ACTION] * 3)
    assert old.episodes().ids() == [OLD["episode"]]
    copied, new = NoteHandler(old, "copied"), NoteHandler(old, "new")
    assert [note["n"] for note in copied.many(9)] == [2, 3, 4, 5]
    copied.save({"n": 6})
    new.save({"n": 1})
    assert old.backup.flush() == 4
    assert old.backup.verify()


def test_what_only_mongodb_holds_is_migrated_too(old: Jamboree) -> None:
    old.redis.flushall()
    migrate(old)
    old.backup.restore()

    assert np.array_equal(old.episode(OLD["episode"]).data().actions, [ACTION] * 3)
    assert [note["n"] for note in NoteHandler(old, "copied").many(9)] == [2, 3, 4]


def test_a_second_migration_changes_nothing(old: Jamboree) -> None:
    migrate(old)
    assert "0 logs" in migrate(old)


def test_without_mongodb_redis_alone_is_migrated(old: Jamboree) -> None:
    assert "3 logs" in migrate(old, "--redis-only")
    assert len(old.episode(OLD["episode"]).data()) == 3


def test_a_migration_that_was_interrupted_between_the_two_servers_is_completed(
    old: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = NoteHandler(old, "copied")
    old.redis.lrem(copied._key, 1, old.redis.lindex(copied._key, 1))  # as `pop` forgets

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jamboree_gym.store.migrations.heads.migrate_redis", interrupted)
        with pytest.raises(KeyboardInterrupt):
            migrate_store(old._connection.redis_store, old._connection.backup_store)
    assert "3 logs" in migrate(old)

    assert old._connection.store.head(copied._key).born == old._connection.backup_store.birth(
        copied._key
    )
    assert old.mongo.chunks.count_documents({"format": {"$exists": False}}) == 0


def test_without_redis_the_migration_says_so(old: Jamboree, own_valkey: Server) -> None:
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        migrate_store(old._connection.redis_store, old._connection.backup_store)
    own_valkey.start()
