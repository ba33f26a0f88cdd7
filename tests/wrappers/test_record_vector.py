"""`RecordEpisodes` of vector environments: the episodes are those of single environments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nested import is_same
from recorded_envs import CountingEnv, NestedEnv
from vector_envs import (
    KINDS,
    MODES,
    NUM_ENVS,
    STEPS,
    TIMEOUT_S,
    ByHandVectorEnv,
    IdLog,
    OneByOne,
    check_equal,
    check_recorded,
    kinds_and_modes,
    make_cartpole,
    make_vector,
    make_wandering,
    register,
    step_all,
)

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.errors import (
    InvalidArgument,
    InvalidRecord,
    JamboreeClosed,
    ReplayError,
    UnsupportedSpace,
)
from jamboree_gym.recording.block_steps import BLOCKS_FROM
from jamboree_gym.replay import fork, verify
from jamboree_gym.wrappers.vector import RecordEpisodes

NEXT_STEP, SAME_STEP, DISABLED = (
    AutoresetMode.NEXT_STEP,
    AutoresetMode.SAME_STEP,
    AutoresetMode.DISABLED,
)


@pytest.fixture
def opened() -> Iterator[list[Any]]:
    """Vector environments to be closed after the test."""
    envs: list[Any] = []
    yield envs
    for env in envs:
        env.close()


@pytest.fixture
def record(jam: Jamboree, opened: list[Any]) -> Callable[..., RecordEpisodes]:
    """Records a vector environment, and closes it after the test."""

    def wrap(env: Any, **options: Any) -> RecordEpisodes:
        opened.append(jam.record(env, **options))
        return opened[-1]

    return wrap


Record = Callable[..., RecordEpisodes]


# -- the same episodes as single environments give ----------------------------------------------


def some_reset(
    rng: np.random.Generator, mode: AutoresetMode, singles: list[OneByOne], *, is_first: bool
) -> dict[str, Any] | None:
    """Arguments of a reset that it is time for, or None."""
    over = np.array([single.is_over for single in singles])
    if is_first:
        return {"seed": 11}
    if mode is DISABLED and over.any():
        mask = over | (rng.random(NUM_ENVS) < 0.05)
        seed = [int(one) if rng.random() < 0.3 else None for one in rng.integers(1000, size=3)]
        return {"seed": seed, "options": {"reset_mask": mask, "level": int(rng.integers(9))}}
    if rng.random() > 0.01 or over.any():
        return None
    mask = rng.random(NUM_ENVS) < 0.5
    options = {"reset_mask": mask} if mask.any() else {"level": "all"}
    return {"seed": int(rng.integers(1000)) if rng.random() < 0.5 else None, "options": options}


def reset_one_by_one(
    singles: list[OneByOne], arguments: dict[str, Any], kind: str = "sync"
) -> None:
    options = arguments.get("options")
    mask = [True] * NUM_ENVS
    if options and "reset_mask" in options:
        mask = options["reset_mask"]
        options = {name: value for name, value in options.items() if name != "reset_mask"}
    seed = arguments["seed"]
    for i, single in enumerate(singles):
        if mask[i]:
            own = seed[i] if isinstance(seed, list) else None if seed is None else seed + i
            single.reset(own, options)
            if kind == "by hand" and isinstance(seed, int):
                single.episodes[-1].seed = seed  # nobody knows what it makes of it


@pytest.mark.deep
@pytest.mark.timeout(TIMEOUT_S)
@kinds_and_modes(*KINDS)
def test_the_episodes_are_those_of_environments_stepped_one_by_one(
    jam: Jamboree, record: Record, kind: str, mode: AutoresetMode
) -> None:
    envs = record(make_vector(kind, mode))
    singles = [OneByOne() for _ in range(NUM_ENVS)]
    rng, log = np.random.default_rng(5), IdLog()

    for step in range(STEPS):
        arguments = some_reset(rng, mode, singles, is_first=step == 0)
        if arguments is not None:
            reset_one_by_one(singles, copy.deepcopy(arguments), kind)
            envs.reset(**arguments)
            log.note(envs.episode_ids)
        actions = rng.integers(5, size=NUM_ENVS)
        step_all(singles, actions, mode)
        envs.step(actions)
        log.note(envs.episode_ids)
    jam.flush()

    count = check_recorded(jam, log.ids, singles)
    assert sorted(jam.episodes().ids()) == sorted(id for ids in log.ids for id in ids)
    print(f"{kind}, {mode.name}: {STEPS} steps of {NUM_ENVS} environments, {count} episodes equal")


@pytest.mark.deep
@pytest.mark.timeout(TIMEOUT_S)
def test_the_episodes_of_cartpoles_own_vector_environment_are_the_ones_it_gave(
    jam: Jamboree, record: Record
) -> None:
    make = partial(
        gym.make_vec, "CartPole-v1", num_envs=NUM_ENVS, vectorization_mode="vector_entry_point"
    )
    envs, plain = record(make()), make()
    rng, log = np.random.default_rng(5), IdLog()
    seen, _ = plain.reset(seed=3)
    envs.reset(seed=3)
    log.note(envs.episode_ids)
    episodes: list[list[list[Any]]] = [[[row]] for row in seen.copy()]
    over = [False] * NUM_ENVS

    for _ in range(STEPS):
        actions = rng.integers(2, size=NUM_ENVS)
        envs.step(actions)
        log.note(envs.episode_ids)
        seen, _, terminated, truncated, _ = plain.step(actions)
        for i, row in enumerate(seen.copy()):
            if over[i]:
                episodes[i].append([row])
            else:
                episodes[i][-1].append(row)
        over = (terminated | truncated).tolist()
    jam.flush()

    for ids, expected in zip(log.ids, episodes, strict=True):
        for id, observations in zip(ids, expected, strict=True):
            data = jam.episode(id).data()
            check_equal(data.observations, np.stack(observations))
            assert data.rewards.tolist() == [1.0] * len(data)  # an ignored step is given 0
    plain.close()
    print(f"CartPoleVectorEnv: {STEPS} steps, {sum(map(len, episodes))} episodes equal")


SIMPLE_SPACES = st.one_of(
    st.builds(
        lambda shape, dtype: spaces.Box(0, 100, shape, dtype),
        st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        st.sampled_from([np.float32, np.float64, np.uint8, np.int16]),
    ),
    st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-3, 3)),
    st.builds(spaces.MultiBinary, st.integers(1, 5)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=4)),
)


class SamplingEnv(CountingEnv):
    """Observes whatever its space has."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__(length=4)
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = copy.deepcopy(action_space)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed)

    def observe(self) -> Any:
        return self.observation_space.sample()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(SIMPLE_SPACES, SIMPLE_SPACES, st.sampled_from(MODES[:2]))
