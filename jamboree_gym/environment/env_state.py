"""Encodes the state of an environment as bytes and restores it; a snapshot consists of them.

The state covers the environment, each wrapper that remembers something, and the random generator.
An environment or wrapper may offer its own state (`snapshot` and `restore`); that of wrappers of
Gymnasium, of ALE, and of Gymnasium's own environments of MuJoCo is known here. Each state is
decoded by the code that made it. Nothing is pickled, and no package is imported.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.environment.hidden_generators import (
    DAMAGED_STATE,
    HIDDEN,
    bit_generator_state,
    emulator_of,
    restore_hidden,
    state_as_bytes,
)
from jamboree_gym.environment.provenance import class_name, generator_of
from jamboree_gym.environment.wrapper_state import carriers_of, put_carried, take_carried
from jamboree_gym.errors import DecodeError, InvalidRecord, ReplayError

__all__ = [
    "Snapshotable",
    "prime",
    "put_rng_state",
    "put_state",
    "reads_unchecked",
    "state_gap",
    "take_state",
]

PRIMING_STEPS: Final = 10

# Wrappers of Gymnasium that remember something from step to step, and their attributes. Wrappers
# that only observe (statistics, videos) have none here: a replay leaves them out.
_REMEMBERED: Final = {
    "AtariPreprocessing": ("obs_buffer", "lives", "game_over"),
    "FrameStackObservation": ("obs_queue",),
    "OrderEnforcing": ("_has_reset",),
    "StickyAction": ("last_action", "is_sticky_actions", "num_repeats", "repeats_taken"),
    "TimeAwareObservation": ("timesteps",),
    "TimeLimit": ("_elapsed_steps",),
}
_FORGETFUL: Final = (
    *("ClipAction", "ClipReward", "DiscretizeAction", "DiscretizeObservation", "DtypeObservation"),
    *("FilterObservation", "FlattenObservation", "GrayscaleObservation", "HumanRendering"),
    *("PassiveEnvChecker", "RecordEpisodeStatistics", "RecordVideo", "RenderCollection"),
    *("RepeatAction", "RescaleAction", "RescaleObservation", "ReshapeObservation"),
    *("ResizeObservation",),
)

# What MuJoCo derives from its state in a step, and environments read before the next step. It is
# one integration older than the state, so a new computation would give other values.
_MUJOCO_DERIVED: Final = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat"),
    *("site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir"),
    *("subtree_com", "cinert", "cvel", "cacc", "cfrc_int", "cfrc_ext", "qacc", "sensordata"),
    *("actuator_force", "qfrc_actuator", "qfrc_constraint"),
)


@runtime_checkable
class Snapshotable(Protocol):
    """An environment or wrapper that offers its state, so that a fork needs no replay."""

    def snapshot(self) -> bytes:
        """Everything that decides the next steps, except `np_random`, which is kept separately."""
        ...

    def restore(self, snapshot: bytes) -> None:
        """Return to the state of a `snapshot`, in this object or in another one like it."""
        ...


@dataclass(frozen=True, slots=True)
class _Layer:
    """An environment or wrapper that remembers something: how its state is taken and put back.

    `name` is its class, with the version of the code that reads its state. If it `is_checked`,
    `put` refuses a state that `take` cannot have returned.
    """

    name: str
    take: Callable[[], Any]
    put: Callable[[Any], None]
    is_checked: bool = True


def state_gap(env: gym.Env[Any, Any]) -> str | None:
    """Why the environment cannot have snapshots; None if it can."""
    try:
        list(_layers(env))
    except ReplayError as error:
        return str(error)
    return None


def reads_unchecked(env: gym.Env[Any, Any]) -> bool:
    """Whether a tampered state may corrupt memory, as with ALE's emulator."""
    return not all(layer.is_checked for layer in _layers(env))


def prime(env: gym.Env[Any, Any], last_action: Any) -> None:
    """Teach an environment its last action before `put_state`, if its state lacks that.

    ALE's emulator remembers which action may stick, and does not show it. The environment comes
    from a reset and may take steps here; None = there was no action since the reset.
    """
    if _ale(env.unwrapped) is None:
        return
    if last_action is None:
        env.reset()
    else:
        for _ in range(PRIMING_STEPS):  # until one has surely not been replaced by an older one
            env.step(last_action)


def take_state(env: gym.Env[Any, Any]) -> bytes:
    """The state of an environment, its wrappers and its random generator.

    Raises:
        ReplayError: A layer does not offer its state; names it.
        InvalidRecord: What `snapshot` returned is not bytes.
    """
    layers = [[layer.name, layer.take()] for layer in _layers(env)]
    generator = generator_of(env)
    return encode_value([layers, None if generator is None else generator.bit_generator.state])


def put_state(env: gym.Env[Any, Any], state: bytes) -> None:
    """Bring an environment after a reset into the state of another one like it.

    Raises:
        ReplayError: The state is damaged, or comes from an environment that is made differently, or
            from another version. The environment may have moved.
    """
    try:
        kept, generator_state = decode_value(state, where="snapshot")
        layers = list(_layers(env))
        names = [name for name, _ in kept]
        if names != [layer.name for layer in layers]:
            raise ReplayError(f"it is of {names}, and this is {[one.name for one in layers]}")
        for layer, (_, content) in zip(layers, kept, strict=True):
            layer.put(content)
        if generator_state is not None:
            put_rng_state(env, generator_state)
    except DecodeError as error:
        raise ReplayError(f"the snapshot cannot be restored: {error}") from error
    except Exception as error:
        raise ReplayError(f"the snapshot cannot be restored: {error!r}") from error


