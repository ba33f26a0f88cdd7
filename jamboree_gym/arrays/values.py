"""Free-form values <-> msgpack, with the types that plain msgpack loses kept by extension types.

Kept exactly: None, bool, int (any size), float, complex, str, bytes, list, tuple, dict, set,
frozenset, NumPy scalars and arrays (dtype, byte order, shape; also structured ones and arrays of
objects), Gymnasium's GraphInstance, and what `atoms` keeps (dates, exact numbers, paths, dtypes).
What `plain_forms` knows comes back as an equal value of these: members of an IntEnum as int,
instances of subclasses as the plain one, tensors as arrays; arrays are in C order. Everything else
is an error that names the value's place. Decoding runs no code and imports nothing.

A value is walked without keeping track of places. Only when something is refused, a second walk
finds out where it is.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final

import msgspec
import numpy as np
from gymnasium.spaces import GraphInstance

from jamboree_gym.arrays.atoms import ATOMS, decode_dtype
from jamboree_gym.arrays.plain_forms import NO_FORM, plain_form
from jamboree_gym.arrays.tensors import plain_array
from jamboree_gym.errors import DecodeError, InvalidRecord, JamboreeError

__all__ = [
    "check_text",
    "comes_back_alike",
    "decode_value",
    "encode_mapping",
    "encode_value",
    "shown",
]

_TUPLE: Final = 1
_SET: Final = 2
_FROZENSET: Final = 3
_PAIRS: Final = 4  # a dict whose keys are not all strings
_BIGINT: Final = 5
_COMPLEX: Final = 6
_ARRAY: Final = 7
_SCALAR: Final = 8
_GRAPH: Final = 10  # 9, and 11 to 18, are those of `atoms`
_OBJECTS: Final = 19  # an array of objects: shape, items
_STRUCTURED: Final = 20  # an array with fields: shape, whether it is a scalar, names and arrays
_NUMBER: Final = 32  # the first of those for NumPy's numbers, which are kept as their bytes alone

_NUMBERS: Final = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
)
_NUMBER_CODES: Final = {cls: _NUMBER + n for n, cls in enumerate(_NUMBERS)}
_NUMBER_DTYPES: Final = {code: np.dtype(cls) for cls, code in _NUMBER_CODES.items()}

_MAX_EMPTY: Final = 2**24  # elements without a byte; more is damage, and would take all memory
_INT_LIMITS = range(-(2**63), 2**64)
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_ARRAY_KINDS = frozenset("biufcSUmMV")
_OBJECT_KINDS = frozenset("OT")  # objects, and texts of any length

_ADVICE: Final = 'give another, or {}.encode("utf-8", "backslashreplace").decode()'

_pack = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext


def check_text(name: str, text: str, error_class: type[JamboreeError] = InvalidRecord) -> str:
    """The text as a plain `str`.

    Args:
        name: What it is, for the message.
        text: Any text that is to be stored.
        error_class: What to raise.

    Raises:
        InvalidRecord: Or `error_class`: it is no valid Unicode, as names of files and arguments of
            programs may be.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise error_class(
            f"{name}={shown(text)} is not valid unicode; {_ADVICE.format(name)}"
        ) from error
    return str.__str__(text)


def encode_mapping(record: Mapping[str, Any]) -> bytes:
    """Encode a record; quick when every value is None, bool, int, float, str or bytes.

    Raises:
        InvalidRecord: A value cannot be kept; the message names its key.
    """
    for name, value in record.items():
        if value.__class__ not in _PLAIN or name.__class__ is not str:
            return _encode_fields(record)
    try:
        return _pack(record)
    except (OverflowError, TypeError, UnicodeEncodeError):
        return _encode_fields(record)


def _encode_fields(record: Mapping[str, Any]) -> bytes:
    for name in record:
        if not isinstance(name, str):
            raise InvalidRecord(f"a field name is a string, not {name!r}")
    return encode_value(record if record.__class__ is dict else dict(record))


def encode_value(value: Any) -> bytes:
    """Encode any value of the kinds that this module keeps.

    Raises:
        InvalidRecord: Something in it cannot be kept; the message names its place.
    """
    try:
        try:
            return _pack(_tag(value))
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


def _tag_nothing(value: Any) -> Any:
    return value


def _tag_int(value: int) -> Any:
    return value if value in _INT_LIMITS else _Ext(_BIGINT, hex(value).encode())


