"""Recorded steps in TorchRL: the same that its own environments give, and its samplers take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from paying_env import PayingEnv, actions, record
from recorded_envs import ACTION, CountingEnv, ScriptedEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError
from jamboree_gym.reading import bulk_read as blocks_module

pytestmark = pytest.mark.torch


class NestedEnv(PayingEnv):
    """The same, with an observation in a dict in a dict."""

    def __init__(self, length: int = 3, ending: str = "terminated") -> None:
        super().__init__(length, ending)
        inner = spaces.Dict(count=spaces.Discrete(1000))
        self.observation_space = spaces.Dict(
            camera=spaces.Box(0, 255, (2, 2, 3), np.uint8), inner=inner
        )

    def observe(self) -> Any:
        image = np.full((2, 2, 3), self.count, np.uint8)
        return {"camera": image, "inner": {"count": self.count}}


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long episodes are read in parts."""
    monkeypatch.setattr(blocks_module, "MAX_BYTES", 1000)


def expected(make: type[CountingEnv], taken: list[Any]) -> Any:
    """What TorchRL's own wrapper of the environment gives."""
    import torch
    from torchrl.envs import GymWrapper

    given = iter(taken)

    def policy(td: Any) -> Any:
        return td.set("action", torch.from_numpy(next(given)))

    return GymWrapper(make(len(taken))).rollout(len(taken), policy=policy)


@pytest.mark.parametrize("make", [PayingEnv, NestedEnv])
def test_it_has_the_keys_and_values_of_a_rollout_in_torchrl(
    jam: Jamboree, make: type[CountingEnv]
) -> None:
    from jamboree_gym.integrations.torchrl import to_tensordict

    record(jam, make(9), actions(9))

    data = to_tensordict(jam.episodes())
    rollout = expected(make, actions(9))
    for key in rollout.keys(True, True):
        if key[-1] == "count":  # TorchRL makes a one-hot vector of it
            assert data[key].tolist() == rollout[key].argmax(-1).tolist()
        else:
            assert data[key].dtype == rollout[key].dtype
            assert data[key].tolist() == rollout[key].tolist()


def test_a_buffer_has_the_steps_that_were_there_when_it_was_made(jam: Jamboree) -> None:
    from jamboree_gym.integrations.torchrl import to_replay_buffer

    record(jam, PayingEnv(3), actions(3))
    came: list[str] = []

    def come_meanwhile(episode: Any) -> bool:
        if not came:
            came.append(record(jam, PayingEnv(2), actions(2, 1)))
        return True

    buffer = to_replay_buffer(jam.episodes().where(come_meanwhile), batch_size=3)
    assert buffer[:]["episode"].tolist() == [0, 0, 0]
    assert buffer[:]["step_count"].ravel().tolist() == [0, 1, 2]


@pytest.mark.usefixtures("in_parts")
def test_a_slice_goes_on_within_one_episode_and_actions_belong_to_observations(
    jam: Jamboree, tmp_path: Path
) -> None:
    from torchrl.data.replay_buffers.samplers import SliceSampler

    from jamboree_gym.integrations.torchrl import to_replay_buffer

    for episode, steps in enumerate((5, 0, 300, 4)):
        record(jam, PayingEnv(10**9), actions(steps, episode))
    sampler = SliceSampler(slice_len=4, traj_key="episode")
    buffer = to_replay_buffer(
        jam.episodes(), sampler=sampler, batch_size=400, folder=tmp_path / "memory"
    )

    batch = buffer.sample().reshape(100, 4)
    count, episode = batch["observation"][..., 0], batch["episode"]
    assert len(buffer) == 309
    assert sorted(set(episode[:, 0].tolist())) == [0, 2, 3]
    assert (episode == episode[:, :1]).all()
    assert (count == count[:, :1] + count.new_tensor([0, 1, 2, 3])).all()
    assert (batch["next", "observation"][..., 0] == count + 1).all()
    assert np.array_equal(batch["action"][..., 0], np.float32(count / 100))
    assert np.array_equal(batch["action"][..., 1], np.float32(episode / 100))
    assert (batch["next", "reward"][..., 0] == batch["action"][..., 0]).all()
    assert list((tmp_path / "memory").iterdir()) != []


@pytest.mark.parametrize("ending", ["terminated", "truncated", "broke off"])
@pytest.mark.usefixtures("in_parts")
def test_ends_are_where_the_episodes_end(jam: Jamboree, ending: str) -> None:
    from jamboree_gym.integrations.torchrl import to_tensordict

    for steps in (2, 300):
        record(jam, CountingEnv(steps, ending), [ACTION] * steps)

    data = to_tensordict(jam.episodes())
    ends = {name: np.flatnonzero(data["next", name]).tolist() for name in ("terminated", "done")}
    assert ends == {"terminated": [1, 301] if ending == "terminated" else [], "done": [1, 301]}
    assert (data["next", "truncated"] == data["next", "done"] ^ data["next", "terminated"]).all()
    assert not data["done"].any()


def test_episodes_of_several_layouts_stay_in_their_order(jam: Jamboree) -> None:
    from jamboree_gym.integrations.torchrl import to_tensordict

    for steps in (2, 3):
        record(jam, ScriptedEnv(observations=[*range(steps + 1)]), [ACTION] * steps)
        record(jam, ScriptedEnv(observations=list(np.arange(steps + 1))), [ACTION] * steps)

    data = to_tensordict(jam.episodes())
    assert data["observation"].tolist() == [0, 1, 0, 1, 0, 1, 2, 0, 1, 2]
    assert data["collector", "traj_ids"].tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3]


def test_what_the_agent_said_is_there_where_it_is_asked_for(jam: Jamboree) -> None:
    from jamboree_gym.integrations.torchrl import to_tensordict

    env = jam.record(CountingEnv())
    env.reset()
    env.annotate(value=0.5, heads={"a": 1.0, "b": np.ones(2)})
    env.step(ACTION)
    env.step(ACTION)
    env.close()

    data = to_tensordict(jam.episodes(), annotations=["value", "heads"])["annotation"]
    assert data["value"][0] == 0.5
    assert data["value"][1].isnan()
    assert (data["heads", "a"][0], data["heads", "b"][0].tolist()) == (1.0, [1.0, 1.0])
    with pytest.raises(ExportError, match="did not say 'log_prob'"):
        to_tensordict(jam.episodes(), annotations=["log_prob"])


def test_what_torchrl_does_not_take_is_named(jam: Jamboree) -> None:
    from jamboree_gym.integrations.torchrl import to_replay_buffer, to_tensordict

    with pytest.raises(ExportError, match="no steps"):
        to_tensordict(jam.episodes())
    with pytest.raises(ExportError, match="no steps"):
        to_replay_buffer(jam.episodes())
    record(jam, ScriptedEnv(observations=[{"said": "a"}, {"said": "b"}]), [ACTION])
    with pytest.raises(ExportError, match=r'observation\["said"\].*no fixed shape'):
        to_tensordict(jam.episodes())
    record(jam, ScriptedEnv(observations=[{"action": 1}] * 2), [ACTION])
    with pytest.raises(ExportError, match=r'observation\["action"\]: TorchRL has'):
        to_tensordict(jam.episodes()[1:])
    record(jam, CountingEnv(), [ACTION])
    record(jam, ScriptedEnv(observations=[np.zeros(2)] * 2), [ACTION])
    with pytest.raises(ExportError, match=r"float32 \(2,\) in episode .* float64 \(2,\) in"):
        to_tensordict(jam.episodes()[2:])
