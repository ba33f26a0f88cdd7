"""PPO in one file, in the style of CleanRL: what it plays is recorded, with what the agent thought.

Of the recorder there are three lines in it: `jam.record`, `annotate`, and the `with` around both.

Needs: pip install 'jamboree-gym[embedded]' torch
Run it: python examples/trainers/cleanrl_ppo.py    (or: --timesteps 50000 --run mine)
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import flatdim
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.distributions import Categorical

from jamboree_gym import Jamboree

ENV_ID = "CartPole-v1"
ENVS = 4
STEPS = 64  # of each environment between two updates
EPOCHS = 4
MINIBATCHES = 4
LEARNING_RATE = 2.5e-3
GAMMA, LAMBDA = 0.99, 0.95
CLIP, VALUE_WEIGHT, ENTROPY_WEIGHT = 0.2, 0.5, 0.01
MAX_GRADIENT = 0.5


class Agent(nn.Module):
    """Two small nets: what to do, and what it is worth."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.actor = mlp(observations, actions, scale=0.01)
        self.critic = mlp(observations, 1, scale=1.0)

    def forward(self, observation: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        return Categorical(logits=self.actor(observation)), self.critic(observation).squeeze(-1)


def mlp(size: int, outputs: int, *, scale: float) -> nn.Sequential:
    layers = [nn.Linear(size, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, scale), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def make_envs() -> gym.vector.VectorEnv:
    return gym.make_vec(
        ENV_ID,
        num_envs=ENVS,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )


def train(envs: gym.vector.VectorEnv, timesteps: int, *, seed: int = 1) -> Agent:
    """Learn in these environments, recorded or not: the weights are the same."""
    torch.manual_seed(seed)
    shuffle = np.random.default_rng(seed)
    size, choices = map(flatdim, (envs.single_observation_space, envs.single_action_space))
    agent = Agent(size, choices)
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    annotate = getattr(envs, "annotate", None)

    seen = torch.zeros(STEPS, ENVS, size)
    actions = torch.zeros(STEPS, ENVS, dtype=torch.int64)
    log_probs, values, rewards, next_values, ends = torch.zeros(5, STEPS, ENVS)

    observation = torch.as_tensor(envs.reset(seed=seed)[0])
    for version in range(timesteps // (STEPS * ENVS)):
        # -- play ---------------------------------------------------------------------------
        for step in range(STEPS):
            with torch.no_grad():
                policy, value = agent(observation)
                action = policy.sample()
                log_prob = policy.log_prob(action)
            if annotate:  # belongs to the step that comes next
                annotate(value=value.numpy(), log_prob=log_prob.numpy(), policy_version=version)
            after, reward, terminated, truncated, infos = envs.step(action.numpy())

            seen[step], actions[step], log_probs[step] = observation, action, log_prob
            values[step], rewards[step] = value, torch.as_tensor(reward)
            ends[step] = torch.as_tensor(terminated | truncated)
            observation = torch.as_tensor(after)
            with torch.no_grad():
                next_values[step] = agent.critic(last_seen(after, infos)).squeeze(-1)
            next_values[step] *= ~torch.as_tensor(terminated)

        # -- how much better than expected each action was --------------------------------------
        advantages, following = torch.zeros(STEPS, ENVS), torch.zeros(ENVS)
        for step in reversed(range(STEPS)):
            surprise = rewards[step] + GAMMA * next_values[step] - values[step]
            following = surprise + GAMMA * LAMBDA * (1 - ends[step]) * following
            advantages[step] = following
        returns = advantages + values

        # -- learn --------------------------------------------------------------------------
        for _ in range(EPOCHS):
            for part in np.array_split(shuffle.permutation(STEPS * ENVS), MINIBATCHES):
                policy, value = agent(seen.flatten(0, 1)[part])
                ratio = (policy.log_prob(actions.flatten()[part]) - log_probs.flatten()[part]).exp()
                advantage = advantages.flatten()[part]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                value_loss = (returns.flatten()[part] - value).square().mean() / 2
                loss = policy_loss + VALUE_WEIGHT * value_loss
                loss -= ENTROPY_WEIGHT * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRADIENT)
                optimizer.step()
    return agent


def last_seen(after: np.ndarray, infos: dict) -> torch.Tensor:
    """What each step led to: where an episode ended, `after` is already the next one's reset."""
    last = after.copy()
    if "final_obs" in infos:
        for i in np.flatnonzero(infos["_final_obs"]):
            last[i] = infos["final_obs"][i]
    return torch.as_tensor(last)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="cleanrl")
    parser.add_argument("--timesteps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # for nets this small, more threads only wait for each other
    with Jamboree() as jam:
        envs = jam.record(make_envs(), run=arguments.run, tags={"seed": arguments.seed})
        train(envs, arguments.timesteps, seed=arguments.seed)
        envs.close()
        episodes = jam.episodes(run=arguments.run, status="terminated")
        print(f"{len(episodes)} episodes ended; the best:", episodes.order_by("-episode_return")[0])


if __name__ == "__main__":
    main()
