"""`checked`: refuses a wrong argument at the call, by its name, and says what is right.

It reads the annotations of a function. No library does this as it is needed here: see
docs/decisions/dependencies.md.
"""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, ParamSpec, TypeVar, cast

from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wording import without_passwords

__all__ = ["Count", "EpochSeconds", "Seconds", "checked", "shown"]

P = ParamSpec("P")
R = TypeVar("R")


class AtLeast(NamedTuple):
    """The lowest number that an argument may be, beside its type."""

    lowest: int


Count = Annotated[int, AtLeast(0)]
"""A number of things: a whole number that is not negative."""

Seconds = Annotated[float, AtLeast(0)]
"""A duration."""


class Called(NamedTuple):
    """What people call such an argument, beside its type."""

    one: str


EpochSeconds = Annotated[float, Called("a time in epoch seconds, as of time.time()")]
"""A point in time."""

_WRONG: Final = object()

Test = Callable[[Any], Any]
"""Returns the value as the function gets it, a plain number for numpy's; or `_WRONG`."""


class _Check(NamedTuple):
    """What an argument may be.

    Attributes:
        test: Whether a value is right.
        one: What to give, for people: "a text".
        many: The same in the plural: "texts".
    """

    test: Test
    one: str
    many: str


class _Signature(NamedTuple):
    """The checks of a function's arguments; None = it takes any value.

    Attributes:
        positional: In the order of the arguments.
        named: By the name of the argument.
        takes_any_name: Whether it has `**kwargs` without types.
        takes_more: Whether it has `*args`.
    """

    positional: list[_Check | None]
    named: dict[str, _Check | None]
    takes_any_name: bool
    takes_more: bool

    @property
    def tests(self) -> list[tuple[int, Test]]:
        """Place and test of each positional argument that has one."""
        return [(at, one.test) for at, one in enumerate(self.positional) if one is not None]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of each call by their annotations, before anything else happens.

    Numpy's numbers are numbers, True is not one; NaN is no number here, and a text is not empty. A
    text is never a list of texts. An annotation `Any`, or one whose name is imported for type
    checkers only, takes every value.

    Raises:
        InvalidArgument: At the call: an argument has a wrong type or no such name.
    """
    plain: Callable[..., Any] = function
    signature: _Signature | None = None
    count, tests = -1, list[tuple[int, Test]]()

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) == count and not kwargs:  # most calls: all by place, and right
            for at, test in tests:
                if test(args[at]) is not args[at]:
                    break
            else:
                return plain(*args)
        return checked_call(args, kwargs)

    def checked_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal signature, count, tests
        if signature is None:  # not earlier: annotations name what stands further down
            signature = _signature_of(function)
            tests, count = signature.tests, len(signature.positional)
        if len(args) > len(signature.positional) and not signature.takes_more:
            raise _unnamed(function, args, signature)
        for at, (check, value) in enumerate(zip(signature.positional, args, strict=False)):
            if check is not None and (accepted := check.test(value)) is not value:
                if accepted is _WRONG:
                    raise _wrong(list(signature.named)[at], value, check)
                args = (*args[:at], accepted, *args[at + 1 :])
        for name, value in kwargs.items():
            check = signature.named.get(name)
            if check is None:
                if name not in signature.named and not signature.takes_any_name:
                    raise _misspelt(function, args, name, signature)
            elif (accepted := check.test(value)) is not value:
                if accepted is _WRONG:
                    raise _wrong(name, value, check)
                kwargs[name] = accepted
        return plain(*args, **kwargs)

    return cast(Callable[P, R], call)


# -- what is said ---------------------------------------------------------------------------------


def _wrong(name: str, value: Any, check: _Check) -> InvalidArgument:
    more = ", not an empty one" if isinstance(value, str) and not value else ""
    verb = "choose" if check.one.startswith("one of") else "give"
    return InvalidArgument(f"{name}={shown(value)}: {verb} {check.one}{more}")


def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    name = function.__name__
    return type(args[0]).__name__ if name == "__init__" else name


def _unnamed(
    function: Callable[..., Any], args: tuple[Any, ...], signature: _Signature
) -> InvalidArgument:
    """The error for more values than the function takes without a name."""
    names, value = list(signature.named), args[len(signature.positional)]
    rest = names[len(signature.positional) :]
    called = _called(function, args)
    if not rest:
        return InvalidArgument(f"{called}() takes no further argument: {shown(value)}")
    more = ", ..." if len(rest) > 1 else ""
    return InvalidArgument(
        f"{called}() takes {shown(value)} by name only: {called}({rest[0]}=...{more})"
    )


def _misspelt(
    function: Callable[..., Any], args: tuple[Any, ...], name: str, signature: _Signature
) -> InvalidArgument:
    called = _called(function, args)
    known = [one for one in signature.named if one != "self"]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
    return InvalidArgument(f"{called}() has no argument {name!r}: {hint}")


class _Shown(Repr):
    """Values as a line of a message: short, no passwords, and no code of foreign classes runs."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(without_passwords(x), level)

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, type):
            return x.__name__
        if x is None or isinstance(x, bool | float | complex):
            return repr(x)
        if isinstance(x, bytes | bytearray):
            return repr(without_passwords(bytes(x[:200]).decode(errors="replace")))[: self.maxother]
        if isinstance(x, os.PathLike):
            return self.repr_str(str(x), level)
        if isinstance(x, Real):
            return str(x)
        return f"<{type(x).__name__}>"


