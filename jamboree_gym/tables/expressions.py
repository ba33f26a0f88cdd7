"""Evaluates conditions on columns that are written as text: `reward < -1 and action == 2`.

The text is parsed as a Python expression. The code here then evaluates the tree, node by node, for
the few kinds of nodes that a condition can have. No part of the text is ever executed as code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.errors import InvalidExpression
from jamboree_gym.records import Transitions
from jamboree_gym.tables.columns import Column, to_columns_or_none
from jamboree_gym.wording import did_you_mean, shortened

__all__ = ["Condition"]

_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.float_power,
}
_DIVISIONS: Final = (np.divide, np.floor_divide, np.mod)
_OF_ONE: Final[dict[str, Callable[[Any], Any]]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "isnan": np.isnan,
    "isfinite": np.isfinite,
}
_OF_SEVERAL: Final[dict[str, Callable[[Any, Any], Any]]] = {"max": np.maximum, "min": np.minimum}
_COLUMN: Final = "column"
_BITWISE = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Invert)

_ANNOTATION = "annotation"
_MAX_SHOWN = 40  # most names of columns in a message
_MAX_TEXT = 80  # longest part of the expression in a message, characters


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """The value of a part of the expression at each step: an array (n,), or one value for all.

    `missing` says where there is none: bool (n,), or False for nowhere.
    """

    data: Any
    missing: Any = False

    @property
    def is_text(self) -> bool:
        return isinstance(self.data, str) or self._is_array_of("O")

    @property
    def is_condition(self) -> bool:
        return isinstance(self.data, (bool, np.bool_)) or self._is_array_of("b")

    def _is_array_of(self, kind: str) -> bool:
        return isinstance(self.data, np.ndarray) and self.data.dtype.kind == kind

    @property
    def number(self) -> Any:
        """The value as float64: all arithmetic uses it."""
        return self.data.astype(np.float64) if np.ndim(self.data) else float(self.data)

    @property
    def true(self) -> Any:
        return np.logical_and(self.data, np.logical_not(self.missing))

    @property
    def false(self) -> Any:
        return np.logical_not(np.logical_or(self.data, self.missing))


def _condition(true: Any, false: Any) -> _Values:
    """A condition; where it is neither true nor false, it is missing."""
    return _Values(true, np.logical_not(np.logical_or(true, false)))


class Condition:
    """A condition on the columns of a frame of steps, or of a table.

    It supports comparisons (`a < b <= c`, `in (1, 2)`), `and`, `or`, `not`, arithmetic, numbers,
    texts, and the functions abs, sqrt, isnan, isfinite, min and max. `info_a.b` is a column, too.
    Use `column("any name")` for a column whose name is not a Python name.

    Arithmetic uses float64. A condition with a missing value is true only if it would be true for
    every possible value.

    Args:
        text: The expression.

    Raises:
        InvalidExpression: The text is no valid condition.
    """

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        try:
            self._tree = ast.parse(self._text, mode="eval").body
        except SyntaxError as error:
            rest = self._text[max(0, (error.offset or 1) - 1) :]
            raise InvalidExpression(
                f"{_short(self._text)!r} is no expression: {error.msg}, at {_short(rest)!r}"
            ) from error
        except (MemoryError, RecursionError, ValueError) as error:
            raise InvalidExpression(f"the expression cannot be read: {error}") from error

    @property
    def names(self) -> set[str]:
        """Names of columns that the expression has, and of what it calls."""
        parts = ast.walk(self._tree)
        return {one.id for one in parts if isinstance(one, ast.Name)}

    def hits(self, steps: Transitions) -> npt.NDArray[np.int64]:
        """Indices of the steps for which the condition is true.

        Raises:
            InvalidExpression: A column does not exist in these steps, or an operation is impossible
                for its values; says where.
        """
        evaluation = _Evaluation(self._text, to_columns_or_none(steps), ~steps.annotated)
        hits: npt.NDArray[np.int64] = steps.indices[self._true(evaluation, len(steps))]
        return hits

    def rows(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """For which rows of a table the condition is true: bool (n,).

        Raises:
            InvalidExpression: As `hits`.
        """
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        return self.rows_of(columns, table.num_rows)

    def rows_of(self, columns: Mapping[str, Column | None], count: int) -> npt.NDArray[np.bool_]:
        """As `rows`, of columns of `count` values; those that are not named may be made on demand.

        Raises:
            InvalidExpression: As `hits`.
        """
        return self._true(_Evaluation(self._text, columns), count)

    def _true(self, evaluation: _Evaluation, count: int) -> npt.NDArray[np.bool_]:
        try:
            with np.errstate(all="ignore"):
                found = evaluation.condition(self._tree)
        except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
            if isinstance(error, InvalidExpression):
                raise
            raise InvalidExpression(
                f"{_short(self._text)!r} cannot be worked out: {error}"
            ) from error
        return np.broadcast_to(found.true, count)


class _Evaluation:
    """Evaluates an expression over these columns; `unsaid` are the rows without annotations."""

    def __init__(
        self, text: str, columns: Mapping[str, Column | None], unsaid: Any = False
    ) -> None:
        self._text = text
        self._columns = columns
        self._unsaid = unsaid

    def value(self, node: ast.expr) -> _Values:
        """Evaluate a part."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as constant):
                return _Values(constant)
            case ast.Name() | ast.Attribute() if name := _dotted(node):
                return self._column(name)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments, node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=part):
                return self._signed(sign, part)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                parts = [self._number(left), self._number(right)]
                return _applied(_ARITHMETIC[type(sign)], parts)
            case ast.Compare(left=left, ops=signs, comparators=others):
                return self._comparison([left, *others], signs)
            case ast.BoolOp(op=ast.And(), values=parts):
                return reduce(_and, map(self.condition, parts))
            case ast.BoolOp(op=ast.Or(), values=parts):
                return reduce(_or, map(self.condition, parts))
            case ast.UnaryOp(op=ast.Not(), operand=part):
                value = self.condition(part)
                return _condition(value.false, value.true)
        raise self._refused(node)

    def condition(self, node: ast.expr) -> _Values:
        """Evaluate a part that must be true or false."""
        value = self.value(node)
        if not value.is_condition:
            raise InvalidExpression(
                f"{self._source(node)} is neither true nor false: compare it with something"
            )
        return value

    def _number(self, node: ast.expr) -> _Values:
        value = self.value(node)
        if value.is_text:
            raise InvalidExpression(f"{self._source(node)} is a text, not a number")
        return value

    def _signed(self, sign: ast.unaryop, node: ast.expr) -> _Values:
        value = self._number(node)
        if isinstance(value.data, int):  # it stays an int, which compares exactly
            return _Values(-value.data if isinstance(sign, ast.USub) else +value.data)
        return _applied(np.negative if isinstance(sign, ast.USub) else np.positive, [value])

    def _comparison(self, nodes: Sequence[ast.expr], signs: Sequence[ast.cmpop]) -> _Values:
        """Evaluate a chain: `a < b < c` is `a < b and b < c`."""
        if isinstance(signs[0], (ast.In, ast.NotIn)) and len(signs) == 1:
            return self._membership(nodes[0], nodes[1], isinstance(signs[0], ast.NotIn))
        found, left = [], self.value(nodes[0])
        for sign, first, second in zip(signs, nodes[:-1], nodes[1:], strict=True):
            if type(sign) not in _COMPARISONS:
                raise InvalidExpression(
                    f"{_short(self._text)!r} cannot be worked out: there is no 'is', and no chain "
                    "with 'in'; write ==, and parentheses"
                )
            right = self.value(second)
            if left.is_text != right.is_text:
                text, number = (first, second) if left.is_text else (second, first)
                raise InvalidExpression(
                    f"{self._source(text)} is a text and {self._source(number)} is none: they "
                    "cannot be compared"
                )
            found.append(_compared(_COMPARISONS[type(sign)], left, right))
            left = right
        return reduce(_and, found)

    def _membership(self, node: ast.expr, choices: ast.expr, is_negated: bool) -> _Values:
        if not isinstance(choices, (ast.List, ast.Set, ast.Tuple)):
            raise InvalidExpression(f"write a list after 'in', not {self._source(choices)}")
        value, others = self.value(node), map(self.value, choices.elts)
        alike = [other for other in others if other.is_text == value.is_text]
        equal = [_compared(operator.eq, value, other) for other in alike]
        found = reduce(_or, equal, _Values(False, value.missing))
        return _condition(found.false, found.true) if is_negated else found

    def _call(self, name: str, arguments: Sequence[ast.expr], node: ast.Call) -> _Values:
        match arguments:
            case [ast.Constant(value=str() as column)] if name == _COLUMN:
                return self._column(column)
            case [argument] if name in _OF_ONE:
                return _applied(_OF_ONE[name], [self._number(argument)])
            case [_, _, *_] if name in _OF_SEVERAL:
                of_two, numbers = _OF_SEVERAL[name], map(self._number, arguments)
                return reduce(lambda one, other: _applied(of_two, [one, other]), numbers)
        raise self._refused(node)

    def _column(self, name: str) -> _Values:
        column = self._columns.get(name)
        if column is None:
            raise InvalidExpression(self._no_column(name))
        values = _values_of(column)
        if np.ndim(values.data) > 1:
            shape = values.data.shape[1:]
            raise InvalidExpression(
                f"{name!r} is an array of shape {shape} at each step: use a function of the step, "
                "find(lambda step: ...)"
            )
        if name.partition("_")[0] == _ANNOTATION:
            return _Values(values.data, values.missing | self._unsaid)
        return values

    def _no_column(self, name: str) -> str:
        if name in self._columns:
            return (
                f"{name!r} has no column, because no one dtype holds its values: use a function of "
                "the step, find(lambda step: ...)"
            )
        names = [known for known, column in self._columns.items() if column is not None]
        more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
        there = ", ".join(names[:_MAX_SHOWN])
        near = did_you_mean(name, names)
        return f"there is no column {_short(name)!r}{near}; there are {there}{more}"

    def _refused(self, node: ast.expr) -> InvalidExpression:
        sign = getattr(node, "op", None)
        if isinstance(sign, _BITWISE):
            hint = "write and, or, not instead of &, |, ~"
        else:
            names = ", ".join([*_OF_ONE, *_OF_SEVERAL, f'{_COLUMN}("name")'])
            hint = f"there are columns, numbers, texts, comparisons, and, or, not, + - * /, {names}"
        return InvalidExpression(f"{self._source(node)} cannot be part of a condition: {hint}")

    def _source(self, node: ast.expr) -> str:
        return repr(_short(ast.get_source_segment(self._text, node) or self._text))


