"""What many sub-environments return together -> one row for all of them in a block."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.connection import Connection
from jamboree_gym.delivery.step_buffer import RowBuffer, announce_together
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.row_format import ANNOTATED, TERMINATED, TRUNCATED
from jamboree_gym.journal.journal import Journal
from jamboree_gym.journal.vector_block import (
    SpanTitle,
    VectorBlock,
    VectorLane,
    encode_titles,
)
from jamboree_gym.process_life import follow_forks
from jamboree_gym.recording.recorder import EpisodeRecorder

__all__ = ["BLOCKS_FROM", "BatchedStep", "BlockSteps"]

BLOCKS_FROM = 8  # from this many environments on, a block is quicker than single rows
STEPS_ALONE = 4  # of an environment that has left: to leave and enter costs more than these

_writing, _annotation = attrgetter("writing"), attrgetter("annotation")


class BatchedStep(NamedTuple):
    """What one step of all sub-environments has returned: arrays (environments, ...).

    Attributes:
        schema: Of each row.
        actions: As they were before the environments got them.
        observations: An array.
        rewards: Numbers, (environments,).
        terminated: Flags, (environments,).
        truncated: Flags, (environments,).
        ended: Those of which one flag is set, unless they are `alone`.
        resets: Those for which it is row 0 of an episode, with the state of the generator before.
        alone: Those that are recorded by themselves.
        annotations: What the agent said of each; None = nothing.
    """

    schema: StepSchema
    actions: npt.NDArray[Any]
    observations: npt.NDArray[Any]
    rewards: npt.NDArray[Any]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    ended: Collection[int]
    resets: Mapping[int, Mapping[str, Any] | None]
    alone: Collection[int]
    annotations: Sequence[tuple[Any, ...]] | None


class BlockSteps:
    """Writes the steps of all sub-environments whose rows are alike into blocks.

    A sub-environment is *in the block* while its rows come from there. It enters at a plain
    step, and leaves at one that is not plain. What follows then goes into a separate extent.

    Args:
        jam: Where to record.
        recorders: Of the sub-environments.
        tags: Of the episodes.
    """

    def __init__(
        self, jam: Connection, recorders: Sequence[EpisodeRecorder], tags: Mapping[str, Any]
    ) -> None:
        self._jam = jam
        self._recorders = recorders
        self._handlers = [recorder.handler for recorder in recorders]
        self._tags = encode_mapping(tags) if tags else b""
        self._journal: Journal | None = None
        self._forget()
        follow_forks(self)

    def _forget(self) -> None:
        size = len(self._recorders)
        self._lane: VectorLane | None = None
        self._block: VectorBlock | None = None
        self._inside: list[StepOutbox | None] = [None] * size
        self._outside = set(range(size))
        self._waits = [0] * size  # how many steps each takes alone before it enters again
        self._news: deque[RowBuffer] = deque()
        self._newest_at = -math.inf

    def after_fork_in_child(self) -> None:
        """The blocks are the parent's."""
        self._forget()

    def takes(self, schema: StepSchema) -> bool:
        """Whether rows of this schema go into blocks."""
        journal = self._jam.journal
        if self._lane is None or self._journal is not journal:
            self.drop_block()
            self._journal, self._lane = journal, journal.vector_lane(len(self._recorders))
        return self._lane.takes(schema)

    def step(self, step: BatchedStep, follows: Mapping[int, str | None]) -> Collection[int]:
        """Write a row of all sub-environments.

        Args:
            step: What was returned.
            follows: Of those that are reset, the episode that the new one follows.

        Returns:
            Those that it was not done for: they are to be recorded one by one.
        """
        if self._block is not None and self._block.schema is not step.schema:
            self.drop_block()
        left = set(step.alone)
        titles: dict[int, SpanTitle] = {}
        begun = self._sorted_out(step, follows, left, titles)
        block = self._block_with_room(step.schema, titles)
        starts = [self._handlers[i].newest_at for i in titles if i not in begun]
        now = max(self._jam.clock(), math.nextafter(max(starts, default=0.0), math.inf))
        if now <= self._newest_at:
            now = math.nextafter(self._newest_at, math.inf)
        self._enter(block, titles, begun)
        at = block.count
        self._write(block, at, step, now)
        if begun:
            started_at = [steps.started_at for steps in begun.values()]
            self._write_resets(block, at, list(begun), started_at)
            self._newest_at = max(now, *started_at)
        else:
            self._newest_at = now
        block.publish(at + 1)
        self._end(step, left)
        return left

    # -- who is in the block ----------------------------------------------------------------

    def _sorted_out(
        self,
        step: BatchedStep,
        follows: Mapping[int, str | None],
        left: set[int],
        titles: dict[int, SpanTitle],
    ) -> dict[int, StepOutbox]:
        """Let leave who has to, and find who enters.

        Args:
            step: What was returned.
            follows: As above.
            left: Those that are recorded by themselves; gets more.
            titles: Gets those that enter.

        Returns:
            Those that enter with row 0.
        """
        handlers, inside = self._handlers, self._inside
        looked_at = self._outside | left | self._refused()
        if list(map(_writing, handlers)) != inside:  # they compare by identity
            looked_at |= {i for i, one in enumerate(handlers) if one.writing is not inside[i]}
        if list(map(_annotation, handlers)).count(None) < len(handlers):
            looked_at |= {i for i, one in enumerate(handlers) if one.annotation is not None}
        beginning: list[int] = []
        for i in sorted(looked_at):
            if inside[i] is not None:
                self._leave(i)
            if i in left:
                continue
            steps = None
            if i in step.resets:
                if handlers[i]._begins_plainly(step.schema):
                    beginning.append(i)
                    continue
            elif self._waits[i]:
                self._waits[i] -= 1
            else:
                steps = handlers[i].plain_steps(step.schema)
            if steps is None:
                left.add(i)
            else:
                titles[i] = SpanTitle(steps.key, steps.id)
        return self._begin(beginning, step, follows, titles) if beginning else {}

    def _begin(
        self,
        beginning: Sequence[int],
        step: BatchedStep,
        follows: Mapping[int, str | None],
        titles: dict[int, SpanTitle],
    ) -> dict[int, StepOutbox]:
        """Begin the episodes of some sub-environments, at once; the others are as above."""
        begun: dict[int, StepOutbox] = {}
        after = max([self._handlers[i].newest_at for i in beginning])
        new = self._jam.new_episodes(len(beginning), after)
        for i, (id, started_at) in zip(beginning, new, strict=True):
            recorder, rng_state = self._recorders[i], step.resets[i]
            begun[i], titles[i] = recorder.begin_plainly(id, started_at, rng_state, follows[i])
        return begun

    def _refused(self) -> set[int]:
        """Those of which nothing more can be written: `step` of their handlers says why."""
        news = self._news
        known = [news.popleft() for _ in range(len(news))]
        refused: set[int] = set()
        for box in known:
            assert isinstance(box, StepOutbox)
            if box.error is not None or box.is_deleted:
                refused |= {i for i, steps in enumerate(self._inside) if steps is box}
            else:
                news.append(box)
        return refused

    def _leave(self, i: int) -> None:
        steps, self._inside[i] = self._inside[i], None
        self._outside.add(i)
        self._waits[i] = STEPS_ALONE
        if steps is not None:
            steps.leave_block(self._newest_at)

    def leave(self) -> None:
        """All leave the block: what comes next is recorded one by one."""
        for i, steps in enumerate(self._inside):
            if steps is not None:
                self._leave(i)
        self._news.clear()

    def drop_block(self) -> None:
        """All leave the block, and nothing is written into it again.

        To be called where nobody knows what was written: there may be spans that have no episode.
        """
        self._block = None
        self.leave()

    def _block_with_room(self, schema: StepSchema, titles: dict[int, SpanTitle]) -> VectorBlock:
        """The block that the next row goes to; in a new one, titles also of those that stay."""
        block = self._block
        encoded = self._encoded(titles)
        if block is None or not block.has_room(len(encoded), len(titles)):
            lane = self._lane
            assert lane is not None
            for i, steps in enumerate(self._inside):
                if steps is not None:
                    titles[i] = SpanTitle(steps.key, steps.id)
            encoded = self._encoded(titles)
            number = self._jam.journal.number_of(schema)
            self._block = block = lane.block(schema, number, len(encoded))
        self._encoded_titles = encoded
        return block

    def _encoded(self, titles: Mapping[int, SpanTitle]) -> bytes:
        if not titles:
            return b""
        return encode_titles(self._recorders[0].run, self._tags, list(titles.values()))

    def _enter(
        self,
        block: VectorBlock,
        titles: Mapping[int, SpanTitle],
        begun: Mapping[int, StepOutbox],
    ) -> None:
        if not titles:
            return
        inside, handlers = self._inside, self._handlers
        found = [begun.get(i) or inside[i] or handlers[i].writing for i in titles]
        boxes = [steps for steps in found if steps is not None]
        pairs = zip(titles, boxes, strict=True)
        starts = [0 if i in begun else steps.rows_put for i, steps in pairs]
        spans = block.open_spans(list(titles), starts, self._encoded_titles)
        for i, steps, span in zip(titles, boxes, spans, strict=True):
            steps.enter_block(span, self._news)
            inside[i] = steps
            self._outside.discard(i)

    # -- rows -------------------------------------------------------------------------------

    def _write(self, block: VectorBlock, at: int, step: BatchedStep, now: float) -> None:
        flags, rewards, timestamps, observations, actions = block.fields
        rewards[at] = step.rewards
        timestamps[at] = now
        observations[at] = step.observations
        actions[at] = step.actions
        said = ANNOTATED if step.annotations is not None else 0
        if step.ended or said:
            flags[at] = step.terminated * np.uint8(TERMINATED) | step.truncated * np.uint8(
                TRUNCATED
            )
            flags[at] |= said
        if step.annotations is not None:
            for field, numbers in zip(block.said, zip(*step.annotations, strict=True), strict=True):
                field[at] = numbers

    @staticmethod
    def _write_resets(
        block: VectorBlock, at: int, indices: list[int], started_at: list[float]
    ) -> None:
        flags, rewards, timestamps, _, actions = block.fields
        flags[at, indices] = 0
        rewards[at, indices] = 0.0
        timestamps[at, indices] = started_at
        for field in (actions, *block.said):
            field[at, indices] = 0

    def _end(self, step: BatchedStep, left: Collection[int]) -> None:
        """Episodes that are over leave the block."""
        for i in step.ended:
            steps = self._inside[i]
            if steps is None or i in left or i in step.resets:
                continue
            self._inside[i] = None
            self._outside.add(i)
            steps.leave_block(self._newest_at)
            self._handlers[i]._end(steps, "terminated" if step.terminated[i] else "truncated")

    def announce(self) -> list[tuple[int, Exception]]:
        """Have delivered what has come since the last delivery; where that is refused, why.

        It is refused for all alike, so one is named.
        """
        news = self._news
        boxes = [news.popleft() for _ in range(len(news))]
        failed: list[tuple[int, Exception]] = []
        try:
            announce_together(boxes, self._jam.writer.mark_all)
            again = [box for box in boxes if box.error is not None or box.is_deleted]
        except Exception as error:  # noqa: BLE001 - the caller raises it
            inside: dict[RowBuffer, int] = {
                box: i for i, box in enumerate(self._inside) if box is not None
            }
            again = [box for box in boxes if box in inside]
            failed = [(inside[box], error) for box in again[:1]]
        news.extend(again)
        return failed
