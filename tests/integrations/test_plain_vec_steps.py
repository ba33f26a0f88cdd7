"""Steps of a VecEnv on the quick path: the same is recorded as environment by environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from lengths import quick_and_long
from recorded_envs import CountingEnv, DiscreteEnv
from trained import CASES, cartpole, one_thread

import jamboree_gym
from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.recording.annotations import AnnotationColumns
from jamboree_gym.recording.batch_packing import BatchPacker, rewards_of

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

PACKAGE = str(Path(jamboree_gym.__file__).parent)
FLOAT32 = Leaf(np.dtype(np.float32), (), "numpy")
INT = Leaf(np.dtype(np.int64), (), "python")
COLUMNS = AnnotationColumns({"policy_version": INT, "value": FLOAT32, "log_prob": FLOAT32})
VERSION_ALONE = AnnotationColumns({"policy_version": INT})
STEPS = 60
# What happens before a step. Half of the steps are as in a training: numbers, and nothing else.
BEFORE = (
    *["numbers"] * 6,
    *("nothing", "numbers twice", "version", "version, then numbers"),
    *("user, then numbers", "numbers, then user", "numbers, then reset", "delete, then numbers"),
)


class Telling(DiscreteEnv):
    """Has an info at every fourth step."""

    def info(self) -> dict[str, Any]:
        return {"lap": self.count} if self.count % 4 == 3 else {}


class Walking(DiscreteEnv):
    """Has an info in each step: as MuJoCo's, and once another one."""

    def info(self) -> dict[str, Any]:
        if self.count == 4:
            return {"fallen": self.count}
        return {"x": np.float64(self.count / 3), "alive": 1.0, "feet": np.full(3, self.count)}


class Speaker:
    """Says the same to a recorded VecEnv by `annotate_numbers`, or by `annotate`."""

    def __init__(self, venv: Any, *, is_quick: bool) -> None:
        self._venv = venv
        self._is_quick = is_quick

    def say(self, columns: AnnotationColumns, numbers: list[tuple[Any, ...]]) -> None:
        if self._is_quick:
            self._venv._recorder.annotate_numbers(columns, numbers)
            return
        for handler, own in zip(self._venv.handlers, numbers, strict=True):
            said = columns.annotation(own)
            handler.annotation = {**(handler.annotation or {}), **said}


