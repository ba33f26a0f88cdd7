"""Stable-Baselines3's replay buffers, filled with what was recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection
from jamboree_gym.errors import BufferMismatch, EpisodeNotFound
from jamboree_gym.integrations.sb3.buffers.buffer_slots import SlotSpan, ranges, rows_and_spans
from jamboree_gym.integrations.sb3.buffers.conversion import (
    Conversions,
    Converted,
    assign,
    provenances_of,
)
from jamboree_gym.integrations.sb3.buffers.live_replay import JamboreeReplayBuffer
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.bulk_read import Block, read_blocks
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.finding.ordering import by_start
from jamboree_gym.reading.query import EpisodeQuery, found_by

__all__ = ["fill_replay_buffer", "to_replay_buffer"]

_Buffer = TypeVar("_Buffer", bound=ReplayBuffer)
_Indices = npt.NDArray[np.int64]


@checked
def to_replay_buffer(
    query: EpisodeQuery,
    buffer_class: type[ReplayBuffer] | None = None,
    *,
    buffer_size: int | None = None,
    n_envs: int = 1,
    device: torch.device | str = "auto",
    progress: bool | Progress = False,
    **buffer_kwargs: Any,
) -> ReplayBuffer:
    """A replay buffer with the steps of these episodes, as if a model had played them.

    See `fill_replay_buffer` for its content.

    Example:
        >>> model = SAC("MlpPolicy", env)
        >>> model.replay_buffer = to_replay_buffer(jam.episodes(run="first"), buffer_size=100_000)
        >>> model.learn(10_000)

    Args:
        query: The episodes.
        buffer_class: `ReplayBuffer`, `DictReplayBuffer`, `HerReplayBuffer` or a subclass. None =
            the first, or for dict observations the second, as SB3 chooses.
        buffer_size: Number of steps, over all columns; None = those of the episodes.
        n_envs: Number of columns: the number of environments of the model that will train with it.
        device: Device of the samples.
        progress: Whether to show on stderr how many episodes have been read; or a function that is
            called with that number and the number of all.
        **buffer_kwargs: Other arguments of the class: `optimize_memory_usage`, `n_steps`; `env`
            for `HerReplayBuffer`.

    Raises:
        EpisodeNotFound: There is no such episode, or none with a step.
        BufferMismatch: They differ in their spaces, or were recorded above `VecNormalize`.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    connection, found = found_by(query)
    found = [one for one in by_start(found) if one.steps]
    if not found:
        raise EpisodeNotFound(f"no steps to fill a buffer with: {query!r}")
    conversions = Conversions(connection, None)
    _checked(connection, found[-1:], conversions)  # which spaces they are of
    observed, acted = conversions.spaces
    if buffer_class is None:
        buffer_class = DictReplayBuffer if isinstance(observed, spaces.Dict) else ReplayBuffer
    size = sum(one.steps for one in found) if buffer_size is None else buffer_size
    buffer = buffer_class(size, observed, acted, device=device, n_envs=n_envs, **buffer_kwargs)
    _fill(buffer, connection, found, progress)
    return buffer


