"""`JamboreeReplayBuffer`: sampling from the store while others write to it."""

from __future__ import annotations

import logging
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from gymnasium import spaces
from line_env import SPACE, Line, play
from processes import read_line, wait_until
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import (
    BufferMismatch,
    EpisodeNotFound,
    InvalidArgument,
    RunNotFound,
    StoreUnavailable,
)

pytestmark = pytest.mark.torch

OpenJamboree = Callable[..., Jamboree]


def make(jam: Any, size: int = 1000, **options: Any) -> Any:
    from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer

    options = {"run": "r", "refresh_s": 0.0, **options}
    return JamboreeReplayBuffer(size, SPACE, spaces.Discrete(9), "cpu", jam=jam, **options)


def held(buffer: Any) -> list[tuple[int, int]]:
    """Episode and step of all that a buffer holds, sorted."""
    return sorted(map(tuple, buffer.observations[: buffer.size(), 0].astype(int).tolist()))


def steps_of(*lengths: int) -> list[tuple[int, int]]:
    return [(episode, at) for episode, length in enumerate(lengths) for at in range(length)]


# -- what comes ---------------------------------------------------------------------------------


def test_what_was_recorded_and_what_comes_is_there_once(
    jam: Jamboree, open_jamboree: OpenJamboree
) -> None:
    env = jam.record(Line(), run="r")
    play(env, 5, 300)
    play(env, 4, end=None)  # goes on
    buffer = make(open_jamboree())
    jam.flush()

    assert buffer.refresh() == 309
    assert buffer.refresh() == 0
    for step in range(3):
        env.step(7 if step == 2 else 1)
    play(env, 2)
    jam.flush()
    assert buffer.refresh() == 5
    assert held(buffer) == steps_of(5, 300, 7, 2)
    nexts = buffer.next_observations[: buffer.size(), 0] - buffer.observations[: buffer.size(), 0]
    assert (nexts == [0, 1]).all()
    assert buffer.dones.sum() == 4


def test_own_steps_are_there_at_the_next_sample(jam: Jamboree) -> None:
    env = jam.record(Line(), run="r")
    env.reset()
    buffer = make(jam)
    for at in range(20):
        env.step(1)
        buffer.sample(4)
        assert buffer.size() == at + 1


def test_only_what_is_asked_for_is_taken(jam: Jamboree) -> None:
    play(jam.record(Line(0), run="r", tags={"policy": "good"}), 3)
    play(jam.record(Line(1), run="r", tags={"policy": "bad"}), 3)
    play(jam.record(Line(2), run="other"), 3)
    good, seeded = (
        make(jam, tags={"policy": "good"}),
        make(jam, run=None, where=lambda one: one.seed),
    )
    everything = make(jam, run=None)
    for buffer in (good, seeded, everything):
        buffer.refresh()

    assert held(good) == [(0, 0), (0, 1), (0, 2)]
    assert held(seeded) == []
    assert len(held(everything)) == 9


def test_the_newest_steps_stay(jam: Jamboree) -> None:
    env = jam.record(Line(), run="r")
    play(env, *[3] * 30)
    buffer = make(jam, 10)
    buffer.refresh()
    play(env, 4, 3)
    buffer.refresh()

    assert buffer.full
    assert held(buffer)[-7:] == [(30, 0), (30, 1), (30, 2), (30, 3), (31, 0), (31, 1), (31, 2)]
    play(env, 25)  # more than fits, at once
    buffer.refresh()
    assert held(buffer) == [(32, at) for at in range(15, 25)]


