"""Collectors of Ray record, a learner samples what they recorded, and one may die at any time."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import psutil
import pytest
import ray
from conftest import Server
from processes import wait_until
from ray_processes import ray_processes
from run_example import ROOT, run_example, run_script

from jamboree_gym import EpisodeSummary, Jamboree

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]  # of Ray itself


@pytest.fixture(scope="module")
def cluster(short_directory: Path, valkey: Server) -> Iterator[None]:
    with ray_processes(short_directory / "ray", valkey.url):
        yield


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Collector:
    """Plays one episode that does not end by itself."""

    def __init__(self, namespace: str) -> None:
        self.jam = Jamboree(namespace=namespace)  # the address is in the variables of its process
        self.env = self.jam.record(gym.make("Pendulum-v1", max_episode_steps=-1), run="ray")
        self.env.reset(seed=1)

    def play(self, steps: int) -> int:
        for _ in range(steps):
            self.env.step(self.env.action_space.sample())
        self.jam.flush()
        return os.getpid()

    def close(self) -> None:
        self.env.close()
        self.jam.close()


def summaries(jam: Jamboree, run: str) -> list[EpisodeSummary]:
    return list(jam.episodes(run=run, wait=True).summaries())


def statuses(jam: Jamboree, run: str) -> Counter[str]:
    return Counter(one.status for one in summaries(jam, run))


@pytest.mark.usefixtures("cluster")
def test_a_killed_collector_leaves_an_interrupted_episode_and_goes_on(
    valkey: Server, namespace: str
) -> None:
    collector: Any = Collector.remote(namespace)
    first = ray.get(collector.play.remote(30))
    ray.kill(collector, no_restart=False)
    wait_until(lambda: not psutil.pid_exists(first))
    ray.get(collector.play.remote(20))

    with Jamboree(valkey.url, namespace=namespace, backup=False) as jam:
        expected = Counter(interrupted=1, running=1)
        wait_until(lambda: statuses(jam, "ray") == expected)
        ray.get(collector.close.remote())
        found = {one.status: one for one in summaries(jam, "ray")}
        assert {status: one.steps for status, one in found.items()} == {
            "interrupted": 30,
            "abandoned": 20,
        }
        assert all(episode.verify() for episode in jam.episodes(run="ray"))


@pytest.mark.usefixtures("cluster")
def test_a_learner_samples_what_collectors_record_while_some_are_killed(
    valkey: Server, namespace: str, tmp_path: Path
) -> None:
    options = ("--run", namespace, "--collectors", 2, "--rounds", 12, "--kill-every", 6)
    said = run_example("ray_dqn", *options, redis_url=valkey.url, folder=tmp_path)

    assert re.search(r"^[\d,]+ steps, 2 collectors killed$", said, re.MULTILINE)
    with Jamboree(valkey.url, backup=False) as jam:
        wait_until(lambda: "running" not in statuses(jam, namespace))
        found = summaries(jam, namespace)
        assert Counter(one.tags["collector"] for one in found).keys() == {0, 1}
        assert 0 < statuses(jam, namespace)["interrupted"] <= 2
        assert sum(one.steps for one in found) >= (12 + 2) * 250
        versions = {
            int(version)
            for one in jam.episodes(run=namespace, status="terminated")
            for version in one.data().annotations["policy_version"]
        }
        assert max(versions) > 6  # played with what was learnt after the first kill


@pytest.mark.usefixtures("cluster")
def test_the_benchmark_runs_to_its_end(valkey: Server, tmp_path: Path) -> None:
    script = ROOT / "benchmarks/trainers/ray_collectors.py"
    said = run_script(
        script, "--seconds", 1, "--collectors", 1, redis_url=valkey.url, folder=tmp_path
    )
    assert re.search(r"^1 collectors?: ", said, re.MULTILINE)