def test_values_of_any_simple_space_are_those_of_the_sub_environments(
    jam: Jamboree, observation_space: Any, action_space: Any, mode: AutoresetMode
) -> None:
    make = partial(SamplingEnv, observation_space, action_space)
    envs = jam.record(SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=mode))
    envs.action_space.seed(1)
    singles = [OneByOne(make) for _ in range(NUM_ENVS)]
    reset_one_by_one(singles, {"seed": 4})
    envs.reset(seed=4)
    ids = envs.episode_ids
    for _ in range(3):
        actions = envs.action_space.sample()
        step_all(singles, list(actions), mode)
        envs.step(actions)

    for id, single in zip(ids, singles, strict=True):
        data, expected = jam.episode(id).data(), single.episodes[0]
        assert np.array_equal(data.observations, np.stack(expected.observations))
        check_equal(data.actions, np.stack(expected.actions))
    envs.close()


# -- nobody notices it --------------------------------------------------------------------------


class ReplayingVectorEnv(ByHandVectorEnv):
    """Keeps what it has returned last."""

    def reset(self, **arguments: Any) -> Any:
        self.returned = super().reset(**arguments)
        return self.returned

    def step(self, actions: Any) -> Any:
        self.returned = super().step(actions)
        return self.returned


def test_what_the_vector_environment_returns_is_returned_itself(record: Record) -> None:
    envs = record(ReplayingVectorEnv([make_wandering] * NUM_ENVS, SAME_STEP))

    assert envs.reset(seed=1) is envs.env.returned
    for _ in range(30):
        assert envs.step(np.zeros(NUM_ENVS, int)) is envs.env.returned


def test_infos_are_returned_as_they_came(record: Record) -> None:
    envs, plain = record(make_vector("sync", SAME_STEP)), make_vector("sync", SAME_STEP)
    envs.reset(seed=1)
    plain.reset(seed=1)

    for _ in range(30):
        actions = np.zeros(NUM_ENVS, int)
        assert repr(envs.step(actions)) == repr(plain.step(actions))
    plain.close()


def test_the_recorder_leaves_the_attributes_of_the_vector_environment(record: Record) -> None:
    env = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    envs = record(env)

    assert envs.spec is env.spec
    assert envs.unwrapped is env
    assert envs.num_envs == 2
    assert envs.single_action_space == env.single_action_space
    assert envs.metadata is env.metadata


