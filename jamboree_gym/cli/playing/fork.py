"""`fork`: the code that continues an episode from a step, tried."""

from __future__ import annotations

from typing import Annotated

import typer

from jamboree_gym.cli.commands import (
    JsonOption,
    ModulesOption,
    StoreOptions,
    TrustOption,
    import_modules,
)
from jamboree_gym.cli.episode_ids import EpisodeArgument, named_episode
from jamboree_gym.cli.output import print_json, print_lines
from jamboree_gym.wording import counted, mask_password

__all__ = ["fork"]


def fork(
    store: StoreOptions,
    episode: EpisodeArgument,
    step: Annotated[int, typer.Option(min=0, help="Number of steps before the fork.")],
    modules: ModulesOption = None,
    trust_entry_point: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Print the code that continues an episode from a step, once it is known to work.

    The environment is built, brought to that step and compared on the way; nothing is recorded.
    If that fails, the exit code is 1.

    Example: jamboree-gym fork @last --step 4
    """
    import_modules(modules)
    with store.open() as jam:
        parent = named_episode(jam, episode)
        env = parent.fork(step, record=False, trust_entry_point=trust_entry_point)
        env.close()
    code = _code(store, parent.id, step, modules or [], trust_entry_point=trust_entry_point)
    if json:
        print_json({"episode": parent.id, "step": step, "code": code})
    else:
        print_lines(code)
        typer.echo(f"it works: {counted(step, 'step')} played and compared", err=True)


def _code(
    store: StoreOptions, id: str, step: int, modules: list[str], *, trust_entry_point: bool
) -> str:
    trusted = ", trust_entry_point=True" if trust_entry_point else ""
    return "\n".join(
        [
            *(f"import {name}" for name in modules),
            "from jamboree_gym import Jamboree",
            "",
            f"jam = Jamboree({_arguments(store)})",
            f"env = jam.episode({id!r}).fork({step}{trusted})",
            "print(env.observation)  # what the first action answers",
            "action = env.action_space.sample()",
            "observation, reward, terminated, truncated, info = env.step(action)",
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
