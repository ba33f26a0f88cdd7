"""A password that would be noticed anywhere: in no repr, error, log, output, and in no store."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bson
import gymnasium as gym
import pytest
import redis
from conftest import Server, StartRedis, free_port
from lengths import quick_and_long
from locked_servers import LOGIN, PASSWORD, locked_mongo
from processes import NoteHandler, wait_until
from typer.testing import CliRunner

from jamboree_gym import Jamboree
from jamboree_gym.cli import build_app
from jamboree_gym.errors import JamboreeError
from jamboree_gym.replay import verify
from jamboree_gym.wording import mask_password

HALVES = ("C4NARY", "B1RD")
NUMBER = "34567"  # it could be taken for a port
SPECIAL = ["", "@", ":", "/", "#", "%", "?", "[", "]", "%40", "?x=", "@/", "/@"]
PASSWORDS = [f"{begin}{mark}B1RD" for mark in SPECIAL for begin in ("C4NARY", NUMBER)]


def is_free_of_secrets(text: str, *others: str) -> bool:
    return not any(secret in text for secret in (*HALVES, *others))


def everything_of(error: BaseException | None) -> str:
    """All that an error brings along: also what was to be suppressed, and notes."""
    text, seen = "", set[int]()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        text += repr(one) + str(one) + repr(one.args)
        report = traceback.TracebackException.from_exception(one, capture_locals=False)
        text += "".join(report.format_exception_only())
        waiting += [one.__cause__, one.__context__]
    return text


# -- URLs that cannot be used ---------------------------------------------------------------------


def urls(password: str) -> Iterator[str]:
    """Quoted as it has to be, and as it is."""
    for shown in (quote(password, safe=""), password):
        yield f":{shown}@127.0.0.1:1"
        yield f"ann:{shown}@127.0.0.1:1"


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_error_repeats_a_password_of_redis(
    password: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [f"redis://{url}{end}" for url in urls(password) for end in ("", "/0")]
    shown += [
        f"{scheme}://{url}" for scheme in ("rediss", "redis+cluster") for url in urls(password)
    ]
    shown += [f"unix://ann:{one}@/no/such.sock" for one in (quote(password, safe=""), password)]
    for url in shown:
        with pytest.raises(JamboreeError) as caught:
            Jamboree(url)
        assert is_free_of_secrets(everything_of(caught.value), NUMBER), url
        assert is_free_of_secrets(mask_password(url), NUMBER), url
    assert is_free_of_secrets(caplog.text, NUMBER)


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_error_repeats_a_password_of_mongodb(
    open_jamboree: Callable[..., Jamboree],
    password: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("jamboree_gym.store.mongo.client.CONNECT_TIMEOUT_S", 0.01)
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.01)
    caplog.set_level(logging.DEBUG)
    raw, quoted = password, quote(password, safe="")
    shown = [f"ann:{quoted}@127.0.0.1:x/", f"ann:{raw}@127.0.0.1:x", f":{raw}@127.0.0.1:x/?w=1"]
    # Only here may it come to a connection, which pymongo then gives up without waiting.
    shown += [f"ann:{raw}@127.0.0.1:1/?w=1"] * password.startswith(NUMBER)
    for url in (f"mongodb://{one}" for one in shown):
        jam = open_jamboree(mongo_url=url)
        with pytest.raises(JamboreeError) as caught:
            jam._connection.backup_store  # noqa: B018 - opens it
        assert is_free_of_secrets(everything_of(caught.value), NUMBER), url
        assert is_free_of_secrets(repr(jam) + repr(jam.backup) + mask_password(url), NUMBER), url
    assert is_free_of_secrets(caplog.text, NUMBER)


def test_no_error_repeats_a_password_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for mark in SPECIAL:
        monkeypatch.setenv("JAMBOREE_REDIS_URL", f"redis://ann:C4NARY{mark}B1RD@127.0.0.1:1")
        with pytest.raises(JamboreeError) as caught:
            Jamboree()
        assert is_free_of_secrets(everything_of(caught.value), NUMBER)


@pytest.mark.parametrize("url", ["mongodb://ann:C4NARY", "redis://ann:C4NARY", "ann:C4NARY@host"])
def test_a_url_without_a_host_is_not_repeated(
    open_jamboree: Callable[..., Jamboree], url: str
) -> None:
    with pytest.raises(JamboreeError) as caught:
        Jamboree(url)
    assert is_free_of_secrets(everything_of(caught.value), NUMBER)
    with pytest.raises(JamboreeError) as caught:
        open_jamboree(mongo_url=url).backup.flush()
    assert is_free_of_secrets(everything_of(caught.value), NUMBER)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:pw@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:p/@?#:x@h/0", "redis://:***@h/0"),
        ("redis://u@h/0", "redis://u@h/0"),
        ("unix:///a/b.sock", "unix:///a/b.sock"),
        ("rediss://h/0?ssl_password=p&db=1", "rediss://h/0?ssl_password=***&db=1"),
        (
            "mongodb://h/?tlsCertificateKeyFilePassword=p",
            "mongodb://h/?tlsCertificateKeyFilePassword=***",
        ),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert mask_password(url) == shown


# -- servers that let us in -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = locked_mongo(tmp_path_factory)
    yield server.url.replace("://", f"://{LOGIN}")
    server.kill()


@pytest.fixture
def locked_redis(start_own_redis: StartRedis) -> Server:
    """A server that lets in who has the password, by its socket and by its port."""
    port = free_port()
    server = start_own_redis("valkey9", "--port", str(port), "--bind", "127.0.0.1")
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", "+@all", "~*", "&*")
        admin.execute_command("ACL", "SETUSER", "eve", "on", ">pw", "+@all", "~*", "&*")
        admin.execute_command("ACL", "SETUSER", "default", "off")
    server.url = f"redis://{LOGIN}127.0.0.1:{port}/0"
    return server


def public_objects(jam: Jamboree, env: gym.Env[Any, Any]) -> Iterator[object]:
    """Whatever a user can hold in his hands."""
    episode, notes = jam.episode(env.episode_id), NoteHandler(jam, "n")  # type: ignore[attr-defined]
    yield from (
        jam,
        jam._connection.store,
        jam.redis,
        jam.redis.connection_pool,
        jam.mongo,
        jam._connection.backup_store,
    )
    yield from (
        jam.backup,
        jam.backup.status(),
        jam.backup.verify(),
        jam._connection.keyspace,
        jam._connection.writer,
    )
    yield from (env, env.spec, env.unwrapped, notes, notes.event, notes.last(), notes.__dict__)
    yield from (episode, episode.summary, episode.origin, episode.provenance, episode.data())
    yield from (jam.episodes(), jam.episodes(run="x")[:3], jam.episodes().summary_table())
    yield from (jam.episodes().table(), verify(episode), jam.diff(episode, episode))
    yield from (list(jam.tail(since=0, timeout_s=0.01)), jam.record, gym.make("CartPole-v1"))
    yield jam._connection.read_options().keys()


def test_no_repr_log_or_store_holds_a_password(
    locked_redis: Server,
    mongo_url: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAMBOREE_REDIS_URL", locked_redis.url)
    monkeypatch.setenv("JAMBOREE_MONGO_URL", mongo_url)
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    with Jamboree() as jam:
        env = jam.record(gym.make("CartPole-v1"))
        env.reset(seed=1)
        env.step(env.action_space.sample())
        env.close()
        NoteHandler(jam, "n").save({"n": 1})
        jam.backup.flush()
        for one in public_objects(jam, env):
            assert is_free_of_secrets(f"{one!r} {one}"), type(one)
        held = stored(jam)
        assert b"CartPole" in held  # it is looked for where something is
        assert is_free_of_secrets(held.decode(errors="replace"))
    assert any(record.name.startswith("pymongo") for record in caplog.records)
    assert is_free_of_secrets(caplog.text)
    assert all(is_free_of_secrets(repr(record.__dict__)) for record in caplog.records)
    assert is_free_of_secrets("".join(capfd.readouterr()))


def stored(jam: Jamboree) -> bytes:
    """All bytes that both servers hold, of whatever namespace."""
    found = b""
    for key in jam.redis.scan_iter():
        found += key + jam.redis.dump(key) + (jam.redis.type(key))
        found += b"".join(jam.redis.lrange(key, 0, -1)) if jam.redis.type(key) == b"list" else b""
    for digest, blob in jam._connection.redis_store.blobs.all().items():
        found += digest.encode() + blob
    for name in jam.mongo.client.list_database_names():
        if name != "admin":  # where the server keeps its users
            database = jam.mongo.client[name]
            for collection in database.list_collection_names():
                found += b"".join(bson.encode(one) for one in database[collection].find())
    return found


def test_an_outage_tells_no_password(
    locked_redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    jam = Jamboree(locked_redis.url)
    NoteHandler(jam, "n").save({"n": 1})
    jam.flush()
    locked_redis.kill()
    NoteHandler(jam, "n").save({"n": 2})
    wait_until(lambda: caplog.records)
    for attempt in (
        lambda: jam.flush(0.01),
        lambda: jam._connection.store.listings.runs(),
        lambda: jam.redis.ping(),
        lambda: jam.close(0.01),
    ):
        with pytest.raises((JamboreeError, redis.RedisError)) as caught:
            attempt()
        assert is_free_of_secrets(everything_of(caught.value))
    assert is_free_of_secrets(caplog.text)


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("mark", quick_and_long(["", "/", "@", "#"], quick=["", "/"]))
def test_no_command_prints_a_password(
    locked_redis: Server, mongo_url: str, tmp_path: Path, mark: str
) -> None:
    app, runner = build_app(), CliRunner()
    good = {"JAMBOREE_REDIS_URL": locked_redis.url, "JAMBOREE_MONGO_URL": mongo_url}
    bad = {name: url.replace("C4NARY", f"C4NARY{mark}x") for name, url in good.items()}
    names = [one.name or one.callback.__name__ for one in app.registered_commands]  # type: ignore[union-attr]
    assert {"status", "verify", "video"} <= set(names)
    helps = [[name, "--help"] for name in names] + [["--help"]]
    lines = [
        ["status"],
        ["verify"],
        ["verify", "no-such-episode"],
        ["verify", "--workers", "2"],
        ["verify", "--last", "x"],
    ]
    lines += [["video", "no-such-episode", str(tmp_path / "out.mp4")], ["no-such-command"]]
    for environment in (good, bad) if not mark else (bad,):  # the good one has no mark
        options = ["--redis-url", environment["JAMBOREE_REDIS_URL"]]
        for line in [
            *(helps if environment is good else ()),
            *lines,
            ["verify", *options],
            ["video", "x", *options],
            ["verify", "x", *options],
        ]:
            done = runner.invoke(app, line, env={**environment, "JAMBOREE_HOME": str(tmp_path)})
            assert is_free_of_secrets(done.output + everything_of(done.exception)), line
            assert isinstance(done.exception, SystemExit | None)
