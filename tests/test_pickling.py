"""Copies and pickles: a connection goes as its address, and what is being recorded stays."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from stored import servers
from warm import run_warm

from jamboree_gym import DBHandler, EpisodeHandler, Jamboree
from jamboree_gym.delivery.opened import writers_here
from jamboree_gym.errors import JamboreeClosed, JamboreeError, NotCopyable
from jamboree_gym.handlers.snapshots import SnapshotHandler
from jamboree_gym.reading.finding.filters import EpisodeFilter
from jamboree_gym.reading.follow_all import AllTail
from jamboree_gym.replay import verify
from jamboree_gym.servers.address import HomeAddress, UrlAddress

WAYS = {"pickle": lambda one: pickle.loads(pickle.dumps(one)), "deepcopy": copy.deepcopy}


@pytest.fixture
def env(jam: Jamboree) -> Any:
    recorded = jam.record(gym.make("CartPole-v1"), run="first")
    recorded.reset(seed=1)
    recorded.step(0)
    return recorded


# --- in one process ------------------------------------------------------------------------------

READERS: dict[str, Callable[[Jamboree, Any], Any]] = {
    "episode": lambda jam, env: jam.episode(env.episode_id),
    "query": lambda jam, env: jam.episodes(run="first").where("steps > 0").order_by("-steps")[:3],
    "runs": lambda jam, env: jam.runs(),
    "run": lambda jam, env: jam.run(env.run),
    "handler": lambda jam, env: env.handler,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("way", [*WAYS.values(), copy.copy], ids=[*WAYS, "copy"])
def test_a_copy_of_what_reads_uses_the_same_connection(
    jam: Jamboree, env: Any, name: str, way: Callable[[Any], Any]
) -> None:
    one = READERS[name](jam, env)
    again = way(one)
    assert again is not one
    assert again._connection is jam._connection
    assert repr(again) == repr(one)


def test_a_copy_of_a_query_finds_the_same_episodes(jam: Jamboree, env: Any) -> None:
    queries = [
        jam.episodes(run="first").where("steps > 0").order_by("-steps")[:3],
        jam.episodes().where(status="running", tags={}, parent=None),
        jam.episodes().weighted([1.0]).order_by("seed"),
    ]
    for query in queries:
        for way in WAYS.values():
            assert way(query).ids() == query.ids() == [env.episode_id]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_of_a_jamboree_is_opened_anew_and_closed_by_itself(
    jam: Jamboree, env: Any, way: Callable[[Any], Any]
) -> None:
    with way(jam) as again:
        assert again._connection is not jam._connection
        assert len(again.episode(env.episode_id)) == 1
        assert again._connection.address().options == jam._connection.address().options
    env.step(1)
    assert len(jam.episode(env.episode_id)) == 2


def test_a_copy_that_is_dropped_closes_itself_without_a_warning(jam: Jamboree) -> None:
    handler = DBHandler(copy.deepcopy(jam))
    handler.entity = "note"
    handler.save({"value": 1})
    writer = handler.event._connection.writer_name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del handler
        gc.collect()
    deadline = time.monotonic() + 60
    while writer in writers_here:  # on another thread
        assert time.monotonic() < deadline
        time.sleep(0.005)
    note = DBHandler(jam)
    note.entity = "note"
    assert note.count() == 1


def test_a_closed_jamboree_cannot_be_copied(open_jamboree: Callable[..., Jamboree]) -> None:
    jam = open_jamboree()
    query = jam.episodes()
    jam.close()
    for one in (jam, query):
        for way in WAYS.values():
            with pytest.raises(JamboreeClosed):
                way(one)


def test_what_was_read_is_data_and_can_be_pickled(jam: Jamboree, env: Any) -> None:
    episode = jam.episode(env.episode_id)
    for read in (episode.steps(), episode.recent(1), episode.data()):
        back = pickle.loads(pickle.dumps(read))
        np.testing.assert_array_equal(back.observations, read.observations)
    rows = episode._rows()
    again = copy.deepcopy(rows)
    assert again.observation(1).tolist() == rows.observation(1).tolist()
    for one in (episode.summary, episode.origin, episode.provenance, next(iter(episode.steps()))):
        pickle.loads(pickle.dumps(one))


def test_what_follows_stays_and_says_so(jam: Jamboree) -> None:
    with pytest.raises(NotCopyable, match="cannot be copied or pickled: follow there") as no:
        pickle.dumps(AllTail(jam._connection, EpisodeFilter()))
    assert isinstance(no.value, JamboreeError)
    assert isinstance(no.value, TypeError)  # what copy and pickle raise


class Trades(DBHandler):
    def __init__(self, jam: Jamboree | None = None) -> None:
        super().__init__(jam)
        self.entity = "trade"
        self.required = {"episode": str}
        self.fee = 0.5


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_of_a_handler_continues_its_log(jam: Jamboree, way: Callable[[Any], Any]) -> None:
    trades = Trades(jam)
    trades["episode"] = "e1"
    trades.save({"value": 1})
    again = way(trades)
    again.save({"value": 2})
    trades.save({"value": 3})
    assert again.fee == 0.5
    assert isinstance(again.event, Jamboree)
    assert [one["value"] for one in again.many(9)] == [1, 2, 3]
    assert way(Trades()).fee == 0.5  # one without a Jamboree


# --- recorded environments -----------------------------------------------------------------------


class Counting(EpisodeHandler):
    """A handler of a user's own, with something to remember."""

    seen = 0

    def add_step(self, *outcome: Any) -> None:
        self.seen += 1
        super().add_step(*outcome)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_of_a_recorded_environment_records_from_its_next_reset_on(
    jam: Jamboree, way: Callable[[Any], Any]
) -> None:
    options = {"run": "mine", "tags": {"lr": 0.5}, "handler_class": Counting}
    recorded = jam.record(gym.make("CartPole-v1"), **options)
    recorded.reset(seed=1)
    recorded.step(0)
    again = way(recorded)
    again.step(1)  # of the episode that stays with the first one
    recorded.step(1)
    recorded.step(0)
    again.reset()
    again.step(0)
    first, second = jam.episode(recorded.episode_id), jam.episode(again.episode_id)
    assert first.data().actions.tolist() == [0, 1, 0]
    assert second.data().actions.tolist() == [0]
    assert (second.summary.run, second.summary.tags) == ("mine", {"lr": 0.5})
    assert again.handler.seen == 2  # 1 when it was copied
    assert verify(first)
    assert verify(second)
    assert len(jam.episodes(run="mine")) == 2


