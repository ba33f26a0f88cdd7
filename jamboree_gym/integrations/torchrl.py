"""Recorded steps for TorchRL: TensorDicts, and a replay buffer filled with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.trees import LeafPath, numbers_of, path_shown
from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection
from jamboree_gym.errors import ExportError, MissingExtra
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.bulk_read import Block, read_blocks
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.records import Transitions

try:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import Sampler
except ImportError as error:
    raise MissingExtra("this needs TorchRL: pip install 'jamboree-gym[torchrl]'") from error

__all__ = ["tensordicts", "to_replay_buffer", "to_tensordict"]

_Columns = dict[LeafPath, npt.NDArray[Any]]


@checked
def to_tensordict(
    query: EpisodeQuery, *, annotations: Sequence[str] = (), progress: bool | Progress = False
) -> TensorDict:
    """All steps of all episodes as one TensorDict, in the order of the episodes.

    Its keys are those of a rollout in `torchrl.envs.GymWrapper`, so that TorchRL's losses and
    samplers work with it.

    Example:
        >>> data = to_tensordict(jam.episodes(run="first"))
        >>> data["next", "reward"].sum()

    Args:
        query: The episodes.
        annotations: Names of annotations to include.
        progress: Whether to show on stderr how many episodes have been read; or a function that is
            called with that number and the number of all.

    Returns:
        A TensorDict of batch size [N], the number of steps:

        - `observation` (N, ...) and `("next", "observation")`: before and after the action. A dict
          has an entry for each key, as in TorchRL; a tuple is `("observation", "0")`, .... Floats
          of shape () are (N, 1), as in a rollout; the same holds for actions.
        - `action` (N, ...), chosen from `observation`; integers stay integers.
        - `("next", "reward")` float32 (N, 1), or (N, ...) where a reward is several numbers.
        - `("next", "terminated")`, `("next", "truncated")`, `("next", "done")` bool (N, 1). An
          episode without an end (abandoned, interrupted, still running) is truncated at its last
          step. `terminated`, `truncated`, `done`: false, as before any step.
        - `step_count` int64 (N, 1), and `("next", "step_count")`.
        - `episode` and `("collector", "traj_ids")` int64 (N,): position of the episode in the
          query. `SliceSampler` takes one or the other as `traj_key`.
        - `("annotation", name)`, of a dict `("annotation", name, key)`; NaN (0 if it is no float)
          for steps without this annotation.

    Raises:
        ExportError: Values without fixed shape, or episodes whose leaves differ; names the leaf.
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    parts = list(tensordicts(query, annotations=annotations, progress=progress))
    if not parts:
        raise ExportError(f"no steps in {query!r}: a TensorDict of none has no keys")
    return torch.cat(parts)


@checked
def tensordicts(
    query: EpisodeQuery, *, annotations: Sequence[str] = (), progress: bool | Progress = False
) -> Iterator[TensorDict]:
    """As `to_tensordict`, in parts of about 8 MB; a short episode is never split."""
    return _tensordicts(*found_by(query), annotations, progress)


def _tensordicts(
    connection: Connection, found: Found, annotations: Sequence[str], progress: bool | Progress
) -> Iterator[TensorDict]:
    positions = {one.id: position for position, one in enumerate(found)}
    lengths = {one.id: one.steps for one in found}
    known: dict[LeafPath, tuple[np.dtype[Any], tuple[int, ...], str]] = {}
    for blocks in reported(read_blocks(connection, found), len(found), progress):
        parts = []
        for block in blocks:
            if block.steps.sum():
                parts.append(_columns(block, positions, lengths, annotations))
                _check_alike(parts[-1], known, block.ids[0])
        if parts:
            yield _tensordict(parts)


@checked
def to_replay_buffer(
    query: EpisodeQuery,
    *,
    sampler: Sampler | None = None,
    batch_size: int | None = None,
    folder: str | Path | None = None,
    annotations: Sequence[str] = (),
    progress: bool | Progress = False,
) -> TensorDictReplayBuffer:
    """A TorchRL replay buffer that holds all steps of these episodes.

    Example:
        >>> sampler = SliceSampler(slice_len=8, traj_key="episode")
        >>> buffer = to_replay_buffer(jam.episodes(), sampler=sampler, batch_size=256)
        >>> batch = buffer.sample()

    Args:
        query: The episodes.
        sampler: How to sample; None: single steps, uniformly.
        batch_size: Number of steps in a sample.
        folder: Folder of memory-mapped files that hold the steps; None = in memory.
        annotations: As in `to_tensordict`.
        progress: As in `to_tensordict`.

    Raises:
        ExportError: As in `to_tensordict`, or there are no steps.
    """
    connection, found = found_by(query)  # once: while others record, a second look finds more
    size = sum(one.steps for one in found)
    if not size:
        raise ExportError(f"no steps in {query!r}: a replay buffer of none cannot be sampled")
    storage = LazyTensorStorage(size)
    if folder is not None:
        storage = LazyMemmapStorage(size, scratch_dir=str(folder))
    options = {} if sampler is None else {"sampler": sampler}
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=batch_size, **options)
    for part in _tensordicts(connection, found, annotations, progress):
        buffer.extend(part)
    return buffer


