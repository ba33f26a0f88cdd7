"""The terminal session in README.md is what the commands print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server
from shown_session import alike, record, session

from jamboree_gym import Jamboree

README = Path(__file__).resolve().parents[2] / "README.md"

pytestmark = pytest.mark.once


def test_the_session_in_the_readme_is_what_the_commands_print(
    own_valkey: Server, open_jamboree: Callable[..., Jamboree]
) -> None:
    with open_jamboree(own_valkey.url, namespace="jamboree") as jam:
        record(jam)
    printed = session({"JAMBOREE_REDIS_URL": own_valkey.url, "JAMBOREE_BACKUP": "0"})

    in_readme = README.read_text().partition("```console\n")[2].partition("```")[0]
    assert alike(in_readme) == alike(printed), printed
