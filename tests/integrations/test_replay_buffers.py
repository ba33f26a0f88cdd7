"""Replay buffers of Stable-Baselines3 that are filled from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from jamboree_gym import Jamboree
from jamboree_gym.errors import BufferMismatch, EpisodeNotFound

pytestmark = pytest.mark.torch

STEPS = 300


def train(model: Any, steps: int = STEPS) -> Any:
    """Its own buffer, as playing so many steps has filled it."""
    import torch

    torch.set_num_threads(1)
    return model.learn(steps).replay_buffer


def options(**more: Any) -> dict[str, Any]:
    return {"learning_starts": 200, "seed": 1, "device": "cpu", "buffer_size": 1000, **more}


def arrays_of(buffer: Any) -> dict[str, Any]:
    """All arrays of a buffer, by name; those of dicts one by one."""
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(buffer, name, None)
        if isinstance(value, dict):
            found |= {f"{name}.{key}": array for key, array in value.items()}
        elif value is not None:
            found[name] = value
    return found


def check_equal(ours: Any, own: Any, *, rows: int, shift: int = 0, actions_atol: float = 0) -> None:
    """Element by element, but for the mark of an episode that goes on at the end."""
    expected = {name: np.roll(array, -shift, 0) for name, array in arrays_of(own).items()}
    goes_on = expected["dones"][rows - 1] == 0
    if own.optimize_memory_usage:
        expected["dones"][rows - 1, goes_on] = 1
    else:
        expected["timeouts"][rows - 1, goes_on] = 1
    got = arrays_of(ours)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        atol = actions_atol if name == "actions" else 0
        np.testing.assert_allclose(got[name][:rows], array[:rows], rtol=0, atol=atol, err_msg=name)


class Wandering(gym.Env[Any, Any]):
    """A Markov chain of so many kinds of spaces; episodes end in both ways."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        terminated, truncated = self.np_random.random() < 0.1, self.steps >= 15
        reward = float(self.np_random.normal())
        return self.observation_space.sample(), reward, bool(terminated), truncated, {"n": reward}


IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)


def play(env: Any, episodes: int, *, seed: int = 0, steps: int = 10**9) -> None:
    """So many episodes of random actions; `steps` of each at most."""
    env.action_space.seed(seed)
    for number in range(episodes):
        env.reset(seed=seed + number)
        for _ in range(steps):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break


@pytest.fixture
def record(jam: Jamboree) -> Iterator[Callable[..., Any]]:
    opened: list[Any] = []

    def wrap(env: Any, **options: Any) -> Any:
        opened.append(jam.record(env, **{"run": "r", **options}))
        return opened[-1]

    yield wrap
    for env in opened:
        env.close()


Record = Callable[..., Any]

# -- equal to the model's own -------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_buffer_equals_that_of_a_dqn_element_by_element(
    jam: Jamboree, record: Record, n_envs: int
) -> None:
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    venv = record(make_vec_env("CartPole-v1", n_envs=n_envs, seed=1))
    own = train(DQN("MlpPolicy", venv, **options()))
    ours = to_replay_buffer(jam.episodes(run="r"), n_envs=n_envs, device="cpu")

    assert ours.full
    assert ours.pos == 0
    check_equal(ours, own, rows=STEPS // n_envs)
    assert own.dones.sum() > 5


def test_actions_are_scaled_as_sac_scales_them(jam: Jamboree, record: Record) -> None:
    from stable_baselines3 import SAC

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    env = record(gym.make("Pendulum-v1"))  # its actions are in [-2, 2]
    own = train(SAC("MlpPolicy", env, gradient_steps=1, train_freq=50, **options()), 450)
    ours = to_replay_buffer(jam.episodes(run="r"), device="cpu")

    check_equal(ours, own, rows=450, actions_atol=1e-6)
    assert own.timeouts.sum() == own.dones.sum() == 2


@pytest.mark.parametrize("n_envs", [1, 2])
def test_her_dqn_can_go_on_with_a_filled_buffer(jam: Jamboree, record: Record, n_envs: int) -> None:
    from stable_baselines3 import DQN, HerReplayBuffer
    from stable_baselines3.common.envs import BitFlippingEnv
    from stable_baselines3.common.vec_env import DummyVecEnv

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    venv = record(DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=False)] * n_envs))
    model = DQN("MultiInputPolicy", venv, replay_buffer_class=HerReplayBuffer, **options())
    own = train(model)
    ours = to_replay_buffer(
        jam.episodes(run="r"), HerReplayBuffer, n_envs=n_envs, device="cpu", env=model.get_env()
    )

    rows = own.pos
    check_equal(ours, own, rows=rows)
    is_over = own.ep_length[:rows] > 0
    np.testing.assert_array_equal(ours.ep_length[:rows][is_over], own.ep_length[:rows][is_over])
    np.testing.assert_array_equal(ours.ep_start[:rows], own.ep_start[:rows])
    assert (ours.ep_length[:rows] > 0).all()

    model.replay_buffer = to_replay_buffer(
        jam.episodes(run="r"),
        HerReplayBuffer,
        buffer_size=1000,
        n_envs=n_envs,
        device="cpu",
        env=model.get_env(),
    )
    model.learn(STEPS, reset_num_timesteps=False)
    assert model.replay_buffer.pos == 2 * rows


