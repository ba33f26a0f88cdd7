"""`jamboree-gym prune` and `rm`: which episodes and runs they take."""

from __future__ import annotations

import math
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import Server
from recorded_envs import ACTION, CountingEnv, ScriptedEnv
from recorded_envs import play as play_actions
from recorded_store import Store

from jamboree_gym.errors import InvalidArgument
from jamboree_gym.reading.finding.pruning import prunable
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.runs.checkpoints import CheckpointHandler


def summary(id: str, *, value: float = 0.0, began: float = 0.0, **known: Any) -> EpisodeSummary:
    fields = {"env_id": "E", "run": "r", "status": "terminated", "elapsed_s": 1.0, **known}
    return EpisodeSummary(
        id=id, steps=1, episode_return=value, started_at=began, seed=None, **fields
    )


def ids(found: list[EpisodeSummary]) -> str:
    return "".join(one.id for one in found)


def test_the_best_and_the_newest_of_each_run_stay() -> None:
    found = [
        summary("a", value=9, began=1),
        summary("b", value=math.nan, began=2),
        summary("c", value=5, began=3),
        summary("d", value=-1, began=4),
        summary("e", value=0, began=5, run="other"),
    ]
    assert ids(prunable(found, found)) == "abcde"
    assert ids(prunable(found, found, keep_best=1)) == "bcd"
    assert ids(prunable(found, found, keep_last=1)) == "abc"
    assert ids(prunable(found, found, keep_best=2, keep_last=1)) == "b"


def test_the_best_of_several_returns_is_not_guessed() -> None:
    several = [
        summary("a", value=math.nan, returns=(1.0, 2.0)),
        summary("b", value=math.nan, returns=(2.0, 1.0)),
    ]
    with pytest.raises(InvalidArgument, match=r"keep_best=1.* has 2 returns\n.*--weights 1,1"):
        prunable(several, several, keep_best=1)
    assert ids(prunable(several, several, keep_last=1)) == "b"
    weighed = [replace(one, episode_return=sum(one.returns)) for one in several]
    assert ids(prunable(weighed, weighed, keep_best=1)) == "b"


def test_what_is_running_stays_and_what_a_fork_that_stays_was_made_of() -> None:
    root, child = summary("a"), summary("b", parent="a", fork_step=1)
    grandchild = summary("c", parent="b", fork_step=1)
    running = summary("d", status="running")
    every = [root, child, grandchild, running]
    assert ids(prunable([root, child, running], every)) == ""
    assert ids(prunable([root, child, grandchild], every)) == "abc"
    assert ids(prunable([root, running], [root, running])) == "a"


@pytest.fixture
def store(valkey: Server, mongo: Server) -> Store:
    """A run of three episodes, with 1, 2 and 3 steps."""
    made = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    with made.open() as jam:
        for steps in (1, 2, 3):
            play_actions(jam.record(CountingEnv(steps), run="r"), [ACTION] * steps)
    return made


def test_it_says_how_much_and_wants_a_yes(store: Store) -> None:
    arguments = ("prune", "--run", "r", "--keep-last", 1)
    refused, dry = store.run(*arguments), store.run(*arguments, "--dry-run")
    assert refused.exit_code == 2
    assert "this would delete 2 episodes with 3 steps for good" in refused.stderr
    assert dry.stdout == "would delete 2 episodes with 3 steps; 1 chosen episode stays\n"
    assert len(store.lines("ls")) == 3
    (done,) = store.objects(*arguments, "--yes")
    assert (done["steps"], done["stay"], done["deleted"]) == (3, 1, True)
    assert [line[4] for line in store.lines("ls")] == ["3"]


def test_the_best_of_several_returns_are_kept_only_as_weights_say(
    valkey: Server, mongo: Server
) -> None:
    made = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    with made.open() as jam:
        for gained in (1.0, 3.0, 2.0):
            env = jam.record(ScriptedEnv(rewards=[np.array([gained, -gained])]), run="r")
            play_actions(env, [ACTION])
            env.close()
    arguments = ("prune", "--run", "r", "--keep-best", 1, "--yes")
    refused = made.run(*arguments)
    assert (refused.exit_code, len(made.lines("ls"))) == (2, 3)
    assert "--keep-best 1: episode " in refused.stderr
    assert made.run(*arguments, "--weights", "1,0").exit_code == 0
    assert [one["returns"] for one in made.objects("ls")] == [[3.0, -3.0]]


def test_it_takes_what_is_old(store: Store) -> None:
    assert store.objects("prune", "--older-than", "1h", "--yes")[0]["episodes"] == []
    gone = store.objects("prune", "--older-than", "0s", "--where", "steps < 3", "--yes")[0]
    assert len(gone["episodes"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "say what goes: "), (["--older-than", "old"], "give a number with a unit")],
)
def test_what_cannot_be_meant_deletes_nothing(
    store: Store, arguments: list[str], said: str
) -> None:
    failed = store.run("prune", *arguments, "--yes")
    assert (failed.exit_code, said in failed.stderr) == (2, True)
    assert len(store.lines("ls")) == 3


def test_a_run_of_which_all_is_deleted_is_not_listed_any_more(store: Store) -> None:
    asked = store.run("rm", "--run", "r")
    assert asked.exit_code == 2
    assert "this would delete 3 episodes with 6 steps and the run r for good" in asked.stderr
    (done,) = store.objects("rm", "--run", "r", "--yes")
    assert (done["steps"], done["runs"], done["deleted"]) == (6, ["r"], True)
    assert store.lines("runs") == store.lines("top") == []


def test_a_pruned_run_is_not_listed_any_more(store: Store) -> None:
    assert store.run("prune", "--run", "r", "--older-than", "0s", "--yes").exit_code == 0
    assert store.lines("runs") == []


def test_a_run_with_a_checkpoint_stays_until_that_may_go_too(store: Store) -> None:
    with store.open() as jam:
        CheckpointHandler(jam, "r").put(b"zip", timesteps=1, policy_version=1, session="s1")
    done = store.run("rm", "--run", "r", "--yes")
    assert done.stdout == "3 episodes with 6 steps deleted\n"
    assert "run r stays: it has 1 checkpoint; --checkpoints deletes it whole" in done.stderr
    assert [line[0] for line in store.lines("runs")] == ["r"]
    refused = store.run("rm", "--run", "r", "--last", 1, "--checkpoints", "--yes")
    assert (refused.exit_code, "give --run, and nothing else" in refused.stderr) == (2, True)
    assert store.run("rm", "--run", "r", "--checkpoints", "--yes").exit_code == 0
    assert store.lines("runs") == []


def test_a_running_run_stays(store: Store) -> None:
    with store.open() as jam:
        env = jam.record(CountingEnv(9), run="r")
        play_actions(env, [ACTION])
        jam.flush()
        done = store.run("rm", "--run", "r", "--yes")
    assert (done.exit_code, done.stderr) == (0, "run r stays: it is running\n")
