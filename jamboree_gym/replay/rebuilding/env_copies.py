"""Gives the same state of an episode many times, by copies if these prove to be exact."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Final, TypeAlias

from jamboree_gym.encoding.rows import Rows
from jamboree_gym.environment.env_state import prime, put_state, state_gap, take_state
from jamboree_gym.replay.rebuilding.fast_forward import LiveEnv, play_on

__all__ = ["live_envs"]

PROOF_STEPS: Final = 200  # recorded steps that a copy must repeat, at most
PROOFS: Final = 2  # the second copy proves that the first has not moved the original

Copy: TypeAlias = Callable[[], LiveEnv]


def live_envs(
    make_live: Callable[[], LiveEnv], n: int, rest: Rows, vector: Mapping[str, Any] | None
) -> Generator[LiveEnv, None, None]:
    """Yield the environment n times in the same state; each is used up when the next comes.

    `make_live` makes it and brings it into that state, after which `rest` was recorded; `vector` is
    the provenance of the vector environment, None if there was none.
    """
    first = make_live()
    try:
        if n == 1:
            yield first
            return
        copy = _proven_copy(first, rest, vector)
        if copy is not None:
            for _ in range(n):
                with _closed_after(copy, first) as live:
                    yield live
            return
    finally:
        first.env.close()
    for _ in range(n):
        with _closed_after(make_live, first) as live:
            yield live


@contextmanager
def _closed_after(copy: Copy, first: LiveEnv) -> Iterator[LiveEnv]:
    live = copy()
    try:
        yield live
    finally:
        if live.env is not first.env:
            live.env.close()


def _proven_copy(first: LiveEnv, rest: Rows, vector: Mapping[str, Any] | None) -> Copy | None:
    """A function that gives the state again and again; None if only a full replay can."""
    copies: list[Copy] = [lambda: deepcopy(first)]
    if state_gap(first.env) is None:
        copies.insert(0, _by_state(first, rest.action(0) if rest.start else None))
    return next((copy for copy in copies if _is_proven(copy, first, rest, vector)), None)


def _by_state(first: LiveEnv, last_action: Any) -> Copy:
    """A function that brings the same environment back into its state."""
    state = take_state(first.env)
    seen = deepcopy((first.observation, first.info))

    def copy() -> LiveEnv:
        prime(first.env, last_action)
        put_state(first.env, state)
        return LiveEnv(first.env, *deepcopy(seen))

    return copy


def _is_proven(copy: Copy, first: LiveEnv, rest: Rows, vector: Mapping[str, Any] | None) -> bool:
    """Whether copies, one after the other, repeat the recorded steps."""
    steps = rest[: PROOF_STEPS + 1]
    if len(steps) < 2:
        return False
    try:
        for _ in range(PROOFS):
            with _closed_after(copy, first) as live:
                shown = live.observation, dict(live.info)
                if play_on(live.env, steps, vector, shown)[1] is not None:
                    return False
    except Exception:  # noqa: BLE001 - any error means that this is no copy
        return False
    return True
