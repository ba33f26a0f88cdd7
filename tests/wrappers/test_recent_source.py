"""`RecentTransactionsObservation(source=...)`: what an agent sees of other agents' past."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from processes import wait_until
from recorded_envs import ACTION, CountingEnv, DiscreteEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument, InvalidRecord
from jamboree_gym.wrappers import RecentTransactionsObservation
from jamboree_gym.wrappers.recent_source import newest_of

OpenJamboree = Callable[..., Jamboree]


def rewards_seen(env: gym.Env[Any, Any]) -> list[float]:
    """What the last of its steps shows of rewards."""
    observation, *_ = env.step(ACTION)
    return observation["recent_rewards"].tolist()


def watching(source: Any, n: int = 3, **options: Any) -> RecentTransactionsObservation[Any]:
    env = RecentTransactionsObservation(CountingEnv(10**9), n, source=source, **options)
    env.reset()
    return env


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "jamboree-recent"]


# -- what is seen ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("prompt_writer")
def test_a_live_episode_is_followed_from_another_process(open_jamboree: OpenJamboree) -> None:
    actor = open_jamboree().record(CountingEnv(100))
    actor.reset()
    env = watching(open_jamboree().episode(actor.episode_id))
    for step in range(1, 6):
        actor.step(ACTION * step / 5)
        expected = [0.0, 0.0, *range(1, step + 1)][-3:]
        wait_until(lambda expected=expected: rewards_seen(env) == expected)

    observation, *_ = env.step(ACTION)
    assert np.allclose(observation["recent_actions"].reshape(3, 2)[-1], ACTION)
    assert observation["recent_observations"].reshape(3, 2)[:, 0].tolist() == [2, 3, 4]
    assert observation["recent_mask"].tolist() == [1, 1, 1]
    assert observation in env.observation_space
    env.close()


def test_a_run_shows_the_newest_of_any_actor(jam: Jamboree) -> None:
    one, two = (jam.record(CountingEnv(100), run="team") for _ in range(2))
    other = jam.record(CountingEnv(100), run="another")
    for env in (one, two, other):
        env.reset()
    for env in (one, one, one, two, two, one, other):  # the rewards: 1 2 3 1 2 4 1
        env.step(ACTION)

    source = jam.episodes(run="team")
    assert [step.reward for step in newest_of(source, 4)] == [3, 1, 2, 4]
    assert [step.reward for step in newest_of(source, 100)] == [1, 2, 3, 1, 2, 4]
    env = watching(source, 4)
    wait_until(lambda: rewards_seen(env) == [3, 1, 2, 4])
    env.close()


def test_a_run_that_is_not_there_is_warned_of_once_and_waited_for(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    env = watching(jam.episodes(run="teem"))
    wait_until(lambda: "no run 'teem'" in caplog.text)
    other = jam.record(CountingEnv(), run="teem")
    other.reset()
    other.step(ACTION)

    wait_until(lambda: rewards_seen(env)[-1:] == [1.0])
    assert caplog.text.count("no run 'teem'") == 1
    env.close()
    other.close()


def test_what_an_agent_said_and_infos_are_shown_too(jam: Jamboree) -> None:
    actor = jam.record(gym.wrappers.RecordEpisodeStatistics(CountingEnv(100)))
    actor.reset()
    actor.annotate(value=0.75)
    actor.step(ACTION)
    env = watching(jam.episode(actor.episode_id), 2, fields=["annotation_value", "info_fuel"])
    wait_until(lambda: env.step(ACTION)[0]["recent_mask"].any())

    observation, *_ = env.step(ACTION)
    assert observation["recent_annotation_value"].tolist() == [0, 0.75]
    assert observation["recent_info_fuel"].tolist() == [0, 0]
    env.close()


def test_its_own_steps_and_resets_change_nothing_of_what_is_shown(jam: Jamboree) -> None:
    actor = jam.record(CountingEnv(100))
    actor.reset()
    actor.step(ACTION)
    env = watching(jam.episode(actor.episode_id))
    wait_until(lambda: rewards_seen(env) == [0, 0, 1])

    assert env.reset()[0]["recent_rewards"].tolist() == [0, 0, 1]
    assert rewards_seen(env) == [0, 0, 1]
    env.close()


# -- how old it is, and what a store cannot do to it ----------------------------------------------


def test_before_the_first_read_nothing_is_there_and_it_is_infinitely_old(jam: Jamboree) -> None:
    env = RecentTransactionsObservation(CountingEnv(), 2, source=jam.episode("not-yet"))
    observation, info = env.reset()

    assert observation["recent_mask"].tolist() == [0, 0]
    assert info == {"recent_staleness_s": math.inf}
    *_, step_info = env.step(ACTION)
    assert step_info == {"recent_staleness_s": math.inf}  # there still is no such episode
    env.close()


def test_the_environments_own_info_is_left_as_it_was(jam: Jamboree) -> None:
    inner = CountingEnv()
    told: dict[str, Any] = {"a": 1}
    inner.info = lambda: told
    env = RecentTransactionsObservation(inner, 2, source=jam.episode("not-yet"))

    assert env.reset()[1].keys() == {"a", "recent_staleness_s"}
    assert told == {"a": 1}
    env.close()


@pytest.mark.faults
def test_steps_go_on_while_the_store_hangs_and_what_they_show_gets_old(
    own_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url)
    actor = jam.record(CountingEnv(100))
    actor.reset()
    actor.step(ACTION)
    jam.flush()
    env = watching(jam.episode(actor.episode_id))
    wait_until(lambda: rewards_seen(env) == [0, 0, 1])

    own_valkey.process.send_signal(signal.SIGSTOP)
    try:
        ages = []
        for _ in range(1000):  # each would take seconds if it asked the store
            *_, info = env.step(ACTION)
            ages.append(info["recent_staleness_s"])
        assert rewards_seen(env) == [0, 0, 1]
        assert ages[-1] >= ages[-500]
    finally:
        own_valkey.process.send_signal(signal.SIGCONT)
    actor.step(ACTION)
    wait_until(lambda: rewards_seen(env) == [0, 1, 2])
    env.close()


@pytest.mark.faults
def test_a_store_that_is_gone_and_comes_back_is_read_again(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url)
    actor = jam.record(CountingEnv(100))
    actor.reset()
    actor.step(ACTION)
    jam.flush()
    env = watching(open_jamboree(durable_valkey.url).episode(actor.episode_id))
    wait_until(lambda: rewards_seen(env) == [0, 0, 1])

    durable_valkey.kill()
    before = env.step(ACTION)[-1]["recent_staleness_s"]
    wait_until(lambda: env.step(ACTION)[-1]["recent_staleness_s"] > before + 0.2)
    assert rewards_seen(env) == [0, 0, 1]
    durable_valkey.start()
    actor.step(ACTION)
    wait_until(lambda: rewards_seen(env) == [0, 1, 2])
    env.close()


def test_transactions_that_do_not_fit_the_spaces_are_an_error_of_the_step(jam: Jamboree) -> None:
    actor = jam.record(DiscreteEnv(100))
    actor.reset()
    actor.step(1)
    inner = CountingEnv(10**9)
    inner.action_space = gym.spaces.Box(-1.0, 1.0, (3,))
    inner.observation_space = gym.spaces.Box(-1.0, 1.0, (5,))
    env = RecentTransactionsObservation(inner, 2, source=jam.episode(actor.episode_id))
    with pytest.raises(InvalidRecord, match="recent_observations"):  # noqa: PT012 - once it is read
        env.reset()
        while True:
            env.step(np.zeros(3))
    env.close()


# -- its thread -----------------------------------------------------------------------------------


def test_the_thread_runs_from_the_first_reset_to_close(jam: Jamboree) -> None:
    env = RecentTransactionsObservation(CountingEnv(), 2, source=jam.episodes())
    assert reading_threads() == []
    env.reset()
    env.reset()
    assert len(reading_threads()) == 1
    env.close()
    env.close()
    assert reading_threads() == []


def test_the_thread_ends_with_the_jamboree_that_it_reads_from(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    env = watching(jam.episodes())
    jam.close()
    wait_until(lambda: not reading_threads())
    env.step(ACTION)
    env.close()


# -- what cannot be -------------------------------------------------------------------------------


def test_what_is_no_source_is_refused(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match="source="):
        RecentTransactionsObservation(CountingEnv(), 2, source="team")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="across_episodes"):
        RecentTransactionsObservation(CountingEnv(), 2, source=jam.episodes(), across_episodes=True)


def test_the_spec_does_not_make_it_again_without_its_source(jam: Jamboree) -> None:
    env = RecentTransactionsObservation(gym.make("CartPole-v1"), 2, source=jam.episodes())
    with pytest.raises(InvalidArgument, match="source="):
        gym.make(env.spec)
