"""The server-side scripts, each a file in `lua/`: what must be decided in one atomic step.

Each file says what it takes (KEYS, ARGV) and answers. Scripts work on logs: lists whose element 0
is the head and whose other elements are batches, laid out as in `encoding/batch_format.py`. They
are sent by their digest (EVALSHA) and loaded again whenever the server has forgotten them.

A file may begin with `-- include: layout, search`: these parts are put in front of it.
"""

from __future__ import annotations

import struct
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

FEED_ENTRIES = 2_500
"""How many entries the feed of each bucket keeps."""

BORN = struct.Struct("<d")
"""How a script takes the birth of a log."""

PART_BYTES = 8 << 20
"""How large an answer a reader asks for at once."""

_LUA = files(__package__) / "lua"
_INCLUDE = "-- include: "


class Script(NamedTuple):
    """Source of a script and the digest under which the server knows it."""

    source: str
    sha: str


def compose(text: str, **constants: int) -> Script:
    """A script out of the text of a Lua file, with constants as locals.

    The text may begin with a line `#!lua flags=...`, which stays the first one, and then with a
    line `-- include: ...`, which names files to put in front.
    """
    lines = text.split("\n")
    parts = [lines.pop(0)] if lines[0].startswith("#!") else []
    if lines[0].startswith(_INCLUDE):
        parts += map(_text, lines.pop(0).removeprefix(_INCLUDE).split(", "))
    parts += [f"local {name} = {value}" for name, value in constants.items()]
    source = "\n".join([*parts, *lines])
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


@cache
def _text(name: str) -> str:
    return (_LUA / f"{name}.lua").read_text(encoding="ascii")


def _script(name: str, **constants: int) -> Script:
    return compose(_text(name), **constants)


EPOCH = _script("epoch")
APPEND = _script("append", feed_entries=FEED_ENTRIES)
READ = _script("read")
POP = _script("pop")
ACKNOWLEDGE = _script("acknowledge")
ADOPT = _script("adopt")
NAME_DESTINATION = _script("name_destination")
UNACKNOWLEDGE = _script("unacknowledge")
FINISH_ADOPTION = _script("finish_adoption")
STANDING = _script("standing")
RESTORE = _script("restore")
REPLACE = _script("replace")
REFILL = _script("refill")
LIST_EPISODES = _script("list_episodes")
REPLACE_SUMMARY = _script("replace_summary")
SET_COVERAGE = _script("set_coverage")
DELETE = _script("delete")
FORGET_DELETION = _script("forget_deletion")
NOTE_DELETIONS = _script("note_deletions")
ASSIGN_BIRTH = _script("assign_birth")
TRIM = _script("trim")
UNLIST_EPISODES = _script("unlist_episodes")
UNLIST_RUN = _script("unlist_run")
PUT = _script("put")
TAKE_LEAD = _script("take_lead")
RELEASE_LEAD = _script("release_lead")

ALL = tuple(value for value in list(vars().values()) if isinstance(value, Script))
