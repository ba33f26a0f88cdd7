"""A primary, its replicas and their Sentinels: real processes that a test starts and kills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from conftest import Server, free_port, redis_answers, valkey_program
from processes import wait_until

SERVICE = "trainings"
PASSWORD = "C4NARY@:/#%?B1RD"
USER = "observer"  # of the Sentinels, with the rights that docs/past-one-machine.md gives it
SENTINEL_RIGHTS = "resetchannels -@all +sentinel|masters"
NEVER_MS = 600_000


class Watched:
    """A service: its first primary, its replicas, and Sentinels that watch it.

    All have a password, which is one that would be noticed anywhere.

    Args:
        directory: Where their files go.
        replicas: How many.
        sentinels: How many; most of them have to agree.
        down_after_ms: So long a primary may be silent; without it no Sentinel does a failover by
            itself, however busy the machine is.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 1,
        sentinels: int = 1,
        down_after_ms: int = NEVER_MS,
    ) -> None:
        self._directory = directory
        self._down_after_ms = down_after_ms
        self.servers: dict[str, Server] = {}
        self.sentinels: list[Server] = []
        first = self._start_redis()
        for _ in range(replicas):
            self._start_redis("--replicaof", *first.split(":"))
        wait_until(self.replicas_are_up)
        for _ in range(sentinels):
            self._start_sentinel(first, quorum=sentinels // 2 + 1)
        wait_until(lambda: all(self._knows(one, replicas, sentinels) for one in self.sentinels))

    def _start_redis(self, *options: str) -> str:
        port = free_port()
        directory = self._directory / str(port)
        directory.mkdir(parents=True)
        command = [valkey_program(), "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--dir", str(directory), "--save", "", "--appendonly", "yes"]
        command += ["--repl-diskless-sync-delay", "0", "--requirepass", PASSWORD]
        command += ["--masterauth", PASSWORD, *options]
        address = f"127.0.0.1:{port}"
        server = Server(self._admin_url(address), command, redis_answers)
        self.servers[address] = server.start()
        return address

    def _start_sentinel(self, primary: str, *, quorum: int) -> None:
        port = free_port()
        directory = self._directory / str(port)
        directory.mkdir(parents=True)
        file = directory / "sentinel.conf"
        host, of_primary = primary.split(":")
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f'requirepass "{PASSWORD}"',
            f'sentinel sentinel-pass "{PASSWORD}"',
            f'user {USER} on ">{PASSWORD}" {SENTINEL_RIGHTS}',
            f"sentinel monitor {SERVICE} {host} {of_primary} {quorum}",
            f'sentinel auth-pass {SERVICE} "{PASSWORD}"',
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        file.write_text("\n".join(lines))
        command = [valkey_program(), str(file), "--sentinel"]
        server = Server(self._admin_url(f"127.0.0.1:{port}"), command, redis_answers)
        self.sentinels.append(server.start())

    def _knows(self, sentinel: Server, replicas: int, sentinels: int) -> bool:
        state = self._state(sentinel)
        others = int(state["num-other-sentinels"])
        return int(state["num-slaves"]) == replicas and others == sentinels - 1

    def _state(self, sentinel: Server) -> dict[str, Any]:
        with redis.Redis.from_url(sentinel.url) as client:
            return dict(client.sentinel_masters()[SERVICE])

    @staticmethod
    def _admin_url(address: str) -> str:
        return f"redis://:{quote(PASSWORD, safe='')}@{address}"

    # -- what a client is told ------------------------------------------------------------------

    @property
    def hosts(self) -> list[str]:
        """Host and port of each Sentinel."""
        return [one.url.rpartition("@")[2] for one in self.sentinels]

    def url(
        self, *hosts: str, service: str = SERVICE, password: str = PASSWORD, options: str = ""
    ) -> str:
        """By which a Jamboree opens it; by other Sentinels than all if some are given."""
        shown = quote(password, safe="")
        login = f"sentinel_username={USER}&sentinel_password={quote(PASSWORD, safe='')}"
        where = ",".join(hosts or self.hosts)
        return f"redis+sentinel://:{shown}@{where}/{service}/0?{options or login}"

    # -- who is what ----------------------------------------------------------------------------

    @contextmanager
    def admin(self, address: str) -> Iterator[redis.Redis]:
        """A client of one server."""
        with redis.Redis.from_url(self._admin_url(address)) as client:
            yield client

    def primary(self) -> str:
        """Host and port of the primary, as the first Sentinel knows it."""
        state = self._state(self.sentinels[0])
        return f"{state['ip']}:{state['port']}"

    def watch(self, primary: str) -> None:
        """Tell the one Sentinel that another server is the primary now."""
        host, port = primary.split(":")
        with redis.Redis.from_url(self.sentinels[0].url) as sentinel:
            sentinel.sentinel_remove(SERVICE)
            sentinel.sentinel_monitor(SERVICE, host, int(port), 1)
            sentinel.sentinel_set(SERVICE, "auth-pass", PASSWORD)
            sentinel.sentinel_set(SERVICE, "down-after-milliseconds", self._down_after_ms)

    def tell_to_fail_over(self) -> None:
        """Have a replica promoted, though the primary is well; it ends its connections."""
        with redis.Redis.from_url(self.sentinels[0].url) as sentinel:
            sentinel.sentinel_failover(SERVICE)

    def is_replica(self, address: str) -> bool:
        """Whether a server says that it is one."""
        with suppress(redis.RedisError), self.admin(address) as client:
            told: Any = client.info("replication")
            return bool(told["role"] == "slave")
        return False

    def _is_up(self, address: str) -> bool:
        with suppress(redis.RedisError), self.admin(address) as client:
            told: Any = client.info("replication")
            return told["role"] == "slave" and told["master_link_status"] == "up"
        return False

    def replicas_are_up(self) -> bool:
        """Whether all servers but one follow that one."""
        return sum(map(self._is_up, self.servers)) == len(self.servers) - 1

    def wait_for_replicas(self) -> None:
        """Return once a replica has all that the primary has."""
        with self.admin(self.primary()) as client:
            offset = client.info("replication")["master_repl_offset"]

            def has_all() -> bool:
                told: Any = client.info("replication")
                return any(
                    int(one["offset"]) >= offset
                    for name, one in told.items()
                    if name.startswith("slave") and isinstance(one, dict)
                )

            wait_until(has_all)

    def stop(self) -> None:
        """Stop all that runs."""
        for one in (*self.sentinels, *self.servers.values()):
            one.kill()
