"""What commands print: tables for people, columns and JSON for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from json import dumps
from typing import Any

import typer

__all__ = ["as_plain", "print_json", "print_list", "print_row", "print_text", "printable"]


def printable(text: str) -> str:
    """Stored text without characters that would control the terminal."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


def print_text(text: str) -> None:
    """Print what may hold stored text."""
    typer.echo(printable(text))


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
) -> None:
    """Print items: a table on a terminal; elsewhere a line for each, tab-separated or JSON.

    Args:
        items: Frozen records.
        json: Whether to print JSON.
        columns: The attributes that are tab-separated.
        table: The cells of the table, by the names of its columns.
    """
    if json:
        lines = [dumps(as_plain(item)) for item in items]
    elif sys.stdout.isatty():
        from jamboree_gym.tables.text_table import text_table

        lines = [printable(text_table(table(items), rows=len(items)))] if items else []
    else:
        lines = ["\t".join(_cell(getattr(item, name)) for name in columns) for item in items]
    if lines:
        typer.echo("\n".join(lines))


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
    return printable(text).replace("\n", "\\n")