def test_actions_that_an_environment_changes_are_recorded_as_given(
    jam: Jamboree, record: Record
) -> None:
    class ChangingEnv(CountingEnv):
        def step(self, action: Any) -> Any:
            action[:] = 99.0
            return super().step(action)

    envs = record(SyncVectorEnv([ChangingEnv, ChangingEnv]))
    envs.reset()
    envs.step(np.array([[0.25, -0.5], [0.5, 0.75]], np.float32))

    taken = [jam.episode(id).data().actions.tolist() for id in envs.episode_ids]
    assert taken == [[[0.25, -0.5]], [[0.5, 0.75]]]


@pytest.mark.parametrize(
    ("actions", "kind"),
    [([0, 1], int), (np.array([0, 1]), np.int64), (np.array([0, 1], np.uint8), np.uint8)],
)
def test_actions_keep_the_type_that_the_sub_environment_saw(
    jam: Jamboree, record: Record, actions: Any, kind: type
) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 2))
    envs.reset(seed=1)
    envs.step(actions)

    rows = jam.episode(envs.episode_ids[1])._rows()
    assert type(rows.action(1)) is kind
    assert rows.actions.dtype == np.asarray(actions).dtype


# -- summaries and provenance -------------------------------------------------------------------


def test_the_summary_tells_which_sub_environment_it_was(jam: Jamboree, record: Record) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 2), run="vector", tags={"lr": 1})
    envs.reset(seed=7)
    jam.flush()

    summaries = jam.episodes(run="vector").summaries()
    assert [(one.vector_index, one.seed, one.env_id) for one in summaries] == [
        (0, 7, "CartPole-v1"),
        (1, 8, "CartPole-v1"),
    ]
    assert envs.run == "vector"
    assert summaries[0].tags == {"lr": 1}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_provenance_tells_the_single_environment_and_the_vector_around_it(
    jam: Jamboree, record: Record, kind: str
) -> None:
    env = make_vector(kind, DISABLED, make_cartpole, 2)
    envs = record(gym.wrappers.vector.RecordEpisodeStatistics(env))
    envs.reset(seed=1)

    provenance = jam.episode(envs.episode_ids[1]).provenance
    assert provenance["env_spec"]["id"] == "CartPole-v1"
    assert provenance["versions"]["gymnasium"] == gym.__version__
    assert provenance["action_space"]["n"] == 2
    assert provenance["vector"] == {
        "class": f"{type(env).__module__}.{type(env).__name__}",
        "num_envs": 2,
        "autoreset_mode": "Disabled",
        "reward_dtype": "<f8",
        "wrappers": ["gymnasium.wrappers.vector.common.RecordEpisodeStatistics"],
        "independent": True,
    }


def test_sub_environments_that_differ_have_provenance_of_their_own(
    jam: Jamboree, record: Record
) -> None:
    fns = [partial(gym.make, "Pendulum-v1", g=g) for g in (9.81, 1.62)]
    envs = record(SyncVectorEnv(fns))
    envs.reset(seed=1)
    envs.step(np.ones((2, 1), np.float32))

    episodes = [jam.episode(id) for id in envs.episode_ids]
    gravities = [one.provenance["env_spec"]["kwargs"]["g"] for one in episodes]
    assert gravities == [9.81, 1.62]
    assert all(verify(one) for one in episodes)


def test_a_single_environment_has_no_vector_index(jam: Jamboree) -> None:
    env = jam.record(make_cartpole())
    env.reset()

    assert jam.episode(env.episode_id).summary.vector_index is None
    assert jam.episode(env.episode_id).provenance["vector"] is None


class BalanceHandler(EpisodeHandler):
    """A handler of one's own."""


def test_each_sub_environment_has_a_handler(record: Record) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 2), handler_class=BalanceHandler)
    envs.reset()

    assert [type(handler) for handler in envs.handlers] == [BalanceHandler] * 2
    assert [handler["episode"] for handler in envs.handlers] == envs.episode_ids


def test_infos_are_left_out_on_request(jam: Jamboree, record: Record) -> None:
    envs = record(make_vector("sync", NEXT_STEP), record_infos=False)
    envs.reset(seed=1)
    envs.step(np.zeros(NUM_ENVS, int))

    assert list(jam.episode(envs.episode_ids[0]).data().infos) == [{}, {}]


