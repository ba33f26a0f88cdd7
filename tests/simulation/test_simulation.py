"""Schedules of writers, readers, backups and faults on simulated servers: see README.md."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_model import ClusterModel
from lengths import IS_LONG
from schedule import CLUSTER_WINDOWS, Fault, Schedule, Step, is_on_cluster, made, shrunk
from simulated_actors import _Simulation, simulate

pytestmark = pytest.mark.once

SIMULATE = Path(__file__).parent / "simulate.py"
SEED = "JAMBOREE_SIMULATED_SEED"
SECONDS = float(os.environ.get("JAMBOREE_SIMULATED_SECONDS") or (100 if IS_LONG else 5))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_all_promises_hold_in_schedules_of_many_seeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = int(os.environ.get(SEED) or random.SystemRandom().randrange(10**9))
    with capsys.disabled():
        print(f"\n{SEED}={first}", end=" ")
    # In a process of its own, whose sets have the same order each time.
    command = [sys.executable, str(SIMULATE), "--first", str(first), "--seconds", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
    assert int(re.findall(r"(\d+) schedules, ", done.stdout)[-1]) > 0


LEFT_BY_A_KILLED_BACKUP = (  # a batch that Redis has lost, and another one in its place
    Step("writer-1", "save", 1),
    Step("writer-1", "flush", 0),
    Step("keeper", "copy", 0),
    Step("world", "wait", 1),
    Step("keeper", "take_turn", 0),
    Step("world", "wait", 1),
    Step("writer-1", "save", 1),
    Step("writer-1", "flush", 0),
    Step("keeper", "copy", 0, (Fault(0, "killed after", of="insert of chunks"),)),
    Step("world", "fail_over", 2),
    Step("writer-1", "save", 1),
    Step("writer-1", "flush", 0),
)

BEGUN_ANEW_WITHOUT_MONGO = (
    *[Step("keeper", "copy", 0), Step("world", "mongo_away", 0), Step("world", "empty_redis", 0)],
    *[Step("writer-4", "save", 1), Step("writer-1", "flush", 198), Step("world", "mongo_back", 0)],
    *[Step("keeper", "copy", 0), Step("reader", "read_notes", 1)],
)


NOT_SAID = Fault(0, "answer late", 5, of="acknowledge")


def copied_late(*before: Step, end: Fault = NOT_SAID) -> Schedule:
    """Redis is emptied, and something happens, before what was copied; the copy cannot say it."""
    stopped = Fault(0, "stopped", len(before) + 2, of="writes of logs")
    return (
        *[Step("writer-1", "save", 1), Step("writer-1", "flush", 0), Step("keeper", "copy", 0)],
        *[Step("writer-1", "save", 1), Step("writer-1", "flush", 0)],
        Step("keeper", "copy", 0, (stopped, end)),
        *[Step("world", "empty_redis", 0), *before],
    )


ANSWERS_LOST = Fault(0, "answer lost", of="append"), Fault(1, "answer lost", of="append")


def sent_before_redis_is_emptied(*sent: Step) -> tuple[Step, ...]:
    """What nobody has heard of is in MongoDB, which is away; notes may be taken off meanwhile."""
    return (
        *(Step("keeper", "copy", 0), *sent, Step("keeper", "copy", 0)),
        *(Step("world", "mongo_away", 0), Step("world", "empty_redis", 0)),
        *(Step("writer-1", "flush", 0), Step("writer-3", "pop", 1), Step("world", "mongo_back", 0)),
        *(Step("world", "wait", 5), Step("keeper", "copy", 0), Step("reader", "read_notes", 1)),
    )


# Schedules that have failed, with what was wrong.
FAILED = {
    "a record came back that was taken off a log begun anew by the journal of a dead process": (
        sent_before_redis_is_emptied(
            *(Step("writer-1", "save", 1), Step("writer-1", "flush", 0)),
            Step("writer-1", "save", 1),
            Step("writer-1", "flush", 0, (Fault(0, "killed after", of="append"),)),
        )
    ),
    "a record came back that was taken off a log begun anew by who had heard of no answer": (
        sent_before_redis_is_emptied(
            *(Step("writer-1", "save", 1), Step("writer-1", "flush", 0)),
            Step("writer-1", "save", 1),
            Step("writer-1", "deliver", 0, ANSWERS_LOST),
        )
    ),
    "a record came back that had just the index to follow others in a log begun anew": (
        Step("world", "move_clock", 352),
        *(Step("writer-2", "save_many", 1), Step("writer-3", "save", 1)),
        Step("writer-2", "deliver", 0, (Fault(1, "answer late", 2, of="append"),)),
        *(Step("keeper", "copy", 0), Step("world", "mongo_away", 0)),
        *(Step("world", "empty_redis", 0), Step("writer-3", "save", 1)),
        *(Step("writer-2", "pop", 1), Step("world", "mongo_back", 0)),
        *(Step("keeper", "copy", 0), Step("reader", "read_notes", 1)),
    ),
    "a record of a dead process was there twice, as it had been sent with another time": (
        sent_before_redis_is_emptied(
            *(Step("writer-1", "save", 1), Step("writer-3", "save", 1)),
            Step("writer-1", "flush", 0, (Fault(1, "killed after", of="append"),)),
        )
    ),
    "an evicted batch was not recognized when its append came again": (
        Step("writer-1", "save", 4),
        Step("world", "wait", 5),
        Step("keeper", "trim", 2),
        Step("writer-1", "read_own", 4, (Fault(0, "answer lost in time", of="append"),)),
        Step("keeper", "follow_up", 0),
    ),
    "the same episode was a candidate for eviction twice, and neither was larger": (
        Step("writer-3", "vector_step", 0),
        Step("keeper", "trim", 6),
        Step("keeper", "follow_up", 0),
        Step("writer-3", "close", 0),
        Step("keeper", "follow_up", 0),
    ),
    "a deleted episode came back from the journal of a dead process": (
        Step("keeper", "verify", 0),
        Step("writer-2", "step", 0),
        Step("writer-2", "flush", 0, (Fault(0, "killed after", of="append"),)),
        Step("keeper", "delete_episode", 0),
        Step("writer-2", "save", 1),
    ),
    "a record was lost after the first delivery of a journal had broken off": (
        Step("writer-2", "save", 1),
        Step("writer-2", "flush", 0),
        Step("writer-2", "save", 1),
        Step("writer-2", "flush", 0, (Fault(0, "killed before", of="append"),)),
        Step("reader", "read_notes", 1, (Fault(0, "answer lost in time", of="epoch"),)),
    ),
    "a record in a journal was taken for an older one that had had its index": (
        Step("keeper", "follow_up", 0),
        Step("writer-2", "save", 1),
        Step("writer-2", "deliver", 0),
        Step("keeper", "take_turn", 0),
        Step("world", "fill_redis", 0),
        Step("world", "empty_redis", 0),
        Step("writer-2", "save", 1),
        Step("writer-2", "close", 0),
    ),
    "an append came again after its episode was deleted, while MongoDB did not answer": (
        Step(
            "writer-4",
            "reset",
            0,
            (Fault(0, "answer lost", of="append"), Fault(1, "answer lost", of="append")),
        ),
        Step("keeper", "delete_episode", 0),
        Step("writer-4", "flush", 0, (Fault(4, "answer lost"),)),
    ),
    "MongoDB had an episode of an earlier try, and Redis that of a later one": (
        Step("writer-4", "vector_step", 0, (Fault(0, "answer late", 22, of="append"),)),
        Step("reader", "read_notes", 0),
        Step("keeper", "copy", 0),
        Step("world", "mongo_away", 0),
        Step("world", "empty_redis", 0),
        Step("writer-4", "close", 0),
    ),
    "Redis was emptied after it had taken the end of an episode, before the reset returned": (
        Step("writer-4", "reset", 0),
        Step("keeper", "copy", 0),
        Step("writer-4", "reset", 0, (Fault(0, "answer lost"), Fault(2, "stopped", 14))),
        Step("world", "empty_redis", 0),
    ),
    "Redis had acknowledged a record, and the lease was renewed before the outbox knew it": (
        Step("writer-1", "save", 1),
        Step("writer-1", "step", 0),
        Step("keeper", "trim", 1),
        Step(
            "writer-1",
            "deliver",
            0,
            (
                Fault(5, "meanwhile", step=Step("world", "empty_redis", 0)),
                Fault(0, "answer lost", of="append"),
            ),
        ),
    ),
    "a log of records was saved to after a failover had lost its deletion, and was not copied": (
        Step("writer-4", "save_many", 1),
        Step("keeper", "take_turn", 0),
        Step("world", "fail_over", 6),
        Step("keeper", "delete_notes", 0),
        Step("writer-2", "save", 1),
        Step("world", "fail_over", 0),
    ),
    "a deletion did not cover what MongoDB had, as the records in Redis had waited for longer": (
        Step("writer-1", "save_many", 426),
        Step("writer-3", "save", 821),
        Step("keeper", "copy", 0),
        Step("world", "mongo_away", 0),
        Step("world", "empty_redis", 0),
        Step("writer-1", "flush", 0),
        Step("keeper", "delete_notes", 0),
    ),
    "a log was read in an emptied Redis while it was being deleted, and came back": (
        Step("writer-4", "save_many", 1),
        Step("keeper", "copy", 0),
        Step("keeper", "delete_notes", 458, (Fault(3, "stopped", 21),)),
        Step("world", "empty_redis", 0),
        Step("reader", "read_notes", 359),
    ),
    "MongoDB had another record in the place of one, and nothing counted as copied": (
        Step("reader", "read_episodes", 943),
        Step("writer-3", "save", 249, (Fault(0, "stopped", 4, of="append"),)),
        Step("writer-3", "flush", 0),
        Step("keeper", "copy", 0),
        Step("world", "wait", 1),
        Step("keeper", "take_turn", 0),
        Step("world", "wait", 1),
        Step("writer-3", "save", 1),
        Step("keeper", "copy", 0),
        Step("world", "fail_over", 2),
        Step("writer-3", "save", 1),
    ),
    "a record counted as copied that had taken the place of one that a failover had lost": (
        Step("writer-2", "save", 1),
        Step("writer-2", "flush", 0),
        Step("world", "wait", 1),
        Step("keeper", "take_turn", 0),
        Step("world", "wait", 1),
        Step("writer-2", "save", 1),
        Step("writer-2", "flush", 0),
        Step("keeper", "copy", 537, (Fault(0, "stopped", 13, of="acknowledge"),)),
        Step("world", "fail_over", 2),
        Step("writer-2", "save", 1),
        Step("writer-2", "flush", 0),
    ),
    "a backup cleared what another one had just copied": (
        *LEFT_BY_A_KILLED_BACKUP,
        Step("writer-1", "save", 1),
        Step("writer-1", "flush", 0),
        Step("keeper", "copy", 0, (Fault(8, "stopped", 2),)),
        Step("keeper-2", "copy", 0, (Fault(31, "stopped", 2),)),
        *[Step("world", "wait", 0)] * 2,
    ),
    "a stopped backup stored a head of which another one had cleared a batch": (
        *LEFT_BY_A_KILLED_BACKUP[:8],
        *LEFT_BY_A_KILLED_BACKUP[6:8],
        Step("keeper", "copy", 0, (Fault(0, "stopped", 5, of="writes of logs"),)),
        Step("world", "empty_redis", 0),
        Step("writer-1", "save", 1),
        Step("writer-1", "flush", 0),
        Step("keeper-2", "copy", 0),
    ),
    "a copy was told of damage, as a failover took what it was just reading": (
        *[Step("writer-1", "vector_step", 0), Step("writer-1", "flush", 0)],
        *[Step("world", "wait", 1), Step("keeper", "take_turn", 0), Step("world", "wait", 1)],
        *[Step("writer-1", "vector_step", 0)] * 2,
        Step("writer-1", "flush", 0),
        Step("keeper", "copy", 0, (Fault(18, "stopped", 5),)),
        Step("world", "fail_over", 2),
    ),
    "an episode came back that Redis had lost while it was being deleted": (
        Step("writer-3", "step", 228),
        Step("keeper", "delete_episode", 499, (Fault(6, "stopped", 9),)),
        Step("world", "empty_redis", 0),
    ),
    "a log came back that was begun again and copied, and was never copied any more": (
        Step("writer-3", "save_many", 1),
        Step("keeper", "copy", 0),
        Step("writer-3", "save", 1),
        *[Step("keeper", "trim", 1), Step("world", "wait", 1)],
        *[Step("keeper", "take_turn", 0), Step("world", "wait", 1)],
        Step("keeper", "delete_notes", 0),
        *[Step("writer-1", "save", 1), Step("writer-1", "flush", 0)],
        *[Step("keeper", "copy", 0), Step("world", "fail_over", 2)],
        Step("keeper-2", "copy", 0),
    ),
    "a copy left out logs, as a failover took the schema of what it had read": (
        *[Step("keeper", "follow_up", 121), Step("world", "wait", 195)],
        *[Step("writer-2", "step", 652), Step("writer-2", "deliver", 354)],
        Step(
            "keeper",
            "take_turn",
            421,
            (Fault(1, "stopped", 11), Fault(0, "stopped", 24, of="insert")),
        ),
        *[Step("keeper", "take_turn", 375), Step("keeper", "copy", 0), Step("world", "wait", 1)],
        *[Step("keeper", "take_turn", 0), Step("world", "wait", 1)],
        *[Step("writer-1", "vector_step", 0)] * 3,
        *[Step("writer-1", "flush", 0), Step("keeper", "copy", 0), Step("world", "fail_over", 2)],
    ),
    "Redis was emptied while a reader asked how many buckets there are": (
        Step("reader", "read_notes", 1, (Fault(1, "stopped", 5, of="HGET"),)),
        Step("world", "empty_redis", 0),
    ),
    "a stopped backup stored episodes as they were before their end, and these were listed": (
        Step("writer-1", "vector_step", 0),
        Step("writer-1", "flush", 0),
        Step("keeper", "copy", 0, (Fault(0, "stopped", 30, of="insert of logs"),)),
        *[Step("writer-1", "vector_step", 0)] * 4,
        Step("writer-1", "flush", 0),
        Step("keeper-2", "copy", 0),
    ),
    "a deleted episode was begun again after Redis was emptied, while MongoDB did not answer": (
        Step("writer-3", "step", 0),
        Step("keeper", "delete_episode", 0),
        Step("world", "empty_redis", 0),
        Step("world", "mongo_away", 0),
        Step("writer-3", "step", 0),
    ),
    "an episode was begun again that had been deleted before its writer had an answer": (
        Step("writer-4", "step", 952, (Fault(0, "answer late", 27, of="append"),)),
        Step("writer-2", "step", 299),
        Step("writer-2", "flush", 0),
        Step("keeper", "copy", 0),
        Step("keeper", "delete_episode", 0),
        Step("world", "mongo_away", 0),
        Step("world", "empty_redis", 0),
        Step("writer-4", "close", 241),
    ),
    "a reader was told that no backup is known, as the log was deleted while it read": (
        Step("writer-3", "save", 1),
        Step("world", "wait", 5),
        Step("keeper", "take_turn", 0),
        Step("keeper", "trim", 578),
        Step("reader", "read_episodes", 230),
        Step(
            "reader",
            "read_notes",
            14,
            (Fault(2, "meanwhile", step=Step("keeper", "delete_notes", 924)),),
        ),
    ),
    "records of a dead process were there twice, as others had begun their log anew": (
        Step("writer-4", "vector_step", 584),
        Step("keeper-2", "take_turn", 144),
        Step("keeper", "copy", 879),
        Step("writer-1", "save", 1),
        Step("writer-1", "flush", 0, (Fault(0, "killed after", of="append"),)),
        *BEGUN_ANEW_WITHOUT_MONGO,
    ),
    "records were there twice that were sent again to a log begun anew": (
        Step("writer-4", "vector_step", 584),
        Step("keeper-2", "take_turn", 144),
        Step("keeper", "copy", 879),
        Step("writer-1", "save", 1),
        Step(
            "writer-1",
            "deliver",
            0,
            (Fault(0, "answer lost", of="append"), Fault(1, "command lost", of="append")),
        ),
        *BEGUN_ANEW_WITHOUT_MONGO,
    ),
    "a copy counted a record that a failover had put in the place of another as that other one": (
        Step("writer-2", "save", 39),
        *[Step("writer-1", "save", 1), Step("writer-1", "flush", 0), Step("keeper", "copy", 0)],
        *[Step("world", "wait", 1), Step("writer-3", "pop", 1)],
        *[Step("writer-1", "save", 1), Step("writer-1", "flush", 0)],
        Step("keeper", "copy", 0, (Fault(9, "stopped", 5),)),
        Step("world", "fail_over", 2),
        *[Step("writer-1", "save", 1), Step("writer-1", "flush", 0)],
    ),
    "an episode could not be copied that a journal had begun again in other batches": (
        *[Step("writer-1", "vector_step", 224), Step("writer-1", "vector_step", 856)],
        Step("keeper", "copy", 0),
        Step("writer-1", "flush", 0, (Fault(0, "killed after", of="append"),)),
        Step("keeper", "copy", 0),
        *[Step("world", "mongo_away", 0), Step("world", "empty_redis", 0)],
        *[Step("writer-1", "flush", 0), Step("world", "mongo_back", 0), Step("keeper", "copy", 0)],
    ),
    "a record was missing in the backup that had been popped before the copy, and came back": (
        *[Step("writer-4", "save", 601), Step("writer-4", "pop", 306)],
        *[Step("keeper", "take_turn", 375), Step("world", "fail_over", 570)],
        *[Step("keeper", "copy", 0), Step("world", "empty_redis", 0)],
        Step("reader", "read_notes", 1),
    ),
    "a log was begun anew while another process restored the heads": (
        Step("writer-1", "save", 322),
        *[
            Step("writer-2", "save_many", 1),
            Step("writer-2", "flush", 0),
            Step("keeper", "copy", 0),
        ],
        Step("world", "empty_redis", 0),
        Step(
            "writer-4",
            "save",
            184,
            (Fault(0, "meanwhile", 3, Step("writer-1", "flush", 700), of="restore"),),
        ),
        Step("reader", "read_notes", 1),
    ),
    "a reader put a log back, and a copy that did not reach Redis then brought more of it": (
        copied_late(Step("reader", "read_notes", 1))
    ),
    "another backup had compared both sides before such a copy brought more": (
        copied_late(Step("reader", "read_notes", 1), Step("keeper-2", "copy", 0))
    ),
    "another backup had compared both sides before a copy brought more records, and was killed": (
        copied_late(Step("keeper-2", "copy", 0), end=Fault(0, "killed after", of="writes of logs"))
    ),
    "another backup had compared both sides before a copy brought an episode, and was killed": (
        *[*[Step("writer-1", "vector_step", 0)] * 3, Step("writer-1", "flush", 0)],
        Step(
            "keeper",
            "copy",
            0,
            (
                Fault(0, "stopped", 3, of="insert of logs"),
                Fault(0, "killed after", of="insert of logs"),
            ),
        ),
        *[Step("world", "empty_redis", 0), Step("keeper-2", "copy", 0)],
    ),
}


FAILED_ON_CLUSTER: dict[str, Schedule] = {
    "a failover had a deletion carried out again, which took what was saved since": (
        Step("writer-4", "save", 1),
        *[Step("world", "mongo_away", 0), Step("keeper", "delete_notes", 0)],
        *[Step("world", "mongo_back", 0), Step("world", "wait", 5)],
        *[Step("writer-2", "save", 1), Step("writer-2", "flush", 0)],
        *[Step("keeper", "copy", 0), Step("world", "wait", 1), Step("world", "fail_over", 2)],
    ),
    "a log was begun again that a full primary could not get back": (
        Step("writer-1", "save_many", 1),
        Step("writer-1", "flush", 0),
        Step("keeper", "copy", 0),
        Step("world", "fill_redis", 2),
        Step("writer-1", "save", 1),
        Step("world", "empty_redis", 0),
        Step("writer-1", "flush", 0),
        Step("world", "free_redis", 0),
        Step("writer-1", "flush", 0),
        Step("reader", "read_notes", 1),
    ),
    "a log was gone that was written anew while its slot began to move": (
        Step("writer-1", "save", 1),
        Step("writer-1", "flush", 0),
        Step("keeper", "copy", 0),
        Step("world", "mongo_away", 0),
        Step("world", "empty_redis", 0),
        Step("writer-1", "save", 1),
        Step("writer-1", "flush", 0),
        Step("world", "mongo_back", 0),
        Step(
            "keeper",
            "copy",
            0,
            (Fault(0, "meanwhile", step=Step("world", "move_slot", 1), of="replace"),),
        ),
    ),
    "an episode was there whose schema a full primary had refused": (
        Step("writer-1", "save", 1),
        Step("world", "fill_redis", 3),
        Step("writer-1", "step", 0),
        Step("writer-1", "flush", 0),
        Step("keeper", "copy", 0),
    ),
    "a log was saved to after one primary had lost its deletion, and was not copied": (
        Step("writer-1", "save_many", 2),
        Step("writer-4", "save", 1),
        Step("keeper", "take_turn", 0),
        Step("writer-4", "save", 1),
        Step("world", "wait", 1),
        Step("keeper", "delete_notes", 4),
        Step("world", "fail_over", 2),
    ),
    "an episode was not continued of which the backup had told that its rows were there": (
        Step("world", "wait", 4),
        Step("writer-1", "reset", 0),
        Step("writer-1", "save", 1),
        Step("writer-1", "deliver", 0, (Fault(0, "answer late", 27, of="append"),)),
        Step("writer-1", "flush", 0),
        Step("keeper", "copy", 0),
        Step("world", "wait", 1),
        Step("keeper", "delete_notes", 1),
        Step("world", "fail_over", 2),
        Step("writer-1", "save", 1),
        Step("writer-1", "flush", 0),
        Step("writer-1", "step", 0),
    ),
}


NEEDS_SEED = {  # which says what counts as large, and who syncs
    "a copy was told of damage, as a failover took what it was just reading": 1342358,
    "a copy left out logs, as a failover took the schema of what it had read": 1396966,
    "records of a dead process were there twice, as others had begun their log anew": 40004243,
    "a copy counted a record that a failover had put in the place of another as that other one": (
        60006762
    ),
    "records were there twice that were sent again to a log begun anew": 40004243,
    "a record was missing in the backup that had been popped before the copy, and came back": 2,
    "an episode could not be copied that a journal had begun again in other batches": 70004263,
}


@pytest.mark.parametrize("what", FAILED)
def test_a_schedule_that_has_failed_does_not_fail_again(what: str) -> None:
    outcome = simulate(FAILED[what], seed=NEEDS_SEED.get(what, 0))
    assert not outcome.violations, "\n".join(outcome.story)


@pytest.mark.parametrize("first", [21, 42, 43, 44])
def test_two_copies_that_are_stopped_anywhere_keep_all_promises(first: int) -> None:
    saves = Step("writer-1", "save", 1), Step("writer-1", "flush", 0)
    for second in range(24, 47, 2):  # both around the round trips that clear what is left
        schedule = (
            *(*LEFT_BY_A_KILLED_BACKUP, *saves),
            Step("keeper", "copy", 0, (Fault(first, "stopped", 5),)),
            *(Step("world", "empty_redis", 0), *saves),
            Step("keeper-2", "copy", 0, (Fault(second, "stopped", 2),)),
            *[Step("world", "wait", 0)] * 2,
        )
        outcome = simulate(schedule, seed=0)
        assert not outcome.violations, "\n".join(outcome.story)


@pytest.mark.long  # test_planted_faults.py finds a fault again by its seed
@pytest.mark.parametrize("more", [("1",), ("2",), ("1", "--cluster")])
def test_a_seed_happens_the_same_way_again(more: tuple[str, ...]) -> None:
    command = [sys.executable, str(SIMULATE), "--story", "--seed", *more]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert len(first.stdout.splitlines()) > 10
    assert re.sub(r"jg-sim-\w+", "", second.stdout) == re.sub(r"jg-sim-\w+", "", first.stdout)


def test_a_seed_of_a_cluster_happens_the_same_way_after_another_one() -> None:
    def story(seed: int) -> list[str]:
        schedule = made(seed, on_cluster=True)
        lines = simulate(schedule, seed, on_cluster=True).story
        return [re.sub(r"jg-sim-\w+", "", line) for line in lines]

    first = story(3)
    story(4)
    assert story(3) == first


def test_a_schedule_is_shrunk_to_what_makes_it_fail() -> None:
    needed = Step("keeper", "copy", 0, (Fault(3, "answer lost"),))

    def fails(schedule: Schedule) -> bool:
        return any(step.act == "copy" and step.faults for step in schedule)

    inner = Step("reader", "read_notes", 1)
    other = Fault(1, "meanwhile", step=inner)
    schedule = (*made(1), Step("keeper", "copy", 0, (other, *needed.faults)), *made(2))
    (left,) = shrunk(schedule, fails)
    assert left.act == "copy"
    assert len(left.faults) == 1


@pytest.mark.parametrize("schedule", FAILED_ON_CLUSTER.values(), ids=FAILED_ON_CLUSTER)
def test_a_schedule_that_has_failed_on_a_cluster_does_not_fail_again(schedule: Schedule) -> None:
    outcome = simulate(schedule, seed=0, on_cluster=True)
    assert not outcome.violations, "\n".join(outcome.story)


@pytest.mark.parametrize("at", range(len(CLUSTER_WINDOWS)))
def test_a_window_of_clusters_keeps_all_promises(at: int) -> None:
    outcome = simulate(CLUSTER_WINDOWS[at], seed=at, on_cluster=True)
    assert not outcome.violations, "\n".join(outcome.story)


def test_a_schedule_meets_each_refusal_of_a_cluster(tmp_path: Path) -> None:
    saves = Step("writer-1", "save", 1), Step("writer-1", "flush", 0)
    reads = Step("reader", "read_notes", 1)
    schedule = (
        *(*saves, reads, Step("world", "move_slot", 0), *saves),
        *(Step("world", "move_slot", 50), *saves, reads, Step("world", "finish_moves", 0)),
        *(Step("world", "redis_away", 7), Step("world", "wait", 4), *saves, reads),
    )
    simulation = _Simulation(1, tmp_path, on_cluster=True)
    assert not simulation.run(schedule).violations
    assert isinstance(simulation.world.redis, ClusterModel)
    assert simulation.world.redis.refused.keys() == {"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"}


def test_some_seeds_have_a_cluster_and_more_steps_there() -> None:
    some = [seed for seed in range(1000) if is_on_cluster(seed)]
    assert 100 < len(some) < 200
    assert made(1, on_cluster=True) != made(1)


# -- what the simulation has to notice ------------------------------------------------------------


def forget(notes: int) -> Schedule:
    """A writer saves, and Redis is emptied behind the ledger's back."""
    return (*[Step("writer-1", "save", 1)] * notes, Step("writer-1", "flush", 0))


@pytest.mark.parametrize("on_cluster", [False, True])
def test_a_lost_record_is_noticed(monkeypatch: pytest.MonkeyPatch, on_cluster: bool) -> None:
    real = _Simulation.end

    def end(simulation: _Simulation) -> None:
        for part in simulation.world.redis.parts:
            part.execute([(b"FLUSHALL",)])
        real(simulation)

    monkeypatch.setattr(_Simulation, "end", end)
    outcome = simulate(forget(3), 0, on_cluster=on_cluster)
    assert any("note 1 of writer-1.1 in 'shared' is missing" in one for one in outcome.violations)
