"""Recorded episodes in the layout of RLDS, and back, for `tf.data` and TFDS; needs neither.

The layout is that of "RLDS: an Ecosystem to Generate, Share and Use Datasets in Reinforcement
Learning" (Ramos et al., 2021, https://arxiv.org/abs/2111.02767) and of the README of
https://github.com/google-research/rlds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.packing import Arrays
from jamboree_gym.arrays.trees import check_leaf, leaves_of, map_leaves
from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import DecodeError
from jamboree_gym.integrations.found_episodes import FoundEpisode, as_tree, store_found
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.episode_parts import EpisodePart, episode_parts
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.recording.importer import layout_of_rewards

__all__ = ["from_rlds", "to_rlds"]

_NEEDED = ("observation", "action", "reward", "is_last", "is_terminal")
_KNOWN = (*_NEEDED, "discount", "is_first")

log = logging.getLogger(__name__)

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


@checked
def from_rlds(
    jam: HasConnection,
    episodes: Iterable[Mapping[str, Any]],
    *,
    run: str,
    tags: Mapping[str, Any] | None = None,
    progress: bool | Progress = False,
) -> list[str]:
    """Store episodes in the form of RLDS as if they had been recorded: of `to_rlds`, of TFDS.

    Observations, actions and rewards keep their values and dtypes. The last step must have
    `is_last`, as RLDS demands, because it has the last observation. RLDS has no times, seeds,
    infos, spaces and versions. So the steps get the time of the import, a microsecond apart, and
    such an episode cannot be replayed. The discount, and other keys of a step, are left out.

    Call it a second time, also after a kill, with the same episodes in the same order: it adds
    those that are missing, and none twice.

    Example:
        >>> import tensorflow_datasets as tfds
        >>> episodes = tfds.as_numpy(tfds.load("d4rl_mujoco_halfcheetah", split="train"))
        >>> ids = from_rlds(jam, episodes, run="halfcheetah")

    Args:
        jam: The Jamboree that stores them.
        episodes: Dicts with `steps`, as `to_rlds` yields them. `episode_id`, `env_id` and `invalid`
            are used where they are there; without `episode_id`, its position names an episode.
        run: The run of the episodes.
        tags: Tags for all episodes, added to `imported_from` (`rlds`) and `imported_episode`.
        progress: Whether to show on stderr how many episodes there are; or a function that is
            called with that number and the number of all (of an iterator: those so far).

    Returns:
        Ids of the episodes, in their order.

    Raises:
        DecodeError: Something is missing, or an episode does not end with `is_last`; names it.
        InvalidRecord: A value or a tag cannot be stored.
        StoreUnavailable: Redis is away; call again when it is back.
    """
    total = len(episodes) if isinstance(episodes, Sized) else 0
    found = (_found(episode, position) for position, episode in enumerate(episodes))
    return store_found(
        jam, found, source="rlds", run=run, tags=tags, total=total, progress=progress
    )


def _found(episode: Mapping[str, Any], position: int) -> FoundEpisode:
    where = f"episode {position} of RLDS"
    try:
        steps = [dict(step) for step in episode["steps"]]
        lacking = [name for name in _NEEDED if not all(name in step for step in steps)]
        if lacking or not steps:
            raise DecodeError(f"{where} lacks {', '.join(lacking) or 'steps'}: it is no episode")
        if not steps[-1]["is_last"] or any(step["is_last"] for step in steps[:-1]):
            raise DecodeError(f"{where}: its last step, and no other, has to be is_last")
        if position == 0:
            _name_left_out(steps[0])
        actions = [step["action"] for step in steps]
        ends = np.zeros((2, len(steps) - 1), np.bool_)
        is_terminal, invalid = bool(steps[-1]["is_terminal"]), bool(episode.get("invalid", False))
        if len(steps) > 1:
            ends[0, -1], ends[1, -1] = is_terminal, not is_terminal and not invalid
        return FoundEpisode(
            _text(episode.get("episode_id", position)),
            as_tree([step["observation"] for step in steps]),
            map_leaves(lambda part: part[:-1], as_tree(actions)),
            _rewards(steps[:-1]),
            ends[0],
            ends[1],
            env_id=_text(episode.get("env_id", "")),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DecodeError(f"{where} cannot be read: {error}") from error


def _rewards(steps: Sequence[Mapping[str, Any]]) -> npt.NDArray[Any]:
    """float64 (T,), or (T, ...) where a reward is several numbers."""
    rewards = np.array([step["reward"] for step in steps])
    if layout_of_rewards(rewards).shape:
        return rewards
    return rewards.astype(np.float64).reshape(-1)


def _name_left_out(step: Mapping[str, Any]) -> None:
    left_out = sorted(set(step) - set(_KNOWN))
    if left_out:
        log.warning("the steps have %s, which an episode has no place for", ", ".join(left_out))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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
