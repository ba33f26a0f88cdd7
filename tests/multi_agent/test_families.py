"""PettingZoo's families: recorded, verified with and without a seed, forked, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pettingzoo
import pytest
from teams import play_steps, play_turns

from jamboree_gym import Jamboree

pytestmark = pytest.mark.once


def pong() -> Any:
    import ale_py

    roms = str(Path(ale_py.__file__).parent)
    return pettingzoo.make("parallel", "atari/pong-v3", auto_rom_install_path=roms)


def spread() -> Any:
    return import_module("mpe2.simple_spread_v3").parallel_env(max_cycles=12)


def named(id: str, **options: Any) -> Callable[[], Any]:
    return lambda: pettingzoo.make("aec", id, **options)


FAMILIES = {
    "classic": (named("classic/tictactoe-v3"), 20),
    "butterfly": (named("butterfly/knights_archers_zombies-v11", spawn_delay=2, max_cycles=60), 80),
    "mpe": (spread, 20),
    "sisl": (named("sisl/pursuit-v5", max_cycles=4, n_pursuers=4), 30),
    "atari": (pong, 4),
}


SLOW = {"atari"}  # it loads a program for each environment that is made


@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=[pytest.mark.long] * (one in SLOW)) for one in sorted(FAMILIES)],
)
def test_a_family_happens_again_and_forks(jam: Jamboree, family: str) -> None:
    make, length = FAMILIES[family]
    env = jam.record(make())
    play = play_turns if isinstance(env, pettingzoo.AECEnv) else play_steps
    ids = []
    for seed in (7, None):
        play(env, length, seed=seed)
        ids.append(env.joint_id)
    env.close()
    for id in ids:
        joint = jam.joint_episode(id)
        report = joint.verify()
        assert report, report
        assert report.steps == joint.steps > 0
        assert report.turns == len(joint.turns)
    half = report.turns // 2
    forked = joint.fork(half)
    for turn in joint.turns[half:]:
        if joint.api == "aec":
            forked.env.last()
            forked.env.step(*turn.actions.values())
        else:
            forked.env.step(dict(turn.actions))
    child = jam.joint_episode(forked.env.joint_id)
    forked.env.close()
    assert (child.parent, child.fork_turn) == (joint, half)
    assert child.verify()
    for name, own in jam.joint_episode(child.id).agents.items():
        if own.summary.steps:
            assert (
                own.data().rewards.tolist()
                == joint.agents[name].data().rewards[own.summary.fork_step or 0 :].tolist()
            )
