"""`RecentTransactionsObservation`: what an agent sees of its past."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from recorded_envs import (
    ACTION,
    ActionChangingEnv,
    CountingEnv,
    DiscreteEnv,
    FailingEnv,
    ReusingEnv,
    ScriptedEnv,
)

import jamboree_envs
from jamboree_gym import Jamboree
from jamboree_gym.errors import (
    InvalidArgument,
    InvalidRecord,
    JamboreeError,
    ReplayError,
    UnsupportedSpace,
)
from jamboree_gym.replay import verify
from jamboree_gym.wrappers import RecentTransactionsObservation

BALANCE = "jamboree/Balance-v0"
assert jamboree_envs.__all__  # its import registers Balance


class SampledEnv(CountingEnv):
    """Observes samples of any space; takes actions of any space."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any] | None = None
    ) -> None:
        super().__init__(length=6)
        self.observation_space = observation_space
        self.action_space = action_space or self.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed, options=options)

    def observe(self) -> Any:
        return self.observation_space.sample()


def image_space(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


NESTED = spaces.Dict(
    {
        "camera": spaces.Dict({"rgb": image_space(36, 36, 1), "depth": spaces.Box(0, 9, (6,))}),
        "gear": spaces.Discrete(4, start=0),
        "doors": spaces.MultiBinary(2),
        "pair": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,), np.float64))),
    }
)

ENVIRONMENTS: dict[str, Callable[[], gym.Env[Any, Any]]] = {
    "balance": lambda: gym.make(BALANCE),
    "cartpole": lambda: gym.make("CartPole-v1"),
    "pendulum": lambda: gym.make("Pendulum-v1"),
    "dict": lambda: SampledEnv(NESTED, spaces.MultiDiscrete([2, 3])),
    "image": lambda: SampledEnv(image_space(36, 48, 3), spaces.Discrete(3)),
    "image, channels first": lambda: SampledEnv(image_space(1, 36, 36)),
    "multibinary": lambda: SampledEnv(spaces.MultiBinary(3), spaces.MultiBinary(2)),
}


def walk(env: gym.Env[Any, Any], steps: int) -> list[Any]:
    """The observations of a reset and of so many steps with sampled actions."""
    env.action_space.seed(3)
    observations = [env.reset(seed=3)[0]]
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        observations.append(env.reset()[0] if terminated or truncated else observation)
    return observations


ODD_REWARDS = [
    np.array([2.0]),
    Fraction(2),
    torch.tensor(2),
    torch.tensor([2.0], requires_grad=True),
    torch.tensor(2.0, dtype=torch.bfloat16),
]


# -- what is seen ---------------------------------------------------------------------------------


def test_transactions_stand_oldest_first_and_the_mask_tells_which_are_there() -> None:
    env = RecentTransactionsObservation(CountingEnv(length=10), 3)
    seen = [env.reset()[0]] + [env.step([0.1 * k, -0.1 * k])[0] for k in (1, 2, 3, 4)]

    assert [observation["recent_mask"].tolist() for observation in seen] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 1],
        [1, 1, 1],
        [1, 1, 1],
    ]
    assert [observation["recent_rewards"].tolist() for observation in seen] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
    ]
    actions = np.array([[0.2, -0.2], [0.3, -0.3], [0.4, -0.4]], np.float32)
    assert np.array_equal(seen[-1]["recent_actions"].reshape(3, -1), actions)


def test_a_transaction_holds_what_was_seen_before_the_action() -> None:
    env = RecentTransactionsObservation(CountingEnv(length=10), 2)
    env.reset()
    for _ in range(4):
        observation, *_ = env.step(ACTION)

    assert observation["observation"][0] == 4
    assert observation["recent_observations"].reshape(2, -1)[:, 0].tolist() == [2, 3]


def test_what_the_environment_returns_stands_beside_them_itself() -> None:
    inner = ScriptedEnv(observations=[np.zeros(2), np.ones(2)], infos=[{"a": 1}, {"b": object}])
    env = RecentTransactionsObservation(inner, 2)
    first, info = env.reset()
    second, *_, step_info = env.step(ACTION)

    assert first["observation"] is inner.observations[0]
    assert second["observation"] is inner.observations[1]
    assert info is inner.infos[0]
    assert step_info is inner.infos[1]


