"""What each view of the page is told, as plain dicts; the library does the reading."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from operator import eq, is_
from typing import Any, Final

import numpy as np
import pyarrow.types as kinds

from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.errors import EpisodeNotFound, InvalidArgument
from jamboree_gym.handlers.turns import AGENT_TAG, JOINT_TAG
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.page.columns import picture_leaves
from jamboree_gym.page.curves import curve_of, histogram_of, spark_of
from jamboree_gym.page.listing import Kept, KeptByName, Listing, Listings
from jamboree_gym.page.plain import short_text, without_paths
from jamboree_gym.page.surprises import NEWEST, Surprises, discount_of
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.finding.known_ids import KnownIds
from jamboree_gym.reading.finding.names import ShortIds, ShortIdsOfStore
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.runs.run_summary import RunSummary, summary_of_run
from jamboree_gym.runs.sessions import RunSession

__all__ = ["Answers"]

RUNS_AT_ONCE: Final = 50
MAX_RUNS_FILTERED: Final = 2000
MAX_DETAILS: Final = 32
SETTLED_S: Final = 10.0  # so long the summary of a run that is over is not read again
MAX_METRIC_POINTS: Final = 400
MAX_NODES: Final = 400
MAX_SESSIONS: Final = 50
_NO_METRICS: Final = ("timesteps", "at", "session")


class Answers:
    """Reads a store for the page. Each method may be called by any thread.

    Args:
        jam: The store.
    """

    def __init__(self, jam: Jamboree) -> None:
        self._jam = jam
        ids = KnownIds(jam._connection)
        self.listings = Listings(jam._connection, ids)
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()
        self._all_runs: Kept[list[RunSummary]] = Kept(lambda: self._jam.runs().summaries(), eq)
        self._backup: Kept[dict[str, Any]] = Kept(self._read_backup, lambda one, other: False)
        self._ids: Kept[ShortIds] = Kept(ShortIdsOfStore(ids).read, is_)
        self._details = KeptByName(
            lambda run: partial(self._read_run, run), _is_same_run, MAX_DETAILS
        )
        self._flagged = KeptByName(lambda run: partial(self._read_flagged, run), eq, MAX_DETAILS)
        self._surprises = KeptByName(
            lambda run: partial(self._read_surprise, run, Surprises(jam)), eq, MAX_DETAILS
        )

    # -- runs -------------------------------------------------------------------------------

    def runs(self, text: str = "", env: str = "", tag: str = "", start: int = 0) -> dict[str, Any]:
        """Some runs, the one written last at the front, and how far the backup is."""
        names = self._jam.runs().names()[::-1]
        total = len(names)
        if text:
            names = [one for one in names if text.lower() in one.lower()]
        if env or tag:
            wanted = {one.name for one in self._all_runs.get() if _fits(one, env, tag)}
            names = [one for one in names if one in wanted]
        shown = names[start : start + RUNS_AT_ONCE]
        return {
            "runs": [self.run_row(one) for one in shown],
            "start": start,
            "found": len(names),
            "total": total,
            "backup": self._backup.get(),
            "now": time.time(),
        }

    def run_row(self, name: str) -> dict[str, Any]:
        """What the table of runs shows of one."""
        with self._lock:
            read_at, row = self._runs.get(name, (0.0, None))
        if row is not None and row["state"] != "running" and time.monotonic() < read_at + SETTLED_S:
            return row
        listing = self.listings.of(name).get()
        row = _run_row(self._summary(name, listing), listing)
        with self._lock:
            self._runs[name] = (time.monotonic(), row)
            self._runs.move_to_end(name)
            while len(self._runs) > MAX_RUNS_FILTERED:
                self._runs.popitem(last=False)
        return row

    def _summary(self, name: str, listing: Listing) -> RunSummary:
        run = self._jam.run(name, wait=True)
        checkpoints = len(run.checkpoints())
        return _summary_of(name, listing, run._history(lambda: listing.own), checkpoints)

    def _read_backup(self) -> dict[str, Any]:
        status = self._jam.backup.status()
        return {
            "lag_s": status.lag_s,
            "pending": status.pending_records,
            "works": status.last_error is None,
            "is_there": status.mongo is not None or status.follower is not None,
        }

    # -- one run ----------------------------------------------------------------------------

    def run(self, name: str) -> dict[str, Any]:
        """All about a run but its episodes and its metrics.

        Raises:
            RunNotFound: There is no such run; names those that there are.
        """
        known = self._details.of(name).get()
        return {**known, "flagged": len(self.flagged(name)), "now": time.time()}

    def _read_run(self, name: str) -> dict[str, Any]:
        listing = self.listings.of(name).get()
        run = self._jam.run(name, wait=bool(listing.found))
        history = run._history(lambda: listing.own)
        checkpoints = run.checkpoints()
        summary = _summary_of(name, listing, history, len(checkpoints))
        finished = listing.finished
        self._ids.get()  # the short ids of the new episodes
        return {
            **_run_row(summary, listing),
            "version": listing.version,
            "sessions": [_session(one) for one in history[-MAX_SESSIONS:]],
            "training": without_paths(dict(history[-1].info)) if history else None,
            "checkpoints": [
                {"number": one.number, "at": one.at, "policy_version": one.policy_version}
                for one in checkpoints[-MAX_SESSIONS:]
            ],
            "returns": histogram_of(finished.returns),
            "lengths": histogram_of(finished.steps),
            "outliers": self._outliers(listing),
            "running": self._running(listing),
            "marks": _marks(history, listing),
            "statuses": Counter(listing.status[listing.is_own].tolist()),
            "forks": int((~listing.is_own).sum()),
        }

    def curve(self, name: str, size: int | None, start: int) -> dict[str, Any]:
        """Returns and lengths over time, as `curve_of`."""
        return curve_of(self.listings.of(name).at_once().finished, size, start)

    def metrics(self, name: str) -> dict[str, Any]:
        """The metrics of a run, each as a curve over its timesteps."""
        table = self._jam.run(name).metrics()
        timesteps = table["timesteps"].to_numpy() if table.num_rows else np.empty(0)
        found = {}
        for column in table.column_names:
            kind = table.schema.field(column).type
            if column in _NO_METRICS or not (kinds.is_integer(kind) or kinds.is_floating(kind)):
                continue
            values = table[column].to_numpy(zero_copy_only=False).astype(np.float64)
            there = ~np.isnan(values)
            pairs = np.stack((timesteps[there], values[there]))
            pairs = pairs[:, :: max(1, pairs.shape[1] // MAX_METRIC_POINTS)]
            found[column] = {"x": pairs[0], "y": pairs[1]}
        return {"metrics": found}

    def surprise(self, name: str) -> dict[str, Any]:
        """The step of the newest episodes whose value was most wrong."""
        return self._surprises.of(name).get()

    def _read_surprise(self, name: str, surprises: Surprises) -> dict[str, Any]:
        listing = self.listings.of(name).get()
        history = self._jam.run(name, wait=bool(listing.found))._history(lambda: listing.own)
        discount = discount_of(dict(history[-1].info) if history else None)
        over = (listing.is_own & (listing.status != "running")).nonzero()[0]
        newest = [listing.found[row].id for row in over[-NEWEST:]]
        found = surprises.largest(newest, discount)
        if found is None:
            return {"surprise": None, "discount": discount}
        surprise = {**found._asdict(), "short": self._short(found.id)}
        return {"surprise": surprise, "discount": discount}

    def flagged(self, name: str) -> frozenset[str]:
        """Ids of the flagged episodes of a run."""
        return self._flagged.of(name).get()

    def _read_flagged(self, name: str) -> frozenset[str]:
        return frozenset(one.id for one in self._jam.run(name, wait=True).flagged())

    def episodes(
        self, run: str, start: int, count: int, *, flagged: bool, **asked: Any
    ) -> dict[str, Any]:
        """Some episodes of a run, in an order."""
        marked = self.flagged(run)
        among = marked if flagged else None
        page = self.listings.page(run, start, count, among=among, **asked)
        found = page.listing.found
        return {
            "start": page.start,
            "total": page.total,
            "version": page.listing.version,
            "episodes": [
                {
                    **_episode_row(found[row]),
                    "short": self._short(found[row].id),
                    "number": int(row) + 1,
                    "flagged": found[row].id in marked,
                }
                for row in page.rows
            ],
        }

    # -- one episode ------------------------------------------------------------------------

    def episode(self, id: str) -> dict[str, Any]:
        """All about an episode but its steps.

        Raises:
            EpisodeNotFound: There is no such episode.
        """
        episode = self._jam.episode(id)
        summary = episode.summary
        origin = episode.origin
        frames = episode._renders()
        return {
            **self._summary_row(summary),
            "now": time.time(),
            "tags": without_paths(dict(summary.tags)),
            "follows": origin.follows,
            "options": short_text(origin.options) if origin.options is not None else None,
            "frames": frames.count(),
            "pictures": picture_leaves(episode),
            "flags": [
                {"note": one.note, "step": one.step, "at": one.at} for one in episode.flags()
            ],
        }

    def provenance(self, id: str) -> dict[str, Any]:
        """Where an episode came from; no path."""
        known = without_paths(self._jam.episode(id).provenance)
        return {"provenance": known}

    def neighbours(self, id: str) -> dict[str, Any]:
        """The episodes before and after it in its run, and its number."""
        run = self._jam.episode(id).summary.run
        listing = self.listings.of(run).get()  # who follows it waits for the next one
        at = listing.found.row_of(id)
        if at is None:
            return {"number": None, "total": len(listing.found), "before": None, "after": None}
        around = {"before": at - 1, "after": at + 1}
        return {
            "number": at + 1,
            "total": len(listing.found),
            **{
                name: listing.found[place].id if 0 <= place < len(listing.found) else None
                for name, place in around.items()
            },
        }

    def compare(self, a: str, b: str) -> dict[str, Any]:
        """Where two episodes part, and from which step each of them counts."""
        one, other = self._jam.episode(a), self._jam.episode(b)
        report = self._jam.diff(one, other)
        difference = report.divergence
        return {
            "a": {**self._summary_row(report.a), "offset": _offset(one)},
            "b": {**self._summary_row(report.b), "offset": _offset(other)},
            "common_steps": report.common_steps,
            "divergence": None
            if difference is None
            else {
                "step": difference.step,
                "field": difference.field,
                "text": short_text(str(difference), 400),
            },
        }

    def lineage(self, id: str) -> dict[str, Any]:
        """The tree of forks that an episode belongs to."""
        episode = self._jam.episode(id)
        try:
            root = episode.lineage[0]
        except EpisodeNotFound:  # one that it came from has been deleted
            root = episode
        query = self._jam.episodes(forks=True, wait=True)
        children: dict[str, list[EpisodeSummary]] = {}
        for one in query.where(lambda episode: episode.parent is not None).summaries():
            children.setdefault(str(one.parent), []).append(one)
        nodes: list[dict[str, Any]] = []
        waiting = [(root.summary, 0, 0)]
        while waiting and len(nodes) < MAX_NODES:
            node, depth, begins = waiting.pop()
            found = children.get(node.id, [])
            nodes.append(
                {
                    **self._summary_row(node),
                    "depth": depth,
                    "children": len(found),
                    "offset": begins,
                }
            )
            waiting += [
                (child, depth + 1, begins + (child.fork_step or 0)) for child in reversed(found)
            ]
        return {"id": episode.id, "nodes": nodes, "is_cut": bool(waiting)}

    def _summary_row(self, one: EpisodeSummary) -> dict[str, Any]:
        """An episode with its run."""
        short = self._ids.get().of(one.id)
        return {**_episode_row(one), "run": one.run, "env_id": one.env_id, "short": short}

    def _short(self, id: str) -> str:
        """The beginning of an id that no other episode of the store has."""
        return self._ids.at_once().of(id)

    def _running(self, listing: Listing) -> dict[str, Any] | None:
        """The newest episode that is being recorded; None if there is none."""
        rows = (listing.status == "running").nonzero()[0]
        if not len(rows):
            return None
        id = listing.found[rows[-1]].id
        return {"id": id, "short": self._short(id)}

    def _outliers(self, listing: Listing) -> dict[str, Any]:
        """The best, the worst and the longest episode; None if there is no such one."""
        return {
            name: None if one is None else {**_episode_row(one), "short": self._short(one.id)}
            for name, one in _outliers(listing).items()
        }

    # -- flags ------------------------------------------------------------------------------

    def flag(self, id: str, note: object, step: object) -> dict[str, Any]:
        """Mark an episode."""
        if not isinstance(note, str) or not (step is None or type(step) is int):
            raise InvalidArgument("a flag has a note, and the number of a step or none")
        episode = self._jam.episode(id)
        episode.flag(note, step=step)
        self._flagged.forget(episode.summary.run)
        return {"flags": [{"note": f.note, "step": f.step, "at": f.at} for f in episode.flags()]}

    def unflag(self, id: str) -> dict[str, Any]:
        """Delete the flags of an episode."""
        episode = self._jam.episode(id)
        run = episode.summary.run
        episode.unflag()
        self._flagged.forget(run)
        return {"flags": []}


def _is_same_run(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ("version", "state", "sessions", "checkpoints")
    return one["state"] != "running" and all(one[name] == other[name] for name in names)


# -- as plain values ------------------------------------------------------------------------


def _tags_of_run(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of its newest episode, without what only holds for that one of several agents."""
    of_one_agent = (AGENT_TAG, JOINT_TAG) if JOINT_TAG in tags else ()
    return {name: value for name, value in tags.items() if name not in of_one_agent}


