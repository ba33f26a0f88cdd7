"""`backup retain` and `backup trim`: how much of the backed-up data stays in Redis."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from jamboree_gym.backup import RetentionPolicy
from jamboree_gym.cli.commands import StoreOptions, add_store_command, errors_shown, printable
from jamboree_gym.errors import InvalidArgument

__all__ = ["register"]

NOT_DONE = 2
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SECONDS = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86400, "W": 7 * 86400}
_TEXTS = ("run", "env_id", "status", "parent")
_TAG = "tags."


def register(commands: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (retain, trim):
        add_store_command(commands, command)


def retain(
    store: StoreOptions,
    max_redis_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="While Redis uses more, the oldest goes: 500M, 2G."),
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
) -> None:
    """Set how much of the backed-up data stays in Redis. Without options: all of it.

    The running backup applies this. Nothing is deleted from MongoDB.

    Example: jamboree-gym backup retain --max-redis-bytes 2G --max-age 30d --keep run=best
    """
    with errors_shown(NOT_DONE):
        size = _amount("--max-redis-bytes", max_redis_bytes, _BYTES)
        age_s = _amount("--max-age", max_age, _SECONDS)
        rules = [_rule(one) for one in keep or ()]
        with store.open() as jam:
            if not show:
                limit = None if size is None else int(size)
                jam.backup.retain(max_redis_bytes=limit, max_age_s=age_s, keep=rules)
            typer.echo(_policy_text(jam.backup.retention()))


def trim(store: StoreOptions) -> None:
    """Evict now from Redis what `retain` allows. Evicts only what MongoDB holds.

    Example: jamboree-gym backup trim --namespace my-project
    """
    with errors_shown(NOT_DONE), store.open() as jam:
        done = jam.backup.trim()
    typer.echo(f"{done.freed_bytes:,} bytes of logs and {done.summaries:,} summaries evicted")


def _policy_text(policy: RetentionPolicy) -> str:
    size, age_s = policy.max_redis_bytes, policy.max_age_s
    limits = [] if size is None else [f"the oldest goes while Redis uses more than {size:,} bytes"]
    limits += [] if age_s is None else [f"what is older than {age_s:,.0f} s goes"]
    kept = [f"episodes stay with {printable(str(dict(rule)))}" for rule in policy.keep]
    return "\n".join([*(limits or ["all stays in Redis, below 80 % of its maxmemory"]), *kept])


def _amount(option: str, text: str | None, units: dict[str, int]) -> float | None:
    """Parse a number with a unit.

    Raises:
        InvalidArgument: The text is no such number.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]?)(?:i?[Bb])?", text.strip())
    if found is None or found[2].upper() not in units:
        known = ", ".join(f"3{unit}" for unit in units if unit)
        raise InvalidArgument(f"{option} {text}: give a number with a unit: {known}")
    return float(found[1]) * units[found[2].upper()]


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
