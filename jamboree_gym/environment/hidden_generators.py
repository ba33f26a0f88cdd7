"""Stores and restores random generators beside `np_random`: of Atari's emulator, and keys of JAX.

Of the emulator's state only the generators and the number of frames are stored, as numbers: a reset
erases everything else, and the emulator reads its bytes unchecked, so tampered ones would corrupt
memory. Of JAX, the numbers of each key that is an attribute of the environment are stored. Neither
`ale_py` nor `jax` is imported here: a program that has such an environment has imported them.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

__all__ = [
    "HIDDEN",
    "emulator_of",
    "hidden_state_of",
    "new_jax_keys",
    "restore_hidden",
    "state_as_bytes",
]

AnyEnv: TypeAlias = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]

_EMULATOR, _JAX_KEYS = "emulator", "jax_keys"
HIDDEN: Final = (_EMULATOR, _JAX_KEYS)
"""Names of what the state of a generator holds beside that of `np_random`."""

_WORDS = 624  # of a Mersenne Twister
# The format of C++: the words, and from some compilers the number of words already used.
_GENERATOR = re.compile(rb"\d+(?: \d+){%d,%d}" % (_WORDS - 1, _WORDS))
_LENGTH = struct.Struct("<I")  # precedes every text
_FRAME_AT, _CONSOLE_AT = 8, 24  # offsets of the frame number, and of the length after the head

# A key of `jax.random.PRNGKey` is an array of uint32 like any other: only its name says what it is.
_NAME_OF_KEY = re.compile(r"(.*_)?(rng|key)")
_SHAPES_OF_KEYS = ((2,), (4,))


def hidden_state_of(env: AnyEnv) -> dict[str, Any]:
    """State of generators beside `np_random`; empty if there are none. Ask before a reset."""
    emulator, keys = _emulator_state_of(env), _jax_keys_of(env)
    state: dict[str, Any] = {} if emulator is None else {_EMULATOR: emulator}
    if keys:
        state[_JAX_KEYS] = {name: _numbers_of(key) for name, key in keys.items()}
    return state


def restore_hidden(env: AnyEnv, state: Mapping[str, Any]) -> None:
    """Set what `hidden_state_of` returned; other parts of the state are ignored.

    Raises:
        ValueError: It is damaged, or of another kind of environment.
    """
    if _EMULATOR in state:
        _restore_emulator(env, state[_EMULATOR])
    if _JAX_KEYS in state:
        _restore_jax_keys(env, state[_JAX_KEYS])


# -- keys of JAX ------------------------------------------------------------------------------


def new_jax_keys(env: AnyEnv, sequence: np.random.SeedSequence) -> dict[str, Any]:
    """The state of other keys than those that the environment has; empty if it has none."""
    keys = {}
    for name, key in _jax_keys_of(env).items():
        numbers = _numbers_of(key)
        drawn = sequence.spawn(1)[0].generate_state(numbers.size, np.uint32)
        keys[name] = drawn.reshape(numbers.shape)
    return {_JAX_KEYS: keys} if keys else {}


def _jax_keys_of(env: AnyEnv) -> dict[str, Any]:
    """The attributes of an environment that are keys."""
    jax: Any = sys.modules.get("jax")
    if not hasattr(jax, "Array"):
        return {}
    attributes = getattr(env.unwrapped, "__dict__", {})
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, jax.Array)
        and (_is_typed(value) or (_NAME_OF_KEY.fullmatch(name) and _is_plain_key(value)))
    }


def _is_typed(array: Any) -> bool:
    """Whether it is a key of `jax.random.key`."""
    dtypes = sys.modules["jax"].dtypes
    return bool(dtypes.issubdtype(array.dtype, dtypes.prng_key))


def _is_plain_key(array: Any) -> bool:
    return array.dtype == np.uint32 and array.shape in _SHAPES_OF_KEYS


def _numbers_of(key: Any) -> npt.NDArray[Any]:
    return np.array(sys.modules["jax"].random.key_data(key) if _is_typed(key) else key)


def _restore_jax_keys(env: AnyEnv, stored: Any) -> None:
    keys = _jax_keys_of(env)
    if not isinstance(stored, dict) or stored.keys() != keys.keys():
        known = sorted(keys) if keys else "none"
        raise ValueError(f"the keys of JAX are {sorted(stored)}, and this environment has {known}")
    jax: Any = sys.modules.get("jax")
    for name, key in keys.items():
        numbers, own = stored[name], _numbers_of(key)
        if not isinstance(numbers, np.ndarray) or numbers.dtype != np.uint32:
            raise ValueError(f"the key {name!r} of JAX is damaged: it is no array of uint32")
        if numbers.shape != own.shape:
            raise ValueError(f"the key {name!r} is of shape {numbers.shape}, here of {own.shape}")
        made = jax.numpy.asarray(numbers)
        if _is_typed(key):
            made = jax.random.wrap_key_data(made, impl=jax.random.key_impl(key))
        setattr(env.unwrapped, name, made)


# -- the emulator of Atari --------------------------------------------------------------------


def _emulator_state_of(env: AnyEnv) -> dict[str, Any] | None:
    """State on which an unseeded reset of the emulator depends; None without an emulator.

    It has `generators`, a uint32 array with a row for each generator, and `frame`.
    """
    emulator = emulator_of(env)
    if emulator is None:
        return None
    found = [text[0].split() for text in _GENERATOR.finditer(state_as_bytes(emulator))]
    return {"generators": np.array(found, np.uint32), "frame": int(emulator.getFrameNumber())}


def _restore_emulator(env: AnyEnv, state: Mapping[str, Any]) -> None:
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


def emulator_of(env: AnyEnv) -> Any:
    """The `ALEInterface` of an environment; None if it has none."""
    ale_py = sys.modules.get("ale_py")
    if ale_py is None:
        return None
    emulator = getattr(env.unwrapped, "ale", None)
    return emulator if isinstance(emulator, ale_py.ALEInterface) else None
