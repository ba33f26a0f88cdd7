"""The emulator of an Atari environment: its randomness lives there, not in `np_random`.

`ale_py` is never imported: an environment that needs it has done so.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym

__all__ = ["emulator_state_of", "restore_emulator"]


def emulator_state_of(env: gym.Env[Any, Any]) -> bytes | None:
    """All of its state, its random generator included; None where there is no emulator."""
    emulator = _emulator_of(env)
    return None if emulator is None else bytes(emulator.cloneState(include_rng=True).serialize())


def restore_emulator(env: gym.Env[Any, Any], state: bytes) -> None:
    """Put an emulator into a state that `emulator_state_of` gave.

    Raises:
        ValueError: The environment has no emulator.
        RuntimeError: The state is damaged.
    """
    emulator = _emulator_of(env)
    if emulator is None:
        raise ValueError("the episode was recorded in an emulator, and this environment has none")
    emulator.restoreState(sys.modules["ale_py"].ALEState(state))


def _emulator_of(env: gym.Env[Any, Any]) -> Any:
    ale_py = sys.modules.get("ale_py")
    if ale_py is None:
        return None
    emulator = getattr(env.unwrapped, "ale", None)
    return emulator if isinstance(emulator, ale_py.ALEInterface) else None
