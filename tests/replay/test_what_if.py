"""`what_if`: what would have come of an episode under another policy."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from forks import assert_forks_like_recorded, assert_other_ways_verify
from gymnasium import spaces
from recorded_envs import CountingEnv

import jamboree_envs  # noqa: F401 - registers its environments
from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import verify, what_if


class NoisyEnv(CountingEnv):
    """Gains noise at each step; counts how often one of its kind was made, and reset."""

    resets = 0

    def __init__(self, length: int = 20) -> None:
        super().__init__(length)
        self.action_space = spaces.Discrete(2)

    def reset(self, **options: Any) -> Any:
        type(self).resets += 1
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(action) + float(self.np_random.random()), *rest


class UncopiedEnv(NoisyEnv):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("it holds a window")


class SharingEnv(NoisyEnv):
    """Its copies count together."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = [0]

    def __deepcopy__(self, memo: Any) -> Any:
        made = type(self)()
        made.shared, made.count, made.spec = self.shared, self.count, self.spec
        made.np_random = deepcopy(self.np_random)
        return made

    def reset(self, **options: Any) -> Any:
        self.shared[0] = 0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.shared[0] += 1
        return super().step(action)

    def observe(self) -> Any:
        return np.array([self.shared[0], 0.5], np.float32)


class SnapshotEnv(UncopiedEnv):
    """Tells its state."""

    def snapshot(self) -> bytes:
        return bytes([self.count])

    def restore(self, snapshot: bytes) -> None:
        (self.count,) = snapshot


