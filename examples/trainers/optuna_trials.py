"""Optuna: trials in parallel processes, which all record into one store.

Each trial is a run, with its parameters as tags. So afterwards a query says which parameters played
which episodes, and the best episode of all trials can be replayed.

Needs: pip install 'jamboree-gym[embedded]' optuna
Run it: python examples/trainers/optuna_trials.py    (or: --trials 40 --processes 4)
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from jamboree_gym import Jamboree

ENV_ID = "CartPole-v1"
EPISODES = 5  # of each trial
WEIGHTS = ("position", "speed", "angle", "turn")
"""Pushes right if the sum of what it sees, weighted, is above 0."""


def open_study(study: str, journal: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return optuna.create_study(
        study_name=study, storage=storage, direction="maximize", load_if_exists=True
    )


def play(jam: Jamboree, study: str, trial: optuna.Trial) -> float:
    """Mean return of some episodes with the weights of this trial."""
    weights = {name: trial.suggest_float(name, -1, 1) for name in WEIGHTS}
    run = f"{study}/{trial.number}"
    env = jam.record(
        gym.make(ENV_ID), run=run, tags={"study": study, "trial": trial.number, **weights}
    )
    trial.set_user_attr("run", run)  # from the study to the episodes
    factors = np.array(list(weights.values()))
    returns = []
    for seed in range(EPISODES):
        observation, _ = env.reset(seed=seed)
        total, is_over = 0.0, False
        while not is_over:
            observation, reward, terminated, truncated, _ = env.step(int(observation @ factors > 0))
            total += float(reward)
            is_over = terminated or truncated
        returns.append(total)
    env.close()
    return float(np.mean(returns))


def work(study: str, journal: Path, trials: int) -> None:
    """One process: it opens its own Jamboree, and takes the next trial as long as there is one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with Jamboree() as jam:
        open_study(study, journal).optimize(lambda trial: play(jam, study, trial), trials)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", default="cartpole")
    parser.add_argument("--journal", type=Path, default=Path("optuna.log"))
    parser.add_argument("--trials", type=int, default=20, help="of all processes together")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(arguments.study, arguments.journal)
    fresh = multiprocessing.get_context("spawn")
    share = arguments.trials // arguments.processes
    given = (arguments.study, arguments.journal, share)
    processes = [fresh.Process(target=work, args=given) for _ in range(arguments.processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process of trials has failed")

    with Jamboree() as jam:
        episodes = jam.episodes(tags={"study": arguments.study})
        best = jam.episodes(run=study.best_trial.user_attrs["run"]).order_by("-episode_return")[0]
        print(f"{len(study.trials)} trials, {len(episodes)} episodes")
        print(f"trial {study.best_trial.number} is best: {best}, {best.verify()}")


if __name__ == "__main__":
    main()
