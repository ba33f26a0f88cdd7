"""Every export of whatever was recorded works, or says in our words why not."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lengths import examples, quick_and_long
from recorded_envs import ScriptedEnv
from test_any_space import Case, cases

from jamboree_gym import Jamboree
from jamboree_gym.errors import BufferMismatch, ExportError, JamboreeError
from jamboree_gym.integrations.hdf5 import to_hdf5
from jamboree_gym.integrations.rlds import to_rlds

pytestmark = pytest.mark.torch

REWARDS = st.sampled_from([1.0, 1e300, 5e-324, np.inf, -np.inf, np.nan])
NUMBER = spaces.Box(-9, 9, (), np.float32)


def to_minari(query: Any, folder: Path) -> Any:
    from jamboree_gym.integrations.minari import to_minari

    return to_minari(query, "odd/export-v0")


def to_lerobot(query: Any, folder: Path) -> Any:
    from jamboree_gym.integrations.lerobot import to_lerobot

    return to_lerobot(query, folder, fps=10)


def to_replay_buffer(query: Any, folder: Path) -> Any:
    from jamboree_gym.integrations.sb3 import to_replay_buffer

    return to_replay_buffer(query, device="cpu")


def to_tensordict(query: Any, folder: Path) -> Any:
    from jamboree_gym.integrations.torchrl import to_tensordict

    return to_tensordict(query)


EXPORTS: dict[str, Callable[[Any, Path], Any]] = {
    "minari": to_minari,
    "hdf5": to_hdf5,
    "rlds": lambda query, folder: list(to_rlds(query)),
    "lerobot": to_lerobot,
    "sb3": to_replay_buffer,
    "torchrl": to_tensordict,
    "arrow": lambda query, folder: query.to_arrow(folder / "odd.arrow"),
    "parquet": lambda query, folder: query.to_parquet(folder),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "odd"


def record(
    jam: Jamboree,
    observed: spaces.Space[Any],
    acted: spaces.Space[Any],
    observations: list[Any],
    actions: list[Any],
    rewards: list[float],
    infos: list[Any],
) -> Any:
    """An episode of these, in a run of its own; what to ask for it."""
    env: Any = ScriptedEnv(observations, rewards, infos)
    env.observation_space, env.action_space = observed, acted
    recorded: Any = jam.record(env, run=uuid.uuid4().hex)
    recorded.reset()
    for action in actions:
        recorded.step(action)
    recorded.close()
    return jam.episodes(run=recorded.run)


@pytest.mark.parametrize("name", quick_and_long(EXPORTS, quick=["hdf5", "rlds", "sb3", "arrow"]))
@pytest.mark.deep
@settings(
    max_examples=examples(200),
    report_multiple_bugs=False,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), observed=cases, acted=cases, steps=st.integers(0, 3))
def test_an_export_of_whatever_was_recorded_works_or_says_why_not(
    jam: Jamboree,
    folder: Path,
    name: str,
    data: st.DataObject,
    observed: Case,
    acted: Case,
    steps: int,
) -> None:
    infos = st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.floats(), max_size=2)
    query = record(
        jam,
        observed[0],
        acted[0],
        [data.draw(observed[1]) for _ in range(steps + 1)],
        [data.draw(acted[1]) for _ in range(steps)],
        [data.draw(REWARDS) for _ in range(steps)],
        [data.draw(infos) for _ in range(steps + 1)],
    )
    for path in (folder, folder.parent / "minari"):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True)
    with np.errstate(all="raise"), suppress(JamboreeError):
        EXPORTS[name](query, folder)


def an_episode(jam: Jamboree, observed: spaces.Space[Any], value: Any, **infos: Any) -> Any:
    """Of three steps, which all return this."""
    discrete = spaces.Discrete(2)
    return record(jam, observed, discrete, [value] * 4, [0] * 3, [1e300] * 3, [infos] * 4)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_does_not_mind_that_numpy_is_told_to_raise(
    jam: Jamboree, folder: Path, name: str
) -> None:
    folder.mkdir()
    query = an_episode(jam, spaces.Box(-1, 1, (2,), np.float32), np.full(2, 1e-40, np.float32))
    with np.errstate(all="raise"):
        EXPORTS[name](query, folder)


def test_a_text_with_a_nul_is_refused_by_name_where_hdf5_cannot_hold_it(
    jam: Jamboree, folder: Path
) -> None:
    text = spaces.Text(9)
    for query, place in (
        (an_episode(jam, text, "a\0b"), "observations"),
        (an_episode(jam, text, "ab", lives="a\0b"), r'infos\["lives"\]'),
    ):
        with pytest.raises(ExportError, match=f"{place} of episode .* NUL character"):
            to_hdf5(query, folder)
    path = to_hdf5(an_episode(jam, text, "ab", **{"a\0b": 1.0}), folder)
    with h5py.File(path) as file:
        assert file["episode_0/infos/a%00b"][:].tolist() == [1.0] * 4


def test_a_dict_within_a_dict_is_refused_in_words_for_a_buffer(jam: Jamboree, folder: Path) -> None:
    nested = spaces.Dict(a=spaces.Dict(b=NUMBER))
    value = {"a": {"b": np.array(1, np.float32)}}
    with pytest.raises(BufferMismatch, match="flatten them"):
        to_replay_buffer(an_episode(jam, nested, value), folder)


def test_a_float_without_a_dimension_has_the_one_that_it_has_in_a_rollout(
    jam: Jamboree, folder: Path
) -> None:
    from torchrl.envs import GymWrapper

    space = spaces.Dict(s=NUMBER)
    value = {"s": np.array(1, np.float32)}

    class Plain(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, **options: Any) -> Any:
            return dict(value), {}

        def step(self, action: Any) -> Any:
            return dict(value), 1.0, False, False, {}

    rollout = GymWrapper(Plain()).rollout(3)
    found = to_tensordict(
        record(jam, space, NUMBER, [value] * 4, [value["s"]] * 3, [1.0] * 3, [{}] * 4), folder
    )
    for key in ("s", ("next", "s")):
        assert found[key].shape == rollout[key].shape == (3, 1)
    assert found["action"].shape == (3, 1)
