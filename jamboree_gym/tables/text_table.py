"""Small tables for people: as text on a terminal, as HTML in a notebook."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from jamboree_gym.errors import JamboreeError
from jamboree_gym.records import brief_return
from jamboree_gym.wording import shortened

if TYPE_CHECKING:
    from jamboree_gym.records import EpisodeSummary

__all__ = [
    "MAX_ROWS",
    "ReadWhenShown",
    "ago",
    "averaged",
    "episode_columns",
    "html_table",
    "number",
    "sparkline",
    "text_table",
]

MAX_ROWS = 20
MAX_CELL = 32  # characters
_BARS = "▁▂▃▄▅▆▇█"

Columns = Mapping[str, Sequence[object]]
"""Cells by the name of their column; those that are numbers are aligned to the right."""


class ReadWhenShown(ABC):
    """Is read from a store when it is shown. If that fails, its `repr` and the reason are shown."""

    @abstractmethod
    def _as_text(self) -> str:
        """What `print` shows."""

    @abstractmethod
    def _as_html(self) -> str:
        """What a notebook shows."""

    def __str__(self) -> str:
        """What is stored, for people."""
        try:
            return self._as_text()
        except JamboreeError as error:
            return f"{self!r}: {error}"

    def _repr_html_(self) -> str:
        """What is stored, for a notebook."""
        try:
            return self._as_html()
        except JamboreeError as error:
            return escape(f"{self!r}: {error}")


def episode_columns(found: Sequence[EpisodeSummary], now: float) -> dict[str, list[object]]:
    """What a table of episodes shows of each, `now` in epoch seconds."""
    return {
        "episode": [one.id for one in found],
        "run": [one.run for one in found],
        "environment": [one.env_id for one in found],
        "status": [one.status for one in found],
        "steps": [one.steps for one in found],
        "return": [return_cell(one) for one in found],
        "began": [ago(one.started_at, now) for one in found],
    }


def return_cell(one: EpisodeSummary) -> object:
    """What a table shows of the return of an episode."""
    return number(one.episode_return) if one.returns is None else brief_return(one)


def text_table(columns: Columns, *, rows: int) -> str:
    """A table of a few lines.

    Args:
        columns: The first `MAX_ROWS` cells of each column, or all.
        rows: Number of rows of the whole table; those that are left out are counted in a last line.
    """
    texts = {name: [_cell(one) for one in cells] for name, cells in columns.items()}
    widths = {name: max(map(len, [name, *cells])) for name, cells in texts.items()}
    is_number = {name: all(map(_is_number, cells)) for name, cells in columns.items()}

    def line(cells: Mapping[str, str]) -> str:
        aligned = [
            cell.rjust(widths[name]) if is_number[name] else cell.ljust(widths[name])
            for name, cell in cells.items()
        ]
        return "  ".join(aligned).rstrip()

    shown = min(rows, *(len(cells) for cells in texts.values()))
    lines = [line({name: name for name in texts})]
    lines += [line({name: cells[row] for name, cells in texts.items()}) for row in range(shown)]
    return "\n".join([*lines, *_rest(rows - shown)])


def html_table(columns: Columns, *, rows: int) -> str:
    """The same as HTML; every cell is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in zip(*columns.values(), strict=True)
    )
    shown = min(rows, *(len(cells) for cells in columns.values()))
    rest = "".join(f"<p>{escape(line)}</p>" for line in _rest(rows - shown))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def number(value: float | None) -> str:
    """A number with four digits that count; `-` for none."""
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def ago(at: float | None, now: float) -> str:
    """How long ago something was, in the largest fitting unit."""
    if at is None:
        return "-"
    seconds = max(0.0, now - at)
    for unit, length in (("s", 60.0), ("min", 3600.0), ("h", 2 * 86400.0)):
        if seconds < length:
            return f"{seconds / {'s': 1, 'min': 60, 'h': 3600}[unit]:.0f} {unit} ago"
    return time.strftime("%Y-%m-%d", time.localtime(at))


def averaged(values: Sequence[float], most: int) -> list[float]:
    """The values, or, if there are more than `most`, `most` means of consecutive ones."""
    count = len(values)
    if count <= most:
        return list(values)
    cuts = [count * part // most for part in range(most + 1)]
    return [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(cuts)]


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The course of some values in a line, a gap for what is no finite number."""
    shown = averaged(values, width)
    finite = [one for one in shown if math.isfinite(one)]
    if not finite:
        return " " * len(shown)
    low, span = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return _BARS[round((value - low) / span * top) if 0 < span < math.inf else top // 2]

    return "".join(map(bar, shown))


def _cell(value: object) -> str:
    text = " ".join(("-" if value is None else str(value)).split())
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text
    return shortened(text, MAX_CELL)


def _is_number(value: object) -> bool:
    text = _cell(value)
    return text == "-" or text.replace(",", "").replace(".", "").lstrip("-").isdigit()


def _rest(count: int) -> list[str]:
    return [f"... and {count:,} more"] if count > 0 else []
