"""More families of environments; and each row of the table in docs/envs/tried.md is a test."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import pytest
from environments import CASES, Case, newest
from test_wrapped import assert_happen_again, record_three

from jamboree_gym import Jamboree

pytestmark = pytest.mark.once

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "envs" / "tried.md"

SMALL = {"config": {"vehicles_count": 3, "duration": 4}}
OTHERS = [
    *(Case(f"{name}-v5") for name in ("HalfCheetah", "Walker2d", "Swimmer", "Reacher", "Pusher")),
    *(Case(f"{name}-v5") for name in ("InvertedPendulum", "InvertedDoublePendulum")),
    *(Case(f"{name}-v5") for name in ("Humanoid", "HumanoidStandup")),
    Case("CarRacing-v3", {"lap_complete_percent": 0.9}),
    Case("BipedalWalkerHardcore-v3"),
    Case("LunarLander-v3", {"continuous": True, "enable_wind": True}),
    Case("ALE/Pong-v5", {"obs_type": "ram"}, needs="ale_py"),
    Case("ALE/SpaceInvaders-v5", {"mode": 1, "full_action_space": True}, needs="ale_py"),
    Case("MiniGrid-Dynamic-Obstacles-5x5-v0", needs="minigrid"),
    Case("MiniGrid-FourRooms-v0", needs="minigrid"),
    Case("MiniGrid-KeyCorridorS3R1-v0", needs="minigrid"),
    Case("MiniGrid-LavaCrossingS9N1-v0", needs="minigrid"),
    Case("MiniGrid-Fetch-5x5-N2-v0", needs="minigrid"),
    Case("MiniGrid-MemoryS7-v0", needs="minigrid"),
    Case("MiniGrid-PutNear-6x6-N2-v0", needs="minigrid"),
    Case("BabyAI-GoToRedBall-v0", needs="minigrid"),
    Case("BabyAI-PutNextLocal-v0", needs="minigrid"),
    Case("intersection", SMALL, needs="highway_env"),
    Case("racetrack", SMALL, needs="highway_env"),
    Case("two-way", SMALL, needs="highway_env"),
    Case("u-turn", SMALL, needs="highway_env"),
    Case("exit", SMALL, needs="highway_env"),
]
QUICK = ("InvertedPendulum-v5", "MiniGrid-FourRooms-v0", "BabyAI-GoToRedBall-v0")


@pytest.mark.parametrize(
    "case",
    [
        # The rule is proven by those of `environments.py`.
        pytest.param(case, id=case.id, marks=() if case.id in QUICK else pytest.mark.long)
        for case in OTHERS
    ],
)
def test_an_environment_of_another_family_happens_again(jam: Jamboree, case: Case) -> None:
    case.register()
    id = case.id if case.id in gym.registry else newest(case.id)
    assert_happen_again(record_three(jam, case._replace(id=id).make(), steps=6))


# -- the table --------------------------------------------------------------------------------

ALL = ("yes", "yes, yes", "yes")
OF_MODULE = "replay/test_environments.py"  # a test for each column
PROVEN = {
    OF_MODULE: ALL,
    "replay/test_tried.py::test_an_environment_of_another_family_happens_again": ALL,
    "replay/test_wrapped.py::test_wrappers_of_minigrid_happen_again": ALL,
    "replay/test_wrapped.py::test_environments_of_highway_env_happen_again": ALL,
    "replay/test_wrapped.py::test_the_atari_wrappers_of_sb3_happen_again": ALL,
    "replay/test_wrapped.py::test_supersuit_skips_frames_again": ALL,
    "replay/test_mo_gymnasium.py::test_an_environment_is_recorded_verified_and_forked": ALL,
    "multi_agent/test_families.py::test_a_family_happens_again_and_forks": ALL,
    "replay/test_whole_vector.py": ("yes", "yes, yes", "error with the line that helps"),
    "replay/test_whole_vector.py::test_ale_py_s_own_vector_environment_happens_again": (
        *("yes", "yes, -", "-"),
    ),
    "replay/test_jax.py::test_an_environment_is_recorded_verified_and_forked": ALL,
    "replay/test_jax.py::test_vector_environments_are_recorded_and_verified": (
        *("yes", "yes, yes", "-"),
    ),
    "wrappers/test_tensors.py::test_a_registered_vector_environment_of_torch_happens_again": (
        *("yes", "yes, -", "-"),
    ),
    "replay/test_rarer_families.py::test_a_robot_happens_again": ALL,
    "replay/test_rarer_families.py::test_hindsight_replay_learns_on_a_recorded_robot": (
        *("yes", "yes, yes", "-"),
    ),
    "replay/test_rarer_families.py::test_trading_happens_again": ALL,
    "replay/test_rarer_families.py::test_dm_control_by_shimmy_happens_again": ALL,
    "replay/test_rarer_families.py::test_a_text_game_happens_again": ALL,
    "multi_agent/test_supersuit.py::"
    "test_a_recorded_environment_is_vectorised_copied_and_verified": ("yes", "-, yes", "-"),
}


class Row(NamedTuple):
    """What the table says of some environments."""

    environment: str
    recorded: str
    verified: str
    forked: str
    test: str

    @property
    def names(self) -> set[str]:
        """The environments in it."""
        return set(re.findall("`([^`]+)`", self.environment))


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines[1:]]


@cache
def source(path: str) -> str:
    return (TESTS / path).read_text()


@cache
def functions(path: str) -> set[str]:
    """The tests of a module, and that they are there even if it cannot be imported here."""
    tree = ast.parse(source(path))
    return {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


IDS = {OF_MODULE: {case.id for case in CASES}, "replay/test_tried.py": {one.id for one in OTHERS}}


def test_the_table_has_forty_rows_and_no_environment_of_its_tests_is_missing() -> None:
    assert len({row.environment for row in rows()}) == len(rows()) >= 40
    for path, ids in IDS.items():
        named = [row.names for row in rows() if row.test.strip("`").partition("::")[0] == path]
        assert {_unversioned(one) for one in ids} == {
            _unversioned(name) for names in named for name in names
        }


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.environment)
def test_a_row_of_the_table_says_what_its_test_proves(row: Row) -> None:
    test = row.test.strip("`")
    path, _, function = test.partition("::")
    assert (row.recorded, row.verified, row.forked) == PROVEN[test]
    assert not function or function in functions(path)
    assert row.names
    if path not in IDS:
        missing = [name for name in row.names if name not in source(path)]
        assert not missing, f"{path} has no {missing}"


def _unversioned(id: str) -> str:
    """Without the version: some tests take the newest that is registered."""
    return re.sub(r"-v\d+$", "", id)
