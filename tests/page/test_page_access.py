"""Who may ask: host names, origins, the token, and the headers of each answer."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Server
from served_page import Asker

import jamboree_gym.page
from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.page.access import AccessRules, is_loopback
from jamboree_gym.page.app import VIEWS
from jamboree_gym.page.serving import PageServer

STATIC = Path(jamboree_gym.page.__file__).parent / "static"


@pytest.fixture(scope="module")
def jam(valkey: Server) -> Iterator[Jamboree]:
    """An empty store; nobody writes to it."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    with Jamboree(valkey.url, namespace=namespace, backup=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def ask(jam: Jamboree) -> Iterator[Asker]:
    with PageServer(jam, port=0, allow_actions=True).start() as page:
        yield Asker(page)


@pytest.fixture(scope="module")
def ask_with_token(jam: Jamboree) -> Iterator[Asker]:
    with PageServer(jam, port=0, needs_token=True).start() as page:
        yield Asker(page)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7432", "127.0.0.1.evil.example", "10.0.0.1", ""]
)
def test_a_name_that_points_here_is_refused(ask: Asker, host: str) -> None:
    assert ask("/api/runs", headers={"Host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:7432"])
def test_the_names_of_this_machine_are_taken(ask: Asker, host: str) -> None:
    assert ask("/api/runs", headers={"Host": host}).status == 200


def test_what_another_site_asks_for_is_refused(ask: Asker) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ):
        assert ask("/api/runs", headers=headers).status == 403, headers
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask("/", headers=link).status == 200


def test_an_action_needs_the_origin_of_the_page(ask: Asker) -> None:
    body = b'{"note": "x"}'
    assert ask("/api/flags", {"id": "f" * 32}, method="POST", body=body).status == 403
    other = {"Origin": "http://127.0.0.1:1"}
    assert (
        ask("/api/flags", {"id": "f" * 32}, method="POST", body=body, headers=other).status == 403
    )
    assert ask.post("/api/flags", {"id": "f" * 32}, {"note": "x"}).status == 404


def test_without_the_token_nothing_is_shown(ask_with_token: Asker) -> None:
    for path in ("/", "/api/runs", "/static/app.js", "/api/changes?of=runs", "/?token=wrong"):
        assert ask_with_token(path).status == 403, path


def test_the_token_goes_from_the_url_into_a_cookie(ask_with_token: Asker) -> None:
    url = urlsplit(ask_with_token.page.url)
    token = parse_qs(url.query)["token"][0]
    assert len(token) >= 32
    first = ask_with_token("/run", {"token": token, "run": "a b"})
    assert (first.status, first.headers["location"]) == (303, "/run?run=a+b")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    again = ask_with_token("/api/runs", headers={"Cookie": cookie.partition(";")[0]})
    assert again.status == 200
    assert token not in repr(ask_with_token.page)
    assert (
        ask_with_token("//evil.example/", {"token": token}).headers["location"] == "/evil.example/"
    )


def test_two_pages_of_a_machine_have_cookies_of_different_names(
    ask_with_token: Asker, jam: Jamboree
) -> None:
    names = []
    with PageServer(jam, port=0, needs_token=True).start() as other:
        for ask in (ask_with_token, Asker(other)):
            token = parse_qs(urlsplit(ask.page.url).query)["token"][0]
            names.append(ask("/", {"token": token}).headers["set-cookie"].partition("=")[0])
    assert len(set(names)) == 2


def test_who_binds_another_address_gets_a_token(jam: Jamboree) -> None:
    page = PageServer(jam, host="0.0.0.0", port=0)
    assert "?token=" in page.url
    page.close()
    rules = AccessRules("0.0.0.0", "t", names=frozenset({"box"}))
    taken = {host: rules.takes_host(host) for host in ("10.0.0.5:80", "box:1", "evil.example")}
    assert taken == {"10.0.0.5:80": True, "box:1": True, "evil.example": False}
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "box")] == [
        *(True, True, True, False, False)
    ]


def test_each_answer_forbids_scripts_of_others(ask: Asker) -> None:
    for path in (*VIEWS, "/api/runs", "/static/app.js", "/nothing", "/api/run?run=none"):
        headers = ask(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';"), path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert (
        ask("/api/runs", headers={"Host": "evil.example"}).headers["referrer-policy"]
        == "no-referrer"
    )


def test_only_files_of_the_page_are_served(ask: Asker) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/"):
        assert ask(path).status in (403, 404), path


def test_the_page_has_no_script_and_no_style_of_its_own_inline() -> None:
    index = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", index)
    for path in STATIC.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|dangerously",
            path.read_text(),
        ), path


def test_the_page_asks_no_other_machine() -> None:
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css"), STATIC / "index.html"]:
        found = re.findall(r"https?://(?!www\.w3\.org)[^\s\"'`]+", path.read_text())
        assert not found, path


@pytest.mark.once
def test_what_is_not_ours_is_what_the_registry_has() -> None:
    vendor = STATIC / "vendor"
    listed = json.loads((vendor / "vendor.json").read_text())
    for one in listed:
        content = (vendor / one["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"], one["file"]
        assert one["version"]
        assert one["license"] in ("MIT", "Apache-2.0")
        assert (vendor / one["license_file"]).is_file()
    held = {path.name for path in vendor.iterdir()}
    assert held == {one["file"] for one in listed} | {one["license_file"] for one in listed} | {
        *("vendor.json", "preact-LICENSE.txt")
    }


@pytest.mark.once
def test_the_page_is_small() -> None:
    size = sum(path.stat().st_size for path in STATIC.rglob("*") if path.suffix != ".txt")
    assert size <= 200_000


def test_a_port_that_is_taken_is_said(jam: Jamboree) -> None:
    with PageServer(jam, port=0) as first:
        port = urlsplit(first.url).port
        with pytest.raises(InvalidArgument, match=f"port {port} of 127.0.0.1 cannot be bound"):
            PageServer(jam, port=port)


def test_a_notebook_shows_a_link(jam: Jamboree) -> None:
    with jam.ui(port=0) as page:
        assert f'href="{page.url}"' in page._repr_html_()
        assert Asker(page)("/").status == 200
