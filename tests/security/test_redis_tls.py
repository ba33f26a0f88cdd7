"""Redis that demands TLS, and certificates of its clients: by URL; what each mistake is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import Server
from locked_servers import TLS_SERVERS, Certificates, Ports
from processes import NoteHandler

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidUrl, StoreUnavailable
from jamboree_gym.replay import verify


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made_in(tmp_path_factory.mktemp("certificates"))


StartTls = Callable[..., Ports]


# Of the servers that come with the tests none speaks TLS, so Valkey is behind a front that does.
@pytest.fixture(scope="module", params=sorted(TLS_SERVERS))
def start_tls(
    request: pytest.FixtureRequest, short_directory: Path, certificates: Certificates
) -> Iterator[StartTls]:
    """Starts a server once for each certificate that it shows and for whether it demands one."""
    with ExitStack() as stack:

        @cache
        def start(certificate: str = "server", demands: bool = False) -> Ports:
            directory = short_directory / f"tls-{request.param}-{certificate}-{demands}"
            serve = TLS_SERVERS[request.param]
            return stack.enter_context(serve(directory, certificates, certificate, demands=demands))

        yield start


def url(port: int, certificates: Certificates, *, authority: str = "ours", client: str = "") -> str:
    shown = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.in_url(f'{authority}.pem')}"
    for option, ending in (("ssl_certfile", "pem"), ("ssl_keyfile", "key")) if client else ():
        shown += f"&{option}={certificates.in_url(f'{client}.{ending}')}"
    return shown


def test_what_is_recorded_over_tls_is_read_and_verified_over_tls(
    start_tls: StartTls, certificates: Certificates, open_jamboree: Callable[..., Jamboree]
) -> None:
    jam = open_jamboree(url(start_tls().tls, certificates))
    env = jam.record(gym.make("CartPole-v1"))
    env.reset(seed=1)
    env.step(env.action_space.sample())
    env.close()

    assert jam.episode(env.episode_id).data().rewards.sum() == 1
    assert verify(jam.episode(env.episode_id))


def test_a_server_that_demands_certificates_takes_ours(
    start_tls: StartTls, certificates: Certificates, open_jamboree: Callable[..., Jamboree]
) -> None:
    port = start_tls(demands=True).tls
    handler = NoteHandler(open_jamboree(url(port, certificates, client="client")), "n")
    handler.save({"n": 1})
    assert handler.count() == 1


@pytest.mark.parametrize("client", ["", "stranger"])
def test_a_server_that_demands_certificates_refuses_who_has_no_good_one(
    start_tls: StartTls, certificates: Certificates, client: str
) -> None:
    port = start_tls(demands=True).tls
    with pytest.raises(StoreUnavailable, match=r"name it by ssl_certfile, ssl_keyfile"):
        Jamboree(url(port, certificates, client=client))


def test_a_server_of_another_authority_is_not_trusted(
    start_tls: StartTls, certificates: Certificates
) -> None:
    port = start_tls().tls
    with pytest.raises(StoreUnavailable, match=rf"127.0.0.1:{port} .* signed .* by ssl_ca_certs"):
        Jamboree(url(port, certificates, authority="others"))
    with pytest.raises(StoreUnavailable, match=r"ssl_ca_certs"):
        Jamboree(f"rediss://127.0.0.1:{port}/0")  # our authority is not one that all trust


def test_a_certificate_for_another_host_is_not_trusted(
    start_tls: StartTls, certificates: Certificates
) -> None:
    port = start_tls(certificate="elsewhere").tls
    with pytest.raises(StoreUnavailable, match=r"use a host name that .* certificate is for"):
        Jamboree(url(port, certificates))
    Jamboree(url(port, certificates) + "&ssl_check_hostname=false").close()  # who wants that
    Jamboree(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none").close()


def test_a_client_without_tls_is_told_to_use_it(start_tls: StartTls) -> None:
    port = start_tls().tls
    with pytest.raises(StoreUnavailable, match=r"does it demand TLS\? then use rediss://"):
        Jamboree(f"redis://127.0.0.1:{port}/0")


def test_a_client_with_tls_is_told_where_there_is_none(
    start_tls: StartTls, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jamboree_gym.store.redis.opening.options.ANSWER_TIMEOUT_S", 0.5)
    port = start_tls().plain
    with pytest.raises(StoreUnavailable, match=r"speak TLS there\? if not, use redis://"):
        Jamboree(url(port, certificates))


@pytest.mark.parametrize("file", ["nothing-there.pem", "server.key"])
def test_a_file_that_cannot_be_used_is_looked_for_in_the_options(
    start_tls: StartTls, certificates: Certificates, file: str
) -> None:
    port = start_tls().tls
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


def test_a_lost_connection_is_not_blamed_on_tls(own_valkey: Server) -> None:
    with Jamboree(own_valkey.url) as jam:
        own_valkey.stop()
        with pytest.raises(StoreUnavailable) as caught:
            list(jam.episodes())
    assert "TLS" not in str(caught.value)
