"""What is recorded, as frozen values without any I/O.

Names follow Gymnasium and Minari: singular for one step, plural for arrays over an episode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict

from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.arrays.packing import Arrays, item
from jamboree_gym.arrays.step_schema import SchemaChanges, schema_at
from jamboree_gym.wording import counted, one_line, shortened

__all__ = [
    "EpisodeData",
    "EpisodeOrigin",
    "EpisodeStatus",
    "EpisodeSummary",
    "Progress",
    "StepData",
    "Transitions",
    "brief",
    "brief_return",
]

MAX_NUMBERS = 6  # of an array whose numbers `repr` shows
MAX_PARTS = 4
MAX_TEXT = 40

EpisodeStatus = Literal["running", "terminated", "truncated", "abandoned", "interrupted"]
"""`abandoned`: reset or closed before its end. `interrupted`: its writer died."""


@dataclass(frozen=True, slots=True, eq=False)
class StepData:
    """One transition.

    Attributes:
        index: Position in the episode, from 0.
        observation: What the agent saw before acting.
        action: What it did.
        reward: What this step returned: a float, or an array if it is several numbers.
        next_observation: What this step returned.
        terminated: Whether this step reached a terminal state.
        truncated: Whether the episode was cut off after this step.
        info: What this step returned.
        timestamp: When the step returned, epoch seconds.
        annotation: What the agent said of it (`annotate`), empty if nothing.
    """

    index: int
    observation: Any
    action: Any
    reward: Any
    next_observation: Any
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    timestamp: float
    annotation: dict[str, Any]

    def __repr__(self) -> str:
        """What it was, in a line or two."""
        ends = [name for name in ("terminated", "truncated") if getattr(self, name)]
        said = [f"annotation {brief(self.annotation)}"] if self.annotation else []
        parts = [
            f"action {brief(self.action)}",
            f"reward {brief(self.reward)}",
            f"next_observation {brief(self.next_observation)}",
            *ends,
            *said,
        ]
        return f"<step {self.index}: {', '.join(parts)}>"


class HasReturn(Protocol):
    """A summary, decoded or not."""

    @property
    def episode_return(self) -> float: ...

    @property
    def returns(self) -> Sequence[float] | None: ...


class _MadeLater:
    """Base of records whose fields can be made when one of them is asked for."""

    __slots__ = ("_make",)

    if not TYPE_CHECKING:  # a type checker would take any name

        def __getattr__(self, name: str) -> Any:
            if name in type(self).__dataclass_fields__:
                try:
                    make, *arguments = _make_of(self)
                except AttributeError:  # another thread has just made them
                    return object.__getattribute__(self, name)
                for each, value in make(*arguments).items():
                    object.__setattr__(self, each, value)
                with suppress(AttributeError):
                    _forget_make(self)
            return object.__getattribute__(self, name)


_late: Any = _MadeLater.__dict__["_make"]
_make_of, _set_make, _forget_make = _late.__get__, _late.__set__, _late.__delete__


@dataclass(frozen=True, slots=True, eq=False)
class Transitions(_MadeLater):
    """n consecutive transitions of one episode as arrays, oldest first.

    Observations, actions and annotations of a dict or tuple are dicts or tuples of arrays. Values
    without a fixed shape (text, sequences, graphs) are an array of objects. A loop over the
    transitions gives each as `StepData`, and each value with its original type.

    Attributes:
        indices: int64 (n,), position in the episode.
        observations: (n, ...), what the agent saw before acting.
        actions: (n, ...).
        rewards: float64 (n,); if a reward is several numbers, (n, ...) of their dtype.
        next_observations: (n, ...).
        terminations: bool (n,).
        truncations: bool (n,).
        infos: n dicts, what each step returned.
        timestamps: float64 (n,), epoch seconds.
        annotated: bool (n,), whether the agent said something of the step.
        annotations: What it said, by name; where it said nothing, NaN (0 for what is no float).
        schemas: What the values were before they became arrays.
    """

    indices: npt.NDArray[np.int64]
    observations: Arrays
    actions: Arrays
    rewards: npt.NDArray[Any]
    next_observations: Arrays
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    infos: Sequence[Mapping[str, Any]]
    timestamps: npt.NDArray[np.float64]
    annotated: npt.NDArray[np.bool_]
    annotations: Mapping[str, Arrays]
    schemas: SchemaChanges

    @classmethod
    def _made_by(cls, make: Callable[..., dict[str, Any]], *arguments: Any) -> Transitions:
        """Transitions whose fields are made by a function at the first use of one of them."""
        self = object.__new__(cls)
        _set_make(self, (make, *arguments))
        return self

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.rewards)

    def __repr__(self) -> str:
        """How many there are, and their shapes."""
        if not len(self):
            return "<Transitions: none>"
        places = f"{self.indices[0]} to {self.indices[-1]}"
        return f"<Transitions {places}: {_shapes(self)}, rewards {brief(_sum(self))} in all>"

    def __iter__(self) -> Iterator[StepData]:
        """The transitions one by one, oldest first."""
        for i, index in enumerate(self.indices.tolist()):
            before, after = schema_at(self.schemas, index), schema_at(self.schemas, index + 1)
            yield StepData(
                index=index,
                observation=item(self.observations, i, before.observation),
                action=item(self.actions, i, after.action),
                reward=_reward(self.rewards[i], after.reward),
                next_observation=item(self.next_observations, i, after.observation),
                terminated=bool(self.terminations[i]),
                truncated=bool(self.truncations[i]),
                info=dict(self.infos[i]),
                timestamp=float(self.timestamps[i]),
                annotation=item(dict(self.annotations), i, after.annotation)
                if self.annotated[i]
                else {},
            )


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeData:
    """A whole episode of T steps as arrays; those of dicts and tuples as in `Transitions`.

    Attributes:
        id: The episode's id.
        observations: (T + 1, ...), the reset's first.
        actions: (T, ...).
        rewards: float64 (T,); where a reward is several numbers, (T, ...) of their dtype.
        terminations: bool (T,).
        truncations: bool (T,).
        infos: T + 1 dicts, the reset's first.
        timestamps: float64 (T,), when each step returned, epoch seconds.
        annotated: bool (T,), whether the agent said something of the step.
        annotations: What it said, by name; where it said nothing, NaN (0 for what is no float).
    """

    id: str
    observations: Arrays
    actions: Arrays
    rewards: npt.NDArray[Any]
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    infos: Sequence[Mapping[str, Any]]
    timestamps: npt.NDArray[np.float64]
    annotated: npt.NDArray[np.bool_]
    annotations: Mapping[str, Arrays]

    def __len__(self) -> int:
        """Number of steps, T."""
        return len(self.rewards)

    def __repr__(self) -> str:
        """How many steps there are, and their shapes."""
        total = brief(_sum(self))
        return f"<EpisodeData {self.id}: {len(self)} steps, return {total}, {_shapes(self)}>"


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """What a listing shows of an episode.

    Attributes:
        id: The episode's id.
        env_id: Gymnasium id of the environment, `""` where it has no spec.
        run: The run it belongs to.
        status: How it ended, or `running`; as read, `interrupted` where its writer died.
        steps: Number of steps so far.
        episode_return: Undiscounted sum of the rewards so far; NaN where a reward is several
            numbers, unless a query says by `weighted` how they are added up.
        started_at: When the reset returned, epoch seconds.
        elapsed_s: Seconds from the reset to the newest step.
        seed: The seed given to `reset`, None where none was given.
        tags: The recorder's tags.
        vector_index: Which sub-environment of a vector environment it was; None for a single
            environment.
        writer: Names the process that recorded it, among those that hold a lease.
        parent: Id of the episode that it was forked from; None for one that began with a reset.
        fork_step: Number of the parent's steps before the fork; steps, return and time of a fork
            count from there. None for an episode that began with a reset.
        parent_run: The run of the parent; None likewise.
        returns: Where a reward is several numbers, the undiscounted sum of each of them, in the
            order of `reward.ravel()`; None where it is one number.
    """

    id: str
    env_id: str
    run: str
    status: EpisodeStatus
    steps: int
    episode_return: float
    started_at: float
    elapsed_s: float
    seed: int | None
    tags: Mapping[str, Any] = field(default_factory=dict)
    vector_index: int | None = None
    writer: str = ""
    parent: str | None = None
    fork_step: int | None = None
    parent_run: str | None = None
    returns: tuple[float, ...] | None = None

    def __str__(self) -> str:
        """The episode in one line; of a fork, a second one says from where it counts."""
        since = ""
        if self.parent is not None:
            since = f"\n  counted from its fork, at step {self.fork_step} of {self.parent}"
        number = "" if self.vector_index is None else f" #{self.vector_index}"
        return (
            f"{self.id} {one_line(self.run)}: {one_line(self.env_id) or 'no spec'}{number}, "
            f"{self.status}, {counted(self.steps, 'step')}, "
            f"return {brief_return(self)}{since}"
        )

    @property
    def is_experiment(self) -> bool:
        """Whether it was forked from an episode of the same run: then it is no data of the run.

        Queries leave such an episode out unless they are asked for `forks=True`.
        """
        return self.parent is not None and self.parent_run in (None, self.run)


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What changes in the summary of an episode while it is recorded; names as there."""

    status: EpisodeStatus
    steps: int
    episode_return: float
    elapsed_s: float
    returns: tuple[float, ...] | None = None

    @classmethod
    def of(cls, summary: EpisodeSummary) -> Progress:
        """That of a summary."""
        numbers = summary.steps, summary.episode_return, summary.elapsed_s
        return cls(summary.status, *numbers, summary.returns)

    def in_summary(self, summary: EpisodeSummary) -> EpisodeSummary:
        """The same summary, at this progress."""
        return replace(summary, **asdict(self))


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeOrigin:
    """What is needed to begin the same episode again.

    Attributes:
        seed: Seed given to the reset; None where none was given.
        rng_state: State of the environment's `np_random` bit generator just before an unseeded
            reset. Beside it, if there are such: of its emulator, of its `RandomState`
            (`random_state`), of environments that it holds (`held`), its keys of JAX (`jax_keys`).
            None where `seed` tells instead, or where the environment has no generator. Of a fork,
            the state that the generator was given there; None where it kept its own.
        options: The `options` given to `reset`; None = none were.
        provenance: Digest of the blob that holds environment spec, versions and machine.
        follows: Id of the episode of the same environment that a replay has to play first, if seed
            and `rng_state` are not enough; else None.
        parent: Id of the episode that this one was forked from: it begins without a reset, where
            that one stood.
        fork_step: Number of the parent's steps before the fork.
        carried: What wrappers carried on from earlier episodes (statistics, counts), a dict for
            each such wrapper, outermost first; None where there are none, or `follows` tells it.
    """

    seed: int | None
    rng_state: Mapping[str, Any] | None
    options: Any
    provenance: str
    follows: str | None = None
    parent: str | None = None
    fork_step: int | None = None
    carried: Sequence[Mapping[str, Any]] | None = None