def _fits(run: RunSummary, env: str, tag: str) -> bool:
    name, _, value = tag.partition("=")
    return (not env or any(env.lower() in one.lower() for one in run.env_ids)) and (
        not tag or (name in run.tags and value in ("", str(run.tags[name])))
    )


def _summary_of(
    name: str, listing: Listing, history: Sequence[RunSession], checkpoints: int
) -> RunSummary:
    return summary_of_run(name, listing.own, history, checkpoints, time.time(), listing.columns)


def _run_row(run: RunSummary, listing: Listing) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "env_ids": list(run.env_ids),
        "episodes": run.episodes,
        "steps": run.steps,
        "steps_per_s": run.steps_per_s,
        "mean_return": run.mean_return,
        "mean_returns": run.mean_returns,
        "began_at": run.began_at,
        "last_step_at": run.last_step_at,
        "checkpoints": run.checkpoints,
        "tags": without_paths(_tags_of_run(run.tags)),
        "spark": spark_of(listing.finished),
    }


def _episode_row(one: StoredSummary | EpisodeSummary) -> dict[str, Any]:
    seed = one.decoded_seed() if isinstance(one, StoredSummary) else one.seed
    return {
        "id": one.id,
        "status": one.status,
        "steps": one.steps,
        "episode_return": one.episode_return,
        "returns": one.returns,
        "started_at": one.started_at,
        "elapsed_s": one.elapsed_s,
        "seed": None if seed is None else short_text(seed, 40),
        "parent": one.parent,
        "fork_step": one.fork_step,
        "vector_index": one.vector_index,
    }


