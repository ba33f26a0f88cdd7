"""Snapshots: when they are kept, what they hold, and forks that begin at them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from forks import assert_forks_like_recorded, assert_other_ways_verify
from gymnasium import spaces, wrappers
from lengths import quick_and_long
from recorded_envs import CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.environment.env_state import put_state, state_gap, take_state
from jamboree_gym.errors import DecodeError, InvalidArgument, InvalidRecord, ReplayError
from jamboree_gym.handlers.sidecar import compress
from jamboree_gym.handlers.snapshots import SnapshotHandler
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import fork, verify, what_if


class WalkEnv(CountingEnv):
    """A random walk, which tells its state; counts the steps of all of its kind."""

    steps = 0

    def __init__(self, length: int = 60) -> None:
        super().__init__(length)
        self.action_space = spaces.Discrete(3)
        self.position = 0.0

    def observe(self) -> Any:
        return np.array([self.count, self.position], np.float32)

    def reset(self, **options: Any) -> Any:
        self.position = 0.0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        type(self).steps += 1
        self.position += float(self.np_random.normal()) + int(action)
        return super().step(action)

    def snapshot(self) -> bytes:
        return encode_value((self.count, self.position))

    def restore(self, snapshot: bytes) -> None:
        self.count, self.position = decode_value(snapshot, where="here")


class LossyEnv(WalkEnv):
    """Forgets in its snapshots where it was."""

    def restore(self, snapshot: bytes) -> None:
        super().restore(snapshot)
        self.position += 1.0


class TextEnv(WalkEnv):
    """Takes text for bytes."""

    def snapshot(self) -> Any:
        return "text"


class MemoryWrapper(gym.RewardWrapper):
    """A wrapper of the user's own that remembers, and says what."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.total = 0.0

    def reward(self, reward: Any) -> Any:
        self.total += float(reward)
        return self.total

    def snapshot(self) -> bytes:
        return encode_value(self.total)

    def restore(self, snapshot: bytes) -> None:
        self.total = decode_value(snapshot, where="here")


class SilentWrapper(gym.RewardWrapper):
    """A wrapper of the user's own that does not say what it remembers."""

    def reward(self, reward: Any) -> Any:
        return reward


SAMPLES = {"Walk": WalkEnv, "Lossy": LossyEnv, "Text": TextEnv}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, entry_point in SAMPLES.items():
        gym.register(f"tests/{name}-v0", entry_point=entry_point, disable_env_checker=True)
    yield
    for name in SAMPLES:
        gym.registry.pop(f"tests/{name}-v0", None)


def record(
    jam: Jamboree, env: gym.Env[Any, Any], steps: int = 40, seed: int | None = 3, every: Any = 10
) -> Episode:
    recorded = jam.record(env, snapshot_every=every)
    recorded.action_space.seed(4)
    recorded.reset(seed=seed)
    for _ in range(steps):
        *_, terminated, truncated, _ = recorded.step(recorded.action_space.sample())
        if terminated or truncated:
            break
    recorded.close()
    return jam.episode(recorded.episode_id)


def kept(episode: Episode) -> list[int]:
    """Steps of the snapshots, the newest first."""
    steps, before = [], 10**9
    while (found := episode.snapshots().newest(before=before)) is not None:
        before = found[0]
        steps.append(before)
    return steps


def steps_taken(do: Callable[[], Any]) -> int:
    """How many steps are played."""
    WalkEnv.steps = LossyEnv.steps = 0
    do()
    return WalkEnv.steps + LossyEnv.steps


# -- when they are kept -----------------------------------------------------------------------


def test_they_are_kept_after_the_reset_and_every_so_many_steps(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"), steps=35)

    assert kept(episode) == [30, 20, 10, 0]
    assert kept(record(jam, gym.make("tests/Walk-v0"), every=None)) == []


def test_each_episode_has_its_own(jam: Jamboree) -> None:
    env = jam.record(gym.make("tests/Walk-v0", length=3), snapshot_every=2)
    for _ in range(2):
        env.reset()
        for _ in range(3):
            env.step(0)
    env.close()

    assert [kept(episode) for episode in jam.episodes()] == [[2, 0], [2, 0]]


def test_recording_them_changes_nothing(jam: Jamboree) -> None:
    with_them = record(jam, gym.make("tests/Walk-v0"), every=1)
    without = record(jam, gym.make("tests/Walk-v0"), every=None)

    assert not jam.diff(with_them, without)
    assert verify(with_them)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10"])
def test_a_number_that_is_none_is_named(jam: Jamboree, every: Any) -> None:
    with pytest.raises(InvalidArgument, match="snapshot_every="):
        jam.record(gym.make("tests/Walk-v0"), snapshot_every=every)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gym.make("CartPole-v1"), "CartPoleEnv"),
        (lambda: SilentWrapper(gym.make("tests/Walk-v0")), "SilentWrapper"),
        (
            lambda: wrappers.TransformReward(gym.make("tests/Walk-v0"), lambda reward: reward),
            "TransformReward",
        ),
    ],
)
def test_what_offers_none_is_named(
    jam: Jamboree, make: Callable[[], gym.Env[Any, Any]], named: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"{named} offers no snapshots"):
        jam.record(make(), snapshot_every=10)


