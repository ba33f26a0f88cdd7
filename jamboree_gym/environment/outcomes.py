"""What a step returned beside observation and info: a reward and two flags, of whatever type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import as_array, has_column
from jamboree_gym.arrays.packing import held_exactly
from jamboree_gym.arrays.tensors import detached
from jamboree_gym.arrays.values import shown
from jamboree_gym.errors import InvalidRecord, JamboreeError

__all__ = [
    "NUMBERS",
    "flag_of",
    "flags_of",
    "other_reward",
    "raise_refused",
    "refusal",
    "reward_of",
    "weighted_sum",
]

_ADVICE = "a reward is one number, or an array, tuple or list of them that has one shape"
NUMBERS: frozenset[Any] = frozenset(
    {int, bool, np.float64, np.float32, np.int64}
)  # rewards that `float` takes
_DOUBLE = np.dtype(np.float64)


def reward_of(reward: Any) -> Any:
    """A reward as it is kept: a float, or an array of several numbers; it may share its memory.

    Numbers in a tuple or list are kept as floats, as one number is.

    Raises:
        InvalidRecord: It is neither; says what to do.
    """
    if reward.__class__ in NUMBERS:
        try:
            return float(reward)
        except OverflowError as error:
            raise refusal("reward", error) from error
    is_bytes = isinstance(reward, (bytearray, memoryview))  # an array of it would hold its memory
    array = None if is_bytes else as_array(reward)
    if array is None or array.size < 2 or not has_column(array.dtype):
        return _number_of(reward)
    if isinstance(reward, (tuple, list)) and array.dtype.kind in "biu":
        held = held_exactly(array, _DOUBLE)
        return array if held is None else held
    return array


def weighted_sum(weights: Sequence[float], numbers: Sequence[float]) -> float:
    """The sum of numbers with a weight for each; one of weight 0 is left out, even if it is NaN.

    Raises:
        ValueError: There are more of one than of the other.
    """
    pairs = zip(weights, numbers, strict=True)
    return float(sum([weight * number for weight, number in pairs if weight], 0.0))


def other_reward(
    reward: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None
) -> InvalidRecord:
    """Why a reward does not fit to those before it in its episode.

    Args:
        reward: The reward.
        shape: Of those before it; `()` = each is one number.
        dtype: Of those before it, if that is what does not fit.
    """
    known = "one number" if shape == () else f"an array of shape {shape}"
    known = known if dtype is None else f"{dtype} {shape}, which no dtype holds together with this"
    return InvalidRecord(
        f"the reward {shown(reward)} is of another form than those before it in this episode, each "
        f"{known}; have the environment return rewards of one shape and dtype"
    )


def _number_of(reward: Any) -> float:
    """A reward of another type than float: an array or tensor with one element, a fraction, ...

    Raises:
        InvalidRecord: It is not one number; says what to do.
    """
    try:
        if isinstance(reward, (bytearray, memoryview)):  # an array of it would hold its memory
            raise TypeError("it is bytes")
        number = np.asarray(detached(reward))
        if number.size != 1:
            raise InvalidRecord(f"the reward {shown(reward)} is not a number: {_ADVICE}")
        item = number.item()
        if isinstance(item, (str, bytes)):
            raise TypeError("it is a text")
        return float(item)
    except InvalidRecord:
        raise
    except Exception as error:  # whatever a conversion of another library raises
        what = f"the reward {shown(reward)} is not a number"
        raise InvalidRecord(f"{what}: {_said(error)}") from error


def flag_of(name: str, value: Any) -> bool:
    """What `bool` makes of a flag; an `InvalidRecord` if that is nothing, as of an array of two."""
    try:
        return bool(value)
    except Exception as error:  # as above
        what = f"the flag {name}={shown(value)} is neither true nor false"
        raise InvalidRecord(f"{what}: {_said(error)}") from error


def flags_of(
    name: str, values: Any, size: int
) -> tuple[npt.NDArray[np.bool_], dict[int, InvalidRecord]]:
    """The flags of a batch (size,).

    Returns:
        The flags, False where there is none, and why there is none, by index.

    Raises:
        InvalidRecord: The number of values is another one.
    """
    if values.__class__ is np.ndarray and values.dtype.kind == "b" and values.shape == (size,):
        return values, {}
    array = as_array(values)
    if array is not None:
        values = array
    if not isinstance(values, Sequence) and not getattr(values, "shape", ()):
        raise InvalidRecord(f"{name}={shown(values)} has no flag for each sub-environment")
    if len(values) != size:
        raise InvalidRecord(f"{name} has {len(values)} flags for {size} sub-environments")
    flags, refused = np.zeros(size, np.bool_), dict[int, InvalidRecord]()
    for index in range(size):
        try:
            flags[index] = flag_of(name, values[index])
        except InvalidRecord as error:
            refused[index] = error
    return flags, refused


def refusal(part: str, error: Exception) -> InvalidRecord:
    """What stopped the recording of a part of a step, as an error of ours."""
    why = error if isinstance(error, InvalidRecord) else _said(error)
    told = InvalidRecord(f"the {part} cannot be recorded: {why}")
    told.__cause__ = error
    return told


def raise_refused(call: str, error: Exception, returned: Any) -> NoReturn:
    """Raise what stopped the recording of a call that has moved the environment.

    Raises:
        JamboreeError: The error, or, where it is none of ours, an `InvalidRecord` that has it as
            its cause; with what the call would have returned.
    """
    told = error if isinstance(error, JamboreeError) else refusal(call, error)
    told.returned = returned
    raise told from told.__cause__


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {shown(error, str)}"
