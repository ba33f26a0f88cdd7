"""`episode.find`: the steps of which an expression, or a function, is true; and `episode.play`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lengths import examples
from recorded_envs import ACTION, CountingEnv, DiscreteEnv, ScriptedEnv, play

from jamboree_gym import Jamboree, StepData
from jamboree_gym.errors import EpisodeNotFound, InvalidExpression, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.playback import paced
from jamboree_gym.tables.expressions import Condition

INFOS: list[dict[str, Any]] = [
    {},
    {"lives": 3, "note": "good", "won": False, "at": {"x": 0.5}, "odd name": 1},
    {"lives": 2, "note": "bad", "at": {"x": 1.5}},
    {"note": "bad", "won": True},
    {"lives": None, "score": math.nan},
    {"lives": 1, "note": "good", "score": 7.0, "mixed": 1},
    {"lives": 0, "mixed": "one"},
]
REWARDS = [0.5, -1.5, 0.25, -2.0, 1.0, 0.0]
ACTIONS = [0, 2, 1, 2, 0, 2]


@pytest.fixture
def episode(jam: Jamboree) -> Episode:
    """Six steps; in step k the agent sees [k, 0.5], but for the image."""
    env = ScriptedEnv(rewards=REWARDS, infos=INFOS)
    env.action_space = spaces.Discrete(3)
    return recorded(jam, env, ACTIONS)


def recorded(jam: Jamboree, env: gym.Env[Any, Any], actions: list[Any]) -> Episode:
    env = jam.record(env)
    play(env, actions)
    env.close()
    return jam.episode(env.episode_id)


# -- expressions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("reward < -1 and action == 2", [1, 3]),
        ("reward < -1 or action == 2", [1, 3, 5]),
        ("  reward < -1\n", [1, 3]),
        ("not reward < 0", [0, 2, 4, 5]),
        ("not (reward < 0 or action == 0)", [2, 5]),
        ("observation_0 > 3.5 or abs(observation_1) < 0.1", [4, 5]),
        ("index >= 4", [4, 5]),
        ("1 < index <= 3", [2, 3]),
        ("0 <= reward < observation_1 < index", [2, 5]),
        ("index % 2 == 0 and index // 2 != 1", [0, 4]),
        ("-reward > 1", [1, 3]),
        ("+reward - 1 == 0.0", [4]),
        ("reward * 2 + 1 < 0", [1, 3]),
        ("reward / 2 == 0.25", [0]),
        ("(observation_0 - 3) ** 2 < 1.5", [2, 3, 4]),
        ("sqrt(abs(reward)) > 1.3", [3]),
        ("max(reward, observation_1, 0.75) == 1", [4]),
        ("min(reward, 0) == 0 and action in (0, 1)", [0, 2, 4]),
        ("action in [1]", [2]),
        ("action not in {0, 2}", [2]),
        ("action in ()", []),
        ("terminated", []),
        ("not terminated", [0, 1, 2, 3, 4, 5]),
        ("terminated == truncated", [0, 1, 2, 3, 4, 5]),
        ("terminated + 1 == 1 and index < 2", [0, 1]),
        ("timestamp > 0", [0, 1, 2, 3, 4, 5]),
        ("True", [0, 1, 2, 3, 4, 5]),
        ("1 > 2", []),
        ("index != 'a' or True", "is a text"),
        ("reward == 1e400", []),
        ("reward < 9**9**9**9", [0, 1, 2, 3, 4, 5]),
        ("index == -9223372036854775809", []),
    ],
)
def test_an_expression_finds_the_steps_of_which_it_is_true(
    episode: Episode, expression: str, expected: Any
) -> None:
    if isinstance(expected, str):
        with pytest.raises(InvalidExpression, match=expected):
            episode.find(expression)
        return
    hits = episode.find(expression)

    assert hits.tolist() == expected
    assert hits.dtype == np.int64


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("info_lives < 3", [1, 4, 5]),
        ("not info_lives < 3", [0]),
        ("info_lives >= 3 or info_lives < 3", [0, 1, 4, 5]),
        ("info_lives < 3 or index == 2", [1, 2, 4, 5]),
        ("not (info_lives < 3 and index != 2)", [0, 2]),
        ("-info_lives + 1 > 0", [5]),
        ("max(info_lives, 2) == 2", [1, 4, 5]),
        ("info_lives == info_lives", [0, 1, 4, 5]),
        ("0 < info_lives < 3", [1, 4]),
        ("info_lives in (0, 3)", [0, 5]),
        ("info_lives not in (0, 3)", [1, 4]),
        ("info_lives not in ()", [0, 1, 4, 5]),
        ("info_won", [2]),
        ("not info_won", [0]),
        ("info_won == False", [0]),
        ("info_note == 'bad'", [1, 2]),
        ("info_note != 'bad'", [0, 4]),
        ("info_note > 'c'", [0, 4]),
        ("info_note in ('good', 'ugly', 3)", [0, 4]),
        ("info_note not in ('good',)", [1, 2]),
        ("info_at.x > 1", [1]),
        ("column('info_at.x') < 1", [0]),
        ("column('info_odd name') == 1", [0]),
        ("isnan(info_score)", [3]),
        ("not isnan(info_score)", [4]),
        ("isfinite(info_score)", [4]),
        ("info_score > 1", [4]),
        ("not info_score > 1", [3]),
    ],
)
def test_a_missing_info_is_never_a_hit(
    episode: Episode, expression: str, expected: list[int]
) -> None:
    assert episode.find(expression).tolist() == expected


def test_what_was_not_said_is_never_a_hit(jam: Jamboree) -> None:
    env = jam.record(DiscreteEnv(length=9))
    env.reset()
    for k in range(4):
        if k != 2:
            env.annotate(value=k / 2, version=k)
        env.step(0)
    episode = jam.episode(env.episode_id)

    assert episode.find("annotation_value < 1").tolist() == [0, 1]
    assert episode.find("not annotation_value < 1").tolist() == [3]
    assert episode.find("annotation_version != 1").tolist() == [0, 3]


def test_numbers_of_few_bits_are_computed_with_as_numbers(jam: Jamboree) -> None:
    pixels = [np.array([value, 250], np.uint8) for value in (0, 10, 200, 255)]
    env = ScriptedEnv(observations=pixels)
    env.observation_space = spaces.Box(0, 255, (2,), np.uint8)
    episode = recorded(jam, env, [ACTION] * 3)

    assert episode.find("observation_0 - observation_1 < -245").tolist() == [0]
    assert episode.find("observation_0 + observation_1 > 255").tolist() == [1, 2]
    assert episode.find("observation_0 > -1").tolist() == [0, 1, 2]
    assert episode.find("observation_0 < 1000").tolist() == [0, 1, 2]


def test_float32_is_compared_as_it_is_written(jam: Jamboree) -> None:
    env = ScriptedEnv(observations=[np.float32([0.1, -0.1])] * 3)
    episode = recorded(jam, env, [ACTION] * 2)

    assert episode.find("observation_0 == 0.1 and observation_1 == -0.1").tolist() == [0, 1]


def test_large_integers_are_compared_exactly(jam: Jamboree) -> None:
    env = ScriptedEnv(infos=[{}, {"id": 2**53}, {"id": 2**53 + 1}, {"id": -(2**53) - 1}])
    episode = recorded(jam, env, [ACTION] * 3)

    assert episode.find("info_id == 9007199254740993").tolist() == [1]
    assert episode.find("info_id == -9007199254740993").tolist() == [2]


NUMBERS = ("reward", "action", "observation_0", "index", "0", "1.5", "-2")
numbers = st.recursive(
    st.sampled_from(NUMBERS),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
        st.builds("abs({})".format, inner),
        st.builds("max({}, {})".format, inner, inner),
        st.builds("(-{})".format, inner),
    ),
    max_leaves=4,
)
signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
conditions = st.recursive(
    st.one_of(
        st.builds("{} {} {}".format, numbers, signs, numbers),
        st.builds("{} {} {} {} {}".format, numbers, signs, numbers, signs, numbers),
        st.builds("{} in ({}, {})".format, numbers, numbers, numbers),
        st.just("terminated"),
    ),
    lambda inner: st.one_of(
        st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=5,
)


def test_an_expression_means_what_it_means_in_python(episode: Episode) -> None:
    steps = episode.steps()
    known = [
        {
            "reward": step.reward,
            "action": step.action,
            "observation_0": float(step.observation[0]),
            "index": step.index,
            "terminated": step.terminated,
        }
        for step in steps
    ]

    @settings(max_examples=examples(400), suppress_health_check=list(HealthCheck))
    @given(conditions)
    def check(expression: str) -> None:
        expected = [k for k, names in enumerate(known) if eval(expression, {}, names)]
        assert Condition(expression).hits(steps).tolist() == expected

    check()


# -- what is no condition ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            "rewrad < -1",
            r"no column 'rewrad'; did you mean 'reward'\?; there are index,",
        ),
        ("observation < 1", "no column 'observation'; did you mean 'observation_"),
        ("info_at < 1", "'info_at' has no column, because no one dtype"),
        ("info_mixed == 1", "'info_mixed' has no column, because no one dtype"),
        ("column('nothing') < 1", "no column 'nothing'"),
        ("reward <", "no expression: invalid syntax, at"),
        ("reward = 1", "no expression: .*, at"),
        ("reward < 1 and and", "at 'and'"),
        ("reward < 1; action", "no expression"),
        ("reward < " + "1" * 5000, "no expression|cannot be read"),
        ("(" * 1000 + "reward" + ")" * 1000, "no expression|cannot be read"),
        ("not " * 3000 + "terminated", "cannot be (read|worked out)"),
        ("reward" + " + reward" * 9000 + " > 0", "cannot be (read|worked out)"),
        ("reward", "'reward' is neither true nor false"),
        ("reward and terminated", "'reward' is neither true nor false"),
        ("not index", "'index' is neither true nor false"),
        ("'a'", "\"'a'\" is neither true nor false"),
        ("(reward < 1) & (action == 2)", "write and, or, not instead of &"),
        ("~terminated", "write and, or, not instead of &"),
        ("terminated is True", "there is no 'is'"),
        ("1 < index in (1, 2)", "no chain with 'in'"),
        ("index in info_note", "write a list after 'in', not 'info_note'"),
        ("info_note < 1", "'info_note' is a text and '1' is none"),
        ("'a' == index", "\"'a'\" is a text and 'index' is none"),
        ("info_note + 1 < 2", "'info_note' is a text, not a number"),
        ("'a' * 10**9 == 'b'", "is a text, not a number"),
        ("-info_note < 2", "'info_note' is a text, not a number"),
        ("reward < 1" + "0" * 400, "cannot be worked out"),
        ("None == reward", "'None' cannot be part of a condition"),
        ("reward == b'a'", "cannot be part of a condition"),
        ("reward < 1j", "cannot be part of a condition"),
        ("abs() < 1", r"'abs\(\)' cannot be part of a condition"),
        ("abs(reward, 1) < 1", "cannot be part of a condition"),
        ("max(reward) < 1", "cannot be part of a condition"),
        ("max(reward, default=1) < 1", "cannot be part of a condition"),
        ("max(*reward) < 1", "cannot be part of a condition"),
        ("column(reward) < 1", "cannot be part of a condition"),
        ("reward[0] < 1", "cannot be part of a condition"),
        ("reward if True else 1", "cannot be part of a condition"),
        ("[reward for reward in (1, 2)] == 1", "cannot be part of a condition"),
        ("(lambda: True)()", "cannot be part of a condition"),
        ("(x := reward) < 1", "cannot be part of a condition"),
        ("f'{reward}' == '1'", "cannot be part of a condition"),
        ("reward @ 1 < 1", "cannot be part of a condition"),
        ("reward << 10**9 < 1", "cannot be part of a condition"),
        ("__import__('os')", "cannot be part of a condition"),
        ("__import__('os').system('true')", "cannot be part of a condition"),
        ("().__class__.__base__.__subclasses__() == 1", "cannot be part of a condition"),
        ("reward.__class__ == 1", "no column 'reward.__class__'"),
        ("reward.dtype.type == 1", "no column 'reward.dtype.type'"),
        ("reward.tofile('x') == 1", "cannot be part of a condition"),
        ("eval('1') == 1", "cannot be part of a condition"),
        ("open('x')", "cannot be part of a condition"),
        ("exit", "no column 'exit'"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_condition_is_refused_and_shown(
    episode: Episode, expression: str, message: str
) -> None:
    with pytest.raises(InvalidExpression, match=message) as raised:
        episode.find(expression)

    assert len(str(raised.value)) < 600


def test_an_image_is_no_column_to_compare(jam: Jamboree) -> None:
    space = spaces.Box(0, 255, (9, 9), np.uint8)
    env = ScriptedEnv(observations=[space.sample() for _ in range(3)])
    env.observation_space = space
    episode = recorded(jam, env, [ACTION] * 2)

    with pytest.raises(InvalidExpression, match=r"'observation' is an array of shape \(9, 9\)"):
        episode.find("observation > 100")
    assert episode.find(lambda step: step.observation.shape == (9, 9)).tolist() == [0, 1]


def test_an_expression_is_read_before_the_episode_is(jam: Jamboree) -> None:
    with pytest.raises(InvalidExpression):
        jam.episode("none").find("reward <")
    with pytest.raises(EpisodeNotFound):
        jam.episode("none").find("reward < 1")
    with pytest.raises(EpisodeNotFound):
        jam.episode("none").find(lambda step: True)


# -- functions --------------------------------------------------------------------------------


def test_a_function_of_the_step_finds_it(episode: Episode) -> None:
    hits = episode.find(lambda step: step.reward < -1 and step.info.get("lives"))

    assert hits.tolist() == [1]
    assert hits.dtype == np.int64
    assert episode.find(lambda step: False).dtype == np.int64


def test_a_long_episode_is_searched_to_its_end(jam: Jamboree) -> None:
    episode = recorded(jam, CountingEnv(length=1000), [ACTION] * 1000)
    seen: list[int] = []

    def test(step: StepData) -> bool:
        seen.append(step.index)
        return step.terminated or step.index in (255, 256, 511, 512)

    assert episode.find(test).tolist() == [255, 256, 511, 512, 999]
    assert seen == list(range(1000))
    assert episode.find("terminated or index in (255, 256)").tolist() == [255, 256, 999]


def test_an_episode_without_steps_has_no_hits(jam: Jamboree) -> None:
    episode = recorded(jam, CountingEnv(), [])

    assert episode.find("reward < 0 or observation_0 == 0 or True").tolist() == []
    assert episode.find(lambda step: True).tolist() == []


def test_the_steps_of_an_episode_that_goes_on_are_found(jam: Jamboree) -> None:
    env = jam.record(DiscreteEnv(length=9))
    play(env, [1, 1])
    assert jam.episode(env.episode_id).find("action == 1").tolist() == [0, 1]
    env.step(1)

    assert jam.episode(env.episode_id).find("action == 1").tolist() == [0, 1, 2]


# -- play -------------------------------------------------------------------------------------


class Clock:
    """Time that passes only while somebody sleeps, and a little too much then."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now = 1000.0
        self.late_s = late_s
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, wait_s: float) -> None:
        self.slept.append(wait_s)
        self.now += wait_s + self.late_s


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_each_step_comes_when_it_is_due(episode: Episode, speed: float) -> None:
    clock, began_at = Clock(late_s=1e-9), episode.summary.started_at
    began = clock.now

    for step in paced(episode.steps(), began_at, speed, clock=clock, sleep=clock.sleep):
        due = began + (step.timestamp - began_at) / speed
        assert clock.now == pytest.approx(due, abs=1e-8)  # late once, not once for each step

    assert len(clock.slept) == 6


