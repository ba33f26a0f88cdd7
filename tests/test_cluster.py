"""Redis as a cluster: all that one server does, and what each mistake is told."""

from __future__ import annotations

import json
import os
import re
import select
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from backed_up import check_that_all_is_kept_once, follower_of, is_complete
from cluster_servers import PASSWORD, Cluster
from conftest import Server, free_port
from msgspec.structs import replace
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv, play
from redis.crc import key_slot
from stored import at, beside
from typer.testing import CliRunner
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.cli import app
from jamboree_gym.diagnosis import diagnose
from jamboree_gym.encoding.batch_format import decode_head
from jamboree_gym.errors import (
    InvalidUrl,
    JamboreeClosed,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
    UnsupportedServer,
)
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.redis.cluster import round_trip
from jamboree_gym.store.redis.doorbell import Doorbell
from jamboree_gym.store.redis.store import RedisStore

pytestmark = pytest.mark.once

HALVES = ("C4NARY", "B1RD")
LONGEST_MESSAGE = 400
SECURITY = Path(__file__).parents[1] / "docs" / "security.md"
CLUSTER_RIGHTS = "+cluster|slots +asking"
USERS = ("ann", "ben")
NO_TRACKING = ("-client|tracking",)
OpenJamboree = Callable[..., Jamboree]
READS_RECENT = """
import sys
from jamboree_gym import Jamboree

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    print(jam.episode(sys.argv[3]).recent(3).observations[:, 0].tolist())
"""


class Clock:
    """A clock that gives each episode another bucket."""

    def __init__(self) -> None:
        self.now_s = 1.7e9

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def record(jam: Jamboree, number: int = 12, steps: int = 3, run: str = "many") -> list[str]:
    """Ids of episodes that were recorded."""
    env, ids = jam.record(CountingEnv(steps), run=run), []
    for _ in range(number):
        play(env, [ACTION] * steps)
        ids.append(env.episode_id)
    jam.flush()
    return ids


def slot_of(jam: Jamboree, id: str) -> int:
    return int(key_slot(at(jam, jam._connection.keyspace.episode(id)).encode()))


def owners(jam: Jamboree, cluster: Cluster, ids: list[str]) -> set[str]:
    """The primaries that have some of these episodes."""
    return {cluster.owner_of(slot_of(jam, id)) for id in ids}


def observed(jam: Jamboree, id: str) -> list[float]:
    return list(jam.episode(id).data().observations[:, 0].tolist())


# -- recording and reading --------------------------------------------------------------------


