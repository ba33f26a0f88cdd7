"""Free-form values <-> msgpack, with the types that plain msgpack loses kept by extension types.

Kept exactly: None, bool, int (any size), float, complex, str, bytes, list, tuple, dict, set,
frozenset, NumPy scalars and arrays (dtype, byte order, shape; also structured ones and arrays of
objects), Gymnasium's GraphInstance, what `atoms` keeps (dates, exact numbers, paths, dtypes), and
what `kinds` keeps (members of enums, dataclasses, named tuples, ranges, deques, values of pandas,
tensors, and what users register). What `plain_forms` knows comes back as an equal value of these:
instances of subclasses as the plain one; arrays are in C order. Everything else is an error that
names the value's place, which only a second walk finds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
from gymnasium.spaces import GraphInstance

from jamboree_gym.arrays.kinds.atoms import ATOMS
from jamboree_gym.arrays.kinds.classes import UNKEPT
from jamboree_gym.arrays.kinds.kinds import Kind, kind_of
from jamboree_gym.arrays.kinds.loaded_class import class_name
from jamboree_gym.arrays.kinds.plain_forms import NO_FORM, plain_form
from jamboree_gym.arrays.kinds.stand_ins import StandIn
from jamboree_gym.arrays.tensors import plain_array
from jamboree_gym.arrays.value_decoder import NUMBERS, Code, decode_packed, decode_value
from jamboree_gym.errors import InvalidRecord, JamboreeError
from jamboree_gym.wording import shortened

__all__ = [
    "are_plain",
    "check_text",
    "comes_back_alike",
    "decode_value",
    "encode_mapping",
    "encode_value",
    "pack_plain",
    "renewed",
    "shown",
]

_NUMBER_CODES: Final = {cls: Code.NUMBER + n for n, cls in enumerate(NUMBERS)}
_INT_LIMITS = range(-(2**63), 2**64)
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_ARRAY_KINDS = frozenset("biufcSUmMV")
_OBJECT_KINDS = frozenset("OT")  # objects, and texts of any length

_ADVICE: Final = 'give another, or {}.encode("utf-8", "backslashreplace").decode()'

_pack = msgspec.msgpack.Encoder().encode
pack_plain = _pack
"""Encodes a dict of texts whose values are None, bools, ints, floats, texts and bytes."""
_Ext = msgspec.msgpack.Ext


def check_text(name: str, text: str, error_class: type[JamboreeError] = InvalidRecord) -> str:
    """The text as a plain `str`; `name` is what it is, for the message.

    Raises:
        InvalidRecord: Or `error_class`: it is no valid Unicode, as names of files and arguments of
            programs may be.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{name}={shown(text)} is not valid unicode"
        raise error_class(f"{what}; {_ADVICE.format(name)}") from error
    return str.__str__(text)


def encode_mapping(record: Mapping[str, Any]) -> bytes:
    """Encode a record.

    Raises:
        InvalidRecord: A value cannot be kept; the message names its key.
    """
    packed = _packed_plain(record)
    if packed is not None:
        return packed
    for name in record:
        if not isinstance(name, str):
            raise InvalidRecord(f"a field name is a string, not {name!r}")
    return encode_value(record if record.__class__ is dict else dict(record))


def are_plain(records: Iterable[dict[str, Any]]) -> bool:
    """Whether no value can be changed, so that copies of the dicts are enough for a caller."""
    return _PLAIN.issuperset(map(type, chain.from_iterable(map(dict.values, records))))


def _packed_plain(record: Mapping[Any, Any]) -> bytes | None:
    """The quick way, if every value is None, bool, int, float, str or bytes."""
    for name, value in record.items():
        if value.__class__ not in _PLAIN or name.__class__ is not str:
            return None
    try:
        return _pack(record)
    except (OverflowError, TypeError, UnicodeEncodeError):
        return None


def encode_value(value: Any) -> bytes:
    """Encode any value of the kinds that this module keeps.

    Raises:
        InvalidRecord: Something in it cannot be kept; the message names its place.
    """
    try:
        try:
            if value.__class__ in _SAFE:
                return _pack(value)
            packed = _packed_plain(value) if value.__class__ is dict else None
            return _pack(_tag(value)) if packed is None else packed
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # whatever the code of an odd class raises
            place, reason = _first_refused(value)
            raise InvalidRecord(f"{place or 'value'}: {reason}") from error
    except RecursionError as error:
        raise InvalidRecord("the value is nested too deeply, or holds itself") from error
    except InvalidRecord:
        raise
    except Exception as error:  # a subclass of a dict, say, whose `items` fails
        raise InvalidRecord(f"value: {shown(value)} raises {error!r}") from error