def test_images_get_their_channels_first(jam: Jamboree, record: Record) -> None:
    from stable_baselines3 import DQN

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    env = record(Wandering(IMAGE, spaces.Discrete(3)))
    own = train(DQN("CnnPolicy", env, **options(learning_starts=1000)), 60)
    ours = to_replay_buffer(jam.episodes(run="r"), device="cpu")

    assert ours.observation_space == own.observation_space
    assert ours.observations.shape == (60, 1, 3, 36, 40)
    check_equal(ours, own, rows=60)


def test_what_was_recorded_above_the_transposing_wrapper_stays_as_it_is(
    jam: Jamboree, record: Record
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    venv = record(VecTransposeImage(DummyVecEnv([lambda: Wandering(IMAGE, spaces.Discrete(3))])))
    observations = [venv.reset(), *[venv.step(np.zeros(1, int))[0] for _ in range(3)]]
    ours = to_replay_buffer(jam.episodes(run="r"), device="cpu")

    np.testing.assert_array_equal(ours.observations[0], observations[0])


@pytest.mark.parametrize("space", ["dict", "discrete", "multi-binary"])
def test_every_space_that_sb3_has_buffers_for(jam: Jamboree, record: Record, space: str) -> None:
    from stable_baselines3 import DQN
    from stable_baselines3.common.buffers import DictReplayBuffer

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    observed: Any = {
        "dict": spaces.Dict(image=IMAGE, vector=VECTOR, one=spaces.Discrete(5)),
        "discrete": spaces.Discrete(7),
        "multi-binary": spaces.MultiBinary(4),
    }[space]
    env = record(Wandering(observed, spaces.Discrete(3)))
    policy = "MultiInputPolicy" if space == "dict" else "MlpPolicy"
    own = train(DQN(policy, env, **options(learning_starts=1000)), 60)
    ours = to_replay_buffer(jam.episodes(run="r"), device="cpu")

    assert isinstance(ours, DictReplayBuffer) == (space == "dict")
    check_equal(ours, own, rows=60)


@pytest.mark.parametrize(
    "space", [spaces.MultiBinary(3), spaces.MultiDiscrete([2, 3]), spaces.Box(-2, 4, (2, 2))]
)
def test_every_kind_of_action(jam: Jamboree, record: Record, space: spaces.Space[Any]) -> None:
    from stable_baselines3.common.buffers import ReplayBuffer

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    play(record(Wandering(VECTOR, space)), 2)
    ours = to_replay_buffer(jam.episodes(run="r"), device="cpu")
    taken = np.concatenate([episode.data().actions for episode in jam.episodes(run="r")])
    if isinstance(space, spaces.Box):
        taken = (taken + 2) / 3 - 1
    empty = ReplayBuffer(1, VECTOR, space)

    np.testing.assert_allclose(ours.actions[:, 0], taken.reshape(len(taken), -1), atol=1e-6)
    assert ours.actions.dtype == empty.actions.dtype


@pytest.mark.parametrize("steps", [300, 555])
def test_with_shared_observations_it_equals_the_models_own(
    jam: Jamboree, record: Record, steps: int
) -> None:
    from stable_baselines3 import DQN

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    shared = {"replay_buffer_kwargs": {"handle_timeout_termination": False}}
    env = record(gym.make("CartPole-v1"))
    model = DQN("MlpPolicy", env, optimize_memory_usage=True, **options(buffer_size=400), **shared)
    own = train(model, steps)
    ours = to_replay_buffer(
        jam.episodes(run="r"),
        buffer_size=400,
        device="cpu",
        optimize_memory_usage=True,
        handle_timeout_termination=False,
    )

    if steps < 400:
        check_equal(ours, own, rows=steps)
        np.testing.assert_array_equal(ours.observations[steps], own.observations[steps])
    else:  # the oldest observation has made room for the newest
        check_equal(ours, own, rows=400, shift=own.pos)


# -- what stays, and what is an end -------------------------------------------------------------


def test_of_more_than_fits_the_newest_stay(jam: Jamboree, record: Record) -> None:
    from stable_baselines3 import DQN

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    env = record(gym.make("CartPole-v1"))
    own = train(DQN("MlpPolicy", env, **options(buffer_size=200)), 555)
    ours = to_replay_buffer(
        jam.episodes(run="r").order_by("-episode_return"), buffer_size=200, device="cpu"
    )

    assert ours.full
    check_equal(ours, own, rows=200, shift=own.pos)


def test_what_goes_on_or_was_broken_off_is_no_end_and_not_gone_on_with(
    jam: Jamboree, record: Record
) -> None:
    from stable_baselines3.common.buffers import NStepReplayBuffer

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    env = record(gym.make("CartPole-v1"))
    play(env, 3, steps=4)  # two are abandoned, one goes on
    assert [one.status for one in jam.episodes().summaries()] == 2 * ["abandoned"] + ["running"]
    ours: Any = to_replay_buffer(
        jam.episodes(run="r"), NStepReplayBuffer, device="cpu", n_steps=3, gamma=0.5
    )
    lasts = [episode.data().observations[-1] for episode in jam.episodes(run="r")]

    np.testing.assert_array_equal(ours.next_observations[[3, 7, 11], 0], lasts)
    samples = ours._get_samples(np.arange(12))
    assert samples.dones.sum() == 0
    assert samples.rewards[:, 0].tolist() == [1.75, 1.75, 1.5, 1] * 3
    assert samples.discounts[:, 0].tolist() == [0.125, 0.125, 0.25, 0.5] * 3


def test_truncations_are_timeouts_unless_the_buffer_is_told_otherwise(
    jam: Jamboree, record: Record
) -> None:
    from jamboree_gym.integrations.sb3 import to_replay_buffer

    play(record(Wandering(VECTOR, spaces.Discrete(2))), 9)
    query = jam.episodes(run="r")
    by_status = [one.status for one in query.summaries()]
    handled, not_handled = (
        to_replay_buffer(query, device="cpu", handle_timeout_termination=is_handled)
        for is_handled in (True, False)
    )

    assert handled.dones.sum() == not_handled.dones.sum() == 9
    assert handled.timeouts.sum() == by_status.count("truncated") > 0
    assert not_handled.timeouts.sum() == 0


class EndsBothWays(Wandering):
    """Its first step ends the episode, and its time is up as well."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, True, True, {}


def test_an_end_of_both_kinds_is_no_timeout(jam: Jamboree, record: Record) -> None:
    from jamboree_gym.integrations.sb3 import to_replay_buffer

    play(record(EndsBothWays(VECTOR, spaces.Discrete(2))), 3)
    ours = to_replay_buffer(jam.episodes(run="r"), device="cpu")
    assert (ours.dones.sum(), ours.timeouts.sum()) == (3, 0)


def test_episodes_of_one_environment_share_the_columns_of_many(
    jam: Jamboree, record: Record
) -> None:
    from jamboree_gym.integrations.sb3 import to_replay_buffer

    play(record(Wandering(VECTOR, spaces.Discrete(2))), 20)
    played = [episode.data() for episode in jam.episodes(run="r")]
    total = sum(map(len, played))
    ours = to_replay_buffer(jam.episodes(run="r"), n_envs=3, device="cpu")

    assert ours.buffer_size == total // 3
    expected = np.concatenate([one.rewards for one in played]).astype(np.float32)[total % 3 :]
    assert sorted(ours.rewards.ravel()) == sorted(expected)
    nexts = {
        one.observations[k].tobytes(): one.observations[k + 1]
        for one in played
        for k in range(len(one))
    }
    for column in range(3):
        for row in range(ours.buffer_size):
            seen = ours.observations[row, column].tobytes()
            np.testing.assert_array_equal(ours.next_observations[row, column], nexts[seen])
            goes_on = not (ours.dones[row, column] or ours.timeouts[row, column])
            if goes_on:
                assert ours.observations[row + 1, column].tobytes() == nexts[seen].tobytes()


def test_a_buffer_that_holds_something_goes_on_behind_it(jam: Jamboree, record: Record) -> None:
    from stable_baselines3 import DQN

    from jamboree_gym.integrations.sb3 import fill_replay_buffer

    play(record(gym.make("CartPole-v1"), run="before"), 10)
    model = DQN("MlpPolicy", gym.make("CartPole-v1"), **options(buffer_size=350))
    own = train(model)
    before = own.rewards[:300].copy(), own.observations[:300].copy()
    added = fill_replay_buffer(own, jam.episodes(run="before"))

    data = jam.episodes(run="before").first().data()
    assert added == sum(one.steps for one in jam.episodes(run="before").summaries())
    assert (own.pos, own.full) == ((300 + added) % 350, True)
    np.testing.assert_array_equal(
        own.observations[300 : 300 + len(data), 0], data.observations[:-1]
    )
    np.testing.assert_array_equal(own.observations[own.pos : 300], before[1][own.pos :])
    assert own.timeouts[299] == (own.dones[299] == 0)


def test_her_forgets_what_is_partly_overwritten(jam: Jamboree, record: Record) -> None:
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.envs import BitFlippingEnv
    from stable_baselines3.common.vec_env import DummyVecEnv

    from jamboree_gym.integrations.sb3 import fill_replay_buffer

    venv = record(DummyVecEnv([lambda: BitFlippingEnv(n_bits=5, max_steps=5)]))
    venv.action_space.seed(1)
    venv.seed(1)
    venv.reset()
    for _ in range(48):
        venv.step(np.array([venv.action_space.sample()]))
    jam.flush()
    query = jam.episodes(run="r").where(min_steps=1)
    buffer = HerReplayBuffer(
        32, venv.observation_space, venv.action_space, venv, copy_info_dict=True
    )
    added = sum(fill_replay_buffer(buffer, query[k : k + 1]) for k in range(len(query)))

    assert added == 48
    begun = 0
    for row in range(32):
        start, length = int(buffer.ep_start[row, 0]), int(buffer.ep_length[row, 0])
        if length:
            rows = np.arange(start, start + length) % 32
            assert row in rows
            assert set(buffer.ep_start[rows, 0]) == {start}
            assert set(buffer.ep_length[rows, 0]) == {length}
            assert not buffer.dones[rows[:-1], 0].any()
            assert buffer.dones[rows[-1], 0] or (rows[-1] + 1) % 32 == buffer.pos
            begun += row == start
    assert begun >= 4
    assert "is_success" in buffer.infos[0, 0]
    buffer.sample(16)


# -- what cannot be -----------------------------------------------------------------------------


def test_values_that_were_recorded_normalised_are_refused(jam: Jamboree, record: Record) -> None:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    below = record(make_vec_env("CartPole-v1"), run="raw")
    above = record(VecNormalize(below), run="normalised")
    above.reset()
    above.step(np.zeros(1, int))

    assert to_replay_buffer(jam.episodes(run="raw"), device="cpu").size() == 1
    with pytest.raises(BufferMismatch, match="recorded above VecNormalize"):
        to_replay_buffer(jam.episodes())


def test_other_spaces_than_the_buffers_are_refused_before_anything_is_added(
    jam: Jamboree, record: Record
) -> None:
    from stable_baselines3.common.buffers import ReplayBuffer

    from jamboree_gym.integrations.sb3 import fill_replay_buffer, to_replay_buffer

    play(record(gym.make("CartPole-v1")), 1)
    play(record(Wandering(VECTOR, spaces.Discrete(2))), 1)
    cartpole = gym.make("CartPole-v1")
    buffer = ReplayBuffer(99, cartpole.observation_space, cartpole.action_space)

    with pytest.raises(BufferMismatch, match=r"observations of episode '\w+' are of Box\(-1\.0"):
        fill_replay_buffer(buffer, jam.episodes())
    assert buffer.size() == 0
    with pytest.raises(BufferMismatch, match="the buffer's of"):
        to_replay_buffer(jam.episodes())


def test_nothing_to_fill_it_with(jam: Jamboree, record: Record) -> None:
    from stable_baselines3.common.buffers import ReplayBuffer

    from jamboree_gym.integrations.sb3 import fill_replay_buffer, to_replay_buffer

    with pytest.raises(EpisodeNotFound, match="no steps to fill a buffer with"):
        to_replay_buffer(jam.episodes())
    assert fill_replay_buffer(ReplayBuffer(9, VECTOR, VECTOR), jam.episodes()) == 0


def test_sb3_has_no_buffer_for_a_tuple(jam: Jamboree, record: Record) -> None:
    from jamboree_gym.integrations.sb3 import to_replay_buffer

    play(record(Wandering(spaces.Tuple([VECTOR, VECTOR]), spaces.Discrete(2))), 1)
    with pytest.raises(BufferMismatch, match="no buffer for it"):
        to_replay_buffer(jam.episodes())


def test_progress_is_told(jam: Jamboree, record: Record) -> None:
    from jamboree_gym.integrations.sb3 import to_replay_buffer

    play(record(gym.make("CartPole-v1")), 3)
    told: list[tuple[int, int]] = []
    to_replay_buffer(jam.episodes(), progress=lambda *now: told.append(now))
    assert told[-1] == (3, 3)
