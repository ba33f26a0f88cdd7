"""What commands print: tables for people, columns and JSON for programs."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from json import dumps
from typing import Any

import typer

from jamboree_gym.cli.pager import is_paged
from jamboree_gym.wording import one_line

__all__ = [
    "as_plain",
    "encodable",
    "print_json",
    "print_lines",
    "print_list",
    "print_row",
    "print_text",
    "printable",
]

LINES_AT_ONCE = 500  # `head` ends it after the first ones
_BARS = str.maketrans("▁▂▃▄▅▆▇█", "_.-=+*%#")  # of sparklines, where a terminal has only ASCII


def printable(text: str, *, lines: bool = False) -> str:
    """Stored text without characters that would control the terminal.

    Args:
        text: The text.
        lines: Whether it may have several lines. What is put into one of them has to be a line of
            its own (`one_line`), or it could forge others.
    """
    return "\n".join(map(one_line, text.split("\n"))) if lines else one_line(text)


def print_text(text: str) -> None:
    """Print a line that may hold stored text."""
    typer.echo(encodable(printable(text)))


def print_lines(text: str) -> None:
    """Print a text of several lines, each of which may hold stored text.

    What is too long for a terminal goes through a pager there.
    """
    shown = encodable(printable(text, lines=True))
    if not is_paged(shown):
        typer.echo(shown)


def encodable(text: str) -> str:
    """The text with other bars where the terminal has none of those."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_BARS)
    return text


def print_json(value: object) -> None:
    """Print a line of JSON."""
    typer.echo(dumps(as_plain(value)))


def print_row(cells: Iterable[object]) -> None:
    """Print a line of columns with tabs between them."""
    typer.echo("\t".join(map(_cell, cells)))


def print_list(
    items: Sequence[Any],
    *,
    json: bool,
    columns: Sequence[str],
    table: Callable[[Sequence[Any]], Mapping[str, Sequence[object]]],
    as_shown: Callable[[Any], Any] | None = None,
) -> None:
    """Print items: a table on a terminal; elsewhere a line for each, tab-separated or JSON.

    Args:
        items: Frozen records.
        json: Whether to print JSON.
        columns: The attributes that are tab-separated.
        table: The cells of the table, by the names of its columns.
        as_shown: Makes what is printed of an item; called when it is.
    """
    if not json and sys.stdout.isatty():
        from jamboree_gym.tables.text_table import text_table

        if items:
            shown = items if as_shown is None else list(map(as_shown, items))
            width = shutil.get_terminal_size().columns
            lines = text_table(table(shown), rows=len(items)).splitlines()
            print_lines("\n".join(_cut(line, width) for line in lines))
        return
    for first in range(0, len(items), LINES_AT_ONCE):
        part = items[first : first + LINES_AT_ONCE]
        if as_shown is not None:
            part = list(map(as_shown, part))
        if json:
            lines = [dumps(as_plain(item)) for item in part]
        else:
            lines = ["\t".join(_cell(getattr(item, name)) for name in columns) for item in part]
        typer.echo("\n".join(lines))


def _cut(line: str, width: int) -> str:
    """A line of a table that a narrow terminal does not break; `>` says that there is more."""
    return line if len(line) <= width else f"{line[: width - 1]}>"


def as_plain(value: Any) -> Any:
    """A value as JSON has it: a record by its attributes, an array as lists, NaN as null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): as_plain(one) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in fields(value) if not one.name.startswith("_")]
        return {name: as_plain(getattr(value, name)) for name in names}
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_plain(one) for one in value]
    if hasattr(value, "tolist"):  # an array, or a number of NumPy
        return as_plain(value.tolist())
    return str(value)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else dumps(as_plain(value))
    return printable(text)
