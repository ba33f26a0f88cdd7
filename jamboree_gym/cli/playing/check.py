"""`check`: whether an environment plays the same again."""

from __future__ import annotations

from typing import Annotated

import typer

from jamboree_gym.cli.commands import (
    NO,
    AnyEnvArgument,
    EnvArgumentsOption,
    JsonOption,
    ModulesOption,
    import_modules,
)
from jamboree_gym.cli.output import as_plain, print_json, print_lines
from jamboree_gym.cli.typed_values import named_values

__all__ = ["check"]


def check(
    env: AnyEnvArgument,
    arguments: EnvArgumentsOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of an episode.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the first episode.")] = 0,
    modules: ModulesOption = None,
    json: JsonOption = False,
) -> None:
    """Find out whether an environment plays the same again; if not, what differs first, and why.

    It is played several times, seeded and not, in this process and in new ones. Nothing is stored,
    and no server is needed. Exit code 0: all is equal. 1: something differs. 2: it cannot be told.

    Example: jamboree-gym check CartPole-v1 --arg sutton_barto_reward=true
    """
    import_modules(modules)
    from jamboree_gym.replay import check_reproducible

    chosen = named_values("--arg", arguments)
    report = check_reproducible(env, chosen, modules=modules or (), steps=steps, seed=seed)
    if json:
        print_json({"equal": bool(report), **as_plain(report)})
    else:
        print_lines(str(report))
    if not report:
        raise typer.Exit(NO)