@checked
def fill_replay_buffer(
    buffer: ReplayBuffer, query: EpisodeQuery, *, progress: bool | Progress = False
) -> int:
    """Add the steps of these episodes to a buffer, oldest first; only the newest if not all fit.

    Each `next_obs` is what the step returned; at an end, the real last observation. `dones` and
    `timeouts` are like `done` and `TimeLimit.truncated` of a VecEnv. An episode that has no end of
    its own (running, abandoned, interrupted) or was split ends with `dones` 0 and `timeouts` 1: SB3
    samples its last step as one that does not end the episode, and an `NStepReplayBuffer` stops
    there. With `optimize_memory_usage` the next episode overwrites the last observation, so every
    end counts as terminal, as always in SB3. `HerReplayBuffer` samples all episodes, also those
    without an end, as it does after SB3 has loaded a buffer from a file.

    Example:
        >>> fill_replay_buffer(model.replay_buffer, jam.episodes(run="first"))
        50000

    Args:
        buffer: The buffer, for example of a model; its steps stay as far as there is room. A
            `JamboreeReplayBuffer` refreshes itself, and ignores the query.
        query: The episodes.
        progress: As in `to_replay_buffer`.

    Returns:
        Number of added steps: all, or as many as fit. Each column gets the same number, so up to
        `n_envs - 1` of the oldest steps are left out.

    Raises:
        BufferMismatch: The buffer's spaces differ from the recorded ones, or the episodes were
            recorded above `VecNormalize`. Nothing was added.
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    if isinstance(buffer, JamboreeReplayBuffer):
        return _refreshed(buffer)
    connection, found = found_by(query)
    return _fill(buffer, connection, by_start(found), progress)


def _refreshed(buffer: JamboreeReplayBuffer) -> int:
    if not buffer.is_live:
        raise BufferMismatch(
            "a JamboreeReplayBuffer fills itself, and this one knows of no store: load the model "
            "with custom_objects={'replay_buffer_kwargs': Unsaved(jam=jam, ...)}"
        )
    return buffer.refresh()


def _fill(
    buffer: ReplayBuffer, connection: Connection, found: Found, progress: bool | Progress
) -> int:
    rows, spans = rows_and_spans(
        [one.steps for one in found],
        [one.vector_index for one in found],
        columns=buffer.n_envs,
        max_rows=buffer.buffer_size,
    )
    if not rows:
        return 0
    by_id: dict[str, list[SlotSpan]] = defaultdict(list)
    for span in spans:
        by_id[found[span.episode].id].append(span)
    needed = [one for one in found if one.id in by_id]
    conversions = Conversions(connection, (buffer.observation_space, buffer.action_space))
    digests = _checked(connection, needed, conversions)
    filling = _Filling(buffer, rows)
    for blocks in reported(read_blocks(connection, needed), len(needed), progress):
        for block in blocks:
            convert = conversions.of(block.ids[0], digests[block.ids[0]])
            steps = block.transitions()
            filling.add(block, [by_id[id] for id in block.ids], convert(steps), steps.infos)
    filling.finish(spans)
    return rows * buffer.n_envs


def _checked(connection: Connection, found: Found, conversions: Conversions) -> dict[str, str]:
    """The provenances of these episodes, each of which the buffer can take."""
    digests = dict(provenances_of(connection, [one.id for one in found]))
    for id, digest in digests.items():
        conversions.of(id, digest)
    return digests


class _Filling:
    """Writes into a buffer's arrays what calls of its `add` would have written, and quickly.

    Args:
        buffer: The buffer.
        rows: How many rows are going to be written.
    """

    def __init__(self, buffer: ReplayBuffer, rows: int) -> None:
        self._buffer = buffer
        self._rows = rows
        self._begin = buffer.pos
        self._last_observations: dict[int, Any] = {}  # of each column, where they are shared
        if buffer.size():
            _end_open_episodes(buffer)
        if isinstance(buffer, HerReplayBuffer):
            _forget_overwritten(buffer, rows)

    def add(
        self, block: Block, spans: Sequence[list[SlotSpan]], steps: Converted, infos: Sequence[Any]
    ) -> None:
        """Write what spans there are of the episodes in a block."""
        parts = list(_parts_in(block, spans))
        if not parts:
            return
        buffer, size = self._buffer, self._buffer.buffer_size
        sources, targets, lengths, columns, ends = (
            np.array(one) for one in zip(*parts, strict=True)
        )
        kept, at, column = (
            ranges(sources, lengths),
            ranges(targets, lengths),
            columns.repeat(lengths),
        )
        steps, rows = steps.part(kept), (self._begin + at) % size
        is_cut = np.zeros(len(at), np.bool_)
        is_cut[lengths.cumsum() - 1] = ends
        self._write(rows, column, steps, is_cut & ~steps.dones)
        if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
            for row, env, source in zip(rows, column, kept, strict=True):
                buffer.infos[row, env] = dict(infos[source])
        if buffer.optimize_memory_usage:
            for position in np.flatnonzero(at == self._rows - 1).tolist():
                self._last_observations[int(column[position])] = steps.next_observations[position]

    def _write(
        self, rows: _Indices, column: _Indices, steps: Converted, is_cut: npt.NDArray[np.bool_]
    ) -> None:
        buffer, is_shared = self._buffer, self._buffer.optimize_memory_usage
        assign(buffer.observations, rows, column, steps.observations)
        if not is_shared:
            assign(buffer.next_observations, rows, column, steps.next_observations)
        buffer.actions[rows, column] = steps.actions
        buffer.rewards[rows, column] = steps.rewards
        buffer.dones[rows, column] = steps.dones | is_cut if is_shared else steps.dones
        timeouts = steps.timeouts if buffer.handle_timeout_termination else np.False_
        buffer.timeouts[rows, column] = timeouts if is_shared else timeouts | is_cut

    def finish(self, spans: Sequence[SlotSpan]) -> None:
        """Say where the buffer ends now, and where its episodes do."""
        buffer, size = self._buffer, self._buffer.buffer_size
        end = self._begin + self._rows
        for column, observation in self._last_observations.items():
            buffer.observations[end % size, column] = observation
        buffer.full = buffer.full or end >= size
        buffer.pos = end % size
        if not isinstance(buffer, HerReplayBuffer):
            return
        for span in spans:
            length = span.stop - span.start
            start = self._begin + span.row
            rows = np.arange(start, start + length) % size
            buffer.ep_start[rows, span.column] = start % size
            buffer.ep_length[rows, span.column] = length
        buffer._current_ep_start[:] = buffer.pos


def _parts_in(
    block: Block, spans: Sequence[list[SlotSpan]]
) -> Iterator[tuple[int, int, int, int, bool]]:
    """What of the spans is in a block.

    Yields:
        From which of its steps on, to which row, how many, to which column, and whether it is the
        end of a span.
    """
    first = 0
    for of_episode, count in zip(spans, block.steps.tolist(), strict=True):
        for span in of_episode:
            start, stop = max(span.start, block.start), min(span.stop, block.start + count)
            if start < stop:
                source, row = first + start - block.start, span.row + start - span.start
                yield source, row, stop - start, span.column, stop == span.stop
        first += count


def _end_open_episodes(buffer: ReplayBuffer) -> None:
    """End the unfinished episodes in the buffer: the added steps do not continue them."""
    newest = buffer.pos - 1
    is_open = buffer.dones[newest] == 0
    if buffer.optimize_memory_usage:
        buffer.dones[newest, is_open] = 1
    else:
        buffer.timeouts[newest, is_open] = 1
    if isinstance(buffer, HerReplayBuffer):
        for column in np.flatnonzero(buffer._current_ep_start != buffer.pos).tolist():
            buffer._compute_episode_length(column)


def _forget_overwritten(buffer: HerReplayBuffer, rows: int) -> None:
    """An episode of which something is overwritten is not sampled any more."""
    size = buffer.buffer_size
    newest = (buffer.pos + rows - 1) % size
    for column in range(buffer.n_envs):
        length = int(buffer.ep_length[newest, column])
        before = int(newest - buffer.ep_start[newest, column]) % size
        left = np.arange(newest, newest + max(0, length - before)) % size
        buffer.ep_length[left, column] = 0
