"""The same place in an episode again and again, by copies where these are proven to be any."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Final, TypeAlias

from jamboree_gym.encoding.rows import Rows
from jamboree_gym.environment.env_state import prime, put_state, state_gap, take_state
from jamboree_gym.replay.rebuilding.fast_forward import Standing, play_on

__all__ = ["standings"]

PROOF_STEPS: Final = 200  # so many of the recorded steps a copy has to repeat
PROOFS: Final = 2  # the second one shows that the first has not moved what both are copied from

Copy: TypeAlias = Callable[[], Standing]


def standings(
    stand: Callable[[], Standing], n: int, rest: Rows, vector: Mapping[str, Any] | None
) -> Generator[Standing, None, None]:
    """The environment n times where it stood after some steps; each is over when the next comes.

    Args:
        stand: Makes it, and brings it there.
        n: How often.
        rest: The recorded rows from there on.
        vector: What provenance says of the vector environment that they came through, if any.
    """
    first = stand()
    try:
        if n == 1:
            yield first
            return
        copy = _proven_copy(first, rest, vector)
        if copy is not None:
            for _ in range(n):
                with _opened(copy, first) as standing:
                    yield standing
            return
    finally:
        first.env.close()
    for _ in range(n):
        with _opened(stand, first) as standing:
            yield standing


@contextmanager
def _opened(copy: Copy, first: Standing) -> Iterator[Standing]:
    standing = copy()
    try:
        yield standing
    finally:
        if standing.env is not first.env:
            standing.env.close()


def _proven_copy(first: Standing, rest: Rows, vector: Mapping[str, Any] | None) -> Copy | None:
    """What gives the place again and again; None where playing up to it is the only way."""
    copies: list[Copy] = [lambda: deepcopy(first)]
    if state_gap(first.env) is None:
        copies.insert(0, _by_state(first, rest.action(0) if rest.start else None))
    return next((copy for copy in copies if _is_proven(copy, first, rest, vector)), None)


def _by_state(first: Standing, last_action: Any) -> Copy:
    """Brings the one environment back."""
    state = take_state(first.env)
    seen = deepcopy((first.observation, first.info))

    def copy() -> Standing:
        prime(first.env, last_action)
        put_state(first.env, state)
        return Standing(first.env, *deepcopy(seen))

    return copy


def _is_proven(copy: Copy, first: Standing, rest: Rows, vector: Mapping[str, Any] | None) -> bool:
    """Whether copies go on as recorded, one after the other."""
    steps = rest[: PROOF_STEPS + 1]
    if len(steps) < 2:
        return False
    try:
        for _ in range(PROOFS):
            with _opened(copy, first) as standing:
                shown = standing.observation, dict(standing.info)
                if play_on(standing.env, steps, vector, shown)[1] is not None:
                    return False
    except Exception:  # noqa: BLE001 - whatever it is, it is no copy
        return False
    return True
