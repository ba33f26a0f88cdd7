"""Runs Lua scripts on a simulated keyspace, as Redis does: Lua 5.1 by `lupa`, source unchanged."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from typing import Any

from lupa.lua51 import LuaError, LuaRuntime, lua_type
from redis_keyspace import Keyspace, Refused, Status, name_of

__all__ = ["FULL", "Scripts"]

FULL = "OOM command not allowed when used memory > 'maxmemory'."
_SHEBANG = re.compile(rb"#!lua(?: flags=([\w,-]*))?\n")
_WRITES_AGAIN = ("DEL", "HDEL", "LTRIM", "ZREM")  # a full server takes these, too
# What stands around each script. An error of a command is a table; `pcall` gives its text alone.
_AROUND = b"""
local host = ...
local function ask(...)
  local answer = host(...)
  if type(answer) == 'table' and answer.err then error(answer, 0) end
  return answer
end
local redis = {
  call = function(...) return ask('command', ...) end,
  pcall = function(...) return host('command', ...) end,
  sha1hex = function(...) return ask('sha1hex', ...) end,
  error_reply = function(text) return {err = text} end,
  status_reply = function(text) return {ok = text} end,
}
local struct = {
  pack = function(...) return ask('pack', ...) end,
  unpack = function(...) return unpack(ask('unpack', ...)) end,
}
local bit, cmsgpack, cjson = nil, nil, nil
local real_pcall = pcall
local function as_text(worked, first, ...)
  if not worked and type(first) == 'table' and first.err then first = first.err end
  return worked, first, ...
end
local function pcall(...) return as_text(real_pcall(...)) end
local function run(KEYS, ARGV)
"""
_END = b"""
end
return function(KEYS, ARGV)
  local worked, answer = real_pcall(run, KEYS, ARGV)
  if worked then return answer end
  if type(answer) == 'table' and answer.err then return answer end
  return {err = 'ERR ' .. tostring(answer) .. ' script: user_script'}
