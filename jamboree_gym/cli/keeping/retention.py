"""`backup retain` and `backup trim`: how much of the backed-up data stays in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jamboree_gym.cli.commands import (
    DryRunOption,
    StoreOptions,
    YesOption,
    confirm,
)
from jamboree_gym.cli.output import print_lines, print_text
from jamboree_gym.cli.typed_values import BYTES, SECONDS, amount, value_of
from jamboree_gym.errors import InvalidArgument

if TYPE_CHECKING:
    from jamboree_gym.backup import RetentionPolicy

__all__ = ["retain", "trim"]

_TEXTS = ("run", "env_id", "status", "parent")
_TAG = "tags."


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
            "May be repeated: an episode stays if it fits one rule.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Change nothing, show what is set.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Set how much of the backed-up data stays in Redis. Without options: all of it.

    It replaces what was set before, shows both, and says what would leave Redis now. The running
    backup applies it. Nothing is deleted from the backup.

    Example: jamboree-gym backup retain --max-redis-bytes 2G --max-age 30d --keep run=best
    """
    from jamboree_gym.backup import RetentionPolicy

    size = amount("--max-redis-bytes", max_redis_bytes, BYTES)
    age_s = amount("--max-age", max_age, SECONDS)
    rules = [_rule(one) for one in keep or ()]
    limit = None if size is None else int(size)
    with store.open() as jam:
        if not show:
            going = jam.backup.would_evict(max_redis_bytes=limit, max_age_s=age_s, keep=rules)
            if dry_run:
                limits = RetentionPolicy(limit, age_s, rules)
                print_lines(f"{going}\nwould hold then: {_one_line(limits)}")
                return
            if going:
                confirm(str(going), yes=yes)
            replaced = jam.backup.retain(max_redis_bytes=limit, max_age_s=age_s, keep=rules)
            if replaced not in (RetentionPolicy(), jam.backup.retention()):
                print_text(f"replaced: {_one_line(replaced)}")
        print_lines(str(jam.backup.retention()))


def trim(store: StoreOptions, dry_run: DryRunOption = False, yes: YesOption = False) -> None:
    """Evict now from Redis what `retain` allows. Evicts only what the backup holds.

    Example: jamboree-gym backup trim --dry-run
    """
    with store.open() as jam:
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
            rule.setdefault("tags", {})[name.removeprefix(_TAG)] = value_of(value)
        else:
            rule[name] = value if name in _TEXTS else value_of(value)
    return rule
