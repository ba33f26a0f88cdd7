"""Opening: what works, and what each thing that does not work is told."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import redis
from conftest import Server, StartRedis, free_port
from lengths import quick_and_long
from processes import NoteHandler, run_python, wait_until
from recorded_envs import ACTION, CountingEnv, play
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import (
    InvalidArgument,
    InvalidRecord,
    InvalidUrl,
    JamboreeClosed,
    JamboreeError,
    StoreUnavailable,
    UnsupportedServer,
)
from jamboree_gym.store.log import Append, Asked
from jamboree_gym.store.read_through import ReadThroughStore

PASSWORD = "s3cr3t/p@ss"
QUOTED = "s3cr3t%2Fp%40ss"


def all_text_of(error: BaseException) -> str:
    """Whatever of an error can come to a screen or a log, but for the lines of code around it."""
    report = traceback.TracebackException.from_exception(error)
    text, part = repr(error), report
    while part is not None:
        text += "".join(part.format_exception_only())
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
    return text


# -- where to -----------------------------------------------------------------------------------


@pytest.mark.timeout(5)
def test_a_port_that_nobody_listens_on_is_named() -> None:
    port = free_port()
    with pytest.raises(StoreUnavailable, match=rf"Redis at 127.0.0.1:{port} cannot be reached"):
        Jamboree(f"redis://127.0.0.1:{port}/0")


@pytest.mark.timeout(5)
def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(StoreUnavailable, match=r"Redis at no-such-host.invalid:6379"):
        Jamboree("redis://no-such-host.invalid")


@pytest.mark.timeout(5)
def test_a_socket_that_does_not_exist_is_named() -> None:
    with pytest.raises(StoreUnavailable, match=r"Redis at /no/such\.sock cannot be reached"):
        Jamboree("unix:///no/such.sock")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:6379", r"redis_url has scheme 'http'; use redis://host:port/0"),
        ("redis+clusters://127.0.0.1", r"scheme 'redis\+clusters'; use .* redis\+cluster://host"),
        ("127.0.0.1:6379", r"redis_url has no scheme; use redis://"),
        ("localhost", r"redis_url has no scheme"),
        ("redis://127.0.0.1:many", r"the host, port or database in redis_url .* cannot be read"),
        ("redis://[::1", r"cannot be read"),
        ("redis://127.0.0.1/main", r"database in redis_url .* cannot be read"),
        ("unix://tmp/redis.sock", r"the host, .* cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained(url: str, message: str) -> None:
    with pytest.raises(InvalidUrl, match=message):
        Jamboree(url)


@pytest.mark.parametrize(
    "url",
    [
        f":{PASSWORD}@127.0.0.1",
        f"user:{PASSWORD}@127.0.0.1",
        f"redis://user:{PASSWORD}@127.0.0.1",
        f"redis://:{PASSWORD}@127.0.0.1:0/0",
        f"redis+cluster://:{PASSWORD}@127.0.0.1",
    ],
)
def test_a_password_in_a_malformed_url_is_not_repeated(url: str) -> None:
    with pytest.raises(JamboreeError) as caught:
        Jamboree(url)
    assert not any(part in all_text_of(caught.value) for part in ("s3cr3t", "p@ss"))


def test_the_url_can_come_from_the_environment(valkey: Server, namespace: str) -> None:
    source = (
        "import os, sys; from jamboree_gym import Jamboree\n"
        "os.environ['JAMBOREE_REDIS_URL'] = sys.argv[1]\n"
        "with Jamboree(namespace=sys.argv[2]) as jam: print(jam)"
    )
    ended = run_warm(source, valkey.url, namespace)
    with Jamboree(valkey.url, namespace=namespace) as jam:
        assert ended.stdout == f"{jam}\n"


def test_a_url_given_is_preferred_to_the_environment(
    valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAMBOREE_REDIS_URL", "redis://127.0.0.1:1")
    with Jamboree(valkey.url, namespace=namespace) as jam:
        assert jam.redis.ping()


# -- who ----------------------------------------------------------------------------------------


@pytest.fixture
def locked_redis(start_own_redis: StartRedis) -> Iterator[str]:
    """Host and port of a server that wants a password."""
    port = free_port()
    server = start_own_redis("valkey9", "--port", str(port), "--bind", "127.0.0.1")
    with closing(socket.create_connection(("127.0.0.1", port))) as admin:
        admin.sendall(f"CONFIG SET requirepass {PASSWORD}\r\n".encode())
        assert admin.recv(100) == b"+OK\r\n"
    yield f"127.0.0.1:{port}"
    server.kill()


@pytest.mark.parametrize("user", ["", ":wrong-s3cr3t@", "nobody:wrong-s3cr3t@"])
def test_a_wrong_password_is_refused_and_not_repeated(locked_redis: str, user: str) -> None:
    with pytest.raises(
        StoreUnavailable, match=r"refuses the login .* password in redis_url"
    ) as caught:
        Jamboree(f"redis://{user}{locked_redis}/0")
    assert locked_redis in str(caught.value)
    assert "s3cr3t" not in all_text_of(caught.value)


def test_the_right_password_is_accepted_and_not_shown(locked_redis: str, namespace: str) -> None:
    with Jamboree(f"redis://:{QUOTED}@{locked_redis}/0", namespace=namespace) as jam:
        NoteHandler(jam, "n").save({"n": 1})
        assert "s3cr3t" not in repr(jam) + repr(NoteHandler(jam, "n"))


# -- not Redis ----------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Starts a TCP server that sends one answer to whatever comes, or nothing at all."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threads: list[threading.Thread] = []
        clients: list[socket.socket] = []

        def accept(answer: bytes) -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                clients.append(client)
                if answer:
                    client.recv(100)
                    client.sendall(answer)

        def start(answer: bytes) -> str:
            threads.append(threading.Thread(target=accept, args=(answer,)))
            threads[-1].start()
            return "redis://{}:{}".format(*listener.getsockname())

        yield start
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("answer", [HTTP, b"220 mail ready\r\n", b"\x16\x03\x01\x00\x05hello"])
@pytest.mark.timeout(10)
def test_a_server_that_is_not_redis_is_named_as_such(
    serve: Callable[[bytes], str], answer: bytes
) -> None:
    with pytest.raises(UnsupportedServer, match=r"127\.0\.0\.1:\d+ answers, but not as Redis"):
        Jamboree(serve(answer))


@pytest.mark.timeout(10)
def test_a_server_that_stays_silent_is_not_waited_for(
    serve: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jamboree_gym.store.redis.opening.options.ANSWER_TIMEOUT_S", 0.5)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:\d+ did not answer in time"):
        Jamboree(serve(b""))


# -- fsync --------------------------------------------------------------------------------------


@pytest.mark.redis7
def test_fsync_needs_a_server_that_has_waitaof(start_own_redis: StartRedis) -> None:
    server = start_own_redis("redis7")
    with pytest.raises(UnsupportedServer, match=r'write="fsync" needs WAITAOF, which Redis 7\.0'):
        Jamboree(server.url, write="fsync")
    Jamboree(server.url, write="sync").close()


@pytest.mark.parametrize("kind", ["valkey9", "redis8"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--appendonly", "no"), "needs an append-only file.* start it with --appendonly yes"),
        (("--appendfsync", "no"), "needs appendfsync everysec or always"),
    ],
)
def test_fsync_needs_a_server_that_keeps_its_file(
    start_own_redis: StartRedis, kind: str, option: tuple[str, str], message: str
) -> None:
    server = start_own_redis(kind, *option)
    with pytest.raises(UnsupportedServer, match=message):
        Jamboree(server.url, write="fsync")


@pytest.mark.parametrize("kind", quick_and_long(["valkey9", "redis8"], quick=["valkey9"]))
def test_fsync_saves_where_the_server_can(
    start_own_redis: StartRedis, open_jamboree: Callable[..., Jamboree], kind: str
) -> None:
    handler = NoteHandler(open_jamboree(start_own_redis(kind).url, write="fsync"), "n")
    handler.save({"n": 1})
    assert (handler.last() or {})["n"] == 1


@pytest.mark.parametrize("kind", ["valkey9", "redis8", "redis7"])
def test_sync_and_buffered_save_on_every_kind_of_server(
    start_own_redis: StartRedis, open_jamboree: Callable[..., Jamboree], kind: str
) -> None:
    server = start_own_redis(kind)
    for write in ("sync", "buffered"):
        handler = NoteHandler(open_jamboree(server.url, write=write), write)
        handler.save({"n": 1})
        assert handler.count() == 1


# -- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"write": "bogus"}, "write='bogus': choose one of buffered, sync, fsync"),
        ({"flush_interval_s": -1.0}, "flush_interval_s"),
        ({"flush_interval_s": float("nan")}, "flush_interval_s"),
        ({"backup_interval_s": -1.0}, "backup_interval_s"),
        ({"backup_interval_s": float("nan")}, "backup_interval_s"),
        ({"backup_interval_s": 3601}, "backup_interval_s"),
        ({"backup_interval_s": "10"}, "backup_interval_s"),
        ({"max_pending_bytes": 0}, "max_pending_bytes"),
        ({"when_full": "drop"}, "when_full='drop': choose one of block, raise"),
        ({"namespace": ""}, "namespace"),
        ({"namespace": 5}, "namespace"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(
    valkey: Server, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Jamboree(valkey.url, **arguments)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("a", "a:records"), ("a*", "ab")])
def test_namespaces_are_kept_apart(
    open_jamboree: Callable[..., Jamboree], namespace: str, one: str, other: str
) -> None:
    ours = NoteHandler(open_jamboree(namespace=namespace + one), "n")
    theirs = NoteHandler(open_jamboree(namespace=namespace + other), "n")
    ours.save({"n": 1})
    ours.event.flush()
    assert theirs.last() is None
    assert list(theirs.event._connection.redis_store.log_keys()) == []
    theirs.delete()
    assert ours.count() == 1


def test_every_recorded_time_comes_from_the_clock_of_the_jamboree(
    open_jamboree: Callable[..., Jamboree],
) -> None:
    ticks = count(1_000_000_000)
    jam = open_jamboree(clock=lambda: float(next(ticks)))
    single, notes = jam.record(CountingEnv(length=9)), NoteHandler(jam, "n")
    vector = jam.record(gym.vector.SyncVectorEnv([lambda: CountingEnv(length=9)] * 2))
    play(single, [ACTION] * 3)
    vector.reset()
    vector.step(np.stack([ACTION] * 2))
    notes.save({"n": 1})
    jam.flush()
    last = next(ticks)

    episodes = [jam.episode(one) for one in (single.episode_id, *vector.episode_ids)]
    times = [float(t) for one in episodes for t in (one.summary.started_at, *one.data().timestamps)]
    times += [(notes.last() or {})["timestamp"]]
    times += [int(one.id[:12], 16) / 1000 for one in episodes]
    assert all(1e9 <= t <= last for t in times), times
    assert jam._connection.own_run.startswith(time.strftime("%Y%m%d-", time.localtime(1e9)))


def test_tags_are_copied_and_checked(open_jamboree: Callable[..., Jamboree]) -> None:
    jam, tags = open_jamboree(), {"lr": 3e-4}
    assert jam._connection.check_tags(tags) == tags
    assert jam._connection.check_tags(tags) is not tags
    with pytest.raises(InvalidRecord, match="tags: 'lr': cannot store"):
        jam._connection.check_tags({"lr": object()})


@pytest.mark.parametrize("tags", ["lr", ["lr"], 3], ids=repr)
def test_tags_that_are_no_dict_are_a_wrong_argument_not_a_wrong_record(
    open_jamboree: Callable[..., Jamboree], tags: Any
) -> None:
    jam = open_jamboree()
    for use in (
        lambda: jam.record(CountingEnv(), tags=tags),
        lambda: jam.episodes(tags=tags),
        lambda: jam.tail(tags=tags),
    ):
        with pytest.raises(InvalidArgument, match="give a dict") as caught:
            use()
        assert isinstance(caught.value, ValueError)
        assert not isinstance(caught.value, InvalidRecord)


@pytest.mark.parametrize("round_", range(10))
def test_a_read_that_runs_into_close_says_so(
    open_jamboree: Callable[..., Jamboree], round_: int
) -> None:
    jam = open_jamboree()
    env = jam.record(CountingEnv(10**9))
    play(env, [ACTION] * 500)
    jam.flush()
    reader = open_jamboree()
    raised: list[BaseException] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        episode = reader.episode(env.episode_id)
        try:
            while True:
                episode.data()
                reads += 1
        except BaseException as error:  # noqa: BLE001 - whatever it is
            raised.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: reads > 4 + round_)
    reader.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in raised] == [JamboreeClosed] * 4


def test_what_is_connected_while_it_is_closed_is_closed_too(own_valkey: Server) -> None:
    def connections() -> int:
        return len(cast(list[object], server.client_list()))

    with redis.Redis.from_url(own_valkey.url) as server:
        before = connections()
        jam = Jamboree(own_valkey.url)
        link = jam._connection.redis_store.link

        def closing_first(of_link: bool) -> None:
            jam.close()
            answer = link.call("PING", "") if of_link else jam.redis.ping()
            assert answer

        for of_link in (True, False):
            with pytest.raises(JamboreeClosed):
                link.run(partial(closing_first, of_link))
            wait_until(lambda: connections() == before)


@pytest.mark.usefixtures("prompt_writer")
def test_close_waits_for_the_thread_that_asks_the_backup(
    open_jamboree: Callable[..., Jamboree], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_slowly(store: ReadThroughStore, appends: Sequence[Append]) -> Asked:
        asked.append(threading.current_thread())
        if asked[-1].name == "jamboree-ask":
            time.sleep(0.3)
        return ask(store, appends)

    ask, asked = ReadThroughStore.ask_for, list[threading.Thread]()
    monkeypatch.setattr(ReadThroughStore, "ask_for", ask_slowly)
    with open_jamboree() as jam:
        NoteHandler(jam, "n").save({"n": 1})
        wait_until(lambda: asked)
    assert not asked[0].is_alive()


NO_GARBAGE = """
import gc, sys
from processes import NoteHandler
from jamboree_gym import Jamboree
gc.collect()
gc.set_debug(gc.DEBUG_SAVEALL)
with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    handler = NoteHandler(jam, "n")
    handler.save({"n": 1})
    handler.last()
    gc.collect()
    print([type(one).__name__ for one in gc.garbage if "Parser" in type(one).__name__])
    gc.set_debug(0)
"""


def test_no_parser_of_the_client_is_left_to_the_garbage_collector(jam: Jamboree) -> None:
    """Its `__del__`, run anywhere in a training, would swallow a Ctrl-C that came meanwhile."""
    done = run_python(NO_GARBAGE, jam._connection.redis_url, jam._connection.keyspace.namespace)
    assert done.stdout == "[]\n", done.stderr


def test_a_read_sees_what_another_jamboree_of_the_process_has_saved(
    open_jamboree: Callable[..., Jamboree],
) -> None:
    writer, reader, elsewhere = (
        open_jamboree(flush_interval_s=60),
        open_jamboree(),
        open_jamboree(namespace="another"),
    )
    env = writer.record(CountingEnv(), run="seen")
    env.reset()
    env.step(ACTION)
    assert len(reader.episode(env.episode_id)) == 1
    env.step(ACTION)
    assert [one.steps for one in reader.episodes(run="seen").summaries()] == [2]
    NoteHandler(writer, "seen").save({"n": 1})
    assert NoteHandler(reader, "seen").count() == 1
    assert len(elsewhere.episodes(run="seen", wait=True)) == 0
    env.step(ACTION)
    writer.close()
    assert len(reader.episode(env.episode_id)) == 3
