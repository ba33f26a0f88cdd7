"""Times, indices, series and data frames of pandas, which is not imported.

Each is made again when it is written: it is kept only if it comes back equal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import UTC, timedelta, timezone
from pathlib import Path
from typing import Any, Final
from zoneinfo import TZPATH, ZoneInfo

import numpy as np

from jamboree_gym.arrays.kinds.stand_ins import is_alike, stand_in
from jamboree_gym.errors import InvalidRecord

__all__ = ["PANDAS", "pandas_content"]

_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_NULLABLE: Final = re.compile(r"boolean|U?Int(8|16|32|64)|Float(32|64)")
_OWN_KINDS: Final = "biufcSUmMO"
_AS_DATES: Final = "datetime64"


def pandas_content(value: Any) -> tuple[str, Any] | None:
    """Kind and content of a value of pandas; None for others.

    Raises:
        InvalidRecord: It would not come back as it is.
    """
    pd: Any = sys.modules.get("pandas")
    if pd is None or not type(value).__module__.startswith("pandas"):
        return None
    if value is getattr(pd, "NaT", None) or value is getattr(pd, "NA", None):
        return "pandas", ["NaT" if value is pd.NaT else "NA"]
    for name, content_of in _CONTENTS.items():
        cls = getattr(pd, name, None)
        is_it = type(value) is cls or (name == "Index" and cls and isinstance(value, cls))
        if is_it:
            try:
                content = [name, *content_of(value)]
                is_same = _is_same(_BUILDERS[name](pd, *content[1:]), value)
            except (MemoryError, RecursionError):
                raise
            except Exception as error:
                raise InvalidRecord(f"cannot store this {name} of pandas: {error}") from error
            if not is_same:
                raise InvalidRecord(f"cannot store this {name} of pandas exactly")
            return "pandas", content
    return None


def _build(content: Any) -> Any:
    name, *parts = content
    pd: Any = sys.modules.get("pandas")
    if pd is None:
        return _without_pandas(name, content, *parts)
    if name in ("NaT", "NA"):
        return getattr(pd, name)
    try:
        return _BUILDERS[name](pd, *parts)
    except Exception as error:  # noqa: BLE001 - damage, or another release of pandas
        return stand_in("pandas", content, f"pandas cannot make it: {type(error).__name__}")


PANDAS: Final[dict[str, Callable[[Any], Any]]] = {"pandas": _build}


def _without_pandas(name: str, content: Any, *parts: Any) -> Any:
    if name == "NaT":
        return np.datetime64("NaT", "ns")
    if name == "Timedelta" or (name == "Timestamp" and parts[1] is None):
        return parts[0]
    return stand_in("pandas", content, "pandas is not loaded here")


def _is_same(one: Any, other: Any) -> bool:
    pd: Any = sys.modules["pandas"]
    if type(one) is not type(other):
        return False
    if isinstance(other, (pd.Timestamp, pd.Timedelta)):
        return bool(one == other and one.unit == other.unit and str(one) == str(other))
    if isinstance(other, pd.DataFrame):
        is_alike_around = _is_same(one.columns, other.columns) and _is_same(one.index, other.index)
        pairs = zip(one.items(), other.items(), strict=True)
        return is_alike_around and all(_is_same_column(a[1], b[1]) for a, b in pairs)
    if isinstance(other, pd.Series):
        is_named_alike = is_alike(one.name, other.name)
        return is_named_alike and _is_same(one.index, other.index) and _is_same_column(one, other)
    if isinstance(other, pd.MultiIndex):
        pairs = zip(one.levels, other.levels, strict=True)
        are_alike = is_alike(list(one.names), list(other.names)) and one.equals(other)
        return are_alike and all(_is_same(a, b) for a, b in pairs)
    if isinstance(other, pd.Index):
        is_named_alike = is_alike(one.name, other.name)
        has_freq = getattr(one, "freq", None) == getattr(other, "freq", None)
        return is_named_alike and has_freq and _is_same_column(one, other)
    return _is_same_column(one, other)


def _is_same_column(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or len(one) != len(other):
        return False
    if isinstance(other.dtype, np.dtype):
        return is_alike(one.to_numpy(), other.to_numpy())
    return bool(one.equals(other))


# -- times ------------------------------------------------------------------------------------


def _timestamp_parts(value: Any) -> list[Any]:
    if value.tz is None:
        return [value.asm8, None, value.fold]
    plain = value.tz_convert("UTC").tz_localize(None).asm8
    return [plain, [*_zone_parts(value.tz), _seconds(value.utcoffset())], value.fold]


def _seconds(offset: Any) -> float:
    return float(offset.total_seconds())


def _build_timestamp(pd: Any, instant: Any, zone: Any, fold: int) -> Any:
    made = pd.Timestamp(instant)
    if zone is not None:
        *parts, seconds = zone
        found = _zone(*parts)
        found = timezone(timedelta(seconds=seconds)) if found is None else found
        made = made.tz_localize("UTC").tz_convert(found)
    elif fold:
        made = made.replace(fold=fold)
    return made


def _zone_parts(zone: Any) -> list[Any]:
    """A zone as `["utc"]`, a fixed offset, or a name."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if zone is UTC or name in ("UTC", "Etc/UTC"):
        return ["utc", str(name) if name else ""]
    if isinstance(zone, timezone):
        return ["offset", _seconds(zone.utcoffset(None))]
    if isinstance(name, str) and _ZONE.fullmatch(name):
        return ["pytz" if type(zone).__module__.startswith("pytz") else "zone", name]
    offset = zone.utcoffset(None)
    if offset is None:
        raise ValueError(f"a zone without a name: {zone!r:.60}")
    return ["offset", _seconds(offset)]