def test_a_vector_environment_has_none(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match="snapshot_every= is for single environments"):
        jam.record(gym.make_vec("CartPole-v1", num_envs=2), snapshot_every=10)


def test_what_is_not_bytes_is_named(jam: Jamboree) -> None:
    with pytest.raises(InvalidRecord, match=r"TextEnv\.snapshot\(\) returned a str"):
        record(jam, gym.make("tests/Text-v0"))


def test_they_are_deleted_with_their_episode(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"))
    episode.delete()

    assert kept(episode) == []


def test_they_survive_backup_and_restore(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"))
    jam.backup.flush()
    jam.redis.flushdb()
    jam.backup.restore()

    assert kept(episode) == [40, 30, 20, 10, 0]
    assert steps_taken(lambda: fork(episode, 35)) == 5


# -- forks that begin at them -----------------------------------------------------------------


@pytest.mark.parametrize("seed", [3, None], ids=["seeded", "unseeded"])
def test_a_fork_at_every_step_goes_on_as_recorded(jam: Jamboree, seed: int | None) -> None:
    episode = record(jam, gym.make("tests/Walk-v0", max_episode_steps=25), seed=seed)

    assert_forks_like_recorded(jam, episode)
    assert_other_ways_verify(jam, episode, 17)


@pytest.mark.parametrize(("step", "played"), [(0, 0), (1, 1), (10, 10), (11, 1), (40, 10)])
def test_only_what_comes_after_the_newest_one_before_is_played(
    jam: Jamboree, step: int, played: int
) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"))

    assert steps_taken(lambda: fork(episode, step)) == played


def test_a_grandchild_begins_at_the_snapshot_of_its_grandparent(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"))
    env = fork(episode, 32)
    for _ in range(4):
        env.step(1)
    env.close()
    child = jam.episode(env.episode_id)

    assert steps_taken(lambda: fork(child, 3)) == 2 + 3
    assert_forks_like_recorded(jam, child, range(4))


def test_the_time_limit_goes_on_counting(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Walk-v0", max_episode_steps=30), steps=30)
    env = fork(episode, 25)

    assert [env.step(0)[3] for _ in range(5)] == [False] * 4 + [True]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.FrameStackObservation(env, 3),
        lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 50)),
        lambda env: wrappers.StickyAction(env, 0.5),
        lambda env: wrappers.RecordEpisodeStatistics(wrappers.ClipReward(env, -2, 2)),
        lambda env: wrappers.TimeLimit(wrappers.FlattenObservation(env), 31),
    ],
)
def test_what_wrappers_remember_is_in_them(
    jam: Jamboree, wrap: Callable[[gym.Env], gym.Env]
) -> None:
    episode = record(jam, wrap(gym.make("tests/Walk-v0")))

    assert steps_taken(lambda: fork(episode, 28)) == 8
    assert_forks_like_recorded(jam, episode, range(20, len(episode), 3))


def test_a_wrapper_of_ones_own_may_say_what_it_remembers() -> None:
    one, other = (MemoryWrapper(gym.make("tests/Walk-v0")) for _ in range(2))
    one.reset(seed=1)
    other.reset(seed=2)
    one.step(2)

    put_state(other, take_state(one))

    assert encode_value(other.step(1)) == encode_value(one.step(1))


