"""Learner and actors apart: four processes play CartPole, a fifth learns from all of them with DQN.

They share nothing but a Jamboree. Actors record what they play; the learner samples from the run
while it grows. Every `CHECKPOINT_EVERY` steps it keeps a checkpoint, whose weights the actors load.
Each step is stored with the version of the weights that chose it. The actors explore more or less,
as those of Ape-X do (Horgan et al., "Distributed Prioritized Experience Replay", 2018).

Kill any of these processes with `kill -9`: it is started again, and continues.

Needs: pip install 'jamboree-gym[embedded,sb3]' rich
Run it: python examples/actors.py    (or: --timesteps 5000 --kill-every 1000)
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from jamboree_gym import CheckpointNotFound, EpisodeSummary, Jamboree, StoreUnavailable
from jamboree_gym.integrations.sb3 import JamboreeCallback, JamboreeReplayBuffer, Unsaved

ENV_ID = "CartPole-v1"
LEARNER = "learner"
CHECKPOINT_EVERY = 256
"""How many steps the learner takes between two checkpoints, and an actor with each."""
KEPT_CHECKPOINTS = 20
PRELOADED = ["jamboree_gym.integrations.sb3", "torch._dynamo"]
"""Take seconds to load, the second with torch's first optimiser: so once, not in each process."""
LOOK_EVERY_S = 0.02
SHOW_EVERY_S = 0.5
NEWEST_EPISODES = 20
EVALUATED_EPISODES = 20
HIGHEST_EPSILON, N_STEPS = 0.4, 3  # of Ape-X
EPSILON_ALPHA = 2.5  # there 7, but for 360 actors: of a few, most would not explore at all
GAMMA = 0.99
HYPERPARAMETERS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": GAMMA,
    "target_update_interval": 128,
    "train_freq": 32,
    "gradient_steps": 32,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
}

console = Console()
told_to_end: list[int] = []  # signals that this process was sent


@dataclass(frozen=True)
class Plan:
    """What each process is told when it begins.

    Attributes:
        run: Name of the run.
        redis_url: Where to record; None = the embedded servers.
        actors: How many.
        timesteps: How many steps the learner takes itself; each actor takes about as many.
    """

    run: str
    redis_url: str | None
    actors: int
    timesteps: int


# -- the learner --------------------------------------------------------------------------------


def make_learner(jam: Jamboree, plan: Plan) -> DQN:
    """A model that samples from the run, gone on with where there is a checkpoint."""
    env = jam.record(gym.make(ENV_ID), run=plan.run, tags={"player": LEARNER})
    source = Unsaved(jam=jam, run=plan.run, n_steps=N_STEPS, gamma=GAMMA)
    try:
        known = {"replay_buffer_kwargs": source}
        return jam.run(plan.run, wait=True).resume(DQN, env, device="cpu", custom_objects=known)
    except CheckpointNotFound:
        return DQN(
            "MlpPolicy",
            env,
            replay_buffer_class=JamboreeReplayBuffer,
            replay_buffer_kwargs=source,
            device="cpu",
            **HYPERPARAMETERS,
        )


def keep_checkpoints(jam: Jamboree) -> JamboreeCallback:
    return JamboreeCallback(
        jam, checkpoint_every=CHECKPOINT_EVERY, keep_checkpoints=KEPT_CHECKPOINTS
    )


def learn(plan: Plan) -> None:
    """Learn from what the actors play, and from what it plays itself."""
    with Jamboree(plan.redis_url) as jam:
        model = make_learner(jam, plan)
        left = plan.timesteps - model.num_timesteps
        callbacks = [keep_checkpoints(jam), EndIfTold()]
        model.learn(left, callback=callbacks, reset_num_timesteps=False)


class EndIfTold(BaseCallback):
    """Ends the learner between two steps."""

    def _on_step(self) -> bool:
        end_if_told()
        return True


# -- an actor -----------------------------------------------------------------------------------


def act(plan: Plan, number: int) -> None:
    """Play and record, with the newest weights there are, until the process is ended."""
    name, epsilon = actor_name(number), epsilon_of(number, plan.actors)
    with Jamboree(plan.redis_url) as jam:
        env = jam.record(
            gym.make(ENV_ID), run=plan.run, tags={"player": name, "epsilon": round(epsilon, 6)}
        )
        model = make_player(env)
        observation, _ = env.reset()
        newest = -1
        while True:
            newest, version = load_newer(jam, plan.run, newest, model)
            for _ in range(CHECKPOINT_EVERY):
                action, q_values = choose(model, observation, epsilon)
                env.annotate(policy_version=version, q_values=q_values)
                observation, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    observation, _ = env.reset()
                end_if_told()


