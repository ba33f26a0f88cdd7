"""`JamboreeCallback`: what a model learns is kept, and it learns the same as without."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from lengths import IS_LONG, quick_and_long
from trained import CASES, OFF_POLICY, ON_POLICY, one_thread, recorded, weights

from jamboree_gym import Jamboree

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600 if IS_LONG else 120)]

LONG_STEPS = 4096
COLUMNS = ("observations", "actions", "rewards", "values", "log_probs")


class Witness:
    """Makes a callback that sees what the algorithm sees: rollouts, and updates at each step."""

    def __new__(cls) -> Any:
        from stable_baselines3.common.callbacks import BaseCallback

        class Seeing(BaseCallback):
            def __init__(self) -> None:
                super().__init__()
                self.rollouts: list[dict[str, Any]] = []
                self.versions: list[int] = []

            def _on_step(self) -> bool:
                self.versions.append(self.model._n_updates)
                return True

            def _on_rollout_end(self) -> None:
                buffer = getattr(self.model, "rollout_buffer", None)
                if buffer is not None:
                    self.rollouts.append({name: getattr(buffer, name).copy() for name in COLUMNS})

        return Seeing()


# The others are made of the same parts.
QUICK = ["PPO", "DQN", "SAC", "RecurrentPPO"]


@pytest.fixture(scope="module", params=quick_and_long(CASES, quick=QUICK))
def trained(request: pytest.FixtureRequest, module_jam: Jamboree) -> Iterator[Any]:
    """Each algorithm: its case, where it is recorded, the model, and what was seen."""
    case = CASES[request.param]
    if IS_LONG:
        case = replace(case, steps=LONG_STEPS)
    run = f"run-{case.name}"
    from jamboree_gym.integrations.sb3 import JamboreeCallback

    venv = module_jam.record(case.make_venv(), run=run)
    model, witness = case.model(venv), Witness()
    callback = JamboreeCallback(module_jam, checkpoint_every=64, keep_checkpoints=None)
    model.learn(case.steps, callback=[callback, witness], log_interval=1)
    yield case, module_jam, run, model, witness
    venv.close()


@pytest.fixture(scope="module")
def module_jam(valkey: Any) -> Iterator[Jamboree]:
    """A Jamboree for all tests of the module."""
    namespace = f"test-callback-{uuid.uuid4().hex[:8]}"
    with one_thread(), Jamboree(valkey.url, namespace=namespace) as opened:
        yield opened


# -- it learns the same -----------------------------------------------------------------------


@pytest.mark.deep
def test_the_weights_are_those_of_the_same_seed_without(trained: Any) -> None:
    import torch

    case, _, _, model, _ = trained
    without = case.model(case.make_venv())
    fresh = weights(without)
    without.learn(case.steps, log_interval=1)

    ours, theirs = weights(model), weights(without)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(fresh[name], theirs[name]) for name in theirs)
    print(f"{case.name}: {case.steps} timesteps, {len(theirs)} tensors bitwise equal")


@pytest.mark.deep
def test_the_recorded_steps_are_what_the_algorithm_saw(trained: Any) -> None:
    case, jam, run, model, witness = trained
    if case.name in OFF_POLICY:
        check_replay_buffer(jam, run, model)
    else:
        check_rollouts(jam, run, model, witness)


def check_rollouts(jam: Jamboree, run: str, model: Any, witness: Any) -> None:
    seen = {name: np.concatenate([one[name] for one in witness.rollouts]) for name in COLUMNS}
    for i in range(model.n_envs):
        kept = recorded(jam, run, i)
        assert kept["observations"].tobytes() == seen["observations"][:, i].tobytes()
        assert kept["value"].tobytes() == seen["values"][:, i].tobytes()
        assert kept["log_prob"].tobytes() == seen["log_probs"][:, i].tobytes()
        assert kept["policy_version"].tolist() == witness.versions
        actions = seen["actions"][:, i]
        if isinstance(model.action_space, gym.spaces.Box):
            actions = np.clip(actions, model.action_space.low, model.action_space.high)
        assert np.array_equal(kept["actions"], actions.reshape(kept["actions"].shape))
        goes_on = ~kept["dones"]  # SB3 adds the value of what would come to a truncated end
        assert np.array_equal(
            kept["rewards"][goes_on].astype(np.float32), seen["rewards"][goes_on, i]
        )


def check_replay_buffer(jam: Jamboree, run: str, model: Any) -> None:
    buffer = model.replay_buffer
    size = buffer.pos
    for i in range(model.n_envs):
        kept = recorded(jam, run, i)
        assert np.array_equal(kept["observations"], buffer.observations[:size, i])
        assert np.array_equal(kept["next_observations"], buffer.next_observations[:size, i])
        assert np.array_equal(kept["rewards"].astype(np.float32), buffer.rewards[:size, i])
        assert np.array_equal(kept["dones"], buffer.dones[:size, i].astype(bool))
        actions = buffer.actions[:size, i]
        if isinstance(model.action_space, gym.spaces.Box):
            actions = model.policy.unscale_action(actions)
        assert np.array_equal(kept["actions"], actions.reshape(kept["actions"].shape))


def test_each_step_says_which_policy_took_it(trained: Any) -> None:
    case, jam, run, model, witness = trained
    for i in range(model.n_envs):
        kept = recorded(jam, run, i)
        assert kept["annotated"].all()
        assert kept["policy_version"].tolist() == witness.versions
        assert ("value" in kept, "log_prob" in kept) == (case.name in ON_POLICY,) * 2
    assert len(set(witness.versions)) > 1


# -- what is known of the run -----------------------------------------------------------------


def test_the_model_and_how_it_was_trained_are_known(trained: Any) -> None:
    import stable_baselines3

    case, jam, run, model, _ = trained
    info = jam.run(run).info

    assert info["algorithm"] == f"{case.algorithm.__module__}.{case.name}"
    assert info["policy"].endswith("Policy")
    assert info["versions"]["stable-baselines3"] == stable_baselines3.__version__
    assert (info["device"], info["seed"], info["n_envs"]) == ("cpu", 3, case.num_envs)
    assert (info["how"], info["timesteps"]) == ("finished", model.num_timesteps)
    assert info["timesteps_asked"] == case.steps
    assert info["began_at"] < info["ended_at"]
    assert info["hyperparameters"]["gamma"] == model.gamma
    assert "net_arch" in info["hyperparameters"]["policy_kwargs"]
    assert info["recorded"] == info["learned"] == {"observations": "raw", "rewards": "raw"}


def test_what_sb3_logs_is_kept(trained: Any) -> None:
    case, jam, run, model, _ = trained
    table = jam.run(run).metrics()

    assert {"timesteps", "at", "session", "time/total_timesteps"} <= set(table.column_names)
    assert any(name.startswith("train/") for name in table.column_names), table.column_names
    steps = table["timesteps"].to_pylist()
    assert steps == table["time/total_timesteps"].to_pylist()
    assert steps == sorted(steps)
    if case.name in ON_POLICY:
        assert steps[-1] == model.num_timesteps


def test_model_and_logger_are_afterwards_as_they_were(trained: Any) -> None:
    _, _, _, model, _ = trained

    assert "forward" not in vars(model.policy)
    assert [type(one).__name__ for one in model.logger.output_formats] == []
    assert not model.policy._forward_hooks


# -- checkpoints ------------------------------------------------------------------------------


def test_a_checkpoint_is_the_model_as_it_was_then(trained: Any) -> None:
    import torch

    case, jam, run, model, _ = trained
    found = jam.run(run).checkpoints()
    last = found[-1].load(case.algorithm)

    assert [one.number for one in found] == list(range(len(found)))
    assert found[-1].timesteps == last.num_timesteps == model.num_timesteps
    assert found[-1].policy_version == model._n_updates
    ours, theirs = weights(last), weights(model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(after.timesteps - one.timesteps >= 64 for one, after in pairwise(found[:-1]))


def test_the_checkpoint_of_a_policy_version_gives_the_values_that_were_recorded(
    trained: Any,
) -> None:
    import torch

    case, jam, run, _, _ = trained
    if case.name not in ("PPO", "A2C"):
        return
    checkpoint = jam.run(run).checkpoints()[1]
    acting = jam.run(run).checkpoint(policy_version=checkpoint.policy_version).load(case.algorithm)
    kept = recorded(jam, run, 0)
    acted = kept["policy_version"] == checkpoint.policy_version
    with torch.no_grad():
        values = acting.policy.predict_values(torch.as_tensor(kept["observations"][acted]))

    assert acted.any()
    assert np.allclose(values.flatten().numpy(), kept["value"][acted], atol=1e-6)


def test_weights_are_given_to_an_actor(trained: Any) -> None:
    import torch

    case, jam, run, model, _ = trained
    actor = case.model(case.make_venv())
    jam.run(run).checkpoint().load_into(actor)

    ours, theirs = weights(actor), weights(model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert actor.num_timesteps == 0
