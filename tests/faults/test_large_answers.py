"""A large episode is asked for in parts: no answer is so large that it may come too late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from proxy import Proxy

from jamboree_gym import Jamboree
from jamboree_gym.reading.bulk_read import whole_episodes
from jamboree_gym.replay import verify
from jamboree_gym.store.redis.scripts import PART_BYTES

STEPS = 40
STEP_BYTES = 600_000
ANSWER_BYTES = PART_BYTES + 2**20  # with what is around it


class LargeEnv(gym.Env[Any, Any]):
    """Observations that cannot be compressed."""

    observation_space = gym.spaces.Box(0, 255, (STEP_BYTES,), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        return self._observation(), 1.0, self.taken == STEPS, False, {}

    def _observation(self) -> Any:
        return np.frombuffer(self.np_random.bytes(STEP_BYTES), np.uint8)


READS: dict[str, Callable[[Jamboree, Any, Path], Any]] = {
    "data": lambda jam, episode, folder: len(episode.data().rewards),
    "steps": lambda jam, episode, folder: len(episode.steps()),
    "recent": lambda jam, episode, folder: len(jam.recent([episode], STEPS)[0]),
    "between": lambda jam, episode, folder: len(episode.between(0, 1e12)),
    "tail": lambda jam, episode, folder: sum(1 for _ in episode.tail()),
    "whole": lambda jam, episode, folder: (
        len(whole_episodes(jam._connection, [episode.id])[0]().rows) - 1
    ),
    "verify": lambda jam, episode, folder: verify(episode).steps,
    "verify all": lambda jam, episode, folder: verify(jam.episodes())[0].steps,
    "arrow": lambda jam, episode, folder: jam.episodes().to_arrow(folder / "x.arrow") and STEPS,
    "backup": lambda jam, episode, folder: jam.backup.flush() - 1,
}


@pytest.fixture
def recorded(jam: Jamboree, monkeypatch: pytest.MonkeyPatch) -> str:
    spec = gym.envs.registration.EnvSpec("Large-v0", LargeEnv, disable_env_checker=True)
    monkeypatch.setitem(gym.registry, "Large-v0", spec)
    env = jam.record(gym.make("Large-v0"))
    env.reset(seed=1)
    for _ in range(STEPS):
        env.step(0)
    env.close()
    jam.flush()
    return str(env.episode_id)


@pytest.mark.one_server  # read through one proxy
def test_no_answer_is_large_however_a_large_episode_is_read(
    jam: Jamboree, recorded: str, valkey: Server, mongo: Server, tmp_path: Path
) -> None:
    space = jam._connection.keyspace.namespace
    with (
        Proxy(valkey.url) as proxy,
        Jamboree(proxy.url, mongo.url, namespace=space, backup=False) as reader,
    ):
        found = {}
        for name, read in READS.items():
            proxy.down.largest_answer = 0
            steps = read(reader, reader.episode(recorded), tmp_path)
            found[name] = (steps, proxy.down.largest_answer <= ANSWER_BYTES)
    assert found == dict.fromkeys(READS, (STEPS, True))
