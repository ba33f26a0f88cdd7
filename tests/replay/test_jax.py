"""Environments of JAX: their arrays and keys are recorded, and unseeded resets happen again.

JAX and flax are large, and nothing else needs them. So these tests have an environment of their
own: see `.ci/run`. Without JAX they are not collected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.environment.hidden_generators import restore_hidden
from jamboree_gym.errors import ReplayError
from jamboree_gym.recording.block_steps import BLOCKS_FROM
from jamboree_gym.replay import ReplayEnv, fork, verify, what_if

pytestmark = pytest.mark.filterwarnings("ignore")  # of Gymnasium: an older version, no mode

jnp = jax.numpy
ENVIRONMENTS = [
    *("phys2d/CartPole-v0", "phys2d/CartPole-v1", "phys2d/Pendulum-v0"),
    *("tabular/Blackjack-v0", "tabular/CliffWalking-v0"),
]
MAKE_KEY = {"plain": jax.random.PRNGKey, "typed": jax.random.key}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each environment compiles its functions again: what one has compiled, the next one finds."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def played(env: Any, *, seed: int | None = None, steps: int = 12) -> list[Any]:
    """What the steps of an episode return."""
    env.reset(seed=seed)
    env.action_space.seed(3)
    results: list[Any] = []
    while not results or (len(results) < steps and not np.any(results[-1][2:4])):
        results.append(env.step(env.action_space.sample()))
    return results


class WalkingEnv(gym.Env[Any, Any]):
    """Draws all that it does from keys of JAX, and tells in arrays of JAX."""

    observation_space = spaces.Dict({"at": spaces.Box(-99, 99, (2,), np.float32)})
    action_space = spaces.Discrete(2)

    def __init__(self, make_key: Any = jax.random.key) -> None:
        self.key, self.noise_rng = make_key(1), make_key(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            self.key = jax.random.fold_in(self.key, seed)
        self.key, own = jax.random.split(self.key)
        self.at = jax.random.normal(own, 2)
        return {"at": self.at}, {"key": own}

    def step(self, action: Any) -> Any:
        self.noise_rng, own = jax.random.split(self.noise_rng)
        self.at = self.at + jax.random.normal(own, 2) * (action + 1)
        info = {"half": self.at.astype("bfloat16"), "key": own, "small": jnp.int4(3)}
        return {"at": self.at}, self.at.sum(), jnp.abs(self.at[0]) > 50, jnp.array(False), info


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_an_environment_is_recorded_verified_and_forked(jam: Jamboree, env_id: str) -> None:
    env = jam.record(gym.make(env_id), run="r")
    for seed in (1, None, None):
        results = played(env, seed=seed)
        episode = jam.episode(env.episode_id)
        data = episode.data()
        seen = np.stack([np.asarray(one[0]) for one in results])
        assert data.observations.dtype == seen.dtype
        assert data.observations[1:].tobytes() == seen.tobytes()
        assert data.rewards.tolist() == [float(one[1]) for one in results]
        report = verify(episode, infos=True)
        assert report, report
        replay = ReplayEnv(episode)
        replay.reset()
        assert replay.step(replay.recorded_action)[0].tolist() == seen[0].tolist()
    env.close()
    with fork(episode, 1 if len(episode) > 1 else 0) as child:
        child.step(child.action_space.sample())
    (forked,) = jam.episodes(run="r", forks=True).where(parent=episode)
    assert verify(forked)


@pytest.mark.parametrize(
    "wrapper", ["JaxToNumpy", pytest.param("JaxToTorch", marks=pytest.mark.torch)]
)
def test_an_environment_whose_arrays_are_turned_is_rebuilt(jam: Jamboree, wrapper: str) -> None:
    import gymnasium.wrappers as of_gymnasium

    env = gym.make("phys2d/Pendulum-v0")
    recorded = jam.record(getattr(of_gymnasium, wrapper)(env), run="r")
    action = np.full(1, 0.5, np.float32)
    if wrapper == "JaxToTorch":
        import torch

        action = torch.from_numpy(action)
    for seed in (1, None):
        observation, _ = recorded.reset(seed=seed)
        for _ in range(5):
            observation, *_ = recorded.step(action)
        episode = jam.episode(recorded.episode_id)
        assert episode.data().observations[-1].tolist() == observation.tolist()
        report = verify(episode)
        assert report, str(report)
    recorded.close()


@pytest.mark.parametrize(
    ("env_id", "mode", "num_envs"),
    [
        ("phys2d/CartPole-v1", "vector_entry_point", BLOCKS_FROM),
        ("phys2d/CartPole-v1", "sync", 3),
        ("phys2d/Pendulum-v0", "vector_entry_point", 3),
    ],
)
def test_vector_environments_are_recorded_and_verified(
    jam: Jamboree, env_id: str, mode: str, num_envs: int
) -> None:
    bare, envs = (gym.make_vec(env_id, num_envs, mode) for _ in range(2))
    envs = jam.record(envs, run="many")
    for one in (bare, envs):
        one.action_space.seed(1)
    bare.reset(seed=1)
    envs.reset(seed=1)
    for _ in range(25):
        expected = bare.step(bare.action_space.sample())
        for part, other in zip(envs.step(envs.action_space.sample()), expected, strict=True):
            assert type(part) is type(other)
            assert part == other if isinstance(part, dict) else np.array_equal(part, other)
    envs.reset()
    for _ in range(10):
        envs.step(envs.action_space.sample())
    envs.close()

    episodes = list(jam.episodes(run="many"))
    assert len(episodes) >= 2 * num_envs
    # Each replay compiles a vector environment again: two thirds of the time of this test.
    reports = verify([one for one in episodes if one.summary.vector_index == 1], infos=True)
    assert len(reports) > 1
    assert reports, str(reports)


@pytest.mark.parametrize("make_key", MAKE_KEY.values(), ids=MAKE_KEY)
def test_keys_of_both_kinds_are_captured_wherever_they_are(jam: Jamboree, make_key: Any) -> None:
    env = jam.record(WalkingEnv(make_key))
    played(env)
    played(env)
    episode = jam.episode(env.episode_id)

    keys = (episode.origin.rng_state or {})["jax_keys"]
    assert {name: one.dtype for name, one in keys.items()} == dict.fromkeys(keys, np.uint32)
    assert sorted(keys) == ["key", "noise_rng"]
    assert verify(episode, make=lambda: WalkingEnv(make_key), infos=True)
    assert not verify(episode, make=lambda: WalkingEnvOfOtherKeys(make_key), infos=True)


class WalkingEnvOfOtherKeys(WalkingEnv):
    """It forgets what keys it was given."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.key = jax.random.split(self.key)[1]
        return super().reset(seed=seed)


