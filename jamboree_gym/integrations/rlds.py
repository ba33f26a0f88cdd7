"""Recorded episodes in the layout of RLDS, for `tf.data` and TFDS; needs neither.

The layout is that of "RLDS: an Ecosystem to Generate, Share and Use Datasets in Reinforcement
Learning" (Ramos et al., 2021, https://arxiv.org/abs/2111.02767) and of the README of
https://github.com/google-research/rlds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jamboree_gym.arrays.packing import Arrays
from jamboree_gym.arrays.trees import check_leaf, leaves_of, map_leaves
from jamboree_gym.checked import checked
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.episode_parts import EpisodePart, episode_parts
from jamboree_gym.reading.query import EpisodeQuery, found_by

__all__ = ["to_rlds"]

_BROKE_OFF = ("abandoned", "interrupted", "running")


@checked
def to_rlds(query: EpisodeQuery, *, progress: bool | Progress = False) -> Iterator[dict[str, Any]]:
    """The episodes one by one in the form of RLDS; about 8 MB are read at once.

    An episode of T steps has T + 1 steps in RLDS, one for each observation. A step's action was
    chosen *from* its observation; its reward and discount are the result of that action. The last
    step has the last observation; its action, reward and discount are zeros without meaning.

    Example:
        >>> for episode in to_rlds(jam.episodes(run="first")):
        ...     for step in episode["steps"]:
        ...         print(step["observation"], step["action"], step["is_last"])

    Args:
        query: The episodes.
        progress: Whether to show on stderr how many episodes have been read; or a function that is
            called with that number and the number of all.

    Yields:
        A dict for each episode:

        - `steps`: a list of dicts with `observation` and `action` (as recorded, dicts and tuples
          too), `reward` (float64 or array), `discount` (float32: 0 where the episode terminated
          with this step, else 1), `is_first`, `is_last`, `is_terminal` (bool; the last one of an
          episode that terminated).
        - `episode_id`, `experiment_id` (the run), `env_id`.
        - `invalid`: whether the environment did not end it (abandoned, interrupted, still running).

    Raises:
        ExportError: Values without fixed shape that are no texts; names the leaf.
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    connection, found = found_by(query)
    steps: list[dict[str, Any]] = []
    for part in reported(episode_parts(connection, found), len(found), progress):
        steps += _steps(part)
        if part.is_last:
            yield {
                "steps": steps,
                "episode_id": part.summary.id,
                "experiment_id": part.summary.run,
                "env_id": part.summary.env_id,
                "invalid": part.summary.status in _BROKE_OFF,
            }
            steps = []


def _steps(part: EpisodePart) -> Iterator[dict[str, Any]]:
    rows, count = part.rows, len(part.rows) - 1
    for name, arrays in (("observation", rows.observations), ("action", rows.actions)):
        for path, values in leaves_of(arrays, name):
            check_leaf(path, values, into="RLDS", episode=part.summary.id)
    for k in range(count):
        yield {
            "observation": _value(rows.observations, k),
            "action": _value(rows.actions, k + 1),
            "reward": rows.rewards[k + 1],
            "discount": np.float32(not rows.terminations[k + 1]),
            "is_first": part.is_first and k == 0,
            "is_last": False,
            "is_terminal": False,
        }
    if part.is_last:
        yield {
            "observation": _value(rows.observations, count),
            "action": _zeros_like(_value(rows.actions, count)),
            "reward": _zeros_like(rows.rewards[count]),
            "discount": np.float32(0),
            "is_first": part.is_first and count == 0,
            "is_last": True,
            "is_terminal": bool(rows.terminations[count]),
        }


def _value(arrays: Arrays, row: int) -> Any:
    """One value; parts of dicts and tuples are NumPy's, or texts."""
    if isinstance(arrays, dict):
        return {name: _value(part, row) for name, part in arrays.items()}
    if isinstance(arrays, (list, tuple)):
        return tuple(_value(part, row) for part in arrays)
    return arrays[row]


def _zeros_like(value: Any) -> Any:
    """A value of zeros, and empty texts."""
    return map_leaves(lambda part: "" if isinstance(part, str) else np.zeros_like(part), value)