# -- how episodes end ---------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_status_tells_how_it_ended(
    jam: Jamboree, record: Record, mode: AutoresetMode, ending: str
) -> None:
    envs = record(SyncVectorEnv([partial(CountingEnv, 2, ending)] * 2, autoreset_mode=mode))
    envs.reset()
    ids = envs.episode_ids
    for _ in range(2):
        envs.step(np.zeros((2, 2), np.float32))

    assert [jam.episode(id).status for id in ids] == [ending] * 2


def test_a_close_abandons(jam: Jamboree, record: Record) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 2))
    envs.reset()
    envs.close()

    assert [jam.episode(id).status for id in envs.episode_ids] == ["abandoned"] * 2


def test_a_reset_of_some_leaves_the_others_going(jam: Jamboree, record: Record) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 3))
    envs.reset(seed=1)
    before = envs.episode_ids
    envs.step(np.zeros(3, int))
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    envs.step(np.zeros(3, int))

    after = envs.episode_ids
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    assert [len(jam.episode(id)) for id in after] == [2, 1, 2]
    assert jam.episode(before[1]).status == "abandoned"


def test_a_mask_that_the_environment_refuses_is_its_own_error(record: Record) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 2))
    envs.reset(seed=1)

    with pytest.raises((AssertionError, ValueError), match="shape"):
        envs.reset(options={"reset_mask": np.array([True])})
    with pytest.raises((AssertionError, ValueError), match="length"):
        envs.reset(seed=[1, 2, 3])


def test_a_done_sub_environment_is_not_recorded_until_it_is_reset(
    jam: Jamboree, record: Record
) -> None:
    lengths = [partial(CountingEnv, length) for length in (2, 9)]
    envs = record(ByHandVectorEnv(lengths, DISABLED))
    envs.reset(seed=1)
    first = envs.episode_ids
    for _ in range(4):
        envs.step(np.zeros((2, 2), np.float32))

    assert envs.episode_ids == first
    assert [len(jam.episode(id)) for id in first] == [2, 4]


class DoublyResettingEnv(CountingEnv):
    """Tells how often it was reset."""

    resets = 0

    def reset(self, **arguments: Any) -> Any:
        self.resets += 1
        return super().reset(**arguments)

    def info(self) -> dict[str, Any]:
        return {"resets": self.resets}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if "async" in kind else ()) for kind in KINDS],
)
def test_a_reset_just_after_an_end_is_followed_by_no_ignored_step(
    jam: Jamboree, record: Record, kind: str
) -> None:
    envs = record(make_vector(kind, NEXT_STEP, partial(DoublyResettingEnv, 2), 2))
    envs.reset()
    actions = np.zeros((2, 2), np.float32)
    for _ in range(2):
        envs.step(actions)
    envs.reset()
    for _ in range(2):
        envs.step(actions)
    jam.flush()

    for episode in jam.episodes():
        infos = episode.data().infos
        assert len({info["resets"] for info in infos}) == 1
        assert episode.data().rewards.tolist() == [1.0, 2.0][: len(episode)]


def test_an_error_in_one_sub_environment_abandons_all_and_the_next_episodes_are_whole(
    jam: Jamboree, record: Record
) -> None:
    class FailingOnceEnv(CountingEnv):
        def step(self, action: Any) -> Any:
            if action[0] > 0.9:
                raise RuntimeError("the robot fell over")
            return super().step(action)

    envs = record(SyncVectorEnv([partial(FailingOnceEnv, 3)] * 2))
    envs.reset()
    broken = envs.episode_ids
    good = np.zeros((2, 2), np.float32)
    envs.step(good)
    with pytest.raises(RuntimeError, match="fell over"):
        envs.step(np.array([[0, 0], [1, 0]], np.float32))
    for _ in range(5):
        envs.step(good)
    jam.flush()

    episodes = [jam.episode(id) for id in broken]
    assert [(one.status, len(one)) for one in episodes] == [("abandoned", 1)] * 2
    for episode in jam.episodes():
        rewards = episode.data().rewards.tolist()
        assert rewards == [1.0, 2.0, 3.0][: len(rewards)]


