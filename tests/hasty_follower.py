"""A backup process that gives up sooner on a MongoDB that is away, and soon tries again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from warm import start_warm

from jamboree_gym import Jamboree

FOLLOW = """
import sys
from jamboree_gym.backup import follow
from jamboree_gym.backup.__main__ import main
from jamboree_gym.store.mongo import client as mongo_client

mongo_client.CONNECT_TIMEOUT_S = 1.0
follow.BACKOFF_S = (0.25,)
sys.exit(main())
"""


@contextmanager
def hasty_follower(jam: Jamboree) -> Iterator[subprocess.Popen[str]]:
    """`python -m jamboree_gym.backup --follow` for a Jamboree's namespace."""
    urls = (
        "--redis-url",
        jam._connection.redis_url,
        "--mongo-url",
        jam._connection.backup_url,
        "--interval-s",
        "0.1",
    )
    process = start_warm(
        FOLLOW, "--follow", *urls, "--namespace", jam._connection.keyspace.namespace
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
