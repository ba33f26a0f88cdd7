"""`verify`: the same again, or the very place where it is not; and nothing stored is ever run."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from forged import forge_origin, forge_provenance
from gymnasium import wrappers
from recorded_envs import CountingEnv, FailingEnv, MixingEnv, ReusingEnv, play

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.codec import decode_frame, digest, encode_frame
from jamboree_gym.episode import Episode
from jamboree_gym.errors import ReplayError
from jamboree_gym.provenance import describe
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.replay import verify
from jamboree_gym.steps import StepSchema, decode_rows, encode_rows, schema_digest

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


class MirrorWrapper(gym.ObservationWrapper):
    """A wrapper of the user's own, with the name of one of Gymnasium's."""

    def observation(self, observation: Any) -> Any:
        return -observation


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
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, entry_point in SAMPLES.items():
        gym.register(f"tests/{name}-v0", entry_point=entry_point, disable_env_checker=True)
    yield
    for name in SAMPLES:
        gym.registry.pop(f"tests/{name}-v0", None)


def record(jam: Jamboree, env: gym.Env[Any, Any], steps: int = 60, **reset: Any) -> Episode:
    """Record an episode of random actions, or its first steps."""
    recorded = jam.record(env)
    recorded.action_space.seed(4)
    recorded.reset(**reset)
    for _ in range(steps):
        *_, terminated, truncated, _ = recorded.step(recorded.action_space.sample())
        if terminated or truncated:
            break
    recorded.close()
    return jam.episode(recorded.episode_id)


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
    key = jam.keyspace.episode(episode.id)
    frame = decode_frame(jam.redis.lindex(key, 1), where=key)
    name = schema_digest(frame, where=key)
    schema = StepSchema.from_blob(jam.store.blob(name), where=name)
    read = decode_rows(frame, lambda _: schema, where=key)
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
        rows += (*kept, *values[2:], read.timestamps[i], None, None)
    body = encode_rows(rows, schema)
    blob = encode_frame(
        codec=frame.codec,
        start=frame.start,
        count=frame.count,
        writer=frame.writer,
        t_first=frame.t_first,
        t_last=frame.t_last,
        body=body,
    )
    jam.redis.lset(key, 1, blob)


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


# -- not possible -----------------------------------------------------------------------------


def test_an_environment_without_spec_cannot_be_made_again(jam: Jamboree) -> None:
    with pytest.raises(ReplayError, match="not made by gymnasium"):
        verify(record(jam, CountingEnv()))


def test_an_environment_that_is_not_registered_here_is_named(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Counting-v0"))
    gym.registry.pop("tests/Counting-v0")

    with pytest.raises(ReplayError, match=r"'tests/Counting-v0' is not registered here"):
        verify(episode)


def test_a_lambda_in_a_wrapper_cannot_be_made_again(jam: Jamboree) -> None:
    env = wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: reward * 2)

    with pytest.raises(ReplayError, match=r"func=.* of TransformReward cannot be written as JSON"):
        verify(record(jam, env))


def test_a_keyword_argument_that_json_does_not_know_is_named(jam: Jamboree) -> None:
    env = gym.make("tests/Scaled-v0", scale=np.zeros(3))

    with pytest.raises(ReplayError, match=r"scale=.* of tests/Scaled-v0 cannot be written as JSON"):
        verify(record(jam, env))


def test_a_wrapper_that_is_not_gymnasiums_own_is_named(jam: Jamboree) -> None:
    with pytest.raises(ReplayError, match="MirrorWrapper, which cannot be rebuilt"):
        verify(record(jam, MirrorWrapper(gym.make("CartPole-v1"))))


@pytest.mark.parametrize("name", ["ClipAction", "RecordEpisodes", "Monitor"])
def test_a_wrapper_that_only_has_the_name_of_a_known_one_is_refused(
    jam: Jamboree, name: str
) -> None:
    namesake = type(name, (MirrorWrapper,), {})

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


# -- nothing that is stored is run ------------------------------------------------------------


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module on the path that leaves a mark when it is imported."""
    mark = tmp_path / "imported"
    (tmp_path / "trap_module.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nimport gymnasium\nTrap = gymnasium.Wrapper\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("trap_module", None)


FORGERIES: dict[str, Callable[[Any], None]] = {
    "id": lambda p: p["env_spec"].update(id="trap_module:CartPole-v1"),
    "entry point": lambda p: p["env_spec"].update(entry_point="trap_module:Trap"),
    "vector entry point": lambda p: p["env_spec"].update(vector_entry_point="trap_module:Trap"),
    "wrapper": lambda p: p["env_spec"]["additional_wrappers"].append(
        {"name": "Trap", "entry_point": "trap_module:Trap", "kwargs": {}}
    ),
    "wrapper with a known name": lambda p: p["env_spec"]["additional_wrappers"].append(
        {"name": "ClipAction", "entry_point": "trap_module:Trap", "kwargs": {}}
    ),
    "wrapper module": lambda p: p["env_spec"]["additional_wrappers"].append(
        {"name": "trap_module:Trap", "entry_point": "trap_module:Trap", "kwargs": {}}
    ),
    "keyword argument": lambda p: p["env_spec"]["kwargs"].update(id="trap_module:CartPole-v1"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_name_in_the_store_is_never_imported(jam: Jamboree, trap: Path, forgery: str) -> None:
    episode = record(jam, gym.make("CartPole-v1"), seed=1)
    forged = forge_provenance(jam, episode, FORGERIES[forgery])
    with contextlib.suppress(ReplayError):
        verify(forged)

    assert not trap.exists()
    assert "trap_module" not in sys.modules


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.pop("env_spec"),
        lambda p: p["env_spec"].pop("id"),
        lambda p: p["env_spec"].update(kwargs=[1]),
        lambda p: p["env_spec"].update(additional_wrappers=["ClipAction"]),
        lambda p: p["env_spec"].update(additional_wrappers=None),
        lambda p: p["env_spec"].update(env_spec="text"),
        lambda p: p["env_spec"]["kwargs"].update(disable_env_checker=False),
        lambda p: p["env_spec"]["kwargs"].update(nonsense=1),
        lambda p: p["env_spec"].update(max_episode_steps="many"),
    ],
)
def test_a_damaged_provenance_is_an_error_of_ours_or_no_error(
    jam: Jamboree, change: Callable[[Any], None]
) -> None:
    forged = forge_provenance(jam, record(jam, gym.make("CartPole-v1"), seed=1), change)
    with contextlib.suppress(ReplayError):
        assert verify(forged)


@pytest.mark.parametrize(
    "state",
    [
        {"bit_generator": "os"},
        {"bit_generator": "PCG64"},
        {"bit_generator": "PCG64", "state": "x", "has_uint32": 0, "uinteger": 0},
        {},
    ],
)
def test_a_damaged_state_of_the_generator_is_named(jam: Jamboree, state: dict[str, Any]) -> None:
    episode = record(jam, gym.make("CartPole-v1"))

    with pytest.raises(ReplayError, match="generator"):
        verify(forge_origin(jam, episode, rng_state=state))


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


def test_episodes_that_follow_each_other_in_a_circle_are_refused(jam: Jamboree) -> None:
    recorded_cartpole(jam, "first", follows="second", seed=None).end("abandoned")
    recorded_cartpole(jam, "second", follows="first", seed=None).end("abandoned")

    with pytest.raises(ReplayError, match="'second' follows itself"):
        verify(jam.episode("second"))


def test_a_long_chain_of_episodes_is_walked_without_recursion(jam: Jamboree) -> None:
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=1)
    recorded_cartpole(jam, "0", follows=None, seed=1).end("abandoned")
    for number in range(1, 1100):  # each records the reset of another environment, not of this one
        observation, _ = env.reset()
        recorded_cartpole(jam, f"{number}", follows=f"{number - 1}", seed=None).end("abandoned")

    report = verify(jam.episode("1099"))
    assert report.mismatch.step == -1
    assert report.mismatch.leaf == "observation[0]"
    assert report.mismatch.simulated == observation[0]
