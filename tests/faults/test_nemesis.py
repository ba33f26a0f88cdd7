"""A short history of everything at once; `make nemesis` has long ones, and many."""

from __future__ import annotations

from collections import Counter

import pytest
from history import NODE_TIMEOUT_S, PRIMARY, Violation
from nemesis import (
    CLIENTS,
    ClusterServers,
    EmbeddedServers,
    Outcome,
    OwnServers,
    Sums,
    check_servers_are_back,
    run,
    schedule,
    with_clients,
)
from operations import Operation

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


def test_primaries_are_killed_and_slots_move_in_thirty_seeds() -> None:
    deeds = with_clients(ClusterServers.deeds)
    planned = Counter(deed[1:3] for seed in range(30) for deed in schedule(seed, 30.0, deeds))

    assert planned["kill", PRIMARY] >= 50
    assert planned["reshard", PRIMARY] + planned["migrate", PRIMARY] >= 20
    assert planned["stop", PRIMARY] >= 10


def test_a_primary_is_away_until_it_is_replaced() -> None:
    for deed in schedule(7, 600.0, [*ClusterServers.deeds]):
        if deed.target == PRIMARY and deed.what in ("kill", "stop"):
            assert deed.for_s > NODE_TIMEOUT_S


def test_deeds_that_had_an_effect_are_summed_over_all_seeds() -> None:
    deeds = [("kill", "redis", True), ("kill", "vector-2", True), ("stop", "backup", False)]
    operations = [Operation("nemesis", what, to, result=done) for what, to, done in deeds]
    operations.append(Operation("reader-1", "read", "e", result=True))
    sums = Sums()
    for seed, found in ((3, []), (4, [Violation("a rule", "it is broken")])):
        sums.add(Outcome(seed, "", [], operations, found))

    assert str(sums).splitlines() == [
        "2 seeds, 8 operations: 4 kill",
        "  to whom: 2 kill redis, 2 kill vector",
        "  seeds with violations: 4; broken off: none",
    ]


def test_a_history_is_broken_off_if_a_server_could_not_be_started_again() -> None:
    words = "secantus did not answer in 60.0 s"
    killed = Operation("nemesis", "kill", "mongo", error="RuntimeError", words=words)
    refused = Operation("reader-1", "read", "e", error="RuntimeError", words="a fault")

    check_servers_are_back([refused, Operation("nemesis", "kill", "mongo", result=True)])
    with pytest.raises(RuntimeError, match=words):
        check_servers_are_back([refused, killed])


@pytest.mark.long
def test_a_short_history_has_no_violation() -> None:
    outcome = run(seed=0, seconds=6.0)

    assert not outcome.violations, "\n".join([*map(str, outcome.story), str(outcome)])
    assert {one.action for one in outcome.operations} >= {"step", "save", "read", "list", "verify"}


@pytest.mark.long
def test_a_short_history_on_a_cluster_has_no_violation() -> None:
    outcome = run(seed=20, seconds=8.0, cluster="valkey9")

    assert not outcome.violations, "\n".join([*map(str, outcome.story), str(outcome)])
    assert outcome.done["kill primary"] == outcome.done["migrate primary"] == 1
    assert {one.action for one in outcome.operations} >= {"step", "save", "read", "list", "verify"}