def _session(one: RunSession) -> dict[str, Any]:
    return {
        "how": one.how,
        "began_at": one.began_at,
        "ended_at": one.ended_at,
        "timesteps_from": one.timesteps_from,
        "timesteps_to": one.timesteps_to,
        "resumed_from": one.resumed_from,
    }


def _outliers(listing: Listing) -> dict[str, StoredSummary | None]:
    """The best, the worst and the longest episode that is over; None if there is no such one."""
    over = listing.is_own & np.isin(listing.status, ("terminated", "truncated"))
    rows = over.nonzero()[0]
    returns = listing.numbers("episode_return")[rows]
    places = {}
    if len(rows):
        places["longest"] = listing.numbers("steps")[rows].argmax()
    if not np.isnan(returns).all():
        places |= {"best": np.nanargmax(returns), "worst": np.nanargmin(returns)}
    found = {name: listing.found[rows[place]] for name, place in places.items()}
    return dict.fromkeys(("best", "worst", "longest")) | found


def _marks(history: Sequence[RunSession], listing: Listing) -> list[dict[str, Any]]:
    """Where the run was cut off: number of episodes that were over by then, and when."""
    cut = [one.ended_at for one in history if one.how in ("interrupted", "raised")]
    cut += listing.ended_at[listing.is_own & (listing.status == "interrupted")].tolist()
    finished = listing.finished
    steps = np.concatenate(([0.0], finished.steps.cumsum()))
    marks = {}
    for at in sorted(one for one in cut if one is not None):
        place = int(finished.ended_at.searchsorted(at, side="right"))
        marks[place] = {"episode": place, "steps": float(steps[place]), "at": at}
    return list(marks.values())[-MAX_SESSIONS:]


def _offset(episode: Episode) -> int:
    """How many steps from the reset on were taken before this episode's own."""
    return sum(one.origin.fork_step or 0 for one in episode.lineage)