class RewardEnv(CountingEnv):
    """Its first action is its reward."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, None if action[0] > 0.9 else 1.0, *rest


class ObjectRewards(ByHandVectorEnv):
    """Passes any reward on."""

    def step(self, actions: Any) -> Any:
        results = [env.step(action) for env, action in zip(self.singles, actions, strict=True)]
        observations, rewards, terminations, truncations, _ = zip(*results, strict=True)
        rewards = np.array(rewards, object)
        return np.stack(observations), rewards, np.array(terminations), np.array(truncations), {}


def test_a_value_that_cannot_be_kept_ends_one_recording_and_leaves_the_others_whole(
    jam: Jamboree, record: Record
) -> None:
    envs = record(ObjectRewards([partial(RewardEnv, 9)] * 3, DISABLED))
    envs.reset()
    actions = np.zeros((3, 2), np.float32)
    envs.step(actions)
    actions[0, 0] = 1.0
    with pytest.raises(InvalidRecord, match="the reward None") as caught:
        envs.step(actions)
    envs.step(np.zeros((3, 2), np.float32))

    assert "sub-environment 0" in caught.value.__notes__[0]
    episodes = [jam.episode(id) for id in envs.episode_ids]
    assert [(one.status, len(one)) for one in episodes] == [
        ("abandoned", 1),
        ("running", 3),
        ("running", 3),
    ]


class Unreadable:
    """No array, and no error that an array would give."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise KeyError("not in memory any more")


@pytest.mark.parametrize("length", [2, 9])
def test_an_observation_with_an_error_of_its_own_ends_one_recording_only(
    jam: Jamboree, record: Record, length: int
) -> None:
    class ListVectorEnv(ByHandVectorEnv):
        def step(self, actions: Any) -> Any:
            observations, *rest = super().step(actions)
            rows = list(observations)
            return [Unreadable() if actions[0, 0] == 1 else rows[0], *rows[1:]], *rest

    envs = record(ListVectorEnv([partial(CountingEnv, n) for n in (length, 9)], DISABLED))
    envs.reset()
    actions = np.zeros((2, 2), np.float32)
    envs.step(actions)
    actions[0, 0] = 1
    with pytest.raises(InvalidRecord, match=r"Unreadable|not in memory") as caught:
        envs.step(actions)
    assert caught.value.returned is not None
    envs.step(np.zeros((2, 2), np.float32))

    episodes = [jam.episode(id) for id in envs.episode_ids]
    assert [(one.status, len(one)) for one in episodes] == [("abandoned", 1), ("running", 3)]


@pytest.mark.parametrize("length", [2, 9])
def test_an_episode_after_a_step_that_could_not_be_kept_follows_nothing(
    jam: Jamboree, record: Record, length: int
) -> None:
    class LosingVectorEnv(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            observations, rewards, *rest = super().step(actions)
            rewards = rewards.astype(object)
            if actions[0, 0] == 1:
                rewards[:] = None
            return observations, rewards, *rest

    make = partial(CountingEnv, length)
    envs = record(LosingVectorEnv([make], autoreset_mode=SAME_STEP))
    envs.reset(seed=1)
    first = envs.episode_ids
    envs.step(np.zeros((1, 2), np.float32))
    with pytest.raises(InvalidRecord, match="the reward None"):
        envs.step(np.ones((1, 2), np.float32))
    while envs.episode_ids == first:
        envs.step(np.zeros((1, 2), np.float32))

    assert jam.episode(first[0]).status == "abandoned"
    assert jam.episode(envs.episode_ids[0]).origin.follows is None


def test_same_step_without_final_obs_says_so_and_goes_on(jam: Jamboree, record: Record) -> None:
    class Forgetting(ByHandVectorEnv):
        def step(self, actions: Any) -> Any:
            *result, infos = super().step(actions)
            infos.pop("final_obs", None)
            infos.pop("_final_obs", None)
            return *result, infos

    envs = record(Forgetting([partial(CountingEnv, 2), partial(CountingEnv, 3)], SAME_STEP))
    envs.reset()
    first = envs.episode_ids
    actions = np.zeros((2, 2), np.float32)
    envs.step(actions)
    with pytest.raises(InvalidRecord, match="final_obs"):
        envs.step(actions)

    assert [(jam.episode(id).status, len(jam.episode(id))) for id in first] == [
        ("abandoned", 1),
        ("running", 2),
    ]
    assert len(jam.episode(envs.episode_ids[0])) == 0


def test_every_step_after_the_jamboree_was_closed_says_so(
    open_jamboree: Callable[..., Jamboree],
) -> None:
    jam = open_jamboree()
    envs = jam.record(SyncVectorEnv([make_cartpole] * 2))
    envs.reset()
    jam.close()

    for _ in range(2):
        with pytest.raises(JamboreeClosed):
            envs.step(np.zeros(2, int))
    envs.close()


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP])
@pytest.mark.parametrize("num_envs", [2, BLOCKS_FROM])
def test_a_vector_environment_without_autoreset_mode_is_recorded_as_its_first_end_shows(
    jam: Jamboree, caplog: pytest.LogCaptureFixture, mode: AutoresetMode, num_envs: int
) -> None:
    def recorded(*, says_it: bool) -> list[Any]:
        envs = ByHandVectorEnv([partial(CountingEnv, 3)] * num_envs, mode)
        envs.metadata = envs.metadata if says_it else {}
        recorder = jam.record(envs, run=f"{mode}, {says_it}")
        assert ("does not say" in caplog.text) is not says_it
        recorder.reset(seed=1)
        for _ in range(9):
            recorder.step(np.zeros((num_envs, 2), np.float32))
        recorder.close()
        return sorted(
            (one.summary.vector_index, data.observations.tolist(), data.actions.tolist())
            for one in jam.episodes(run=recorder.run)
            for data in [one.data()]
        )

    assert recorded(says_it=True) == recorded(says_it=False)
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    line = warning.getMessage().partition("after an end: ")[2].partition("; it is taken")[0]
    envs = ByHandVectorEnv([make_cartpole], NEXT_STEP)
    envs.metadata = {}
    exec(line, {"gymnasium": gym, "envs": envs})
    assert envs.metadata["autoreset_mode"] is NEXT_STEP