def put_rng_state(env: gym.Env[Any, Any], state: Any) -> None:
    """Set the state of an environment's generator; everything that shares the generator sees it.

    Raises:
        ReplayError: The environment has no generator, or one of another kind.
    """
    generator = generator_of(env)
    try:
        if not set(HIDDEN).issuperset(state):
            own = bit_generator_state(state)
            if generator is None:
                raise ValueError("it has none")
            generator.bit_generator.state = own
        restore_hidden(env, state)
    except DAMAGED_STATE as error:
        raise ReplayError(f"the generator cannot take the stored state: {error}") from error


def _layers(env: gym.Env[Any, Any]) -> Iterator[_Layer]:
    """The layers that remember something, outermost first; a `ReplayError` names an unknown one."""
    while isinstance(env, gym.Wrapper):
        layer = _layer_of_wrapper(env)
        if layer is not None:
            yield layer
        env = env.env
    yield _layer_of_env(env)


def _layer_of_wrapper(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> _Layer | None:
    if isinstance(wrapper, Snapshotable):
        return _layer_of_snapshotable(wrapper)
    name = type(wrapper).__name__
    if getattr(gym.wrappers, name, None) is type(wrapper):
        if name in _FORGETFUL:
            return None
        attributes = _REMEMBERED.get(name, ())
        if attributes and all(hasattr(wrapper, attribute) for attribute in attributes):
            return _Layer(
                f"{class_name(type(wrapper))}, gymnasium {gym.__version__}",
                lambda: [_plain(getattr(wrapper, attribute)) for attribute in attributes],
                lambda values: _set(wrapper, attributes, values),
            )
        carriers = [one for one in carriers_of(wrapper) if one.wrapper is wrapper]
        if carriers:
            return _Layer(
                f"{class_name(type(wrapper))}, gymnasium {gym.__version__}",
                lambda: take_carried(carriers),
                lambda carried: put_carried(carriers, carried),
            )
    raise ReplayError(_without_snapshots(wrapper))


def _layer_of_env(env: gym.Env[Any, Any]) -> _Layer:
    if isinstance(env, Snapshotable):
        return _layer_of_snapshotable(env)
    for adapter in (_ale, _mujoco):
        layer = adapter(env)
        if layer is not None:
            return layer
    raise ReplayError(_without_snapshots(env))


def _without_snapshots(env: gym.Env[Any, Any]) -> str:
    name = class_name(type(env))
    return f"{name} offers no snapshots: it has no methods snapshot() and restore(...)"


# -- environments and wrappers that offer their own state -------------------------------------


def _layer_of_snapshotable(env: Any) -> _Layer:
    def take() -> bytes:
        content = env.snapshot()
        if not isinstance(content, bytes):
            raise InvalidRecord(
                f"{class_name(type(env))}.snapshot() returned a {type(content).__name__}, not bytes"
            )
        return content

    return _Layer(class_name(type(env)), take, env.restore)


# -- wrappers of Gymnasium --------------------------------------------------------------------


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, deque) else value


def _set(wrapper: Any, attributes: Sequence[str], values: Sequence[Any]) -> None:
    for attribute, value in zip(attributes, values, strict=True):
        before = getattr(wrapper, attribute)
        if isinstance(before, deque):
            value = deque(value, before.maxlen)
        elif isinstance(value, list):  # buffers that the wrapper writes to
            value = [np.array(one) for one in value]
        setattr(wrapper, attribute, value)


# -- ALE --------------------------------------------------------------------------------------


def _ale(env: Any) -> _Layer | None:
    """The emulator with its own generator; `np_random` draws only the number of no-op frames."""
    emulator = emulator_of(env)
    if emulator is None or not type(env).__module__.startswith("ale_py."):
        return None  # a user's subclass may remember more
    ale_py = sys.modules["ale_py"]
    return _Layer(
        f"{class_name(type(env))}, ale-py {ale_py.__version__}",
        lambda: state_as_bytes(emulator),
        lambda content: emulator.restoreState(ale_py.ALEState(content)),
        is_checked=False,
    )


# -- MuJoCo -----------------------------------------------------------------------------------


def _mujoco(env: Any) -> _Layer | None:
    """Everything on which the integration depends, and the values derived from it."""
    mujoco = sys.modules.get("mujoco")
    model, data = getattr(env, "model", None), getattr(env, "data", None)
    if mujoco is None or not isinstance(data, mujoco.MjData):
        return None
    if not type(env).__module__.startswith("gymnasium.envs.mujoco."):
        return None  # a user's subclass may remember more
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    derived = [name for name in _MUJOCO_DERIVED if hasattr(data, name)]

    def take() -> Any:
        state = np.empty(mujoco.mj_stateSize(model, kind), np.float64)
        mujoco.mj_getState(model, data, state, kind)
        return [state, {name: getattr(data, name) for name in derived}]

    def put(content: Any) -> None:
        state, arrays = content
        mujoco.mj_setState(model, data, state, kind)
        for name in derived:
            target = getattr(data, name)
            if arrays[name].shape != target.shape:
                raise ValueError(f"{name} has the shape {arrays[name].shape}")
            target[...] = arrays[name]

    return _Layer(f"{class_name(type(env))}, mujoco {mujoco.__version__}", take, put)