SAMPLES = {
    "Noisy": NoisyEnv,
    "Uncopied": UncopiedEnv,
    "Sharing": SharingEnv,
    "Snapshot": SnapshotEnv,
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, entry_point in SAMPLES.items():
        gym.register(f"tests/{name}-v0", entry_point=entry_point, disable_env_checker=True)
        entry_point.resets = 0
    yield
    for name in SAMPLES:
        gym.registry.pop(f"tests/{name}-v0", None)


def record(
    jam: Jamboree, name: str, steps: int = 12, action: Any = None, **options: Any
) -> Episode:
    env = jam.record(gym.make(name, **options), run="then", tags={"lr": 1})
    env.action_space.seed(4)
    env.reset(seed=3)
    for _ in range(steps):
        taken = env.action_space.sample() if action is None else action
        *_, terminated, truncated, _ = env.step(taken)
        if terminated or truncated:
            break
    env.close()
    return jam.episode(env.episode_id)


def one(observation: Any) -> int:
    return 1


ALL = ["Noisy", "Uncopied", "Sharing", "Snapshot"]


# -- what it says -----------------------------------------------------------------------------


def test_every_continuation_is_what_the_policy_would_have_got(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0", steps=20, action=0)
    rewards = episode.data().rewards

    report = what_if(episode, 8, one, n=30)

    assert report.returns.shape == report.lengths.shape == (30,)
    assert (report.returns.dtype, report.lengths.dtype) == (np.float64, np.int64)
    assert report.lengths.tolist() == [12] * 30
    assert ((report.returns > 12) & (report.returns < 24)).all()
    assert len(set(report.returns.tolist())) == 30
    assert report.recorded_return == pytest.approx(rewards[8:].sum())
    assert report.recorded_length == 12
    assert report.share_better == 1.0
    assert report.mean == pytest.approx(report.returns.mean())
    assert report.percentile(50) == pytest.approx(np.median(report.returns))


def test_half_of_them_do_better_where_half_do(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0", steps=20, action=1)

    assert 0 < what_if(episode, 0, one, n=60).share_better < 1


def test_its_text_has_two_lines(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0", steps=20, action=0)

    first, second = str(what_if(episode, 18, one, n=10)).split("\n")

    assert first.startswith(f"episode {episode.id} from step 18 on, 10 times: return ")
    assert second.endswith("2 steps; 100% did better")


def test_a_limit_cuts_both_what_would_and_what_did_happen(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0", steps=20, action=0)

    report = what_if(episode, 5, one, n=3, max_steps=4)

    assert report.lengths.tolist() == [4, 4, 4]
    assert report.recorded_length == 4
    assert report.recorded_return == pytest.approx(episode.data().rewards[5:9].sum())


@pytest.mark.parametrize("wrong", [{"max_steps": -1}, {"seed": -1}])
def test_a_negative_number_is_refused(jam: Jamboree, wrong: dict[str, int]) -> None:
    episode = record(jam, "tests/Noisy-v0", steps=20, action=0)

    with pytest.raises(InvalidArgument, match=f"{next(iter(wrong))}=-1: give a whole number, 0 or"):
        what_if(episode, 5, one, n=1, **wrong)
    with pytest.raises(InvalidArgument, match=r"q=101\.0: give a percentage"):
        what_if(episode, 18, one, n=1).percentile(101.0)


def test_a_model_with_predict_is_a_policy(jam: Jamboree) -> None:
    asked = []

    class Model:
        def predict(self, observation: Any, deterministic: bool = False) -> Any:
            asked.append((observation.tolist(), deterministic))
            return np.array(1), None

    episode = record(jam, "tests/Noisy-v0", steps=20, action=0)

    same = what_if(episode, 17, Model(), n=2)
    what_if(episode, 19, Model(), n=1, deterministic=False)

    assert same.returns.tolist() == what_if(episode, 17, one, n=2).returns.tolist()
    assert asked[:3] == [([17.0, 0.5], True), ([18.0, 0.5], True), ([19.0, 0.5], True)]
    assert asked[-1] == ([19.0, 0.5], False)


# -- noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_same_call_gives_the_same_result_however_it_is_repeated(
    jam: Jamboree, name: str
) -> None:
    episode = record(jam, f"tests/{name}-v0")
    expected = what_if(record(jam, "tests/Noisy-v0"), 6, one, n=5).returns.tolist()

    assert what_if(episode, 6, one, n=5).returns.tolist() == expected
    assert what_if(episode, 6, one, n=5, seed=1).returns.tolist() != expected


@pytest.mark.parametrize("name", ALL)
def test_the_same_noise_and_the_same_actions_give_what_happened(jam: Jamboree, name: str) -> None:
    episode = record(jam, f"tests/{name}-v0", steps=20, action=1)

    report = what_if(episode, 6, one, n=3, same_noise=True)

    assert report.returns.tolist() == [report.recorded_return] * 3


def test_the_action_space_has_noise_of_its_own_each_time(jam: Jamboree) -> None:
    sampled: list[int] = []
    episode = record(jam, "tests/Noisy-v0", action=0)

    class SamplingEnv(NoisyEnv):
        def step(self, action: Any) -> Any:
            if self.count >= 12:
                sampled.append(int(self.action_space.sample()))
            return super().step(action)

    gym.registry.pop("tests/Noisy-v0")
    gym.register("tests/Noisy-v0", entry_point=SamplingEnv)
    what_if(episode, 12, one, n=2)
    first = list(sampled)
    sampled.clear()
    what_if(episode, 12, one, n=2)

    assert sampled == first
    assert first[:8] != first[8:]


# -- how the place is reached -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "resets"), [("Noisy", 1), ("Snapshot", 1), ("Uncopied", 6), ("Sharing", 6)]
)
def test_the_place_is_reached_once_where_it_can_be_copied(
    jam: Jamboree, name: str, resets: int
) -> None:
    episode = record(jam, f"tests/{name}-v0")
    SAMPLES[name].resets = 0

    what_if(episode, 6, one, n=5)

    assert SAMPLES[name].resets == resets


def test_a_place_of_which_nothing_is_recorded_is_played_up_to_each_time(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0")
    NoisyEnv.resets = 0

    what_if(episode, 12, one, n=5)  # a copy could not be proven to be one

    assert NoisyEnv.resets == 6


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1", "jamboree/Balance-v0"])
def test_known_environments_are_brought_there_once_and_do_as_forks_do(
    jam: Jamboree, name: str
) -> None:
    episode = record(jam, name)
    step = len(episode) // 2

    report = what_if(episode, step, lambda observation: 0, n=4, same_noise=True)

    again = [what_if(episode, step, lambda observation: 0, n=1, same_noise=True) for _ in range(2)]
    assert report.returns.tolist() == [again[0].returns[0], again[1].returns[0]] * 2


# -- what is recorded -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_recorded_continuations_are_children_that_verify(jam: Jamboree, name: str) -> None:
    episode = record(jam, f"tests/{name}-v0")

    report = what_if(episode, 6, one, n=3, record=True, tags={"who": "me"}, max_steps=7)

    children = episode.children
    assert tuple(child.id for child in children) == report.children
    for child, gained in zip(children, report.returns, strict=True):
        summary = child.summary
        assert (summary.steps, summary.episode_return) == (7, pytest.approx(gained))
        assert (summary.run, summary.status) == ("then", "abandoned")
        assert summary.tags == {"lr": 1, "what_if": 6, "who": "me"}
        assert child.origin.rng_state is not None
        result = verify(child)
        assert result, str(result)


@pytest.mark.parametrize("name", ALL)
def test_a_recorded_continuation_can_be_forked_again(jam: Jamboree, name: str) -> None:
    episode = record(jam, f"tests/{name}-v0")
    what_if(episode, 6, one, n=1, record=True, max_steps=5)
    (child,) = episode.children

    assert_forks_like_recorded(jam, child)
    assert_other_ways_verify(jam, child, 3)


def test_a_continuation_to_its_end_has_ended(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0")

    what_if(episode, 6, one, n=2, record=True)

    assert [child.status for child in episode.children] == ["terminated"] * 2


def test_nothing_is_recorded_otherwise(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0")

    assert what_if(episode, 6, one, n=2).children == ()
    assert len(jam.episodes()) == 1


# -- besides ----------------------------------------------------------------------------------


def test_it_tells_how_far_it_is(jam: Jamboree) -> None:
    told: list[tuple[int, int]] = []

    episode = record(jam, "tests/Noisy-v0")
    what_if(episode, 6, one, n=3, progress=lambda *so_far: told.append(so_far))

    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_error_of_the_policy_is_the_callers_and_leaves_nothing_running(jam: Jamboree) -> None:
    episode = record(jam, "tests/Noisy-v0")

    def fail(observation: Any) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        what_if(episode, 6, fail, n=3, record=True)
    assert [child.status for child in episode.children] == ["abandoned"]


@pytest.mark.parametrize("n", [0, -1])
def test_there_is_at_least_one(jam: Jamboree, n: int) -> None:
    with pytest.raises(ReplayError, match=f"n={n}: "):
        what_if(record(jam, "tests/Noisy-v0"), 6, one, n=n)


def test_what_is_no_policy_is_named(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match="policy=3: "):
        what_if(record(jam, "tests/Noisy-v0"), 6, 3)
    with pytest.raises(ReplayError, match="Fork it after 0 to 12 steps"):
        what_if(record(jam, "tests/Noisy-v0"), 13, one)