def test_an_autoreset_mode_that_there_is_not_is_named(jam: Jamboree) -> None:
    envs = ByHandVectorEnv([make_cartpole], NEXT_STEP)
    envs.metadata = {"autoreset_mode": "sometimes"}
    with pytest.raises(InvalidArgument, match="but 'sometimes'"):
        jam.record(envs)


def test_those_of_phys2d_reset_in_the_next_step_although_they_do_not_say_it(jam: Jamboree) -> None:
    class FunctionalJaxVectorEnv(ByHandVectorEnv):
        __module__ = "gymnasium.envs.functional_jax_env"  # jax is not there
        __qualname__ = "FunctionalJaxVectorEnv"

    envs = FunctionalJaxVectorEnv([make_cartpole], NEXT_STEP)
    envs.metadata = {}
    recorded = jam.record(envs)
    recorded.reset()
    vector = jam.episode(recorded.episode_ids[0]).provenance["vector"]
    assert vector["autoreset_mode"] == NEXT_STEP.value
    recorded.close()


def test_vector_environments_of_one_class_keep_their_own_autoreset_modes(
    jam: Jamboree, record: Record
) -> None:
    both = [make_vector("sync", mode) for mode in (DISABLED, NEXT_STEP)]
    modes = []
    for envs in map(record, both):  # gymnasium 1.1 lets the second overwrite metadata of the first
        envs.reset(seed=1)
        provenance = jam.episode(envs.episode_ids[0]).provenance
        modes.append(provenance["vector"]["autoreset_mode"])

    assert modes == ["Disabled", "NextStep"]


def test_a_space_that_cannot_be_recorded_is_named_at_once(jam: Jamboree) -> None:
    envs = SyncVectorEnv([CountingEnv])
    envs.single_action_space = spaces.Space()
    with pytest.raises(UnsupportedSpace, match=r"the action space holds .*Space"):
        jam.record(envs)
    envs.close()


@pytest.mark.parametrize("kind", ["sync", "async, no shared memory"])
def test_nested_spaces_give_the_episodes_of_single_environments(
    jam: Jamboree, record: Record, kind: str
) -> None:
    envs = record(make_vector(kind, NEXT_STEP, NestedEnv, 2))
    envs.reset(seed=5)
    envs.action_space.seed(6)
    actions = [envs.action_space.sample() for _ in range(4)]
    for action in actions:
        envs.step(action)

    for i, id in enumerate(envs.episode_ids):
        single = NestedEnv()
        expected = [single.reset(seed=5 + i)[0], *(single.observe() for _ in actions)]
        taken = [list(iterate(envs.action_space, action))[i] for action in actions]
        steps = list(jam.episode(id).steps())
        assert all(map(is_same, [step.observation for step in steps], expected))
        assert all(map(is_same, [step.next_observation for step in steps], expected[1:]))
        assert all(map(is_same, [step.action for step in steps], taken))


# -- where they came from -----------------------------------------------------------------------


def test_each_gets_its_own_seed_of_a_list(jam: Jamboree, record: Record) -> None:
    envs = record(make_vector("sync", NEXT_STEP))
    envs.reset(seed=[5, None, 9])

    origins = [jam.episode(id).origin for id in envs.episode_ids]
    assert [origin.seed for origin in origins] == [5, None, 9]
    assert [origin.rng_state is None for origin in origins] == [True, False, True]


