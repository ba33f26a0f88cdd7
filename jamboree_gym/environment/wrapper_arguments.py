"""The arguments with which the wrappers of an environment were made, as far as they are known."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from functools import cache
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from jamboree_gym.environment.arguments import NotSent
from jamboree_gym.environment.constructor_calls import call_of

__all__ = ["arguments_of", "made_by_hand", "stack_of", "with_arguments"]

NOT_KNOWN = NotSent("<not known>")
_NOT_IN_SPEC = (OrderEnforcing, PassiveEnvChecker, TimeLimit)
_OF_ALL_WRAPPERS = ("builtins", "typing", "gymnasium.core", RecordConstructorArgs.__module__)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_NEVER_CHANGE = (type(None), bool, int, float, str, bytes)


def stack_of(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Wrappers, outermost first, and the environment."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def made_by_hand(env: gym.Env[Any, Any]) -> list[gym.Env[Any, Any]]:
    """As `stack_of`, without wrappers that the constructor of another one has made.

    SB3's `AtariWrapper` makes six: who calls it again, gets them again.
    """
    stack = list(stack_of(env))
    found: list[gym.Env[Any, Any]] = []
    at = 0
    while at < len(stack):
        found.append(stack[at])
        given = _env_given_to(stack[at])
        inside = [below for below in range(at + 1, len(stack)) if stack[below] is given]
        at = inside[0] if inside else at + 1
    return found


def arguments_of(wrapper: gym.Env[Any, Any]) -> dict[str, Any]:
    """The arguments of a wrapper, by name and without the environment.

    What is not known has the value `NOT_KNOWN`. They come from what the wrapper of Gymnasium itself
    keeps; from the call of the constructor; or from attributes that the constructor sets to them
    and nobody changes.
    """
    saved, names = _saved(wrapper), _parameters(type(wrapper))
    is_of_gymnasium = type(wrapper).__module__.startswith("gymnasium.")
    # In Gymnasium 1.1 some keep too few (StickyAction), or what they do not take.
    if saved is not None and is_of_gymnasium and saved.keys() == set(names):
        return saved
    called = _called_with(wrapper)
    if called is not None:
        return called
    if saved is not None and saved.keys() == set(names):
        return saved
    cls: type = type(wrapper)
    kept_as = _kept_as(cls)
    values = {name: vars(wrapper).get(kept_as.get(name, ""), NOT_KNOWN) for name in names}
    return {name: value if _is_constant(value) else NOT_KNOWN for name, value in values.items()}


def with_arguments(spec: EnvSpec, env: gym.Env[Any, Any]) -> EnvSpec:
    """The spec of an environment, whose wrappers have their arguments.

    It stays as it is if its wrappers are not those of the environment.
    """
    stack = [one for one in stack_of(env) if _is_in_spec(one)]
    wrappers = spec.additional_wrappers
    named = [one.entry_point for one in wrappers]
    if named != [_entry_point(one) for one in reversed(stack)]:
        return spec
    by_hand = {id(one) for one in made_by_hand(env)}
    spec = copy(spec)
    spec.additional_wrappers = tuple(
        WrapperSpec(one.name, one.entry_point, arguments_of(wrapper))
        for one, wrapper in zip(wrappers, reversed(stack), strict=True)
        if id(wrapper) in by_hand
    )
    return spec


def _is_in_spec(env: gym.Env[Any, Any]) -> bool:
    return isinstance(env, gym.Wrapper) and not isinstance(env, _NOT_IN_SPEC)


def _entry_point(wrapper: gym.Env[Any, Any]) -> str:
    return f"{type(wrapper).__module__}:{type(wrapper).__name__}"


def _saved(wrapper: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Arguments of a wrapper, if it keeps them for its spec."""
    if not isinstance(wrapper, RecordConstructorArgs) or not hasattr(wrapper, "_saved_kwargs"):
        return None
    return {name: value for name, value in wrapper._saved_kwargs.items() if name != "env"}