def test_long_episodes_are_read_in_parts_and_stay_whole(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jamboree_gym.reading import bulk_read as blocks

    play(jam.record(Line(), run="r"), 600, 40)
    monkeypatch.setattr(blocks, "MAX_BYTES", 8000)
    buffer = make(jam, n_steps=640, gamma=1.0)
    buffer.refresh()

    first = buffer.observations[: buffer.size(), 0].tolist().index([0, 0])
    assert held(buffer) == steps_of(600, 40)
    assert buffer._get_samples(np.array([first])).rewards.item() == 600 * 601 / 2


STOPPED = """
import sys
sys.path.insert(0, sys.argv[3])
from jamboree_gym import Jamboree
from line_env import Line, play

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    env = jam.record(Line(), run="r")
    play(env, 3, end=None)
    jam.flush()
    print(jam._connection.writer_name, flush=True)
    sys.stdin.readline()
    env.step(1)
    jam.flush()
    print("stepped", flush=True)
    sys.stdin.readline()
"""


def test_an_interrupted_episode_is_there_and_goes_on_if_its_process_does(
    jam: Jamboree, valkey: Server
) -> None:
    actor = start_warm(
        STOPPED, valkey.url, jam._connection.keyspace.namespace, Path(__file__).parent
    )
    assert actor.stdin is not None
    try:
        writer = read_line(actor).strip()
        buffer = make(jam)
        actor.send_signal(signal.SIGSTOP)  # so that it renews no lease
        jam.redis.delete(jam._connection.keyspace.lease(writer))  # as if it had been for long
        assert jam.episodes(run="r").first().status == "interrupted"
        buffer.refresh()
        assert held(buffer) == steps_of(3)

        actor.send_signal(signal.SIGCONT)
        print(file=actor.stdin, flush=True)
        read_line(actor)
        buffer.refresh()
        assert held(buffer) == steps_of(4)
    finally:
        actor.kill()
        actor.communicate()


ACTOR = """
import sys
sys.path.insert(0, sys.argv[4])
from jamboree_gym import Jamboree
from line_env import Line, play

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    env = jam.record(Line(int(sys.argv[3])), run="r")
    for part in range(2):
        play(env, *[20] * 25)
        jam.flush()
        print("played", flush=True)
        sys.stdin.readline()
"""


def test_several_processes_write_while_it_samples(
    jam: Jamboree, valkey: Server, open_jamboree: OpenJamboree
) -> None:
    buffer = make(open_jamboree(), 10_000)
    firsts, here = (0, 1000), Path(__file__).parent
    namespace = jam._connection.keyspace.namespace
    actors = [start_warm(ACTOR, valkey.url, namespace, first, here) for first in firsts]
    try:
        for part in (25, 50):
            numbers = [first + number for first in firsts for number in range(part)]
            while buffer.size() < 20 * len(numbers):  # part of it may be seen while they write
                buffer.refresh()
            assert held(buffer) == [(number, at) for number in numbers for at in range(20)]
            for actor in actors:
                assert read_line(actor) == "played\n"
                print(file=actor.stdin, flush=True)
        for actor in actors:
            assert actor.communicate(timeout=60)[1] == ""
            assert actor.returncode == 0
    finally:
        for actor in actors:
            actor.kill()
            actor.communicate()


# -- what is drawn ------------------------------------------------------------------------------


@pytest.fixture
def filled(jam: Jamboree) -> tuple[Jamboree, Any]:
    """Steps of episodes that end in every way, two of which are recorded in turns."""
    env, other = jam.record(Line(), run="r"), jam.record(Line(100), run="r")
    play(env, 5, 1)
    play(env, 6, end=8)
    play(env, 3, end=None)  # is abandoned
    play(env, 4, end=None)
    other.reset()
    buffer = make(jam)
    for _ in range(6):
        buffer.refresh()
        other.step(1)
        env.step(1)
    buffer.refresh()
    return jam, buffer


def test_uniform_samples_are_all_that_is_there(filled: tuple[Jamboree, Any]) -> None:
    _, buffer = filled
    np.random.seed(0)
    samples = buffer.sample(5000)
    drawn = Counter(map(tuple, samples.observations.int().tolist()))

    assert sorted(drawn) == held(buffer)
    assert min(drawn.values()) > 5000 / buffer.size() / 2
    ends = {
        tuple(observation)
        for observation, done in zip(
            samples.observations.int().tolist(), samples.dones[:, 0].tolist(), strict=True
        )
        if done
    }
    assert ends == {(0, 4), (1, 0)}, "a truncation is no end, nor is being abandoned"


def test_a_truncation_is_an_end_where_the_buffer_is_told_so(jam: Jamboree) -> None:
    play(jam.record(Line(), run="r"), 3, end=8)
    handled, not_handled = make(jam), make(jam, handle_timeout_termination=False)
    assert handled.sample(50).dones.sum() == 0
    assert not_handled.sample(50).dones.sum() > 0


@pytest.mark.parametrize("n_steps", [2, 3, 8])
def test_n_steps_are_those_of_sb3(filled: tuple[Jamboree, Any], n_steps: int) -> None:
    from stable_baselines3.common.buffers import NStepReplayBuffer

    from jamboree_gym.integrations.sb3 import to_replay_buffer

    jam, _ = filled
    ours = make(jam, n_steps=n_steps, gamma=0.9)
    ours.refresh()
    theirs: Any = to_replay_buffer(
        jam.episodes(run="r"), NStepReplayBuffer, device="cpu", n_steps=n_steps, gamma=0.9
    )

    def by_start(buffer: Any) -> tuple[Any, ...]:
        samples = buffer._get_samples(np.arange(buffer.size()))
        order = np.lexsort(samples.observations.numpy().T[::-1])
        return tuple(tensor.numpy()[order] for tensor in samples)

    assert ours.size() == theirs.size() == 31
    for got, expected in zip(by_start(ours), by_start(theirs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_windows_lie_within_episodes_and_all_have_the_same_odds(
    filled: tuple[Jamboree, Any],
) -> None:
    _, buffer = filled
    np.random.seed(0)
    windows = buffer.sample_windows(4000, 4)
    seen = windows.observations.numpy().astype(int)

    assert windows.actions.shape == (4000, 4, 1)
    assert windows.rewards.shape == windows.dones.shape == (4000, 4, 1)
    assert (seen[:, 1:, 0] == seen[:, :-1, 0]).all()
    assert (np.diff(seen[..., 1], axis=1) == 1).all()
    np.testing.assert_array_equal(windows.next_observations[:, :-1], seen[:, 1:])
    begun = Counter(map(tuple, seen[:, 0].tolist()))
    assert sorted(begun) == [
        *[(0, at) for at in range(2)],
        *[(2, at) for at in range(3)],
        *[(4, at) for at in range(7)],
        *[(100, at) for at in range(3)],
    ]
    assert min(begun.values()) > 4000 / 15 / 2
    # So few are long enough that all have to be looked at.
    assert buffer.sample_windows(5, 10).rewards.sum(axis=(1, 2)).tolist() == [55.0] * 5
    with pytest.raises(EpisodeNotFound, match="no episode of the 31 steps here has 11"):
        buffer.sample_windows(5, 11)


def test_priorities_are_odds_and_weights_correct_them(jam: Jamboree) -> None:
    env = jam.record(Line(), run="r")
    play(env, 4)
    buffer = make(jam, 6, prioritized=True, alpha=1.0, beta=1.0)
    first = buffer.sample(400)
    assert sorted(Counter(first.indices.tolist()).values()) == [100] * 4
    assert first.weights.unique().tolist() == [1.0]

    buffer.update_priorities(np.arange(4), [1, 2, 3, -4])
    samples = buffer.sample(1000)
    counts = Counter(samples.observations[:, 1].int().tolist())
    assert [counts[at] for at in range(4)] == pytest.approx([100, 200, 300, 400], abs=1)
    for index, weight in {
        *zip(samples.indices.tolist(), samples.weights[:, 0].tolist(), strict=True)
    }:
        assert weight == pytest.approx(1 / (index + 1), rel=1e-5)

    play(env, 4)  # the highest priority so far; two of the old ones are gone
    counts = Counter(buffer.sample(2300).indices.tolist())
    assert [counts[n] for n in range(2, 8)] == pytest.approx([300, 400, *[400] * 4], abs=1)
    buffer.update_priorities([0, 1], [1e9, 1e9])  # they are not there any more
    assert sorted({*buffer.sample(2300).indices.tolist()}) == list(range(2, 8))


def test_a_dqn_trains_with_priorities_and_n_steps(jam: Jamboree) -> None:
    from stable_baselines3 import DQN

    from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer, Unsaved

    model = DQN(
        "MlpPolicy",
        jam.record(gym.make("CartPole-v1"), run="r"),
        replay_buffer_class=JamboreeReplayBuffer,
        replay_buffer_kwargs=Unsaved(jam=jam, run="r", prioritized=True, n_steps=3),
        learning_starts=50,
        device="cpu",
        seed=1,
    )
    model.learn(200)
    model.replay_buffer.refresh()
    assert model.replay_buffer.size() == 200, "each step once"


@pytest.mark.parametrize("kind", ["dict", "image", "sac"])
def test_other_spaces_and_algorithms(jam: Jamboree, kind: str) -> None:
    from stable_baselines3 import DQN, SAC
    from test_replay_buffers import IMAGE, VECTOR, Wandering

    from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer, Unsaved, to_replay_buffer

    observed = {
        "dict": spaces.Dict(a=VECTOR, b=spaces.Discrete(3)),
        "image": IMAGE,
        "sac": VECTOR,
    }[kind]
    acted = spaces.Box(-2, 2, (1,), np.float32) if kind == "sac" else spaces.Discrete(3)
    model: Any = (SAC if kind == "sac" else DQN)(
        {"dict": "MultiInputPolicy", "image": "CnnPolicy", "sac": "MlpPolicy"}[kind],
        jam.record(Wandering(observed, acted), run="r"),
        replay_buffer_class=JamboreeReplayBuffer,
        replay_buffer_kwargs=Unsaved(jam=jam, run="r"),
        buffer_size=500,
        learning_starts=28,
        train_freq=4,
        batch_size=4,
        device="cpu",
        seed=1,
    )
    model.learn(32)
    model.replay_buffer.refresh()
    filled = to_replay_buffer(jam.episodes(run="r"), device="cpu")

    assert model.replay_buffer.size() == filled.size() == 32
    rewards = filled.rewards[:, 0].tolist()
    order = [rewards.index(reward) for reward in model.replay_buffer.rewards[:32, 0].tolist()]
    for key in observed.keys() if kind == "dict" else [...]:
        for name in ("observations", "next_observations"):
            ours, expected = getattr(model.replay_buffer, name), getattr(filled, name)
            np.testing.assert_array_equal(ours[key][:32], expected[key][order])
    np.testing.assert_array_equal(model.replay_buffer.actions[:32], filled.actions[order])


def test_normalised_as_sb3_normalises_samples(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    venv = VecNormalize(jam.record(DummyVecEnv([Line]), run="r"))
    venv.reset()
    for _ in range(9):
        venv.step(np.ones(1, int))
    buffer = make(jam)
    np.random.seed(0)
    raw = buffer.sample(20)
    np.random.seed(0)
    normalised = buffer.sample(20, env=venv)

    np.testing.assert_allclose(
        normalised.observations, venv.normalize_obs(raw.observations.numpy())
    )
    np.testing.assert_allclose(normalised.rewards, venv.normalize_reward(raw.rewards.numpy()))


# -- saving -------------------------------------------------------------------------------------


def test_a_model_is_saved_without_what_is_live_and_its_buffer_with_what_it_holds(
    jam: Jamboree, tmp_path: Path
) -> None:
    from stable_baselines3 import DQN

    from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer, Unsaved

    env = jam.record(gym.make("CartPole-v1"), run="r")
    arguments = Unsaved(jam=jam, run="r")
    model = DQN(
        "MlpPolicy",
        env,
        replay_buffer_class=JamboreeReplayBuffer,
        replay_buffer_kwargs=arguments,
        learning_starts=10,
        device="cpu",
    )
    model.learn(30)
    model.save(tmp_path / "model")
    loaded: Any = DQN.load(tmp_path / "model", env, device="cpu")
    loaded.predict(np.zeros(4, np.float32))
    with pytest.raises(EpisodeNotFound, match="knows of no store: give the model"):
        loaded.learn(20, reset_num_timesteps=False)
    again: Any = DQN.load(
        tmp_path / "model", env, custom_objects={"replay_buffer_kwargs": arguments}, device="cpu"
    )
    assert again.learn(20, reset_num_timesteps=False).replay_buffer.size() >= 30

    model.save_replay_buffer(tmp_path / "buffer")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.sample(8).observations.shape == (8, 4)
    assert b"jamboree_gym.jamboree" not in pickle.dumps(model.replay_buffer)


def test_a_run_that_learned_from_the_store_is_gone_on_with(jam: Jamboree) -> None:
    from stable_baselines3 import DQN

    from jamboree_gym.integrations.sb3 import (
        JamboreeCallback,
        JamboreeReplayBuffer,
        Unsaved,
        fill_replay_buffer,
    )

    env = jam.record(gym.make("CartPole-v1"), run="r")
    arguments = Unsaved(jam=jam, run="r")
    model = DQN(
        "MlpPolicy",
        env,
        replay_buffer_class=JamboreeReplayBuffer,
        replay_buffer_kwargs=arguments,
        learning_starts=10,
        device="cpu",
    )
    model.learn(60, callback=JamboreeCallback(jam))
    with pytest.raises(BufferMismatch, match="fills itself, and this one knows of no store"):
        jam.run("r").resume(DQN, env, device="cpu")
    kept = {"replay_buffer_kwargs": arguments}
    resumed: Any = jam.run("r").resume(DQN, env, device="cpu", custom_objects=kept)

    assert resumed.replay_buffer.size() == 60
    assert fill_replay_buffer(resumed.replay_buffer, jam.episodes(run="r")) == 0
    resumed.learn(20, reset_num_timesteps=False)


def test_reset_reads_everything_again(jam: Jamboree) -> None:
    play(jam.record(Line(), run="r"), 5)
    buffer = make(jam)
    buffer.refresh()
    buffer.reset()
    assert buffer.size() == 0
    assert buffer.refresh() == 5


# -- what can go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        *({"n_steps": 0}, {"gamma": 1.5}, {"gamma": -0.1}, {"alpha": -1.0}),
        *({"beta": float("inf")}, {"refresh_s": -1.0}),
    ],
)
def test_an_argument_out_of_its_range_is_refused_at_once(
    jam: Jamboree, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument, match=f"^{next(iter(wrong))}="):
        make(jam, **wrong)


def test_windows_of_nothing_are_refused(jam: Jamboree) -> None:
    play(jam.record(Line(), run="r"), 5)
    with pytest.raises(InvalidArgument, match="length=0: choose 1 or more"):
        make(jam).sample_windows(4, 0)


def test_nothing_recorded_yet(jam: Jamboree) -> None:
    buffer = make(jam)
    with pytest.raises(RunNotFound, match="no run 'r': nothing has been recorded yet"):
        buffer.sample(4)
    jam.record(Line(), run="r").reset()
    with pytest.raises(EpisodeNotFound, match=r"no steps of episodes\(run='r'\) are recorded yet"):
        buffer.sample(4)
    with pytest.raises(EpisodeNotFound, match="are recorded yet"):
        buffer.sample_windows(4, 2)
    play(jam.record(Line(), run="r"), 3)
    assert len(buffer.sample(4).actions) == 4


def test_other_spaces_and_normalised_values_are_refused(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = jam.record(gym.make("CartPole-v1"), run="other")
    env.reset()
    env.step(1)
    with pytest.raises(BufferMismatch, match="the buffer's of"):
        make(jam, run="other").sample(4)

    venv = jam.record(VecNormalize(DummyVecEnv([Line])), run="normalised")
    venv.reset()
    venv.step(np.ones(1, int))
    with pytest.raises(BufferMismatch, match="recorded above VecNormalize"):
        make(jam, run="normalised").sample(4)
    with pytest.raises(BufferMismatch, match="optimize_memory_usage=False"):
        make(jam, optimize_memory_usage=True)
    with pytest.raises(BufferMismatch, match="prioritized=True"):
        make(jam).update_priorities([0], [1.0])
    for one in (np.nan, np.inf):
        with pytest.raises(InvalidArgument, match="a priority is NaN or infinite"):
            make(jam, prioritized=True).update_priorities([0, 1], [1.0, one])


def test_while_redis_is_away_it_goes_on_with_what_it_has(
    durable_valkey: Server,
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jamboree_gym.integrations.sb3.buffers import live_replay

    monkeypatch.setattr(live_replay, "AWAY_S", 0.0)
    caplog.set_level(logging.INFO)
    jam = open_jamboree(durable_valkey.url)
    env = jam.record(Line(), run="r")
    play(env, 5)
    jam.flush()
    reader = open_jamboree(durable_valkey.url)
    buffer, empty = make(reader), make(reader)
    buffer.sample(4)
    durable_valkey.kill()
    for _ in range(3):
        assert len(buffer.sample(4).actions) == 4
    with pytest.raises(StoreUnavailable):
        empty.sample(4)
    said = [one.getMessage() for one in caplog.records if "sampling continues" in one.getMessage()]
    assert len(said) == 1
    assert "with the 5 steps here" in said[0]

    durable_valkey.start()
    play(env, 3)
    jam.flush()
    wait_until(lambda: buffer.sample(4) is not None and buffer.size() == 8)
    assert held(buffer) == steps_of(5, 3)
    assert "Redis answers again: sampling continues" in caplog.text


# -- what it is made of -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 64, 100])
def test_a_sum_tree_finds_what_running_sums_find(size: int) -> None:
    from jamboree_gym.integrations.sb3.buffers.sum_tree import SumTree

    rng, tree, numbers = np.random.default_rng(size), SumTree(size), np.zeros(size)
    for _ in range(20):
        changed = rng.integers(size, size=rng.integers(1, size + 1))
        numbers[changed] = rng.integers(0, 4, size=len(changed))
        tree[changed] = numbers[changed]
        assert tree.total == numbers.sum()
        if numbers.sum():
            heights = rng.random(50) * numbers.sum()
            expected = np.searchsorted(numbers.cumsum(), heights, side="right")
            np.testing.assert_array_equal(tree.find(heights), expected)
            assert numbers[tree.find(np.array([numbers.sum()]))] > 0


def test_a_ring_knows_what_follows_whatever_comes() -> None:
    from jamboree_gym.integrations.sb3.buffers.next_row import Succession

    rng = np.random.default_rng(3)
    for size in (1, 3, 10, 50):
        ring, played = Succession(size), list[tuple[str, int]]()
        lengths: dict[str, int] = {}
        for _ in range(200):
            ids = rng.choice(30, rng.integers(1, 5), replace=False).astype(str).tolist()
            counts = rng.integers(0, 8, len(ids)).tolist()
            over = (rng.random(len(ids)) < 0.1).tolist()
            ids = [f"{name}-{lengths.get(name, 0) // 1000}" for name in ids]
            ring.append(ids, counts, over)
            assert not {id for id, ends in zip(ids, over, strict=True) if ends} & {*ring._newest}
            for name, count, is_over in zip(ids, counts, over, strict=True):
                begun = lengths.get(name, 0)
                played += [(name, begun + step) for step in range(count)]
                lengths[name] = begun + count
                if is_over:
                    root = name.split("-")[0]
                    lengths[root] = lengths.get(root, 0) + 1000
            assert ring.count == len(played)
            kept = dict(enumerate(played[-size:], max(0, len(played) - size)))
            places = {step: number % size for number, step in kept.items()}
            for number, (name, step) in kept.items():
                expected = places.get((name, step + 1), -1)
                assert ring.following[number % size] == expected
