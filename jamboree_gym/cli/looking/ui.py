"""`ui`: the page in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from jamboree_gym.cli.commands import ModulesOption, StoreOptions, import_modules

__all__ = ["ui"]


def ui(
    store: StoreOptions,
    host: Annotated[
        str, typer.Option(help="Address to bind; others than this machine need the token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Its port; 0 = any free one.", show_default="7432"),
    ] = None,
    open: Annotated[
        bool, typer.Option("--open/--no-open", help="Whether to show it in a browser.")
    ] = True,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Flags can be set and deleted on the page.")
    ] = False,
    token: Annotated[
        bool, typer.Option("--token", help="The URL has a token also on this machine.")
    ] = False,
    modules: ModulesOption = None,
) -> None:
    """Show runs and episodes in a browser, live, until Ctrl-C.

    To simulate an episode, the page has to know its environment: --import names your module.

    Example: jamboree-gym ui --port 7432 --no-open
    """
    import_modules(modules)
    from jamboree_gym.jamboree import page_server

    with store.open() as jam:
        served = page_server(
            jam,
            host=host,
            port=port,
            allow_actions=allow_actions,
            needs_token=True if token else None,
        )
        typer.echo(served.url)
        typer.echo("Ctrl-C ends it", err=True)
        if open:
            served.open()
        served.run()
