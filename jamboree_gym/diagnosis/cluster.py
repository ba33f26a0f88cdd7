"""A cluster: whether each of its primaries has a replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jamboree_gym.diagnosis.finding import Finding, ok, problem
from jamboree_gym.wording import counted

__all__ = ["check_cluster"]

CHECK = "redis cluster"


def check_cluster(primaries: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Finding]:
    """Look at the primaries: where each is, and what `INFO` says there."""
    alone = [where for where, info in primaries if not int(info.get("connected_slaves", 0))]
    found = counted(len(primaries), "primary server")
    if alone:
        mend = "start replicas: if such a primary fails, none takes its place, and recording waits"
        yield problem(CHECK, f"{found}; without a replica: {', '.join(alone)}", mend)
    else:
        yield ok(CHECK, f"{found}, each with a replica")
