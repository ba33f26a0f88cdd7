"""`verify`: the same again, or the very place where it is not."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from flat_rows import part
from forged import forge_provenance
from gymnasium import wrappers
from recorded_envs import (
    ACTION,
    CountingEnv,
    FailingEnv,
    MixingEnv,
    RenderingEnv,
    ReusingEnv,
    play,
)
from replayed_envs import (
    LivesEnv,
    MirrorObservation,
    OffEnv,
    PictureEnv,
    ScaleObservation,
    ShyObservation,
    record,
    registered,
)
from stored import at

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.encoding.batch_format import decode_batch, encode_batch
from jamboree_gym.encoding.bulk_decoder import decode_batches
from jamboree_gym.encoding.rows import schema_digest
from jamboree_gym.environment.provenance import describe
from jamboree_gym.errors import ReplayError
from jamboree_gym.keys import digest
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.replay import verify

ENVS = [
    *("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"),
    *("FrozenLake-v1", "Taxi-v4", "Taxi-v3", "CliffWalking-v1", "CliffWalkingSlippery-v1"),
]
ENVS = [name for name in ENVS if name in gym.registry]


class ClockEnv(CountingEnv):
    """Observes the time of day."""

    def observe(self) -> Any:
        return np.array([self.count, time.perf_counter_ns() % 1_000_003], np.float32)


class GlobalRandomEnv(CountingEnv):
    """Draws its rewards from NumPy's global generator."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, float(np.random.random()), *rest


class LateRandomEnv(CountingEnv):
    """Uses its generator in a step for the first time."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, float(self.np_random.random()), *rest


class ScaledEnv(CountingEnv):
    """Takes a keyword argument that JSON has no word for."""

    def __init__(self, scale: Any = 1.0) -> None:
        super().__init__()
        self.scale = scale


class OptionsEnv(CountingEnv):
    """Begins where the options say."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = options["begin"]
        return self.observe(), {}


SAMPLES = {
    "Clock": ClockEnv,
    "GlobalRandom": GlobalRandomEnv,
    "LateRandom": LateRandomEnv,
    "Counting": CountingEnv,
    "Reusing": ReusingEnv,
    "Mixing": MixingEnv,
    "Scaled": ScaledEnv,
    "Options": OptionsEnv,
    "Failing": FailingEnv,
    "Lives": LivesEnv,
    "Off": OffEnv,
    "Picture": PictureEnv,
}


@pytest.fixture(autouse=True)
def envs() -> Iterator[None]:
    with registered(**SAMPLES):
        yield


# -- the same again ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("seed", [11, None], ids=["seeded", "unseeded"])
def test_an_episode_happens_again_bit_for_bit(jam: Jamboree, name: str, seed: int | None) -> None:
    episode = record(jam, gym.make(name), seed=seed)

    report = verify(episode)

    assert report, str(report)
    assert report.steps == len(episode) > 0
    assert "equal, bit for bit" in str(report)


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1"])
def test_a_later_unseeded_episode_happens_again(jam: Jamboree, name: str) -> None:
    env = gym.make(name)
    record(jam, env, seed=1)

    assert all(verify(record(jam, env)) for _ in range(3))


def test_an_unseeded_episode_that_draws_late_happens_again(jam: Jamboree) -> None:
    assert verify(record(jam, gym.make("tests/LateRandom-v0")))


def test_an_episode_that_is_truncated_happens_again(jam: Jamboree) -> None:
    episode = record(jam, gym.make("Pendulum-v1", max_episode_steps=7), seed=1)

    assert episode.status == "truncated"
    assert verify(episode)


def test_a_limit_that_was_lifted_is_lifted_again(jam: Jamboree) -> None:
    env = gym.make("Pendulum-v1", max_episode_steps=-1)

    report = verify(record(jam, env, steps=250, seed=1))

    assert report
    assert report.steps == 250


