"""Episodes that are named on a command line: by id, its beginning, `@last`, or `-` for stdin."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jamboree_gym.cli.completion import complete_episode
from jamboree_gym.errors import EpisodeNotFound, InvalidArgument
from jamboree_gym.wording import there_are

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.reading.episode import Episode

__all__ = ["EpisodeArgument", "EpisodesArgument", "is_there", "named_episode", "named_episodes"]

STDIN = "-"
_LAST = re.compile(r"@last(?:~(\d{1,9}))?")
_HELP = "Its id, the first digits of it, @last, @last~1 (the one before), or - for stdin."

EpisodeArgument = Annotated[
    str, typer.Argument(metavar="EPISODE", help=_HELP, autocompletion=complete_episode)
]
EpisodesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[EPISODE]...", help=_HELP, show_default=False, autocompletion=complete_episode
    ),
]


def named_episodes(jam: Jamboree, names: Sequence[str]) -> list[Episode]:
    """The episodes of these names, each once.

    Raises:
        EpisodeNotFound: Several begin like that; or there are too few for `@last~N`.
        InvalidArgument: A line on stdin has no id, or there is none; or there is no such `@word`.
    """
    found = [_named(jam, name) for name in _without_stdin(names)]
    if not found:
        raise InvalidArgument("there are no ids on stdin")
    return list({episode.id: episode for episode in found}.values())


def named_episode(jam: Jamboree, name: str) -> Episode:
    """The episode of this name.

    Raises:
        EpisodeNotFound: Several begin like that; or there is none at all, and so no `@last`.
        InvalidArgument: On stdin there is not one id.
    """
    found = named_episodes(jam, [name])
    if len(found) != 1:
        raise InvalidArgument(f"there are {len(found)} ids on stdin: this command takes one")
    return found[0]


def _named(jam: Jamboree, name: str) -> Episode:
    if (before := _LAST.fullmatch(name)) is not None:
        try:
            return jam.episodes()[-1 - int(before[1] or 0)]
        except EpisodeNotFound as error:
            count = len(jam.episodes())
            there = there_are(count, "episode") if count else "nothing has been recorded yet"
            raise EpisodeNotFound(f"no {name}: {there}") from error
    episode = jam.episode(name)
    if name.startswith("@") and not is_there(episode):
        raise InvalidArgument(f"{name}: give an id, @last, or @last~1 for the one before it")
    return episode


def is_there(episode: Episode) -> bool:
    """Whether the store has this episode."""
    try:
        return bool(episode.summary)
    except EpisodeNotFound:
        return False


def _without_stdin(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name == STDIN:
            yield from (_id_in(line) for line in sys.stdin if line.strip())
        else:
            yield name


def _id_in(line: str) -> str:
    """The id in a line: of JSON `id` or `episode`, else the first word."""
    if not line.lstrip().startswith("{"):
        return line.split()[0]
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"stdin: {line[:60]!r} is no JSON: {error}") from error
    for name in ("id", "episode"):
        if isinstance(record.get(name), str):
            return str(record[name])
    raise InvalidArgument(f"stdin: {line[:60]!r} has no id: give what `ls --json` prints")
