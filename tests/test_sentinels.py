"""Redis by its Sentinels: opening, recording and reading, and what each mistake is told."""

from __future__ import annotations

import json
import pickle
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import free_port
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv, play
from sentinel_servers import PASSWORD, SENTINEL_RIGHTS, SERVICE, USER, Watched
from typer.testing import CliRunner

from jamboree_gym import Jamboree
from jamboree_gym.cli import app
from jamboree_gym.diagnosis import Finding, diagnose
from jamboree_gym.errors import InvalidUrl, JamboreeError, StoreUnavailable
from jamboree_gym.keys import Keyspace
from jamboree_gym.servers.address import UrlAddress
from jamboree_gym.store.redis.doorbell import Doorbell
from jamboree_gym.store.redis.store import RedisStore

PAGE = Path(__file__).parents[1] / "docs" / "past-one-machine.md"
HALVES = ("C4NARY", "B1RD")
LONGEST_MESSAGE = 400
OpenJamboree = Callable[..., Jamboree]


@pytest.fixture(scope="module")
def watched(short_directory: Path) -> Iterator[Watched]:
    """A primary with a replica and one Sentinel, which does no failover by itself."""
    service = Watched(short_directory / "watched")
    yield service
    service.stop()


def refused(url: str) -> str:
    """What is told to who opens it: two lines, without a password."""
    with pytest.raises(JamboreeError) as caught:
        Jamboree(url)
    text = str(caught.value)
    assert len(text) <= LONGEST_MESSAGE
    assert not any(half in text for half in HALVES)
    return text


# -- opening ----------------------------------------------------------------------------------


