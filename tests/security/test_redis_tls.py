"""Redis that demands TLS, and certificates of its clients: by URL; what each mistake is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import REDIS_PROGRAMS, Server, free_port, start_redis
from locked_servers import Certificates
from processes import NoteHandler

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidUrl, StoreUnavailable
from jamboree_gym.replay import verify

# Valkey and Redis 8 come without TLS in the packages that the tests install.
PROGRAM = REDIS_PROGRAMS["redis7"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made_in(tmp_path_factory.mktemp("certificates"))


StartTls = Callable[..., tuple[int, int]]


@pytest.fixture(scope="module")
def start_tls(short_directory: Path, certificates: Certificates) -> Iterator[StartTls]:
    """Starts a server once per kind; gives its port with TLS and the one without."""
    servers: dict[tuple[str, str], tuple[Server, tuple[int, int]]] = {}

    def start(certificate: str = "server", clients: str = "no") -> tuple[int, int]:
        kind = (certificate, clients)
        if kind not in servers:
            ports = free_port(), free_port()
            files = {
                "cert": f"{certificate}.pem",
                "key": f"{certificate}.key",
                "ca-cert": "ours.pem",
            }
            options = ["--tls-port", str(ports[0]), "--port", str(ports[1])]
            options += ["--bind", "127.0.0.1", "--tls-auth-clients", clients]
            for option, name in files.items():
                options += [f"--tls-{option}-file", certificates.path(name)]
            directory = short_directory / f"tls-{certificate}-{clients}"
            servers[kind] = start_redis(PROGRAM(), directory, *options), ports
        return servers[kind][1]

    yield start
    for server, _ in servers.values():
        server.stop()


def url(port: int, certificates: Certificates, *, authority: str = "ours", client: str = "") -> str:
    shown = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.in_url(f'{authority}.pem')}"
    for option, ending in (("ssl_certfile", "pem"), ("ssl_keyfile", "key")) if client else ():
        shown += f"&{option}={certificates.in_url(f'{client}.{ending}')}"
    return shown


def test_what_is_recorded_over_tls_is_read_and_verified_over_tls(
    start_tls: StartTls, certificates: Certificates, open_jamboree: Callable[..., Jamboree]
) -> None:
    jam = open_jamboree(url(start_tls()[0], certificates))
    env = jam.record(gym.make("CartPole-v1"))
    env.reset(seed=1)
    env.step(env.action_space.sample())
    env.close()

    assert jam.episode(env.episode_id).data().rewards.sum() == 1
    assert verify(jam.episode(env.episode_id))


def test_a_server_that_demands_certificates_takes_ours(
    start_tls: StartTls, certificates: Certificates, open_jamboree: Callable[..., Jamboree]
) -> None:
    port, _ = start_tls(clients="yes")
    handler = NoteHandler(open_jamboree(url(port, certificates, client="client")), "n")
    handler.save({"n": 1})
    assert handler.count() == 1


@pytest.mark.parametrize("client", ["", "stranger"])
def test_a_server_that_demands_certificates_refuses_who_has_no_good_one(
    start_tls: StartTls, certificates: Certificates, client: str
) -> None:
    port, _ = start_tls(clients="yes")
    with pytest.raises(StoreUnavailable, match=r"name it by ssl_certfile, ssl_keyfile"):
        Jamboree(url(port, certificates, client=client))


def test_a_server_of_another_authority_is_not_trusted(
    start_tls: StartTls, certificates: Certificates
) -> None:
    port, _ = start_tls()
    with pytest.raises(StoreUnavailable, match=rf"127.0.0.1:{port} .* signed .* by ssl_ca_certs"):
        Jamboree(url(port, certificates, authority="others"))
    with pytest.raises(StoreUnavailable, match=r"ssl_ca_certs"):
        Jamboree(f"rediss://127.0.0.1:{port}/0")  # our authority is not one that all trust


def test_a_certificate_for_another_host_is_not_trusted(
    start_tls: StartTls, certificates: Certificates
) -> None:
    port, _ = start_tls(certificate="elsewhere")
    with pytest.raises(StoreUnavailable, match=r"use a host name that .* certificate is for"):
        Jamboree(url(port, certificates))
    Jamboree(url(port, certificates) + "&ssl_check_hostname=false").close()  # who wants that
    Jamboree(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none").close()


def test_a_client_without_tls_is_told_to_use_it(start_tls: StartTls) -> None:
    port, _ = start_tls()
    with pytest.raises(StoreUnavailable, match=r"does it demand TLS\? then use rediss://"):
        Jamboree(f"redis://127.0.0.1:{port}/0")


def test_a_client_with_tls_is_told_where_there_is_none(
    start_tls: StartTls, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jamboree_gym.store.redis_client.ANSWER_TIMEOUT_S", 0.5)
    _, port = start_tls()
    with pytest.raises(StoreUnavailable, match=r"speak TLS there\? if not, use redis://"):
        Jamboree(url(port, certificates))


@pytest.mark.parametrize("file", ["nothing-there.pem", "server.key"])
def test_a_file_that_cannot_be_used_is_looked_for_in_the_options(
    start_tls: StartTls, certificates: Certificates, file: str
) -> None:
    port, _ = start_tls()
    with pytest.raises(StoreUnavailable, match=r"files named by ssl_ca_certs, ssl_certfile"):
        Jamboree(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.in_url(file)}")


@pytest.mark.parametrize(
    "options", ["ssl_ca_cert=x", "ssl_cert_reqs=perhaps", "ssl_check_hostname=maybe&ssl=1"]
)
def test_an_option_that_there_is_not_is_no_option(options: str) -> None:
    with pytest.raises(InvalidUrl, match=r"or an option; .* those of redis-py"):
        Jamboree(f"rediss://127.0.0.1:1/0?{options}")
    with pytest.raises(InvalidUrl, match=r"ssl_\.\.\. needs rediss://"):
        Jamboree("redis://127.0.0.1:1/0?ssl_ca_certs=ca.pem")


def test_a_lost_connection_is_not_blamed_on_tls(
    short_directory: Path, certificates: Certificates
) -> None:
    server = start_redis(PROGRAM(), short_directory / "lost")
    with Jamboree(server.url) as jam:
        server.stop()
        with pytest.raises(StoreUnavailable) as caught:
            list(jam.episodes())
    assert "TLS" not in str(caught.value)
