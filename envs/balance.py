"""Balance: meet a demand out of a balance that the observation does not show.

The balance is the sum of the last three transaction values. An agent that sees its own last three
transactions knows it; an agent that sees only the observation has to guess.

The rules are a finite Markov decision process over those three values, so `solve` gives the best
possible return exactly, and `memoryless_return` what a rule that sees only the demand is worth.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction
from numpy.typing import NDArray

__all__ = [
    "BEST_MEMORYLESS_VALUES",
    "BalanceEnv",
    "Solution",
    "memoryless_return",
    "optimal_return",
    "solve",
]

VALUES: Final = 13
"""A transaction has a value from 0 to 12."""
WINDOW: Final = 3
"""How many transactions the balance sums."""
DEMANDS: Final = 13
"""How many demands there are; each is as likely as the others."""
LOWEST_DEMAND: Final = 12
HIGHEST_DEMAND: Final = LOWEST_DEMAND + DEMANDS - 1
HORIZON: Final = 100
"""Steps in an episode, as registered."""
LIMIT: Final = 30
TOLERANCE: Final = 4

BEST_MEMORYLESS_VALUES: Final = (4, 3, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 6)
"""The value for each observation in the best rule without memory that a coordinate search found.

For the registered horizon, limit and tolerance. Drawing the values at random instead (gradient
ascent over all such rules) gains less than 0.1.
"""


class Transaction(NamedTuple):
    """One past step, as rendering shows it."""

    balance: int
    value: int
    demand: int


class BalanceEnv(gym.Env[np.int64, np.int64]):
    """Choose each transaction so that balance plus value meets the demand.

    The balance is the sum of the last three transaction values. Hitting the demand earns 1, missing
    it by k earns ``max(0, 1 - k / tolerance)``, and a total above ``limit`` earns nothing and ends
    the episode.

    Args:
        render_mode: None, ``"ansi"`` (text) or ``"rgb_array"`` (a chart).
        limit: The highest total that is allowed; at least the highest demand.
        tolerance: The smallest miss that earns nothing; 1 rewards exact hits only.

    Raises:
        ValueError: If an argument is out of its range.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it as an instance attribute
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        render_mode: str | None = None,
        *,
        limit: int = LIMIT,
        tolerance: int = TOLERANCE,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode is {render_mode!r}; it can be None, 'ansi' or 'rgb_array'"
            )
        _check_rules(limit=limit, tolerance=tolerance)
        self.render_mode = render_mode
        self.limit = limit
        self.tolerance = tolerance
        self.observation_space = spaces.Discrete(DEMANDS)
        self.action_space = spaces.Discrete(VALUES)
        self._begin()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Start with an empty history and a fresh demand.

        Args:
            seed: Seeds the demands.
            options: Not used.

        Returns:
            The observation, and ``{"balance": 0}``.
        """
        super().reset(seed=seed)
        self._begin()
        return self._draw_demand(), {"balance": 0}

    def step(self, action: np.int64 | int) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Make one transaction.

        Args:
            action: The transaction's value, 0 to 12.

        Returns:
            The next observation, reward, terminated, truncated (always False: the time limit is a
            wrapper), and ``{"balance": int}``, the balance that the next transaction adds to.

        Raises:
            InvalidAction: If the action is not in the action space.
        """
        if not self.action_space.contains(action):
            raise InvalidAction(f"action is {action!r}; it has to be an integer from 0 to 12")
        value = int(action)
        total = self._balance + value
        broken = total > self.limit
        miss = abs(total - self._demand)
        reward = 0.0 if broken else max(0.0, 1.0 - miss / self.tolerance)

        self._shown.append(Transaction(self._balance, value, self._demand))
        self._recent.append(value)
        self._steps += 1
        self._return += reward
        return self._draw_demand(), reward, broken, False, {"balance": self._balance}

    def render(self) -> str | NDArray[np.uint8] | None:
        """Draw the last transactions and the demand that is waiting.

        Returns:
            Text for ``"ansi"``, an array of shape (240, 400, 3) and dtype uint8 for
            ``"rgb_array"``, None without a render mode.
        """
        if self.render_mode == "ansi":
            return self._text()
        if self.render_mode == "rgb_array":
            return self._chart()
        if self.spec is not None:
            gym.logger.warn(
                "render() needs a render mode, for example "
                f'gymnasium.make("{self.spec.id}", render_mode="rgb_array")'
            )
        return None

    @property
    def _balance(self) -> int:
        return sum(self._recent)

    def _begin(self) -> None:
        self._recent = deque([0] * WINDOW, maxlen=WINDOW)
        self._shown: deque[Transaction] = deque(maxlen=SLOTS - 1)
        self._demand = LOWEST_DEMAND
        self._steps = 0
        self._return = 0.0

    def _draw_demand(self) -> np.int64:
        above_lowest = np.int64(self.np_random.integers(DEMANDS))
        self._demand = LOWEST_DEMAND + int(above_lowest)
        return above_lowest

    def _text(self) -> str:
        lines = [f"step {self._steps}  return {self._return:.2f}"]
        if self._shown:
            last = self._shown[-1]
            total = last.balance + last.value
            verdict = "over the limit" if total > self.limit else f"demand was {last.demand}"
            lines.append(f"balance {last.balance} + value {last.value} = {total}, {verdict}")
        recent = " + ".join(str(value) for value in self._recent)
        lines.append(f"balance {recent} = {self._balance}, demand {self._demand}")
        return "\n".join(lines) + "\n"

    def _chart(self) -> NDArray[np.uint8]:
        image = np.full((HEIGHT, WIDTH, 3), WHITE, dtype=np.uint8)
        for level in (0, LOWEST_DEMAND, HIGHEST_DEMAND):
            if self.limit - level > 3:  # else its label would cover the limit's
                _draw_level(image, level, LIGHT_GREY, GREY)
        _draw_level(image, self.limit, RED, RED)
        for slot, past in enumerate(self._shown):
            _draw_bar(image, slot, 0, past.balance, BLUE)
            broken = past.balance + past.value > self.limit
            _draw_bar(image, slot, past.balance, past.value, RED if broken else GREEN)
            _draw_mark(image, slot, past.demand)
        waiting = len(self._shown)
        _draw_bar(image, waiting, 0, self._balance, BLUE)
        _draw_mark(image, waiting, self._demand)

        right = WIDTH // 2
        _write(image, 8, 6, f"balance {self._balance}", BLUE, scale=2)
        _write(image, 8, 26, f"demand  {self._demand}", BLACK, scale=2)
        value = str(self._shown[-1].value) if self._shown else ""
        _write(image, right, 6, f"value  {value}", GREEN, scale=2)
        _write(image, right, 26, f"return {self._return:.2f}", GREY, scale=2)
        return image


