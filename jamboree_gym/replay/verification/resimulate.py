"""Simulating one episode after the other again: rebuild, reset, play the actions, compare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import gymnasium as gym

from jamboree_gym.arrays.difference import EXACT, Tolerance
from jamboree_gym.connection import Connection
from jamboree_gym.environment.provenance import decode_provenance
from jamboree_gym.errors import JamboreeError, ReplayError, StoreUnavailable
from jamboree_gym.reading.bulk_read import WholeEpisode, whole_episodes
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.rebuilding.beginning import WHOLE, Shown, begin_as_recorded, line_of
from jamboree_gym.replay.rebuilding.rebuild import (
    MakeAgain,
    begins_anew,
    rebuild_env,
    reset_as_recorded,
)
from jamboree_gym.replay.rebuilding.whole_vector import is_played_whole, one_of_vector
from jamboree_gym.replay.rebuilding.wrapping import BuiltWrapper, ignored_infos
from jamboree_gym.replay.verification.compare import SecondRun, first_mismatch
from jamboree_gym.replay.verification.compared_infos import WatchedInfos
from jamboree_gym.replay.verification.report import (
    Change,
    VerifyReport,
    changes_since,
    remembering_of,
)

__all__ = ["Check", "Checked", "Resimulator", "Watch"]

MAX_CACHED = 64  # environments: this many sub-environments of a vector environment run at once


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """What is compared, how closely, and what may be built for it: the arguments of `verify`.

    `infos` are names of the infos that are compared; True: all that are recorded.
    """

    tolerance: Tolerance = EXACT
    infos: bool | tuple[str, ...] = False
    wrappers: tuple[BuiltWrapper, ...] = ()
    trust_entry_point: bool = False
    make: MakeAgain | None = None
    env_kwargs: Mapping[str, Any] | None = None


class Checked(NamedTuple):
    """What became of one episode: its report, and the infos to compare that it has not."""

    report: VerifyReport
    unseen: tuple[str, ...] = ()


class _Origin(NamedTuple):
    """What episodes of one recorder share."""

    digest: str
    provenance: dict[str, Any]
    changed: tuple[Change, ...]
    remembering: tuple[str, ...]


class _Place(NamedTuple):
    """The state of a cached environment: the provenance of its episodes, and the one just finished.

    `after` is None if that does not matter.
    """

    digest: str
    after: str | None


Watch = Callable[[gym.Env[Any, Any]], object]
"""Called with the environment after the reset and after each step."""


class Resimulator:
    """Verifies episodes one after the other, and caches what they share.

    A result must not depend on the episodes verified before. So an environment is used again only
    if a new one would be the same: if a reset removes everything of an earlier episode (see
    `begins_anew`), or for the episode that directly follows the one it has just finished. A
    difference that is found then counts only if a new environment shows it, too.

    Args:
        connection: The store.
        check: What to compare, and how.
        elsewhere: Environments that can only be made in another process.
        render_mode: The `render_mode` of the environments.
        watch: Called after each step; an error that it raises ends the second run.
    """

    def __init__(
        self,
        connection: Connection,
        check: Check,
        *,
        elsewhere: Collection[str] = (),
        render_mode: str | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._connection = connection
        self._check = check
        self._elsewhere = elsewhere
        self._render_mode = render_mode
        self._watch = watch
        self._origins: dict[str, _Origin] = {}
        self._followed: set[str | None] = set()
        self._cached: dict[_Place, gym.Env[Any, Any]] = {}

    def read(self, ids: Sequence[str]) -> list[Callable[[], Checked | None]]:
        """Read these episodes in one round trip.

        Returns:
            For each a function that verifies it. The report of an episode that cannot be simulated
            has the reason; only `StoreUnavailable` is raised. The function returns None if the
            environment can only be made elsewhere.
        """
        found = [_decoded(decode) for decode in whole_episodes(self._connection, ids)]
        self._followed = {one.origin.follows for one in found if isinstance(one, WholeEpisode)}
        return [partial(self._checked, *pair) for pair in zip(ids, found, strict=True)]

    def _checked(self, id: str, whole: WholeEpisode | JamboreeError) -> Checked | None:
        changed: tuple[Change, ...] = ()
        try:
            if isinstance(whole, JamboreeError):
                raise whole
            origin = self._origin(whole)
            changed = origin.changed
            if _env_id(origin.provenance) in self._elsewhere:
                return None
            return self.verified(whole)
        except StoreUnavailable:
            raise
        except JamboreeError as error:
            return Checked(VerifyReport(id, 0, error=str(error), changed=changed))

    def verified(self, whole: WholeEpisode) -> Checked:
        """Simulate one episode again and compare; a `ReplayError` says why it cannot be."""
        origin = self._origin(whole)
        if is_played_whole(origin.provenance):
            return self._in_whole_vector(whole, origin)
        place = _Place(origin.digest, whole.origin.follows)
        env = self._cached.pop(place, None) if whole.origin.parent is None else None
        if env is not None:
            try:
                shown = reset_as_recorded(
                    env, whole.origin, trust_entry_point=self._check.trust_entry_point
                )
                checked = self._compared(env, shown, whole, origin)
            except ReplayError:
                checked = None
            if checked is not None and checked.report:
                self._cache(env, whole, origin)
                return checked
            env.close()
        return self._on_new_env(whole, origin)

    def _in_whole_vector(self, whole: WholeEpisode, origin: _Origin) -> Checked:
        if self._check.make is not None or self._check.env_kwargs is not None:
            raise ReplayError(
                "make= and env_kwargs= are for one environment; this episode is played in its "
                "whole vector environment\nregister that one with these arguments instead"
            )
        env = one_of_vector(
            Episode(self._connection, whole.id),
            origin.provenance,
            trust_entry_point=self._check.trust_entry_point,
        )
        try:
            return self._compared(env, env.reset(), whole, origin)
        finally:
            env.close()

    def _on_new_env(self, whole: WholeEpisode, origin: _Origin) -> Checked:
        line, trust = list[Episode](), self._check.trust_entry_point
        if whole.origin.follows is not None or whole.origin.parent is not None:
            line = line_of(Episode(self._connection, whole.id))
        env = rebuild_env(
            origin.provenance,
            wrappers=self._check.wrappers,
            trust_entry_point=trust,
            render_mode=self._render_mode,
            make=self._check.make,
            env_kwargs=self._check.env_kwargs,
        )
        is_equal = False
        try:
            if line:
                shown = begin_as_recorded(env, line, trust_entry_point=trust)
            else:
                shown = reset_as_recorded(env, whole.origin, trust_entry_point=trust)
            checked = self._compared(env, shown, whole, origin)
            is_equal = bool(checked.report)
            return checked
        finally:
            if is_equal:
                self._cache(env, whole, origin)
            else:
                env.close()

    def _cache(self, env: gym.Env[Any, Any], whole: WholeEpisode, origin: _Origin) -> None:
        """Keep an environment in which an episode was just played, if another one may have it."""
        is_followed = whole.origin.follows is not None or whole.id in self._followed
        if is_followed and whole.status in WHOLE:
            place = _Place(origin.digest, whole.id)
        elif begins_anew(env):
            place = _Place(origin.digest, None)
        else:
            env.close()
            return
        self._close(self._cached.pop(place, None))
        self._cached[place] = env
        if len(self._cached) > MAX_CACHED:
            self._close(self._cached.pop(next(iter(self._cached))))

    def _close(self, env: gym.Env[Any, Any] | None) -> None:
        if env is not None:
            env.close()

    def _compared(
        self, env: gym.Env[Any, Any], shown: Shown, whole: WholeEpisode, origin: _Origin
    ) -> Checked:
        vector = origin.provenance.get("vector")
        watched = self._watched(whole, origin)
        run = SecondRun(whole.rows, vector=vector, infos=watched)
        if self._watch is not None:
            self._watch(env)
            env = _Watched(env, self._watch)
        run.play(env, *shown)
        tolerance = self._check.tolerance
        mismatch = first_mismatch(run, tolerance)
        found = (whole.id, len(run.rewards), mismatch, None)
        remembering = () if whole.origin.carried else origin.remembering
        report = VerifyReport(*found, origin.changed, tolerance, remembering)
        return Checked(report, () if watched is None else tuple(watched.unseen()))

    def _watched(self, whole: WholeEpisode, origin: _Origin) -> WatchedInfos | None:
        asked = self._check.infos
        if asked is False:
            return None
        ignored = ignored_infos(origin.provenance)
        missing = [] if asked is True else [name for name in asked if name.split(".")[0] in ignored]
        if missing:
            raise ReplayError(
                f"the info {missing[0]!r} comes from a wrapper that keeps statistics, which a "
                "replay leaves out: it cannot be compared"
            )
        is_batched = origin.provenance.get("vector") is not None
        return WatchedInfos(asked, whole.rows.infos, ignored=ignored, is_batched=is_batched)

    def _origin(self, whole: WholeEpisode) -> _Origin:
        digest = whole.origin.provenance
        if digest not in self._origins:
            self._origins[digest] = _origin_of(digest, self._connection.store.blobs.get(digest))
        return self._origins[digest]

    def close(self) -> None:
        """Close the environments that are kept."""
        while self._cached:
            self._close(self._cached.popitem()[1])

    def __enter__(self) -> Self:
        """Use as a context manager: `close` at the end."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()


def _decoded(decode: Callable[[], WholeEpisode]) -> WholeEpisode | JamboreeError:
    try:
        return decode()
    except StoreUnavailable:
        raise
    except JamboreeError as error:
        return error


class _Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Shows the environment to somebody after each step."""

    def __init__(self, env: gym.Env[Any, Any], watch: Watch) -> None:
        super().__init__(env)
        self._watch = watch

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self._watch(self.env)
        return result


def _origin_of(digest: str, content: bytes) -> _Origin:
    try:
        provenance = decode_provenance(content, where=digest)
        remembering = remembering_of(provenance)
        return _Origin(digest, provenance, changes_since(provenance), remembering)
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ReplayError(f"the episode's provenance is damaged: {error!r}") from error


def _env_id(provenance: dict[str, Any]) -> str:
    spec = provenance.get("env_spec")
    return str(spec.get("id")) if isinstance(spec, dict) else ""