# -- what is written for a value: itself, or an extension that remembers what msgpack loses


def _tag(value: Any) -> Any:
    return (_TAGS.get(value.__class__) or _tag_of_subclass(value))(value)


def _tag_of_subclass(value: Any) -> Callable[[Any], Any]:
    cls = value.__class__
    kind = kind_of(value)
    if kind is not None:
        return lambda _: _tag_kind(kind)
    for base in (dict, list, tuple, set, frozenset, np.dtype):
        if isinstance(value, base):
            return _TAGS[base]
    form = plain_form(value)
    if form is not NO_FORM:
        return lambda _: _tag(form)
    if isinstance(value, np.generic):
        return _tag_scalar
    raise InvalidRecord(
        f"cannot store {shown(value)} of type {cls.__module__}.{cls.__qualname__}; "
        "convert it to numbers, strings, lists, dicts or NumPy arrays"
    )


def _tag_kind(kind: Kind) -> Any:
    name, content = kind
    if name != "enum" or len(content) != 4:
        return _Ext(Code.KIND, _pack((name, _tag(content))))
    *named, value = content
    try:
        tagged = _tag(value)
    except InvalidRecord:  # the member is known by its name alone
        tagged = _tag(StandIn(UNKEPT, class_name(type(value))))
    return _Ext(Code.KIND, _pack((name, [*named, tagged])))


def _tag_nothing(value: Any) -> Any:
    return value


def _tag_int(value: int) -> Any:
    return value if value in _INT_LIMITS else _Ext(Code.BIGINT, hex(value).encode())


def _tag_dict(value: dict[Any, Any]) -> Any:
    tagged = {}
    for key, item in value.items():
        if key.__class__ is not str:
            pairs = [[_tag_key(key), _tag(item)] for key, item in value.items()]
            return _Ext(Code.PAIRS, _pack(pairs))
        tagged[key] = item if item.__class__ in _SAFE else _tag(item)
    return tagged


def _tag_items(value: Iterable[Any]) -> list[Any]:
    return [item if item.__class__ in _SAFE else _tag(item) for item in value]


def _tag_sequence(code: int) -> Callable[[Iterable[Any]], Any]:
    return lambda value: _Ext(code, _pack(_tag_items(value)))


def _tag_set(code: int) -> Callable[[Iterable[Any]], Any]:
    return lambda value: _Ext(code, _pack([_tag_key(item) for item in value]))


def _tag_key(key: Any) -> Any:
    """As `_tag`, for what has to be hashable when it comes back."""
    tagged = _tag(key)
    if key.__class__ not in _HASHABLE:
        try:
            hash(decode_packed(_pack(tagged)))
        except TypeError as error:
            raise InvalidRecord(f"cannot store {shown(key)} as a key, or in a set") from error
    return tagged


def _tag_atom(cls: type) -> Callable[[Any], Any]:
    code, encode, _ = ATOMS[cls]
    return lambda value: _Ext(code, encode(value))


def _tag_complex(value: complex) -> Any:
    return _Ext(Code.COMPLEX, _pack((value.real, value.imag)))


def _tag_number(value: np.generic) -> Any:
    return _Ext(_NUMBER_CODES[value.__class__], value.data)


def _tag_scalar(value: np.generic) -> Any:
    if value.dtype.names is not None:
        return _tag_structured(np.asarray(value), is_scalar=True)
    return _Ext(Code.SCALAR, _pack((_dtype_text(value), (), value.tobytes())))


def _tag_array(value: np.ndarray[Any, Any]) -> Any:
    dtype = value.dtype
    if dtype.kind == "V":
        if dtype.names is not None:
            return _tag_structured(value, is_scalar=False)
        if not issubclass(dtype.type, np.void):
            value = _with_own_dtype(value)
    elif dtype.kind in _OBJECT_KINDS:
        items = [_tag(item) for item in value.ravel().tolist()]
        return _Ext(Code.OBJECTS, _pack((value.shape, items)))
    return _Ext(Code.ARRAY, _pack((_dtype_text(value), value.shape, value.tobytes())))


def _tag_structured(value: np.ndarray[Any, Any], *, is_scalar: bool) -> Any:
    fields = [[name, _tag_array(value[name])] for name in value.dtype.names or ()]
    return _Ext(Code.STRUCTURED, _pack((value.shape, is_scalar, fields)))


