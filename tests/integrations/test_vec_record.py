"""`VecRecordEpisodes`: what Stable-Baselines3's VecEnvs step is recorded as single episodes."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from lengths import quick_and_long
from processes import run_python
from recorded_envs import ACTION, ActionChangingEnv, CountingEnv
from vector_envs import (
    NUM_ENVS,
    STEPS,
    TIMEOUT_S,
    IdLog,
    OneByOne,
    check_recorded,
    make_cartpole,
    make_wandering,
    register,
    step_all,
)

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.errors import InvalidRecord, ReplayError, UnsupportedSpace
from jamboree_gym.replay import verify

KINDS = ["dummy", "subproc"]

Record = Callable[..., Any]


def make_vec(kind: str, make: Callable[[], Any] = make_wandering, num: int = NUM_ENVS) -> Any:
    """A VecEnv of one of the KINDS."""
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    return (DummyVecEnv if kind == "dummy" else SubprocVecEnv)([make] * num)


@pytest.fixture
def record(jam: Jamboree) -> Iterator[Record]:
    """Records a VecEnv, and closes it after the test."""
    opened: list[Any] = []

    def wrap(venv: Any, **options: Any) -> Any:
        opened.append(jam.record(venv, **options))
        return opened[-1]

    yield wrap
    for venv in opened:
        venv.close()


@pytest.mark.torch
@pytest.mark.deep
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("kind", quick_and_long(KINDS, quick=["dummy"]))
def test_the_episodes_are_those_of_environments_stepped_one_by_one(
    jam: Jamboree, record: Record, kind: str
) -> None:
    venv = record(make_vec(kind))
    singles = [OneByOne() for _ in range(NUM_ENVS)]
    rng, log = np.random.default_rng(5), IdLog()

    for step in range(STEPS):
        if step == 0 or rng.random() < 0.01:
            seed = int(rng.integers(1000)) if step == 0 or rng.random() < 0.5 else None
            options = {"level": int(rng.integers(9))} if rng.random() < 0.5 else None
            if seed is not None:
                venv.seed(seed)
            if options is not None:
                venv.set_options(options)
            for i, single in enumerate(singles):
                single.reset(None if seed is None else seed + i, options)
            venv.reset()
            log.note(venv.episode_ids)
        actions = rng.integers(5, size=NUM_ENVS)
        step_all(singles, actions, AutoresetMode.SAME_STEP)
        venv.step(actions)
        log.note(venv.episode_ids)
    jam.flush()

    count = check_recorded(jam, log.ids, singles, both_ends=False)
    assert sorted(jam.episodes().ids()) == sorted(id for ids in log.ids for id in ids)
    print(f"{kind}: {STEPS} steps of {NUM_ENVS} environments, {count} episodes equal")


@pytest.mark.torch
def test_what_the_vec_env_returns_is_returned_itself(record: Record) -> None:
    from stable_baselines3.common.vec_env import VecEnvWrapper

    class Keeping(VecEnvWrapper):
        def reset(self) -> Any:
            self.returned = self.venv.reset()
            return self.returned

        def step_wait(self) -> Any:
            self.returned = self.venv.step_wait()
            self.before = copy.deepcopy(self.returned)
            return self.returned

    venv = record(Keeping(make_vec("dummy")))
    venv.seed(1)

    assert venv.reset() is venv.venv.returned
    for _ in range(30):
        assert venv.step(np.zeros(NUM_ENVS, int)) is venv.venv.returned
        assert repr(venv.venv.returned) == repr(venv.venv.before)
    assert venv.reset_infos is venv.unwrapped.reset_infos


@pytest.mark.torch
def test_seeds_and_options_that_were_given_before_wrapping_are_kept(
    jam: Jamboree, record: Record
) -> None:
    inner = make_vec("dummy", make_cartpole, 2)
    inner.seed(7)
    inner.set_options([{"low": -0.01, "high": 0.01}, {}])
    venv = record(inner)
    venv.reset()

    origins = [jam.episode(id).origin for id in venv.episode_ids]
    assert [origin.seed for origin in origins] == [7, 8]
    assert [origin.options for origin in origins] == [{"low": -0.01, "high": 0.01}, None]


@pytest.mark.torch
@pytest.mark.parametrize("kind", quick_and_long(KINDS, quick=["dummy"]))
def test_every_episode_after_a_seed_happens_again(jam: Jamboree, record: Record, kind: str) -> None:
    register()
    venv = record(make_vec(kind))
    venv.seed(3)
    log = IdLog()
    for step in range(80):
        if step in (0, 50):
            venv.reset()
        log.note(venv.episode_ids)
        venv.step(np.full(NUM_ENVS, step % 5))
        log.note(venv.episode_ids)

    ids = [id for own in log.ids for id in own]
    reports = [verify(jam.episode(id)) for id in ids]
    assert len(reports) > 10
    assert [str(report) for report in reports if not report] == []


@pytest.mark.torch
def test_rewards_that_the_vec_env_rounds_are_no_mismatch(jam: Jamboree, record: Record) -> None:
    venv = record(make_vec("dummy", partial(gym.make, "Pendulum-v1"), 2))
    venv.seed(3)
    venv.reset()
    for _ in range(5):
        venv.step(np.full((2, 1), 0.3, np.float32))

    episode = jam.episode(venv.episode_ids[1])
    rewards = episode.data().rewards
    assert rewards.tolist() == rewards.astype(np.float32).tolist()
    assert verify(episode)


@pytest.mark.torch
@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_terminated_and_truncated_are_told_apart(
    jam: Jamboree, record: Record, ending: str
) -> None:
    venv = record(make_vec("dummy", partial(CountingEnv, 2, ending), 2))
    venv.reset()
    ids = venv.episode_ids
    venv.step(np.zeros((2, 2), np.float32))
    venv.step(np.zeros((2, 2), np.float32))

    assert [jam.episode(id).status for id in ids] == [ending] * 2
    assert jam.episode(ids[0]).data().observations[:, 0].tolist() == [0, 1, 2]


@pytest.mark.torch
def test_infos_are_the_environments_own(jam: Jamboree, record: Record) -> None:
    from stable_baselines3.common.monitor import Monitor

    venv = record(make_vec("dummy", lambda: Monitor(CountingEnv(2)), 1))
    venv.reset()
    first = venv.episode_ids[0]
    for _ in range(2):
        venv.step(np.zeros((1, 2), np.float32))

    reset_info, step_info, last_info = jam.episode(first).data().infos
    assert (reset_info, step_info) == ({}, {})
    assert list(last_info) == ["episode"]
    assert last_info["episode"]["r"] == 3.0


@pytest.mark.torch
def test_actions_that_an_environment_changes_are_recorded_as_given(
    jam: Jamboree, record: Record
) -> None:
    venv = record(make_vec("dummy", ActionChangingEnv, 1))
    venv.reset()
    venv.step(ACTION[None].copy())

    assert jam.episode(venv.episode_ids[0]).data().actions.tolist() == [ACTION.tolist()]


@pytest.mark.torch
def test_above_and_below_other_wrappers_what_passes_is_recorded(
    jam: Jamboree, record: Record
) -> None:
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    below = record(VecMonitor(make_vec("dummy", make_cartpole, 2)))
    above = record(VecNormalize(below))
    above.seed(3)
    above.reset()
    ids = [venv.episode_ids[0] for venv in (below, above)]
    for _ in range(30):
        seen, *_ = above.step(np.zeros(2, int))

    raw, normalised = (jam.episode(id) for id in ids)
    assert len(raw) == len(normalised)
    assert raw.data().observations.tolist() != normalised.data().observations.tolist()
    assert jam.episode(above.episode_ids[0]).data().observations[-1].tolist() == seen[0].tolist()
    assert "episode" in raw.data().infos[-1]
    assert verify(raw)
    with pytest.raises(ReplayError, match=r"above .*VecNormalize"):
        verify(normalised)


@pytest.mark.torch
def test_a_learner_learns_the_same_and_all_of_it_is_recorded(jam: Jamboree, record: Record) -> None:
    from stable_baselines3 import PPO

    weights = []
    for wrap in (lambda venv: venv, record):
        venv = wrap(make_vec("dummy", make_cartpole, 2))
        model = PPO("MlpPolicy", venv, n_steps=64, seed=1, device="cpu")
        model.learn(256)
        weights.append([part.tolist() for part in model.policy.parameters()])
        venv.close()

    assert weights[0] == weights[1]
    assert sum(summary.steps for summary in jam.episodes().summaries()) == 256
    assert all(verify(episode) for episode in jam.episodes())


@pytest.mark.torch
def test_a_close_abandons(jam: Jamboree, record: Record) -> None:
    venv = record(make_vec("dummy", make_cartpole, 2), run="closing")
    venv.reset()
    venv.close()

    assert venv.run == "closing"
    assert [jam.episode(id).status for id in venv.episode_ids] == ["abandoned"] * 2


@pytest.mark.torch
def test_a_reset_abandons(jam: Jamboree, record: Record) -> None:
    venv = record(make_vec("dummy", make_cartpole, 2))
    venv.reset()
    first = venv.episode_ids
    venv.reset()

    assert [jam.episode(id).status for id in first] == ["abandoned"] * 2


class OwnHandler(EpisodeHandler):
    """A handler of one's own."""