def test_a_reset_forgets_the_episode_before() -> None:
    env = RecentTransactionsObservation(CountingEnv(length=3), 4)
    first, _ = env.reset()
    for _ in range(3):
        env.step(ACTION)
    again, _ = env.reset()

    assert all(np.array_equal(first[name], again[name]) for name in env.observation_space)


def test_across_episodes_a_reset_forgets_nothing() -> None:
    env = RecentTransactionsObservation(CountingEnv(length=3), 4, across_episodes=True)
    env.reset()
    for _ in range(3):
        env.step(ACTION)
    after_reset, _ = env.reset()
    after_step, *_ = env.step(ACTION)

    assert after_reset["recent_rewards"].tolist() == [0, 1, 2, 3]
    assert after_reset["recent_mask"].tolist() == [0, 1, 1, 1]
    assert after_step["recent_rewards"].tolist() == [1, 2, 3, 1]
    assert after_step["recent_observations"].reshape(4, -1)[:, 0].tolist() == [0, 1, 2, 0]


def test_a_buffer_that_the_environment_reuses_does_not_change_the_past() -> None:
    env = RecentTransactionsObservation(ReusingEnv(), 2)
    env.reset()
    env.step(ACTION)
    observation, *_ = env.step(ACTION)

    assert observation["recent_observations"].tolist() == [0, 0, 1, 1]


def test_an_action_that_the_environment_changes_is_kept_as_the_agent_gave_it() -> None:
    env = RecentTransactionsObservation(ActionChangingEnv(), 1)
    env.reset()
    observation, *_ = env.step(ACTION.copy())

    assert np.array_equal(observation["recent_actions"], ACTION)


def test_an_observation_that_was_returned_does_not_change_any_more() -> None:
    env = RecentTransactionsObservation(CountingEnv(length=10), 2)
    env.reset()
    observation, *_ = env.step(ACTION)
    before = {name: array.copy() for name, array in observation.items()}
    env.step(ACTION)

    assert all(np.array_equal(observation[name], array) for name, array in before.items())


def test_a_step_that_fails_is_no_transaction() -> None:
    env = RecentTransactionsObservation(FailingEnv(), 3)
    env.reset()
    env.step(ACTION)
    with pytest.raises(RuntimeError, match="fell over"):
        env.step(-ACTION)
    env.env.count = 2
    observation, *_ = env.step(ACTION)

    assert observation["recent_mask"].tolist() == [0, 1, 1]
    assert np.array_equal(observation["recent_actions"][2:], [*ACTION, *ACTION])


# -- how values are written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Discrete(3), np.int64(2), [0, 0, 1]),
        (spaces.Discrete(3, start=-1), -1, [1, 0, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), np.array([5, 1]), [1, 0, 0, 0, 1]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
        (spaces.Box(-2, 2, (2, 2)), np.array([[1, 2], [-1, 0]], np.float32), [1, 2, -1, 0]),
    ],
)
def test_an_action_becomes_a_float32_vector(
    space: spaces.Space[Any], action: Any, expected: list[int]
) -> None:
    env = RecentTransactionsObservation(SampledEnv(spaces.Discrete(2), space), 2)
    env.reset()
    observation, *_ = env.step(action)

    taken = observation["recent_actions"]
    assert taken.dtype == np.float32
    assert taken.reshape(2, -1).tolist() == [[0] * len(expected), expected]
    assert env.observation_space["recent_actions"].contains(taken)


def test_parts_of_a_dict_keep_their_keys_and_nested_ones_are_joined() -> None:
    action_space = spaces.Dict({"arm": spaces.Box(-1, 1, (2,)), "grip": spaces.Discrete(2)})
    env = RecentTransactionsObservation(SampledEnv(NESTED, action_space), 2)

    parts = {"camera_depth", "camera_rgb", "doors", "gear", "pair_0", "pair_1"}
    recent = {f"recent_observations_{part}" for part in parts}
    others = {"recent_actions_arm", "recent_actions_grip", "recent_rewards", "recent_mask"}
    assert set(env.observation_space) == parts | recent | others
    assert walk(env, 1)[0].keys() == set(env.observation_space)


