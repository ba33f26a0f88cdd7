"""MongoDB that demands TLS and a login by SCRAM: by URL; what each mistake is told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pytest
from conftest import Server
from locked_servers import LOGIN, Certificates, locked_mongo
from processes import NoteHandler, wait_until

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidUrl, StoreUnavailable
from jamboree_gym.store.mongo import client

pytestmark = pytest.mark.timeout(300)  # a busy machine takes its time

OpenJamboree = Callable[..., Jamboree]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made_in(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_mongo(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    options = ["--tls-cert-file", certificates.path("server.pem")]
    options += ["--tls-key-file", certificates.path("server.key")]
    server = locked_mongo(tmp_path_factory, *options)
    yield server
    server.kill()


def url(server: Server, certificates: Certificates | None, login: str = LOGIN) -> str:
    found = server.url.replace("://", f"://{login}") + "/"
    if certificates is None:
        return found
    return f"{found}?tls=true&tlsCAFile={certificates.in_url('ours.pem')}"


def refusal(open_jamboree: OpenJamboree, mongo_url: str) -> str:
    """What a backup to there says, which never holds the password."""
    jam = open_jamboree(mongo_url=mongo_url)
    NoteHandler(jam, "n").save({"n": 1})
    with pytest.raises(StoreUnavailable) as caught:
        jam.backup.flush()
    assert "C4NARY" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def expect_refusal(open_jamboree: OpenJamboree, mongo_url: str, advice: str) -> None:
    """It is told, to one who waits twice as long each time: a busy machine may need seconds."""
    timeouts_s = chain([0.2, 0.4, 0.8, 1.6, 3.2], repeat(6.4))

    def is_told() -> bool:
        timeout_s = next(timeouts_s)
        patch.setattr(client, "CONNECT_TIMEOUT_S", timeout_s)
        patch.setattr(client, "ONE_TRY_TIMEOUT_S", 0.75 * timeout_s)
        return refusal(open_jamboree, mongo_url).endswith(advice)

    with pytest.MonkeyPatch.context() as patch:
        wait_until(is_told)


def test_a_backup_goes_over_tls_with_a_login(
    tls_mongo: Server, certificates: Certificates, open_jamboree: OpenJamboree
) -> None:
    for options in ("", "&authMechanism=SCRAM-SHA-256"):
        jam = open_jamboree(mongo_url=url(tls_mongo, certificates) + options)
        notes = NoteHandler(jam, f"n{options}")
        notes.save({"n": 1})
        assert jam.backup.flush() == 1
        assert jam.backup.verify()


@pytest.mark.parametrize("login", ["ann:C4NARY@", "bob:C4NARY@", ""])
def test_a_wrong_login_is_refused(
    tls_mongo: Server, certificates: Certificates, open_jamboree: OpenJamboree, login: str
) -> None:
    told = refusal(open_jamboree, url(tls_mongo, certificates, login))
    assert told.endswith("check user and password in mongo_url")


def test_a_server_of_another_authority_is_not_trusted(
    tls_mongo: Server, certificates: Certificates, open_jamboree: OpenJamboree
) -> None:
    of_others = url(tls_mongo, certificates).replace("ours.pem", "others.pem")
    advice = "name the authority that signed the server's certificate by tlsCAFile"
    expect_refusal(open_jamboree, of_others, advice)


def test_a_client_without_tls_is_told_to_use_it(
    tls_mongo: Server, open_jamboree: OpenJamboree
) -> None:
    expect_refusal(open_jamboree, url(tls_mongo, None), "does it demand TLS? then use tls=true")


def test_a_client_with_tls_is_told_where_there_is_none(
    mongo: Server, certificates: Certificates, open_jamboree: OpenJamboree
) -> None:
    advice = "does it speak TLS there? if not, use tls=false"
    expect_refusal(open_jamboree, url(mongo, certificates), advice)


def test_a_server_that_demands_certificates_takes_ours_and_no_other(
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
    open_jamboree: OpenJamboree,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--tls-cert-file", certificates.path("elsewhere.pem")]
    options += ["--tls-key-file", certificates.path("elsewhere.key"), "--tls-require-client-cert"]
    options += ["--tls-ca-file", certificates.path("ours.pem")]
    server = locked_mongo(tmp_path_factory, *options)
    try:
        there = url(server, certificates)
        advice = "host name that the server's certificate is for"
        expect_refusal(open_jamboree, there, advice)
        there += "&tlsAllowInvalidHostnames=true"
        expect_refusal(open_jamboree, there, "name it by tlsCertificateKeyFile")
        there += f"&tlsCertificateKeyFile={certificates.in_url('client.both')}"
        monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 60.0)  # of a machine that is very busy
        monkeypatch.setattr(client, "ONE_TRY_TIMEOUT_S", 45.0)
        with open_jamboree(mongo_url=there) as jam:  # it closes while the server is there
            assert jam.backup.flush() > 0
    finally:
        server.kill()


@pytest.mark.parametrize("file", ["nothing-there.pem", "server.key"])
def test_a_file_that_cannot_be_used_is_looked_for_in_the_options(
    mongo: Server, certificates: Certificates, open_jamboree: OpenJamboree, file: str
) -> None:
    there = url(mongo, certificates).replace("ours.pem", file)
    with pytest.raises(InvalidUrl, match=r"files named by tlsCAFile, tlsCertificateKeyFile"):
        open_jamboree(mongo_url=there).backup.flush()
