"""What a shell offers when Tab is pressed: names of runs and ids of episodes.

Nothing here loads the library: an answer has to come within 200 ms.
"""

from __future__ import annotations

import os
import re
from typing import Any

import typer

__all__ = ["complete_episode", "complete_run", "complete_run_or_episode"]

MOST = 50
# A shell runs what is between other characters: a name with them is typed by hand.
_HARMLESS = re.compile(r"[\w.@%+=,/-]+", re.ASCII)


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of runs that begin like this."""
    from jamboree_gym.store.quick_names import quick_run_names

    url = _url(ctx)
    return [] if url is None else _offered(quick_run_names(url, _namespace(ctx)), incomplete)


def complete_episode(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of episodes that begin like this, and `@last`."""
    from jamboree_gym.store.quick_names import quick_episode_ids

    if "@last".startswith(incomplete) and incomplete:
        return ["@last"]
    url = _url(ctx)
    if url is None:
        return []
    found = _offered(quick_episode_ids(url, _namespace(ctx), incomplete), incomplete)
    return found if incomplete else ["@last", *found]


def complete_run_or_episode(ctx: typer.Context, incomplete: str) -> list[str]:
    """Both, the runs first."""
    return [*complete_run(ctx, incomplete), *complete_episode(ctx, incomplete)]


def _offered(names: list[str], incomplete: str) -> list[str]:
    found = [name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name)]
    return found[:MOST]


def _namespace(ctx: typer.Context) -> str:
    return str(ctx.params.get("namespace") or "jamboree")


def _url(ctx: typer.Context) -> str | None:
    """Of the store that is meant, as far as the line says; None if its servers do not run."""
    params: dict[str, Any] = ctx.params
    url = params.get("redis_url") or os.environ.get("JAMBOREE_REDIS_URL")
    if url:
        return str(url)
    from jamboree_gym.errors import JamboreeError
    from jamboree_gym.servers.home import VALKEY_SOCKET, Home

    try:
        place = Home.at(params.get("home")).socket_dir / VALKEY_SOCKET
    except JamboreeError:
        return None
    return f"unix://{place}" if place.exists() else None