def _zone(kind: str, of: Any) -> Any:
    """The zone; None if this machine does not know it. Looks only at the system's list of zones."""
    if kind == "offset":
        return timezone(timedelta(seconds=of))
    if kind == "utc" and not of:
        return UTC
    pytz: Any = sys.modules.get("pytz")  # pandas 2 loads it
    if kind == "pytz" and pytz is not None:
        return pytz.timezone(of) if of in pytz.all_timezones_set else None
    is_name = isinstance(of, str) and _ZONE.fullmatch(of)
    is_known = is_name and any((Path(folder) / of).is_file() for folder in TZPATH)
    return ZoneInfo(of) if is_known else (UTC if kind == "utc" else None)


def _build_timedelta(pd: Any, length: Any) -> Any:
    return pd.Timedelta(length)


# -- columns ----------------------------------------------------------------------------------


def _column_parts(values: Any) -> list[Any]:
    """The values of an index or a series: kind, then what that kind needs."""
    dtype, array = values.dtype, getattr(values, "array", values)
    if isinstance(dtype, np.dtype):
        if dtype.kind not in _OWN_KINDS:
            raise ValueError(f"the dtype {dtype}")
        return ["numpy", values.to_numpy()]
    pd: Any = sys.modules["pandas"]
    if isinstance(dtype, pd.CategoricalDtype):
        categories = _index_parts(dtype.categories)
        return ["category", np.asarray(array.codes), categories, bool(dtype.ordered)]
    if isinstance(dtype, pd.DatetimeTZDtype):
        plain = array.tz_convert("UTC").tz_localize(None)
        return ["zoned", np.asarray(plain), _zone_parts(dtype.tz)]
    if _NULLABLE.fullmatch(str(dtype)):
        return ["nullable", np.asarray(array._data), np.asarray(array._mask)]
    if isinstance(dtype, pd.StringDtype):
        texts = np.array([None if pd.isna(one) else one for one in array], object)
        return ["string", texts, dtype.storage, _misses_as_nan(pd, dtype)]
    raise ValueError(f"the dtype {dtype}")


def _misses_as_nan(pd: Any, dtype: Any) -> bool:
    """Whether a missing text is NaN, as in the dtype `str` of pandas 3, and not `pandas.NA`."""
    return getattr(dtype, "na_value", pd.NA) is not pd.NA