def test_parts_of_a_tuple_are_numbered() -> None:
    space = spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (2,))))
    env = RecentTransactionsObservation(SampledEnv(space), 2, fields=["rewards"])

    names = {"observation_0", "observation_1", "recent_mask", "recent_rewards"}
    assert set(env.observation_space) == names


@pytest.mark.parametrize(
    ("shape", "stacked", "axis"), [((40, 36, 3), (40, 36, 9), 2), ((3, 40, 36), (9, 40, 36), 0)]
)
def test_images_stand_side_by_side_along_their_channels(
    shape: tuple[int, ...], stacked: tuple[int, ...], axis: int
) -> None:
    env = RecentTransactionsObservation(SampledEnv(image_space(*shape)), 3)
    seen = walk(env, 4)

    images = seen[-1]["recent_observations"]
    assert images.shape == stacked
    assert images.dtype == np.uint8
    expected = np.concatenate([seen[k]["observation"] for k in (1, 2, 3)], axis=axis)
    assert np.array_equal(images, expected)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_every_observation_is_in_the_declared_space(name: str, flatten: bool) -> None:
    env = RecentTransactionsObservation(ENVIRONMENTS[name](), 3, flatten=flatten)

    assert all(observation in env.observation_space for observation in walk(env, 20))


def test_what_float32_cannot_hold_is_infinite_and_still_in_the_space() -> None:
    huge = np.array([1e300, -1e300])
    inner = ScriptedEnv(observations=[huge] * 2)
    inner.observation_space = spaces.Box(-1e301, 1e301, (2,), np.float64)
    env = RecentTransactionsObservation(inner, 1)
    env.reset()
    observation, *_ = env.step(ACTION)

    assert observation["recent_observations"].tolist() == [np.inf, -np.inf]
    assert observation in env.observation_space


def test_zeros_before_the_first_are_in_the_space_of_what_is_never_zero() -> None:
    env = RecentTransactionsObservation(SampledEnv(spaces.Box(5, 6, (2,))), 2)

    assert env.reset()[0] in env.observation_space


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_flat_is_all_of_it_in_one_vector(name: str) -> None:
    apart = RecentTransactionsObservation(ENVIRONMENTS[name](), 3)
    flat = RecentTransactionsObservation(ENVIRONMENTS[name](), 3, flatten=True)

    assert isinstance(flat.observation_space, spaces.Box)
    for parts, vector in zip(walk(apart, 5), walk(flat, 5), strict=True):
        assert vector.dtype == np.float32
        size = spaces.flatdim(apart.observation_space)
        assert vector.shape == flat.observation_space.shape == (size,)
        assert np.array_equal(vector[-3:], parts["recent_mask"])
        assert np.array_equal(vector[-6:-3], parts["recent_rewards"])


def test_flat_begins_with_what_is_seen_now() -> None:
    env = RecentTransactionsObservation(gym.make(BALANCE), 3, flatten=True)
    vector, _ = env.reset(seed=0)
    observation, _ = gym.make(BALANCE).reset(seed=0)

    assert vector[:13].tolist() == np.eye(13)[observation].tolist()
    assert not vector[13:].any()


# -- infos and annotations ------------------------------------------------------------------------


def test_numbers_of_infos_are_shown_and_missing_ones_are_zero() -> None:
    infos = [{"fuel": 9}, {"fuel": np.float32(2.5)}, {}, {"fuel": np.array([4])}, {"fuel": True}]
    inner = ScriptedEnv(infos=infos)
    env = RecentTransactionsObservation(inner, 5, fields=["info_fuel"])
    env.reset()
    for _ in range(4):
        observation, *_ = env.step(ACTION)

    assert set(observation) == {"observation", "recent_info_fuel", "recent_mask"}
    assert observation["recent_info_fuel"].tolist() == [0, 2.5, 0, 4, 1]
    assert observation["recent_mask"].tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("value", ["full", np.zeros(2), {"a": 1}])
def test_an_info_that_is_no_number_is_named(value: Any) -> None:
    env = RecentTransactionsObservation(
        ScriptedEnv(infos=[{}, {"fuel": value}]), 2, fields=["info_fuel"]
    )
    env.reset()
    with pytest.raises(InvalidRecord, match="recent_info_fuel"):
        env.step(ACTION)


