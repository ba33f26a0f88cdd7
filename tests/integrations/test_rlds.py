"""Episodes in RLDS' layout, held to its written rules; and by its own library where there is one.

Name a Python that has `rlds` and TensorFlow (300 MB, so not part of `test`) by JAMBOREE_TF_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paying_env import PayingEnv, actions, record
from recorded_envs import ACTION, CountingEnv, ScriptedEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError
from jamboree_gym.integrations.rlds import to_rlds
from jamboree_gym.reading import bulk_read as blocks_module

READER = Path(__file__).with_name("read_rlds.py")


def column(episode: dict[str, Any], name: str) -> list[Any]:
    return [step[name] for step in episode["steps"]]


@pytest.fixture(params=[8 << 20, 1000], ids=["at once", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long episodes are read at once, and in parts."""
    monkeypatch.setattr(blocks_module, "MAX_BYTES", request.param)


@pytest.mark.usefixtures("parts")
def test_an_action_is_the_one_taken_from_the_observation(jam: Jamboree) -> None:
    for number, steps in enumerate((3, 300, 1)):
        record(jam, PayingEnv(steps), actions(steps, number))

    for number, episode in enumerate(to_rlds(jam.episodes())):
        steps = episode["steps"][:-1]
        assert column(episode, "is_first") == [True] + [False] * len(steps)
        assert column(episode, "is_last") == [False] * len(steps) + [True]
        assert [step["observation"][0] for step in episode["steps"]] == [*range(len(steps) + 1)]
        taken = actions(len(steps), number)
        assert [step["action"].tolist() for step in steps] == [one.tolist() for one in taken]
        assert [step["reward"] for step in steps] == [float(one[0]) for one in taken]
        assert len(steps) == (3, 300, 1)[number]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("ending", ["terminated", "truncated", "broke off"])
def test_an_end_is_terminal_only_if_the_episode_terminated(jam: Jamboree, ending: str) -> None:
    for steps in (2, 300):
        record(jam, CountingEnv(steps, ending), [ACTION] * steps)

    for episode in to_rlds(jam.episodes()):
        last = episode["steps"][-1]
        is_terminal = ending == "terminated"
        assert last["is_terminal"] == is_terminal
        assert not any(column(episode, "is_terminal")[:-1])
        discounts = column(episode, "discount")
        assert discounts[:-2] == [1.0] * (len(discounts) - 2)
        assert discounts[-2:] == [0.0 if is_terminal else 1.0, 0.0]
        assert (last["action"].tolist(), last["reward"]) == ([0.0, 0.0], 0.0)
        assert episode["invalid"] == (ending == "broke off")


def test_every_step_has_the_same_dtypes_and_shapes(jam: Jamboree) -> None:
    values = [{"a": np.ones((2, 2), np.uint8), "b": {"c": 0.5, "d": "text"}}] * 3
    record(jam, ScriptedEnv(observations=values), [{"x": 1, "y": np.ones(3)}] * 2)

    (episode,) = to_rlds(jam.episodes())
    kinds = {
        str([(np.asarray(leaf).dtype.kind, np.shape(leaf)) for leaf in leaves(step)])
        for step in episode["steps"]
    }
    assert len(kinds) == 1
    assert episode["steps"][-1]["action"]["y"].tolist() == [0, 0, 0]
    assert episode["steps"][-1]["observation"]["b"] == {"c": 0.5, "d": "text"}


def leaves(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        return [value]
    return [leaf for part in value.values() for leaf in leaves(part)]


def test_an_episode_without_steps_is_one_step(jam: Jamboree) -> None:
    record(jam, CountingEnv(), [])

    (episode,) = to_rlds(jam.episodes())
    (step,) = episode["steps"]
    assert (step["is_first"], step["is_last"], step["is_terminal"]) == (True, True, False)


def test_what_rlds_does_not_take_is_named(jam: Jamboree) -> None:
    record(jam, ScriptedEnv(observations=[{"heard": [1]}, {"heard": [1, 2]}]), [ACTION])

    with pytest.raises(ExportError, match=r'observation\["heard"\] of episode'):
        list(to_rlds(jam.episodes()))


if "JAMBOREE_TF_PYTHON" in os.environ:

    def test_rlds_itself_reads_them(jam: Jamboree, tmp_path: Path) -> None:
        for number, steps in enumerate((3, 20)):
            record(jam, PayingEnv(steps), actions(steps, number))
        for number, episode in enumerate(to_rlds(jam.episodes())):
            names = episode["steps"][0]
            np.savez(tmp_path / f"{number}.npz", **{n: np.stack(column(episode, n)) for n in names})

        command = [os.environ["JAMBOREE_TF_PYTHON"], str(READER), str(tmp_path)]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        paid = [k / 100 for steps in (3, 20) for k in range(steps)]
        assert found["is_valid"]
        assert found["mean_reward"] == pytest.approx(np.mean(paid))
        assert found["pairs"] == [
            [round(100 * r), round(100 * r) + 1, pytest.approx(r)] for r in paid
        ]