def play_on(envs: RecordEpisodes, steps: int = 60) -> list[str]:
    """Step on, resetting where nobody else does; ids of all episodes."""
    log = IdLog()
    log.note(envs.episode_ids)
    over = np.zeros(NUM_ENVS, bool)
    for step in range(steps):
        if envs.metadata["autoreset_mode"] is DISABLED and over.any():
            envs.reset(options={"reset_mask": over})
            log.note(envs.episode_ids)
        _, _, terminated, truncated, _ = envs.step(np.full(NUM_ENVS, step % 5))
        over = terminated | truncated
        log.note(envs.episode_ids)
    return [id for ids in log.ids for id in ids]


@kinds_and_modes("sync", "async")
def test_every_episode_after_a_seed_happens_again(
    jam: Jamboree, record: Record, kind: str, mode: AutoresetMode
) -> None:
    register()
    envs = record(make_vector(kind, mode))
    envs.reset(seed=3)
    ids = play_on(envs)
    envs.reset(options={"level": 2})  # abandons, and goes on with what the generators are now
    ids += play_on(envs, 20)

    reports = [verify(jam.episode(id)) for id in ids]
    assert len(reports) > 10
    assert [str(report) for report in reports if not report] == []


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_episodes_in_this_process_happen_again_without_any_seed(
    jam: Jamboree, record: Record, mode: AutoresetMode
) -> None:
    register()
    envs = record(make_vector("sync", mode))
    envs.reset()

    assert all(verify(jam.episode(id)) for id in play_on(envs, 30))


@kinds_and_modes("sync", "async")
def test_only_an_episode_whose_reset_was_out_of_reach_follows_another(
    jam: Jamboree, record: Record, kind: str, mode: AutoresetMode
) -> None:
    envs = record(make_vector(kind, mode))
    envs.reset(seed=3)
    origins = [jam.episode(id).origin for id in play_on(envs)]
    unseeded = [one for one in origins if one.seed is None]

    is_out_of_reach = kind == "async" or mode is SAME_STEP
    assert {one.follows is not None for one in unseeded} == {is_out_of_reach}
    assert all((one.follows is None) != (one.rng_state is None) for one in unseeded)


def test_an_unseeded_first_episode_in_another_process_claims_nothing(
    jam: Jamboree, record: Record
) -> None:
    register()
    envs = record(make_vector("async", NEXT_STEP))
    envs.reset()
    ids = play_on(envs, 20)
    origin = jam.episode(ids[0]).origin

    assert (origin.seed, origin.rng_state, origin.follows) == (None, None, None)
    with pytest.raises(ReplayError, match="neither a seed"):
        verify(jam.episode(ids[0]))
    with pytest.raises(ReplayError, match=f"{ids[0]}.*neither a seed"):
        verify(jam.episode(ids[1]))


def test_a_missing_predecessor_is_named(jam: Jamboree, record: Record) -> None:
    register()
    envs = record(make_vector("sync", SAME_STEP))
    envs.reset(seed=3)
    first, second, third, *_ = play_on(envs)
    jam.episode(first).delete()

    for id in (second, third):
        with pytest.raises(ReplayError, match=f"follows '{first}', which is not there"):
            verify(jam.episode(id))


def test_an_episode_after_steps_that_were_not_recorded_follows_nothing(
    jam: Jamboree, record: Record
) -> None:
    envs = record(make_vector("async", DISABLED))
    envs.reset(seed=11)
    first = envs.episode_ids
    over = np.zeros(NUM_ENVS, bool)
    while not over.any():
        _, _, terminated, truncated, _ = envs.step(np.zeros(NUM_ENVS, int))
        over = terminated | truncated
    envs.step(np.zeros(NUM_ENVS, int))  # beyond the end of some: the workers do not mind
    envs.reset()

    follows = [jam.episode(id).origin.follows for id in envs.episode_ids]
    assert not over.all()
    assert follows == [None if beyond else id for id, beyond in zip(first, over, strict=True)]


class ChokingWrapper(VectorWrapper):
    """Fails after the sub-environments have moved."""

    def step(self, actions: Any) -> Any:
        result = super().step(actions)
        if actions[0] == 4:
            raise RuntimeError("the network is gone")
        return result


def test_an_episode_after_an_error_follows_nothing(jam: Jamboree, record: Record) -> None:
    envs = record(ChokingWrapper(make_vector("async", NEXT_STEP)))
    envs.reset(seed=3)
    with pytest.raises(RuntimeError, match="network"):
        envs.step(np.full(NUM_ENVS, 4))
    envs.reset()

    origins = [jam.episode(id).origin for id in envs.episode_ids]
    assert [origin.follows for origin in origins] == [None] * NUM_ENVS


