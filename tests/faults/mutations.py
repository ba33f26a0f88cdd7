"""Bytes of the store, changed: as chance would do it, and as somebody would who means harm."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

__all__ = ["Mutate", "mutate_bytes", "mutate_json", "mutate_msgpack"]

Mutate = Callable[[Random, bytes], bytes]

# Numbers at which something ends: a sign, a byte, a dtype, a dimension, what memory holds.
NUMBERS = [0, 1, 2, 7, 8, 64, 65, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31]
NUMBERS += [2**32 - 1, 2**40, 2**52, 2**53 + 1, 2**62, 2**63 - 1]
PICKLE = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch canary\x85R."
NAMES = ["antigravity:fly", "os.system", "__reduce__", "__class__", "builtins:eval", "O", "|O8"]
NAMES += ["<f8", "<f16", "|b1", ">i8", "<M8[s]", "<U2147483647", "|S0", "|V0", "(9,9)f8", "\ud800"]
BYTES = [PICKLE, b"", b"\x00" * 9, b"\xff" * 16, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
BYTES += [b"\xc9\xff\xff\xff\xff\x07", b"\x91" * 10_000, b"[" * 10_000, b"NaN", b'{"a":' * 3000]
EXTENSIONS = [*range(12), 32, 33, 43, 45, 46, 127, -1]


def _number(rng: Random) -> int:
    return rng.choice(NUMBERS) * rng.choice([1, 1, -1]) + rng.choice([0, 0, 1, -1])


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """A few changes that know nothing of what the bytes mean."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        content = _changed(rng, bytearray(content))
    return content


