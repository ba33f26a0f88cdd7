"""Rewards that are several numbers: they come back bit for bit, in every place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from conftest import Shared
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from journals import copy_journal
from lengths import examples
from nested import is_same
from stored import keys_like

from jamboree_gym import EpisodeSummary, Jamboree
from jamboree_gym.encoding.summary_codec import decode_summaries, encode_summary
from jamboree_gym.errors import InvalidArgument, InvalidRecord, ReplayError
from jamboree_gym.journal.segments import KIND_VECTOR, read_blocks
from jamboree_gym.replay import ReplayEnv, ReplayVectorEnv, fork, verify, what_if

OpenJamboree = Callable[..., Jamboree]
HOUR_S = 3600.0
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class GivenRewards(gym.Env[Any, Any]):
    """Returns these rewards, in a buffer of its own where that is an array, and then ends."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium.Env has it

    def __init__(self, rewards: Any = ((1.0, -1.0), (0.5, -1.0), (0.25, -1.0))) -> None:
        self.observation_space, self.action_space = BOX, spaces.Discrete(2)
        self.rewards, self.count = rewards, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        reward, seen = self.rewards[self.count - 1], np.full(2, self.count, np.float32)
        return seen, reward, self.count == len(self.rewards), False, {}


class Treasures(GivenRewards):
    """Rewards that depend on chance and on the action."""

    def __init__(self, length: int = 5, dtype: str = "f8") -> None:
        super().__init__([None] * length)
        self.dtype = np.dtype(dtype)

    def step(self, action: Any) -> Any:
        seen, _, *rest = super().step(action)
        reward = np.array([self.np_random.normal() + action, -1.0, self.count], self.dtype)
        return seen, reward, *rest


gym.register("test/Treasures-v0", Treasures, disable_env_checker=True)


def played(jam: Jamboree, env: Any, steps: int, run: str | None = None) -> tuple[Any, Any]:
    recorded = jam.record(env, run=run)
    recorded.reset(seed=1)
    returned = [copy.deepcopy(recorded.step(0)[1]) for _ in range(steps)]
    return recorded, returned


def column(rewards: list[Any]) -> Any:
    return np.array(rewards)


dtypes = st.sampled_from(["?", "i1", "u2", "<i4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i2"])
shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=3)
one_shape = st.tuples(dtypes, st.integers(1, 4), shapes.filter(lambda one: math.prod(one) > 1))
rewards_of_one_shape = one_shape.flatmap(lambda of: hnp.arrays(of[0], (of[1], *of[2])))


@pytest.mark.deep
@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
@given(rewards_of_one_shape, st.integers(0, 4))
def test_rewards_of_any_shape_and_dtype_come_back_bit_for_bit(
    jam: Jamboree, rewards: Any, read_after: int
) -> None:
    env = jam.record(GivenRewards(rewards))
    for _ in range(2):  # the second begins with the layout of the first
        env.reset(seed=1)
        for number in range(len(rewards)):
            env.step(0)
            if number == read_after:
                jam.flush()
        expected = rewards.astype(rewards.dtype.newbyteorder("="))
        episode = jam.episode(env.episode_id)
        assert is_same(env.handler.recent(9).rewards, expected)
        assert is_same(episode.data().rewards, expected)
        assert all(map(is_same, (step.reward for step in episode.steps()), rewards))
        with np.errstate(all="ignore"):
            flat = rewards.reshape(len(rewards), -1).astype(float)
            sums = sum(flat, np.zeros(flat.shape[1]))
        assert np.array(episode.summary.returns).tobytes() == sums.tobytes()
        assert math.isnan(episode.summary.episode_return)


def test_what_a_killed_process_leaves_has_them(
    open_jamboree: OpenJamboree, tmp_path: Path, other_valkey: Shared
) -> None:
    recording = open_jamboree(home=tmp_path / "home", flush_interval_s=HOUR_S)
    rewards = [np.array([n, -n], np.float32) / 3 for n in range(4)]
    env, _ = played(recording, GivenRewards(rewards), 3, "r")
    copy_journal(recording, tmp_path / "home", tmp_path / "left", other_valkey.url)
    after = open_jamboree(other_valkey.url, home=tmp_path / "left")

    found = after.episode(env.episode_id)
    assert is_same(found.data().rewards, np.array(rewards[:3]))
    assert found.summary.returns == tuple(np.array(rewards[:3], float).sum(axis=0).tolist())


