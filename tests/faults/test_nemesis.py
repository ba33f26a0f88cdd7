"""A short history of everything at once; `make nemesis` has long ones, and many."""

from __future__ import annotations

import pytest
from nemesis import CLIENTS, EmbeddedServers, OwnServers, run, schedule

DEEDS = [*OwnServers.deeds, *EmbeddedServers.deeds, *(("kill", slot) for slot in CLIENTS)]


def test_a_seed_gives_the_same_schedule() -> None:
    story = schedule(7, 60.0, DEEDS)

    assert story == schedule(7, 60.0, DEEDS) != schedule(8, 60.0, DEEDS)
    assert len(story) > 30
    assert [deed.at_s for deed in story] == sorted(deed.at_s for deed in story)


def test_no_target_has_two_deeds_at_once() -> None:
    until: dict[str, float] = {}

    for deed in schedule(7, 600.0, DEEDS):
        assert deed.at_s > until.get(deed.target, 0.0)
        until[deed.target] = deed.at_s + deed.for_s


@pytest.mark.long
def test_a_short_history_has_no_violation() -> None:
    outcome = run(seed=0, seconds=6.0)

    assert not outcome.violations, "\n".join([*map(str, outcome.story), str(outcome)])
    assert {one.action for one in outcome.operations} >= {"step", "save", "read", "list", "verify"}