def test_keys_that_do_not_fit_are_named(jam: Jamboree) -> None:
    env = jam.record(WalkingEnv())
    played(env)
    episode = jam.episode(env.episode_id)

    with pytest.raises(ReplayError, match=r"keys of JAX are \['key', 'noise_rng'\].* has none"):
        verify(episode, make=lambda: gym.make("CartPole-v1"))
    for numbers in (np.zeros(2), np.zeros(3, np.uint32), [1, 2], None):
        with pytest.raises(ValueError, match=r"the key 'key' .*(damaged|shape)"):
            restore_hidden(WalkingEnv(), {"jax_keys": {"key": numbers, "noise_rng": numbers}})


def test_continuations_draw_other_keys_and_happen_again(jam: Jamboree) -> None:
    env = jam.record(WalkingEnv(), run="w")
    played(env, seed=1)
    episode = jam.episode(env.episode_id)

    def explore() -> Any:
        return what_if(episode, 4, lambda _: 1, n=3, make=WalkingEnv, max_steps=3, record=True)

    found = explore()
    assert len(set(found.returns.tolist())) == 3
    assert found.returns.tolist() == explore().returns.tolist()
    for one in jam.episodes(run="w", forks=True).where(parent=episode):
        assert verify(one, make=WalkingEnv, infos=True)


def test_values_come_back_as_they_were(jam: Jamboree) -> None:
    keys = jax.random.split(jax.random.key(1), 3)
    values = {
        "half": jnp.array([0.1, jnp.nan], "bfloat16"),
        "tiny": jnp.array([0.5, 448.0], "float8_e4m3fn"),
        "int4": jnp.array([-8, 7], "int4"),
        "zero": jnp.float32(3),
        "complex": jnp.array([1j]),
        "key": jax.random.key(7),
        "keys": keys,
        "rbg": jax.random.key(7, impl="rbg"),
        "old": jax.random.PRNGKey(7),
    }
    handler = DBHandler(jam)
    handler.entity = "value"
    handler.save(values)
    found = handler.last()

    for name, value in values.items():
        assert isinstance(found[name], jax.Array), name
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
    for name in ("key", "keys", "rbg"):
        numbers, own = jax.random.key_data(found[name]), jax.random.key_data(values[name])
        assert np.array_equal(numbers, own)
    for name in ("half", "tiny", "int4", "zero", "complex", "old"):
        assert np.array_equal(found[name], values[name], equal_nan=name == "half")


class WalkingVectorEnv(VectorEnv[Any, Any, Any]):
    """Several at once, from one typed key; of none of Gymnasium's classes."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as VectorEnv has it

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs, self._key = num_envs, jax.random.key(5)
        self.single_observation_space = spaces.Dict({"at": spaces.Box(-99, 99, (2,), np.float32)})
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def draw(self) -> Any:
        self._key, own = jax.random.split(self._key)
        return jax.random.normal(own, (self.num_envs, 2))

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            self._key = jax.random.key(seed)
        self.at = self.draw()
        return {"at": self.at}, {}

    def step(self, actions: Any) -> Any:
        self.at = self.at + self.draw() * (actions[:, None] + 1)
        final, ends = self.at, jnp.abs(self.at[:, 0]) > 4
        self.at = jnp.where(ends[:, None], self.draw(), self.at)
        infos = {"final_obs": {"at": final}, "_final_obs": ends, "log": {"mean": final.mean()}}
        never = jnp.zeros(self.num_envs, bool)
        return {"at": self.at}, final.sum(1), ends, never, infos


def test_a_vector_environment_of_ones_own_happens_again(jam: Jamboree) -> None:
    gym.register("tests/Walking-v0", vector_entry_point=WalkingVectorEnv)
    try:
        envs = jam.record(gym.make_vec("tests/Walking-v0", 3, "vector_entry_point"), run="own")
        for seed in (None, 1, None):
            envs.reset(seed=seed)
            for _ in range(15):
                envs.step(jnp.arange(3) % 2)
        envs.close()
        episodes = list(jam.episodes(run="own"))
        assert len(episodes) > 9
        reports = verify(episodes, infos=True)
        assert reports, str(reports)
    finally:
        gym.registry.pop("tests/Walking-v0")
