"""Stores that older releases wrote: puts their bytes into servers, and migrates them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from typing import Any

from typer.testing import CliRunner

from jamboree_gym import Jamboree
from jamboree_gym.cli import app

__all__ = ["fill", "migrate", "urls_of"]


def fill(jam: Jamboree, content: dict[str, Any]) -> None:
    """Put the stored bytes where they were; what MongoDB holds of the namespace is dropped."""
    jam.mongo.client.drop_database(jam.mongo.name)
    put: dict[str, Callable[[str, Any], object]] = {
        "list": lambda key, items: jam.redis.rpush(key, *map(b64decode, items)),
        "hash": lambda key, items: jam.redis.hset(
            key, mapping={name: b64decode(one) for name, one in items.items()}
        ),
        "zset": jam.redis.zadd,
        "string": lambda key, item: jam.redis.set(key, b64decode(item)),
    }
    for key, value in content["redis"].items():
        ((kind, items),) = value.items()
        put[kind](key, items)
    for name, documents in content["mongo"].items():
        jam.mongo[name].insert_many(
            [{field: _read(one) for field, one in document.items()} for document in documents]
        )


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return b64decode(value["$b"])
    return [_read(one) for one in value] if isinstance(value, list) else value


def urls_of(jam: Jamboree) -> list[str]:
    """What a command needs to open the same store."""
    mongo = jam._connection.backup_store
    urls = ("--redis-url", jam._connection.redis_url, "--mongo-url", f"mongodb://{mongo.where}")
    return [*urls, "--namespace", jam._connection.keyspace.namespace]


def migrate(jam: Jamboree, *options: str, status: int = 0) -> str:
    """Run `jamboree-gym migrate`; what it prints."""
    result = CliRunner().invoke(app, ["migrate", *urls_of(jam), *options])
    assert result.exit_code == status, result.output
    return result.output