def _tag_dict(value: dict[Any, Any]) -> Any:
    tagged = {}
    for key, item in value.items():
        if key.__class__ is not str:
            pairs = [[_tag_key(key), _tag(item)] for key, item in value.items()]
            return _Ext(_PAIRS, _pack(pairs))
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
            hash(_decoder.decode(_pack(tagged)))
        except TypeError as error:
            raise InvalidRecord(f"cannot store {shown(key)} as a key, or in a set") from error
    return tagged


def _tag_atom(cls: type) -> Callable[[Any], Any]:
    code, encode, _ = ATOMS[cls]
    return lambda value: _Ext(code, encode(value))


def _tag_complex(value: complex) -> Any:
    return _Ext(_COMPLEX, _pack((value.real, value.imag)))


def _tag_number(value: np.generic) -> Any:
    return _Ext(_NUMBER_CODES[value.__class__], value.data)


def _tag_scalar(value: np.generic) -> Any:
    if value.dtype.names is not None:
        return _tag_structured(np.asarray(value), is_scalar=True)
    return _Ext(_SCALAR, _pack((_dtype_text(value), (), value.tobytes())))


def _tag_array(value: np.ndarray[Any, Any]) -> Any:
    dtype = value.dtype
    if dtype.kind == "V":
        if dtype.names is not None:
            return _tag_structured(value, is_scalar=False)
        if not issubclass(dtype.type, np.void):
            value = _with_own_dtype(value)
    elif dtype.kind in _OBJECT_KINDS:
        items = [_tag(item) for item in value.ravel().tolist()]
        return _Ext(_OBJECTS, _pack((value.shape, items)))
    return _Ext(_ARRAY, _pack((_dtype_text(value), value.shape, value.tobytes())))


def _tag_structured(value: np.ndarray[Any, Any], *, is_scalar: bool) -> Any:
    fields = [[name, _tag_array(value[name])] for name in value.dtype.names or ()]
    return _Ext(_STRUCTURED, _pack((value.shape, is_scalar, fields)))


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
    tuple: _tag_sequence(_TUPLE),
    set: _tag_set(_SET),
    frozenset: _tag_set(_FROZENSET),
    GraphInstance: _tag_sequence(_GRAPH),
    complex: _tag_complex,
    **{cls: _tag_atom(cls) for cls in ATOMS},
    **dict.fromkeys(_NUMBERS, _tag_number),
    np.ndarray: _tag_array,
    np.memmap: _tag_array,  # another subclass holds more than its bytes
}
_HASHABLE: Final = _PLAIN | {complex, *_NUMBERS, *(set(ATOMS) - {Decimal})}


def comes_back_alike(value: Any) -> bool:
    """Whether a value that can be kept comes back equal, and of the same classes.

    Containers may be of a subclass: the plain one is equal.
    """
    if isinstance(value, Enum):
        return False
    if isinstance(value, dict):
        return all(map(comes_back_alike, (*value, *value.values())))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(comes_back_alike, value))
    if isinstance(value, np.ndarray) and value.dtype.kind in _OBJECT_KINDS:
        return value.dtype.kind == "O" and all(map(comes_back_alike, value.ravel().tolist()))
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "V":
        return issubclass(value.dtype.type, np.void)
    return value.__class__ in _TAGS or isinstance(value, (np.generic, np.dtype))


# -- what cannot be written, and where it is ---------------------------------------------


def _first_refused(value: Any) -> tuple[str, str]:
    """Place of the first thing in a value that cannot be written, and why it cannot."""
    place, reason = "", ""
    parts: Iterable[tuple[str, Any]] = [("", value)]
    while parts:
        for where, part in parts:
            refusal = _why_refused(part)
            if refusal is not None:
                place, reason, parts = where, refusal, _parts(part, where)
                break
        else:
            break
    return place, reason


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


def shown(value: Any, text_of: Callable[[Any], str] = repr) -> str:
    """A value in a message: one line, and short; also of objects that cannot be shown."""
    try:
        text = " ".join(text_of(value)[:120].split())
    except Exception as error:  # noqa: BLE001 - code of others, and no reason to say less
        text = f"<a {type(value).__qualname__}, of which repr raises {type(error).__name__}>"
    return text if len(text) <= 60 else f"{text[:57]}..."


_DAMAGE = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


def decode_value(content: bytes, *, where: str) -> Any:
    """Decode what `encode_value` or `encode_mapping` wrote.

    Args:
        content: The bytes.
        where: Place in the store, for the error message.

    Raises:
        DecodeError: The bytes are damaged.
    """
    try:
        return _decoder.decode(content)
    except _DAMAGE as error:
        raise DecodeError(f"{where}: {error}") from error