def test_keyword_arguments_are_used_again(jam: Jamboree) -> None:
    assert verify(record(jam, gym.make("Pendulum-v1", g=2.5), seed=1))
    assert verify(record(jam, gym.make("FrozenLake-v1", map_name="8x8"), seed=1))


def test_options_are_used_again(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Options-v0"), steps=1, options={"begin": 5})

    assert episode.data().observations[0, 0] == 5
    assert verify(episode)


def test_no_window_is_opened_again(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1", render_mode="rgb_array"), seed=1)

    assert episode.provenance["env_spec"]["kwargs"]["render_mode"] == "rgb_array"
    assert verify(episode)


def test_an_environment_that_uses_its_buffer_again_happens_again(jam: Jamboree) -> None:
    assert verify(record(jam, gym.make("tests/Reusing-v0"), seed=1))


def test_python_and_numpy_actions_are_played_as_they_were(jam: Jamboree) -> None:
    env = jam.record(gym.make("tests/Mixing-v0"))
    play(env, [1, np.int64(1), 2, np.int64(2), np.int64(0), 1, 2] * 6, seed=1)

    assert verify(jam.episode(env.episode_id))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.ClipAction(env),
        lambda env: wrappers.RescaleAction(env, 0.0, 1.0),
        lambda env: wrappers.FrameStackObservation(env, 3),
        lambda env: wrappers.FlattenObservation(wrappers.FrameStackObservation(env, 2)),
        lambda env: wrappers.TimeAwareObservation(env),
        lambda env: wrappers.StickyAction(env, 0.25),
        lambda env: wrappers.RecordEpisodeStatistics(env),
        lambda env: wrappers.TimeLimit(env, 5),
    ],
)
@pytest.mark.filterwarnings("ignore:.*precision lowered:UserWarning")
def test_wrappers_of_gymnasium_are_applied_again(
    jam: Jamboree, wrap: Callable[[gym.Env], gym.Env]
) -> None:
    episode = record(jam, wrap(gym.make("MountainCarContinuous-v0")), seed=3)

    report = verify(episode)

    assert report, str(report)


# -- not the same -----------------------------------------------------------------------------


def tamper(jam: Jamboree, episode: Episode, row: int, **changes: Any) -> None:
    """Store another value in one row, through the codec of the store itself."""
    jam.flush()
    key = jam._connection.keyspace.episode(episode.id)
    frame = decode_batch(jam.redis.lindex(at(jam, key), 1), where=key)
    name = schema_digest(frame, where=key)
    schema = StepSchema.from_blob(jam._connection.store.blobs.get(name), where=name)
    read = decode_batches([frame], lambda _: schema, where=key)
    rows: list[Any] = []
    for i in range(len(read)):
        values = [
            read.observations[i],
            read.actions[i],
            read.rewards[i],
            read.terminations[i],
            read.truncations[i],
        ]
        if i == row:
            names = ["observation", "action", "reward", "terminated", "truncated"]
            values = [changes.get(name, value) for name, value in zip(names, values, strict=True)]
        kept = [
            value.tobytes() if leaf.is_array else value
            for value, leaf in zip(values, (schema.observation, schema.action), strict=False)
        ]
        rows.append((*kept, *values[2:], read.timestamps[i], None, None))
    body = part(rows, schema).body
    blob = encode_batch(
        codec=frame.codec,
        start=frame.start,
        count=frame.count,
        writer=frame.writer,
        t_first=frame.t_first,
        t_last=frame.t_last,
        body=body,
    )
    jam.redis.lset(at(jam, key), 1, blob)