_short = _Shown()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 4


def shown(value: Any) -> str:
    """A value for a message: at most a line, without the passwords of URLs."""
    return _short.repr(value)


# -- what annotations mean ------------------------------------------------------------------------


def _signature_of(function: Callable[..., Any]) -> _Signature:
    plain = inspect.unwrap(function)
    positional: list[_Check | None] = []
    named: dict[str, _Check | None] = {}
    takes_any_name = takes_more = False
    for parameter in inspect.signature(plain).parameters.values():
        annotation = _evaluated(parameter.annotation, plain.__globals__)
        if parameter.kind is parameter.VAR_KEYWORD:
            unpacked = typing.get_args(annotation)
            if typing.get_origin(annotation) is typing.Unpack:
                hints = typing.get_type_hints(unpacked[0], include_extras=True)
                named |= {name: _check_of(hint) for name, hint in hints.items()}
            else:
                takes_any_name = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            takes_more = True
        else:
            named[parameter.name] = check = _check_of(annotation)
            if parameter.kind is not parameter.KEYWORD_ONLY:
                positional.append(check)
    return _Signature(positional, named, takes_any_name, takes_more)


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """The type; `Any` where a name in it is known to type checkers only."""
    if not isinstance(annotation, str):
        return Any if annotation is inspect.Parameter.empty else annotation
    try:
        return eval(annotation, names)  # an annotation in our code
    except NameError:
        return Any


def _check_of(annotation: Any) -> _Check | None:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, UnionType):
        return _any_of(parts)
    if origin is Annotated:
        check, said = _check_of(parts[0]), parts[1]
        if isinstance(said, Called):
            return check and check._replace(one=said.one, many=said.one)
        return _at_least(check, said)
    if origin is Literal:
        return _choice(parts)
    if origin is type:
        return _subclass_of(parts[0])
    kind = origin or annotation
    if not isinstance(kind, type) or kind in (Any, object):  # Any, or a type variable
        return None
    if issubclass(kind, Callable):  # type: ignore[arg-type] # mypy knows no Callable at run time
        return _Check(lambda value: value if callable(value) else _WRONG, "a function", "functions")
    if issubclass(kind, Mapping):
        return _mapping(kind, parts)
    if issubclass(kind, Iterable) and parts and kind.__module__ in ("collections.abc", "builtins"):
        return _several(kind, _check_of(parts[0]))
    return _instance_of(kind)


def _whole_number(value: Any) -> Any:
    if value.__class__ is int:
        return value
    is_one = isinstance(value, Integral) and not isinstance(value, bool)
    return int(value) if is_one else _WRONG


def _number(value: Any) -> Any:
    if value.__class__ is not float and value.__class__ is not int:
        if not isinstance(value, Real) or isinstance(value, bool):
            return _WRONG
        value = float(value)
    return value if value == value else _WRONG


def _flag(value: Any) -> Any:
    if value.__class__ is bool:
        return value
    is_numpys = f"{type(value).__module__}.{type(value).__name__}" in ("numpy.bool", "numpy.bool_")
    return bool(value) if is_numpys else _WRONG


