"""RLlib: PPO whose env runners record, and BC that learns from what they recorded.

RLlib needs an older Gymnasium, so it has an environment of its own. The function that makes an
environment runs in RLlib's processes, so it also opens the Jamboree there.

Needs: pip install 'jamboree-gym[embedded]' 'ray[rllib]' torch
Run it: python examples/trainers/rllib_ppo.py    (or: --iterations 20 --folder mine)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import ray
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from jamboree_gym import Jamboree
from jamboree_gym.integrations.rllib import AnnotateSteps, to_rllib

ENV_ID = "CartPole-v1"


def make_env(context: Any) -> gym.Env:
    tags = {"worker": context.worker_index}
    # RLlib kills this process at the end: what it had not delivered by then would come later.
    jam = Jamboree(write="sync")
    return jam.record(gym.make(ENV_ID), run=context["run"], tags=tags)


class ValuedPPO(DefaultPPOTorchRLModule):
    """PPO's own module. It also values what it sees when it plays, not only when it learns."""

    def setup(self) -> None:
        self.inference_only = False
        super().setup()

    def get_non_inference_attributes(self) -> list[str]:
        return []  # the env runners get the weights of the value function, too

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {
            **super()._forward_exploration(batch, **kwargs),
            Columns.VF_PREDS: self.compute_values(batch),
        }


def play(run: str, iterations: int, env_runners: int) -> None:
    """Learn with PPO; each env runner records what it plays."""
    register_env("recorded", make_env)
    config = (
        PPOConfig()
        .environment("recorded", env_config={"run": run})
        .env_runners(
            num_env_runners=env_runners,
            num_envs_per_env_runner=2,
            module_to_env_connector=AnnotateSteps.of,
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=ValuedPPO))
        .training(train_batch_size_per_learner=256, minibatch_size=64, num_epochs=4)
    )
    algorithm = config.build_algo()
    for _ in range(iterations):
        algorithm.train()
    algorithm.stop()  # closes the environments


def learn_from(folder: Path, spaces_of: gym.Env, iterations: int) -> dict[str, Any]:
    """Imitate the episodes of a folder of `to_rllib`."""
    config = (
        BCConfig()
        .environment(
            observation_space=spaces_of.observation_space, action_space=spaces_of.action_space
        )
        .offline_data(
            input_=[str(folder.absolute())],
            input_read_episodes=True,
            input_read_batch_size=16,  # episodes
            map_batches_kwargs={"concurrency": 1},
            dataset_num_iters_per_learner=4,
        )
        .training(train_batch_size_per_learner=256)
    )
    algorithm = config.build_algo()
    for _ in range(iterations):
        result = algorithm.train()
    algorithm.stop()
    return dict(result["learners"]["default_policy"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="rllib")
    parser.add_argument("--folder", type=Path, default=Path("rllib-episodes"))
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--env-runners", type=int, default=1)
    arguments = parser.parse_args()

    play(arguments.run, arguments.iterations, arguments.env_runners)
    with Jamboree() as jam:
        episodes = jam.episodes(run=arguments.run, status="terminated")
        print(f"{len(episodes)} episodes ended; the best:", episodes.order_by("-episode_return")[0])
        folder = to_rllib(episodes, arguments.folder)
    learned = learn_from(folder, gym.make(ENV_ID), arguments.iterations)
    print(f"loss of the imitation: {learned['policy_loss']:.3f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
