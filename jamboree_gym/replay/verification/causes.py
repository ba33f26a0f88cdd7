"""Why an environment plays differently: experiments that take one cause away at a time."""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import gymnasium as gym
import numpy as np

__all__ = ["CAUSES", "Experiment", "experiments", "kept_generators", "standing_clock"]

Prepare = Callable[[gym.Env[Any, Any]], None]
Experiment = tuple[str, Prepare | None, bool]
"""Name of the cause, what is done to the environment before a play, whether time stands still."""

CAUSES: Final = {
    "NumPy's global generator": "draw from self.np_random, not from np.random",
    "Python's random": "draw from self.np_random, not from random",
    "torch's global generator": "seed a torch.Generator from self.np_random in reset",
    "a space that is sampled": "in reset: space.seed(int(self.np_random.integers(2**31)))",
    "the clock": "count steps: a step stands for a fixed time",
    "the order of a set": "go through sorted(...), a list or a dict",
    "an environment variable": "make it an argument of gymnasium.make",
    "what a reset forgets": "make everything new in reset, and clear what an episode has left",
    "something that is new in each process": "look for addresses, process ids and files",
    "an order that changes": "wait for threads in a fixed order, and add up in one; on a GPU use "
    "deterministic algorithms",
}
"""The mend of each cause."""


def experiments() -> Iterator[Experiment]:
    """What may be the cause in one process, the most usual first."""
    yield "NumPy's global generator", lambda env: np.random.seed(0), False
    yield "Python's random", lambda env: random.seed(0), False
    if "torch" in sys.modules:
        yield "torch's global generator", lambda env: _seed_torch(), False
    yield "a space that is sampled", _seed_spaces, False
    yield "the clock", None, True


def _seed_torch() -> None:
    sys.modules["torch"].manual_seed(0)


def _seed_spaces(env: gym.Env[Any, Any]) -> None:
    layer: Any = env
    while layer is not None:
        for value in vars(layer).values():
            if isinstance(value, gym.Space):
                value.seed(0)
        layer = getattr(layer, "env", None)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Give the global generators of NumPy, Python and torch back as they were."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with _kept_torch():
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def _kept_torch() -> AbstractContextManager[None]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return nullcontext()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    kept: AbstractContextManager[None] = torch.random.fork_rng(devices)
    return kept


@contextmanager
def standing_clock() -> Iterator[None]:
    """Let the clocks of Python count the calls of this thread, the same in each play.

    Other threads have the usual clocks.
    """
    names = ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns")
    kept = {name: getattr(time, name) for name in names}
    calls, thread = itertools.count(1), threading.get_ident()

    def counting(usual: Callable[[], float], *, whole: bool) -> Callable[[], float]:
        def clock() -> float:
            is_ours = threading.get_ident() == thread
            return _at(next(calls), whole=whole) if is_ours else usual()

        return clock

    try:
        for name, usual in kept.items():
            setattr(time, name, counting(usual, whole=name.endswith("_ns")))
        yield
    finally:
        for name, clock in kept.items():
            setattr(time, name, clock)


def _at(call: int, *, whole: bool) -> float:
    return call * 1_000_000 if whole else call / 1000
