"""SuperSuit's vector environments, trained by Stable-Baselines3."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from jamboree_gym import Jamboree

pytestmark = [pytest.mark.torch, pytest.mark.once]


def team() -> Any:
    return import_module("mpe2.simple_spread_v3").parallel_env(max_cycles=8)


def learn(venv: Any) -> None:
    from stable_baselines3 import PPO

    PPO("MlpPolicy", venv, n_steps=32, batch_size=96, n_epochs=1).learn(192)


@pytest.mark.long
# SuperSuit does not ask its environments for what SB3 asks it for.
@pytest.mark.filterwarnings("ignore:The `render_mode` attribute is not defined:UserWarning")
def test_what_it_vectorises_is_recorded_outside(jam: Jamboree) -> None:
    import supersuit

    vector = supersuit.pettingzoo_env_to_vec_env_v1(team())
    venv = jam.record(supersuit.concat_vec_envs_v1(vector, 2, base_class="stable_baselines3"))
    learn(venv)
    venv.close()
    assert sum(one.steps for one in jam.episodes().summaries()) == 192
    assert {one.vector_index for one in jam.episodes().summaries()} == set(range(6))


# As above.
@pytest.mark.filterwarnings("ignore:The `render_mode` attribute is not defined:UserWarning")
def test_a_recorded_environment_is_vectorised_copied_and_verified(jam: Jamboree) -> None:
    import supersuit

    vector = supersuit.pettingzoo_env_to_vec_env_v1(jam.record(team()))
    venv = supersuit.concat_vec_envs_v1(vector, 2, base_class="stable_baselines3")
    learn(venv)
    venv.close()
    joints = jam.joint_episodes()
    assert sum(one.steps for one in joints) == 192
    assert all(one.verify() for one in joints)
