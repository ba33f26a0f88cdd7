"""RLlib records in its own processes, and its offline API reads what `to_rllib` writes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgpack
import msgpack_numpy
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Server
from gymnasium import spaces
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.spaces.space_utils import unsquash_action
from ray_processes import ray_processes
from recorded_envs import CountingEnv, play
from run_example import ROOT, run_example, run_script

from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError, InvalidArgument, InvalidRecord
from jamboree_gym.integrations import rllib
from jamboree_gym.integrations.rllib import AnnotateSteps, to_rllib

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]  # of RLlib itself


BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def cluster(short_directory: Path, valkey: Server) -> Iterator[None]:
    with ray_processes(short_directory / "ray", valkey.url):
        yield


@pytest.fixture
def jam(valkey: Server, namespace: str) -> Iterator[Jamboree]:
    with Jamboree(valkey.url, namespace=namespace, backup=False) as opened:
        yield opened


def read(folder: Path) -> list[SingleAgentEpisode]:
    """The episodes as RLlib's `OfflinePreLearner` decodes them."""
    items = [item for path in sorted(folder.glob("*.parquet")) for item in items_of(path)]
    states = [msgpack.unpackb(item, object_hook=msgpack_numpy.decode) for item in items]
    return [SingleAgentEpisode.from_state(state) for state in states]


def items_of(path: Path) -> list[bytes]:
    return pq.read_table(path)["item"].to_pylist()


def actions(steps: int) -> list[Any]:
    return [np.array([k / 100, 0.25], np.float32) for k in range(steps)]


def record(jam: Jamboree, env: gym.Env, taken: list[Any]) -> str:
    """Record an episode of these actions; its id."""
    recorded = jam.record(env)
    play(recorded, taken)
    recorded.close()
    return str(recorded.episode_id)


def play_cartpole(jam: Jamboree, episodes: int) -> None:
    env = jam.record(gym.make("CartPole-v1"), run="cartpole")
    env.action_space.seed(1)
    for seed in range(episodes):
        env.reset(seed=seed)
        is_over = False
        while not is_over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            is_over = terminated or truncated
    env.close()


@pytest.mark.usefixtures("cluster")
def test_env_runners_record_each_step_with_what_the_module_thought(
    valkey: Server, namespace: str, tmp_path: Path
) -> None:
    options = ("--run", namespace, "--iterations", 2)
    said = run_example("rllib_ppo", *options, redis_url=valkey.url, folder=tmp_path)

    assert "loss of the imitation:" in said
    with Jamboree(valkey.url, backup=False) as jam:
        ended = list(jam.episodes(run=namespace, status="terminated"))
        assert {one.provenance["pid"] for one in ended}.isdisjoint({os.getpid()})
        assert all(one.summary.tags["worker"] == 1 for one in ended)
        assert all(one.verify() for one in ended)
        annotations = [one.data().annotations for one in ended]
        assert {int(number) for one in annotations for number in one["policy_version"]} == {0, 1}
        assert all((one["log_prob"] < 0).all() for one in annotations)
        assert all(np.isfinite(one["value"]).all() for one in annotations)
        for one, episode in zip(ended, read(tmp_path / "rllib-episodes"), strict=True):
            assert (episode.id_, len(episode)) == (one.id, len(one))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("config", [BCConfig, MARWILConfig])
def test_its_algorithms_learn_from_the_files(
    jam: Jamboree, tmp_path: Path, config: type[MARWILConfig]
) -> None:
    play_cartpole(jam, 10)
    folder = to_rllib(jam.episodes(), tmp_path / "episodes")

    env = gym.make("CartPole-v1")
    algorithm = (
        config()
        .environment(observation_space=env.observation_space, action_space=env.action_space)
        .offline_data(
            input_=[str(folder)],
            input_read_episodes=True,
            input_read_batch_size=10,
            map_batches_kwargs={"concurrency": 1},
            dataset_num_iters_per_learner=1,
        )
        .training(train_batch_size_per_learner=64)
    ).build_algo()
    learned = algorithm.train()["learners"]["default_policy"]
    algorithm.stop()

    assert np.isfinite(learned["policy_loss"])
    assert learned["num_module_steps_trained"] >= 64


@pytest.mark.usefixtures("cluster")
def test_the_code_of_the_page_runs(valkey: Server, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(BLOCK.findall((ROOT / "docs/trainers.md").read_text())))

    run_script(script, redis_url=valkey.url, folder=tmp_path)


def test_public_names_are_these() -> None:
    assert rllib.__all__ == ["AnnotateSteps", "to_rllib"]
    assert all(getattr(rllib, name).__doc__ for name in rllib.__all__)


def test_what_is_read_is_what_was_recorded(jam: Jamboree, tmp_path: Path) -> None:
    ids = [
        record(jam, CountingEnv(5, ending), actions(5)) for ending in ("terminated", "truncated")
    ]
    ids.append(record(jam, CountingEnv(5), actions(3)))  # abandoned

    found = read(to_rllib(jam.episodes(), tmp_path, normalize_actions=False))

    assert [one.id_ for one in found] == ids
    for one in found:
        data = jam.episode(one.id_).data()
        assert one.is_done
        assert one.is_terminated == data.terminations[-1]
        assert np.array_equal(np.array(one.get_observations()), data.observations)
        assert one.get_observations(0).dtype == data.observations.dtype
        assert np.array_equal(np.array(one.get_actions()), data.actions)
        assert np.array_equal(np.array(one.get_rewards()), data.rewards)
        assert one.observation_space == jam.episode(one.id_).observation_space


