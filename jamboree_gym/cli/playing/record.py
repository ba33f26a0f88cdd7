"""`record` and `train`: new episodes, under a policy or while one is learnt."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Annotated, Any

import typer

from jamboree_gym.cli.commands import (
    AnyEnvArgument,
    EnvArgument,
    EnvArgumentsOption,
    JsonOption,
    ModulesOption,
    StoreOptions,
    TagsOption,
    import_modules,
    progress_bar,
)
from jamboree_gym.cli.output import print_json, print_text
from jamboree_gym.cli.playing.policies import RANDOM, AlgorithmOption, policy_of_text
from jamboree_gym.cli.typed_values import named_values
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wording import counted

__all__ = ["record", "train"]


RunOption = Annotated[
    str | None, typer.Option(help="Name of the run.", show_default="date and time")
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Makes it repeatable.", show_default="none")
]


def record(
    store: StoreOptions,
    env: AnyEnvArgument,
    policy: Annotated[
        str,
        typer.Option(help="random, a .zip of Stable-Baselines3, or module:callable.", metavar="P"),
    ] = RANDOM,
    episodes: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    run: RunOption = None,
    seed: SeedOption = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps of an episode.", show_default="its end")
    ] = None,
    tag: TagsOption = None,
    arguments: EnvArgumentsOption = None,
    algorithm: AlgorithmOption = "ppo",
    modules: ModulesOption = None,
    json: JsonOption = False,
) -> None:
    """Play episodes under a policy, and record them. A zip file or a module may run any code.

    With a seed, episode i is reset with seed + i. Environments of PettingZoo are played at random.

    Example: jamboree-gym record CartPole-v1 --episodes 3 --run trial --seed 1
    """
    import_modules(modules)
    from jamboree_gym.replay.verification.agents_as_one import AgentsAsOne, is_of_several

    is_joint = is_of_several(env)
    if is_joint and policy != RANDOM:
        raise InvalidArgument(f"--policy {policy}: several agents are only played at random")
    made = _made(env, named_values("--arg", arguments))
    tags = named_values("--tag", tag)
    ids, returns, steps = list[str](), list[Any](), 0
    with ExitStack() as not_recorded_yet:
        not_recorded_yet.callback(made.close)
        played: Any = AgentsAsOne(made) if is_joint else made
        if seed is not None:
            played.action_space.seed(seed)
        choose = _chooser(policy_of_text(policy, played.action_space, algorithm=algorithm), seed)
        with store.open(is_new=True) as jam, progress_bar("recording") as progress:
            recorded = jam.record(made, run=run, tags={"policy": policy, **tags})
            not_recorded_yet.pop_all()  # the recorder closes it: some refuse to be closed twice
            if is_joint:
                played.env = recorded
            else:
                played = recorded
            with closing(recorded):
                for number in range(episodes):
                    total, count = _episode(played, choose, seed, number, max_steps)
                    ids.append(recorded.joint_id if is_joint else recorded.episode_id)
                    returns.append(total)
                    steps += count
                    progress(number + 1, episodes)
            run = jam.episode(ids[-1]).summary.run if is_joint else recorded.run
    mean = sum(returns) / len(returns)
    if json:
        print_json({"run": run, "episodes": ids, "steps": steps, "mean_return": mean})
    else:
        from jamboree_gym.records import brief

        amount = f"{counted(len(ids), 'episode')}, {counted(steps, 'step')}"
        print_text(f"run {run}: {amount}, return {brief(mean)} on average")


def train(
    store: StoreOptions,
    env: EnvArgument,
    algorithm: AlgorithmOption = "ppo",
    timesteps: Annotated[int, typer.Option(min=1, help="How many.")] = 100_000,
    run: RunOption = None,
    seed: SeedOption = None,
    envs: Annotated[int, typer.Option(min=1, help="Number of environments.")] = 1,
    arguments: EnvArgumentsOption = None,
    modules: ModulesOption = None,
    json: JsonOption = False,
) -> None:
    """Train with the defaults of Stable-Baselines3, and record episodes, metrics and checkpoints.

    Needs pip install 'jamboree-gym[sb3]'. `jamboree-gym top` shows how it goes.

    Example: jamboree-gym train CartPole-v1 --algo a2c --timesteps 100 --run learnt
    """
    import_modules(modules)
    from jamboree_gym.integrations.sb3.training.starting import train as train_model

    with store.open(is_new=True) as jam, progress_bar("training") as progress:
        name = train_model(
            jam,
            env,
            algorithm,
            timesteps,
            arguments=named_values("--arg", arguments),
            run=run,
            seed=seed,
            envs=envs,
            progress=progress,
        )
        report = jam.run(name).report()
    summary = report.summary
    if json:
        checkpoint = None if report.checkpoint is None else report.checkpoint.number
        print_json({"run": name, "episodes": summary.episodes, "steps": summary.steps,
                    "mean_return": summary.mean_return, "checkpoint": checkpoint})  # fmt: skip
    else:
        print_text(str(summary))


def _made(env_id: str, arguments: dict[str, Any]) -> Any:
    import gymnasium as gym

    from jamboree_gym.replay.verification.agents_as_one import is_of_several, made_of_several

    if is_of_several(env_id):
        return made_of_several(env_id, **arguments)
    try:
        return gym.make(env_id, **arguments)
    except Exception as error:
        raise InvalidArgument(f"{env_id} cannot be made: {error}") from error


def _chooser(policy: Any, seed: int | None) -> Any:
    if seed is not None and hasattr(policy, "set_random_seed"):
        policy.set_random_seed(seed)  # a model draws its actions
    predict = getattr(policy, "predict", None)
    return policy if predict is None else lambda observation: predict(observation)[0]


def _episode(
    env: Any, choose: Any, seed: int | None, number: int, max_steps: int | None
) -> tuple[Any, int]:
    """Play an episode; return its return (of each number of a reward) and its length."""
    from jamboree_gym.environment.outcomes import reward_of

    observation, _ = env.reset(seed=None if seed is None else seed + number)
    total: Any = 0.0
    steps, is_over = 0, False
    while not is_over and (max_steps is None or steps < max_steps):
        observation, reward, terminated, truncated, _ = env.step(choose(observation))
        total, steps = total + reward_of(reward), steps + 1
        is_over = terminated or truncated
    return total, steps
