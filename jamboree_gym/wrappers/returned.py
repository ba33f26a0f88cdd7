"""What `reset` and `step` of an environment have returned, taken apart; or in words why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from jamboree_gym.errors import InvalidRecord

__all__ = ["NoResult", "Returned", "checked_info", "of_reset", "of_step"]

Returned: TypeAlias = tuple[Any, Any, Any, Any, Any]

_OLD_API = (
    "this environment has the API of gym before 0.26: wrap it with "
    'gymnasium.make("GymV21Environment-v0", env=...) of the package shimmy'
)
_COST = (
    "if the third is a cost, as in Safety-Gymnasium, wrap it with SafetyGymnasium2Gymnasium of "
    "safety_gymnasium.wrappers, or put the cost into the info"
)


class NoResult(InvalidRecord):
    """What an environment has returned cannot be taken apart: it has moved, whatever that was."""


def of_reset(result: Any, num_envs: int | None = None) -> tuple[Any, Any]:
    """Observation and info.

    Args:
        result: What `reset` has returned.
        num_envs: Of a vector environment, whose infos may be a list with one for each.

    Raises:
        InvalidRecord: It is something else; says what, and carries it in `returned`.
    """
    if result.__class__ is tuple and len(result) == 2 and result[1].__class__ is dict:
        plain: tuple[Any, Any] = result
        return plain
    if isinstance(result, (tuple, list)) and len(result) == 2 and _is_info(result[1], num_envs):
        return result[0], result[1]
    error = NoResult(
        f"reset returned {_kind(result)}, not (observation, info) with a dict for info; {_OLD_API}"
    )
    error.returned = result
    raise error


def of_step(result: Any, num_envs: int | None = None) -> Returned:
    """Observation, reward, terminated, truncated and info, of what is not plainly these.

    Args:
        result: What `step` has returned.
        num_envs: As in `of_reset`.

    Raises:
        InvalidRecord: It is something else; says what, and carries it in `returned`.
    """
    if result.__class__ is tuple and len(result) == 5 and result[4].__class__ is dict:
        plain: Returned = result
        return plain
    count = len(result) if isinstance(result, (tuple, list)) else None
    if count == 5 and _is_info(result[4], num_envs):
        observation, reward, terminated, truncated, info = result
        return observation, reward, terminated, truncated, info
    advice = f"; {_OLD_API}" if count == 4 else f"; {_COST}" if count == 6 else ""
    what = f"{_kind(result[4])} for info" if count == 5 else _kind(result)
    error = NoResult(
        f"step returned {what}, not (observation, reward, terminated, truncated, info) "
        f"with a dict for info{advice}"
    )
    error.returned = result
    raise error


def checked_info(info: Any) -> Mapping[str, Any]:
    """The info of one environment.

    Raises:
        InvalidRecord: It is none.
    """
    if not _is_info(info):
        raise InvalidRecord(f"the info is {_kind(info)}, not a dict")
    return info or {}


def _is_info(value: Any, num_envs: int | None = None) -> bool:
    """Whether it is a mapping, or nothing; for several environments, as many values."""
    if num_envs is not None and isinstance(value, (list, tuple)):
        return len(value) == num_envs
    return value is None or isinstance(value, Mapping) or hasattr(value, "keys")


def _kind(value: Any) -> str:
    """What it is, in few words."""
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        kinds = ", ".join(type(one).__name__ for one in value[:6])
        more = ", ..." if len(value) > 6 else ""
        return f"a {type(value).__name__} of {len(value)} ({kinds}{more})"
    return f"one value of type {type(value).__name__}"