class WideEnv(CountingEnv):
    """With actions in a range of their own."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        low, high = np.array([-2, 0], np.float32), np.array([2, 10], np.float32)
        self.action_space = spaces.Box(low, high)


def test_actions_are_those_of_a_module_and_rllib_scales_them_back(
    jam: Jamboree, tmp_path: Path
) -> None:
    id = record(jam, WideEnv(5), actions(5))

    (episode,) = read(to_rllib(jam.episodes(), tmp_path))

    scaled = np.array(episode.get_actions())
    assert (np.abs(scaled) <= 1).all()
    back = [unsquash_action(action, WideEnv(5).action_space) for action in scaled]
    np.testing.assert_allclose(back, jam.episode(id).data().actions, atol=1e-6)


class DictEnv(CountingEnv):
    def __init__(self, length: int) -> None:
        super().__init__(length)
        image = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.observation_space = spaces.Dict(image=image, count=spaces.Discrete(100))

    def observe(self) -> Any:
        return {"image": np.full((4, 4, 3), self.count, np.uint8), "count": np.int64(self.count)}


def test_images_and_dicts_stay_and_annotations_get_the_names_of_rllib(
    jam: Jamboree, tmp_path: Path
) -> None:
    env = jam.record(DictEnv(3))
    env.reset(seed=1)
    for k, action in enumerate(actions(3)):
        env.annotate(log_prob=-float(k), mood=k)
        env.step(action)
    env.close()

    (episode,) = read(to_rllib(jam.episodes(), tmp_path, annotations=["log_prob", "mood"]))

    last = episode.get_observations(-1)
    assert last["image"].shape == (4, 4, 3)
    assert last["image"].dtype == np.uint8
    assert last["image"][0, 0, 0] == last["count"]
    assert list(episode.get_extra_model_outputs("action_logp")) == [0.0, -1.0, -2.0]
    assert list(episode.get_extra_model_outputs("mood")) == [0, 1, 2]


def test_a_second_call_adds_what_is_missing(jam: Jamboree, tmp_path: Path) -> None:
    play_cartpole(jam, 2)
    to_rllib(jam.episodes(), tmp_path)
    play_cartpole(jam, 3)

    read_again = read(to_rllib(jam.episodes(), tmp_path))

    assert sorted(one.id_ for one in read_again) == sorted(one.id for one in jam.episodes())


class TupleEnv(CountingEnv):
    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.observation_space = spaces.Tuple([spaces.Discrete(100), spaces.Discrete(100)])

    def observe(self) -> Any:
        return (np.int64(self.count), np.int64(self.count))


class TwoRewards(CountingEnv):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, np.array([1.0, 2.0]), *rest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (TupleEnv, "observation of episode '.*' is a tuple"),
        (TwoRewards, r"a reward of episode '.*' has shape \(2,\)"),
    ],
)
def test_what_rllib_does_not_take_is_named(
    jam: Jamboree, tmp_path: Path, make: type[CountingEnv], message: str
) -> None:
    record(jam, make(3), actions(3))

    with pytest.raises(ExportError, match=message):
        to_rllib(jam.episodes(), tmp_path)


def test_a_missing_annotation_and_a_foreign_file_are_named(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, CountingEnv(3), actions(3))
    with pytest.raises(ExportError, match="the agent did not say 'value'"):
        to_rllib(jam.episodes(), tmp_path, annotations=["value"])

    jam.episodes().to_parquet(tmp_path)
    with pytest.raises(ExportError, match="was written by something else"):
        to_rllib(jam.episodes(), tmp_path)


class TwoAgents(MultiAgentEnv):
    def __init__(self) -> None:
        super().__init__()
        self.agents = self.possible_agents = ["a", "b"]
        self.observation_space = self.observation_spaces = each(spaces.Box(0, 1, (1,), np.float32))
        self.action_space = self.action_spaces = each(spaces.Discrete(2))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return {name: np.zeros(1, np.float32) for name in self.agents}, {}

    def step(self, action: Any) -> Any:
        observation, _ = self.reset()
        return observation, {"a": 1.0, "b": 0.0}, {"__all__": False}, {"__all__": False}, {}


def each(space: spaces.Space[Any]) -> spaces.Dict:
    return spaces.Dict(a=space, b=space)


def test_an_environment_of_several_agents_is_refused_at_its_first_step(jam: Jamboree) -> None:
    env = jam.record(TwoAgents())
    env.reset(seed=1)
    with pytest.raises(InvalidRecord, match=r"the reward \{'a': 1.0, 'b': 0.0\} is not a number"):
        env.step({"a": 1, "b": 0})
    env.close()


def test_a_connector_says_if_nothing_records() -> None:
    with pytest.raises(InvalidArgument, match=r"return jam.record\(env\)"):
        AnnotateSteps(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))


def recorded_each(jam: Jamboree) -> gym.vector.VectorEnv:
    return gym.vector.SyncVectorEnv([lambda: jam.record(gym.make("CartPole-v1"))] * 2)


def recorded_together(jam: Jamboree) -> gym.vector.VectorEnv:
    return jam.record(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))


@pytest.mark.parametrize("make", [recorded_each, recorded_together])
def test_each_sub_environment_is_told_its_own(
    jam: Jamboree, make: Callable[[Jamboree], gym.vector.VectorEnv]
) -> None:
    envs = make(jam)
    envs.reset(seed=1)
    episodes = [SingleAgentEpisode(id_=id) for id in ("next", "b")]
    batch = {"action_logp": {("ended",): [-0.5], ("b",): [-0.25]}}

    AnnotateSteps(envs)(batch=batch, episodes=episodes, rl_module=None)
    envs.step(np.array([0, 1]))

    said = [one.data().annotations for one in jam.episodes().order_by("started_at")]
    assert [one["log_prob"].tolist() for one in said] == [[-0.5], [-0.25]]
    assert [one["policy_version"].tolist() for one in said] == [[0], [0]]
    envs.close()