def played(jam: Jamboree, run: str, num_envs: int, seed: int, *, is_quick: bool) -> Any:
    """What a VecEnv has recorded that is used in the way that the seed says."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    kinds = [partial(DiscreteEnv, 7), partial(Telling, 5, "truncated"), partial(DiscreteEnv, 1)]
    rng = np.random.default_rng(seed)
    venv: Any = jam.record(DummyVecEnv([kinds[i % 3] for i in range(num_envs)]), run=run)
    speaker = Speaker(venv, is_quick=is_quick)
    venv.reset()
    for step in range(STEPS):
        before = str(rng.choice(BEFORE))
        floats = rng.standard_normal((2, num_envs)).astype(np.float32).tolist()
        numbers = [(step, *own) for own in zip(*floats, strict=True)]
        if before == "delete, then numbers" and not venv.handlers[0].was_deleted:
            jam.episode(venv.episode_ids[0]).delete()
        if before == "user, then numbers":
            venv.annotate(value=1.5, mood=np.arange(num_envs))
        if before.startswith("version"):
            speaker.say(VERSION_ALONE, [(-step,)] * num_envs)
        if "numbers" in before:
            speaker.say(COLUMNS, numbers)
        if before == "numbers twice":
            speaker.say(COLUMNS, [(step + 1, *own) for _, *own in numbers])
        if before == "numbers, then user":
            venv.annotate(value=2.5, mood=np.arange(num_envs))
        if before == "numbers, then reset":
            venv.reset()
        venv.step(rng.integers(3, size=num_envs))
    venv.close()
    jam.flush()
    return recorded_steps(jam, run, num_envs)


def recorded_steps(jam: Jamboree, run: str, num_envs: int) -> list[list[Any]]:
    """All that is recorded of each step except the time, by environment and episode."""
    found: list[list[Any]] = [[] for _ in range(num_envs)]
    for episode in jam.episodes(run=run):
        of_env = found[episode.summary.vector_index or 0]
        for one in episode.steps():
            said = {
                name: (type(value), value if np.isscalar(value) else value.item())
                for name, value in one.annotation.items()
            }
            of_env.append(
                (
                    episode.summary.status,
                    type(one.action),
                    int(one.action),
                    one.observation.tobytes(),
                    one.reward,
                    (one.terminated, one.truncated),
                    one.info,
                    said,
                )
            )
    return found


@pytest.mark.parametrize("num_envs", [1, 3, 9])  # nine are recorded by blocks
@pytest.mark.parametrize("seed", quick_and_long(range(4), quick=[1]))
def test_numbers_of_all_are_recorded_as_an_annotation_of_each(
    jam: Jamboree, num_envs: int, seed: int
) -> None:
    quick = played(jam, "quick", num_envs, seed, is_quick=True)
    slow = played(jam, "slow", num_envs, seed, is_quick=False)

    assert quick == slow
    assert sum(map(len, quick)) > STEPS // 4  # the rest is deleted


@pytest.mark.parametrize("num_envs", [1, 3, 9])
def test_infos_of_a_fixed_size_are_recorded_as_of_each_environment_alone(
    jam: Jamboree, num_envs: int
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    def walk(envs: Any) -> Any:
        envs.reset()
        for step in range(20):
            envs.step(np.full(num_envs, step % 3))
        envs.close()
        jam.flush()
        return recorded_steps(jam, envs.run, num_envs)

    venv: Any = jam.record(DummyVecEnv([partial(Walking, 7)] * num_envs), run="venv")
    vector: Any = jam.record(gym.vector.SyncVectorEnv([partial(Walking, 7)] * num_envs), run="gym")
    singles: list[Any] = [jam.record(Walking(7), run=f"single{n}") for n in range(num_envs)]
    for env in singles:
        env.reset()
        for step in range(20):
            if env.step(step % 3)[2]:
                env.reset()
        env.close()

    in_venv, in_vector = walk(venv), walk(vector)

    alone = [recorded_steps(jam, env.run, 1)[0] for env in singles]
    told = [[step[6] for step in steps] for steps in (*in_venv, *alone)]
    assert len({repr(infos) for infos in told}) == 1
    assert {len(infos) for infos in told[0]} == {1, 3}
    for steps in in_vector:
        walked = [info for *_, info, _ in steps if "x" in info]
        assert {info["x"] for info in walked} == {n / 3 for n in (1, 2, 3, 5, 6, 7)}
        assert all(info["feet"].tolist() == [round(3 * info["x"])] * 3 for info in walked)
        assert {info["fallen"] for *_, info, _ in steps if "fallen" in info} == {4}


def test_numbers_are_read_from_memory_too(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv: Any = jam.record(DummyVecEnv([cartpole] * 2))
    for step in range(4):
        if step in (0, 1):  # the schema of the second episode has annotations from its reset on
            venv.reset()
        venv._recorder.annotate_numbers(COLUMNS, [(step, 0.5, -0.25), (step, 1.5, -0.5)])
        venv.step(np.zeros(2, int))
    found = [handler.recent(2).annotations for handler in venv.handlers]

    assert [one["value"].tolist() for one in found] == [[0.5] * 2, [1.5] * 2]
    assert [one["policy_version"].tolist() for one in found] == [[2, 3]] * 2
    assert {one["log_prob"].dtype for one in found} == {np.dtype(np.float32)}


class Sees(EpisodeHandler):
    """Counts the steps that it sees."""

    seen = 0

    def add_step(self, *arguments: Any) -> None:
        Sees.seen += 1
        super().add_step(*arguments)


@pytest.mark.parametrize("kind", ["sb3", "gymnasium"])
def test_a_handler_that_overrides_a_method_of_steps_sees_each(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    monkeypatch.setattr(Sees, "seen", 0)
    make = DummyVecEnv if kind == "sb3" else gym.vector.SyncVectorEnv
    venv: Any = jam.record(make([cartpole] * 2), handler_class=Sees)
    venv.reset()
    for _ in range(5):
        venv.step(np.zeros(2, int))

    assert Sees.seen == 10


def test_infos_of_resets_are_those_of_the_vec_env_below(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    inner = DummyVecEnv([partial(CountingEnv, 2)] * 2)
    venv: Any = jam.record(inner)
    venv.reset()

    assert venv.reset_infos is inner.reset_infos
    inner.reset_infos = [{"new": 1}, {}]
    assert venv.reset_infos is inner.reset_infos


# -- how much is done -------------------------------------------------------------------------


@contextmanager
def calls_of_package(count: Callable[[], None]) -> Iterator[None]:
    """Count each call of a function of the package in this thread."""

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            count()

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    ("name", "num_envs", "recorders", "most"),
    [("PPO", 1, "one", 30), ("PPO", 4, "one", 45), ("PPO", 4, "each", 20), ("DQN", 1, "one", 24)],
)
def test_a_step_of_a_training_makes_few_calls(
    jam: Jamboree, name: str, num_envs: int, recorders: str, most: int
) -> None:
    """Calls, not seconds: in a training each costs about ten times what a loop shows.

    One for each environment and more had 67, 154, 58 and 50.
    """
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    from jamboree_gym.integrations.sb3 import JamboreeCallback

    class Counting(BaseCallback):
        calls = 0
        of_steps: list[int]

        def count(self) -> None:
            self.calls += 1

        def _on_training_start(self) -> None:
            self.of_steps = []

        def _on_step(self) -> bool:
            self.of_steps.append(self.calls)
            self.calls = 0
            return True

    case, counting = CASES[name], Counting()
    venv: Any
    if recorders == "one":
        venv = jam.record(DummyVecEnv([cartpole] * num_envs), run="counted")
    else:
        venv = DummyVecEnv([lambda: jam.record(cartpole(), run="counted")] * num_envs)
    model = case.model(venv)
    with one_thread(), calls_of_package(counting.count):
        model.learn(96 * num_envs, callback=[JamboreeCallback(jam, verbose=0), counting])

    calls = median(counting.of_steps)
    print(f"{name}, {num_envs} environments: {calls} calls of ours for a step")
    assert calls <= most


def test_a_step_of_a_training_handles_no_annotation_by_itself(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    from jamboree_gym.integrations.sb3 import JamboreeCallback

    slow_steps: list[dict[str, Any]] = []
    add_step = EpisodeHandler.add_step

    def counted(self: EpisodeHandler, *arguments: Any) -> None:
        slow_steps.append(self.annotation or {})
        add_step(self, *arguments)

    monkeypatch.setattr(EpisodeHandler, "add_step", counted)
    model = CASES["PPO"].model(jam.record(DummyVecEnv([cartpole] * 4), run="slow"))
    with one_thread():
        model.learn(512, callback=JamboreeCallback(jam, verbose=0))
    jam.flush()

    ended = sum(one.status != "running" for one in jam.episodes(run="slow").summaries())
    assert len(slow_steps) <= ended + 4  # the first ones, too: the schema gets its annotation
    assert all(one.data().annotated.all() for one in jam.episodes(run="slow"))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_both_annotators_say_the_same(jam: Jamboree, shape: tuple[int, ...], dtype: str) -> None:
    import torch
    from stable_baselines3.common.vec_env import DummyVecEnv

    from jamboree_gym.integrations.sb3.training.recorded_env import recorded_env

    values = torch.rand(shape, dtype=getattr(torch, dtype), requires_grad=True)
    log_probs = torch.rand(6, dtype=torch.float32)[::2]
    found = []
    for venv in (
        jam.record(DummyVecEnv([cartpole] * 3), run="both"),
        DummyVecEnv([lambda: jam.record(cartpole(), run="both")] * 3),
    ):
        venv.reset()
        recorded = recorded_env(venv)
        recorded.annotator.annotate_forward(7, (torch.zeros(3), values, log_probs))
        venv.step(np.zeros(3, int))
        found.append([one.recent(1).annotations for one in recorded.handlers])

    together, each = ([{name: one[name][0] for name in one} for one in them] for them in found)
    assert together == each
    assert [one["value"] for one in each] == values.flatten().tolist()
    kept_as = "float32" if dtype == "bfloat16" else dtype  # NumPy has no bfloat16
    assert {one["value"].dtype for one in [*together, *each]} == {np.dtype(kept_as)}


# -- batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shape", [(), (2,), (2, 0), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["?", "i1", "<i8", ">i8", "u8", "f2", "f4", ">f4", "f8"])
def test_a_packed_batch_comes_back(size: int, shape: tuple[int, ...], dtype: str) -> None:
    packer = BatchPacker(size)
    count = size * int(np.prod(shape))
    for step in range(3):
        batch = (np.arange(count) + step).astype(dtype).reshape((size, *shape))
        packed = packer.pack(batch.copy())

        assert packed is not None
        found = [packer.unpack(one) for one in packed]
        assert [one.tolist() for one in found] == batch.tolist()
        assert [type(one) for one in found] == [type(one) for one in batch]


def test_a_batch_of_an_equal_dtype_has_the_same_layout() -> None:
    packer, batch = BatchPacker(2), np.zeros((2, 3), np.float32)
    packer.pack(batch)
    layout = packer.layout
    other = np.zeros((2, 3), np.dtype(np.float32, metadata={"of": "another"}))

    assert packer.pack(other) == packer.pack(batch)
    assert packer.layout is layout


@pytest.mark.parametrize(
    "batch", [[1, 2], np.array(1), np.zeros(3), np.array(["a", "b"]), np.zeros(2, complex)], ids=str
)
def test_what_is_no_batch_of_numbers_is_not_packed(batch: Any) -> None:
    assert BatchPacker(2).pack(batch) is None


@pytest.mark.parametrize(
    ("batch", "rewards"),
    [
        (np.array([0.1, -2], np.float32), [float(np.float32(0.1)), -2.0]),
        (np.array([[1.5], [2.5]]), [1.5, 2.5]),
        (np.array([1, 2]), [1.0, 2.0]),
        ([1, 2.5], [1.0, 2.5]),
        (np.zeros((2, 2)), None),
        (np.array([1.0, "x"], object), None),
        (np.float64(1), None),
    ],
    ids=str,
)
def test_rewards_are_floats(batch: Any, rewards: list[float] | None) -> None:
    found = rewards_of(batch, 2)

    assert found == rewards
    assert all(type(one) is float for one in found or ())
