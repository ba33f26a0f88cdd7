"""A cluster that demands TLS: by URL, and what a URL without it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from conftest import free_port
from locked_servers import Certificates, Ports, redis7_with_tls
from processes import NoteHandler, wait_until

from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreUnavailable

pytestmark = [pytest.mark.redis7, pytest.mark.once]  # the Valkey of the tests speaks no TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made_in(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def ports(short_directory: Path, certificates: Certificates) -> Iterator[Ports]:
    """A cluster of one server, which does not know its own address."""
    options = ("--cluster-enabled", "yes", "--tls-cluster", "yes")
    options += ("--cluster-port", str(free_port()))
    directory = short_directory / "tls-cluster"
    with redis7_with_tls(directory, certificates, "server", *options, demands=False) as found:
        with redis.Redis(port=found.plain) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        yield found


def test_a_cluster_is_reached_with_tls(
    ports: Ports, certificates: Certificates, open_jamboree: Callable[..., Jamboree]
) -> None:
    authority = certificates.in_url("ours.pem")
    jam = open_jamboree(f"rediss+cluster://127.0.0.1:{ports.tls}?ssl_ca_certs={authority}")
    handler = NoteHandler(jam, "n")
    handler.save({"n": 1})
    assert handler.count() == 1
    assert jam._connection.redis_store.address() == f"127.0.0.1:{ports.tls}"
    assert jam.redis.ping()


def test_an_authority_that_is_not_known_is_told(ports: Ports) -> None:
    with pytest.raises(StoreUnavailable, match=r"name the authority .* by ssl_ca_certs"):
        Jamboree(f"rediss+cluster://127.0.0.1:{ports.tls}")


def test_a_url_without_tls_is_told_the_one_with_it(ports: Ports) -> None:
    with pytest.raises(StoreUnavailable, match=r"demand TLS\? then use rediss\+cluster://"):
        Jamboree(f"redis+cluster://127.0.0.1:{ports.tls}")