class OddRewardEnv(CountingEnv):
    """Gives a reward of any type."""

    def __init__(self, reward: Any) -> None:
        super().__init__(length=6)
        self.reward = reward

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, self.reward, terminated, truncated, {**info, "odd": self.reward}


@pytest.mark.parametrize("reward", ODD_REWARDS, ids=repr)
def test_a_reward_of_another_type_is_shown_as_the_number_that_it_is(reward: Any) -> None:
    env = RecentTransactionsObservation(OddRewardEnv(reward), 2, fields=["rewards", "info_odd"])
    env.reset()
    observation, returned, *_ = env.step(ACTION)
    assert observation["recent_rewards"].tolist() == [0.0, 2.0]
    assert observation["recent_info_odd"].tolist() == [0.0, 2.0]
    assert returned is reward


def test_what_the_agent_says_is_shown_with_its_step_only() -> None:
    env = RecentTransactionsObservation(CountingEnv(10), 3, fields=["annotation_value"])
    env.annotate(value=5.0)
    env.reset()  # drops it
    env.step(ACTION)
    env.annotate(value=0.75, log_prob=-1.0)
    env.step(ACTION)
    observation, *_ = env.step(ACTION)

    assert observation["recent_annotation_value"].tolist() == [0, 0.75, 0]


def test_a_recorder_inside_is_told_what_the_agent_says(jam: Jamboree) -> None:
    recorder = jam.record(CountingEnv(10))
    env = RecentTransactionsObservation(recorder, 3, fields=["annotation_value"])
    env.reset()
    env.annotate(value=0.75)
    env.step(ACTION)

    assert jam.episode(recorder.episode_id).data().annotations["value"].tolist() == [0.75]


# -- with a recorder ------------------------------------------------------------------------------


def test_around_a_recorder_the_environments_own_observations_are_recorded(jam: Jamboree) -> None:
    recorder = jam.record(gym.make(BALANCE))
    env = RecentTransactionsObservation(recorder, 3)
    seen = walk(env, 5)

    data = jam.episode(recorder.episode_id).data()
    assert data.observations.tolist() == [observation["observation"] for observation in seen]
    assert verify(jam.episode(recorder.episode_id))


@pytest.mark.parametrize("flatten", [False, True])
def test_inside_a_recorder_what_the_agent_saw_is_recorded_and_replays(
    jam: Jamboree, flatten: bool
) -> None:
    env = jam.record(RecentTransactionsObservation(gym.make(BALANCE), 3, flatten=flatten))
    seen = walk(env, 5)

    episode = jam.episode(env.episode_id)
    newest = episode.data().observations
    if flatten:
        assert np.array_equal(newest, seen)
    else:
        rewards = [observation["recent_rewards"] for observation in seen]
        assert np.array_equal(newest["recent_rewards"], rewards)
    assert verify(episode)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"across_episodes": True}, "across_episodes"),
        ({"fields": ["annotation_value"]}, "annotation_value"),
    ],
)
def test_an_episode_that_shows_what_is_not_in_it_is_not_replayed(
    jam: Jamboree, options: dict[str, Any], named: str
) -> None:
    env = jam.record(RecentTransactionsObservation(gym.make(BALANCE), 3, **options))
    walk(env, 2)

    with pytest.raises(ReplayError, match=named):
        verify(jam.episode(env.episode_id))


def test_what_it_shows_is_what_the_store_returns(jam: Jamboree) -> None:
    recorder = jam.record(CountingEnv(length=10))
    env = RecentTransactionsObservation(recorder, 3)
    observation = walk(env, 5)[-1]

    stored = jam.episode(recorder.episode_id).recent(3)
    for field in ("observations", "actions", "rewards"):
        shown = observation[f"recent_{field}"].reshape(3, -1)
        assert np.array_equal(shown, getattr(stored, field).reshape(3, -1).astype(np.float32))


# -- with others ----------------------------------------------------------------------------------


def test_the_spec_makes_the_same_environment_again() -> None:
    env = RecentTransactionsObservation(gym.make(BALANCE), 3, fields=("actions",), flatten=True)
    spec = type(env.spec).from_json(env.spec.to_json())
    again = gym.make(spec)

    assert again.observation_space == env.observation_space
    assert all(map(np.array_equal, walk(again, 5), walk(env, 5)))


