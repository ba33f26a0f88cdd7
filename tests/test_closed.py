"""Before and after: what was not reset yet, and what is closed, say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Server
from gymnasium.vector import SyncVectorEnv
from recorded_envs import ACTION, CountingEnv
from stored import at

from jamboree_gym import (
    DBHandler,
    EpisodeHandler,
    InvalidArgument,
    Jamboree,
    JamboreeClosed,
    NotReset,
)
from jamboree_gym import jamboree as jamboree_module
from jamboree_gym.connection import Connection
from jamboree_gym.replay import fork, verify

OpenJamboree = Callable[..., Jamboree]

CLOSED = "this Jamboree is closed"

CALLS: dict[str, Callable[[Jamboree], Any]] = {
    "with": lambda jam: jam.__enter__(),
    "record": lambda jam: jam.record(CountingEnv()),
    "record a vector": lambda jam: jam.record(SyncVectorEnv([CountingEnv])),
    "episode": lambda jam: jam.episode("01"),
    "episodes": lambda jam: jam.episodes(),
    "run": lambda jam: jam.run("a"),
    "runs": lambda jam: jam.runs(),
    "tail": lambda jam: jam.tail(),
    "atail": lambda jam: jam.atail(),
    "recent": lambda jam: jam.recent([], 1),
    "diff": lambda jam: jam.diff("01", "02"),
    "flush": lambda jam: jam.flush(),
    "redis": lambda jam: jam.redis,
    "mongo": lambda jam: jam.mongo,
    "backup.status": lambda jam: jam.backup.status(),
    "backup.flush": lambda jam: jam.backup.flush(),
    "backup.verify": lambda jam: jam.backup.verify(),
    "backup.restore": lambda jam: jam.backup.restore(),
    "backup.trim": lambda jam: jam.backup.trim(),
    "backup.retain": lambda jam: jam.backup.retain(max_age_s=3),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_call_on_a_closed_jamboree_says_that_it_is_closed(
    open_jamboree: OpenJamboree, call: Callable[[Jamboree], Any]
) -> None:
    jam = open_jamboree()
    jam.close()
    with pytest.raises(JamboreeClosed, match=CLOSED):
        call(jam)


def test_what_was_read_with_a_closed_jamboree_says_that_it_is_closed(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    env = jam.record(CountingEnv(), run="a")
    env.reset()
    env.step(ACTION)
    episode, query, run, handler = (
        jam.episode(env.episode_id),
        jam.episodes(),
        jam.run("a"),
        EpisodeHandler(jam),
    )
    handler["episode"] = episode
    jam.close()
    reads: list[Callable[[], Any]] = [
        lambda: episode.status,
        lambda: episode.data(),
        lambda: episode.steps(-1),
        lambda: next(episode.tail()),
        lambda: episode.delete(),
        lambda: fork(episode, 1),
        lambda: verify(episode),
        lambda: list(query),
        lambda: query.table(),
        lambda: run.history,
        lambda: run.checkpoint(),
        lambda: run.recent(1),
        lambda: handler.recent(1),
        lambda: env.reset(),
    ]
    for read in reads:
        with pytest.raises(JamboreeClosed, match=CLOSED):
            read()


def test_a_closed_jamboree_says_so_where_it_is_shown(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    assert "closed" not in repr(jam)
    jam.close()
    assert repr(jam).endswith(", closed>")


def test_a_handler_on_a_closed_jamboree_saves_and_reads_nothing(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    handler = DBHandler(jam)
    handler.entity = "note"
    jam.close()
    for use in (lambda: handler.save({"n": 1}), lambda: handler.last()):
        with pytest.raises(JamboreeClosed, match=CLOSED):
            use()


def test_there_is_no_episode_id_before_the_first_reset(jam: Jamboree) -> None:
    env, vector = jam.record(CountingEnv()), jam.record(SyncVectorEnv([CountingEnv] * 2))

    for recorded, name in ((env, "episode_id"), (vector, "episode_ids")):
        assert not hasattr(recorded, name)
        with pytest.raises(NotReset, match="call reset"):
            getattr(recorded, name)


@pytest.mark.torch
def test_a_recorded_vec_env_knows_before_and_after(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = jam.record(DummyVecEnv([CountingEnv]))
    assert not hasattr(venv, "episode_ids")
    venv.reset()
    venv.close()
    with pytest.raises(JamboreeClosed, match="closed: call reset"):
        venv.step(np.array([ACTION]))


@pytest.mark.parametrize("is_vector", [False, True])
def test_a_step_after_close_says_what_to_do_and_a_reset_begins_again(
    jam: Jamboree, is_vector: bool
) -> None:
    env: Any = jam.record(SyncVectorEnv([CountingEnv]) if is_vector else CountingEnv())
    action = np.array([ACTION]) if is_vector else ACTION
    env.reset()
    env.step(action)
    env.close()
    with pytest.raises(JamboreeClosed, match="closed: call reset"):
        env.step(action)

    env.reset()
    env.step(action)
    episode_id = env.episode_ids[0] if is_vector else env.episode_id
    assert len(jam.episode(episode_id)) == 1


@pytest.mark.torch
def test_a_callback_of_a_closed_jamboree_is_refused(open_jamboree: OpenJamboree) -> None:
    from jamboree_gym.integrations import sb3

    jam = open_jamboree()
    jam.close()
    with pytest.raises(JamboreeClosed, match=CLOSED):
        sb3.JamboreeCallback(jam)


@pytest.mark.parametrize("variable", ["JAMBOREE_REDIS_URL", "JAMBOREE_MONGO_URL", "JAMBOREE_HOME"])
def test_an_empty_variable_is_no_reason_to_open_another_store(
    variable: str, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "")
    redis_url = valkey.url if variable == "JAMBOREE_MONGO_URL" else None
    with pytest.raises(InvalidArgument, match=f"{variable} is empty: set it to .*, or unset it"):
        Jamboree(redis_url)


def test_an_empty_variable_does_not_matter_where_the_argument_is_given(
    valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAMBOREE_REDIS_URL", "")
    monkeypatch.setenv("JAMBOREE_HOME", "")
    Jamboree(valkey.url, namespace=namespace).close()


def test_episodes_and_ids_are_taken_for_each_other(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(), run="a")
    env.reset()
    env.step(ACTION)
    episode = jam.episode(env.episode_id)
    handler = EpisodeHandler(jam)
    handler["episode"] = episode

    assert jam.episode(episode).id == jam.episodes().episode(episode).id == episode.id
    assert handler.recent(1).rewards.tolist() == episode.recent(1).rewards.tolist()
    assert not jam.diff(episode, episode.id)
    assert len(jam.recent([episode, episode.id], 1)) == 2
    assert len(jam.episodes().where(parent=episode)) == 0


def test_an_id_where_no_jamboree_is_known_is_answered_with_how_to_get_the_episode() -> None:
    with pytest.raises(InvalidArgument, match=r"^episode='01': give an Episode: jam\.episode\(id"):
        fork("01", 2)  # type: ignore[arg-type]


def test_a_handler_class_of_records_is_none_of_episodes(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match=r"^handler_class=DBHandler: give EpisodeHandler, or"):
        jam.record(CountingEnv(), handler_class=DBHandler)  # type: ignore[arg-type]


def test_what_is_no_environment_is_named(jam: Jamboree) -> None:
    with pytest.raises(TypeError, match=r"^env: str cannot be recorded"):
        jam.record("CartPole-v1")  # type: ignore[call-overload]


@pytest.mark.usefixtures("nothing_held")
def test_an_error_in_the_block_is_not_hidden_by_what_cannot_be_saved_at_its_end(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    env = jam.record(CountingEnv())
    env.reset()
    jam.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(env.episode_id)))
    env.step(ACTION)
    with pytest.raises(ZeroDivisionError) as raised, jam:
        _ = 1 / 0
    (note,) = raised.value.__notes__
    assert "UnsavedRecords at its close: 1 records are not in Redis" in note
    assert "the next Jamboree of this store delivers it" in note


class CutOffBackup:
    """A Ctrl-C comes while the backup makes its last copy."""

    def begin(self) -> None:
        """Something was delivered."""

    def close(self, timeout_s: float) -> None:
        """Wait for it."""
        raise KeyboardInterrupt


def test_a_ctrl_c_while_it_is_closed_leaves_nothing_open(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    opened = jam._connection.opened
    opened.backup = CutOffBackup()
    jam.record(CountingEnv()).reset()
    thread = opened.lease._thread
    assert thread is not None

    with pytest.raises(KeyboardInterrupt):
        jam.close()

    assert not thread.is_alive()
    with pytest.raises(JamboreeClosed):
        opened.store.redis.time()


def test_a_ctrl_c_while_it_is_opened_leaves_nothing_open(
    valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Connection] = []

    def wait(connection: Connection) -> int:
        made.append(connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(jamboree_module, "deliver_dead_journals", wait)
    with pytest.raises(KeyboardInterrupt):
        Jamboree(valkey.url, namespace=namespace)
    with pytest.raises(JamboreeClosed):
        made[0].check_open()


def test_a_callback_that_fails_at_the_close_keeps_nothing_open(
    open_jamboree: OpenJamboree,
) -> None:
    jam, called = open_jamboree(), list[int]()

    def fail() -> None:
        raise OSError("no space left")

    jam._connection.add_close_callback(lambda: called.append(1))
    jam._connection.add_close_callback(fail)
    with pytest.raises(OSError, match="no space left"):
        jam.close()
    assert called == [1]
    with pytest.raises(JamboreeClosed):
        jam.flush()