def test_what_if_brings_one_environment_back(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"))

    played = steps_taken(lambda: what_if(episode, 35, lambda _: 1, n=10, max_steps=2))

    assert played == 5 + 2 * 5 + 10 * 2  # up to there, two proofs over what is recorded, and then


# -- those that are of no use -----------------------------------------------------------------


def warned(caplog: pytest.LogCaptureFixture) -> int:
    return sum("is of no use" in record.message for record in caplog.records)


def test_one_that_lacks_something_is_found_out_and_the_steps_are_played(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    episode = record(jam, gym.make("tests/Lossy-v0"))

    with caplog.at_level(logging.WARNING, logger="jamboree_gym"):
        assert steps_taken(lambda: fork(episode, 37)) == 37 + 7 + 17 + 27
    assert warned(caplog) == 3
    assert_forks_like_recorded(jam, episode, [37])


def tamper(jam: Jamboree, episode: Episode, **changes: Any) -> None:
    """Store another snapshot in place of those that are there."""
    _, state = episode.snapshots().newest(before=20)
    jam.flush()
    handler = SnapshotHandler(jam)
    handler["episode"] = episode.id
    handler.delete()
    if "state" in changes:
        handler.put(10, changes["state"](state))
    else:
        handler.put(10, state)
        record = {**handler.last(), **changes}
        handler.delete()
        handler.save({name: record[name] for name in ("step", "size", "codec", "content")})
    jam.flush()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2**40},
        {"size": 2**27 + 1, "content": compress(bytes(2**27 + 1), asbytes=True)},
        {"size": -1},
        {"size": 3},
        {"codec": "snappy"},
        {"content": b"nothing"},
        {"content": 5},
        {"state": lambda _: b""},
        {"state": lambda _: encode_value([[], None])},
        {"state": lambda _: encode_value({"layers": 1})},
        {"state": lambda _: encode_value([[["os.system", b""]], None])},
        {"state": lambda state: state[:-3]},
        {"state": lambda state: state.replace(b"PCG64", b"SFC64")},
    ],
)
def test_a_damaged_one_is_found_out_and_the_steps_are_played(
    jam: Jamboree, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"))
    tamper(jam, episode, **changes)

    with caplog.at_level(logging.WARNING, logger="jamboree_gym"):
        env = fork(episode, 15)

    assert warned(caplog) == 1
    assert env.observation.tolist() == episode.data().observations[15].tolist()


def test_a_damaged_one_is_named_where_it_is_read(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Walk-v0"))
    tamper(jam, episode, content=b"nothing")

    with pytest.raises(DecodeError, match="at index 0: not a snapshot"):
        episode.snapshots().newest(before=11)


def test_one_that_could_not_be_read_again_is_refused(jam: Jamboree) -> None:
    handler = SnapshotHandler(jam)
    handler["episode"] = "e"

    with pytest.raises(InvalidRecord, match="step 3 has 134217729 bytes"):
        handler.put(3, bytes(2**27 + 1))


def test_one_of_another_version_is_not_used(jam: Jamboree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "jamboree_gym.environment.provenance._versions", lambda: {"python": "2.7.18"}
    )
    episode = record(jam, gym.make("tests/Walk-v0"))
    monkeypatch.undo()

    assert episode.provenance["versions"]["python"] == "2.7.18"
    assert steps_taken(lambda: fork(episode, 35)) == 35


def test_one_of_another_class_is_refused() -> None:
    one, other = gym.make("tests/Walk-v0"), gym.make("tests/Lossy-v0")
    one.reset()
    other.reset()

    with pytest.raises(ReplayError, match=r"WalkEnv.*LossyEnv"):
        put_state(other, take_state(one))


def test_a_wrapper_that_only_has_the_name_of_a_known_one_offers_none() -> None:
    namesake = type("TimeLimit", (SilentWrapper,), {})

    assert "offers no snapshots" in str(state_gap(namesake(gym.make("tests/Walk-v0"))))


# -- simulators -------------------------------------------------------------------------------


def atari() -> gym.Env[Any, Any]:
    import ale_py

    gym.register_envs(ale_py)
    return gym.make("ALE/Breakout-v5")  # repeats an action with probability 0.25


def preprocessed_atari() -> gym.Env[Any, Any]:
    import ale_py

    gym.register_envs(ale_py)
    env = gym.make("ALE/Breakout-v5", frameskip=1)
    return wrappers.FrameStackObservation(wrappers.AtariPreprocessing(env), 4)


SIMULATORS: dict[str, Callable[[], gym.Env[Any, Any]]] = {
    "ALE": atari,
    "ALE preprocessed": preprocessed_atari,
    "Ant": lambda: gym.make("Ant-v5"),
    "Walker2d": lambda: gym.make("Walker2d-v5"),
    "Humanoid": lambda: gym.make("Humanoid-v5"),
}


@pytest.mark.parametrize("name", quick_and_long(SIMULATORS, quick=["Ant"]))
def test_a_simulator_goes_on_from_a_snapshot_as_recorded(
    jam: Jamboree, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    episode = record(jam, SIMULATORS[name](), steps=20, every=5)

    with caplog.at_level(logging.WARNING, logger="jamboree_gym"):
        steps = range(1, len(episode), 4)  # as far behind a snapshot as can be, and nearer
        assert_forks_like_recorded(jam, episode, steps, trust_snapshots=True)
    assert warned(caplog) == 0
    assert_other_ways_verify(jam, episode, len(episode) - 3)


def test_snapshots_of_an_emulator_are_used_only_where_they_are_trusted(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    episode = record(jam, atari(), steps=20, every=5)
    tamper(jam, episode, state=lambda state: b"anything")

    with caplog.at_level(logging.WARNING, logger="jamboree_gym"):
        fork(episode, 15)
        assert warned(caplog) == 0
        fork(episode, 15, trust_snapshots=True)
    assert warned(caplog) == 1


@pytest.mark.parametrize("name", quick_and_long(SIMULATORS, quick=["ALE", "Ant"]))
def test_a_simulator_is_brought_back_by_what_if(jam: Jamboree, name: str) -> None:
    episode = record(jam, SIMULATORS[name](), steps=20, every=5)
    step = len(episode) - 5
    rows = episode._rows(step)
    taken = [rows.action(row) for row in range(1, len(rows))]
    actions: list[Any] = []

    def as_then(_: Any) -> Any:
        actions[:] = actions or list(taken)
        return actions.pop(0)

    report = what_if(episode, step, as_then, n=3, same_noise=True, max_steps=len(taken))

    assert report.returns.tolist() == [report.recorded_return] * 3
