"""All checks, in an order in which each stands on those before it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from jamboree_gym.connection import Connection
from jamboree_gym.diagnosis.copies import check_backup, check_backup_store, check_journals
from jamboree_gym.diagnosis.embedded_servers import check_servers, running_redis
from jamboree_gym.diagnosis.finding import Finding, note, problem
from jamboree_gym.diagnosis.home_folder import check_home
from jamboree_gym.diagnosis.packages import check_packages
from jamboree_gym.diagnosis.redis_server import check_redis
from jamboree_gym.errors import JamboreeError, UnsupportedServer
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.wording import one_line

__all__ = ["diagnose"]


def diagnose(
    redis_url: str | None = None,
    backup_url: str | None = None,
    *,
    home: Path | None = None,
    namespace: str = "jamboree",
    clock: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Look for what is wrong with a set-up. Starts no server, and changes nothing.

    Args:
        redis_url: As for `Jamboree`.
        backup_url: As `Jamboree(backup=...)`.
        home: As for `Jamboree`.
        namespace: As for `Jamboree`.
        clock: This machine's, epoch seconds.

    Returns:
        What was found, check by check, as it is found.
    """
    redis_url = redis_url or os.environ.get("JAMBOREE_REDIS_URL")
    for variable in ("JAMBOREE_BACKUP_URL", "JAMBOREE_MONGO_URL"):
        backup_url = backup_url or os.environ.get(variable)
    yield from check_packages()
    yield from check_home(home, is_embedded=redis_url is None)
    if redis_url is None:
        yield from check_servers(home)
    if backup_url is not None:
        yield check_backup_store(backup_url, namespace)
    url = redis_url or running_redis(home)
    if url is None:
        yield note("redis", "not asked: the embedded servers do not run", "jamboree-gym up")
        return
    is_written = False
    try:
        with closing(RedisStore.from_url(url, Keyspace(namespace))) as store:
            yield from check_redis(store, clock)
            is_older, buckets = store.buckets.look()
            is_written = buckets is not None and not is_older
    except UnsupportedServer as error:
        yield problem("redis", one_line(str(error)), "name another server: --redis-url")
    except JamboreeError as error:
        yield problem("redis", one_line(str(error)), "start it, or mend --redis-url")
    if is_written:
        yield from _copies(redis_url, backup_url, home, namespace)


def _copies(
    redis_url: str | None, backup_url: str | None, home: Path | None, namespace: str
) -> Iterator[Finding]:
    try:
        connection = Connection(redis_url, backup_url, home=home, namespace=namespace, backup=False)
    except JamboreeError as error:
        yield problem("store", one_line(str(error)), "mend what is said above")
        return
    with closing(connection):
        yield from check_journals(connection)
        yield check_backup(connection)
