"""What training logs: losses, returns, results of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import DecodeError
from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.tables.columns import scalar_columns

__all__ = ["MetricHandler", "metric_table"]

_PREFIX = "metric"


class MetricHandler(DBHandler):
    """Stores metrics; values that were logged together are one record.

    Example:
        >>> handler = MetricHandler(jam, "ppo")
        >>> handler.put(2048, session="s1", values={"rollout/ep_rew_mean": 21.5})
    """

    def __init__(self, jam: HasConnection | None = None, run: str = "") -> None:
        super().__init__(jam)
        self.entity = "run-metric"
        self.required = {"run": str}
        self["run"] = run

    def put(self, timesteps: int, *, session: str, values: Mapping[str, Any]) -> None:
        """Store values by name, logged at this timestep."""
        self.save({"timesteps": timesteps, "session": session, "values": dict(values)})


def metric_table(records: Sequence[Mapping[str, Any]], *, where: str) -> pa.Table:
    """The records as a table; only numbers and texts get a column.

    Raises:
        DecodeError: The records are not those of metrics.
    """
    try:
        columns = {
            "timesteps": pa.array([one["timesteps"] for one in records], pa.int64()),
            "at": pa.array([one["timestamp"] for one in records], pa.float64()),
            "session": pa.array([one["session"] for one in records], pa.string()),
        }
        values = scalar_columns(_PREFIX, [one["values"] for one in records])
    except (AttributeError, KeyError, TypeError, pa.ArrowException) as error:
        raise DecodeError(f"{where}: not the metrics of a run: {error!r}") from error
    named = {name.removeprefix(f"{_PREFIX}_"): column for name, column in values.items()}
    kept = {name: one for name, one in named.items() if one is not None and name not in columns}
    return pa.table({**columns, **kept})