@pytest.mark.torch
def test_each_environment_has_a_handler(record: Record) -> None:
    venv = record(make_vec("dummy", make_cartpole, 2), handler_class=OwnHandler)
    venv.reset()

    assert [type(handler) for handler in venv.handlers] == [OwnHandler] * 2
    assert [handler["episode"] for handler in venv.handlers] == venv.episode_ids


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_provenance_tells_the_single_environment_and_the_vec_env(
    jam: Jamboree, record: Record, kind: str
) -> None:
    venv = record(make_vec(kind, make_cartpole, 2))
    seen = [venv.reset()]
    episode = jam.episode(venv.episode_ids[1])
    seen += [venv.step(np.array([0, 1]))[0] for _ in range(3)]

    assert np.array_equal(episode.data().observations, [both[1] for both in seen])
    assert episode.summary.vector_index == 1
    assert episode.provenance["env_spec"]["id"] == "CartPole-v1"
    assert episode.provenance["vector"]["class"].endswith(type(venv.unwrapped).__name__)
    assert episode.provenance["vector"]["num_envs"] == 2
    assert episode.provenance["vector"]["autoreset_mode"] == "SameStep"


@pytest.mark.torch
def test_a_vec_env_of_ones_own_is_recorded_and_claims_nothing(
    jam: Jamboree, record: Record
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    inner = DummyVecEnv([make_cartpole])

    class OwnVecEnv(VecEnv):
        def __init__(self) -> None:
            super().__init__(1, inner.observation_space, inner.action_space)

        def reset(self) -> Any:
            return inner.reset()

        def step_async(self, actions: Any) -> None:
            inner.step_async(actions)

        def step_wait(self) -> Any:
            observations, rewards, dones, infos = inner.step_wait()
            infos[0].pop("terminal_observation", None)
            return observations, rewards, dones, infos

        def close(self) -> None:
            inner.close()

        def get_attr(self, *arguments: Any) -> Any:
            return inner.get_attr(*arguments)

        set_attr = env_method = env_is_wrapped = get_attr

    venv = record(OwnVecEnv())
    venv.reset()
    first = venv.episode_ids[0]
    actions = repeat(np.zeros(1, int), 100)
    with pytest.raises(InvalidRecord, match="terminal_observation"):
        deque(map(venv.step, actions), maxlen=0)

    assert jam.episode(first).status == "abandoned"
    assert jam.episode(venv.episode_ids[0]).status == "running"
    with pytest.raises(
        ReplayError, match="OwnVecEnv, which does not show how its environments were made"
    ):
        verify(jam.episode(first))


@pytest.mark.torch
def test_a_space_that_cannot_be_recorded_is_named_at_once(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    class SpaceVecEnv(DummyVecEnv):
        def __init__(self) -> None:
            super().__init__([partial(CountingEnv, 2)])
            self.observation_space = gym.spaces.Space()

    with pytest.raises(UnsupportedSpace, match=r"the observation space holds .*Space"):
        jam.record(SpaceVecEnv())


WITHOUT_SB3 = """
import sys
sys.modules["stable_baselines3"] = None
from jamboree_gym.errors import MissingExtra
try:
    import jamboree_gym.integrations.sb3
except MissingExtra as error:
    print(error)
"""


def test_without_stable_baselines3_the_error_says_what_to_install() -> None:
    done = run_python(WITHOUT_SB3)

    assert "pip install 'jamboree-gym[sb3]'" in done.stdout, done.stderr


def with_a_lambda() -> gym.Env[Any, Any]:
    return gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: reward)


def test_workers_whose_specs_cannot_be_pickled_are_recorded_and_live(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    venv = jam.record(SubprocVecEnv([with_a_lambda] * 2, start_method="fork"))
    venv.reset()
    venv.step(np.zeros(2, int))
    venv.close()

    episode = jam.episode(venv.episode_ids[1])
    assert (episode.summary.env_id, len(episode)) == ("CartPole-v1", 1)


@pytest.mark.torch
def test_what_one_environment_returns_that_is_odd_costs_the_others_nothing(record: Record) -> None:
    class Odd:
        """What a VecEnv of its own may return, in buffers that it uses again."""

        def __init__(self, venv: Any) -> None:
            self.wait, self.count = venv.step_wait, 0
            self.rewards, self.dones = np.zeros((NUM_ENVS, 1)), [0, 0, 0]
            venv.step_wait = self

        def __call__(self) -> Any:
            observations, _, _, infos = self.wait()
            self.count += 1
            self.rewards[:, 0] = self.count
            self.dones[0] = np.array([True, False]) if self.count == 2 else 0
            infos[1] = "no dict" if self.count == 3 else {}
            return observations, self.rewards, self.dones, infos

    base = make_vec("dummy", partial(CountingEnv, 99))
    Odd(base)
    venv = record(base)
    venv.reset()
    actions = np.array([ACTION] * NUM_ENVS)
    venv.step(actions)
    for refused in ("neither true nor false", "the info is one value of type str"):
        with pytest.raises(InvalidRecord, match=refused) as caught:
            venv.step(actions)
        assert len(caught.value.returned) == 4
    venv.step(actions)

    episodes = [handler.episode for handler in venv.handlers]
    assert [(one.status, one.data().rewards.tolist()) for one in episodes] == [
        ("abandoned", [1]),
        ("abandoned", [1, 2]),
        ("running", [1, 2, 3, 4]),
    ]


@pytest.mark.torch
def test_a_dummy_vec_env_of_environments_whose_rewards_are_several_is_refused(
    record: Record,
) -> None:
    env = CountingEnv()
    env.reward_space = gym.spaces.Box(0, 1, (2,))
    with pytest.raises(UnsupportedSpace, match="reward space"):
        record(make_vec("dummy", lambda: env, num=1))
