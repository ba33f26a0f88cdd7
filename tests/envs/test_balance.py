"""`jamboree/Balance-v0`."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from lengths import quick_and_long

import jamboree_envs
from jamboree_envs.balance import (
    BEST_MEMORYLESS_VALUES,
    BalanceEnv,
    Solution,
    memoryless_return,
    optimal_return,
    solve,
)

ENV_ID = "jamboree/Balance-v0"


@pytest.fixture
def env() -> Iterator[gym.Env[np.int64, np.int64]]:
    env = gym.make(ENV_ID)
    yield env
    env.close()


@pytest.fixture(scope="module")
def solution() -> Solution:
    return solve()


def play(env: gym.Env[Any, Any], actions: list[int], *, seed: int) -> list[tuple[Any, ...]]:
    """Return what reset and each step returned, up to the end of the episode."""
    returned: list[tuple[Any, ...]] = [env.reset(seed=seed)]
    for action in actions:
        returned.append(env.step(action))
        if returned[-1][2] or returned[-1][3]:
            break
    return returned


def optimal_episode(env: gym.Env[Any, Any], solution: Solution, *, seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    recent, total = [0, 0, 0], 0.0
    for steps_left in range(100, 0, -1):
        action = solution.action(int(observation), recent, steps_left=steps_left)
        observation, reward, terminated, truncated, _ = env.step(action)
        recent = [*recent[1:], action]
        total += float(reward)
        if terminated or truncated:
            break
    return total


def memoryless_episode(env: gym.Env[Any, Any], chosen: list[int], *, seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(chosen[int(observation)])
        total += float(reward)
        over = terminated or truncated
    return total


# Registration and checks.


def test_import_registers_the_id_with_a_limit_of_100_steps() -> None:
    assert gym.spec(ENV_ID).max_episode_steps == 100


def test_registering_twice_keeps_the_first_spec_and_does_not_warn() -> None:
    before = gym.spec(ENV_ID)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jamboree_envs.register_envs()
    assert gym.spec(ENV_ID) is before


def test_exported_names() -> None:
    assert jamboree_envs.__all__ == ["register_envs"]


@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_gymnasium_check_env_finds_nothing(render_mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ENV_ID, render_mode=render_mode).unwrapped)


@pytest.mark.torch
def test_sb3_check_env_finds_nothing() -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(BalanceEnv())


# Rules.


def test_same_seed_and_actions_give_the_same_trajectory() -> None:
    actions = [int(value) for value in np.random.default_rng(0).integers(0, 8, 100)]
    first = play(gym.make(ENV_ID), actions, seed=7)
    second = play(gym.make(ENV_ID), actions, seed=7)
    assert len(first) == 101
    assert first == second


def test_resetting_with_the_seed_again_repeats_the_trajectory(
    env: gym.Env[np.int64, np.int64],
) -> None:
    assert play(env, [4] * 100, seed=7) == play(env, [4] * 100, seed=7)


def test_different_seeds_give_different_demands(env: gym.Env[np.int64, np.int64]) -> None:
    one, other = play(env, [4] * 100, seed=1), play(env, [4] * 100, seed=2)
    assert [step[0] for step in one] != [step[0] for step in other]


def test_balance_is_the_sum_of_the_last_three_values(env: gym.Env[np.int64, np.int64]) -> None:
    balances = [step[-1]["balance"] for step in play(env, [1, 2, 3, 4, 5, 0], seed=0)]
    assert balances == [0, 1, 3, 6, 9, 12, 9]


def test_reset_forgets_the_balance(env: gym.Env[np.int64, np.int64]) -> None:
    play(env, [5, 5, 5], seed=0)
    assert env.reset()[1] == {"balance": 0}


def test_observations_do_not_depend_on_the_balance(env: gym.Env[np.int64, np.int64]) -> None:
    empty, full = play(env, [0] * 100, seed=3), play(env, [7] * 100, seed=3)
    assert full[-1][-1]["balance"] == 21
    assert [step[0] for step in empty] == [step[0] for step in full]


def test_observation_is_the_demand_above_twelve(env: gym.Env[np.int64, np.int64]) -> None:
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(np.int64(4))  # balance 12, whatever the demands were
    assert env.step(observation)[1] == 1.0  # so the demand above 12 is the value that hits it


@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [(4, [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]), (1, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])],
)
@pytest.mark.parametrize("direction", [-1, 1])
def test_reward_falls_with_the_miss_on_either_side(
    tolerance: int, expected: list[float], direction: int
) -> None:
    rewards = []
    for miss in range(6):
        env = BalanceEnv(tolerance=tolerance)
        env.reset(seed=0)
        for _ in range(3):
            observation, *_ = env.step(4)  # balance 12
        while observation != 6:
            observation, *_ = env.step(4)
        rewards.append(env.step(6 + direction * miss)[1])
    assert rewards == expected


@pytest.mark.parametrize(("value", "broken"), [(3, False), (4, True)])
def test_a_total_above_the_limit_ends_the_episode(value: int, broken: bool) -> None:
    env = BalanceEnv()
    env.reset(seed=0)
    for step_value in (9, 9, 9):
        env.step(step_value)
    _, _, terminated, truncated, _ = env.step(value)
    assert (terminated, truncated) == (broken, False)


def test_breaking_the_limit_earns_nothing_even_when_the_demand_is_near() -> None:
    rewards = set()
    for seed in range(30):
        env = BalanceEnv(limit=24)
        env.reset(seed=seed)
        for value in (8, 8, 8):
            env.step(value)
        _, reward, terminated, _, _ = env.step(1)
        assert terminated
        rewards.add(reward)
    assert rewards == {0.0}


def test_hundred_steps_within_the_limit_are_truncated(env: gym.Env[np.int64, np.int64]) -> None:
    returned = play(env, [4] * 200, seed=0)
    assert len(returned) == 101
    assert returned[-1][2:4] == (False, True)


@pytest.mark.parametrize("action", [-1, 13, 2.0, None])
def test_an_action_outside_the_space_is_refused(action: Any) -> None:
    env = BalanceEnv()
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="0 to 12"):
        env.step(action)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [({"limit": 23}, "limit"), ({"tolerance": 0}, "tolerance"), ({"render_mode": "tv"}, "tv")],
)
def test_an_argument_out_of_range_is_named(kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BalanceEnv(**kwargs)


# The best possible return.


def test_one_step_from_an_empty_history_can_only_meet_the_lowest_demands() -> None:
    # Balance 0: totals reach 12, so demands 12, 13, 14, 15 earn 1, 3/4, 1/2, 1/4.
    assert optimal_return(horizon=1) == pytest.approx(2.5 / 13)


def test_optimal_return_is_attained_and_not_exceeded_by_the_optimal_policy(
    env: gym.Env[np.int64, np.int64], solution: Solution
) -> None:
    returns = np.array([optimal_episode(env, solution, seed=seed) for seed in range(300)])
    standard_error = returns.std(ddof=1) / np.sqrt(len(returns))
    assert abs(returns.mean() - solution.expected_return) < 5 * standard_error
    assert standard_error < 0.5


@pytest.mark.parametrize("limit", quick_and_long([24, 30], quick=[24]))
@pytest.mark.parametrize("horizon", [1, 10, 100])
def test_no_rule_without_memory_beats_the_optimum(horizon: int, limit: int) -> None:
    rng = np.random.default_rng(0)
    rules = [BEST_MEMORYLESS_VALUES, *rng.integers(0, 13, (20, 13)).tolist()]
    best = max(memoryless_return(rule, horizon=horizon, limit=limit) for rule in rules)
    assert best <= optimal_return(horizon=horizon, limit=limit) + 1e-9


def test_memory_nearly_doubles_the_best_return(solution: Solution) -> None:
    assert solution.expected_return == pytest.approx(78.44, abs=0.01)
    assert memoryless_return() == pytest.approx(40.36, abs=0.01)


@pytest.mark.parametrize("nudge", [-1, 1])
@pytest.mark.parametrize("observation", range(13))
def test_nudging_one_value_does_not_improve_the_best_memoryless_rule(
    observation: int, nudge: int
) -> None:
    nudged = list(BEST_MEMORYLESS_VALUES)
    nudged[observation] += nudge
    assert memoryless_return(nudged) <= memoryless_return() + 1e-9


@pytest.mark.parametrize("chosen", [list(BEST_MEMORYLESS_VALUES), [7, 8] * 6 + [7]])
def test_memoryless_return_is_what_episodes_earn_on_average(
    env: gym.Env[np.int64, np.int64], chosen: list[int]
) -> None:
    returns = np.array([memoryless_episode(env, chosen, seed=seed) for seed in range(300)])
    standard_error = returns.std(ddof=1) / np.sqrt(len(returns))
    assert abs(returns.mean() - memoryless_return(chosen)) < 5 * standard_error


# Rendering.


def test_rgb_array_is_a_400_by_240_image_that_changes_with_the_game() -> None:
    env = BalanceEnv(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(6)
    after = env.render()
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    assert before.shape == after.shape == (240, 400, 3)
    assert before.dtype == after.dtype == np.uint8
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("limit", [24, 30, 48])
def test_every_step_of_an_episode_can_be_drawn(limit: int) -> None:
    env = BalanceEnv(render_mode="rgb_array", limit=limit)
    env.reset(seed=0)
    for value in [12, 12, 12, 12, *range(13)] * 5:
        env.step(value)
        assert env.render().shape == (240, 400, 3)  # type: ignore[union-attr]


def test_ansi_spells_out_the_transaction() -> None:
    env = BalanceEnv(render_mode="ansi")
    env.reset(seed=0)
    for value in (4, 5, 6, 7):
        observation, *_ = env.step(value)
    text = env.render()
    assert isinstance(text, str)
    assert "balance 15 + value 7 = 22" in text
    assert f"balance 5 + 6 + 7 = 18, demand {12 + observation}" in text


def test_ansi_says_that_the_limit_was_broken() -> None:
    env = BalanceEnv(render_mode="ansi")
    env.reset(seed=0)
    for value in (12, 12, 12):
        env.step(value)
    text = env.render()
    assert isinstance(text, str)
    assert "over the limit" in text


def test_drawing_does_not_change_the_trajectory() -> None:
    plain, drawn = gym.make(ENV_ID), gym.make(ENV_ID, render_mode="rgb_array")
    plain.reset(seed=9)
    drawn.reset(seed=9)
    for _ in range(20):
        drawn.render()
        assert plain.step(4) == drawn.step(4)


def test_rendering_without_a_mode_warns_and_returns_none(
    env: gym.Env[np.int64, np.int64],
) -> None:
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.unwrapped.render() is None
