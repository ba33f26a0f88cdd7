"""Filters for the episodes of a listing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import attrgetter
from typing import Any, Final, cast, get_args

import numpy as np

from jamboree_gym.arrays.difference import UNTYPED, differences
from jamboree_gym.arrays.values import check_text
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.environment.outcomes import weighted_sum
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.reading.finding.names import RunNames, run_names
from jamboree_gym.records import EpisodeStatus, EpisodeSummary
from jamboree_gym.wording import did_you_mean

__all__ = [
    "ANY_PARENT",
    "AnyParent",
    "EpisodeFilter",
    "EpisodeTest",
    "Found",
    "Stage",
    "Weighing",
    "check_one_return",
    "several_returns",
]

EpisodeTest = Callable[[EpisodeSummary], Any]
"""Returns whether an episode is wanted, given its summary."""


class AnyParent(Enum):
    """The type of `ANY_PARENT`: no condition on the parent, as None is one."""

    ANY_PARENT = "any"


ANY_PARENT: Final = AnyParent.ANY_PARENT

Found = list[StoredSummary]
"""Episodes in an order."""

Stage = Callable[[Found], Found]
"""Removes some episodes, or changes their order."""


def check_one_return(found: Found, what: str) -> None:
    """Make sure that each of these episodes has one return; `what` needs it.

    Raises:
        InvalidArgument: One has several, and nothing says how they are added up; says what to do.
    """
    for one in found:
        if one.returns is not None and not one.is_weighted and one.steps:
            raise several_returns(one, what)


def several_returns(episode: StoredSummary | EpisodeSummary, what: str) -> InvalidArgument:
    """Why an episode has no one return, and what to do; `what` needs it."""
    count = len(episode.returns or ())
    return InvalidArgument(
        f"{what}: episode {episode.id!r} of run {episode.run!r} has {count} returns\n"
        f"say before how to add them up: .weighted({[1.0] * count}), in a shell --weights "
        f"{','.join(['1'] * count)}; or take one, as return_0"
    )


@dataclass(frozen=True, slots=True)
class Weighing:
    """Makes one return of several, where an episode has several."""

    weights: tuple[float, ...]

    def __call__(self, found: Found) -> Found:
        """The same episodes, each with one return."""
        for one in found:
            if one.returns is None:
                continue
            if len(one.returns) != len(self.weights):
                raise InvalidArgument(
                    f"weighted({list(self.weights)}): episode {one.id!r} of run {one.run!r} has "
                    f"{len(one.returns)} returns: give a weight for each, or ask for fewer episodes"
                )
            one.episode_return = weighted_sum(self.weights, one.returns)
            one.is_weighted = True
        return found


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EpisodeFilter:
    """Conditions on episodes; None means no condition.

    Attributes:
        test: Any other condition, as a function of the summary.
        run: Name of the run, or names of several.
        env_id: Gymnasium id of the environment.
        status: How the episode ended, or `running`, or `interrupted` if its writer died.
        parent: Id of the episode that it was forked from; None = only those that began with a
            reset.
        tags: Required tags and their values. A function in place of a value returns whether a value
            is accepted.
        min_return: Lowest return.
        max_return: Highest return.
        min_steps: Lowest number of steps.
        max_steps: Highest number of steps.
        since: Earliest start, epoch seconds.
        until: Latest start, epoch seconds.
    """

    test: EpisodeTest | None = None
    run: RunNames | None = None
    env_id: str | None = None
    status: str | None = None
    parent: str | AnyParent | None = ANY_PARENT
    tags: Mapping[str, Any] = field(default_factory=dict)
    min_return: float | None = None
    max_return: float | None = None
    min_steps: int | None = None
    max_steps: int | None = None
    since: float | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tags, Mapping):
            raise InvalidArgument(f"tags={self.tags!r}: give a dict, {{'lr': 0.001}}")
        for name in ("env_id", "parent"):
            if isinstance(getattr(self, name), str):
                check_text(name, getattr(self, name), InvalidArgument)
        for run in self.runs or ():
            check_text("run", run, InvalidArgument)
        if self.status is not None and self.status not in get_args(EpisodeStatus):
            known = get_args(EpisodeStatus)
            raise InvalidArgument(
                f"status={self.status!r}: an episode is {', '.join(known)}"
                f"{did_you_mean(self.status, known)}"
            )

    @property
    def runs(self) -> tuple[str, ...] | None:
        """Names of the runs; None = all."""
        return run_names(self.run)

    def among(self, found: Found) -> Found:
        """The episodes that match, in the same order."""
        if (runs := self.runs) is not None:
            found = [one for one in found if one.run in runs]
        if self.parent is not ANY_PARENT:
            found = [one for one in found if one.parent == self.parent]
        for name in ("env_id", "status"):
            wanted, of = getattr(self, name), attrgetter(name)
            if wanted is not None:
                found = [one for one in found if of(one) == wanted]
        for name, lowest, highest in (
            ("episode_return", self.min_return, self.max_return),
            ("steps", self.min_steps, self.max_steps),
            ("started_at", self.since, self.until),
        ):
            of = attrgetter(name)
            if lowest is not None:
                found = [one for one in found if of(one) >= lowest]
            if highest is not None:
                found = [one for one in found if of(one) <= highest]
        if self.tags:
            found = self._with_tags(found)
        if self.test is not None:
            found = [one for one in found if self.test(one.decoded())]
        return found

    def strictly_among(self, found: Found) -> Found:
        """As `among`, for somebody who asks.

        Raises:
            InvalidArgument: There is a bound of returns, and an episode has several.
        """
        if self.min_return is not None or self.max_return is not None:
            others = replace(self, min_return=None, max_return=None, test=None)
            name = "max_return" if self.min_return is None else "min_return"
            check_one_return(others.among(found), f"{name}={getattr(self, name)}")
        return self.among(found)

    def accepts(self, summary: EpisodeSummary) -> bool:
        """Whether an episode matches, given its summary."""
        without_tags = replace(self, tags={}, test=None)
        return (
            bool(without_tags.among(cast(Found, [summary])))
            and self._fits(summary.tags)
            and (self.test is None or bool(self.test(summary)))
        )

    def _with_tags(self, found: Found) -> Found:
        """Compare each distinct set of tags once: most episodes of a run have the same tags."""
        verdicts: dict[bytes | None, bool] = {}
        for one in found:
            if one.tags not in verdicts:
                verdicts[one.tags] = self._fits(one.decoded_tags())
        return [one for one in found if verdicts[one.tags]]

    def _fits(self, tags: Mapping[str, Any]) -> bool:
        return all(
            name in tags and (wanted(tags[name]) if callable(wanted) else _eq(tags[name], wanted))
            for name, wanted in self.tags.items()
        )

    def __str__(self) -> str:
        """The conditions as keyword arguments."""
        asked = [
            f"{name}={getattr(self, name)!r}"
            for name in self.__slots__
            if getattr(self, name) is not None and getattr(self, name) not in ({}, ANY_PARENT)
        ]
        if self.parent is None:
            asked.append("parent=None")
        return ", ".join(asked)


def _eq(tag: Any, wanted: Any) -> bool:
    """Whether two values are equal; works for arrays, and for what holds arrays, too."""
    if isinstance(tag, np.ndarray) or isinstance(wanted, np.ndarray):
        return np.array_equal(tag, wanted)
    try:
        return bool(tag == wanted)
    except ValueError:  # of arrays within them: one answer for each element
        return not any(differences("tag", tag, wanted, UNTYPED))
