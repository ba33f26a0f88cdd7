"""Learner and actors apart: processes that share nothing but a Jamboree (examples/actors.py)."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from conftest import Server
from processes import wait_until
from trained import one_thread

from jamboree_gym import EpisodeData, Jamboree

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]  # a busy machine takes its time

TIMEOUT_S = 90.0
VICTIM = "actor 2"
Rows = npt.NDArray[np.float64]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module that the processes import, too."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    return importlib.import_module("actors")


@pytest.fixture
def jam(own_valkey: Server) -> Iterator[Jamboree]:
    """As the processes of the example open theirs."""
    with one_thread(), Jamboree(own_valkey.url) as opened:
        yield opened


def plan_of(example: Any, server: Server, **plan: int) -> Any:
    return example.Plan(run="r", redis_url=server.url, **plan)


def steps_of(jam: Jamboree, player: str) -> int:
    return sum(one.steps for one in jam.episodes(run="r", tags={"player": player}).summaries())


def versions_of(jam: Jamboree, player: str) -> list[int]:
    """Of the weights that chose each step, the oldest first."""
    episodes = jam.episodes(run="r", tags={"player": player})
    return [
        int(v) for one in episodes if len(one) for v in one.data().annotations["policy_version"]
    ]


def newest_version(example: Any, jam: Jamboree, player: str) -> str:
    episodes = jam.episodes(run="r", tags={"player": player}).summaries()
    return str(example.version_of(jam, episodes))


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def wait_for(condition: Callable[[], object]) -> None:
    wait_until(condition, timeout_s=TIMEOUT_S)


def rows_of(*columns: Any) -> Rows:
    """Transitions as rows, in an order that follows from what they are."""
    rows = np.column_stack([np.asarray(one, np.float64) for one in columns])
    return rows[np.lexsort(rows.T)]


def recorded_rows(found: list[EpisodeData]) -> Rows:
    return rows_of(
        np.concatenate([one.observations[:-1] for one in found]),
        np.concatenate([one.actions for one in found]),
        np.concatenate([one.rewards for one in found]),
        np.concatenate([one.terminations | one.truncations for one in found]),
        np.concatenate([one.observations[1:] for one in found]),
    )


def held_rows(buffer: Any) -> Rows:
    arrays = (buffer.observations, buffer.actions, buffer.rewards, buffer.dones)
    held = slice(buffer.size())
    return rows_of(*(one[held, 0] for one in (*arrays, buffer.next_observations)))


@pytest.mark.long
def test_a_learner_samples_what_four_actors_record_of_whom_one_is_killed(
    example: Any, jam: Jamboree, own_valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_baselines3.common.callbacks import EventCallback

    for name, value in {"learning_starts": 200, "train_freq": 256, "gradient_steps": 16}.items():
        monkeypatch.setitem(example.HYPERPARAMETERS, name, value)
    plan = plan_of(example, own_valkey, actors=4, timesteps=1024)
    players = [f"actor {number}" for number in range(4)]
    crew = example.Crew(plan, has_learner=False)
    killed = []

    class Story(EventCallback):
        """Goes on with learning once something has happened among the actors."""

        def _on_step(self) -> bool:
            if self.num_timesteps == 300:  # there is one checkpoint
                for player in players:
                    wait_for(lambda: steps_of(jam, player) == example.CHECKPOINT_EVERY)  # noqa: B023
                killed.append(jam.episodes(run="r", tags={"player": VICTIM}).last())
                kill(crew.processes[VICTIM])
                assert not crew.look_after()
            if self.num_timesteps == 800:  # there are two more
                for player in players:
                    wait_for(lambda: newest_version(example, jam, player) == "32")  # noqa: B023
            return True

    try:
        model = example.make_learner(jam, plan)
        model.learn(plan.timesteps, callback=[example.keep_checkpoints(jam), Story()])
    finally:
        crew.stop()

    assert crew.killed == {VICTIM: 1}
    assert model.num_timesteps == plan.timesteps
    assert jam.run("r").history[0].how == "finished"

    buffer, episodes = model.replay_buffer, [one for one in jam.episodes(run="r") if len(one)]
    while buffer.refresh():
        pass
    played = recorded_rows([one.data() for one in episodes])
    assert {one.summary.tags["player"] for one in episodes} == {*players, "learner"}
    assert np.array_equal(held_rows(buffer), played)
    small = type(buffer)(500, model.observation_space, model.action_space, jam=jam, run="r")
    small.refresh()
    newest = set(map(tuple, held_rows(small)))
    assert len(newest) == 500
    assert newest <= set(map(tuple, played))

    for player in players:
        versions = versions_of(jam, player)
        assert versions == sorted(versions)
        assert {0, 32} <= set(versions)
        check_weights(example, jam, player, model.get_env())

    jam.redis.delete(
        jam._connection.keyspace.lease(killed[0].summary.writer)
    )  # it would expire by itself
    assert killed[0].summary.status == "interrupted"
    all_of_them = jam.episodes(run="r").summaries()
    ends = Counter(one.status for one in all_of_them if one.tags["player"] != "learner")
    assert ends["interrupted"] == 1
    assert ends["running"] == 0


def check_weights(example: Any, jam: Jamboree, player: str, env: Any) -> None:
    """Whether each step was chosen by the weights of the checkpoint that it names."""
    import torch

    model = example.make_player(env)
    found = [one.data() for one in jam.episodes(run="r", tags={"player": player}) if len(one)]
    observations = np.concatenate([one.observations[:-1] for one in found])
    q_values = np.concatenate([one.annotations["q_values"] for one in found])
    versions = np.array(versions_of(jam, player))
    for version in set(versions.tolist()):
        jam.run("r").checkpoint(policy_version=version).load_into(model)
        chosen = versions == version
        with torch.no_grad():
            expected = model.q_net(torch.as_tensor(observations[chosen])).numpy()
        assert np.allclose(q_values[chosen], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_learner_that_is_killed_goes_on_from_its_newest_checkpoint(
    example: Any, jam: Jamboree, own_valkey: Server
) -> None:
    plan = plan_of(example, own_valkey, actors=1, timesteps=1024)
    crew = example.Crew(plan)
    try:
        wait_for(partial(example.timesteps_so_far, jam, "r"))
        kill(crew.processes["learner"])
        wait_for(crew.look_after)
    finally:
        crew.stop()

    first, second = jam.run("r").history
    jam.redis.delete(jam._connection.keyspace.lease(first.writer))
    assert crew.killed == {"learner": 1}
    assert [one.how for one in jam.run("r").history] == ["interrupted", "finished"]
    assert second.timesteps_from == jam.run("r").checkpoint(second.resumed_from).timesteps > 0
    assert second.timesteps_to == plan.timesteps


@pytest.mark.long
def test_without_their_parent_all_of_them_end(
    example: Any, jam: Jamboree, own_valkey: Server
) -> None:
    options = ["--actors", "1", "--run", "r", "--redis-url", own_valkey.url]
    parent = subprocess.Popen(
        [sys.executable, example.__file__, *options], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(partial(example.timesteps_so_far, jam, "r"))
        children = psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.kill()
        parent.wait()

    assert len(children) >= 3  # the forkserver, the learner and the actor
    wait_for(lambda: not any(one.is_running() for one in children))
    assert jam.run("r").history[0].how == "raised"


@pytest.mark.long  # test_live_replay.py samples what others record, test_trainer_kill.py kills
def test_the_example_kills_actors_and_prints_what_came_of_it(
    example: Any,
    jam: Jamboree,
    own_valkey: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(example, "SHOW_EVERY_S", 0.1)
    options = ["--actors", "2", "--timesteps", "768", "--kill-every", "256", "--run", "r"]
    monkeypatch.setattr(sys, "argv", ["actors.py", *options, "--redis-url", own_valkey.url])
    example.main()

    said = capsys.readouterr().out
    assert len(re.findall(r"^kill -9 \d+ \(actor [01]\)$", said, re.MULTILINE)) == 2
    assert re.search(r"^run 'r': the learner earns \d+\.\d, over 20 games$", said, re.MULTILINE)
    found = re.search(r"^([\d,]+) transitions: (.*)$", said, re.MULTILINE)
    assert found is not None
    shares = dict(one.rsplit(" ", 1) for one in found[2].split(", "))
    assert shares["learner"] == "768"
    numbers = [int(one.replace(",", "")) for one in (found[1], *shares.values())]
    assert numbers[0] == sum(numbers[1:]) == sum(map(len, jam.episodes(run="r")))
