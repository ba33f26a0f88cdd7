"""DQN with Ray: collectors play in its processes and record, a learner samples what they recorded.

Ray carries the weights to the collectors, the store carries the steps to the learner: each
collector opens a Jamboree of its own. A collector that dies leaves an `interrupted` episode. Ray
starts it again, and calls again what it was doing. Collectors explore to different degrees, as
those of Ape-X do (Horgan et al., "Distributed Prioritized Experience Replay", 2018).

Needs: pip install 'jamboree-gym[embedded,sb3]' ray
Run it: python examples/trainers/ray_dqn.py    (or: --collectors 8 --rounds 400 --kill-every 20)
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from typing import Any

import gymnasium as gym
import ray
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import polyak_update

from jamboree_gym import Jamboree
from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer

ENV_ID = "CartPole-v1"
STEPS = 250  # of a collector with the same weights: a round
GRADIENT_STEPS = 64  # of the learner after each round
TARGET_EVERY = 2  # rounds
BUFFER_STEPS = 100_000  # the newest, from which the learner samples
FIRST_STEPS = 1000  # before it begins to learn
BATCH = 64
GAMMA, N_STEPS = 0.99, 3
HIGHEST_EPSILON, EPSILON_ALPHA = 0.4, 2.5


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Collector:
    """Plays with the weights that it is given, and records.

    Args:
        run: Name of the run.
        number: Which collector it is.
        epsilon: How often it does something at random.
        redis_url: Where to record; None = as the environment variables of its process say.
    """

    def __init__(self, run: str, number: int, epsilon: float, redis_url: str | None) -> None:
        torch.set_num_threads(1)  # for a net this small, more threads only wait for each other
        self.jam = Jamboree(redis_url)
        tags = {"collector": number, "epsilon": round(epsilon, 6)}
        self.env = self.jam.record(gym.make(ENV_ID), run=run, tags=tags)
        self.q_net = make_model(self.env).q_net
        self.epsilon = epsilon
        self.observation, _ = self.env.reset()

    def play(self, weights: dict[str, torch.Tensor], version: int, steps: int) -> None:
        """Take that many steps."""
        self.q_net.load_state_dict(weights)
        for _ in range(steps):
            self.env.annotate(policy_version=version)
            self.observation, _, terminated, truncated, _ = self.env.step(self.choose())
            if terminated or truncated:
                self.observation, _ = self.env.reset()

    def choose(self) -> int:
        if random.random() < self.epsilon:
            return int(self.env.action_space.sample())
        with torch.no_grad():
            return int(self.q_net(torch.as_tensor(self.observation[None])).argmax())

    def close(self) -> None:
        """Deliver the newest steps."""
        self.env.close()
        self.jam.close()


def make_model(env: gym.Env) -> DQN:
    """A model whose buffer is not used."""
    return DQN("MlpPolicy", env, buffer_size=1, gamma=GAMMA, learning_rate=1e-3, device="cpu")


def start_collectors(count: int, run: str, redis_url: str | None) -> list[Any]:
    start: Any = Collector.remote  # type: ignore[attr-defined]  # the decorator adds it
    exponents = [1 + EPSILON_ALPHA * k / max(1, count - 1) for k in range(count)]
    return [start(run, k, HIGHEST_EPSILON**one, redis_url) for k, one in enumerate(exponents)]


class Learner:
    """A DQN that samples the newest steps of a run.

    Args:
        jam: Where the collectors record.
        run: Name of the run.
    """

    def __init__(self, jam: Jamboree, run: str) -> None:
        env = gym.make(ENV_ID)  # for its spaces; it is not played
        self.model = make_model(env)
        self.model.set_logger(configure(None, []))  # `learn` makes one, and `train` needs it
        self.buffer = JamboreeReplayBuffer(
            BUFFER_STEPS,
            env.observation_space,
            env.action_space,
            "cpu",
            jam=jam,
            run=run,
            n_steps=N_STEPS,
            gamma=GAMMA,
        )
        self.model.replay_buffer = self.buffer
        self.rounds = 0

    def weights(self) -> ray.ObjectRef:
        """The newest weights, where every process of Ray can read them."""
        return ray.put(self.model.q_net.state_dict())

    def learn(self, gradient_steps: int) -> None:
        """Take that many gradient steps, once there is enough to sample from."""
        self.rounds += 1
        if self.buffer.size() < FIRST_STEPS:
            self.buffer.refresh()
            return
        self.model.train(gradient_steps, BATCH)
        if self.rounds % TARGET_EVERY == 0:
            net, target = self.model.q_net, self.model.q_net_target
            polyak_update(net.parameters(), target.parameters(), 1.0)


def train(learner: Learner, collectors: list[Any], rounds: int, kill_every: int) -> int:
    """Learn while the collectors play; how many of them were killed."""
    first = learner.weights()
    playing = {one.play.remote(first, 0, STEPS): one for one in collectors}
    killed = 0
    for done in range(1, rounds + 1):
        (ended,), _ = ray.wait(list(playing))
        ray.get(ended)  # raises what the collector has raised
        collector = playing.pop(ended)
        playing[collector.play.remote(learner.weights(), done, STEPS)] = collector
        if kill_every and done % kill_every == 0:
            ray.kill(collector, no_restart=False)
            killed += 1
        learner.learn(GRADIENT_STEPS)
    ray.get(list(playing))
    ray.get([one.close.remote() for one in collectors])
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="ray")
    parser.add_argument("--collectors", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=200, help=f"of {STEPS} steps each")
    parser.add_argument("--kill-every", type=int, default=0, help="rounds; 0 = never")
    parser.add_argument("--redis-url", help="where to record, if not on embedded servers")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    with Jamboree(arguments.redis_url) as jam:
        collectors = start_collectors(arguments.collectors, arguments.run, arguments.redis_url)
        learner = Learner(jam, arguments.run)
        killed = train(learner, collectors, arguments.rounds, arguments.kill_every)
        episodes = jam.episodes(run=arguments.run)
        summaries = list(episodes.summaries())
        print(f"{sum(one.steps for one in summaries):,} steps, {killed} collectors killed")
        print(dict(Counter(one.status for one in summaries)))
        best = episodes.where(status="terminated").order_by("-episode_return")[0]
        print("the best that ended:", best)
    ray.shutdown()


if __name__ == "__main__":
    main()
