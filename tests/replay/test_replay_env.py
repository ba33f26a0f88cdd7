"""`ReplayEnv`: what was recorded, without the simulator; and several of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from nested import NESTED, is_same
from processes import wait_until
from recorded_envs import (
    ACTION,
    CountingEnv,
    DiscreteEnv,
    RenderingEnv,
    ReusingEnv,
    ScriptedEnv,
    play,
)
from stored import at
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import (
    DecodeError,
    EpisodeNotFound,
    InvalidArgument,
    ReplayError,
    ReplayMismatch,
)
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import ReplayEnv, ReplayVectorEnv


class DriftingEnv(RenderingEnv):
    """Depends on how many there have been from its fourth step on."""

    made = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        DriftingEnv.made += 1

    def observe(self) -> Any:
        return super().observe() + (DriftingEnv.made if self.count > 3 else 0)


REGISTERED = {"Rendering": RenderingEnv, "Drifting": DriftingEnv, "Counting": CountingEnv}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, entry_point in REGISTERED.items():
        gym.register(f"replays/{name}-v0", entry_point=entry_point, disable_env_checker=True)
    yield
    for name in REGISTERED:
        gym.registry.pop(f"replays/{name}-v0", None)


def record(
    jam: Jamboree, env: gym.Env[Any, Any], actions: list[Any], *, frames: Any = None, **reset: Any
) -> tuple[Episode, list[Any]]:
    """An episode, and what its reset and its steps returned."""
    recorded = jam.record(env, record_frames=frames)
    returned = play(recorded, actions, **reset)
    recorded.close()
    return jam.episode(recorded.episode_id), returned


def counted(jam: Jamboree, steps: int = 3, **options: Any) -> Episode:
    return record(jam, DiscreteEnv(**{"length": 10, **options}), [1] * steps, seed=5)[0]


def scripted(space: spaces.Space[Any], steps: int = 6) -> tuple[gym.Env[Any, Any], list[Any]]:
    """An environment that returns samples of a space as observations, and actions of that space."""
    space.seed(1)
    observations = [space.sample() for _ in range(steps + 1)]
    infos = [
        {"step": np.float32(k), "seen": {"at": [k]}} if k % 2 else {} for k in range(steps + 1)
    ]
    env = ScriptedEnv(observations=observations, infos=infos)
    env.observation_space = env.action_space = space
    return env, [space.sample() for _ in range(steps)]


# -- what it returns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Discrete(3, start=-1),
        spaces.MultiBinary(3),
        spaces.Text(8),
        spaces.Sequence(spaces.Discrete(5)),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float64)]),
        NESTED,
    ],
    ids=lambda space: type(space).__name__,
)
def test_all_comes_back_as_it_was(jam: Jamboree, space: spaces.Space[Any]) -> None:
    env, actions = scripted(space)
    episode, returned = record(jam, env, actions)

    replay = ReplayEnv(episode)

    assert replay.observation_space == replay.action_space == space
    for _ in range(2):
        again = [replay.reset(), *(replay.step(action) for action in actions)]
        assert is_same(again, [tuple(one) for one in returned])


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1", "Pendulum-v1"])
def test_an_episode_is_played_with_the_actions_it_tells(jam: Jamboree, name: str) -> None:
    env = gym.make(name)
    env.action_space.seed(1)
    recorded = jam.record(env)
    returned: list[Any] = [recorded.reset(seed=3)]
    while not (len(returned) > 1 and (returned[-1][2] or returned[-1][3])):
        returned.append(recorded.step(env.action_space.sample()))

    replay = ReplayEnv(jam.episode(recorded.episode_id))
    assert replay.remaining == len(returned) - 1
    again: list[Any] = [replay.reset(seed=3)]
    while replay.remaining:
        again.append(replay.step(replay.recorded_action))

    assert is_same([one[0] for one in again], [one[0] for one in returned])
    assert [one[1:4] for one in again[1:]] == [one[1:4] for one in returned[1:]]
    assert replay.spec is None


def test_a_simulator_is_not_needed(jam: Jamboree) -> None:
    episode, _ = record(jam, gym.make("replays/Counting-v0"), [ACTION] * 3)
    gym.registry.pop("replays/Counting-v0")

    replay = ReplayEnv(episode)
    replay.reset()

    assert replay.step(ACTION)[0].tolist() == [1.0, 0.5]


def test_what_is_returned_is_the_callers_own(jam: Jamboree) -> None:
    env, actions = scripted(NESTED)
    episode, returned = record(jam, env, actions)
    replay = ReplayEnv(episode)
    for one in (replay.reset(), replay.step(actions[0])):
        one[0]["camera"][:] = 7
        one[0]["joints"][0][:] = 7
        one[-1].update(changed=True)
    one[-1]["seen"]["at"].append(7)
    replay.recorded_action["camera"][:] = 7

    again = [replay.reset(), replay.step(actions[0]), replay.step(actions[1])]

    assert is_same(again, [tuple(one) for one in returned[:3]])


def test_a_replay_reads_the_store_no_more_once_it_is_made(jam: Jamboree) -> None:
    episode = counted(jam)
    replay = ReplayEnv(episode)
    episode.delete()

    replay.reset()
    assert [replay.step(1)[1] for _ in range(3)] == [1.0, 2.0, 3.0]


def test_an_episode_of_a_vector_environment_is_replayed(jam: Jamboree) -> None:
    envs = jam.record(SyncVectorEnv([lambda: gym.make("FrozenLake-v1")] * 3), run="vector")
    envs.reset(seed=1)
    envs.action_space.seed(1)
    for _ in range(40):
        envs.step(envs.action_space.sample())
    envs.close()

    for episode in jam.episodes(run="vector"):
        data, replay = episode.data(), ReplayEnv(episode)
        assert is_same(replay.reset()[0], data.observations[0])
        for k, action in enumerate(data.actions):
            observation, reward, terminated, *_, info = replay.step(action)
            assert is_same(observation, data.observations[k + 1])
            assert (reward, terminated) == (data.rewards[k], data.terminations[k])
            assert info == data.infos[k + 1]


@pytest.mark.parametrize("made", ["CountingEnv", "ReusingEnv"])
@pytest.mark.filterwarnings("ignore:.*Box observation space m.* value is:UserWarning")
@pytest.mark.filterwarnings("ignore:.*not having a spec:UserWarning")
def test_gymnasiums_checker_finds_nothing(jam: Jamboree, made: str) -> None:
    env = {"CountingEnv": CountingEnv(length=9), "ReusingEnv": ReusingEnv()}[made]
    episode, _ = record(jam, env, [ACTION] * 3, frames=None)

    check_env(ReplayEnv(episode, on_mismatch="ignore"))


@pytest.mark.filterwarnings("ignore:.*Box observation space m.* value is:UserWarning")
@pytest.mark.filterwarnings("ignore:.*not having a spec:UserWarning")
def test_gymnasiums_checker_sees_frames(jam: Jamboree) -> None:
    episode, _ = record(jam, RenderingEnv(), [ACTION] * 3, frames=1)

    check_env(ReplayEnv(episode, on_mismatch="ignore", render_mode="rgb_array"))


# -- where it ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps", "said"),
    [
        ({"length": 2}, 2, "terminated after 2 steps"),
        ({"length": 2, "ending": "truncated"}, 2, "was truncated after 2 steps"),
        ({}, 3, "was abandoned after 3 steps"),
        ({}, 0, "was abandoned after 0 steps"),
    ],
)
def test_a_step_after_the_end_says_how_it_ended(
    jam: Jamboree, options: dict[str, Any], steps: int, said: str
) -> None:
    replay = ReplayEnv(counted(jam, steps, **options))
    replay.reset()
    for _ in range(steps):
        *_, terminated, truncated, _ = replay.step(1)

    assert replay.remaining == 0
    if steps:
        assert (terminated, truncated) == ("terminated" in said, "truncated" in said)
    with pytest.raises(ReplayError, match=f"{said}: there is no more"):
        replay.step(1)
    with pytest.raises(ReplayError, match="there is no more"):
        _ = replay.recorded_action


def test_a_running_episode_ends_where_it_was_read(jam: Jamboree) -> None:
    env = jam.record(DiscreteEnv(length=9))
    play(env, [1, 1])
    replay = ReplayEnv(jam.episode(env.episode_id))
    env.step(1)

    replay.reset()
    replay.step(1)
    replay.step(1)
    with pytest.raises(ReplayError, match="is running, and was read after 2 steps"):
        replay.step(1)
    assert ReplayEnv(jam.episode(env.episode_id)).remaining == 3


def test_an_interrupted_episode_ends_with_its_last_step(jam: Jamboree, valkey: Server) -> None:
    dying = (
        "import os, sys\n"
        "from recorded_envs import DiscreteEnv\n"
        "from jamboree_gym import Jamboree\n"
        "jam = Jamboree(sys.argv[1], namespace=sys.argv[2], write='sync')\n"
        "env = jam.record(DiscreteEnv(length=9))\n"
        "env.reset(); env.step(2); env.step(1)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert run_warm(dying, valkey.url, jam._connection.keyspace.namespace).returncode == -9
    episode = jam.episodes().last()
    lease = jam._connection.keyspace.lease(episode.summary.writer)
    jam.redis.pexpire(at(jam, lease), 1)
    wait_until(lambda: not jam.redis.exists(at(jam, lease)))

    replay = ReplayEnv(episode)
    replay.reset()
    assert [replay.step(2)[1], replay.step(1)[1]] == [1.0, 2.0]
    with pytest.raises(ReplayError, match="was interrupted after 2 steps"):
        replay.step(1)


def test_a_step_before_the_reset_is_refused(jam: Jamboree) -> None:
    replay = ReplayEnv(counted(jam))

    with pytest.raises(ReplayError, match="reset the replay before its first step"):
        replay.step(1)


def test_an_episode_that_is_not_there_is_an_error(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound, match="'none'"):
        ReplayEnv(jam.episode("none"))


@pytest.mark.parametrize(
    "wrong", [{"on_mismatch": "warning"}, {"render_mode": "human"}, {"frames": "both"}]
)
def test_a_wrong_choice_names_the_right_ones(jam: Jamboree, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r": (choose one of|give) .*(raise|rgb_array|rec)"):
        ReplayEnv(counted(jam), **wrong)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda provenance: provenance.pop("action_space"), ReplayError),
        (lambda provenance: provenance["action_space"].pop("n"), DecodeError),
        (lambda provenance: provenance.update(action_space=None), DecodeError),
    ],
    ids=["missing", "without n", "None"],
)
def test_a_damaged_space_is_an_error(
    jam: Jamboree, damage: Callable[[Any], Any], error: type[Exception]
) -> None:
    episode = counted(jam)
    provenance = episode.provenance
    damage(provenance)
    damaged = Episode(jam._connection, episode.id)
    damaged.__class__ = type("DamagedEpisode", (Episode,), {"provenance": provenance})

    with pytest.raises(error):
        ReplayEnv(damaged)


# -- another action than the recorded one -----------------------------------------------------


def test_another_action_is_refused_and_the_replay_stays(jam: Jamboree) -> None:
    episode = counted(jam)
    replay = ReplayEnv(episode)
    replay.reset()
    replay.step(1)

    message = f"'{episode.id}' was recorded otherwise: at step 1 its action is 1, not 2"
    with pytest.raises(ReplayMismatch, match=message):
        replay.step(2)
    assert replay.step(1)[1] == 2.0


def test_another_action_is_warned_of_once_after_each_reset(jam: Jamboree) -> None:
    replay = ReplayEnv(counted(jam), on_mismatch="warn")
    for _ in range(2):
        replay.reset()
        replay.step(1)
        with pytest.warns(UserWarning, match="at step 1 its action is 1, not 0") as warned:
            rewards = [replay.step(0)[1] for _ in range(2)]
        assert rewards == [2.0, 3.0]
        assert [one.filename for one in warned] == [__file__]


def test_another_action_is_ignored(jam: Jamboree) -> None:
    replay = ReplayEnv(counted(jam), on_mismatch="ignore")
    replay.reset(seed=1, options={"other": 1})

    assert [replay.step(action)[1] for action in (0, "nonsense", None)] == [1.0, 2.0, 3.0]


SAME = [
    (1, np.int64(1)),
    (np.int64(1), 1),
    (np.float32(0.5), 0.5),
    (math.nan, math.nan),
    (np.array([0.25, -0.5], np.float32), np.array([0.25, -0.5])),
    (np.array([0.25, -0.5], np.float32), [0.25, -0.5]),
    (np.array([1, 0], np.int8), np.array([True, False])),
    ({"a": 1, "b": (2.0, "x")}, {"b": (2.0, "x"), "a": np.int64(1)}),
    ([1, 2.5], (1, 2.5)),
]
OTHER = [
    (1, 2),
    (1, 1.5),
    (1, None),
    (1, "1"),
    (0.0, -0.0),
    (math.nan, -math.nan),
    (math.nan, 0.0),
    (np.float32(0.1), 0.1),
    (0.1, np.float32(0.1)),
    (1.0, 2**63),
    (np.zeros(2, np.float32), np.array([0.0, -0.0], np.float32)),
    (np.zeros(2), np.zeros(3)),
    (np.zeros((2, 1)), np.zeros((1, 2))),
    (np.zeros(1), 0.0),
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1}, {"b": 1}),
    ({"a": 1, "b": (2.0, "x")}, {"a": 1, "b": (2.0, "y")}),
    ({"a": 1}, 1),
    ((1, 2), (1, 2, 3)),
    ((1, "x"), (1, object())),
]


@pytest.mark.parametrize(("recorded", "given", "expected"), [
    *((*pair, True) for pair in SAME), *((*pair, False) for pair in OTHER),
])  # fmt: skip
def test_actions_are_compared_bit_for_bit_in_the_recorded_dtype(
    jam: Jamboree, recorded: Any, given: Any, expected: bool
) -> None:
    env = CountingEnv(length=9)
    if isinstance(recorded, (dict, list, tuple)):
        env.action_space = spaces.Tuple([spaces.Discrete(3), spaces.Text(3)])
    replay = ReplayEnv(record(jam, env, [recorded])[0])
    replay.reset()

    if expected:
        assert replay.step(given)[1] == 1.0
    else:
        with pytest.raises(ReplayMismatch):
            replay.step(given)


# -- another beginning ------------------------------------------------------------------------


def test_a_reset_takes_the_recorded_seed_and_options_or_none(jam: Jamboree) -> None:
    options = {"low": -0.1, "high": np.float32(0.1)}
    episode, _ = record(jam, CountingEnv(), [ACTION], seed=5, options=options)
    replay = ReplayEnv(episode)

    for seed in (5, None):
        for given in (options, {}, None, dict(reversed(options.items()))):
            assert replay.reset(seed=seed, options=given)[0].tolist() == [0.0, 0.5]
    with pytest.raises(ReplayMismatch, match="its seed is 5, not 6"):
        replay.reset(seed=6)
    for given in ({"low": -0.1}, {**options, "low": -0.2}, {**options, "low": object()}):
        with pytest.raises(ReplayMismatch, match=r"its options are \{'low': -0.1,"):
            replay.reset(options=given)


def test_a_seed_is_another_one_where_there_was_none(jam: Jamboree) -> None:
    episode, _ = record(jam, CountingEnv(), [ACTION])

    with pytest.raises(ReplayMismatch, match="its seed is None, not 1"):
        ReplayEnv(episode).reset(seed=1)
    with pytest.warns(UserWarning, match="its seed is None, not 1") as warned:
        ReplayEnv(episode, on_mismatch="warn").reset(seed=1)
    assert warned[0].filename == __file__


# -- what it shows ----------------------------------------------------------------------------


def number_of(frame: Any) -> int:
    """The step that a `RenderingEnv` has written into its frame."""
    return int(frame.reshape(-1)[:4].view(np.uint32)[0])


def shown(replay: ReplayEnv) -> list[Any]:
    replay.reset()
    frames = [replay.render()]
    while replay.remaining:
        replay.step(replay.recorded_action)
        frames.append(replay.render())
    return frames


def rendering(jam: Jamboree, frames: Any, *, name: str = "Rendering") -> Episode:
    env = gym.make(f"replays/{name}-v0", render_mode="rgb_array")
    return record(jam, env, [ACTION] * 6, frames=frames)[0]


@pytest.mark.parametrize("frames", [None, "recorded"])
def test_recorded_frames_are_shown_until_the_next_one(jam: Jamboree, frames: Any) -> None:
    episode = rendering(jam, 2)
    gym.registry.pop("replays/Rendering-v0")
    replay = ReplayEnv(episode, render_mode="rgb_array", frames=frames)

    for _ in range(2):
        assert [number_of(frame) for frame in shown(replay)] == [0, 0, 2, 2, 4, 4, 6]
    first = next(episode.renders())[1]
    replay.reset()
    replay.render()[:] = 7
    assert is_same(replay.render(), first)


def test_before_the_first_recorded_frame_there_is_none(jam: Jamboree) -> None:
    replay = ReplayEnv(rendering(jam, lambda step: step == 3), render_mode="rgb_array")
    replay.reset()

    with pytest.raises(ReplayError, match=r"up to step 0: record with record_frames=, or .*simul"):
        replay.render()
    for _ in range(4):
        replay.step(ACTION)
    assert number_of(replay.render()) == 3


def test_simulated_frames_are_those_that_were_recorded(jam: Jamboree) -> None:
    episode = rendering(jam, 1)

    frames = {
        kind: shown(ReplayEnv(episode, render_mode="rgb_array", frames=kind))
        for kind in ("recorded", "simulated")
    }

    assert [number_of(frame) for frame in frames["simulated"]] == list(range(7))
    assert is_same(frames["simulated"], frames["recorded"])


def test_without_recorded_frames_an_episode_is_simulated_again(jam: Jamboree) -> None:
    replay = ReplayEnv(rendering(jam, None), render_mode="rgb_array")

    once = shown(replay)
    replay.reset()
    for _ in range(4):
        replay.step(ACTION)
    later = replay.render()
    again = shown(replay)
    replay.close()
    replay.close()

    assert [number_of(frame) for frame in once] == list(range(7))
    assert is_same(once, again)
    assert is_same(later, once[4])


def test_frames_are_shown_until_the_second_run_differs(jam: Jamboree) -> None:
    episode = rendering(jam, None, name="Drifting")
    replay = ReplayEnv(episode, render_mode="rgb_array")
    replay.reset()

    for step in range(6):
        if step <= 3:
            assert number_of(replay.render()) == step
        else:
            with pytest.raises(ReplayError, match=r"not happen again: observation.* at step 3: "):
                replay.render()
        replay.step(ACTION)
    replay.reset()
    assert number_of(replay.render()) == 0
    for _ in range(6):
        replay.step(ACTION)
    with pytest.raises(ReplayError, match=r"observation.* at step 3: "):
        replay.render()


def test_a_beginning_that_differs_shows_nothing(jam: Jamboree) -> None:
    episode = rendering(jam, None)
    gym.registry.pop("replays/Rendering-v0")
    other = type("Other", (RenderingEnv,), {"observe": lambda self: np.ones(2, np.float32)})
    gym.register("replays/Rendering-v0", entry_point=other)
    replay = ReplayEnv(episode, render_mode="rgb_array")
    replay.reset()

    for _ in range(2):
        with pytest.raises(ReplayError, match=r"not happen again: observation.* at reset"):
            replay.render()


def test_an_environment_that_cannot_be_made_again_says_why(jam: Jamboree) -> None:
    episode = rendering(jam, None)
    gym.registry.pop("replays/Rendering-v0")
    replay = ReplayEnv(episode, render_mode="rgb_array")
    replay.reset()

    with pytest.raises(ReplayError, match="is not registered here"):
        replay.render()


def test_an_environment_that_cannot_be_rendered_says_why(jam: Jamboree) -> None:
    def fail(_: Any) -> Any:
        raise gym.error.DependencyNotInstalled("pygame is not installed")

    episode = rendering(jam, None)
    gym.registry.pop("replays/Rendering-v0")
    blind = type("Blind", (RenderingEnv,), {"render": fail})
    gym.register("replays/Rendering-v0", entry_point=blind)
    replay = ReplayEnv(episode, render_mode="rgb_array")
    replay.reset()

    with pytest.raises(ReplayError, match="cannot be rendered here: pygame is not installed"):
        replay.render()


def test_a_replay_made_without_render_mode_says_how_to_make_one(jam: Jamboree) -> None:
    replay = ReplayEnv(counted(jam))

    with pytest.raises(ReplayError, match="render_mode='rgb_array'"):
        replay.render()
    with pytest.raises(ReplayError, match="reset the replay"):
        ReplayEnv(rendering(jam, 1), render_mode="rgb_array").render()


def test_an_episode_that_follows_another_is_shown(jam: Jamboree) -> None:
    def make() -> gym.Env[Any, Any]:
        return gym.make("replays/Rendering-v0", render_mode="rgb_array", length=4)

    envs = jam.record(
        SyncVectorEnv([make, make], autoreset_mode=AutoresetMode.SAME_STEP), run="following"
    )
    envs.reset(seed=1)
    for _ in range(8):
        envs.step(np.stack([ACTION, ACTION]))
    envs.close()
    later = [one for one in jam.episodes(run="following") if one.origin.follows]

    frames = shown(ReplayEnv(later[0], render_mode="rgb_array"))

    assert [number_of(frame) for frame in frames] == [0, 1, 2, 3, 4]


# -- several at once --------------------------------------------------------------------------


def of_lengths(jam: Jamboree, *lengths: int, run: str = "several") -> list[Episode]:
    """Episodes that end by themselves, but for the last one, which is abandoned."""
    for position, length in enumerate(lengths):
        is_last = position == len(lengths) - 1
        env = jam.record(DiscreteEnv(length=length + is_last), run=run)
        play(env, [k % 3 for k in range(length)], seed=position)
        env.close()
    return list(jam.episodes(run=run))


def test_episodes_of_different_lengths_are_stepped_together(jam: Jamboree) -> None:
    of_lengths(jam, 2, 4, 3)
    envs = ReplayVectorEnv(jam.episodes(run="several"))

    observations, _ = envs.reset(seed=0)
    seen, rewards, ends, left = [observations], [], [], []
    while envs.remaining.any():
        left.append(envs.remaining.tolist())
        observations, reward, terminations, truncations, _ = envs.step(envs.recorded_actions)
        seen.append(observations)
        rewards.append(reward)
        ends.append(terminations.tolist())
        assert not truncations.any()

    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert left == [[2, 4, 3], [1, 3, 2], [0, 2, 1], [0, 1, 0]]
    assert np.stack(seen)[:, :, 0].T.tolist() == [
        [0, 1, 2, 2, 2],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 3],
    ]
    assert np.sum(rewards, axis=0).tolist() == [3.0, 10.0, 6.0]
    assert np.sum(ends, axis=0).tolist() == [1, 1, 0]
    assert [one.id for one in envs.episodes] == jam.episodes(run="several").ids()
    with pytest.raises(ReplayError, match="all episodes are over"):
        _ = envs.recorded_actions


def test_a_vector_of_replays_is_reset_in_whole_or_in_part(jam: Jamboree) -> None:
    envs = ReplayVectorEnv(of_lengths(jam, 2, 4, 3))
    envs.reset()
    for _ in range(4):
        envs.step(envs.recorded_actions)
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    assert envs.remaining.tolist() == [2, 0, 0]

    observations, rewards, *_ = envs.step(envs.recorded_actions)
    assert observations[:, 0].tolist() == [1, 4, 3]
    assert rewards.tolist() == [1, 0, 0]
    assert envs.reset()[0][:, 0].tolist() == [0, 0, 0]


def test_another_action_of_one_episode_is_refused_or_ignored(jam: Jamboree) -> None:
    episodes = of_lengths(jam, 2, 4)
    envs = ReplayVectorEnv(episodes)
    envs.reset()
    with pytest.raises(ReplayMismatch, match=f"'{episodes[1].id}'.*its action is 0, not .*2"):
        envs.step(np.array([0, 2]))

    envs = ReplayVectorEnv(episodes, on_mismatch="ignore")
    envs.reset()
    assert envs.step(np.array([2, 2]))[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("space", [NESTED, spaces.Text(4), spaces.Discrete(3, start=-1)], ids=type)
def test_actions_of_any_space_are_batched(jam: Jamboree, space: spaces.Space[Any]) -> None:
    for steps in (2, 3):
        env, actions = scripted(space, steps)
        recorded = jam.record(env, run="any")
        play(recorded, actions)
        recorded.close()

    envs = ReplayVectorEnv(jam.episodes(run="any"))
    envs.reset()
    total = np.zeros(2)
    while envs.remaining.any():
        total += envs.step(envs.recorded_actions)[1]

    assert total.tolist() == [3.0, 6.0]


def test_recorded_actions_keep_a_dtype_that_is_not_the_spaces(jam: Jamboree) -> None:
    episode, _ = record(jam, CountingEnv(length=9), [np.array([0.1, 0.2])] * 2)
    envs = ReplayVectorEnv([episode, episode])
    envs.reset()

    assert envs.recorded_actions.dtype == np.float64
    assert envs.step(envs.recorded_actions)[1].tolist() == [1.0, 1.0]


def test_infos_are_batched_as_gymnasium_does_it(jam: Jamboree) -> None:
    env = ScriptedEnv(infos=[{}, {"lives": 3}, {"lives": 2}])
    episode, _ = record(jam, env, [ACTION] * 2)
    envs = ReplayVectorEnv([episode, counted_box(jam)])
    envs.reset()

    infos = envs.step(envs.recorded_actions)[4]

    assert infos["lives"].tolist() == [3, 0]
    assert infos["_lives"].tolist() == [True, False]


def counted_box(jam: Jamboree) -> Episode:
    return record(jam, CountingEnv(length=9), [ACTION] * 2)[0]


def test_a_vector_of_replays_shows_all_of_them(jam: Jamboree) -> None:
    episodes = [rendering(jam, 1), rendering(jam, 1)]
    envs = ReplayVectorEnv(episodes, render_mode="rgb_array")
    envs.reset()
    envs.step(envs.recorded_actions)

    frames = envs.render()

    assert frames is not None
    assert [number_of(frame) for frame in frames] == [1, 1]
    envs.close()


def test_episodes_with_different_spaces_are_named(jam: Jamboree) -> None:
    episodes = [counted(jam), counted_box(jam)]

    with pytest.raises(
        ReplayError, match=f"'{episodes[0].id}' and '{episodes[1].id}' .*action_space"
    ):
        ReplayVectorEnv(episodes)


def test_no_episodes_are_no_vector(jam: Jamboree) -> None:
    with pytest.raises(ReplayError, match="there is no episode to replay"):
        ReplayVectorEnv(jam.episodes())
