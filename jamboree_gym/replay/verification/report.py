"""What `verify` found, of one episode and of many."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from jamboree_gym.arrays.difference import EXACT, Tolerance, shown
from jamboree_gym.checked import checked
from jamboree_gym.environment.provenance import conditions_now, conditions_of
from jamboree_gym.replay.verification.compare import Mismatch

__all__ = ["Change", "VerifyReport", "VerifyReports", "changes_since", "remembering_of"]

_REMEMBER = ("NormalizeObservation", "NormalizeReward")
MAX_LISTED = 5  # failed episodes in the text of many reports
_IN_JSON = ("step", "field", "leaf", "recorded", "simulated", "others")  # of a mismatch


class Change(NamedTuple):
    """What is not as it was when an episode was recorded.

    Attributes:
        name: `python`, a distribution, `platform` or `git_commit`.
        then: Its version, or what it was; None where there was none.
        now: The same today.
    """

    name: str
    then: str | None
    now: str | None

    def __str__(self) -> str:
        """In one line."""
        return f"{self.name} {self.then or 'none'} -> {self.now or 'none'}"


def changes_since(provenance: Mapping[str, Any]) -> tuple[Change, ...]:
    """What has changed since an episode was recorded: versions, platform, commit."""
    conditions = conditions_of(provenance)
    now = conditions_now(conditions)
    return tuple(
        Change(name, None if then is None else str(then), now[name])
        for name, then in conditions.items()
        if then != now[name]
    )


def remembering_of(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the wrappers that an episode was recorded above, and that remember earlier ones."""
    wrappers = provenance.get("wrappers")
    known = wrappers if isinstance(wrappers, list) else []
    classes = [one.get("class") for one in known if isinstance(one, dict)]
    names = [str(name).rpartition(".")[2] for name in classes]
    return tuple(name for name in names if name in _REMEMBER)


@dataclass(frozen=True, slots=True, eq=False)
class VerifyReport:
    """Result of `verify`; true when the episode happened again.

    Attributes:
        episode_id: The episode.
        steps: Number of steps that were compared.
        mismatch: The first difference, None when there is none.
        error: Why it could not be simulated again, None when it could. Only among the reports of
            many: of a single episode, `verify` raises it.
        changed: What is not as it was when it was recorded: versions, platform, commit.
        tolerance: How far apart floats were allowed to be.
        remembering: Wrappers below the recorder whose statistics of earlier episodes were not
            recorded, such as `NormalizeObservation` in a sub-environment: a usual cause of a
            difference.
    """

    episode_id: str
    steps: int
    mismatch: Mismatch | None = None
    error: str | None = None
    changed: tuple[Change, ...] = ()
    tolerance: Tolerance = EXACT
    remembering: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether everything is equal."""
        return self.mismatch is None and self.error is None

    def __str__(self) -> str:
        """One line; of an episode that differs, a second one with what has changed since."""
        if self.error is not None:
            return f"episode {self.episode_id} cannot be verified: {self.error}"
        if self.mismatch is None:
            how = "bit for bit" if self.tolerance.is_exact else f"within {self.tolerance}"
            return f"episode {self.episode_id}: {self.steps} steps are equal, {how}"
        changed = ", ".join(map(str, self.changed)) or "nothing of versions, platform and commit"
        cause = ""
        if self.remembering:
            cause = (
                f"; it was recorded above {', '.join(self.remembering)}, with statistics of "
                "earlier episodes: record below"
            )
        return (
            f"episode {self.episode_id} differs: {self.mismatch}\n"
            f"  changed since it was recorded: {changed}{cause}"
        )

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        mismatch = self.mismatch
        return {
            "episode_id": self.episode_id,
            "equal": bool(self),
            "steps": self.steps,
            "mismatch": None
            if mismatch is None
            else {name: _json_of(getattr(mismatch, name)) for name in _IN_JSON},
            "error": self.error,
            "changed": [change._asdict() for change in self.changed],
        }


class VerifyReports(Sequence[VerifyReport]):
    """Results of `verify` for several episodes, in their order; true when all are equal.

    Without a single episode it is not true: nothing was verified.

    Args:
        reports: One for each episode.
        unseen: Infos that were to be compared and that no episode has, recorded or simulated.

    Attributes:
        unseen: As given. If there are any, it is not true: what is misspelt is not compared.
    """

    @checked
    def __init__(self, reports: Iterable[VerifyReport], unseen: Sequence[str] = ()) -> None:
        self._reports = tuple(reports)
        self.unseen = tuple(unseen)

    @overload
    def __getitem__(self, position: int) -> VerifyReport: ...

    @overload
    def __getitem__(self, position: slice) -> VerifyReports: ...

    @checked
    def __getitem__(self, position: int | slice) -> VerifyReport | VerifyReports:
        """One report, or some."""
        if isinstance(position, slice):
            return VerifyReports(self._reports[position], self.unseen)
        return self._reports[position]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._reports)

    def __bool__(self) -> bool:
        """Whether there are episodes, and all are equal."""
        return bool(self._reports) and all(self._reports) and not self.unseen

    @property
    def failed(self) -> tuple[VerifyReport, ...]:
        """Those that are not equal, or could not be simulated again."""
        return tuple(report for report in self._reports if not report)

    @property
    def headline(self) -> str:
        """How many are equal, differ, could not be verified; in one line."""
        failed = self.failed
        errors = sum(report.error is not None for report in failed)
        steps = sum(report.steps for report in self._reports)
        parts = [f"{len(self) - len(failed):,} of {len(self):,} episodes are equal"]
        if len(failed) > errors:
            parts.append(f"{len(failed) - errors:,} differ")
        if errors:
            parts.append(f"{errors:,} could not be verified")
        return f"{', '.join(parts)}; {steps:,} steps compared"

    def __str__(self) -> str:
        """How many are equal, and the first that are not."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        failed = self.failed
        yield self.headline
        yield from map(str, failed[:MAX_LISTED])
        if len(failed) > MAX_LISTED:
            yield f"... and {len(failed) - MAX_LISTED:,} more in .failed"
        if self.unseen:
            yield f"no episode has these infos: {', '.join(self.unseen)}"

    def __repr__(self) -> str:
        """How many there are, and how many failed."""
        return f"<VerifyReports of {len(self)} episodes, {len(self.failed)} failed>"

    @checked
    def to_json(self, path: str | Path | None = None) -> str:
        """All reports as JSON, for CI.

        Args:
            path: A file that it is also written to.

        Returns:
            An object with `equal`, `episodes`, `failed` (numbers), `unseen_infos` and `reports`:
            of each its `episode_id`, `equal`, `steps`, `mismatch` (with the attributes of
            `Mismatch`; what JSON has no word for is text), `error` and `changed`.

        Example:
            >>> reports = verify(jam.episodes(run="first"))
            >>> reports.to_json("verified.json")
        """
        content = {
            "equal": bool(self),
            "episodes": len(self),
            "failed": len(self.failed),
            "unseen_infos": list(self.unseen),
            "reports": [report.as_json() for report in self._reports],
        }
        text = json.dumps(content, indent=1)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text


def _json_of(value: Any) -> Any:
    """A number, bool or text as itself, everything else as text."""
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value) if isinstance(value, str) else shown(value)