def _column(pd: Any, kind: str, *parts: Any) -> Any:
    if kind == "numpy":
        return parts[0]
    if kind == "category":
        codes, categories, is_ordered = parts
        dtype = pd.CategoricalDtype(_build_index(pd, *categories), is_ordered)
        return pd.Categorical.from_codes(codes, dtype=dtype)
    if kind == "zoned":
        instants, zone = parts
        found = _zone(*zone)
        if found is None:
            raise ValueError("a zone that this machine does not know")
        return pd.DatetimeIndex(instants).tz_localize("UTC").tz_convert(found).array
    if kind == "nullable":
        data, mask = parts
        kinds = {"b": pd.arrays.BooleanArray, "f": pd.arrays.FloatingArray}
        return kinds.get(data.dtype.kind, pd.arrays.IntegerArray)(data, mask)
    if kind == "string":
        texts, storage, misses_as_nan = parts
        missing = {"na_value": np.nan} if misses_as_nan else {}  # pandas 3
        return pd.array(list(texts), dtype=pd.StringDtype(storage, **missing))
    raise ValueError(f"columns of the kind {kind!r}")


def _index_parts(value: Any) -> list[Any]:
    pd: Any = sys.modules["pandas"]
    if isinstance(value, pd.RangeIndex):
        return ["range", [value.start, value.stop, value.step], value.name]
    if isinstance(value, pd.MultiIndex):
        levels = [_index_parts(level) for level in value.levels]
        return ["multi", levels, [np.asarray(codes) for codes in value.codes], list(value.names)]
    freq = getattr(value, "freqstr", None)
    return ["values", type(value).__name__, _column_parts(value), value.name, freq]


def _build_index(pd: Any, kind: str, *parts: Any) -> Any:
    if kind == "range":
        return pd.RangeIndex(*parts[0], name=parts[1])
    if kind == "multi":
        levels, codes, names = parts
        built = [_build_index(pd, *level) for level in levels]
        return pd.MultiIndex(built, codes, names=names, verify_integrity=True)
    cls, column, name, freq = parts
    values = _column(pd, *column)
    if cls in ("DatetimeIndex", "TimedeltaIndex"):
        return getattr(pd, cls)(values, name=name, freq=freq)
    if cls == "CategoricalIndex":
        return pd.CategoricalIndex(values, name=name)
    dtype = values.dtype if isinstance(values, np.ndarray) else None
    return pd.Index(values, dtype=dtype, name=name)


def _series_parts(value: Any) -> list[Any]:
    return [_column_parts(value), _index_parts(value.index), value.name, dict(value.attrs)]


def _build_series(pd: Any, column: Any, index: Any, name: Any, attrs: Any) -> Any:
    made = pd.Series(_column(pd, *column), index=_build_index(pd, *index), name=name, copy=True)
    made.attrs.update(attrs)
    return made


def _frame_parts(value: Any) -> list[Any]:
    columns = [_column_parts(value.iloc[:, n]) for n in range(value.shape[1])]
    return [columns, _index_parts(value.columns), _index_parts(value.index), dict(value.attrs)]


def _build_frame(pd: Any, columns: Any, names: Any, index: Any, attrs: Any) -> Any:
    built = _build_index(pd, *index)
    parts = {n: pd.Series(_column(pd, *one), index=built) for n, one in enumerate(columns)}
    made = pd.DataFrame(parts, index=built)
    made.columns = _build_index(pd, *names)
    made.attrs.update(attrs)
    return made


_CONTENTS: Final[dict[str, Callable[[Any], list[Any]]]] = {
    "Timestamp": _timestamp_parts,
    "Timedelta": lambda value: [value.asm8],
    "DataFrame": _frame_parts,
    "Series": _series_parts,
    "Categorical": _column_parts,
    "Index": _index_parts,
}
_BUILDERS: Final[dict[str, Callable[..., Any]]] = {
    "Timestamp": _build_timestamp,
    "Timedelta": _build_timedelta,
    "DataFrame": _build_frame,
    "Series": _build_series,
    "Categorical": _column,
    "Index": _build_index,
}
