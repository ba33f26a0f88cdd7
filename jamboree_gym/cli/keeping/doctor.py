"""`doctor`: what is wrong with a set-up, and the mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from jamboree_gym.cli.commands import NO, JsonOption, StoreOptions
from jamboree_gym.cli.output import print_json, print_text

if TYPE_CHECKING:
    from jamboree_gym.diagnosis import Finding

__all__ = ["doctor"]


def doctor(store: StoreOptions, json: JsonOption = False) -> None:
    """Find what is wrong with a set-up, and say how to mend it. Exit code 1 if there is a problem.

    It looks at Python and packages, the home folder, the servers, what Redis would lose, the
    backup, journals that dead processes left, and clocks. It starts nothing and changes nothing.

    Example: jamboree-gym doctor
    """
    from jamboree_gym.diagnosis import diagnose

    found = []
    for one in diagnose(
        store.redis_url, store.backup_url, home=store.home, namespace=store.namespace
    ):
        found.append(one)
        if not json:
            _print(one)
    problems = sum(one.level == "problem" for one in found)
    if json:
        print_json({"problems": problems, "checks": found})
    if problems:
        raise typer.Exit(NO)


def _print(found: Finding) -> None:
    print_text(f"{found.level:<8} {found.check:<18} {found.found}")
    if found.mend:
        print_text(f"{'':<8} {'':<18} -> {found.mend}")