# The best possible return.


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The exact optimum of `BalanceEnv` for every history and number of steps left.

    Attributes:
        values: Expected return by steps left and by the last three values, oldest first, before
            the demand is known; float64 of shape (horizon + 1, 13, 13, 13).
        rewards: Reward by total and observation, float64 of shape (49, 13).
        limit: The highest total that is allowed.
    """

    values: NDArray[np.float64]
    rewards: NDArray[np.float64]
    limit: int

    @property
    def expected_return(self) -> float:
        """What an episode is worth when every transaction is optimal."""
        return float(self.values[-1, 0, 0, 0])

    def action(self, observation: int, recent: Sequence[int], *, steps_left: int) -> int:
        """Return the best value for the next transaction, the lowest of equals.

        Args:
            observation: The demand above 12.
            recent: The last three transaction values, oldest first, zeros before the first.
            steps_left: Steps until truncation, this one included.
        """
        _, middle, newest = recent
        totals = sum(recent) + np.arange(VALUES)
        future = np.where(totals <= self.limit, self.values[steps_left - 1, middle, newest], 0.0)
        return int(np.argmax(self.rewards[totals, observation] + future))


def solve(*, horizon: int = HORIZON, limit: int = LIMIT, tolerance: int = TOLERANCE) -> Solution:
    """Compute the optimum by going back from the last step.

    Args:
        horizon: Steps until truncation.
        limit: As for `BalanceEnv`.
        tolerance: As for `BalanceEnv`.

    Returns:
        The optimum, exact up to float64 rounding.
    """
    rewards = _rewards(limit=limit, tolerance=tolerance)
    balances = _balances()
    values = np.zeros((horizon + 1, VALUES, VALUES, VALUES))
    for left in range(1, horizon + 1):
        best = np.zeros((VALUES, VALUES, VALUES, DEMANDS))  # a total above the limit is worth 0
        for value in range(VALUES):
            future = np.where(balances + value <= limit, values[left - 1, :, :, value], 0.0)
            np.maximum(best, rewards[balances + value] + future[..., None], out=best)
        values[left] = best.mean(axis=-1)
    return Solution(values, rewards, limit)


def optimal_return(
    *, horizon: int = HORIZON, limit: int = LIMIT, tolerance: int = TOLERANCE
) -> float:
    """Return the highest expected return that any agent can reach; takes the args of `solve`."""
    return solve(horizon=horizon, limit=limit, tolerance=tolerance).expected_return


def memoryless_return(
    chosen: Sequence[int] = BEST_MEMORYLESS_VALUES,
    *,
    horizon: int = HORIZON,
    limit: int = LIMIT,
    tolerance: int = TOLERANCE,
) -> float:
    """Return the exact expected return of a rule that sees only the observation.

    Args:
        chosen: The transaction value for each of the 13 observations.
        horizon: Steps until truncation.
        limit: As for `BalanceEnv`.
        tolerance: As for `BalanceEnv`.
    """
    rewards = _rewards(limit=limit, tolerance=tolerance)
    balances = _balances()
    worth = np.zeros((VALUES, VALUES, VALUES))
    for _ in range(horizon):
        ahead = np.zeros_like(worth)
        for observation, value in enumerate(chosen):
            totals = balances + value
            ahead += rewards[totals, observation]
            ahead += np.where(totals <= limit, worth[:, :, value], 0.0)
        worth = ahead / len(chosen)
    return float(worth[0, 0, 0])


def _check_rules(*, limit: int, tolerance: int) -> None:
    if limit < HIGHEST_DEMAND:
        raise ValueError(f"limit is {limit}; it has to be at least {HIGHEST_DEMAND}")
    if tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; it has to be at least 1")


def _rewards(*, limit: int, tolerance: int) -> NDArray[np.float64]:
    """Return the reward by total and observation."""
    _check_rules(limit=limit, tolerance=tolerance)
    totals = np.arange((WINDOW + 1) * (VALUES - 1) + 1)[:, None]
    misses = np.abs(totals - LOWEST_DEMAND - np.arange(DEMANDS))
    return np.where(totals <= limit, np.maximum(0.0, 1.0 - misses / tolerance), 0.0)


def _balances() -> NDArray[np.int64]:
    """Return the balance for each of the 13 * 13 * 13 histories."""
    values = np.arange(VALUES)
    return values[:, None, None] + values[:, None] + values


# The chart, in numpy alone.

WIDTH: Final = 400
HEIGHT: Final = 240
FLOOR: Final = 231
"""The pixel row of total 0."""
UNIT: Final = 4
"""Pixels for each unit of value."""
TOP: Final = 45
"""The highest total that is drawn; a bar above it is cut off."""
LEFT: Final = 40
SLOT: Final = 8
"""Pixels for each transaction: a bar of six and a gap of two."""
SLOTS: Final = (WIDTH - LEFT) // SLOT

WHITE: Final = (255, 255, 255)
BLACK: Final = (24, 24, 27)
GREY: Final = (113, 113, 122)
LIGHT_GREY: Final = (228, 228, 231)
BLUE: Final = (96, 145, 216)
GREEN: Final = (34, 139, 84)
RED: Final = (200, 40, 40)

GLYPHS: Final = {  # five columns each, the lowest bit on top
    "0": "3e5149453e", "1": "00427f4000", "2": "4261514946", "3": "2141454b31", "4": "1814127f10",
    "5": "2745454539", "6": "3c4a494930", "7": "0171090503", "8": "3649494936", "9": "064949291e",
    "a": "2054545478", "b": "7f48444438", "c": "3844444420", "d": "384444487f", "e": "3854545418",
    "i": "00447d4000", "l": "00417f4000", "m": "7c04180478", "n": "7c08040478", "r": "7c08040408",
    "t": "043f444020", "u": "3c4040207c", "v": "1c2040201c", ".": "0060600000", " ": "0000000000",
}  # fmt: skip


def _row(level: int) -> int:
    return FLOOR - UNIT * min(level, TOP)


def _draw_level(
    image: NDArray[np.uint8], level: int, line: tuple[int, ...], text: tuple[int, ...]
) -> None:
    image[_row(level), LEFT:] = line
    _write(image, 8, _row(level) - 7, f"{level:>2}", text, scale=2)


def _draw_bar(
    image: NDArray[np.uint8], slot: int, start: int, length: int, colour: tuple[int, ...]
) -> None:
    left = LEFT + slot * SLOT + 1
    image[_row(start + length) : _row(start), left : left + SLOT - 2] = colour


def _draw_mark(image: NDArray[np.uint8], slot: int, demand: int) -> None:
    left = LEFT + slot * SLOT
    image[_row(demand) - 1 : _row(demand) + 1, left : left + SLOT] = BLACK


def _write(
    image: NDArray[np.uint8], left: int, top: int, text: str, colour: tuple[int, ...], *, scale: int
) -> None:
    for position, character in enumerate(text):
        columns = np.frombuffer(bytes.fromhex(GLYPHS[character]), dtype=np.uint8)
        dots = np.unpackbits(columns[None, :], axis=0, count=7, bitorder="little")
        ink = np.kron(dots, np.ones((scale, scale), dtype=np.uint8)).astype(bool)
        start = left + position * 6 * scale
        image[top : top + ink.shape[0], start : start + ink.shape[1]][ink] = colour