@np.errstate(all="ignore")  # beyond float32 a reward is infinite
def _columns(
    block: Block,
    positions: Mapping[str, int],
    lengths: Mapping[str, int],
    annotations: Sequence[str],
) -> _Columns:
    steps, first = block.transitions(), block.ids[0]
    episode = np.array([positions[id] for id in block.ids]).repeat(block.steps)
    is_last = np.array([lengths[id] for id in block.ids]).repeat(block.steps) == steps.indices + 1
    truncated = steps.truncations | (is_last & ~steps.terminations)
    nothing = np.zeros(len(steps), np.bool_)
    columns: _Columns = {
        ("done",): nothing[:, None],
        ("terminated",): nothing[:, None],
        ("truncated",): nothing[:, None],
        ("step_count",): steps.indices[:, None],
        ("episode",): episode,
        ("collector", "traj_ids"): episode,
        ("next", "reward"): _with_a_dimension(steps.rewards.astype(np.float32)),
        ("next", "done"): (steps.terminations | truncated)[:, None],
        ("next", "terminated"): steps.terminations[:, None],
        ("next", "truncated"): truncated[:, None],
        ("next", "step_count"): steps.indices[:, None] + 1,
    }
    for name in annotations:
        columns.update(_annotation(block, steps, name))
    for path, leaf in numbers_of(steps.actions, "action", episode=first, into="TorchRL"):
        columns[path] = _as_in_a_rollout(leaf)
    taken = {path[0] for path in columns}
    for before, values in (((), steps.observations), (("next",), steps.next_observations)):
        for path, leaf in numbers_of(values, "observation", episode=first, into="TorchRL"):
            key = path[1:] if isinstance(values, dict) else path
            if key[0] in taken:
                raise ExportError(f"{path_shown(path)}: TorchRL has {key[0]!r} for something else")
            columns[(*before, *key)] = _as_in_a_rollout(leaf)
    return columns


def _as_in_a_rollout(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Floats without a dimension have one in TorchRL; integers stay the numbers of categories."""
    return _with_a_dimension(values) if values.dtype.kind == "f" else values


def _with_a_dimension(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[:, None] if values.ndim == 1 else values


def _annotation(block: Block, steps: Transitions, name: str) -> Iterator[tuple[LeafPath, Any]]:
    """What the agent said, by its path; an `ExportError` if it never said that."""
    if name not in steps.annotations:
        raise ExportError(f"the agent did not say {name!r} in episode {block.ids[0]!r}")
    said = steps.annotations[name]
    return numbers_of(said, "annotation", name, episode=block.ids[0], into="TorchRL")


def _check_alike(
    columns: _Columns,
    known: dict[LeafPath, tuple[np.dtype[Any], tuple[int, ...], str]],
    episode: str,
) -> None:
    """Make sure that the columns are those of all episodes before; an `ExportError` names one."""
    kinds = {path: (values.dtype, values.shape[1:], episode) for path, values in columns.items()}
    if not known:
        known.update(kinds)
    for path in known.keys() | kinds.keys():
        one, other = known.get(path), kinds.get(path)
        if one is None or other is None or one[:2] != other[:2]:
            first = next(iter(known.values()))[2]
            raise ExportError(
                f"{path_shown(path)} is {_kind_shown(one)} in episode {first!r} and "
                f"{_kind_shown(other)} in {episode!r}: ask for episodes that are alike"
            )


def _kind_shown(kind: tuple[np.dtype[Any], tuple[int, ...], str] | None) -> str:
    return "not there" if kind is None else f"{kind[0]} {kind[1]}"


def _tensordict(parts: Sequence[_Columns]) -> TensorDict:
    """The steps of all parts, episode by episode."""
    joined = {path: np.concatenate([part[path] for part in parts]) for path in parts[0]}
    order = joined[("episode",)].argsort(kind="stable")
    found = TensorDict({}, batch_size=[len(order)])
    for path, values in joined.items():
        found[tuple(map(str, path))] = torch.from_numpy(values[order])
    return found