def _short(text: str) -> str:
    return shortened(text, _MAX_TEXT)


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; empty if the node is no name."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def _values_of(column: Column) -> _Values:
    if isinstance(column, np.ndarray):
        return _Values(column)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_string(column.type):
        return _Values(np.array(column.fill_null("").to_pylist(), object), missing)
    filled = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    return _Values(filled.to_numpy(zero_copy_only=False), missing)


def _applied(function: Callable[..., Any], parts: Sequence[_Values]) -> _Values:
    """Apply a function of numbers. Only a column may be divided by 0."""
    numbers = [part.number for part in parts]
    if function in _DIVISIONS and not any(map(np.ndim, numbers)) and numbers[1] == 0:
        raise ZeroDivisionError("a number is divided by 0 in it")
    found = function(*numbers)
    missing = reduce(operator.or_, [part.missing for part in parts])
    return _Values(found if np.ndim(found) else found.item(), missing)


def _compared(compare: Callable[[Any, Any], Any], left: _Values, right: _Values) -> _Values:
    found = compare(left.data, right.data)
    return _Values(np.asarray(found, np.bool_), left.missing | right.missing)


def _and(left: _Values, right: _Values) -> _Values:
    true = np.logical_and(left.true, right.true)
    return _condition(true, np.logical_or(left.false, right.false))


def _or(left: _Values, right: _Values) -> _Values:
    true = np.logical_or(left.true, right.true)
    return _condition(true, np.logical_and(left.false, right.false))
