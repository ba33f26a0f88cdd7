"""The emulator of an Atari environment has random generators of its own: kept and restored here.

Of an emulator's state only these are kept, as numbers, and how many frames it has shown: a reset
leaves nothing else. All of the state would be bytes that the emulator reads without checking them;
tampered with, they corrupt memory.

`ale_py` is never imported: an environment that needs it has done so.
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

__all__ = ["emulator_state_of", "restore_emulator", "state_as_bytes"]

_WORDS = 624  # of a Mersenne Twister
# As C++ writes one: its words; by some compilers, how many of them are used up.
_GENERATOR = re.compile(rb"\d+(?: \d+){%d,%d}" % (_WORDS - 1, _WORDS))
_LENGTH = struct.Struct("<I")  # stands before every text
_FRAME_AT, _CONSOLE_AT = 8, 24  # where the frame number and the length of all but the head stand


def emulator_state_of(env: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """What an unseeded reset of the emulator depends on; None where there is no emulator.

    Returns:
        `generators`, a uint32 array with a row for each, and `frame`.
    """
    emulator = _emulator_of(env)
    if emulator is None:
        return None
    found = [text[0].split() for text in _GENERATOR.finditer(state_as_bytes(emulator))]
    return {"generators": np.array(found, np.uint32), "frame": int(emulator.getFrameNumber())}


def restore_emulator(env: gym.Env[Any, Any], state: Mapping[str, Any]) -> None:
    """Give an emulator, otherwise as it is, the generators and the frame number of another one.

    Raises:
        ValueError: The environment has no emulator, or the state is none.
    """
    emulator = _emulator_of(env)
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
    """Generators that can be given to an emulator with some of this shape."""
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


def _emulator_of(env: gym.Env[Any, Any]) -> Any:
    ale_py = sys.modules.get("ale_py")
    if ale_py is None:
        return None
    emulator = getattr(env.unwrapped, "ale", None)
    return emulator if isinstance(emulator, ale_py.ALEInterface) else None