def _with_own_dtype(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of an array whose dtype is that of another library."""
    plain = plain_array(value)
    return value if plain is None else plain


def _dtype_text(value: np.ndarray[Any, Any] | np.generic) -> str:
    dtype = value.dtype
    is_own = dtype.kind != "V" or issubclass(dtype.type, np.void)
    if dtype.kind not in _ARRAY_KINDS or not is_own:
        raise InvalidRecord(
            f"cannot store a NumPy value of dtype {dtype}; "
            "numbers, bool, bytes, str, datetime64 and timedelta64 can be stored"
        )
    return dtype.str


_SAFE = _PLAIN - {int}  # never changed; a string that is no unicode is noticed when it is packed
_TAGS: Final[dict[type, Callable[[Any], Any]]] = {
    **dict.fromkeys(_SAFE, _tag_nothing),
    int: _tag_int,
    dict: _tag_dict,
    list: _tag_items,
    tuple: _tag_sequence(Code.TUPLE),
    set: _tag_set(Code.SET),
    frozenset: _tag_set(Code.FROZENSET),
    GraphInstance: _tag_sequence(Code.GRAPH),
    complex: _tag_complex,
    **{cls: _tag_atom(cls) for cls in ATOMS},
    **dict.fromkeys(NUMBERS, _tag_number),
    np.ndarray: _tag_array,
    np.memmap: _tag_array,  # another subclass holds more than its bytes
}
_HASHABLE: Final = _PLAIN | {complex, *NUMBERS, *(set(ATOMS) - {Decimal})}


def comes_back_alike(value: Any) -> bool:
    """Whether a value that can be kept comes back equal, and of the same classes.

    Containers may be of a subclass: the plain one is equal.
    """
    if value.__class__ not in _TAGS:
        kind = kind_of(value)
        if kind is not None:
            encoded = encode_value(value)
            back = decode_value(encoded, where="memory")
            if isinstance(value, Enum):
                return back is value
            if kind[0] == "registered" and encode_value(back) != encoded:
                return False
            return back.__class__ is value.__class__ and _holds_alike(kind[1])
    return _holds_alike(value)


def _holds_alike(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(comes_back_alike, (*value, *value.values())))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(comes_back_alike, value))
    if isinstance(value, np.ndarray) and value.dtype.kind in _OBJECT_KINDS:
        return value.dtype.kind == "O" and all(map(comes_back_alike, value.ravel().tolist()))
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "V":
        return issubclass(value.dtype.type, np.void)
    return value.__class__ in _TAGS or isinstance(value, (np.generic, np.dtype))


def renewed(value: Any) -> Any:
    """The value, with what its stand-ins stand for where their classes have been loaded since."""
    if value.__class__ in _PLAIN or value.__class__ in _NUMBER_CODES:
        return value
    return decode_value(encode_value(value), where="memory")


# -- what cannot be written, and where it is ---------------------------------------------


def _first_refused(value: Any, place: str = "", reason: str = "") -> tuple[str, str]:
    """Place of the first thing in a value that cannot be written, and why it cannot."""
    for where, part in _parts(value, place):
        refusal = _why_refused(part)
        if refusal is not None:
            return _first_refused(part, where, refusal)
    return place, reason or _why_refused(value) or ""


def _why_refused(value: Any) -> str | None:
    try:
        _pack(_tag(value))
    except UnicodeEncodeError as error:
        return f"{shown(error.object)} is not valid unicode; {_ADVICE.format('text')}"
    except InvalidRecord as error:
        return str(error)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the code of an odd class raises
        return f"cannot store {shown(value)}: {type(error).__name__}"
    return None


def _parts(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """What a container holds, each with its place: `'key'.inner[3]`."""
    if isinstance(value, dict):
        is_plain = all(key.__class__ is str for key in value)
        for key, item in value.items():
            yield f"{place}: key {key!r}", key
            if is_plain:
                yield f"{place}.{key}" if place else repr(key), item
            else:
                yield f"{place}[{key!r}]", item
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        for position, item in enumerate(value):
            yield f"{place}[{position}]", item
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        for index, item in np.ndenumerate(value):
            yield f"{place}[{', '.join(map(str, index))}]", item
    else:
        yield from _parts_of_kind(value, place)


def _parts_of_kind(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    try:
        kind = kind_of(value)
    except Exception:  # noqa: BLE001 - it is said of the value itself
        return
    if kind is not None and kind[0] == "dataclass":
        for name, item in kind[1][1].items():
            yield f"{place}.{name}", item


def shown(value: Any, text_of: Callable[[Any], str] = repr) -> str:
    """A value in a message: one line, and short; also of objects that cannot be shown."""
    try:
        text = " ".join(text_of(value)[:120].split())
    except Exception as error:  # noqa: BLE001 - code of others, and no reason to say less
        text = f"<a {type(value).__qualname__}, of which repr raises {type(error).__name__}>"
    return shortened(text, 60)
