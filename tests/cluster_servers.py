"""A cluster of three primaries with a replica each: real processes that a test starts and kills."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from conftest import Server, free_port, redis_answers, valkey_program
from processes import wait_until

PASSWORD = "C4NARY@:/#%?B1RD"
NEVER_MS = 600_000
SLOTS = 16384


class Cluster:
    """A cluster. All its servers have a password, which is one that would be noticed anywhere.

    Args:
        directory: Where their files go.
        primaries: How many.
        replicas: How many each of these has.
        node_timeout_ms: So long a primary may be silent; without it there is no failover, however
            busy the machine is.
        program: The server.
        password: Of all servers; empty: they have none.
        options: Further ones of the command line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        node_timeout_ms: int = NEVER_MS,
        program: str = "",
        password: str = PASSWORD,
        options: Sequence[str] = (),
    ) -> None:
        self._options = options
        self._directory = directory
        self._timeout_ms = node_timeout_ms
        self._program = program or valkey_program()
        self._password = password
        self.servers: dict[str, Server] = {}
        addresses = [self._start() for _ in range(primaries * (1 + replicas))]
        self.first = addresses[:primaries]
        for at, address in enumerate(addresses):
            self.tell(address, "SET-CONFIG-EPOCH", at + 1)
        for at, address in enumerate(self.first):
            begin, end = SLOTS * at // primaries, SLOTS * (at + 1) // primaries - 1
            self.tell(address, "ADDSLOTSRANGE", begin, end)
        for at, address in enumerate(addresses):
            for other in addresses[:at]:
                self._introduce(address, other)
        wait_until(lambda: all(self._knows(one, addresses) for one in addresses))
        for at, address in enumerate(addresses[primaries:]):
            primary = self.first[at % primaries]
            self.tell(address, "REPLICATE", self.id_of(primary))
        wait_until(self.is_well)

    def _start(self) -> str:
        port = free_port()
        directory = self._directory / str(port)
        directory.mkdir(parents=True)
        command = [self._program, "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--dir", str(directory), "--save", "", "--appendonly", "yes"]
        command += ["--repl-diskless-sync-delay", "0", "--requirepass", self._password]
        command += ["--masterauth", self._password, "--cluster-enabled", "yes"]
        command += ["--cluster-port", str(free_port())]
        command += ["--cluster-node-timeout", str(self._timeout_ms)]
        command += ["--cluster-replica-validity-factor", "0", *self._options]
        address = f"127.0.0.1:{port}"
        self.servers[address] = Server(self._admin_url(address), command, redis_answers).start()
        return address

    def _introduce(self, address: str, other: str) -> None:
        host, port = other.split(":")
        command = self.servers[other].command
        bus = command[command.index("--cluster-port") + 1]
        self.tell(address, "MEET", host, port, bus)

    def _knows(self, address: str, addresses: Sequence[str]) -> bool:
        nodes = self.nodes(address)
        known = {one["address"] for one in nodes if "handshake" not in one["flags"]}
        slots = sum(len(one["slots"]) for one in nodes)
        return known == set(addresses) and slots == len(self.first)

    def _admin_url(self, address: str) -> str:
        return f"redis://{self._login()}{address}"

    def _login(self, password: str | None = None) -> str:
        password = self._password if password is None else password
        return f":{quote(password, safe='')}@" if password else ""

    # -- what a client is told ------------------------------------------------------------------

    def url(self, *hosts: str, password: str | None = None, options: str = "") -> str:
        """By which a Jamboree opens it; by other servers than the first if some are given."""
        where = ",".join(hosts or self.first)
        more = f"/?{options}" if options else ""
        return f"redis+cluster://{self._login(password)}{where}{more}"

    # -- who is what ----------------------------------------------------------------------------

    @contextmanager
    def admin(self, address: str) -> Iterator[redis.Redis]:
        """A client of one server."""
        with redis.Redis.from_url(self._admin_url(address)) as client:
            yield client

    def tell(self, address: str, *words: object) -> Any:
        """Have one server execute `CLUSTER ...`."""
        with self.admin(address) as client:
            # In one word redis-py would read some answers by itself.
            return client.execute_command("CLUSTER", *words)

    def nodes(self, address: str) -> list[dict[str, Any]]:
        """What one server knows of all: `id`, `address`, `flags`, `primary`, `slots`."""
        found = []
        for line in self.tell(address, "NODES").decode().splitlines():
            id, where, flags, primary, _, _, _, link, *slots = line.split()
            found.append(
                {
                    "id": id,
                    "address": where.partition("@")[0],
                    "flags": flags.split(","),
                    "primary": primary,
                    "link": link,
                    "slots": slots,
                }
            )
        return found

    def id_of(self, address: str) -> str:
        """The id of a server."""
        return str(self.tell(address, "MYID").decode())

    def owner_of(self, slot: int) -> str:
        """The primary that has a slot, as the first living server says."""
        for begin, end, (host, port, *_), *_ in self.tell(self.living(), "SLOTS"):
            if begin <= slot <= end:
                return f"{host.decode()}:{port}"
        raise LookupError(slot)

    def primaries(self) -> list[str]:
        """All servers that have slots, as the first living server says."""
        found = [
            f"{host.decode()}:{port}"
            for _, _, (host, port, *_), *_ in self.tell(self.living(), "SLOTS")
        ]
        return list(dict.fromkeys(found))

    def living(self) -> str:
        """A server that runs."""
        return next(one for one, server in self.servers.items() if server.process.poll() is None)

    def replica_of(self, primary: str) -> str:
        """A replica of a primary."""
        id, nodes = self.id_of(primary), self.nodes(primary)
        return next(str(one["address"]) for one in nodes if one["primary"] == id)

    def is_primary(self, address: str) -> bool:
        """Whether a server takes itself for a primary."""
        with self.admin(address) as client:
            told: Any = client.info("replication")
            return bool(told["role"] == "master")

    def is_well(self) -> bool:
        """Whether all servers run, all serve, and every replica follows its primary."""
        return all(self._serves(one) and self._follows(one) for one in self.servers)

    def _serves(self, address: str) -> bool:
        with suppress(redis.RedisError):
            return b"cluster_state:ok" in self.tell(address, "INFO")
        return False

    def _follows(self, address: str) -> bool:
        with suppress(redis.RedisError), self.admin(address) as client:
            told: Any = client.info("replication")
            replicas = len(self.servers) // len(self.first) - 1
            if told["role"] == "master":
                return int(told["connected_slaves"]) == replicas
            return bool(told["master_link_status"] == "up")
        return False

    # -- what happens to it ---------------------------------------------------------------------

    def wait_for_replicas(self) -> None:
        """Return once every replica has all that its primary has."""
        wait_until(self.is_well)
        for primary in self.primaries():
            with self.admin(primary) as client:
                told: Any = client.info("replication")
                offset = told["master_repl_offset"]

                def has_all(client: redis.Redis = client, offset: int = offset) -> bool:
                    told: Any = client.info("replication")
                    return int(told["slave0"]["offset"]) >= offset

                wait_until(has_all)

    def fail_over(self, primary: str) -> str:
        """Have its replica take the place of a primary that is well; which one that is."""
        replica = self.replica_of(primary)
        self.tell(replica, "FAILOVER")
        wait_until(lambda: replica in self.primaries())
        return replica

    def move_slot(self, slot: int, to: str) -> None:
        """Move a slot key by key, as `redis-cli --cluster reshard` does."""
        self.begin_to_move(slot, to)
        while self.move_keys(slot, to, most=10):
            pass
        self.end_move(slot, to)

    def begin_to_move(self, slot: int, to: str) -> None:
        """From now on, some keys of a slot may be there already."""
        source = self.owner_of(slot)
        self.tell(to, "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.tell(source, "SETSLOT", slot, "MIGRATING", self.id_of(to))

    def move_keys(self, slot: int, to: str, *, most: int) -> int:
        """Move some keys of a slot; returns how many."""
        source, (host, port) = self.owner_of(slot), to.split(":")
        keys = self.tell(source, "GETKEYSINSLOT", slot, most)
        if keys:
            command = ("MIGRATE", host, port, "", 0, 5000, "AUTH", self._password, "KEYS", *keys)
            with self.admin(source) as client:
                client.execute_command(*command)
        return len(keys)

    def open_slots(self, address: str) -> list[str]:
        """Slots that begin to move to or from a server, as `CLUSTER NODES` shows them."""
        shown = [slot for one in self.nodes(address) for slot in one["slots"]]
        return [slot for slot in shown if slot.startswith("[")]

    def end_move(self, slot: int, to: str) -> None:
        """All keys of a slot have moved."""
        for address in dict.fromkeys([to, self.owner_of(slot), *self.primaries()]):
            self.tell(address, "SETSLOT", slot, "NODE", self.id_of(to))

    def stop(self) -> None:
        """Stop all that runs."""
        for one in self.servers.values():
            one.kill()
