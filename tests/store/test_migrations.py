"""What the release before wrote (format 1: tests/store/format_1.json) is brought up to date."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server
from processes import NoteHandler
from recorded_envs import ACTION
from typer.testing import CliRunner

from jamboree_gym import Jamboree
from jamboree_gym.cli import app
from jamboree_gym.errors import DecodeError, StoreUnavailable
from jamboree_gym.store.migrations import migrate as migrate_store

OLD = json.loads(Path(__file__).with_name("format_1.json").read_text())


@pytest.fixture
def old(open_jamboree: Callable[..., Jamboree], own_valkey: Server, mongo: Server) -> Jamboree:
    """A Jamboree on the stored bytes."""
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, namespace="format-1")
    jam.mongo.client.drop_database(jam.mongo.name)
    for key, value in OLD["redis"].items():
        ((kind, content),) = value.items()
        if kind == "list":
            jam.redis.rpush(key, *map(b64decode, content))
        elif kind == "hash":
            jam.redis.hset(key, mapping={name: b64decode(one) for name, one in content.items()})
        elif kind == "zset":
            jam.redis.zadd(key, content)
        else:
            jam.redis.set(key, b64decode(content))
    for name, documents in OLD["mongo"].items():
        jam.mongo[name].insert_many([_document(one) for one in documents])
    return jam


def _document(stored: dict[str, Any]) -> dict[str, Any]:
    return {
        name: b64decode(value["$b"]) if isinstance(value, dict) else value
        for name, value in stored.items()
    }


def migrate(jam: Jamboree, *options: str) -> str:
    urls = (
        "--redis-url",
        f"unix://{jam._connection.store.where}",
        "--mongo-url",
        f"mongodb://{jam._connection.mongo_store.where}",
    )
    result = CliRunner().invoke(app, ["migrate", *urls, "--namespace", "format-1", *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_what_an_older_release_wrote_says_what_to_do(old: Jamboree) -> None:
    with pytest.raises(DecodeError, match="jamboree-gym migrate"):
        old.episode(OLD["episode"]).data()
    with pytest.raises(DecodeError, match="jamboree-gym migrate"):
        NoteHandler(old, "new").many(9)
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
    before = old.redis.lrange(old._connection.keyspace.episode(OLD["episode"]), 1, -1)
    old.redis.flushall()
    migrate(old)
    old.backup.restore()

    assert old.redis.lrange(old._connection.keyspace.episode(OLD["episode"]), 1, -1) == before
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
        patch.setattr("jamboree_gym.store.migrations._migrated_in_redis", interrupted)
        with pytest.raises(KeyboardInterrupt):
            migrate_store(old._connection.redis_store, old._connection.mongo_store)
    assert "3 logs" in migrate(old)

    assert old._connection.store.head(copied._key).born == old._connection.mongo_store.birth(
        copied._key
    )
    assert old.mongo.chunks.count_documents({"format": {"$exists": False}}) == 0


def test_without_redis_the_migration_says_so(old: Jamboree, own_valkey: Server) -> None:
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        migrate_store(old._connection.redis_store, old._connection.mongo_store)
    own_valkey.start()