def _changed(rng: Random, content: bytearray) -> bytes:
    size = len(content)
    at, stop = sorted((rng.randint(0, size), rng.randint(0, size)))
    stop = min(stop, at + rng.choice([1, 4, 16, 10**9]))
    what = rng.randrange(9)
    if what == 0 and size:
        content[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif what == 1:
        content[at:stop] = b""
    elif what == 2:
        content[at:at] = content[at:stop] * rng.choice([1, 1, 3])
    elif what == 3:
        piece = content[at:stop]
        content[at:stop] = b""
        place = rng.randint(0, len(content))
        content[place:place] = piece
    elif what == 4:
        content[at:at] = rng.choice(BYTES)
    elif what == 5:
        content[at:stop] = rng.randbytes(stop - at)
    elif what == 6:
        content[at:] = b""
    elif size >= 8:  # a number where numbers stand
        form, step = rng.choice([("B", 1), ("<I", 4), ("<Q", 4), ("<H", 2), (">I", 1), (">H", 1)])
        place = rng.randrange(0, size - 7, step)
        old = struct.unpack_from(form, content, place)[0]
        new = _number(rng) if rng.random() < 0.6 else old + rng.choice([1, -1, 8, -8])
        struct.pack_into(form, content, place, new % 2 ** (8 * struct.calcsize(form)))
    return bytes(content)


# -- trees: the same for msgpack and JSON ---------------------------------------------------


@dataclass
class _Extension:
    """A msgpack extension that holds msgpack."""

    code: int
    inner: Any


def _slots(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree where something may be put: what holds it, and its key there."""
    found, open_ones = [], [tree]
    while open_ones:
        holder = open_ones.pop()
        if isinstance(holder, _Extension):
            pairs = [("inner", holder.inner)]
        else:
            pairs = list(holder.items() if isinstance(holder, dict) else enumerate(holder))
        found += [(holder, key) for key, _ in pairs]
        open_ones += [part for _, part in pairs if isinstance(part, (dict, list, _Extension))]
    return found


def _get(holder: Any, key: Any) -> Any:
    return holder.inner if isinstance(holder, _Extension) else holder[key]


def _put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, _Extension):
        holder.inner = value
    else:
        holder[key] = value


def _mutate_tree(rng: Random, tree: list[Any], nasty: Callable[[Random, Any], Any]) -> None:
    """Change a few places of what a list holds."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        slots = _slots(tree)
        if not slots:
            return
        holder, key = rng.choice(slots)
        value = _get(holder, key)
        what = rng.randrange(8)
        if what == 0 and holder is not tree and not isinstance(holder, _Extension):
            del holder[key]
        elif what == 1 and isinstance(holder, list) and holder is not tree:
            holder.insert(rng.randint(0, len(holder)), value)
        elif what == 2:
            other = rng.choice(slots)
            other_value = _get(*other)
            if not _holds(other_value, holder):
                _put(holder, key, other_value)
        elif what == 3 and isinstance(holder, dict):
            del holder[key]
            holder[rng.choice([*NAMES, *NUMBERS, 0.5, None])] = value
        else:
            _put(holder, key, nasty(rng, value))


def _holds(tree: Any, part: Any) -> bool:
    if tree is part:
        return True
    if isinstance(tree, _Extension):
        return _holds(tree.inner, part)
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return any(_holds(one, part) for one in parts)


def _nasty(rng: Random, value: Any) -> Any:
    """Something else than this value, near to it or far from it."""
    if isinstance(value, str) and rng.random() < 0.4:
        at = rng.randint(0, len(value))
        return value[:at] + rng.choice([*NAMES, "", "9" * rng.choice([1, 5000])]) + value[at:]
    if isinstance(value, int) and rng.random() < 0.4:
        return value + rng.choice([1, -1])
    choice = rng.randrange(8)
    if choice == 0:
        return rng.choice([None, True, False, [], {}, "", [[]], [None], [0, 0], {"kind": "dict"}])
    if choice == 1:
        return rng.choice([float("nan"), float("inf"), -float("inf"), -0.0, 1e308, 0.5])
    if choice == 2:
        return rng.choice(NAMES)
    if choice == 3:
        return [_number(rng) for _ in range(rng.choice([1, 2, 3, 65]))]
    if choice == 4:
        return [value] * rng.choice([1, 2, 40])
    if choice == 5:
        return {rng.choice(NAMES): value}
    return _number(rng)


# -- msgpack --------------------------------------------------------------------------------


def mutate_msgpack(rng: Random, content: bytes) -> bytes:
    """Other msgpack of much the same form; bytes that hold msgpack are changed inside as well."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, content)
    try:
        tree = [_opened(msgspec.msgpack.decode(content))]
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return mutate_bytes(rng, content)
    _mutate_tree(rng, tree, _nasty_msgpack)
    try:
        return _packed(tree[0])
    except (OverflowError, RecursionError, TypeError, ValueError):
        return mutate_bytes(rng, content)


def _opened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _opened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_opened(item) for item in value]
    if isinstance(value, msgspec.msgpack.Ext):
        try:
            return _Extension(value.code, _opened(msgspec.msgpack.decode(value.data)))
        except (msgspec.MsgspecError, ValueError):
            return value
    return value


def _closed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _closed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if isinstance(value, _Extension):
        return msgspec.msgpack.Ext(value.code, _packed(value.inner))
    return value


def _packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(_closed(value))


def _other_msgpack(rng: Random, content: bytes) -> bytes:
    """Whole msgpack of another kind."""
    return msgspec.msgpack.encode(rng.choice([None, 5, 1.5, "a", b"", [], [1], {}, {"a": content}]))


def _nasty_msgpack(rng: Random, value: Any) -> Any:
    if isinstance(value, (bytes, msgspec.msgpack.Ext)) and rng.random() < 0.6:
        inner = value if isinstance(value, bytes) else bytes(value.data)
        inner = rng.choice([mutate_bytes, mutate_msgpack, _other_msgpack])(rng, inner)
        return inner if isinstance(value, bytes) else msgspec.msgpack.Ext(value.code, inner)
    choice = rng.randrange(6)
    if choice == 0:
        return _Extension(rng.choice(EXTENSIONS), value)
    if choice == 1:
        shape = [_number(rng) for _ in range(rng.randrange(4))]
        content = bytes(rng.choice([0, 0, 8, 64]))
        return _Extension(rng.choice([7, 8]), [rng.choice(NAMES), shape, content])
    if choice == 2:
        return msgspec.msgpack.Ext(rng.choice(EXTENSIONS), rng.choice(BYTES))
    if choice == 3:
        return rng.choice(BYTES)
    return _nasty(rng, value)


# -- JSON -----------------------------------------------------------------------------------


def mutate_json(rng: Random, content: bytes) -> bytes:
    """Other JSON of much the same form."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, content)
    try:
        tree = [json.loads(content)]
    except (ValueError, RecursionError):
        return mutate_bytes(rng, content)
    _mutate_tree(rng, tree, _nasty)
    try:
        return json.dumps(tree[0]).encode()
    except (RecursionError, TypeError, ValueError):
        return mutate_bytes(rng, content)