@pytest.mark.filterwarnings(
    "ignore:.*is different from the unwrapped version",  # said of every wrapper
    "ignore:.*infinity. This is probably",  # said of every Box without bounds
    "ignore:.*symmetric and normalized space",  # said of Pendulum itself
)
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_gymnasium_check_env_finds_nothing(name: str, flatten: bool) -> None:
    env = RecentTransactionsObservation(ENVIRONMENTS[name](), 3, flatten=flatten)
    check_env(env, skip_render_check=True)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized Box")  # said of Pendulum itself
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_sb3_check_env_finds_nothing(name: str, flatten: bool) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    sb3_check_env(RecentTransactionsObservation(ENVIRONMENTS[name](), 3, flatten=flatten))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "flatten"),
    [
        ("balance", True),
        ("dict", False),
        pytest.param("balance", False, marks=pytest.mark.long),
        pytest.param("dict", True, marks=pytest.mark.long),
        pytest.param("pendulum", False, marks=pytest.mark.long),
        pytest.param("pendulum", True, marks=pytest.mark.long),
    ],
)
def test_ppo_trains_on_it(name: str, flatten: bool) -> None:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)  # for nets this small, more threads only wait for each other

    def make() -> gym.Env[Any, Any]:
        return RecentTransactionsObservation(ENVIRONMENTS[name](), 3, flatten=flatten)

    envs = make_vec_env(make, n_envs=2, seed=0)
    policy = "MlpPolicy" if flatten else "MultiInputPolicy"
    model = PPO(policy, envs, n_steps=64, batch_size=64, n_epochs=1, device="cpu", seed=0)
    model.learn(256)

    assert model.num_timesteps == 256
    action, _ = model.predict(envs.reset())
    assert envs.action_space.contains(action[0])


# -- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 2.0, "3", True, None])
def test_n_has_to_be_a_number_of_transactions(n: Any) -> None:
    with pytest.raises(InvalidArgument, match="n="):
        RecentTransactionsObservation(CountingEnv(), n)


@pytest.mark.parametrize("fields", [["rewards", "speed"], ["rewards", "rewards"], "rewards"])
def test_a_field_that_there_is_not_is_named(fields: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"speed|rewards"):
        RecentTransactionsObservation(CountingEnv(), 2, fields=fields)


def test_a_space_without_a_fixed_shape_is_named() -> None:
    text = spaces.Text(5)
    with pytest.raises(UnsupportedSpace, match="Text"):
        RecentTransactionsObservation(SampledEnv(spaces.Dict({"a": text})), 2)
    with pytest.raises(UnsupportedSpace, match="Text"):
        RecentTransactionsObservation(SampledEnv(spaces.Discrete(2), text), 2)
    RecentTransactionsObservation(SampledEnv(spaces.Discrete(2), text), 2, fields=["rewards"])


def test_two_parts_of_the_same_name_are_refused() -> None:
    space = spaces.Dict({"recent_rewards": spaces.Discrete(2)})
    with pytest.raises(UnsupportedSpace, match="recent_rewards"):
        RecentTransactionsObservation(SampledEnv(space), 2)


def test_an_action_outside_the_space_is_for_the_environment_to_refuse() -> None:
    env = RecentTransactionsObservation(gym.make(BALANCE).unwrapped, 2)
    env.reset(seed=0)
    for action in (13, -1, None):
        with pytest.raises(InvalidAction):
            env.step(action)


def test_an_action_of_another_shape_is_refused_before_the_environment_moves() -> None:
    inner = CountingEnv()
    env = RecentTransactionsObservation(inner, 2)
    env.reset()
    with pytest.raises(JamboreeError, match="recent_actions"):
        env.step(np.zeros(3, np.float32))
    assert inner.count == 0


def test_one_hot_columns_are_of_the_discrete_env() -> None:
    env = RecentTransactionsObservation(DiscreteEnv(), 2, fields=["actions"])
    env.reset()
    assert env.step(np.array(1))[0]["recent_actions"].tolist() == [0, 0, 0, 0, 1, 0]