def _reward(reward: Any, layout: Leaf) -> Any:
    """One reward, of the type that it had."""
    return layout.restore(reward) if isinstance(reward, np.ndarray) else float(reward)


def _sum(steps: Transitions | EpisodeData) -> Any:
    """Of all rewards; where a reward is several numbers, of each of them."""
    return steps.rewards.sum(axis=0)


def brief_return(summary: HasReturn) -> str:
    """The return of an episode in a few characters; where there are several, in brackets."""
    if summary.returns is None or not math.isnan(summary.episode_return):
        return brief(summary.episode_return)
    return brief(tuple(summary.returns))


def _shapes(steps: Transitions | EpisodeData) -> str:
    return f"observations {brief(steps.observations)}, actions {brief(steps.actions)}"


def brief(value: Any) -> str:
    """A value in a few characters: an array as dtype and shape, a dict by its parts.

    Example:
        >>> brief(np.zeros((23, 4), np.float32))
        'float32 (23, 4)'
    """
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        if value.ndim < 2 and value.size <= MAX_NUMBERS and value.dtype.kind in "biuf":
            return str(np.array2string(value, precision=4, separator=", "))
        return f"{value.dtype} {value.shape}"
    if isinstance(value, Mapping):
        return _joined([f"{name}: {brief(part)}" for name, part in value.items()], "{}")
    if isinstance(value, tuple):
        return _joined([brief(part) for part in value], "()")
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return shortened(text, MAX_TEXT)


def _joined(parts: list[str], around: str) -> str:
    shown = parts[:MAX_PARTS] + (["..."] if len(parts) > MAX_PARTS else [])
    return f"{around[0]}{', '.join(shown)}{around[1]}"
