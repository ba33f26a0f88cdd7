"""Values of many classes, and classes of users."""

from __future__ import annotations

import array
import enum
import types
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd

from jamboree_gym import register_value


class Color(enum.Enum):
    RED = 1
    ODD = object()


class Level(enum.IntEnum):
    HIGH = 3


class Mode(enum.StrEnum):
    FAST = "fast"


class Weight(float, enum.Enum):
    HALF = 0.5


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclass
class Plan:
    name: str
    steps: Any = None
    ran: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.ran.append("__post_init__")


@dataclass(frozen=True, slots=True)
class Cell:
    row: Any
    column: int = 0


class Temperature:
    """Registered."""

    def __init__(self, kelvin: float) -> None:
        self.kelvin = kelvin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Temperature) and other.kelvin == self.kelvin

    def __hash__(self) -> int:
        return hash(self.kelvin)

    def __repr__(self) -> str:
        return f"Temperature({self.kelvin})"


class Broken:
    """Registered, but both of its functions raise."""


def refuse(_: Any) -> Any:
    raise ValueError("not today")


register_value(Temperature, lambda one: {"kelvin": one.kelvin}, lambda plain: Temperature(**plain))
register_value(Broken, refuse, refuse)

FRAME = pd.DataFrame(
    {
        "number": [1, 2],
        "text": ["a", None],
        "kind": pd.Categorical(["u", "v"], ["v", "u"], ordered=True),
        "when": pd.date_range("2020", periods=2, tz="Europe/Berlin"),
        "maybe": pd.array([1, None], dtype="Int64"),
        "flag": pd.array([True, None], dtype="boolean"),
        "note": pd.array(["s", pd.NA], dtype="string[python]"),
    },
    index=pd.date_range("2020", periods=2, freq="D", name="day"),
)

HASHABLE: list[Any] = [
    *(Color.RED, Color.ODD, Level.HIGH, Mode.FAST, Weight.HALF),
    *(Right.READ, Right.READ | Right.WRITE, Right(0), Bits.TWO, Bits(8)),
    *(Point(1, 2), Cell((1, 2)), Temperature(3.5), range(3), range(9, 2**70, -2)),
    *(Decimal("1.50"), UUID(int=5), Fraction(1, 3), 1j, Path("a/b")),
    *(date(2020, 1, 2), time(3, 4), timedelta(1), datetime(2020, 1, 2, tzinfo=UTC)),
    *(frozenset([1, Cell(2)]), pd.Timestamp("2020-01-02"), pd.Timedelta(5, "ns")),
    pd.Timestamp(1577934245000006789, tz="Europe/Berlin"),
]
UNHASHABLE: list[Any] = [
    *(Plan("a", [Point(1, Color.RED)]), slice(1, None, 2), bytearray(b"ab")),
    *(deque([1, (2,)], 4), deque(), {1, 2}, Counter("aab"), array.array("d", [0.5])),
    *(OrderedDict(b=1, a=2), defaultdict(list, a=[1]), types.SimpleNamespace(a=Level.HIGH)),
    np.ma.array([1, 2], mask=[True, False], fill_value=7),
    np.ma.array([0.5]),
    np.array([(1, 2.5)], [("n", "<i4"), ("x", "<f8")]).view(np.recarray),
    np.array([Color.RED, Plan("b"), None], object),
    *(pd.NaT, pd.NA, FRAME, FRAME.T, pd.DataFrame(), FRAME["kind"], FRAME["when"]),
    *(FRAME.index, pd.RangeIndex(3), pd.MultiIndex.from_product([[1, 2], ["a", "b"]])),
    *(pd.Series([1.5, 2.5], name=("x", 1)), pd.Categorical(["a", None])),
    *(
        pd.Series(["a", None], dtype="string[pyarrow]"),
        pd.Series(["a", None]),
        pd.DataFrame({"é": ["b"]}),
    ),
    pd.Timestamp("2020-01-02T03:04:05+02:00"),
]
ALL = [*HASHABLE, *UNHASHABLE]
