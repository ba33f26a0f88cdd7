"""`jamboree-gym backup ...`, as a user types it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from processes import NoteHandler
from typer.testing import CliRunner, Result

from jamboree_gym import Jamboree
from jamboree_gym.cli import app

Run = Callable[..., Result]


@pytest.fixture
def run(jam: Jamboree, mongo: object) -> Run:
    """Runs a command on the store of `jam`."""

    def run(*command: str, mongo_url: str = str(jam._mongo_url)) -> Result:
        urls = ("--redis-url", f"unix://{jam.store.where}", "--mongo-url", mongo_url)
        options = (*urls, "--namespace", jam.keyspace.namespace)
        return CliRunner().invoke(app, ["backup", *command, *options])

    return run


def saved(jam: Jamboree, count: int = 3) -> NoteHandler:
    handler = NoteHandler(jam, "n")
    handler.save_many({"n": number} for number in range(count))
    jam.flush()
    return handler


def test_it_copies_compares_and_restores(jam: Jamboree, run: Run) -> None:
    handler = saved(jam)
    assert "3 records copied" in run("flush").output
    verified = run("verify")
    assert (verified.exit_code, verified.output) == (0, "1 of 1 logs are equal (1 batches)\n")
    jam.redis.delete(handler._key)
    assert "1 logs put back" in run("restore").output
    assert handler.count() == 3


def test_what_differs_is_named_and_the_exit_code_says_so(jam: Jamboree, run: Run) -> None:
    handler = saved(jam)
    result = run("verify")
    assert result.exit_code == 1
    assert f"{handler._key}: MongoDB does not hold it" in result.output.replace("\n", "")


def test_status_says_what_is_missing_and_who_copies(jam: Jamboree, run: Run) -> None:
    saved(jam)
    result = run("status", mongo_url="mongodb://127.0.0.1:1")
    assert result.exit_code == 0
    assert "3 records in 1 logs" in result.output
    assert "nobody" in result.output


def test_an_episode_that_is_not_there_is_an_error_of_one_line(run: Run) -> None:
    result = run("restore", "gone")
    assert result.exit_code == 2
    assert result.output.startswith("error: MongoDB at ")
    assert "is not there" in result.output
    assert len(result.output.splitlines()) == 1


def test_without_mongodb_the_error_names_it(run: Run) -> None:
    result = run("flush", mongo_url="mongodb://127.0.0.1:1")
    assert result.exit_code == 2
    assert "127.0.0.1:1" in result.output


@pytest.mark.parametrize("command", ["flush", "status", "verify", "restore"])
def test_each_command_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, ["backup", command, "--help"])
    assert f"Example: jamboree-gym backup {command}" in result.output
