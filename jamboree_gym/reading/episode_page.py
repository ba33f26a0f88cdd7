"""An episode as one HTML file that needs nothing else: to be mailed, or opened years later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.errors import ExportError, InvalidArgument
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.part_folder import check_free, whole
from jamboree_gym.records import EpisodeSummary, StepData, Transitions, brief, brief_return
from jamboree_gym.wording import one_line

__all__ = ["write_page"]

ROWS = 1000  # of the table of steps
CURVES = 8  # of a vector that is observed
POINTS = 800  # of a curve
WIDTH, HEIGHT, MARGIN = 760, 130, 8
STEPS_PER_READ = 1024
SUFFIXES = (".html", ".htm")
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#0a7ea4", "#bf3989", "#57606a")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 0.5rem 0 } td, th { padding: 0.1rem 0.7rem 0.1rem 0;
text-align: left; vertical-align: top; overflow-wrap: anywhere } th { color: #57606a }
pre { white-space: pre-wrap; overflow-wrap: anywhere } svg { width: 100%; height: auto }
details > summary { cursor: pointer; font-weight: 600; margin: 1rem 0 0.3rem }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } }
"""


def write_page(episode: Episode, path: Path, *, overwrite: bool = False) -> Path:
    """Write an episode as one HTML file: summary, provenance, curves, and a table of its steps.

    It has no script and asks no server for anything; all that is stored is escaped. The file gets
    its name when it is complete.

    Args:
        episode: The episode.
        path: The file; ends in `.html`.
        overwrite: Whether an existing file is replaced.

    Raises:
        InvalidArgument: The path ends otherwise.
        ExportError: The file is there already, or cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"{path} is no .html file: nothing else is written")
    check_free(path, overwrite=overwrite)
    text = "".join(_page(episode))
    try:
        with whole(path) as draft:
            draft.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _page(episode: Episode) -> Iterator[str]:
    summary = episode.summary
    title = escape(one_line(f"{summary.run}: {summary.env_id or 'no spec'}, {summary.id[:12]}"))
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    )
    yield _facts(_of_summary(summary))
    curves, steps = _read(episode)
    for name, values in curves.items():
        yield _figure(name, values)
    yield _table_of_steps(steps, summary.steps)
    provenance = json.dumps(episode.provenance, indent=2, default=str, ensure_ascii=False)
    yield f"<details><summary>provenance</summary><pre>{escape(provenance)}</pre></details>\n"
    yield "</body></html>\n"


def _of_summary(summary: EpisodeSummary) -> Mapping[str, object]:
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(summary.started_at))
    origin = "" if summary.parent is None else f"step {summary.fork_step} of {summary.parent}"
    return {
        "episode": summary.id,
        "run": summary.run,
        "environment": summary.env_id or "no spec",
        "status": summary.status,
        "steps": f"{summary.steps:,}",
        "return": brief_return(summary),
        "began": began,
        "took": f"{summary.elapsed_s:.3g} s",
        "seed": "none" if summary.seed is None else summary.seed,
        "tags": ", ".join(f"{name}={value}" for name, value in summary.tags.items()) or "none",
        **({"forked from": origin} if origin else {}),
    }


def _facts(facts: Mapping[str, object]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(one_line(str(value)))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{rows}</table>\n"


# -- reading ------------------------------------------------------------------------------------


def _read(episode: Episode) -> tuple[dict[str, list[npt.NDArray[Any]]], list[StepData]]:
    """The curves, by their names, and the steps of the table; a part of the episode at a time."""
    parts: dict[str, list[npt.NDArray[Any]]] = {"reward": [], "action": [], "observation": []}
    steps: list[StepData] = []
    start = 0
    while len(part := episode.steps(start, start + STEPS_PER_READ)):
        steps += islice(part, ROWS - len(steps))
        for name, columns in _columns(part).items():
            parts[name].append(columns)
        start += len(part)
    joined = {name: _joined(found, start) for name, found in parts.items()}
    reward = joined["reward"]
    if reward:
        with np.errstate(all="ignore"):
            joined = {"return so far": [np.cumsum(one) for one in reward], **joined}
    return {name: curves for name, curves in joined.items() if curves}, steps


def _columns(part: Transitions) -> dict[str, npt.NDArray[Any]]:
    """What can be drawn of some steps: arrays (n, curves)."""
    found = {"reward": part.rewards, "action": part.actions, "observation": part.observations}
    return {name: shaped for name, one in found.items() if (shaped := _shaped(one)) is not None}


def _shaped(values: Any) -> npt.NDArray[Any] | None:
    is_array = isinstance(values, np.ndarray) and values.dtype.kind in "biuf"
    if not is_array or values.ndim > 2 or (values.ndim == 2 and not 0 < values.shape[1] <= CURVES):
        return None
    drawn: npt.NDArray[Any] = values.reshape(len(values), -1).astype(np.float64)
    return drawn


def _joined(found: Sequence[npt.NDArray[Any]], count: int) -> list[npt.NDArray[Any]]:
    """The curves, each of all steps; none where some steps have another shape."""
    widths = {one.shape[1] for one in found}
    if len(widths) != 1 or sum(map(len, found)) != count:
        return []
    return list(np.concatenate(found).T)


# -- as HTML ------------------------------------------------------------------------------------


def _figure(name: str, curves: Sequence[npt.NDArray[Any]]) -> str:
    finite = [one[np.isfinite(one)] for one in curves]
    known = np.concatenate(finite)
    if not len(known):
        return f"<h3>{escape(name)}</h3><p>no finite number</p>\n"
    low, high = float(known.min()), float(known.max())
    lines = "".join(
        _polyline(one, low, high, _COLOURS[number % len(_COLOURS)])
        for number, one in enumerate(curves)
    )
    label = escape(f"{name}: {low:.4g} to {high:.4g}, {len(curves[0]):,} steps")
    return (
        f'<h3>{label}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}">{lines}</svg>\n'
    )


def _polyline(values: npt.NDArray[Any], low: float, high: float, colour: str) -> str:
    """A curve; a gap where a value is no finite number."""
    places, shown = _thinned(values)
    x_of = _scale(0.0, float(max(1, len(values) - 1)), MARGIN, WIDTH - MARGIN)
    y_of = _scale(low, high, HEIGHT - MARGIN, MARGIN)
    parts: list[list[str]] = [[]]
    for place, value in zip(places.tolist(), shown.tolist(), strict=True):
        if np.isfinite(value):
            parts[-1].append(f"{x_of(place):.1f},{y_of(value):.1f}")
        elif parts[-1]:
            parts.append([])
    return "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" '
        f'points="{" ".join(points * 2 if len(points) == 1 else points)}"/>'
        for points in parts
        if points
    )


def _thinned(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Places and values; of many, the lowest and the highest of each span."""
    if len(values) <= 2 * POINTS:
        return np.arange(len(values)), values
    spans = np.array_split(np.arange(len(values)), POINTS)
    ends = [(span[np.argmin(values[span])], span[np.argmax(values[span])]) for span in spans]
    places = np.unique(np.array(ends).reshape(-1))
    return places, values[places]


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    """From a range of values to a range of places; the middle where all values are equal."""
    with np.errstate(all="ignore"):
        span = high - low
    if not 0 < span < np.inf:
        return lambda value: (first + last) / 2
    return lambda value: first + (value - low) / span * (last - first)


def _table_of_steps(steps: Sequence[StepData], count: int) -> str:
    names = ("step", "action", "reward", "next observation", "end", "info")
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(one_line(cell))}</td>" for cell in _cells(step)) + "</tr>\n"
        for step in steps
    )
    rest = count - len(steps)
    more = f"<p>and {rest:,} more steps, which are not in this file</p>" if rest > 0 else ""
    return (
        f"<details><summary>{len(steps):,} steps</summary><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{more}</details>\n"
    )


def _cells(step: StepData) -> tuple[str, ...]:
    end = "terminated" if step.terminated else "truncated" if step.truncated else ""
    values = (step.action, step.reward, step.next_observation)
    return (str(step.index), *map(brief, values), end, brief(step.info) if step.info else "")