def test_what_is_recorded_on_all_primaries_is_found_read_and_deleted(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam, reader = (open_jamboree(cluster.url(), clock=Clock()) for _ in range(2))
    ids = record(jam)
    assert len(owners(jam, cluster, ids)) == 3
    assert reader.episodes(run="many").ids() == ids
    assert [observed(reader, id) for id in ids] == [[0, 1, 2, 3]] * len(ids)
    assert reader.episodes(run="many").table().num_rows == 3 * len(ids)
    assert [one.name for one in reader.runs().summaries()] == ["many"]
    reader.episode(ids[0]).delete()
    assert jam.episodes().ids() == ids[1:]
    jam.run("many").delete()
    assert not reader.runs().summaries()
    assert f"on cluster {', '.join(sorted(cluster.first))}, write='buffered'>" in repr(jam)
    assert jam.redis.get("no such key") is None


def test_records_are_saved_read_popped_and_deleted(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam, reader = open_jamboree(cluster.url(), write="sync"), open_jamboree(cluster.url())
    for name in "abcdefgh":
        NoteHandler(jam, name).save_many({"n": n} for n in range(4))
        notes = NoteHandler(reader, name)
        assert [one["n"] for one in notes.many(3)] == [1, 2, 3]
        assert [one["n"] for one in notes.pop(2)] == [0, 1]
        assert notes.count() == 2
        notes.delete()
        assert notes.count() == 0


def test_fsync_waits_for_the_disk_of_every_primary(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(cluster.url(), write="fsync")
    NoteHandler(jam, "n").save_many({"n": n} for n in range(4))
    assert NoteHandler(open_jamboree(cluster.url()), "n").count() == 4


def test_recent_steps_are_read_in_another_process(
    cluster: Cluster, open_jamboree: OpenJamboree, namespace: str
) -> None:
    jam = open_jamboree(cluster.url())
    env = jam.record(CountingEnv(100))
    play(env, [ACTION] * 5)
    jam.flush()
    done = run_warm(READS_RECENT, cluster.url(), namespace, env.episode_id)
    assert (done.stdout, done.stderr) == ("[2.0, 3.0, 4.0]\n", "")


def test_followers_see_each_step_once(cluster: Cluster, open_jamboree: OpenJamboree) -> None:
    jam, reader = open_jamboree(cluster.url(), clock=Clock()), open_jamboree(cluster.url())
    tail = reader.tail(timeout_s=60)
    found: list[tuple[str, int]] = []
    first = jam.record(CountingEnv(100), run="a")
    first.reset()
    jam.flush()

    def follow() -> None:
        found.extend((episode.id, step.index) for episode, step in (next(tail) for _ in range(38)))

    follower = threading.Thread(target=follow)
    follower.start()
    wait_until(lambda: any(reader._connection.redis_store.feed._renew_at))
    ids = record(jam)
    play_on(first, 2)
    jam.flush()
    follower.join(60)
    expected = [(id, n) for id in ids for n in range(3)] + [(first.episode_id, n) for n in (0, 1)]
    assert sorted(found) == sorted(expected)
    steps = jam.episode(first.episode_id).tail(timeout_s=0.05)
    assert [step.index for step in steps] == [0, 1]


@pytest.mark.parametrize("may_track", [True, False])
def test_a_follower_that_has_waited_for_a_while_hears_of_what_comes(
    cluster: Cluster,
    open_jamboree: OpenJamboree,
    monkeypatch: pytest.MonkeyPatch,
    may_track: bool,
) -> None:
    for address in cluster.servers:
        with cluster.admin(address) as client:
            rights = ("reset", "on", ">SECRET", "~*", "+@all", *(() if may_track else NO_TRACKING))
            client.execute_command("ACL", "SETUSER", "eve", *rights)
    url = cluster.url(password="SECRET").replace("//:", "//eve:")
    jam, reader = open_jamboree(cluster.url()), open_jamboree(url)
    env = jam.record(CountingEnv(100))
    env.reset()
    jam.flush()
    armed, arm = list[int](), Doorbell.arm

    def note(bell: Doorbell) -> None:
        arm(bell)
        armed.append(len(bell.sockets))

    monkeypatch.setattr(Doorbell, "arm", note)
    found: list[int] = []
    tail = reader.tail(timeout_s=60)
    follower = threading.Thread(target=lambda: found.append(next(tail)[1].index))
    follower.start()
    wait_until(lambda: armed)
    env.step(ACTION)
    jam.flush()
    follower.join(60)
    assert found == [0]
    assert armed[0] == (3 if may_track else 0)


def play_on(env: Any, steps: int) -> None:
    for _ in range(steps):
        env.step(ACTION)


def test_a_follower_that_waits_is_told_when_its_jamboree_is_closed(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(cluster.url())
    tail, caught = jam.tail(timeout_s=60), list[BaseException]()

    def follow() -> None:
        try:
            next(tail)
        except JamboreeClosed as error:
            caught.append(error)

    follower = threading.Thread(target=follow)
    follower.start()
    wait_until(lambda: any(jam._connection.redis_store.feed._renew_at))
    jam.close()
    follower.join(60)
    assert len(caught) == 1


def test_an_episode_is_verified_and_forked(cluster: Cluster, open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree(cluster.url())
    env = jam.record(gym.make("CartPole-v1"))
    env.reset(seed=1)
    for _ in range(5):
        env.step(env.action_space.sample())
    env.close()
    episode = jam.episode(env.episode_id)
    assert episode.verify()
    with episode.fork(3) as forked:
        forked.step(0)


# -- the backup -------------------------------------------------------------------------------


def test_what_one_primary_has_lost_comes_back_from_a_folder(
    cluster: Cluster, open_jamboree: OpenJamboree, tmp_path: Path
) -> None:
    jam = open_jamboree(
        cluster.url(), backup=(tmp_path / "kept").as_uri(), clock=Clock(), backup_interval_s=3600
    )
    ids = record(jam)
    jam.backup.flush()
    lost = cluster.owner_of(slot_of(jam, ids[0]))
    with cluster.admin(lost) as client:
        client.flushall()
    more = record(jam)
    assert [observed(jam, id) for id in ids + more] == [[0, 1, 2, 3]] * 24
    assert jam.episodes(run="many").ids() == ids + more
    jam.backup.flush()
    assert jam.backup.verify()


def test_the_backup_evicts_what_mongodb_holds_and_reads_it_from_there(
    cluster: Cluster, open_jamboree: OpenJamboree, mongo: Server
) -> None:
    jam = open_jamboree(cluster.url(), mongo_url=mongo.url, clock=Clock(), backup=False)
    ids = record(jam)
    follower = follower_of(jam)
    follower.copy_once()
    assert follower.trouble is None
    assert is_complete(jam)
    store = jam._connection.redis_store
    assert set(store.log_keys()) == {store.keyspace.episode(id) for id in ids}
    jam.backup.retain(max_redis_bytes=1)
    jam.backup.trim()
    assert sum(map(store.memory, map(store.keyspace.episode, ids))) < 12 * 400
    assert [observed(jam, id) for id in ids] == [[0, 1, 2, 3]] * 12
    check_that_all_is_kept_once(jam)


def test_the_bell_of_the_backup_rings_for_a_key_of_any_primary(
    cluster: Cluster, namespace: str
) -> None:
    with closing(RedisStore.from_url(cluster.url(), Keyspace(namespace))) as store:
        keys = [bucket.unbacked for bucket in store.buckets.all]
        bell = Doorbell(store.link, lambda: keys)
        for at in range(0, 16, 5):
            bell.arm()
            assert len(bell.sockets) == 3
            assert not select.select(bell.sockets, [], [], 0)[0]
            store.client.zadd(keys[at], {"log": 1.0})
            assert select.select(bell.sockets, [], [], 60)[0]
        bell.close()


def test_who_waits_again_and_again_keeps_the_connections_to_the_primaries(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server remembers a closed one until the key changes."""
    connected, connect = list[object](), Doorbell._connected

    def counted(bell: Doorbell, pool: object) -> object:
        connected.append(pool)
        return connect(bell, pool)

    monkeypatch.setattr(Doorbell, "_connected", counted)
    with closing(RedisStore.from_url(cluster.url(), Keyspace(namespace))) as store:
        feeds = [bucket.feed for bucket in store.buckets.all]
        for _ in range(3):
            store.link.send([("XREAD", "BLOCK", 200, "STREAMS", *feeds, *["0"] * len(feeds))])
    assert len(connected) == len(set(connected)) == 3


# -- what a cluster does ----------------------------------------------------------------------


def test_a_primary_that_has_forgotten_the_scripts_gets_them_again(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(cluster.url(), clock=Clock())
    ids = record(jam)
    for address in cluster.primaries():
        with cluster.admin(address) as client:
            client.script_flush()
        ids += record(jam)
    assert jam.episodes().ids() == ids
    assert [observed(jam, id) for id in ids] == [[0, 1, 2, 3]] * len(ids)


def test_a_slot_is_followed_to_another_primary(
    cluster: Cluster, open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_trip, "PATIENCE_S", 0.05)
    jam = open_jamboree(cluster.url(), clock=Clock(), write="sync")
    ids = record(jam)
    losses = jam._connection.store.losses
    slot = slot_of(jam, ids[0])
    source = cluster.owner_of(slot)
    (to, *_) = (one for one in cluster.primaries() if one != source)
    cluster.tell(to, "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    cluster.tell(source, "SETSLOT", slot, "MIGRATING", cluster.id_of(to))
    log = at(jam, jam._connection.keyspace.episode(ids[0]))
    host, port = to.split(":")
    with cluster.admin(source) as client:
        client.execute_command(*("MIGRATE", host, port, "", 0, 5000, "AUTH", PASSWORD, "KEYS", log))
    assert [observed(jam, id) for id in ids] == [[0, 1, 2, 3]] * len(ids)  # ASK
    note = NoteHandler(jam, name_in(jam, slot))
    with pytest.raises(StoreUnavailable, match="is moving a slot to another server"):
        note.save({"n": 1})  # its script names keys here and there
    cluster.move_slot(slot, to)
    note.save({"n": 2})
    assert [one["n"] for one in note.many(5)] == [1, 2]
    assert [observed(jam, id) for id in ids] == [[0, 1, 2, 3]] * len(ids)  # MOVED
    assert jam._connection.store.losses > losses  # that server may lack what this one has answered
    assert to in jam._connection.redis_store.address()


@pytest.mark.parametrize("how", ["replace", "refill"])
def test_a_log_that_is_written_anew_while_its_slot_begins_to_move_is_not_lost(
    cluster: Cluster, open_jamboree: OpenJamboree, how: str
) -> None:
    jam = open_jamboree(cluster.url(), write="sync")
    note = NoteHandler(jam, "n")
    note.save_many({"n": n} for n in range(3))
    store, key = (
        jam._connection.redis_store,
        jam._connection.keyspace.records("note", {"name": "n"}),
    )
    head, *batches = store.whole([key])[0]
    known, epoch, log = decode_head(head, where=key), store.epoch(), at(jam, key)
    slot = int(key_slot(log.encode()))
    source = cluster.owner_of(slot)
    if how == "refill":  # nothing but its head is here
        with cluster.admin(source) as client:
            client.delete(log)
            client.rpush(log, replace(known, held=known.count).encode())
    (to, *_) = (one for one in cluster.primaries() if one != source)
    cluster.tell(to, "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    cluster.tell(source, "SETSLOT", slot, "MIGRATING", cluster.id_of(to))
    if how == "replace":
        assert store.restorer.replace(key, known, batches, instead_of=head, epoch=epoch)
    else:
        assert store.restorer.refill(key, replace(known, held=known.count), 0, batches)
    cluster.move_slot(slot, to)
    assert [one["n"] for one in note.many(9)] == [0, 1, 2]


def test_nothing_is_stored_that_needs_a_schema_which_a_full_primary_refuses(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(cluster.url(), backup=False)
    record(jam, 1)
    store = jam._connection.redis_store
    blobs = store.link.keys(store.keyspace.blob("*"))
    full = {cluster.owner_of(int(key_slot(blob.encode()))) for blob in blobs}
    with ExitStack() as exits:
        for address in cluster.primaries():
            client = exits.enter_context(cluster.admin(address))
            client.flushall()
            client.config_set("maxmemory", int(address in full))
            exits.callback(client.config_set, "maxmemory", 0)
        other = open_jamboree(cluster.url(), clock=Clock(), write="sync", backup=False)
        for _ in range(12):
            with pytest.raises(StoreFull):
                other.record(CountingEnv(3)).reset()
        assert not set(store.log_keys())


def name_in(jam: Jamboree, slot: int) -> str:
    """A name of notes that lie in a slot."""
    for name in map(str, range(1000)):
        key = jam._connection.keyspace.records("note", {"name": name})
        if int(key_slot(beside(jam, key, "feed").encode())) == slot:
            return name
    raise LookupError(slot)


def test_a_replica_takes_the_place_of_its_primary(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam, reader = open_jamboree(cluster.url(), clock=Clock()), open_jamboree(cluster.url())
    ids = record(jam)
    assert reader.episodes().ids() == ids
    replica = cluster.fail_over(cluster.owner_of(slot_of(jam, ids[0])))
    ids += record(jam)
    assert reader.episodes().ids() == ids
    assert [observed(reader, id) for id in ids] == [[0, 1, 2, 3]] * 24
    assert replica in reader._connection.redis_store.address()


def test_a_slot_that_no_server_has_is_told_and_found_again(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(cluster.url(), write="sync")
    note = NoteHandler(jam, "n")
    note.save({"n": 1})
    key = jam._connection.keyspace.records("note", {"name": "n"})
    slot = int(key_slot(at(jam, key).encode()))
    owner = cluster.owner_of(slot)
    cluster.tell(owner, "DELSLOTS", slot)
    with pytest.raises(StoreUnavailable, match="does not serve all its slots now"):
        note.save({"n": 2})
    cluster.tell(owner, "ADDSLOTS", slot)
    note.save({"n": 3})
    assert [one["n"] for one in note.many(9)] == [1, 2, 3]


def test_the_order_of_servers_names_the_same_place(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    one = open_jamboree(cluster.url())
    other = open_jamboree(cluster.url(*reversed(cluster.first)))
    NoteHandler(one, "n").save({"n": 1})
    assert NoteHandler(other, "n").count() == 1  # a save of the same process and place is seen
    assert one._connection._place == other._connection._place


def test_a_forked_process_records_by_connections_of_its_own(
    cluster: Cluster, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(cluster.url(), write="sync")
    notes = NoteHandler(jam, "n")
    notes.save({"n": 1})
    if (pid := os.fork()) == 0:  # pragma: no cover - another process
        try:
            notes.save({"n": 2})
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    notes.save({"n": 3})
    assert [one["n"] for one in notes.many(9)] == [1, 2, 3]


# -- what does not work -----------------------------------------------------------------------


def refused(url: str, kind: type[JamboreeError] = StoreUnavailable) -> str:
    """What is told to who opens it: two lines, without a password."""
    with pytest.raises(kind) as caught:
        Jamboree(url)
    text = str(caught.value)
    assert len(text) <= LONGEST_MESSAGE
    assert not any(half in text for half in HALVES)
    return text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+cluster:///", r"cannot be read"),
        ("redis+cluster://127.0.0.1:many", r"the host, port or database .* be read"),
        ("redis+cluster://127.0.0.1:1,", r"cannot be read"),
        ("redis+cluster://127.0.0.1:1/2", r"names the database 2, .* has 0 alone; use redis\+clu"),
        ("redis+cluster://127.0.0.1:1/?ssl_ca_certs=x", r"needs rediss\+cluster://"),
        ("redis+cluster://127.0.0.1:1/?colour=red", r"or an option"),
        *(
            (f"redis+cluster://ann:{mark.join(HALVES)}@127.0.0.1:1", f"'{quoted}")
            for mark, quoted in (("/", "/' is %2F"), ("#", "#' is %23"), ("?", "/' is %2F"))
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_explained(url: str, message: str) -> None:
    with pytest.raises(InvalidUrl, match=message) as caught:
        Jamboree(url)
    assert not any(half in str(caught.value) for half in HALVES)


def test_servers_that_do_not_answer_are_named(cluster: Cluster) -> None:
    hosts = [f"127.0.0.1:{free_port()}" for _ in range(6)]
    message = refused(cluster.url(*hosts))
    assert f"Redis at cluster {', '.join(sorted(hosts))} cannot be reached" in message
    assert "no node answers" in message
    assert message.count("Connection refused") == 2
    assert "and 4 more" in message


def test_the_client_of_a_cluster_that_is_away_is_an_outage(namespace: str) -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()}"
    store = RedisStore.from_url(url, Keyspace(namespace))
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.client  # noqa: B018 - connects
    store.close()


def test_one_that_answers_is_enough(cluster: Cluster, open_jamboree: OpenJamboree) -> None:
    gone = f"127.0.0.1:{free_port()}"
    jam = open_jamboree(cluster.url(gone, cluster.first[2]))
    assert record(jam, 1)
    assert len(jam._connection.redis_store.address().split(", ")) == 3


def test_a_wrong_password_is_told(cluster: Cluster) -> None:
    message = refused(cluster.url(password="wrong"))
    assert "refuses the login" in message
    assert "check user and password in redis_url" in message


def test_one_server_is_no_cluster(own_valkey_port: int) -> None:
    message = refused(f"redis+cluster://127.0.0.1:{own_valkey_port}", UnsupportedServer)
    assert f"use redis://127.0.0.1:{own_valkey_port}" in message


def test_a_node_of_a_cluster_is_no_single_server(cluster: Cluster) -> None:
    url = cluster.url(cluster.first[0]).replace("redis+cluster", "redis")
    message = refused(url, UnsupportedServer)
    assert (
        f"is a node of a cluster, and holds a part alone: use redis+cluster://{cluster.first[0]}"
        in (message)
    )


@pytest.fixture
def own_valkey_port(start_own_redis: Callable[..., Server]) -> int:
    port = free_port()
    start_own_redis("valkey9", "--port", str(port))
    return port


# -- commands ---------------------------------------------------------------------------------


def test_status_says_which_servers_are_the_primaries(cluster: Cluster, namespace: str) -> None:
    arguments = ["status", "--redis-url", cluster.url(), "--namespace", namespace]
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert set(printed["redis"].split(", ")) == set(cluster.primaries())
    done = CliRunner().invoke(app, arguments)
    assert f"redis: {printed['redis']}, the primaries of cluster " in done.stdout


def test_doctor_looks_at_all_primaries(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    found = {one.check: one for one in diagnose(cluster.url(), namespace=namespace, home=tmp_path)}
    assert found["redis cluster"].found == "3 primary servers, each with a replica"
    assert {one.level for name, one in found.items() if name.startswith("redis ")} <= {"ok", "note"}
    assert found["redis disk"].found == "append-only file on, appendfsync everysec"


def test_migrate_finds_nothing_to_do(
    cluster: Cluster, open_jamboree: OpenJamboree, namespace: str
) -> None:
    record(open_jamboree(cluster.url()))
    arguments = ["migrate", "--redis-only", "--redis-url", cluster.url(), "--namespace", namespace]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (0, "0 logs brought up to date\n")


def test_the_rights_of_the_page_are_enough(
    cluster: Cluster, open_jamboree: OpenJamboree, namespace: str
) -> None:
    page = SECURITY.read_text()
    assert f"each user also needs `{CLUSTER_RIGHTS}`" in page
    lines = re.findall(r"^ACL SETUSER (?:recorder|reader) reset on >SECRET (.*)$", page, re.M)
    for address in cluster.servers:
        with cluster.admin(address) as client:
            for name, line in zip(USERS, lines, strict=True):
                rights = f"{line} {CLUSTER_RIGHTS}".replace("jamboree:", f"{namespace}:")
                words = re.findall(r"\([^)]*\)|\S+", rights)  # (...) is one argument
                client.execute_command("ACL", "SETUSER", name, "reset", "on", ">SECRET", *words)
    urls = {name: cluster.url(password="SECRET").replace("//:", f"//{name}:") for name in USERS}
    jam = open_jamboree(urls["ann"], clock=Clock(), backup=False)
    for address in cluster.primaries():
        with cluster.admin(address) as client:
            client.script_flush()
    ids = record(jam)
    reader = open_jamboree(urls["ben"], backup=False)
    assert [observed(reader, id) for id in ids] == [[0, 1, 2, 3]] * len(ids)
    assert len(list(reader.tail(since=0, timeout_s=0.01))) == 3 * len(ids)
    assert reader.episodes().summaries()[0].status == "terminated"
