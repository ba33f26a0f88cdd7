"""The fault gallery: each fault is caught at its step and field, and gone where it is mended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import gymnasium as gym
import pytest

from jamboree_envs.faults import FAULTS, STRIKES_AT, WIND_VARIABLE, ReductionOrder, ThreadOrder
from jamboree_gym import Jamboree
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import verify
from jamboree_gym.replay.verification.causes import standing_clock

STEPS = 15


def test_a_play_counts_the_calls_of_its_clock_and_other_threads_have_the_usual_one() -> None:
    with standing_clock(), ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(time.time).result()
        first = time.time()
        pool.submit(time.time).result()
        second = time.time()
    assert second - first == pytest.approx(0.001)
    assert abs(elsewhere - time.time()) < 60


def record(jam: Jamboree, name: str, *, episodes: int = 1, **kwargs: Any) -> list[Episode]:
    """Seeded episodes of one environment, one after the other."""
    env = jam.record(gym.make(name, **kwargs))
    recorded = []
    for seed in range(episodes):
        env.reset(seed=seed)
        recorded.append(jam.episode(env.episode_id))
        for step in range(STEPS):
            env.step(step % 3)
    env.close()
    return recorded


def check_caught(episode: Episode, step: int = STRIKES_AT) -> None:
    """By the position, which is the second number of the observation."""
    report = verify(episode)

    assert not report
    assert report.mismatch is not None
    assert (report.mismatch.step, report.mismatch.leaf) == (step, "observation[1]")
    assert f"observation[1] at step {step}: recorded " in str(report)


@pytest.mark.parametrize("name", FAULTS)
def test_without_its_fault_an_environment_happens_again(jam: Jamboree, name: str) -> None:
    for episode in record(jam, name, episodes=2, fault=False):
        report = verify(episode)
        assert report, str(report)


@pytest.mark.parametrize("name", ["GlobalRandom", "SampledSpace", "WallClock"])
@pytest.mark.parametrize("strikes_at", [0, STRIKES_AT])
def test_a_fault_is_caught_where_it_strikes(jam: Jamboree, name: str, strikes_at: int) -> None:
    (episode,) = record(jam, f"jamboree-faults/{name}-v0", strikes_at=strikes_at)

    check_caught(episode, step=strikes_at)


def test_what_is_carried_over_is_caught_in_the_next_episode(jam: Jamboree) -> None:
    first, second = record(jam, "jamboree-faults/CarriedOver-v0", episodes=2)

    assert verify(first)
    check_caught(second)


def test_a_setting_that_changes_is_caught(jam: Jamboree, monkeypatch: pytest.MonkeyPatch) -> None:
    (episode,) = record(jam, "jamboree-faults/EnvironmentVariable-v0")
    assert verify(episode)

    monkeypatch.setenv(WIND_VARIABLE, "0.5")
    check_caught(episode)


# -- between processes ------------------------------------------------------------------------

RECORDER = """
import sys
from test_faults import record
from jamboree_gym import Jamboree

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    print(record(jam, "jamboree-faults/HashOrder-v0")[0].id)
"""
VERIFIER = """
import sys
import jamboree_envs.faults
from jamboree_gym import Jamboree
from jamboree_gym.replay import verify
from jamboree_gym.replay.verification.causes import standing_clock

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    mismatch = verify(jam.episode(sys.argv[3])).mismatch
    print("equal" if mismatch is None else f"{mismatch.leaf} {mismatch.step}")
"""


def in_a_process(program: str, *arguments: str, hash_seed: int) -> str:
    """What a program prints, where hashes of texts are salted with a number."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.long
def test_the_order_of_a_set_is_caught_in_another_process(jam: Jamboree, valkey: Any) -> None:
    where = valkey.url, jam._connection.keyspace.namespace
    id = in_a_process(RECORDER, *where, hash_seed=1)

    assert in_a_process(VERIFIER, *where, id, hash_seed=1) == "equal"
    assert in_a_process(VERIFIER, *where, id, hash_seed=2) == f"observation[1] {STRIKES_AT}"


# -- where chance decides ---------------------------------------------------------------------


class Logged:
    """Keeps what its runs returned, so that a test knows by itself where they part."""

    runs: ClassVar[list[list[tuple[list[float], float]]]] = []

    def reset(self, **kwargs: Any) -> Any:
        self.runs.append([])
        return super().reset(**kwargs)  # type: ignore[misc]

    def step(self, action: Any) -> Any:
        result = super().step(action)  # type: ignore[misc]
        self.runs[-1].append((result[0].tolist(), result[1]))
        return result


class LoggedThreads(Logged, ThreadOrder):
    pass


class LoggedReduction(Logged, ReductionOrder):
    pass


@pytest.fixture
def logged() -> Iterator[list[list[tuple[list[float], float]]]]:
    kinds = {"tests/LoggedThreads-v0": LoggedThreads, "tests/LoggedReduction-v0": LoggedReduction}
    for name, kind in kinds.items():
        gym.register(name, entry_point=kind)
    Logged.runs.clear()
    yield Logged.runs
    for name in kinds:
        gym.registry.pop(name)


@pytest.mark.parametrize("name", ["LoggedThreads", "LoggedReduction"])
def test_an_order_that_chance_decides_is_caught_where_it_first_matters(
    jam: Jamboree, logged: list[list[tuple[list[float], float]]], name: str
) -> None:
    (episode,) = record(jam, f"tests/{name}-v0")
    report = verify(episode)

    recorded, simulated = logged
    step = next(step for step in range(STEPS) if recorded[step] != simulated[step])
    field = "reward" if recorded[step][0] == simulated[step][0] else "observation"
    assert step >= STRIKES_AT
    assert report.mismatch is not None
    assert (report.mismatch.step, report.mismatch.field) == (step, field)