def _text(value: Any) -> Any:
    return value if isinstance(value, str) and value else _WRONG


def _path(value: Any) -> Any:
    return value if isinstance(value, os.PathLike) else _text(value)


def _none(value: Any) -> Any:
    return value if value is None else _WRONG


_PATH = _Check(_path, "a path", "paths")
_PLAIN: Final[dict[Any, _Check]] = {
    int: _Check(_whole_number, "a whole number", "whole numbers"),
    float: _Check(_number, "a number", "numbers"),
    bool: _Check(_flag, "True or False", "True or False"),
    str: _Check(_text, "a text", "texts"),
    Path: _PATH,
    None: _Check(_none, "None", "None"),
    NoneType: _Check(_none, "None", "None"),
}


def _any_of(parts: Collection[Any]) -> _Check | None:
    kinds = [typing.get_origin(part) or part for part in parts]
    if str in kinds and (Path in kinds or os.PathLike in kinds):
        paths = (str, Path, os.PathLike)
        parts = [
            Path,
            *(part for part, kind in zip(parts, kinds, strict=True) if kind not in paths),
        ]
    # Nothing is asked before None: it is what most arguments are.
    checks = [_check_of(part) for part in sorted(parts, key=lambda part: part is not NoneType)]
    sure = [check for check in checks if check is not None]
    if len(sure) < len(checks):
        return None
    tests = [check.test for check in sure]

    def test(value: Any) -> Any:
        for one in tests:
            if (accepted := one(value)) is not _WRONG:
                return accepted
        return _WRONG

    described = sure[1:] + sure[:1] if sure[0].one == "None" else sure
    return _Check(
        test,
        ", or ".join(dict.fromkeys(check.one for check in described)),
        " or ".join(dict.fromkeys(check.many for check in described)),
    )


def _at_least(check: _Check | None, bound: AtLeast) -> _Check | None:
    if check is None:
        return None
    inner, lowest = check.test, bound.lowest

    def test(value: Any) -> Any:
        if value.__class__ is int and value >= lowest:
            return value
        accepted = inner(value)
        return accepted if accepted is _WRONG or accepted >= lowest else _WRONG

    more = f"{lowest} or more"
    return _Check(test, f"{check.one}, {more}", f"{check.many}, {more}")


def _choice(values: Collection[Any]) -> _Check:
    kinds = {type(value) for value in values}
    named = ", ".join(str(value) for value in values)

    def test(value: Any) -> Any:
        return value if type(value) in kinds and value in values else _WRONG

    return _Check(test, f"one of {named}", f"some of {named}")


def _subclass_of(kind: Any) -> _Check:
    base = kind if isinstance(kind, type) else object

    def test(value: Any) -> Any:
        return value if isinstance(value, type) and issubclass(value, base) else _WRONG

    name = "a class" if base is object else f"{base.__name__}, or a class that inherits from it"
    return _Check(test, name, "classes")


def _mapping(kind: type, parts: tuple[Any, ...]) -> _Check:
    of = _check_of(parts[1]) if len(parts) > 1 else None

    def test(value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value, kind):
            return _WRONG
        if of is not None and any(of.test(one) is _WRONG for one in value.values()):
            return _WRONG
        return value

    name = "a dict" if of is None else f"a dict with {of.many} as values"
    return _Check(test, name, "dicts")


def _several(kind: type, of: _Check | None) -> _Check:
    """Several values: never a text, and never a dict, of which the keys would be taken."""

    def test(value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, str | bytes | bytearray | Mapping):
            return _WRONG
        if of is not None and isinstance(value, Collection):  # an iterator is read only once
            return _WRONG if any(of.test(one) is _WRONG for one in value) else value
        return value

    name = "a list" if of is None else f"a list of {of.many}"
    return _Check(test, name, "lists")


def _instance_of(kind: type) -> _Check | None:
    if getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False):
        return None

    def test(value: Any) -> Any:
        return value if isinstance(value, kind) else _WRONG

    if getattr(kind, "_is_protocol", False):
        members = ", ".join(name for name in vars(kind) if not name.startswith("_"))
        return _Check(test, f"an object with {members}", f"objects with {members}")
    name = kind.__name__
    one = f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    return _Check(test, getattr(kind, "_in_messages", one), f"{name}s")