@pytest.mark.parametrize("num_envs", [2, 9])
def test_a_copy_of_a_recorded_vector_environment_records(jam: Jamboree, num_envs: int) -> None:
    envs = jam.record(gym.make_vec("CartPole-v1", num_envs=num_envs))
    actions = np.zeros(num_envs, np.int64)
    envs.reset(seed=1)
    envs.step(actions)
    again = copy.deepcopy(envs)
    again.step(actions)
    envs.step(actions)
    again.reset()
    for _ in range(3):
        again.step(actions)
    for i in (0, num_envs - 1):
        assert len(jam.episode(envs.episode_ids[i])) == 2
        copied = jam.episode(again.episode_ids[i])
        assert len(copied) == 3
        assert verify(copied)
    assert len(jam.episodes(run=envs.run)) == 2 * num_envs


class Painted(gym.Env[Any, Any]):
    """Has frames and snapshots, and can be pickled."""

    observation_space = action_space = gym.spaces.Discrete(100)
    render_mode = "rgb_array"
    at = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self.at, {}

    def step(self, action: Any) -> Any:
        self.at += 1
        return self.at, 0.0, False, False, {}

    def render(self) -> Any:
        return np.full((2, 2, 3), self.at, np.uint8)

    def snapshot(self) -> bytes:
        return bytes([self.at])

    def restore(self, content: bytes) -> None:
        (self.at,) = content


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_records_its_own_frames_and_snapshots(
    jam: Jamboree, way: Callable[[Any], Any]
) -> None:
    recorded = jam.record(Painted(), record_frames=2, snapshot_every=2)
    recorded.reset()
    recorded.step(0)
    again = way(recorded)
    recorded.step(0)
    again.reset()
    for _ in range(4):
        again.step(0)
    for env, steps in ((recorded, [0, 2]), (again, [0, 2, 4])):
        frames = list(jam.episode(env.episode_id).renders())
        assert [(step, int(frame[0, 0, 0])) for step, frame in frames] == [
            *zip(steps, steps, strict=True)
        ]
        snapshots = SnapshotHandler(jam)
        snapshots["episode"] = env.episode_id
        assert snapshots.count() == len(steps)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("api", ["aec", "parallel"])