def test_whoever_is_slow_catches_up_without_waiting(episode: Episode) -> None:
    clock, steps = Clock(), episode.steps()
    indices = []

    for step in paced(steps, episode.summary.started_at, 1.0, clock=clock, sleep=clock.sleep):
        if step.index == 1:
            clock.now += 3600
        indices.append(step.index)

    assert indices == [0, 1, 2, 3, 4, 5]
    assert len(clock.slept) == 2


def test_an_episode_is_played_in_order_at_any_speed(episode: Episode) -> None:
    for speed in (1, 100.0, math.inf):
        steps = list(episode.play(speed))
        assert [step.index for step in steps] == [0, 1, 2, 3, 4, 5]
        assert [step.reward for step in steps] == REWARDS


def test_playing_waits_from_the_beginning_of_the_episode(
    episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, began_at = Clock(), episode.summary.started_at
    monkeypatch.setitem(paced.__kwdefaults__, "clock", clock)
    monkeypatch.setitem(paced.__kwdefaults__, "sleep", clock.sleep)

    for step in episode.play(speed=0.5):
        assert clock.now - 1000 == pytest.approx((step.timestamp - began_at) * 2, abs=1e-8)


def test_playing_goes_to_the_newest_step_there_is_by_then(jam: Jamboree) -> None:
    env = jam.record(DiscreteEnv(length=9))
    play(env, [1, 1])
    indices = []

    for step in jam.episode(env.episode_id).play(math.inf):
        indices.append(step.index)
        if step.index == 0:
            env.step(1)

    assert indices == [0, 1, 2]


def test_a_long_episode_is_played_in_parts(jam: Jamboree) -> None:
    episode = recorded(jam, CountingEnv(length=1000), [ACTION] * 1000)
    reads: list[Any] = []
    steps: Callable[..., Any] = episode.steps
    episode.steps = lambda *window: (reads.append(window), steps(*window))[1]  # type: ignore[method-assign]

    played = episode.play(math.inf)
    assert next(played).index == 0
    assert len(reads) == 1
    assert [step.index for step in played] == list(range(1, 1000))


@pytest.mark.parametrize("speed", [0, -1])
def test_a_speed_is_above_0(episode: Episode, speed: float) -> None:
    with pytest.raises(ReplayError, match=f"speed={speed}: choose a number above 0"):
        episode.play(speed)


def test_an_episode_that_is_not_there_is_not_played(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound):
        jam.episode("none").play()
