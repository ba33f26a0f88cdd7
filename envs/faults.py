"""The fault gallery: small environments, each with one fault that makes replays differ.

``import jamboree_envs.faults`` registers them under ``jamboree-faults/``. Each is a walk on a line;
from step ``strikes_at`` on, each does one thing that an environment must not do. With
``fault=False`` it does the same as it should be done. `docs/replayable.md` tells of each.
"""

import os
import random
import threading
import time
from typing import Any, ClassVar, Final

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = [
    "FAULTS",
    "CarriedOver",
    "EnvironmentVariable",
    "GlobalRandom",
    "HashOrder",
    "ReductionOrder",
    "SampledSpace",
    "ThreadOrder",
    "WallClock",
    "register_faults",
]

HORIZON: Final = 20
STRIKES_AT: Final = 5
WIND_VARIABLE: Final = "JAMBOREE_FAULTS_WIND"

Observation = NDArray[np.float32]


class Walk(gym.Env[Observation, np.int64]):
    """A walk on a line: an action of 0, 1 or 2 moves by -1, 0 or 1, and something moves it besides.

    It observes the number of steps and the position; the reward is the distance from 0, negative.

    Args:
        fault: Whether it has its fault.
        strikes_at: The first step at which the fault can be seen, from 0.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, *, fault: bool = True, strikes_at: int = STRIKES_AT) -> None:
        self.fault = fault
        self.strikes_at = strikes_at
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.position = 0.0
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin near 0."""
        super().reset(seed=seed)
        self.position = self.np_random.normal()
        self.steps = 0
        return self._seen(), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move by the action and by what else there is."""
        self.position += int(action) - 1 + self._push()
        reward = self._reward()
        self.steps += 1
        return self._seen(), reward, False, False, {}

    @property
    def _is_struck(self) -> bool:
        return self.fault and self.steps >= self.strikes_at

    def _push(self) -> float:
        return float(self.np_random.normal())

    def _reward(self) -> float:
        return -abs(self.position)

    def _seen(self) -> Observation:
        return np.array([self.steps, self.position], np.float32)


class GlobalRandom(Walk):
    """Draws from NumPy's global generator, which `reset(seed=...)` does not seed.

    The same with Python's `random`, `torch.rand`, or a separate `default_rng()`.
    """

    def _push(self) -> float:
        source = np.random if self._is_struck else self.np_random
        return float(source.normal())


class SampledSpace(Walk):
    """Samples from a space, which has a separate generator that `reset` does not seed."""

    def __init__(self, *, fault: bool = True, strikes_at: int = STRIKES_AT) -> None:
        super().__init__(fault=fault, strikes_at=strikes_at)
        self._pushes = spaces.Box(-1.0, 1.0, (1,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin near 0."""
        result = super().reset(seed=seed, options=options)
        if not self.fault:
            self._pushes.seed(int(self.np_random.integers(2**31)))
        return result

    def _push(self) -> float:
        if self.fault and not self._is_struck:
            return 0.0
        return float(self._pushes.sample()[0])


class WallClock(Walk):
    """Moves by what the clock says, as a simulator does that runs in real time."""

    def _push(self) -> float:
        return time.time() % 60.0 if self._is_struck else self.steps / 30


class EnvironmentVariable(Walk):
    """Reads a setting that nobody records: an environment variable. A file is no better."""

    def __init__(
        self, *, fault: bool = True, strikes_at: int = STRIKES_AT, wind: float = 0.0
    ) -> None:
        super().__init__(fault=fault, strikes_at=strikes_at)
        self._wind = wind

    def _push(self) -> float:
        wind = float(os.environ.get(WIND_VARIABLE, "0")) if self._is_struck else self._wind
        return super()._push() + wind


class CarriedOver(Walk):
    """Forgets to reset something: the wind that has grown continues in the next episode."""

    def __init__(self, *, fault: bool = True, strikes_at: int = STRIKES_AT) -> None:
        super().__init__(fault=fault, strikes_at=strikes_at)
        self._wind = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin near 0."""
        if not self.fault:
            self._wind = 0.0
        return super().reset(seed=seed, options=options)

    def _push(self) -> float:
        self._wind += 0.1
        return self._wind if self._is_struck or not self.fault else 0.0


class HashOrder(Walk):
    """Goes through a set of texts, whose order differs from process to process.

    Python salts the hashes of texts (`PYTHONHASHSEED`). Objects whose class defines no `__hash__`
    are hashed by their address, which differs as well.
    """

    winds: ClassVar = {"breeze", "gale", "gust", "hurricane", "squall", "storm", "zephyr"}

    def _push(self) -> float:
        push = 0.0
        for wind in self.winds if self._is_struck else sorted(self.winds):
            push = push / 2 + len(wind)
        return push


class ThreadOrder(Walk):
    """Adds up, in float32, what its threads bring, in the order in which they bring it."""

    workers: ClassVar = 8

    def _reward(self) -> float:
        brought: list[NDArray[np.float32]] = []

        def work(parts: NDArray[np.float32]) -> None:
            for part in parts:
                time.sleep(1e-5)  # waits for something: a disk, a lock, another machine
                brought.append(part)

        shares = self.np_random.normal(size=(self.workers, 4, 64)).astype(np.float32)
        threads = [threading.Thread(target=work, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
            if not self._is_struck:
                thread.join()
        for thread in threads:
            thread.join()
        total = np.zeros(64, np.float32)
        for part in brought:
            total += part
        return float(total.sum(dtype=np.float64))


class ReductionOrder(Walk):
    """Adds up in float32 in another order each time, as a GPU does.

    There, many blocks add to one number at once (`atomicAdd`), and which comes first is up to the
    hardware. Here, an order drawn by the operating system stands for it.
    """

    def _push(self) -> float:
        numbers = self.np_random.normal(scale=100.0, size=1000).astype(np.float32)
        order = list(range(len(numbers)))
        if self._is_struck:
            random.SystemRandom().shuffle(order)
        return float(np.add.accumulate(numbers[order])[-1])


FAULTS: Final[dict[str, type[Walk]]] = {
    f"jamboree-faults/{kind.__name__}-v0": kind
    for kind in (
        GlobalRandom,
        SampledSpace,
        WallClock,
        EnvironmentVariable,
        CarriedOver,
        HashOrder,
        ThreadOrder,
        ReductionOrder,
    )
}
"""The gallery: environment by Gymnasium id."""


def register_faults() -> None:
    """Register the gallery; a second call changes nothing."""
    for name, kind in FAULTS.items():
        if name not in gym.registry:
            entry_point = f"{kind.__module__}:{kind.__name__}"
            gym.register(name, entry_point=entry_point, max_episode_steps=HORIZON)


register_faults()