def test_a_reset_that_was_delivered_before_the_first_reward_does_not_matter(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree(write="sync")
    env, rewards = played(jam, GivenRewards(np.arange(6.0).reshape(3, 2)), 3)

    data = jam.episode(env.episode_id).data()
    assert is_same(data.rewards, column(rewards))
    table = jam.episodes().table()
    assert table["reward_1"].to_pylist() == [1, 3, 5]
    assert "reward" not in table.column_names


def test_numbers_in_a_tuple_are_kept_as_one_number_is(jam: Jamboree) -> None:
    env, _ = played(jam, GivenRewards([(1, 2), [0.5, True], (np.int8(3), 4)]), 3)

    rewards = jam.episode(env.episode_id).data().rewards
    assert is_same(rewards, np.array([[1, 2], [0.5, 1], [3, 4]], np.float64))


def test_a_later_reward_may_be_of_a_dtype_that_holds_both(jam: Jamboree) -> None:
    rewards = [np.array([1, 0]), np.array([0.5, 0]), np.array([2, 1], np.float32)]
    env, _ = played(jam, GivenRewards(rewards), 3)

    data = jam.episode(env.episode_id).data()
    assert is_same(data.rewards, np.array([[1, 0], [0.5, 0], [2, 1]]))
    large = jam.record(GivenRewards([np.array([2**60 + 1, 0]), np.array([0.5, 0])] * 2))
    large.reset()
    large.step(0)
    large.step(0)
    with pytest.raises(InvalidRecord, match="another form"):
        large.step(0)


def test_an_episode_may_have_one_number_after_one_that_has_several(jam: Jamboree) -> None:
    several, one = [np.ones(2)] * 2, [1.0, 2.0]
    env = jam.record(GivenRewards(several), run="r")
    for rewards in (several, one, several):
        env.unwrapped.rewards = rewards
        env.reset(seed=1)
        env.step(0)
        env.step(0)

    summaries = jam.episodes(run="r").summaries()
    assert [one.returns for one in summaries] == [(2.0, 2.0), None, (2.0, 2.0)]
    assert summaries[1].episode_return == 3.0


@pytest.mark.parametrize("reward", [1.0, None, "a", np.ones(3), np.ones((2, 1)), [[1, 2], [3]]])
def test_an_odd_reward_costs_no_step_that_came_before_it(jam: Jamboree, reward: Any) -> None:
    env = jam.record(GivenRewards([np.ones(2), reward, np.ones(2)]))
    env.reset(seed=1)
    env.step(0)
    with pytest.raises(InvalidRecord, match="the reward") as caught:
        env.step(0)
    assert caught.value.returned[1] is reward
    assert len(str(caught.value)) < 320
    env.step(0)

    episode = jam.episode(env.episode_id)
    assert (episode.status, episode.summary.returns) == ("abandoned", (1.0, 1.0))


# -- vector environments ------------------------------------------------------------------------


class ManyTreasures(VectorEnv[Any, Any, Any]):
    """Sub-environments whose rewards are several numbers, as MO-Gymnasium batches them."""

    def __init__(self, num_envs: int, length: int = 4) -> None:
        self.num_envs, self.length = num_envs, length
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = BOX, spaces.Discrete(2)
        self.observation_space = batch_space(BOX, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rewards = np.zeros((num_envs, 2), np.float32)
        self.counts = np.arange(num_envs) % length

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((self.num_envs, 2), np.float32), {}

    def step(self, actions: Any) -> Any:
        ended = self.counts == self.length
        self.counts = np.where(ended, 0, self.counts + 1)
        self.rewards[:] = np.stack([self.counts / 3, -self.counts], axis=1)
        seen = np.repeat(self.counts[:, None], 2, axis=1).astype(np.float32)
        nobody = np.zeros(self.num_envs, bool)
        return seen, self.rewards, self.counts == self.length, nobody, {}


@pytest.mark.parametrize("num_envs", [3, 9])
def test_those_of_vector_environments_come_back_also_after_a_kill(
    open_jamboree: OpenJamboree, tmp_path: Path, other_valkey: Shared, num_envs: int
) -> None:
    home = tmp_path / "home"
    recording = open_jamboree(home=home, flush_interval_s=HOUR_S)
    envs = recording.record(ManyTreasures(num_envs), run="r")
    envs.reset()
    for _ in range(40):
        envs.step(np.zeros(num_envs, int))
    writer = recording._connection.journal.owner.writer
    blocks = [one for path in home.rglob(f"{writer}.*") if path.suffix.strip(".").isdigit()
              for one in read_blocks(path)]  # fmt: skip
    assert any(block.kind == KIND_VECTOR for block in blocks) is (num_envs == 9)
    copy_journal(recording, home, tmp_path / "left", other_valkey.url)
    after = open_jamboree(other_valkey.url, home=tmp_path / "left")
    recording.flush()

    found = {one.id: one.data() for one in recording.episodes(run="r")}
    assert len(found) > 2 * num_envs
    for id, data in found.items():
        assert data.rewards.dtype == np.float32
        counts = data.observations[1:, 0].astype(float)
        assert data.rewards.tolist() == np.stack([counts / 3, -counts], 1).astype("f4").tolist()
        assert is_same(after.episode(id).data().rewards, data.rewards)
        assert after.episode(id).summary.returns == recording.episode(id).summary.returns


# -- queries ------------------------------------------------------------------------------------


@pytest.fixture
def asked(jam: Jamboree) -> Jamboree:
    """Has three episodes with two returns, and one with one."""
    for n in range(3):
        played(jam, GivenRewards([np.array([n, -n * n])] * 2), 2, "several")
    played(jam, GivenRewards([1.0, 1.0]), 2, "one")
    return jam


def returns_of(query: Any) -> list[float]:
    return [one.episode_return for one in query.summaries()]


def test_a_query_adds_returns_up_only_as_it_is_told(asked: Jamboree) -> None:
    several = asked.episodes(run="several")
    assert all(map(math.isnan, returns_of(several)))
    assert returns_of(several.weighted([1, 1])) == [0, 0, -4]
    assert returns_of(several.weighted([0, 1]).order_by("episode_return")) == [-8, -2, 0]
    assert len(several.weighted([3, 1]).where(min_return=4)) == 2
    assert len(several.weighted([3, 1]).where("episode_return >= 4 and return_1 > -8")) == 1
    assert len(several.where("return_0 > 1")) == 2
    by_second = several.order_by("return_1").summary_table()
    assert by_second["return_1"].to_pylist() == [-8, -2, 0]
    everything = asked.episodes().weighted([1, 1]).order_by("-episode_return")
    assert returns_of(everything) == [2, 0, 0, -4]
    assert asked.episodes().summary_table()["return_0"].to_pylist() == [0, 2, 4, None]


@pytest.mark.parametrize(
    "ask",
    [
        lambda query: query.where(min_return=1),
        lambda query: query.where(max_return=1),
        lambda query: query.where("episode_return > 1"),
        lambda query: query.order_by("-episode_return"),
    ],
)
def test_a_question_for_one_return_says_how_to_choose(asked: Jamboree, ask: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"2 returns\n.*\.weighted\(\[1.0, 1.0\]\)") as caught:
        ask(asked.episodes()).ids()
    assert "several" in str(caught.value)
    assert len(ask(asked.episodes(run="one")).ids()) in (0, 1)
    assert len(ask(asked.episodes(run="several").weighted([1, 1])).ids()) in (0, 3)


def test_weights_of_another_number_are_refused(asked: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match="has 2 returns: give a weight for each"):
        asked.episodes().weighted([1, 2, 3]).ids()


def test_runs_and_tables_for_people_show_each_return(asked: Jamboree) -> None:
    run = asked.run("several")
    assert run.summary.mean_return is None
    each = run.summary.mean_returns
    assert each is not None
    assert len(each) == 2
    assert run.summary.shown_return == f"({each[0]:.4g}, {each[1]:.4g})"
    assert f"returns of the last 10: {run.summary.shown_return}" in str(run.report())
    assert run.summary.shown_return in str(asked.runs())
    assert "return" not in " ".join(run.report().warnings)
    assert "(4, -8)" in run.episodes._as_text()
    assert "return (4, -8)" in str(run.episodes.last().summary)
    assert asked.run("one").summary.mean_return == 2.0
    assert asked.run("one").summary.mean_returns is None
    rows = {row["run"]: row["mean_returns"] for row in asked.runs().table().to_pylist()}
    assert (rows["several"], rows["one"]) == (list(each), None)


# -- the stored form ----------------------------------------------------------------------------


class EarlierSummary(msgspec.Struct, array_like=True, gc=False):
    """A summary as the release before decodes it."""

    env_id: str
    run: str
    status: str
    steps: int
    episode_return: float
    started_at: float
    elapsed_s: float
    seed: bytes | None
    tags: bytes | None
    vector_index: int | None
    writer: bytes
    parent: str | None
    parent_run: str | None = None
    fork_step: int | None = None
    id: str = ""


@pytest.mark.parametrize("parent", [None, "p"])
def test_an_earlier_release_lists_the_episode_without_its_return(parent: str | None) -> None:
    summary = EpisodeSummary(
        *("id", "env", "run", "terminated", 2, math.nan, 1.0, 0.5, None),
        *({"a": 1}, None, "00" * 8, parent, parent and 7, parent),
        returns=(1.0, -2.0),
    )
    encoded = encode_summary(summary)

    earlier = msgspec.msgpack.decode(encoded[4:], type=EarlierSummary)
    assert (earlier.steps, earlier.parent, earlier.fork_step) == (2, parent, parent and 7)
    assert math.isnan(earlier.episode_return)
    (found,), damaged = decode_summaries({"id": encoded})
    assert (found.returns, found.fork_step, damaged) == ((1.0, -2.0), parent and 7, {})


def test_batches_have_the_version_that_earlier_releases_do_not_know(jam: Jamboree) -> None:
    env, _ = played(jam, GivenRewards(), 2)
    plain, _ = played(jam, GivenRewards([1.0, 2.0]), 2)
    jam.flush()

    def versions(id: str) -> set[int]:
        (key,) = keys_like(jam.redis, f"*:episode:{{{id}}}")
        return {batch[2] for batch in jam.redis.lrange(key, 1, -1)}

    assert (versions(env.episode_id), versions(plain.episode_id)) == ({3}, {2})


def test_they_come_out_of_the_backup(jam: Jamboree) -> None:
    env, rewards = played(jam, GivenRewards(np.arange(6.0).reshape(3, 2)), 3)
    jam.backup.flush()
    jam.redis.flushdb()

    assert is_same(jam.episode(env.episode_id).data().rewards, column(rewards))
    assert jam.episode(env.episode_id).summary.returns == (6.0, 9.0)


# -- replays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2"])
def test_an_episode_is_verified_forked_and_replayed(jam: Jamboree, dtype: str) -> None:
    env, rewards = played(jam, gym.make("test/Treasures-v0", dtype=dtype), 5, "r")
    episode = jam.episode(env.episode_id)

    assert verify(episode)
    replay = ReplayEnv(episode)
    replay.reset()
    first, second = (replay.step(0)[1] for _ in range(2))
    assert is_same(first, rewards[0])
    first[:] = 0
    replay.reset()
    assert is_same(replay.step(0)[1], rewards[0])
    assert is_same(second, rewards[1])
    with fork(episode, 2) as child:
        child.step(1)
    (forked,) = jam.episodes(run="r", forks=True).where(parent=episode)
    assert forked.data().rewards.shape == (1, 3)


def test_what_if_adds_up_the_numbers_of_a_reward_by_weights(jam: Jamboree) -> None:
    env, rewards = played(jam, gym.make("test/Treasures-v0"), 5)
    episode = jam.episode(env.episode_id)
    for weights in (None, [1.0], [1, 2, 3, 4]):
        with pytest.raises(InvalidArgument, match=r"has 3 numbers.*\n.*weights=\[1.0, 1.0, 1.0\]"):
            what_if(episode, 1, lambda _: 0, n=1, weights=weights)
    for weights in ([1, 0.5, 0], [0, 0, 2]):
        report = what_if(
            episode, 1, lambda _: 0, n=1, weights=weights, same_noise=True, record=True
        )
        expected = sum(float(np.dot(weights, reward)) for reward in rewards[1:])
        assert report.recorded_return == report.returns[0] == pytest.approx(expected)
        child = jam.episode(report.children[0])
        assert is_same(child.data().rewards, episode.data().rewards[1:])


def test_several_episodes_are_replayed_together(jam: Jamboree) -> None:
    expected = [played(jam, gym.make("test/Treasures-v0"), steps, "r")[1] for steps in (5, 2)]
    played(jam, gym.make("test/Treasures-v0"), 0, "r")  # without a step: it has no reward
    envs = ReplayVectorEnv(jam.episodes(run="r"))
    envs.reset()

    for number in range(5):
        _, rewards, *_ = envs.step(envs.recorded_actions)
        for got, of_episode in zip(rewards, [*expected, []], strict=True):
            wanted = of_episode[number] if number < len(of_episode) else np.zeros(3)
            assert is_same(got, wanted)

    played(jam, GivenRewards(), 1, "r")
    with pytest.raises(ReplayError, match=r"have different shapes: \(2,\), \(3,\)"):
        ReplayVectorEnv(jam.episodes(run="r"))


def test_a_difference_names_the_number_of_the_reward(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, _ = played(jam, gym.make("test/Treasures-v0"), 5)
    step = Treasures.step

    def other(self: Treasures, action: Any) -> Any:
        seen, reward, *rest = step(self, action)
        reward[1] -= self.count == 4
        return seen, reward, *rest

    def with_one_number(self: Treasures, action: Any) -> Any:
        seen, _, *rest = step(self, action)
        return seen, 1.0, *rest

    monkeypatch.setattr(Treasures, "step", other)
    report = verify(jam.episode(env.episode_id))
    assert str(report.mismatch) == "reward[1] at step 3: recorded -1.0, now -2.0"
    monkeypatch.setattr(Treasures, "step", with_one_number)
    assert verify(jam.episode(env.episode_id)).mismatch.field == "reward"


def test_two_episodes_are_compared(jam: Jamboree) -> None:
    one, _ = played(jam, GivenRewards([np.ones(2), np.ones(2)]), 2)
    other, _ = played(jam, GivenRewards([np.ones(2), np.array([1.0, 3.0])]), 2)

    found = jam.episode(one.episode_id).diff(other.episode_id)
    assert found.divergence is not None
    assert found.divergence.place == "reward[1] at step 1"