def test_a_copy_of_recorded_agents_records(
    jam: Jamboree, api: str, way: Callable[[Any], Any]
) -> None:
    from mpe2 import simple_spread_v3

    make = simple_spread_v3.env if api == "aec" else simple_spread_v3.parallel_env
    env = jam.record(make(max_cycles=3), run="agents")
    env.reset(seed=1)
    _one_turn(env)
    again = way(env)
    _one_turn(env)
    again.reset(seed=2)
    for _ in range(2):
        _one_turn(again)
    assert again.joint_id != env.joint_id
    assert jam.joint_episode(again.joint_id).verify()
    assert jam.joint_episode(env.joint_id).verify()
    copied = way(jam.joint_episode(again.joint_id))
    assert copied.id == again.joint_id
    assert [one.id for one in copied.episodes]


def _one_turn(env: Any) -> None:
    if hasattr(env, "agent_selection"):
        env.last()
        env.step(1)
    else:
        env.step(dict.fromkeys(env.agents, 1))


# --- in another process --------------------------------------------------------------------------

USES_WHAT_ARRIVES = """
import pickle, sys, threading
from pathlib import Path

content = Path(sys.argv[1]).read_bytes()
found = []
threads = [threading.Thread(target=lambda: found.append(pickle.loads(content))) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
episode, query, run, handler, env, jam = found[0]
assert len({id(one[0]._connection) for one in found}) == 1  # one for all that does not close it
shared = {id(one._connection) for one in (episode, query, run, handler, env.handler)}
assert shared == {id(episode._connection)}, shared
assert jam._connection is not episode._connection
print(len(episode), query.ids() == [episode.id], run.summary.episodes)
handler.save({"value": 2})
env.reset(seed=2)
env.step(1)
env.step(0)
print(len(env.handler.recent(9)), len(jam.episode(env.episode_id)))
for one in found:
    one[-1].close()
"""


def test_what_arrives_in_another_process_reads_and_records_there(
    jam: Jamboree, env: Any, tmp_path: Path
) -> None:
    handler = DBHandler(jam)
    handler.entity = "note"
    handler.save({"value": 1})
    episode = jam.episode(env.episode_id)
    whole = (episode, jam.episodes(run="first"), jam.run("first"), handler, env, jam)
    (tmp_path / "sent").write_bytes(pickle.dumps(whole))
    there = run_warm(USES_WHAT_ARRIVES, tmp_path / "sent")
    assert (there.stdout.splitlines(), there.stderr) == (["1 True 1", "2 2"], "")
    assert [one["value"] for one in handler.many(9)] == [1, 2]
    second = jam.episodes(run="first")[-1]
    assert second.data().actions.tolist() == [1, 0]
    assert second.status == "abandoned"  # its process has ended
    assert verify(second)
    env.step(1)
    assert len(episode) == 2


def recorded_cartpole(jam: Jamboree, run: str) -> Callable[[], Any]:
    return lambda: jam.record(gym.make("CartPole-v1"), run=run)


def test_an_async_vector_env_that_is_spawned_records_with_what_the_factory_captures(
    jam: Jamboree,
) -> None:
    envs = gym.vector.AsyncVectorEnv([recorded_cartpole(jam, "async")], context="spawn")
    envs.reset(seed=[3])
    for _ in range(4):
        envs.step([1])
    envs.close()
    _check_spawned(jam, "async")


@pytest.mark.long  # the worker imports torch; that of Gymnasium proves the same
@pytest.mark.torch
def test_a_subproc_vec_env_that_is_spawned_records_with_what_the_factory_captures(
    jam: Jamboree,
) -> None:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    venv = SubprocVecEnv([recorded_cartpole(jam, "subproc")], start_method="spawn")
    venv.seed(3)
    venv.reset()
    for _ in range(4):
        venv.step(np.ones(1, np.int64))
    venv.close()
    _check_spawned(jam, "subproc")


def _check_spawned(jam: Jamboree, run: str) -> None:
    """The worker has ended, so what it recorded is delivered."""
    (episode,) = jam.episodes(run=run)
    assert episode.data().actions.tolist() == [1, 1, 1, 1]
    assert episode.summary.seed == 3
    assert episode.provenance["pid"] != os.getpid()
    assert verify(episode)


def test_a_forked_process_uses_the_connection_that_it_has(jam: Jamboree, env: Any) -> None:
    content = pickle.dumps(jam.episode(env.episode_id))
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def look() -> None:
        episode = pickle.loads(content)
        sender.send((episode._connection is jam._connection, len(episode)))

    process = context.Process(target=look)
    process.start()
    assert receiver.recv() == (True, 1)
    process.join()


# --- addresses -----------------------------------------------------------------------------------


