"""`jamboree-gym check`: each fault of the gallery is found, with its cause."""

from __future__ import annotations

import json
import shlex
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from jamboree_envs.faults import FAULTS, WIND_VARIABLE
from jamboree_gym.cli import app, build_app
from jamboree_gym.cli.reference import commands_of, example_of, json_fields
from jamboree_gym.errors import ReplayError
from jamboree_gym.replay import check_reproducible
from jamboree_gym.replay.verification import other_process


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


@pytest.mark.parametrize(
    ("fault", "cause", "where"),
    [
        ("GlobalRandom", "NumPy's global generator", "in the same process (seeded)"),
        ("SampledSpace", "a space that is sampled", "in the same process (seeded)"),
        ("WallClock", "the clock", "in the same process (seeded)"),
        ("ReductionOrder", "an order that changes", "in the same process (seeded)"),
        ("CarriedOver", "what a reset forgets", "after another episode of the same environment"),
    ],
)
def test_a_fault_that_one_process_shows_is_found(fault: str, cause: str, where: str) -> None:
    done = check(f"jamboree-faults/{fault}-v0", "--json")
    assert done.exit_code == 1, done.output
    report = json.loads(done.stdout)
    assert report["equal"] is False
    assert report["cause"] == cause
    # Two orders may by chance add up to the same.
    assert report["difference"]["step"] in ({5, 6, 7} if fault == "ReductionOrder" else {5})
    assert report["where"].startswith(where)
    assert report["mend"]
    assert report.keys() == json_fields()["check"].keys()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        pytest.param(
            ["jamboree_envs.faults:jamboree-faults/HashOrder-v0"],
            "the order of a set",
            marks=pytest.mark.long,
        ),
        (
            ["jamboree-faults/EnvironmentVariable-v0", "--import", "jamboree_envs.faults"],
            "an environment variable",
        ),
    ],
    ids=["HashOrder", "EnvironmentVariable"],
)
def test_a_fault_that_a_new_process_shows_is_found(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], cause: str
) -> None:
    monkeypatch.setenv(WIND_VARIABLE, "0.5")
    done = check(*arguments)
    assert done.exit_code == 1, done.output
    assert "observation[1] at step 5: first " in done.stdout
    assert f"the usual cause: {cause}; " in done.stdout
    assert len(done.stdout.splitlines()) == 2


def test_the_example_in_its_help_plays_the_same_again() -> None:
    program, *arguments = shlex.split(example_of(commands_of(build_app())["check"]))
    done = CliRunner().invoke(app, arguments)
    assert (program, done.exit_code) == ("jamboree-gym", 0)
    assert "CartPole-v1 plays the same again: 3 episodes, " in done.stdout


def test_all_faults_of_the_gallery_are_tried() -> None:
    tried = {"GlobalRandom", "SampledSpace", "WallClock", "ReductionOrder", "CarriedOver"}
    tried |= {"HashOrder", "EnvironmentVariable"}
    assert {kind.__name__ for kind in FAULTS.values()} == {*tried, "ThreadOrder"}


def test_a_process_that_takes_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_process, "TIMEOUT_S", 0.001)
    with pytest.raises(ReplayError, match="in a new process: that takes longer than 0"):
        check_reproducible("CartPole-v1", steps=1)


@pytest.mark.torch
def test_the_generator_of_torch_is_given_back() -> None:
    import torch

    before = torch.get_rng_state()
    check_reproducible("jamboree-faults/SampledSpace-v0")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generators_are_given_back() -> None:
    np.random.seed(3)
    expected = np.random.random(2).tolist()
    np.random.seed(3)
    first = np.random.random()
    check_reproducible("jamboree-faults/SampledSpace-v0")
    assert [first, np.random.random()] == expected


class Breaks(gym.Env[Any, Any]):
    observation_space = action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        raise ValueError("a wire is loose")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["No-v9"], "the environment cannot be made: "),
        (["tests/Breaks-v0"], "step 0 fails: ValueError('a wire is loose')"),
        (["CartPole-v1", "--arg", "x"], "--arg x: give name=value"),
        (["CartPole-v1", "--steps", "0"], "--steps"),
    ],
)
def test_what_cannot_be_told_is_exit_code_2(arguments: list[str], said: str) -> None:
    gym.register("tests/Breaks-v0", entry_point=Breaks)
    try:
        done = check(*arguments)
    finally:
        gym.registry.pop("tests/Breaks-v0")
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
