"""Fetches the specs of environments in worker processes, even if an argument cannot be pickled.

A worker answers by pickle, and a worker that fails to pickle ends. So the worker is told first how
to send a spec: each argument separately, and as a description if it cannot be pickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from multiprocessing.reduction import ForkingPickler
from typing import Any

from gymnasium.envs.registration import EnvSpec, WrapperSpec

from jamboree_gym.environment.arguments import SPEC_FIELDS, NotSent, shown
from jamboree_gym.environment.constructor_calls import noted_wrappers
from jamboree_gym.environment.wrapper_arguments import with_arguments

__all__ = ["fetch_specs", "spec_of_parent"]

_HARMLESS = "__doc__"  # every environment has it
_OF_MAKE_VEC = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers")


class _Preparation:
    """Once a worker has unpickled this, it sends the next spec part by part."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return _prepare, ()


def fetch_specs(
    call: Callable[[str, Any], Any], get_attr: Callable[[str], Sequence[Any]]
) -> list[EnvSpec | None]:
    """The spec of each environment; None where there is none.

    `call` calls a method of all environments with one argument, `get_attr` gives an attribute.
    """
    call("get_wrapper_attr", _Preparation())
    return list(get_attr("spec"))


def spec_of_parent(spec: EnvSpec | None) -> EnvSpec | None:
    """The spec of a sub-environment, as far as the process that made the vector env knows it."""
    if spec is None:
        return None
    known = copy(spec)
    known.kwargs = {name: spec.kwargs[name] for name in spec.kwargs if name not in _OF_MAKE_VEC}
    return known


def _prepare() -> str:
    ForkingPickler.register(EnvSpec, _reduced)
    return _HARMLESS


def _reduced(spec: EnvSpec) -> tuple[Callable[..., EnvSpec], tuple[Any, ...]]:
    ForkingPickler._extra_reducers.pop(EnvSpec, None)  # type: ignore[attr-defined]
    owners = (one for one in noted_wrappers() if getattr(one, "_cached_spec", None) is spec)
    owner = next(owners, None)
    if owner is not None:
        spec = with_arguments(spec, owner)
    fields = {name: getattr(spec, name) for name in SPEC_FIELDS}
    if not isinstance(spec.entry_point, str):
        fields["entry_point"] = shown(spec.entry_point)
    wrappers = [
        (one.name, one.entry_point, None if one.kwargs is None else _packed(one.kwargs))
        for one in spec.additional_wrappers
    ]
    return _restored, (fields, _packed(spec.kwargs), wrappers)


def _restored(
    fields: dict[str, Any], kwargs: Any, wrappers: Sequence[tuple[str, str, Any]]
) -> EnvSpec:
    spec = EnvSpec(**fields, kwargs=_unpacked(kwargs))
    spec.additional_wrappers = tuple(
        WrapperSpec(name, entry_point, None if arguments is None else _unpacked(arguments))
        for name, entry_point, arguments in wrappers
    )
    return spec


def _packed(arguments: Mapping[str, Any]) -> dict[str, tuple[bytes | None, str]]:
    """Each argument pickled, if possible, and as a description."""
    packed: dict[str, tuple[bytes | None, str]] = {}
    for name, value in arguments.items():
        try:
            content = pickle.dumps(value)
            pickle.loads(content)
        except Exception:  # noqa: BLE001 - code of an unknown class may raise anything
            content = None
        packed[name] = content, "" if content is not None else shown(value)
    return packed


def _unpacked(packed: Mapping[str, tuple[bytes | None, str]]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, (content, words) in packed.items():
        try:
            arguments[name] = NotSent(words) if content is None else pickle.loads(content)
        except Exception:  # noqa: BLE001 - it may be of a class that only the worker knows
            arguments[name] = NotSent("of a class that is not known here")
    return arguments