@pytest.fixture
def locked_url(valkey: Server, jam: Jamboree) -> Iterator[str]:
    """The URL of a user with a password."""
    for server in servers(jam):
        server.execute_command("ACL", "SETUSER", "portable", "on", ">s3cret", "~*", "&*", "+@all")
    yield valkey.url.replace("://", "://portable:s3cret@")
    for server in servers(jam):
        server.execute_command("ACL", "DELUSER", "portable")


COUNTS = """
import pickle, sys
from pathlib import Path

from jamboree_gym.errors import NotCopyable

try:
    print(len(pickle.loads(Path(sys.argv[1]).read_bytes())))
except NotCopyable as error:
    print(error)
"""


def test_a_password_stays_and_the_other_side_takes_its_own(
    locked_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sent"
    with Jamboree(locked_url, namespace=namespace) as jam:
        env = jam.record(gym.make("CartPole-v1"))
        env.reset(seed=1)
        path.write_bytes(pickle.dumps(jam.episode(env.episode_id)))
        assert b"s3cret" not in path.read_bytes()
        with copy.deepcopy(jam) as again:  # here it is known
            assert len(again.episode(env.episode_id)) == 0
        spawn = multiprocessing.get_context("spawn")
        with pytest.raises(NotCopyable, match="JAMBOREE_REDIS_URL"):  # said here, not there
            spawn.Process(target=print, args=(jam,)).start()
        refused = run_warm(COUNTS, path).stdout
        monkeypatch.setenv("JAMBOREE_REDIS_URL", locked_url.replace("s3cret", "another"))
        assert "refuses the login" in run_warm(COUNTS, path).stderr
        monkeypatch.setenv("JAMBOREE_REDIS_URL", locked_url)
        assert run_warm(COUNTS, path).stdout == "0\n"
    assert refused.splitlines() == [
        f"{locked_url.replace('s3cret', '***')} came without its password, because no password is "
        "copied or pickled:",
        "set JAMBOREE_REDIS_URL to the whole URL before that process starts, or open a Jamboree "
        "there",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://me:pw@db/?replicaSet=a",
        "mongodb://db/?tls=true&tlsCertificateKeyFilePassword=pw",
        "mongodb+srv://key@db/?authMechanismProperties=AWS_SESSION_TOKEN:pw",
        "redis://:p:w@db:1/2",
        "rediss://db:1/2?password=pw",
    ],
)
def test_every_kind_of_password_stays(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = UrlAddress.of(url, "JAMBOREE_BACKUP_URL", "JAMBOREE_MONGO_URL")
    assert address is not None
    assert "pw" not in repr(address)
    assert "p:w" not in repr(address)
    with pytest.raises(NotCopyable, match="JAMBOREE_BACKUP_URL or JAMBOREE_MONGO_URL"):
        address.url()
    monkeypatch.setenv("JAMBOREE_BACKUP_URL", url.replace("@db", "@other").replace("/db", "/other"))
    with pytest.raises(NotCopyable):  # that is another server
        address.url()
    monkeypatch.setenv("JAMBOREE_MONGO_URL", url)
    assert address.url() == url


@pytest.mark.parametrize("url", ["redis://me@db:1/2", "unix:///tmp/a.sock", "file:///mnt/backup"])
def test_an_address_without_a_password_is_the_url(url: str) -> None:
    address = UrlAddress.of(url)
    assert address is not None
    assert address.url() == url


def test_embedded_servers_go_as_their_directory_whatever_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sent"
    with Jamboree(home=tmp_path / "home") as jam:
        env = jam.record(gym.make("CartPole-v1"))
        env.reset(seed=1)
        env.step(0)
        path.write_bytes(pickle.dumps(jam.episode(env.episode_id)))
        monkeypatch.setenv("JAMBOREE_REDIS_URL", "redis://nobody.invalid:1")
        monkeypatch.setenv("JAMBOREE_BACKUP_URL", "mongodb://nobody.invalid:1")
        there = run_warm(COUNTS, path)
        assert (there.stdout, there.stderr) == ("1\n", "")


def test_a_directory_of_the_same_name_is_not_the_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    address = HomeAddress.of(home)
    assert address.home() == home.resolve()
    home.rename(tmp_path / "moved")  # it stays, so that its number is not given again
    for remake in (home.mkdir, lambda: shutil.rmtree(home)):
        remake()
        with pytest.raises(NotCopyable, match=f"in {home} on .* cannot be opened here") as error:
            address.home()
        assert len(str(error.value).splitlines()) == 2