def actor_name(number: int) -> str:
    return f"actor {number}"


def epsilon_of(number: int, actors: int) -> float:
    """How often an actor does something at random: from 0.4 down to 0.4 to the power of 3.5."""
    return float(HIGHEST_EPSILON ** (1 + EPSILON_ALPHA * number / max(1, actors - 1)))


def make_player(env: gym.Env) -> DQN:
    """A model to load weights into."""
    return DQN("MlpPolicy", env, buffer_size=1, device="cpu")


def load_newer(jam: Jamboree, run: str, than: int, model: DQN) -> tuple[int, int]:
    """Wait for a checkpoint that is newer, and load it; its number and its version."""
    while True:
        end_if_told()
        with suppress(CheckpointNotFound, StoreUnavailable):  # not yet; not now
            checkpoint = jam.run(run, wait=True).checkpoint()
            if checkpoint.number > than:
                checkpoint.load_into(model)
                return checkpoint.number, checkpoint.policy_version
        time.sleep(LOOK_EVERY_S)


def choose(model: DQN, observation: np.ndarray, epsilon: float) -> tuple[int, np.ndarray]:
    """An action, and what each of them is thought to be worth."""
    with torch.no_grad():
        q_values = model.q_net(torch.as_tensor(observation[None]))[0].numpy()
    if random.random() < epsilon:
        return random.randrange(len(q_values)), q_values
    return int(q_values.argmax()), q_values


# -- the processes ------------------------------------------------------------------------------


class Crew:
    """The learner and its actors, a process each; one that is killed is started again.

    Args:
        plan: What they do.
        has_learner: Whether the learner is one of them.

    Attributes:
        processes: By name.
        killed: How often each has been.
    """

    def __init__(self, plan: Plan, *, has_learner: bool = True) -> None:
        self.killed: Counter[str] = Counter()
        self._plan = plan
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        names = [actor_name(number) for number in range(plan.actors)]
        jobs = {name: (act, (plan, number)) for number, name in enumerate(names)}
        self._jobs = jobs | ({LEARNER: (learn, (plan,))} if has_learner else {})
        self.processes = {name: self._start(name) for name in self._jobs}

    def _start(self, name: str) -> BaseProcess:
        job, arguments = self._jobs[name]
        process = self._context.Process(
            target=begin, args=(job, *arguments), name=name, daemon=True
        )
        process.start()
        return process

    def look_after(self) -> bool:
        """Start again what was killed; whether the learner has come to its end.

        Raises:
            SystemExit: One has failed, and says why itself.
        """
        for name, process in self.processes.items():
            if process.is_alive():
                continue
            if process.exitcode == 0:
                return True
            if process.exitcode is not None and process.exitcode > 0:
                raise SystemExit(f"{name} has failed")
            self.killed[name] += 1
            self.processes[name] = self._start(name)
        return False

    def stop(self) -> None:
        """End those that still run; what they have recorded is kept."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join()


def begin(job: Callable[..., None], *arguments: Any) -> None:
    """Do a job in this process, until it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and tells it
    signal.signal(signal.SIGTERM, lambda number, _: told_to_end.append(number))
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # for a net this small, more threads only wait for each other
    job(*arguments)


def end_if_told() -> None:
    """To be called between two steps.

    The signal handler only notes what it was told: an exception out of it could come anywhere, also
    where Python drops it (in the callback of a weak reference), or halfway through a recorded step.
    """
    if told_to_end:
        sys.exit()


