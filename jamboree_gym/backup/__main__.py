"""Runs the backup as its own process: `python -m jamboree_gym.backup --follow`."""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from jamboree_gym.backup.backup import Backup
from jamboree_gym.backup.follow import DEFAULT_INTERVAL_S, Follower
from jamboree_gym.backup.waiting import StopSignal
from jamboree_gym.connection import Connection
from jamboree_gym.errors import JamboreeError

__all__ = ["main"]

EXIT_CTRL_C = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy once, or with `--follow` until a stop signal comes; return the exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = StopSignal()
    try:
        with ExitStack() as stack:
            if options.follow:
                for number in (signal.SIGTERM, signal.SIGINT):
                    before = signal.signal(number, lambda *_: stop.set())
                    stack.callback(signal.signal, number, before or signal.SIG_DFL)
            connections = [
                stack.enter_context(
                    Connection(
                        options.redis_url,
                        options.backup_url,
                        home=options.home,
                        namespace=namespace,
                        backup=False,
                    )
                )
                for namespace in options.namespace or ["jamboree"]
            ]
            if options.follow:
                stack.callback(stop.close)
                _follow(connections, stop, interval_s=options.interval_s)
            else:
                for connection in connections:
                    copied = Backup(connection).flush()
                    print(f"{connection.keyspace.namespace}: {copied} records copied")
    except JamboreeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # the next copy continues
        return EXIT_CTRL_C
    return 0


def _follow(connections: Sequence[Connection], stop: StopSignal, *, interval_s: float) -> None:
    names = ", ".join(connection.keyspace.namespace for connection in connections)
    logging.info("backing up %s from Redis at %s", names, connections[0].store.where)
    threads = [
        threading.Thread(target=_follower(connection, interval_s).run, args=(stop,))
        for connection in connections
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _follower(connection: Connection, interval_s: float) -> Follower:
    return Follower(
        connection.redis_store,
        lambda: connection.backup_store,
        to=connection.backed_up_to,
        is_new=True,
        interval_s=interval_s,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jamboree_gym.backup",
        description="Copy what Redis holds to the backup: MongoDB, or a folder.",
        epilog="Example: python -m jamboree_gym.backup --follow --redis-url redis://localhost "
        "--backup-url mongodb://localhost",
    )
    parser.add_argument("--follow", action="store_true", help="go on until SIGTERM or Ctrl-C")
    parser.add_argument(
        "--interval-s",
        type=_seconds,
        default=DEFAULT_INTERVAL_S,
        help="with --follow: copy what has waited so long, in seconds (default: %(default)s)",
    )
    parser.add_argument("--namespace", action="append", help="of a project; may be repeated")
    parser.add_argument("--redis-url", help="else JAMBOREE_REDIS_URL, else the embedded server")
    parser.add_argument(
        "--backup-url",
        "--mongo-url",
        help="mongodb://... or file:///folder; else JAMBOREE_BACKUP_URL, else the embedded backup",
    )
    parser.add_argument("--home", help="directory of the embedded servers")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError("choose 0 or more")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
