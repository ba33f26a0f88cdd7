"""Stores and restores the random generators inside the emulator of an Atari environment.

Of the emulator's state only the generators and the number of frames are stored, as numbers: a reset
erases everything else, and the emulator reads its bytes unchecked, so tampered ones would corrupt
memory. This module never imports `ale_py`: who has such an environment has imported it.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

__all__ = ["emulator_of", "emulator_state_of", "restore_emulator", "state_as_bytes"]

_WORDS = 624  # of a Mersenne Twister
# The format of C++: the words, and from some compilers the number of words already used.
_GENERATOR = re.compile(rb"\d+(?: \d+){%d,%d}" % (_WORDS - 1, _WORDS))
_LENGTH = struct.Struct("<I")  # precedes every text
_FRAME_AT, _CONSOLE_AT = 8, 24  # offsets of the frame number, and of the length after the head


def emulator_state_of(env: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """State on which an unseeded reset of the emulator depends; None without an emulator.

    It has `generators`, a uint32 array with a row for each generator, and `frame`.
    """
    emulator = emulator_of(env)
    if emulator is None:
        return None
    found = [text[0].split() for text in _GENERATOR.finditer(state_as_bytes(emulator))]
    return {"generators": np.array(found, np.uint32), "frame": int(emulator.getFrameNumber())}


def restore_emulator(env: gym.Env[Any, Any], state: Mapping[str, Any]) -> None:
    """Set the generators and the frame number of an emulator; the rest of it stays as it is.

    Raises:
        ValueError: The environment has no emulator, or the state is not one of an emulator.
    """
    emulator = emulator_of(env)
    if emulator is None:
        raise ValueError("the episode was recorded in an emulator, and this environment has none")
    content = state_as_bytes(emulator)
    texts = list(_GENERATOR.finditer(content))
    (length,) = _LENGTH.unpack_from(content, _CONSOLE_AT)
    if _LENGTH.unpack_from(content, _FRAME_AT) != (emulator.getFrameNumber(),) or not texts:
        raise ValueError("the state of this version of the emulator is not known")
    generators = _checked(state, (len(texts), len(texts[0][0].split())))
    spliced = bytearray(_spliced(content, texts, generators))
    _LENGTH.pack_into(spliced, _CONSOLE_AT, length + len(spliced) - len(content))
    _LENGTH.pack_into(spliced, _FRAME_AT, int(state["frame"]) % 2**31)
    emulator.restoreState(sys.modules["ale_py"].ALEState(bytes(spliced)))


def _checked(state: Mapping[str, Any], shape: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Check generators against the shape of the emulator's own."""
    generators = state["generators"]
    if not isinstance(generators, np.ndarray) or generators.dtype != np.uint32:
        raise ValueError("the generators are damaged: they are no array of uint32")
    if generators.shape != shape:
        raise ValueError(f"the generators are of shape {generators.shape}, those here of {shape}")
    if (generators[:, _WORDS:] > _WORDS).any():
        raise ValueError(f"the generators are damaged: more than {_WORDS} words are used up")
    return generators


def _spliced(
    content: bytes, texts: Sequence[re.Match[bytes]], generators: npt.NDArray[np.uint32]
) -> bytes:
    """The content with other generators, each behind its length."""
    parts, end = [], 0
    for text, numbers in zip(texts, generators, strict=True):
        written = " ".join(map(str, numbers.tolist())).encode()
        parts += [content[end : text.start() - _LENGTH.size], _LENGTH.pack(len(written)), written]
        end = text.end()
    return b"".join([*parts, content[end:]])


def state_as_bytes(emulator: Any) -> bytes:
    """All that an `ALEInterface` stands at, its generators included."""
    state = emulator.cloneState(include_rng=True)
    try:
        return bytes(state.serialize())
    except UnicodeDecodeError:  # ale-py before 0.12 takes it for a text
        return bytes(state.__getstate__()[0])


def emulator_of(env: gym.Env[Any, Any]) -> Any:
    """The `ALEInterface` of an environment; None if it has none."""
    ale_py = sys.modules.get("ale_py")
    if ale_py is None:
        return None
    emulator = getattr(env.unwrapped, "ale", None)
    return emulator if isinstance(emulator, ale_py.ALEInterface) else None