@pytest.mark.parametrize(
    ("row", "changes", "step", "leaf"),
    [
        (0, {"observation": np.full(4, 0.5, np.float32)}, -1, "observation[0]"),
        (4, {"observation": np.full(4, -0.0, np.float32)}, 3, "observation[0]"),
        (4, {"reward": np.nextafter(1.0, 2.0)}, 3, "reward"),
        (2, {"terminated": True}, 1, "terminated"),
        (3, {"truncated": True}, 2, "truncated"),
    ],
)
def test_a_tampered_row_is_found_at_its_step_and_leaf(
    jam: Jamboree, row: int, changes: dict[str, Any], step: int, leaf: str
) -> None:
    episode = record(jam, gym.make("CartPole-v1"), seed=2)
    tamper(jam, episode, row, **changes)

    report = verify(episode)

    assert not report
    assert report.mismatch is not None
    assert (report.mismatch.step, report.mismatch.leaf) == (step, leaf)
    assert [report.mismatch.field] == list(changes)
    assert f"{leaf} at {'reset' if step < 0 else f'step {step}'}" in str(report)


def test_a_tampered_action_is_found_by_what_it_leads_to(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"), seed=2)
    tamper(jam, episode, 3, action=1 - episode.data().actions[2])

    report = verify(episode)

    assert report.mismatch is not None
    assert (report.mismatch.step, report.mismatch.field) == (2, "observation")


@pytest.mark.parametrize(("name", "field"), [("Clock", "observation"), ("GlobalRandom", "reward")])
def test_an_environment_that_depends_on_more_than_its_seed_differs(
    jam: Jamboree, name: str, field: str
) -> None:
    report = verify(record(jam, gym.make(f"tests/{name}-v0"), seed=1))

    assert report.mismatch is not None
    assert report.mismatch.field == field


def test_an_environment_that_was_changed_since_differs(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Counting-v0"), seed=1)
    gym.registry.pop("tests/Counting-v0")
    gym.register("tests/Counting-v0", entry_point=CountingEnv, kwargs={"length": 2})

    report = verify(episode)

    assert report.mismatch is not None
    assert (report.mismatch.step, report.mismatch.field) == (1, "terminated")


# -- the leaf, and how far off it may be ------------------------------------------------------


def change_env(name: str, **kwargs: Any) -> None:
    """From now on it is another environment."""
    entry_point = gym.registry.pop(f"tests/{name}-v0").entry_point
    gym.register(f"tests/{name}-v0", entry_point=entry_point, kwargs=kwargs)


def test_one_pixel_is_named_and_the_others_are_counted(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Picture-v0"), seed=1)
    change_env("Picture", odd=True)

    mismatch = verify(episode).mismatch

    assert (mismatch.step, mismatch.field, mismatch.others) == (1, "observation", 2)
    assert mismatch.leaf == 'observation["image"][3, 2, 0]'
    assert (mismatch.recorded, mismatch.simulated) == (2, 9)
    assert str(mismatch) == (
        'observation["image"][3, 2, 0] at step 1: recorded 2, now 9, and 2 more there'
    )


def test_a_value_of_another_type_is_shown_with_its_type(jam: Jamboree) -> None:
    class TypedEnv(CountingEnv):
        number: type = int

        def observe(self) -> Any:
            return self.number(1)

    with registered(Typed=TypedEnv):
        env = gym.make("tests/Typed-v0")
        episode = record(jam, env, seed=1)
        TypedEnv.number = np.int64
        report = verify(episode)

    assert report.mismatch.step == -1
    assert "observation at reset: recorded 1 (int), now 1 (int64" in str(report)


def test_another_shape_is_told_as_one(jam: Jamboree) -> None:
    class ShapedEnv(CountingEnv):
        size = 2

        def observe(self) -> Any:
            return {"a": np.zeros(self.size if self.count else 2, np.float32)}

    with registered(Shaped=ShapedEnv):
        episode = record(jam, gym.make("tests/Shaped-v0"), seed=1)
        ShapedEnv.size = 3
        mismatch = verify(episode).mismatch

    assert (mismatch.step, mismatch.leaf) == (0, 'observation["a"]')
    assert str(mismatch).endswith("recorded float32 of shape (2,), now float32 of shape (3,)")


def test_an_episode_that_goes_on_after_its_end_has_another_length(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Lives-v0", length=4), seed=1)
    tamper(jam, episode, 2, terminated=True)
    forged = forge_provenance(jam, episode, lambda p: p["env_spec"]["kwargs"].update(length=2))

    mismatch = verify(forged).mismatch

    assert str(mismatch) == "length at step 2: recorded 4, now 2"
    assert mismatch.field == "length"


def test_floats_may_be_off_by_the_tolerance_and_no_more(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Off-v0"), seed=1)
    change_env("Off", off=1e-3)

    report = verify(episode, atol=1e-2)

    assert report
    assert "within rtol=0, atol=0.01" in str(report)
    assert verify(episode, atol=1e-4).mismatch.leaf == "observation[0]"
    assert verify(episode, rtol=1e-2).mismatch.step == -1  # beside 0, no share is enough
    assert not verify(episode)


def test_what_is_no_float_is_exact_whatever_the_tolerance(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Picture-v0"), seed=1)
    change_env("Picture", odd=True)

    assert verify(episode, atol=100.0).mismatch.leaf == 'observation["image"][3, 2, 0]'


def test_a_reward_may_be_off_by_the_tolerance(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"), seed=2)
    tamper(jam, episode, 4, reward=1.0 + 1e-9)

    assert verify(episode).mismatch.leaf == "reward"
    assert verify(episode, rtol=1e-8)


# -- infos ------------------------------------------------------------------------------------


def test_infos_are_compared_where_they_are_asked_for(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Lives-v0"), seed=1)
    assert verify(episode, infos=True)
    change_env("Lives", lives=4)

    assert verify(episode)
    assert verify(episode, infos=["state.x", "state"])
    report = verify(episode, infos=["state.x", "lives"])
    assert (report.mismatch.step, report.mismatch.field) == (-1, "info")
    assert 'info["lives"] at reset: recorded 3, now 4' in str(report)
    assert verify(episode, infos=True).mismatch.leaf == 'info["lives"]'


def test_a_nested_info_is_named_by_its_place(jam: Jamboree) -> None:
    class DeepEnv(CountingEnv):
        last = 2

        def info(self) -> dict[str, Any]:
            return {"state": {"y": (1, self.last), "x": float(self.last)}}

    with registered(Deep=DeepEnv):
        episode = record(jam, gym.make("tests/Deep-v0"), seed=1)
        DeepEnv.last = 3
        everything, one = verify(episode, infos=True), verify(episode, infos=["state.x"])
        close = verify(episode, infos=["state.x"], atol=1.0)

    assert everything.mismatch.leaf == 'info["state"]["y"][1]'
    assert everything.mismatch.others == 1
    assert one.mismatch.leaf == 'info["state"]["x"]'
    assert close


def test_an_info_that_comes_or_goes_is_a_difference(jam: Jamboree) -> None:
    class FickleEnv(CountingEnv):
        names = ("a",)

        def info(self) -> dict[str, Any]:
            return dict.fromkeys(self.names, 1)

    with registered(Fickle=FickleEnv):
        one = record(jam, gym.make("tests/Fickle-v0"), seed=1)
        FickleEnv.names = ("a", "b")
        two = record(jam, gym.make("tests/Fickle-v0"), seed=1)
        assert "recorded nothing, now 1" in str(verify(one, infos=["a", "b"]))
        assert verify(one, infos=True)  # what was not recorded then is not asked for
        FickleEnv.names = ("a",)
        assert "recorded 1, now nothing" in str(verify(two, infos=True))


def test_only_recorded_infos_are_compared(jam: Jamboree) -> None:
    env = jam.record(gym.make("tests/Lives-v0"), record_infos=["lives"])
    play(env, [ACTION], seed=1)

    assert verify(jam.episode(env.episode_id), infos=True)


def test_infos_that_came_through_a_vector_environment_are_the_same(jam: Jamboree) -> None:
    with registered(Lives2=LivesEnv):
        envs = jam.record(gym.make_vec("tests/Lives2-v0", 2, vectorization_mode="sync"))
        envs.reset(seed=1)
        for _ in range(7):
            envs.step(envs.action_space.sample())
        ids = envs.episode_ids
        envs.close()
        reports = [verify(jam.episode(id), infos=True) for id in ids]

    assert all(reports), str(reports[0])


def test_statistics_are_not_among_all_infos(jam: Jamboree) -> None:
    env = wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))
    episode = record(jam, env, seed=1)

    assert "episode" in episode.data().infos[-1]
    assert verify(episode, infos=True)
    with pytest.raises(ReplayError, match=r"'episode\.r' comes from a wrapper"):
        verify(episode, infos=["episode.r"])


# -- what has changed since -------------------------------------------------------------------


def test_what_has_changed_is_listed(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"), seed=1)
    assert verify(episode).changed == ()
    assert "changed" not in str(verify(episode))

    def change(provenance: Any) -> None:
        provenance["versions"].update({"numpy": "1.0", "gone-away": "2.0"})
        provenance.update(platform="Amiga", git_commit="abc")

    forged = forge_provenance(jam, episode, change)
    report = verify(forged)
    changed = {name: (then, now) for name, then, now in report.changed}

    assert report
    assert changed.keys() == {"numpy", "gone-away", "platform", "git_commit"}
    assert changed["numpy"] == ("1.0", np.__version__)
    assert changed["gone-away"] == ("2.0", None)
    tamper(jam, forged, 2, reward=7.0)
    first, second = str(verify(forged)).splitlines()
    assert "reward at step 1: recorded 7.0, now 1.0" in first
    assert f"numpy 1.0 -> {np.__version__}" in second
    assert "gone-away 2.0 -> none" in second


def test_that_nothing_has_changed_is_told_too(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"), seed=1)
    tamper(jam, episode, 2, reward=7.0)

    assert str(verify(episode)).splitlines()[1].endswith("nothing of versions, platform and commit")


# -- what is missing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry_point", "versions", "said"),
    [
        (
            "procgen.envs:MazeEnv",
            {"procgen": "3.0.0"},
            "recorded with procgen 3.0.0. That is missing here: pip install procgen, then "
            "import procgen",
        ),
        ("ale_py.env:AtariEnv", {"ale-py": "0.11", "other": "1"}, "recorded with ale-py 0.11"),
        (
            "pytest.envs:Env",
            {"pytest": "8.0"},
            r"recorded with pytest 8.0. Import it first \(import pytest\)",
        ),
        (
            "a.b:Env",
            {"one": "1", "two": "2"},
            "came from the module a. Register it first: import a",
        ),
        ("a.b:Env", {}, "came from the module a"),
        ("__main__:Env", {}, "Import the package that registers it"),
        (None, {}, "Import the package that registers it"),
    ],
)
def test_the_package_that_is_missing_is_named(
    jam: Jamboree, entry_point: str | None, versions: dict[str, str], said: str
) -> None:
    def change(provenance: Any) -> None:
        provenance["env_spec"].update(id="Gone-v0", entry_point=entry_point)
        provenance["versions"].update(versions)

    episode = forge_provenance(jam, record(jam, gym.make("CartPole-v1"), seed=1), change)

    with pytest.raises(ReplayError, match=f"'Gone-v0' is not registered here.*{said}"):
        verify(episode)


def test_a_missing_dependency_keeps_its_message_and_cause(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Counting-v0"), seed=1)
    gym.registry.pop("tests/Counting-v0")

    def needy(**_: Any) -> Any:
        raise gym.error.DependencyNotInstalled("Box2D is not installed: pip install box2d")

    with (
        registered(Counting=needy),
        pytest.raises(ReplayError, match="pip install box2d") as caught,
    ):
        verify(episode)
    assert isinstance(caught.value.__cause__, gym.error.DependencyNotInstalled)


# -- wrappers that are handed over ------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap", [MirrorObservation, lambda env: ScaleObservation(MirrorObservation(env), 3.0)]
)
def test_a_wrapper_of_ones_own_is_built_where_its_class_is_handed_over(
    jam: Jamboree, wrap: Callable[[gym.Env], gym.Env]
) -> None:
    episode = record(jam, wrap(gym.make("CartPole-v1")), seed=1)

    with pytest.raises(ReplayError, match="cannot be rebuilt: hand its class to it"):
        verify(episode)
    assert verify(episode, wrappers=[MirrorObservation, ScaleObservation])
    assert verify(episode, trust_entry_point=True)


def test_an_argument_of_a_wrapper_can_be_said(jam: Jamboree) -> None:
    episode = record(jam, ShyObservation(gym.make("CartPole-v1")), seed=1)

    assert verify(episode, wrappers=[partial(ShyObservation, scale=2.0)])
    assert not verify(episode, wrappers=[partial(ShyObservation, scale=3.0)])


def test_what_is_not_registered_is_built_where_its_entry_point_is_trusted(jam: Jamboree) -> None:
    env = gym.make("tests/Lives-v0", length=5, max_episode_steps=4)
    episode = record(jam, env, seed=1)
    gym.registry.pop("tests/Lives-v0")

    report = verify(episode, trust_entry_point=True)

    assert report
    assert (report.steps, episode.status) == (4, "truncated")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.TimeLimit(env, 300),
        lambda env: wrappers.TimeLimit(env, 50),
        lambda env: wrappers.TimeLimit(wrappers.MaxAndSkipObservation(env, 3), 20),
        lambda env: wrappers.MaxAndSkipObservation(wrappers.TimeLimit(env, 20), 3),
        lambda env: wrappers.TimeLimit(wrappers.TimeLimit(env.unwrapped, 30), 40),
    ],
)
def test_every_time_limit_stands_where_it_stood(
    jam: Jamboree, wrap: Callable[[gym.Env], gym.Env]
) -> None:
    episode = record(jam, wrap(gym.make("MountainCar-v0")), steps=400, seed=1)

    report = verify(episode)

    assert episode.status == "truncated"
    assert report, str(report)


def test_arguments_that_were_tuples_are_tuples_again(jam: Jamboree) -> None:
    env = wrappers.ReshapeObservation(gym.make("CartPole-v1"), (2, 2))

    assert verify(record(jam, env, seed=1))


def test_rendered_observations_are_rendered_again(jam: Jamboree) -> None:
    with registered(Rendering=RenderingEnv):
        env = wrappers.AddRenderObservation(
            gym.make("tests/Rendering-v0", length=3, render_mode="rgb_array")
        )
        assert verify(record(jam, env, seed=1))


# -- not possible -----------------------------------------------------------------------------


def test_an_environment_without_spec_is_made_by_what_is_handed_over(jam: Jamboree) -> None:
    episode = record(jam, CountingEnv())

    with pytest.raises(ReplayError, match=r"not made by gymnasium.*\nsay how .*make=lambda"):
        verify(episode)
    assert verify(episode, make=CountingEnv)
    assert verify(episode, make=CountingEnv, infos=True)


def test_an_environment_that_is_not_registered_here_is_named(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Counting-v0"))
    gym.registry.pop("tests/Counting-v0")

    with pytest.raises(ReplayError, match=r"'tests/Counting-v0' is not registered here"):
        verify(episode)


def test_a_lambda_in_a_wrapper_cannot_be_made_again(jam: Jamboree) -> None:
    env = wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: reward * 2)

    with pytest.raises(ReplayError, match=r"TransformReward cannot .*: argument func=.* cannot be"):
        verify(record(jam, env))


def test_a_keyword_argument_that_cannot_be_kept_is_named(jam: Jamboree) -> None:
    env = gym.make("tests/Scaled-v0", scale=lambda: 1)

    with pytest.raises(ReplayError, match=r"argument scale=.*<lambda> cannot be kept"):
        verify(record(jam, env))


def test_a_wrapper_that_is_not_gymnasiums_own_is_named(jam: Jamboree) -> None:
    with pytest.raises(ReplayError, match="MirrorObservation, which cannot be rebuilt"):
        verify(record(jam, MirrorObservation(gym.make("CartPole-v1"))))


@pytest.mark.parametrize("name", ["ClipAction", "RecordEpisodes", "Monitor"])
def test_a_wrapper_that_only_has_the_name_of_a_known_one_is_refused(
    jam: Jamboree, name: str
) -> None:
    namesake = type(name, (MirrorObservation,), {})

    with pytest.raises(ReplayError, match="cannot be rebuilt"):
        verify(record(jam, namesake(gym.make("CartPole-v1"))))


def test_options_that_could_not_be_stored_are_named(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"), options={"low": -0.1, "rule": len})

    with pytest.raises(ReplayError, match="options"):
        verify(episode)


def test_a_step_that_fails_in_the_second_run_is_named(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Counting-v0"), seed=1)
    gym.registry.pop("tests/Counting-v0")
    gym.register("tests/Counting-v0", entry_point=FailingEnv)

    with pytest.raises(ReplayError, match="step 1 fails in the second run"):
        verify(episode)


# -- layouts that change ----------------------------------------------------------------------


def test_layouts_may_change_in_a_verified_episode(jam: Jamboree) -> None:
    class GrowingEnv(CountingEnv):
        def observe(self) -> Any:
            return np.zeros(2, np.float32 if self.count == 0 else np.float64)

    gym.register("tests/Growing-v0", entry_point=GrowingEnv)
    episode = record(jam, gym.make("tests/Growing-v0", disable_env_checker=True), seed=1)

    assert verify(episode)
    gym.registry.pop("tests/Growing-v0")


# -- episodes that follow others --------------------------------------------------------------


def recorded_cartpole(jam: Jamboree, id: str, *, follows: str | None, seed: int | None) -> Any:
    """The handler of an episode that has just begun."""
    env = gym.make("CartPole-v1")
    observation, info = env.reset(seed=seed)
    handler = EpisodeHandler(jam)
    handler.use_spaces(env.observation_space, env.action_space)
    provenance = describe(env)
    handler.begin(
        observation,
        info,
        summary=EpisodeSummary(id, "CartPole-v1", "run", "running", 0, 0.0, 1.0, 0.0, seed),
        origin=EpisodeOrigin(seed, None, None, digest(provenance), follows),
        blobs={digest(provenance): provenance},
    )
    return handler


def test_an_episode_that_follows_a_running_one_cannot_be_replayed_yet(jam: Jamboree) -> None:
    recorded_cartpole(jam, "first", follows=None, seed=1)
    recorded_cartpole(jam, "second", follows="first", seed=None)

    with pytest.raises(ReplayError, match="'second' follows 'first', which is running"):
        verify(jam.episode("second"))
    first, second = verify([jam.episode("first"), jam.episode("second")])
    assert first
    assert "which is running" in str(second.error)


def test_episodes_that_follow_each_other_in_a_circle_are_refused(jam: Jamboree) -> None:
    recorded_cartpole(jam, "first", follows="second", seed=None).end("abandoned")
    recorded_cartpole(jam, "second", follows="first", seed=None).end("abandoned")

    with pytest.raises(ReplayError, match="'second' follows itself"):
        verify(jam.episode("second"))


def test_a_long_chain_of_episodes_is_walked_without_recursion(jam: Jamboree) -> None:
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=1)
    recorded_cartpole(jam, "0", follows=None, seed=1).end("abandoned")
    for number in range(1, 400):  # each records the reset of another environment, not of this one
        observation, _ = env.reset()
        recorded_cartpole(jam, f"{number}", follows=f"{number - 1}", seed=None).end("abandoned")

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 300)
    try:
        report = verify(jam.episode("399"))
    finally:
        sys.setrecursionlimit(limit)
    assert report.mismatch.step == -1
    assert report.mismatch.leaf == "observation[0]"
    assert report.mismatch.simulated == observation[0]