end
"""


# One for all servers: a script gets the commands of its server when it runs.
_LUA = LuaRuntime(encoding=None, register_eval=False)
_table = _LUA.table


@cache
def _compiled(source: bytes) -> tuple[Any, frozenset[bytes], bool]:
    """A script as a function, its flags, and whether its first line can have some."""
    first = _SHEBANG.match(source)
    flags = frozenset((first[1] or b"").split(b",")) if first else frozenset[bytes]()
    body = source[first.end() :] if first else source
    try:
        made = _LUA.execute(_AROUND + body + _END, _host)
    except LuaError as error:
        raise Refused(f"ERR Error compiling script (new function): {error}") from error
    return made, flags, first is not None


class Scripts:
    """All scripts that a server has been sent.

    Args:
        keyspace: What they work on.
        is_full: Whether the server's memory is used up.
    """

    def __init__(self, keyspace: Keyspace, is_full: Callable[[], bool] = lambda: False) -> None:
        self._keyspace = keyspace
        self._is_full = is_full
        self._loaded: dict[bytes, bytes] = {}
        self._may_grow = True
        self._has_written = False

    def load(self, source: bytes) -> bytes:
        """The digest under which a script is known from now on."""
        name = sha1(source, usedforsecurity=False).hexdigest().encode()
        self._loaded[name] = source
        return name

    def forget(self) -> None:
        """The server was started again."""
        self._loaded.clear()

    def run(self, name: bytes, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        """What a script answers.

        Raises:
            Refused: It failed, it is not known, or the server is full.
        """
        if name not in self._loaded:
            raise Refused("NOSCRIPT No matching script.")
        function, flags, has_shebang = _compiled(self._loaded[name])
        is_full = self._is_full() and b"allow-oom" not in flags
        if is_full and has_shebang and b"no-writes" not in flags:
            raise Refused(FULL)
        self._may_grow, self._has_written = not is_full, False
        _running.append(self)
        try:
            answer = function(_table(*keys), _table(*arguments))
        finally:
            _running.pop()
        found = _answer(answer)
        if isinstance(found, Refused):
            raise found
        return found

    def command(self, *call: Any) -> Any:
        """What `redis.call` answers."""
        texts = [one if type(one) is bytes else _text(one) for one in call]
        if self._may_grow:
            return self._keyspace.run(texts)
        name = name_of(texts[0])
        if not self._has_written and name in Keyspace.GROWS:
            raise Refused(FULL)
        answer = self._keyspace.run(texts)
        self._has_written = self._has_written or name in Keyspace.GROWS or name in _WRITES_AGAIN
        return answer


# -- what a script can call -------------------------------------------------------------------

_running: list[Scripts] = []


def _host(what: bytes, *arguments: Any) -> Any:
    """The one Python object that Lua knows, as lupa may take two for each other.

    An error is a table, too.
    """
    try:
        if what == b"command":
            answer = _running[-1].command(*arguments)
            return answer if type(answer) is bytes else _to_lua(answer)
        if what == b"unpack":
            return _table(*_unpack(*arguments))
        return _sha1hex(*arguments) if what == b"sha1hex" else _pack(*arguments)
    except (ArithmeticError, LookupError, Refused, TypeError, ValueError, struct.error) as error:
        return _LUA.table_from({b"err": str(error).encode()})


def _sha1hex(text: Any) -> bytes:
    return sha1(_text(text), usedforsecurity=False).hexdigest().encode()


def _pack(layout: bytes, *values: Any) -> bytes:
    given = [
        value if kind[-1] == "s" else float(value) if kind == "d" else int(value)
        for kind, value in zip(_kinds(layout), values, strict=True)
    ]
    return struct.pack(_python_layout(layout), *given)


def _unpack(layout: bytes, raw: bytes, start: float = 1) -> list[Any]:
    found = _python_struct(layout)
    at = int(start) - 1
    if at + found.size > len(raw):
        raise ValueError("bad argument #2 to 'unpack' (data string too short)")
    values = found.unpack_from(raw, at)
    numbers = [float(one) if isinstance(one, int) else one for one in values]
    return [*numbers, at + found.size + 1]


def _to_lua(answer: Any) -> Any:
    if type(answer) is bytes or type(answer) is int:
        return answer
    if answer is None:
        return False
    if isinstance(answer, Status):
        return _LUA.table_from({b"ok": bytes(answer)})
    if isinstance(answer, list):
        return _table(*[_to_lua(one) for one in answer])
    return answer


def _answer(found: Any) -> Any:
    """What a client gets of what a script returns."""
    if type(found) is bytes or type(found) is int:
        return found
    if found is None or found is False:
        return None
    if found is True:
        return 1
    if isinstance(found, float):
        return int(found)
    if lua_type(found) == "table":
        if found[b"err"] is not None:
            return Refused(found[b"err"].decode(errors="replace"))
        if found[b"ok"] is not None:
            return Status(found[b"ok"])
        answers = list[Any]()
        while (one := found[len(answers) + 1]) is not None:
            answers.append(_answer(one))
        return answers
    return found


def _text(value: Any) -> bytes:
    """What a command gets of an argument that a script gives it."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        is_whole = value == value // 1 and abs(value) < 1e17
        return str(int(value)).encode() if is_whole else repr(float(value)).encode()
    raise Refused("ERR Lua redis lib command arguments must be strings or integers")


@cache
def _kinds(layout: bytes) -> list[str]:
    """The formats of `struct` in Lua, as those of Python's."""
    named = {b"B": "B", b"I4": "I", b"I8": "Q", b"d": "d"}
    found = []
    for one in re.findall(rb"c\d+|I\d|[a-zA-Z]", layout):
        found.append(f"{one[1:].decode()}s" if one[:1] == b"c" else named[one])
    return found


@cache
def _python_struct(layout: bytes) -> struct.Struct:
    return struct.Struct(_python_layout(layout))


@cache
def _python_layout(layout: bytes) -> str:
    order = layout[:1].decode() if layout[:1] in (b"<", b">") else "<"
    return order + "".join(_kinds(layout))
