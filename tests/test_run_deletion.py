"""A run is deleted with all that was recorded under its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from recorded_envs import ACTION, CountingEnv, play
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeInUse, EpisodeNotFound, RunNotFound
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.metrics import MetricHandler
from jamboree_gym.runs.sessions import SessionHandler


def fill(jam: Jamboree, run: str) -> list[str]:
    """All that a run can have; the ids of its two episodes."""
    ids = []
    for _ in range(2):
        env = jam.record(CountingEnv(3), run=run)
        play(env, [ACTION] * 3)
        env.close()
        ids.append(env.episode_id)
    jam.episode(ids[0]).flag("odd")
    checkpoints = CheckpointHandler(jam, run)
    for content in (b"first", b"second"):
        checkpoints.put(
            content, timesteps=64, policy_version=2, session="s", normaliser=b"statistics"
        )
    jam.run(run).checkpoint(0).delete()
    MetricHandler(jam, run).put(64, session="s", values={"loss": 0.5})
    sessions = SessionHandler(jam, run)
    sessions.begin("s", timesteps=0, resumed_from=None, steps={}, info={})
    sessions.end("s", "finished", timesteps=64)
    return ids


def logs(jam: Jamboree) -> set[str]:
    jam.flush()
    return set(jam._connection.redis_store.log_keys())


def test_a_deleted_run_leaves_nothing_in_redis_and_in_the_backup(jam: Jamboree) -> None:
    fill(jam, "stays")
    others = logs(jam)
    gone = fill(jam, "a/b:{c}")
    jam.backup.flush()

    jam.run("a/b:{c}").delete()
    assert logs(jam) == others
    assert jam.runs().names() == ["stays"]
    for id in gone:
        with pytest.raises(EpisodeNotFound):
            jam.episode(id).data()
    jam.redis.flushdb()
    assert jam.runs().names() == ["stays"]
    assert len(jam.episodes()) == 2
    assert jam.run("stays").checkpoint().content() == b"second"


def test_a_run_of_a_deleted_name_begins_anew(jam: Jamboree) -> None:
    fill(jam, "a")
    jam.run("a").delete()
    with pytest.raises(RunNotFound):
        jam.run("a").delete()
    fill(jam, "a")

    assert jam.runs().names() == ["a"]
    assert jam.run("a").summary.episodes == 2
    assert jam.run("a").checkpoint().content() == b"second"


def test_a_run_that_is_running_is_not_deleted(jam: Jamboree) -> None:
    fill(jam, "a")
    env = jam.record(CountingEnv(9), run="a")
    play(env, [ACTION])

    with pytest.raises(EpisodeInUse, match="run 'a' is running: end the process"):
        jam.run("a").delete()
    assert len(jam.episodes(run="a")) == 3
    assert len(jam.run("a").checkpoints()) == 1


class Killed(BaseException):
    pass


def test_an_interrupted_deletion_is_continued(
    jam: Jamboree, open_jamboree: Callable[..., Jamboree]
) -> None:
    fill(jam, "a")
    told = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        raise Killed

    with pytest.raises(Killed):
        jam.run("a").delete(progress=stop)
    assert told == [(1, 2)]
    other = open_jamboree()
    assert len(other.episodes(run="a")) == 1
    other.run("a").delete()
    assert logs(other) == set()
    assert other.runs().names() == []


def test_damaged_parts_of_a_run_are_deleted_too(jam: Jamboree) -> None:
    ids = fill(jam, "a")
    jam.flush()
    for key in (
        jam._connection.keyspace.episode(ids[0]),
        MetricHandler(jam, "a")._key,
        CheckpointHandler(jam, "a")._key,
    ):
        jam.redis.lset(at(jam, key), 0, b"damaged")

    jam.run("a").delete()
    assert jam.runs().names() == []
    assert {key for key in logs(jam) if "content" not in key} == set()


def test_a_run_stays_in_the_list_while_an_episode_of_it_is_listed(jam: Jamboree) -> None:
    fill(jam, "a")
    jam._connection.redis_store.listings.unlist_run("a")
    assert jam.runs().names() == ["a"]