def test_what_is_recorded_is_read_back(watched: Watched, open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree(watched.url())
    env = jam.record(CountingEnv(5))
    play(env, [ACTION] * 5)
    env.close()
    jam.flush()
    assert len(open_jamboree(watched.url()).episode(env.episode_id).data()) == 5
    shown = f"on {SERVICE} (Sentinels {watched.hosts[0]}), write='buffered'>"
    assert repr(jam).endswith(shown)
    assert jam.redis.info("replication")["role"] == "master"


def test_a_sentinel_that_is_away_is_passed_over(
    watched: Watched, open_jamboree: OpenJamboree
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    jam = open_jamboree(watched.url(gone, *watched.hosts))
    pool: Any = jam.redis.connection_pool
    NoteHandler(jam, "n").save({"n": 1})
    first = pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs
    assert f"{first['host']}:{first['port']}" == watched.hosts[0]  # that one is asked first now
    assert jam._connection.redis_store.address() == watched.primary()


def test_the_order_of_sentinels_names_the_same_place(
    watched: Watched, open_jamboree: OpenJamboree
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    one = open_jamboree(watched.url(gone, *watched.hosts))
    other = open_jamboree(watched.url(*watched.hosts, gone))
    NoteHandler(one, "n").save({"n": 1})
    assert NoteHandler(other, "n").count() == 1  # a save of the same process and place is seen
    assert one._connection._place == other._connection._place


def test_the_bell_of_the_backup_rings(watched: Watched, namespace: str) -> None:
    with closing(RedisStore.from_url(watched.url(), Keyspace(namespace))) as store:
        bell = Doorbell(store.link, lambda: [f"{namespace}:key"])
        bell.arm()
        assert len(bell.sockets) == 1
        store.client.set(f"{namespace}:key", "changed")
        assert select.select(bell.sockets, [], [], 60)[0]
        bell.close()


def answers(store: RedisStore) -> bool:
    try:
        store.check()
    except StoreUnavailable:  # a busy machine takes its time
        return False
    return True


def test_a_primary_that_does_not_answer_in_time_may_be_another_one_next_time(
    watched: Watched, namespace: str
) -> None:
    url = watched.url() + "&socket_timeout=0.2"
    process = watched.servers[watched.primary()].process
    with closing(RedisStore.from_url(url, Keyspace(namespace))) as store:
        wait_until(lambda: answers(store))
        losses = store.losses
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match="did not answer in time"):
                store.time()
        finally:
            process.send_signal(signal.SIGCONT)
        assert store.losses == losses + 1  # what was known of it is forgotten


def test_a_pickle_has_neither_password(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    url, variable = watched.url(), "JAMBOREE_REDIS_URL"
    address = UrlAddress.of(url, variable)
    assert address is not None
    assert not any(half.encode() in pickle.dumps(address) for half in HALVES)
    assert USER in address.shown
    monkeypatch.setenv(variable, url)
    assert pickle.loads(pickle.dumps(address)).url() == url


def test_the_right_of_the_page_is_what_sentinels_of_the_tests_give() -> None:
    assert f"user jamboree on >SECRET {SENTINEL_RIGHTS}" in PAGE.read_text()


# -- what does not work -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+sentinel://127.0.0.1:1", r"names no service .* redis\+sentinel://host:26379"),
        ("redis+sentinel://127.0.0.1:1/", r"names no service"),
        ("rediss+sentinel://127.0.0.1", r"use rediss\+sentinel://host:26379"),
        ("redis+sentinel:///trainings", r"cannot be read"),
        ("redis+sentinel://127.0.0.1:many/trainings", r"the host, port or database .* be read"),
        ("redis+sentinel://127.0.0.1:1,/trainings", r"cannot be read"),
        ("redis+sentinel://127.0.0.1:1/trainings/first", r"cannot be read"),
        ("redis+sentinel://127.0.0.1:1/trainings?ssl_ca_certs=x", r"needs rediss\+sentinel://"),
        ("redis+sentinel://127.0.0.1:1/trainings?sentinel_user=ann", r"or an option"),
        *(
            (f"redis+sentinel://ann:{mark.join(HALVES)}@127.0.0.1:1/trainings", f"'{quoted}")
            for mark, quoted in (("/", "/' is %2F"), ("#", "#' is %23"), ("?", "/' is %2F"))
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_explained(url: str, message: str) -> None:
    with pytest.raises(InvalidUrl, match=message) as caught:
        Jamboree(url)
    assert not any(half in str(caught.value) for half in HALVES)


def test_sentinels_that_do_not_answer_are_named(watched: Watched) -> None:
    hosts = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    message = refused(watched.url(*hosts))
    assert f"Redis at {SERVICE} (Sentinels {', '.join(sorted(hosts))}) cannot be" in message
    assert "no Sentinel answers" in message
    assert message.count("Connection refused") == 2


def test_a_service_that_is_not_known_is_named_beside_those_that_are(watched: Watched) -> None:
    message = refused(watched.url(service="others"))
    assert f"the Sentinels watch '{SERVICE}', and no 'others'" in message


def test_a_service_without_a_primary_says_that_it_continues_by_itself(watched: Watched) -> None:
    name = "gone"
    with redis.Redis.from_url(watched.sentinels[0].url) as sentinel:
        sentinel.sentinel_monitor(name, "127.0.0.1", free_port(), 2)  # one Sentinel does nothing
        sentinel.sentinel_set(name, "down-after-milliseconds", 1)
        wait_until(lambda: sentinel.sentinel_masters()[name]["is_sdown"])
        message = refused(watched.url(service=name))
        sentinel.sentinel_remove(name)
    assert "it has no primary now" in message
    assert "continues by itself" in message


@pytest.mark.parametrize("options", ["", "sentinel_password=wrong"])
def test_a_login_that_the_sentinels_refuse_names_their_options(
    watched: Watched, options: str
) -> None:
    message = refused(watched.url(options=options or "socket_timeout=5"))
    assert "refuses the login" in message
    assert "sentinel_username, sentinel_password" in message


def test_a_login_that_redis_refuses_is_not_that_of_the_sentinels(watched: Watched) -> None:
    message = refused(watched.url(password="wrong"))
    assert "check user and password in redis_url" in message
    assert "sentinel_" not in message


def test_a_redis_in_the_place_of_a_sentinel_is_no_sentinel(watched: Watched) -> None:
    options = f"sentinel_password={watched.url().rpartition('=')[2]}"
    assert "is no Sentinel" in refused(watched.url(watched.primary(), options=options))


def test_a_replica_that_a_sentinel_takes_for_the_primary_is_not_used(watched: Watched) -> None:
    (replica,) = (one for one in watched.servers if one != watched.primary())
    name = "outdated"
    with redis.Redis.from_url(watched.sentinels[0].url) as sentinel:
        sentinel.sentinel_monitor(name, "127.0.0.1", int(replica.split(":")[1]), 2)
        sentinel.sentinel_set(name, "auth-pass", PASSWORD)
        message = refused(watched.url(service=name))
        sentinel.sentinel_remove(name)
    assert f"{replica} is a replica now" in message


# -- commands ---------------------------------------------------------------------------------


def test_status_says_which_server_is_the_primary(watched: Watched, namespace: str) -> None:
    arguments = ["status", "--redis-url", watched.url(), "--namespace", namespace]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    where = f"the primary of {SERVICE} (Sentinels {watched.hosts[0]})"
    assert f"redis: {watched.primary()}, {where}" in done.stdout
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert printed["redis"] == watched.primary()


def checks(url: str, namespace: str, home: Path) -> dict[str, Finding]:
    return {one.check: one for one in diagnose(url, namespace=namespace, home=home)}


def test_doctor_looks_at_primary_and_sentinels(
    watched: Watched, namespace: str, tmp_path: Path
) -> None:
    found = checks(watched.url(), namespace, tmp_path)
    assert found["redis primary"].level == "ok"
    assert found["redis primary"].found == f"{watched.primary()}, with 1 replica"
    assert found["redis sentinels"].level == "note"
    assert found["redis sentinels"].found == "1 of 1 answer, 1 have to agree"
    assert "start three" in found["redis sentinels"].mend


def test_doctor_names_a_sentinel_that_is_away(
    watched: Watched, namespace: str, tmp_path: Path
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    found = checks(watched.url(gone, *watched.hosts), namespace, tmp_path)["redis sentinels"]
    assert found.level == "problem"
    assert f"1 of 2 answer, 1 have to agree; not {gone}" in found.found


def test_doctor_says_that_there_is_no_primary(namespace: str, tmp_path: Path) -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}"
    found = checks(url, namespace, tmp_path)["redis"]
    assert found.level == "problem"
    assert "no Sentinel answers" in found.found


def test_the_error_of_an_unreachable_service_is_an_outage() -> None:
    with pytest.raises(StoreUnavailable):
        Jamboree(f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}")