def _decode_extension(code: int, data: memoryview) -> Any:
    if code in _NUMBER_DTYPES:
        return _decode_number(_NUMBER_DTYPES[code], data)
    if code == _TUPLE:
        return tuple(_decode_list(data))
    if code == _SET:
        return set(_decode_list(data))
    if code == _FROZENSET:
        return frozenset(_decode_list(data))
    if code == _PAIRS:
        return dict(_decode_pairs(data))
    if code == _BIGINT:
        return int(bytes(data), 16)
    if code == _COMPLEX:
        return complex(*_decode_complex(data))
    if code in _ATOM_DECODERS:
        return _ATOM_DECODERS[code](bytes(data))
    if code in (_ARRAY, _SCALAR):
        return _decode_numpy(code, data)
    if code == _GRAPH:
        return GraphInstance(*_decode_list(data))
    if code == _OBJECTS:
        return _decode_objects(data)
    if code == _STRUCTURED:
        return _decode_structured(data)
    raise DecodeError(f"unknown extension type {code}")


def _decode_number(dtype: np.dtype[Any], data: memoryview) -> Any:
    if data.nbytes != dtype.itemsize:  # not its len, which is wrong in msgspec 0.19
        raise DecodeError(f"{data.nbytes} bytes are not one {dtype}")
    return np.ndarray((), dtype, data)[()]


def _decode_numpy(code: int, data: memoryview) -> Any:
    dtype_text, shape, content = _decode_parts(data)
    dtype = decode_dtype(dtype_text)
    _checked_shape(shape)
    if dtype.itemsize == 0:
        if math.prod(shape) > _MAX_EMPTY:
            raise DecodeError(f"an array of shape {shape} is never stored without its elements")
        array = np.ndarray(shape, dtype)  # np.zeros would give each item a byte
    else:
        array = np.frombuffer(content, dtype).reshape(shape).copy()
    if dtype.kind == "U" and array.size:
        _check_characters(array)
    return array[()] if code == _SCALAR else array


def _check_characters(texts: np.ndarray[Any, Any]) -> None:
    """NumPy takes any four bytes for a character, and fails only when it is looked at."""
    codes = texts.reshape(-1).view(np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder))
    if codes.max(initial=0) > sys.maxunicode:
        raise DecodeError("not valid unicode in an array of texts")


def _decode_objects(data: memoryview) -> Any:
    shape, items = _decode_items(data)
    array = np.empty(len(items), object)
    for position, item in enumerate(items):
        array[position] = item  # NumPy would look into a list of lists
    return array.reshape(_checked_shape(shape))


def _decode_structured(data: memoryview) -> Any:
    shape, is_scalar, fields = _decode_fields(data)
    shape = list(_checked_shape(shape))
    for name, array in fields:
        if not isinstance(array, np.ndarray) or list(array.shape[: len(shape)]) != shape:
            raise DecodeError(f"the field {name!r} is no array of shape {shape}")
    formats = [(array.dtype, array.shape[len(shape) :]) for _, array in fields]
    dtype = np.dtype({"names": [name for name, _ in fields], "formats": formats})
    if dtype.itemsize == 0 and math.prod(shape) > _MAX_EMPTY:
        raise DecodeError(f"an array of shape {shape} is never stored without its elements")
    structured = np.empty(shape, dtype)
    for name, array in fields:
        structured[name] = array
    return structured[()] if is_scalar else structured


def _checked_shape(shape: list[int]) -> list[int]:
    if min(shape, default=0) < 0:  # to `reshape`, -1 is whatever fits
        raise DecodeError(f"{shape} is no shape")
    return shape


_decoder = msgspec.msgpack.Decoder(ext_hook=_decode_extension)
# What extensions hold. An array in the place of a list could claim more items than there are bytes.
_decode_list = msgspec.msgpack.Decoder(list[Any], ext_hook=_decode_extension).decode
_decode_pairs = msgspec.msgpack.Decoder(list[tuple[Any, Any]], ext_hook=_decode_extension).decode
_decode_complex = msgspec.msgpack.Decoder(tuple[float, float]).decode
_decode_parts = msgspec.msgpack.Decoder(tuple[str, list[int], bytes]).decode
_decode_items = msgspec.msgpack.Decoder(
    tuple[list[int], list[Any]], ext_hook=_decode_extension
).decode
_decode_fields = msgspec.msgpack.Decoder(
    tuple[list[int], bool, list[tuple[str, Any]]], ext_hook=_decode_extension
).decode
_ATOM_DECODERS: Final = {atom.code: atom.decode for atom in ATOMS.values()}