# -- the call of the constructor --------------------------------------------------------------


class _Bound(NamedTuple):
    """Arguments of a constructor by name; `env` is what stands first."""

    env: Any
    others: dict[str, Any]


def _env_given_to(wrapper: gym.Env[Any, Any]) -> Any:
    bound = _bound(wrapper)
    return None if bound is None else bound.env


def _called_with(wrapper: gym.Env[Any, Any]) -> dict[str, Any] | None:
    bound = _bound(wrapper)
    if bound is None or not isinstance(bound.env, gym.Env):
        return None
    return bound.others


def _bound(wrapper: gym.Env[Any, Any]) -> _Bound | None:
    """None if nobody noted the call, or it cannot be repeated with arguments by name."""
    call = call_of(wrapper)
    if call is None:
        return None
    try:
        signature = inspect.signature(type(wrapper).__init__)
        given = signature.bind(wrapper, *call.args, **call.kwargs).arguments
    except (TypeError, ValueError):
        return None
    parameters = signature.parameters
    env, *others = list(given)[1:]
    named: dict[str, Any] = {}
    for name in others:
        kind = parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            return None
        named |= given[name] if kind is inspect.Parameter.VAR_KEYWORD else {name: given[name]}
    is_plain = parameters[env].kind not in _VARIABLE
    return _Bound(given[env], named) if is_plain else None


def _parameters(cls: type) -> list[str]:
    """Names of what a constructor takes besides the environment."""
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return ["?"]
    return [name for name, one in list(parameters.items())[1:] if one.kind not in _VARIABLE]


# -- attributes that a constructor sets to its arguments --------------------------------------


def _is_constant(value: Any) -> bool:
    if value.__class__ is tuple:
        return all(map(_is_constant, value))
    return value.__class__ in _NEVER_CHANGE or isinstance(value, np.generic)


@cache
def _kept_as(cls: type) -> Mapping[str, str]:
    """Attributes by the name of the argument that they are: `self.size = size`, set only once."""
    own = [one for one in cls.__mro__ if one.__module__ not in _OF_ALL_WRAPPERS]
    try:
        trees = [(one, ast.parse(textwrap.dedent(inspect.getsource(one)))) for one in own]
    except (OSError, SyntaxError, TypeError):
        return {}
    maker = next((one for one in own if "__init__" in vars(one)), None)
    makers = [tree for one, tree in trees if one is maker]
    constructor = next((one for tree in makers for one in _constructors(tree)), None)
    nodes = [node for _, tree in trees for node in ast.walk(tree)]
    if constructor is None or "setattr" in _names(nodes, stored=False):
        return {}
    stored = [node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_stored(node)]
    rebound = _names(ast.walk(constructor), stored=True)
    return {
        argument: attribute
        for attribute, argument in _assigned(constructor)
        if stored.count(attribute) == 1 and argument not in rebound and not hasattr(cls, attribute)
    }


def _constructors(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for cls in tree.body:
        if isinstance(cls, ast.ClassDef):
            yield from (
                one
                for one in cls.body
                if isinstance(one, ast.FunctionDef) and one.name == "__init__"
            )


def _assigned(constructor: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """Each `self.attribute = argument` that every call executes."""
    for line in constructor.body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        targets = [line.target] if isinstance(line, ast.AnnAssign) else targets
        value = line.value if isinstance(line, (ast.Assign, ast.AnnAssign)) else None
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(value, ast.Name):
                yield target.attr, value.id


def _names(nodes: Iterable[ast.AST], *, stored: bool) -> set[str]:
    names = (node for node in nodes if isinstance(node, ast.Name))
    return {node.id for node in names if _is_stored(node) or not stored}


def _is_stored(node: ast.Attribute | ast.Name) -> bool:
    return isinstance(node.ctx, (ast.Store, ast.Del))
