"""`BalanceHandler`: the balance out of what was recorded."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import pytest

import jamboree_envs  # noqa: F401 - registers Balance
from jamboree_envs.handlers import BalanceHandler
from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeNotFound, UnknownKey

OpenJamboree = Callable[..., Jamboree]
VALUES = (4, 3, 5, 0, 12, 2)


def test_balance_is_the_environments_own_after_every_step(jam: Jamboree) -> None:
    env = jam.record(gym.make("jamboree/Balance-v0"), handler_class=BalanceHandler)
    _, info = env.reset(seed=0)
    balances = [(env.handler.balance, info["balance"])]
    for value in VALUES:
        *_, info = env.step(value)
        balances.append((env.handler.balance, info["balance"]))

    assert [balance for balance, _ in balances] == [0, 4, 7, 12, 8, 17, 14]
    assert all(balance == told for balance, told in balances)


def test_another_process_reads_the_same_balance_from_the_store(
    open_jamboree: OpenJamboree,
) -> None:
    writing, reading = open_jamboree(), open_jamboree()
    env = writing.record(gym.make("jamboree/Balance-v0"))
    handler = BalanceHandler(reading)
    env.reset(seed=0)
    handler["episode"] = env.episode_id
    balances = []
    for value in VALUES:
        env.step(value)
        writing.flush()
        balances.append(handler.balance)

    assert balances == [4, 7, 12, 8, 17, 14]


def test_a_new_episode_begins_with_an_empty_balance(jam: Jamboree) -> None:
    env = jam.record(gym.make("jamboree/Balance-v0"), handler_class=BalanceHandler)
    env.reset(seed=0)
    env.step(9)
    env.reset(seed=1)

    assert env.handler.balance == 0


@pytest.mark.vaex
def test_transactions_are_inherited(jam: Jamboree) -> None:
    env = jam.record(gym.make("jamboree/Balance-v0"), handler_class=BalanceHandler)
    env.reset(seed=0)
    for value in VALUES:
        env.step(value)

    assert env.handler.transactions["action"].tolist() == list(VALUES[::-1])


def test_without_an_episode_the_error_says_what_is_missing(jam: Jamboree) -> None:
    handler = BalanceHandler(jam)
    with pytest.raises(UnknownKey, match="episode"):
        _ = handler.balance
    handler["episode"] = "none"
    with pytest.raises(EpisodeNotFound, match="none"):
        _ = handler.balance
