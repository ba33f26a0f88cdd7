"""Stores and restores random generators beside the usual `np_random`.

These are: a `numpy.random.RandomState` in its place (dm_control by shimmy), `np_random` of other
environments that an environment holds as attributes (gymnasium-robotics' Franka kitchen), keys of
JAX, and the generators of Atari's emulator.

Of the emulator's state only the generators and the number of frames are stored, as numbers: a reset
erases everything else, and the emulator reads its bytes unchecked, so tampered ones would corrupt
memory. Of JAX, the numbers of each key that is an attribute of the environment are stored. Neither
`ale_py` nor `jax` is imported here: a program that has such an environment has imported them.
"""

from __future__ import annotations

import gc
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from jamboree_gym.compiled import compiled_core

__all__ = [
    "DAMAGED_STATE",
    "HIDDEN",
    "bit_generator_state",
    "emulator_of",
    "hidden_state_of",
    "legacy_generator_of",
    "new_hidden_state",
    "restore_hidden",
    "state_as_bytes",
]

AnyEnv: TypeAlias = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]

_EMULATOR, _JAX_KEYS, _LEGACY, _HELD = "emulator", "jax_keys", "random_state", "held"
HIDDEN: Final = (_EMULATOR, _JAX_KEYS, _LEGACY, _HELD)
"""Names of what the state of a generator holds beside that of `np_random`."""
DAMAGED_STATE: Final = (IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What a generator raises that is set to something else than a state of its kind."""

_MANY_ATTRIBUTES = 1000  # larger dicts are not searched at each reset
_WORDS = 624  # of a Mersenne Twister
_PHILOX_WORDS = 4  # of its buffer
# The format of C++: the words, and from some compilers the number of words already used.
_GENERATOR = re.compile(rb"\d+(?: \d+){%d,%d}" % (_WORDS - 1, _WORDS))
_LENGTH = struct.Struct("<I")  # precedes every text
_FRAME_AT, _CONSOLE_AT = 8, 24  # offsets of the frame number, and of the length after the head

# A key of `jax.random.PRNGKey` is an array of uint32 like any other: only its name says what it is.
_NAME_OF_KEY = re.compile(r"(.*_)?(rng|key)")
_SHAPES_OF_KEYS = ((2,), (4,))
_core = compiled_core()
_USUAL = (gym.Env.np_random, VectorEnv.np_random)  # which make a generator where there is none


def hidden_state_of(env: AnyEnv) -> dict[str, Any]:
    """State of generators beside `np_random`; empty if there are none. Ask before a reset."""
    base = env.unwrapped
    emulator, legacy = _emulator_state_of(env), legacy_generator_of(base)
    state: dict[str, Any] = {} if emulator is None else {_EMULATOR: emulator}
    if legacy is not None:
        state[_LEGACY] = legacy.get_state(legacy=False)
    if held := _held_generators_of(base):
        state[_HELD] = {name: one.bit_generator.state for name, one in held.items()}
    if keys := _jax_keys_of(base):
        state[_JAX_KEYS] = {name: _numbers_of(key) for name, key in keys.items()}
    return state


def restore_hidden(env: AnyEnv, state: Mapping[str, Any]) -> None:
    """Set what `hidden_state_of` returned; other parts of the state are ignored.

    Raises:
        DAMAGED_STATE: It is damaged, or of another kind of environment.
    """
    if _EMULATOR in state:
        _restore_emulator(env, state[_EMULATOR])
    if _LEGACY in state:
        _restore_legacy(env, state[_LEGACY])
    if _HELD in state:
        _restore_held(env, state[_HELD])
    if _JAX_KEYS in state:
        _restore_jax_keys(env, state[_JAX_KEYS])


def new_hidden_state(env: AnyEnv, sequence: np.random.SeedSequence) -> dict[str, Any]:
    """The state of other generators than those that the environment has, but of an emulator."""
    state: dict[str, Any] = {}
    if legacy_generator_of(env) is not None:
        drawn = np.random.RandomState(np.random.MT19937(sequence.spawn(1)[0]))
        state[_LEGACY] = drawn.get_state(legacy=False)
    if held := _held_generators_of(env.unwrapped):
        state[_HELD] = {
            name: type(one.bit_generator)(sequence.spawn(1)[0]).state for name, one in held.items()
        }
    if keys := _jax_keys_of(env.unwrapped):
        state[_JAX_KEYS] = {name: _drawn_numbers(key, sequence) for name, key in keys.items()}
    return state


# -- generators of NumPy ----------------------------------------------------------------------


def bit_generator_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stored state that a generator of NumPy may be set to.

    NumPy takes any place in a buffer, and reads memory there.

    Raises:
        DAMAGED_STATE: It is damaged.
    """
    own = {name: state[name] for name in state if name not in HIDDEN}
    places = {"MT19937": _WORDS, "Philox": _PHILOX_WORDS}
    if own["bit_generator"] in places:
        is_twister = own["bit_generator"] == "MT19937"
        place = own["state"]["pos"] if is_twister else own["buffer_pos"]
        if not 0 <= int(place) <= places[own["bit_generator"]]:
            raise ValueError(f"it reads at {place}, which is outside its numbers")
    return own


def legacy_generator_of(env: AnyEnv) -> np.random.RandomState | None:
    """The `RandomState` that an environment has in the place of `np_random`; None without one."""
    base = env.unwrapped
    if getattr(type(base), "np_random", None) in _USUAL:
        return None
    generator = getattr(base, "np_random", None)
    return generator if isinstance(generator, np.random.RandomState) else None


def _restore_legacy(env: AnyEnv, stored: Any) -> None:
    generator = legacy_generator_of(env)
    if generator is None:
        raise ValueError("it was recorded with a RandomState, and this environment has none")
    generator.set_state(bit_generator_state(stored))


def _held_generators_of(base: AnyEnv) -> dict[str, np.random.Generator]:
    """The generators of the environments that are attributes of an environment, by their names."""
    if not _may_hold(base, gym.Env):
        return {}
    own, found = getattr(base, "_np_random", None), dict[str, np.random.Generator]()
    for name, value in getattr(base, "__dict__", {}).items():
        if isinstance(value, gym.Env) and value.unwrapped is not base:
            generator = getattr(value.unwrapped, "np_random", None)
            if isinstance(generator, np.random.Generator) and generator is not own:
                found[name] = generator
    return found


def _may_hold(env: AnyEnv, kind: type[Any]) -> bool:
    """Whether an attribute of an environment may be of this class.

    Not from its `__dict__`: once that was asked for, CPython 3.11 and 3.12 take several times as
    long to find an attribute, so each step of the environment takes longer.
    """
    if _core is not None and type(kind) is type:
        return bool(_core.may_refer_to(env, kind, _MANY_ATTRIBUTES))
    for one in gc.get_referents(env):
        if issubclass(type(one), kind):
            return True
        if type(one) is dict:  # its `__dict__`, if it was asked for; or an attribute
            is_large = len(one) > _MANY_ATTRIBUTES
            if is_large or any(issubclass(type(value), kind) for value in one.values()):
                return True
    return False


def _restore_held(env: AnyEnv, stored: Mapping[str, Any]) -> None:
    """What this environment does not hold is left out: its reset may make it."""
    for name, generator in _held_generators_of(env.unwrapped).items():
        if name in stored:
            generator.bit_generator.state = bit_generator_state(stored[name])


# -- keys of JAX ------------------------------------------------------------------------------


def _drawn_numbers(key: Any, sequence: np.random.SeedSequence) -> npt.NDArray[np.uint32]:
    numbers = _numbers_of(key)
    drawn = sequence.spawn(1)[0].generate_state(numbers.size, np.uint32)
    return drawn.reshape(numbers.shape).astype(np.uint32)


def _jax_keys_of(base: AnyEnv) -> dict[str, Any]:
    """The attributes of an environment that are keys."""
    jax: Any = sys.modules.get("jax")
    if not hasattr(jax, "Array") or not _may_hold(base, jax.Array):
        return {}
    attributes = getattr(base, "__dict__", {})
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
    keys = _jax_keys_of(env.unwrapped)
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
