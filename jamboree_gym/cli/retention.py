"""`backup retain` and `backup trim`: how much of the backed-up data stays in Redis."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from jamboree_gym.backup import RetentionPolicy
from jamboree_gym.cli.commands import (
    StoreOptions,
    add_store_command,
    confirm,
    errors_shown,
    printable,
)
from jamboree_gym.errors import InvalidArgument

__all__ = ["register"]

NOT_DONE = 2
_BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TEXTS = ("run", "env_id", "status", "parent")
_TAG = "tags."

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing, show what would leave Redis.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def register(commands: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (retain, trim):
        add_store_command(commands, command)


def retain(
    store: StoreOptions,
    max_redis_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="While Redis uses more, the oldest goes: 500MB, 2G."),
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(metavar="TIME", help="What is older goes: 90s, 12h, 30d.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="Episodes that stay: run=best, or env_id=...,tags.branch=main,min_return=100. "
            "May be repeated: to fit one rule is enough.",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Change nothing, show what is told.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Set how much of the backed-up data stays in Redis. Without options: all of it.

    It replaces what was set before, shows both, and says what would leave Redis now. The running
    backup applies it. Nothing is deleted from MongoDB.

    Example: jamboree-gym backup retain --max-redis-bytes 2G --max-age 30d --keep run=best
    """
    with errors_shown(NOT_DONE):
        size = _amount("--max-redis-bytes", max_redis_bytes, _BYTES)
        age_s = _amount("--max-age", max_age, _SECONDS)
        rules = [_rule(one) for one in keep or ()]
        with store.open() as jam:
            limit = None if size is None else int(size)
            if not show:
                going = jam.backup.would_evict(max_redis_bytes=limit, max_age_s=age_s, keep=rules)
                if dry_run:
                    limits = RetentionPolicy(limit, age_s, rules)
                    typer.echo(printable(f"{going}\nwould hold then: {_one_line(limits)}"))
                    return
                if going:
                    confirm(str(going), yes=yes)
                replaced = jam.backup.retain(max_redis_bytes=limit, max_age_s=age_s, keep=rules)
                if replaced not in (RetentionPolicy(), jam.backup.retention()):
                    typer.echo(printable(f"replaced: {_one_line(replaced)}"))
            typer.echo(printable(str(jam.backup.retention())))


def trim(store: StoreOptions, dry_run: DryRunOption = False, yes: YesOption = False) -> None:
    """Evict now from Redis what `retain` allows. Evicts only what MongoDB holds.

    Example: jamboree-gym backup trim --namespace my-project
    """
    with errors_shown(NOT_DONE), store.open() as jam:
        policy = jam.backup.retention()
        going = jam.backup.would_evict(
            max_redis_bytes=policy.max_redis_bytes, max_age_s=policy.max_age_s, keep=policy.keep
        )
        if dry_run:
            typer.echo(str(going))
            return
        if going:
            confirm(str(going), yes=yes)
        typer.echo(str(jam.backup.trim()))


def _one_line(policy: RetentionPolicy) -> str:
    return "; ".join(str(policy).splitlines())


def _amount(option: str, text: str | None, units: dict[str, int]) -> float | None:
    """Parse a number with a unit.

    Raises:
        InvalidArgument: The text is no such number.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    unit = "" if found is None else found[2].lower().replace("ib", "b")
    known = {name.lower(): size for name, size in units.items()}
    size = known.get(unit, known.get(f"{unit}b"))  # 2G is 2GB
    if found is None or size is None:
        raise InvalidArgument(
            f"{option} {text}: give a number with a unit: {', '.join(f'3{one}' for one in units)}"
        )
    return float(found[1]) * size


def _rule(text: str) -> dict[str, Any]:
    """Parse `run=best,min_return=100` as a rule. `retain` checks its names and values.

    Raises:
        InvalidArgument: The text does not have this form.
    """
    rule: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgument(f"--keep {text}: give name=value, with commas between several")
        if name.startswith(_TAG):
            rule.setdefault("tags", {})[name.removeprefix(_TAG)] = _value(value)
        else:
            rule[name] = value if name in _TEXTS else _value(value)
    return rule


def _value(text: str) -> Any:
    """A number or a bool if the text reads as one; else the text."""
    words = {"true": True, "false": False}
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return words.get(text.lower(), text)