def test_an_episode_of_a_custom_vector_environment_does_not_happen_alone(
    jam: Jamboree, record: Record
) -> None:
    envs = record(gym.make_vec("CartPole-v1", num_envs=2))
    envs.reset(seed=12)
    envs.step(np.zeros(2, int))
    episode = jam.episode(envs.episode_ids[1])

    assert episode.summary.env_id == "CartPole-v1"
    assert episode.provenance["vector"]["independent"] is False
    assert (episode.origin.seed, episode.origin.follows) == (12, None)
    envs.reset()
    assert jam.episode(envs.episode_ids[1]).origin.follows is None
    with pytest.raises(ReplayError, match="CartPoleVectorEnv: its sub-environments may share one"):
        fork(episode, 0)
    assert verify(episode)  # with the others


def test_an_episode_above_a_wrapper_that_changes_it_is_not_verified(
    jam: Jamboree, record: Record
) -> None:
    inner = record(SyncVectorEnv([make_cartpole] * 2))
    envs = record(gym.wrappers.vector.NormalizeObservation(inner))
    envs.reset(seed=12)
    envs.step(np.zeros(2, int))

    with pytest.raises(ReplayError, match=r"above .*NormalizeObservation.*record below it"):
        verify(jam.episode(envs.episode_ids[0]))
    assert verify(jam.episode(inner.episode_ids[0]))


class Float64Env(CountingEnv):
    """Returns another dtype than its space has."""

    def observe(self) -> Any:
        return np.array([self.count / 3, self.np_random.random()])


@pytest.mark.parametrize("mode", MODES[:2], ids=lambda mode: mode.name)
def test_observations_that_the_batch_rounds_are_no_mismatch(
    jam: Jamboree, record: Record, mode: AutoresetMode
) -> None:
    if "Float64-v0" not in gym.registry:
        gym.register("Float64-v0", Float64Env, disable_env_checker=True)
    make = partial(gym.make, "Float64-v0")
    envs = record(SyncVectorEnv([make] * 2, autoreset_mode=mode))
    envs.reset(seed=12)
    first = jam.episode(envs.episode_ids[0])
    for _ in range(3):
        envs.step(np.zeros((2, 2), np.float32))

    assert first.data().observations[0].tolist()[0] == 0
    report = verify(first)
    assert report, str(report)
    assert report.steps == 3


# -- what the agent says ----------------------------------------------------------------------


def test_what_the_agent_says_goes_to_each_sub_environment(jam: Jamboree, record: Record) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 2))
    envs.reset(seed=1)
    envs.annotate(value=np.array([0.5, 0.25]), policy_version=7, q={"a": [[1, 2], [3, 4]]})
    envs.step(np.array([0, 1]))
    envs.step(np.array([0, 1]))

    for i, id in enumerate(envs.episode_ids):
        first, second = jam.episode(id).steps()
        assert first.annotation["value"] == [0.5, 0.25][i]
        assert first.annotation["policy_version"] == 7
        assert first.annotation["q"]["a"].tolist() == [[1, 2], [3, 4]][i]
        assert second.annotation == {}


@pytest.mark.parametrize(
    "value", [[0.5], np.zeros((3, 2)), np.array(0.5), {"a": [1, 2, 3]}], ids=str
)
def test_an_annotation_that_is_not_for_each_is_named(record: Record, value: Any) -> None:
    envs = record(SyncVectorEnv([make_cartpole] * 2))
    envs.reset(seed=1)

    with pytest.raises(InvalidRecord, match=r"the annotation value.* for each of the 2"):
        envs.annotate(value=value)


def with_a_lambda() -> gym.Env[Any, Any]:
    return gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: reward)


def test_workers_whose_specs_cannot_be_pickled_are_recorded_and_live(jam: Jamboree) -> None:
    envs = jam.record(AsyncVectorEnv([with_a_lambda, with_a_lambda]))
    envs.reset(seed=1)
    envs.step(envs.action_space.sample())
    envs.close()

    episode = jam.episode(envs.episode_ids[1])
    assert (episode.summary.env_id, len(episode)) == ("CartPole-v1", 1)
    (wrapper,) = episode.provenance["env_spec"]["additional_wrappers"]
    assert wrapper["name"] == "TransformReward"
    assert "lambda" in wrapper["not_kept"]["func"]


def test_asking_workers_for_their_specs_leaves_nothing_behind_in_them(jam: Jamboree) -> None:
    envs = AsyncVectorEnv([partial(gym.make, "CartPole-v1")])
    recorded = jam.record(envs)

    (spec,) = envs.get_attr("spec")

    assert spec == gym.make("CartPole-v1").spec
    recorded.close()
