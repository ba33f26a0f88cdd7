"""`fork`: the code that continues an episode from a step, tried."""

from __future__ import annotations

from typing import Annotated

import typer

from jamboree_gym.cli.commands import (
    EnvArgumentsOption,
    JsonOption,
    ModulesOption,
    StoreOptions,
    TrustOption,
    import_modules,
)
from jamboree_gym.cli.episode_ids import EpisodeArgument, named_episode
from jamboree_gym.cli.output import print_json, print_lines
from jamboree_gym.cli.playing.handed import MakeOption, handed_over
from jamboree_gym.cli.playing.joint import code_of_fork, code_of_make, fork_of, joint_of
from jamboree_gym.wording import counted, mask_password

__all__ = ["fork"]


def fork(
    store: StoreOptions,
    episode: EpisodeArgument,
    step: Annotated[int, typer.Option(min=0, help="Number of steps before the fork.")],
    modules: ModulesOption = None,
    arguments: EnvArgumentsOption = None,
    make: MakeOption = None,
    trust_entry_point: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Print the code that continues an episode from a step, once it is known to work.

    The environment is built, brought to that step and compared on the way; nothing is recorded.
    If that fails, the exit code is 1. Of an episode with several agents, a step is a turn.

    Example: jamboree-gym fork @last --step 4
    """
    import_modules(modules)
    handed = handed_over(make, arguments)
    with store.open() as jam:
        parent = named_episode(jam, episode)
        joint = joint_of(jam, parent)
        if joint is not None:
            fork_of(joint, step, trust_entry_point=trust_entry_point, **handed)
        else:
            env = parent.fork(step, record=False, trust_entry_point=trust_entry_point, **handed)
            env.close()
        given = [str(step)]
        if trust_entry_point:
            given.append("trust_entry_point=True")
        if joint is not None:
            lines = code_of_fork(joint, [*given, *code_of_make(make, handed["env_kwargs"])])
        else:
            if handed["env_kwargs"]:
                given.append(f"env_kwargs={handed['env_kwargs']!r}")
            if make is not None:
                given.append(f"make={make.replace(':', '.')}")
            lines = _lines(parent.id, given)
    code = _code(store, lines, _modules_of(modules, make))
    if json:
        print_json({"episode": parent.id, "step": step, "code": code})
    else:
        print_lines(code)
        what = counted(step, "step" if joint is None else "turn")
        typer.echo(f"it works: {what} played and compared", err=True)


def _modules_of(modules: list[str] | None, make: str | None) -> list[str]:
    """What the code imports."""
    of_make = [] if make is None else [make.partition(":")[0]]
    return list(dict.fromkeys([*(modules or []), *of_make]))


def _lines(id: str, given: list[str]) -> list[str]:
    return [
        f"env = jam.episode({id!r}).fork({', '.join(given)})",
        "print(env.observation)  # what the first action answers",
        "action = env.action_space.sample()",
        "observation, reward, terminated, truncated, info = env.step(action)",
    ]


def _code(store: StoreOptions, lines: list[str], modules: list[str]) -> str:
    return "\n".join(
        [
            *(f"import {name}" for name in modules),
            "from jamboree_gym import Jamboree",
            "",
            f"jam = Jamboree({_arguments(store)})",
            *lines,
        ]
    )


def _arguments(store: StoreOptions) -> str:
    """Of the store, as they were given; no password."""
    given = {
        "redis_url": store.redis_url and mask_password(store.redis_url),
        "mongo_url": store.backup_url and mask_password(store.backup_url),
        "home": store.home and str(store.home),
        "namespace": None if store.namespace == "jamboree" else store.namespace,
    }
    return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