def end_with_parent() -> None:
    """Without a parent nobody would end this process, nor start again what is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


# -- what is shown ------------------------------------------------------------------------------


def by_player(jam: Jamboree, run: str) -> Mapping[str, list[EpisodeSummary]]:
    """The episodes of each, the oldest first."""
    found = defaultdict(list)
    for one in jam.episodes(run=run, wait=True).summaries():
        found[one.tags["player"]].append(one)
    return found


def crew_table(jam: Jamboree, run: str, crew: Crew) -> Table:
    """Who has played how much, how well, and with which weights."""
    numbers = ("process", "steps", "episodes", "newest return", "weights", "killed")
    table = Table("player", *numbers)
    for column in table.columns[1:]:
        column.justify = "right"
    played = by_player(jam, run)
    for name, process in crew.processes.items():
        episodes = played[name]
        table.add_row(
            name,
            str(process.pid),
            f"{sum(one.steps for one in episodes):,}",
            f"{len(episodes):,}",
            mean_return(episodes),
            version_of(jam, episodes),
            str(crew.killed[name] or ""),
        )
    return table


def mean_return(episodes: list[EpisodeSummary]) -> str:
    """Of the newest that came to an end."""
    returns = [one.episode_return for one in episodes if one.status in ("terminated", "truncated")]
    return f"{np.mean(returns[-NEWEST_EPISODES:]):.0f}" if returns else ""


def version_of(jam: Jamboree, episodes: list[EpisodeSummary]) -> str:
    """Of the weights that chose the newest step."""
    for one in reversed(episodes):
        if one.steps:
            return str(int(jam.episode(one.id).recent(1).annotations["policy_version"][0]))
    return ""


def timesteps_so_far(jam: Jamboree, run: str) -> int:
    """Of the learner, as of its newest checkpoint."""
    try:
        return jam.run(run, wait=True).checkpoint().timesteps
    except CheckpointNotFound:
        return 0


def watch(jam: Jamboree, plan: Plan, crew: Crew, kills: list[int]) -> None:
    """Show how far they are, until the learner has finished.

    Args:
        jam: Where they record.
        plan: What they do.
        crew: Those who do it.
        kills: After which steps of the learner to kill an actor. One each time that it looks: all
            of them, also if the learner is done before.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=console)
    task = progress.add_task("steps of the learner", total=plan.timesteps)
    with Live(progress, console=console) as live:
        while True:
            is_over = crew.look_after()
            with suppress(StoreUnavailable):  # they record into memory meanwhile
                done = timesteps_so_far(jam, plan.run)
                progress.update(task, completed=done)
                live.update(Group(progress, crew_table(jam, plan.run, crew)))
                if kills and kills[0] <= done:
                    kill_one(crew, plan)
                    kills.pop(0)
                    is_over = False  # who was killed is started again first
            if is_over:
                return
            time.sleep(SHOW_EVERY_S)


def kills_to_come(jam: Jamboree, plan: Plan, every: int) -> list[int]:
    """After which steps of the learner an actor is killed; none where `every` is 0."""
    done = timesteps_so_far(jam, plan.run)
    return list(range(done + every, plan.timesteps, every)) if every > 0 else []


def kill_one(crew: Crew, plan: Plan) -> None:
    process = crew.processes[actor_name(random.randrange(plan.actors))]
    if process.is_alive():  # it ends by itself when the learner has
        process.kill()
        console.print(f"kill -9 {process.pid} ({process.name})")


def report(jam: Jamboree, plan: Plan) -> None:
    """What the learner has reached, and from whose steps."""
    env = Monitor(gym.make(ENV_ID))
    model = make_player(env)
    jam.run(plan.run).checkpoint().load_into(model)
    mean, _ = evaluate_policy(model, env, EVALUATED_EPISODES)
    played = by_player(jam, plan.run)
    steps = {name: sum(one.steps for one in played[name]) for name in sorted(played)}
    statuses = Counter(one.status for episodes in played.values() for one in episodes)
    shares = ", ".join(f"{name} {count:,}" for name, count in steps.items())
    ends = ", ".join(f"{count:,} {status}" for status, count in statuses.most_common())
    console.print()
    for line in (
        f"run {plan.run!r}: the learner earns {mean:.1f}, over {EVALUATED_EPISODES} games",
        f"{sum(steps.values()):,} transitions: {shares}",
        f"{statuses.total():,} episodes: {ends}",
    ):
        console.print(line, soft_wrap=True)


def main() -> None:
    """Parse the arguments, start everybody, watch, and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actors", type=int, default=4, help="processes that play")
    parser.add_argument("--timesteps", type=int, default=20_000, help="steps of the learner")
    parser.add_argument(
        "--kill-every",
        type=int,
        default=0,
        help="kill an actor after this many of these (0: never)",
    )
    parser.add_argument("--run", help="name of the run; of one that is there, to continue it")
    parser.add_argument("--redis-url", help="where to record, if not on embedded servers")
    arguments = parser.parse_args()

    run = arguments.run or time.strftime("actors-%Y%m%d-%H%M%S")
    plan = Plan(run, arguments.redis_url, arguments.actors, arguments.timesteps)
    with Jamboree(plan.redis_url) as jam:
        kills = kills_to_come(jam, plan, arguments.kill_every)
        crew = Crew(plan)
        try:
            watch(jam, plan, crew, kills)
        except KeyboardInterrupt:
            console.print(f"to continue: python examples/actors.py --run {run}")
            raise SystemExit(130) from None
        finally:
            crew.stop()
        report(jam, plan)


if __name__ == "__main__":
    main()
