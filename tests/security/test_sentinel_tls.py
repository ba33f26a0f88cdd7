"""Sentinels and a primary that demand TLS: by URL, and what a URL without it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from conftest import REDIS_PROGRAMS, Server, free_port
from locked_servers import Certificates, Ports, redis7_with_tls
from processes import NoteHandler

from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreUnavailable

pytestmark = pytest.mark.redis7  # the Valkey of the tests speaks no TLS, nor can its Sentinel

SERVICE = "trainings"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made_in(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def sentinel(short_directory: Path, certificates: Certificates) -> Iterator[Ports]:
    """A Sentinel, whose primary it names by the port with TLS."""
    ports = Ports(free_port(), free_port())
    directory = short_directory / "tls-sentinel"
    directory.mkdir()
    with redis7_with_tls(
        short_directory / "tls-primary", certificates, "server", demands=False
    ) as primary:
        file = directory / "sentinel.conf"
        lines = [
            f"port {ports.plain}",
            f"tls-port {ports.tls}",
            "bind 127.0.0.1",
            f"dir {directory}",
            "tls-replication yes",
            "tls-auth-clients no",
            f"tls-cert-file {certificates.path('server.pem')}",
            f"tls-key-file {certificates.path('server.key')}",
            f"tls-ca-cert-file {certificates.path('ours.pem')}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.tls} 1",
            f"sentinel down-after-milliseconds {SERVICE} 600000",
        ]
        file.write_text("\n".join(lines))
        url = f"redis://127.0.0.1:{ports.plain}"
        command = [REDIS_PROGRAMS["redis7"](), str(file), "--sentinel"]
        server = Server(url, command, watches).start()
        yield ports
        server.kill()


def watches(url: str) -> bool:
    """Whether a Sentinel answers, and reaches its primary."""
    try:
        with closing(redis.Redis.from_url(url)) as client:
            return not client.sentinel_masters()[SERVICE]["is_disconnected"]
    except redis.RedisError:
        return False


def url(port: int, certificates: Certificates, more: str = "") -> str:
    authority = certificates.in_url("ours.pem")
    return f"rediss+sentinel://127.0.0.1:{port}/{SERVICE}?ssl_ca_certs={authority}{more}"


@pytest.mark.parametrize("has_tls", [True, False], ids=["both", "redis alone"])
def test_tls_is_for_both_or_for_redis_alone(
    sentinel: Ports,
    certificates: Certificates,
    open_jamboree: Callable[..., Jamboree],
    has_tls: bool,
) -> None:
    both, alone = url(sentinel.tls, certificates), url(sentinel.plain, certificates)
    jam = open_jamboree(both if has_tls else f"{alone}&sentinel_ssl=false")
    handler = NoteHandler(jam, "n")
    handler.save({"n": 1})
    assert handler.count() == 1


def test_a_url_without_tls_is_told_the_one_with_it(sentinel: Ports) -> None:
    with pytest.raises(StoreUnavailable, match=r"demand TLS\? then use rediss\+sentinel://"):
        Jamboree(f"redis+sentinel://127.0.0.1:{sentinel.tls}/{SERVICE}")
