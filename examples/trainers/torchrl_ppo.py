"""PPO with TorchRL: its collector plays in two processes, each of which records.

A collector makes its environments where it steps them. So the function that makes one also opens
the Jamboree, and each process has its own. `RecordedGym` says what the policy thought of a step.

Needs: pip install 'jamboree-gym[embedded,torchrl]'
Run it: python examples/trainers/torchrl_ppo.py    (or: --timesteps 50000 --processes 4)
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import MultiSyncCollector
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from jamboree_gym import Jamboree

ENV_ID = "CartPole-v1"
FRAMES = 512  # between two updates, of all processes together
EPOCHS = 4
MINIBATCH = 128


class RecordedGym(GymWrapper):
    """Annotates each step with what stands beside its action in the TensorDict."""

    def _step(self, tensordict: Any) -> Any:
        names = {"value": "value", "action_log_prob": "log_prob", "version": "policy_version"}
        said = {name: tensordict[key].item() for key, name in names.items() if key in tensordict}
        if said:
            self._env.get_wrapper_attr("annotate")(**said)
        return super()._step(tensordict)


def make_env(run: str) -> RecordedGym:
    jam = Jamboree()  # of this process; it is delivered at its end
    return RecordedGym(jam.record(gym.make(ENV_ID), run=run), categorical_action_encoding=True)


class Version(nn.Module):
    """How many updates the policy has had: a buffer, so that it travels with the weights."""

    number: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.number.expand(observation.shape[:-1])


def mlp(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


def make_actor() -> ProbabilisticActor:
    return ProbabilisticActor(
        TensorDictModule(mlp(2), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )


def train(run: str, timesteps: int, processes: int) -> None:
    actor, critic, version = make_actor(), mlp(1), Version()
    policy = TensorDictSequential(
        TensorDictModule(version, in_keys=["observation"], out_keys=["version"]),
        TensorDictModule(critic, in_keys=["observation"], out_keys=["value"]),
        actor,
    )
    collector = MultiSyncCollector(
        [partial(make_env, run)] * processes,
        policy,
        frames_per_batch=FRAMES,
        total_frames=timesteps,
    )
    values = ValueOperator(critic, in_keys=["observation"])
    loss = ClipPPOLoss(actor, values)
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=values)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    try:
        for played in collector:
            for _ in range(EPOCHS):
                advantage(played)
                flat = played.reshape(-1)
                for part in torch.randperm(len(flat)).split(MINIBATCH):
                    losses = loss(flat[part])
                    total = sum(value for key, value in losses.items() if key.startswith("loss_"))
                    optimizer.zero_grad()
                    total.backward()
                    optimizer.step()
            version.number += 1
            collector.update_policy_weights_()
    finally:
        collector.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="torchrl")
    parser.add_argument("--timesteps", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()

    torch.manual_seed(1)
    train(arguments.run, arguments.timesteps, arguments.processes)
    with Jamboree() as jam:
        episodes = jam.episodes(run=arguments.run, status="terminated")
        print(f"{len(episodes)} episodes ended; the best:", episodes.order_by("-episode_return")[0])


if __name__ == "__main__":
    main()
