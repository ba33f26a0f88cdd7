"""PPO in one file: the training is the same with a recorder, and the episodes can be replayed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import Server
from run_example import ROOT, run_example

from jamboree_gym import Jamboree

pytestmark = pytest.mark.timeout(300)  # a busy machine takes its time

TIMESTEPS = 512  # two updates


@pytest.fixture(scope="module")
def cleanrl() -> ModuleType:
    path = ROOT / "examples/trainers/cleanrl_ppo.py"
    spec = importlib.util.spec_from_file_location("cleanrl_ppo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_weights_are_those_without_a_recorder(
    cleanrl: ModuleType, valkey: Server, namespace: str
) -> None:
    torch.set_num_threads(1)
    plain = cleanrl.train(cleanrl.make_envs(), TIMESTEPS).state_dict()
    with Jamboree(valkey.url, namespace=namespace, backup=False) as jam:
        envs = jam.record(cleanrl.make_envs(), run="ppo")
        recorded = cleanrl.train(envs, TIMESTEPS).state_dict()
        envs.close()

    assert plain.keys() == recorded.keys()
    assert all(torch.equal(plain[name], recorded[name]) for name in plain)


def test_the_example_records_each_step_with_what_the_agent_thought(
    valkey: Server, namespace: str, tmp_path: Path
) -> None:
    options = ("--run", namespace, "--timesteps", TIMESTEPS)
    said = run_example("cleanrl_ppo", *options, redis_url=valkey.url, folder=tmp_path)

    assert "episodes ended; the best:" in said
    with Jamboree(valkey.url, backup=False) as jam:
        episodes = list(jam.episodes(run=namespace))
        assert sum(len(one) for one in episodes) == TIMESTEPS
        assert all(one.verify() for one in episodes)
        annotations = [one.data().annotations for one in episodes]
        versions = {int(number) for one in annotations for number in one["policy_version"]}
        assert versions == {0, 1}
        assert all(set(one) == {"value", "log_prob", "policy_version"} for one in annotations)
        assert all((one["log_prob"] < 0).all() for one in annotations)
