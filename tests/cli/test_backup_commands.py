"""`jamboree-gym backup ...`, as a user types it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from embedded_home import new_home
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv, play
from stored import at
from typer.testing import CliRunner, Result

from jamboree_gym import Jamboree
from jamboree_gym.backup import RetentionPolicy
from jamboree_gym.cli import app
from jamboree_gym.integrations.hdf5 import to_hdf5
from jamboree_gym.store.mongo import client as mongo_client

Run = Callable[..., Result]


@pytest.fixture
def run(jam: Jamboree, mongo: object) -> Run:
    """Runs a command on the store of `jam`."""

    def run(*command: str, mongo_url: str = str(jam._connection.backup_url)) -> Result:
        urls = ("--redis-url", jam._connection.redis_url, "--mongo-url", mongo_url)
        options = (*urls, "--namespace", jam._connection.keyspace.namespace)
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
    assert (verified.exit_code, verified.output) == (0, "1 logs compared (1 batches): all equal\n")
    jam.redis.delete(at(jam, handler._key))
    assert "1 log put back" in run("restore").output
    assert handler.count() == 3


def test_what_differs_is_named_and_the_exit_code_says_so(jam: Jamboree, run: Run) -> None:
    handler = saved(jam)
    result = run("verify")
    assert result.exit_code == 1
    assert f"{handler._key}: the backup does not hold it" in result.output.replace("\n", "")


def test_status_says_what_is_missing_and_who_copies(jam: Jamboree, run: Run) -> None:
    saved(jam)
    result = run("status", mongo_url="mongodb://127.0.0.1:1")
    assert result.exit_code == 0
    assert "3 records in 1 logs" in result.output
    assert "nobody" in result.output


def test_an_episode_that_is_not_there_is_an_error_of_one_line(run: Run) -> None:
    run("flush")
    result = run("restore", "gone")
    assert result.exit_code == 1
    assert result.output.startswith("error: no episode 'gone' in the backup of 'test-")
    assert ": MongoDB at " in result.output
    assert "{" not in result.output
    assert len(result.output.splitlines()) == 1


def test_without_mongodb_the_error_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    result = run("flush", mongo_url="mongodb://127.0.0.1:1")
    assert result.exit_code == 3
    assert "127.0.0.1:1" in result.output


def test_it_tells_what_stays_and_lets_go_of_the_rest(jam: Jamboree, run: Run) -> None:
    rule = "run=best,tags.branch=main,tags.lr=0.1,tags.is_new=true,min_return=100"
    result = run("retain", "--max-redis-bytes", "1.5G", "--max-age", "30d", "--keep", rule)
    assert result.exit_code == 0
    assert "more than 1,610,612,736 bytes" in result.output
    assert run("retain", "--show").output == result.output
    tags = {"branch": "main", "lr": 0.1, "is_new": True}
    assert jam.backup.retention() == RetentionPolicy(
        1610612736, 30 * 86400, ({"run": "best", "tags": tags, "min_return": 100},)
    )
    assert "all stays in Redis" in run("retain").output
    assert jam.backup.retention() == RetentionPolicy()


def test_trim_says_how_much_went(jam: Jamboree, run: Run) -> None:
    options: Any = {"namespace": jam._connection.keyspace.namespace, "flush_interval_s": 600}
    with Jamboree(jam._connection.redis_url, **options) as recording:
        play(recording.record(CountingEnv(3)), [ACTION] * 3)
    run("flush")
    assert run("trim").output == "0 bytes of logs and 0 summaries evicted\n"
    run("retain", "--max-redis-bytes", "0B", "--yes")
    result = run("trim", "--yes")
    assert "bytes of logs and 1 summaries evicted" in result.output
    assert list(jam._connection.redis_store.log_keys()) == []
    shown = run("status").output
    assert "of 0.0 MiB" in shown


def record(jam: Jamboree, steps: int = 3) -> None:
    play(jam.record(CountingEnv(steps)), [ACTION] * steps)


def test_a_limit_says_what_goes_and_does_nothing_without_a_yes(jam: Jamboree, run: Run) -> None:
    for _ in range(2):
        record(jam)
    jam.backup.flush()
    wait_until_older(jam, seconds=0.05)
    limit = ("retain", "--max-age", "0.05s")

    refused, dry = run(*limit), run(*limit, "--dry-run")
    assert (refused.exit_code, dry.exit_code) == (2, 0)
    assert "2 episodes would leave Redis, at most 0.0 MiB" in refused.output
    assert "add --yes to do it, or --dry-run" in refused.output
    assert dry.output.startswith("2 episodes would leave Redis")
    assert dry.output.endswith("would hold then: what is older than 0.05 s goes\n")
    assert jam.backup.retention() == RetentionPolicy()

    assert run(*limit, "--yes").exit_code == 0
    assert jam.backup.retention() == RetentionPolicy(max_age_s=0.05)
    assert run("trim").exit_code == 2
    assert run("trim", "--dry-run").output.startswith("2 episodes")
    assert "2 summaries" not in run("trim", "--yes").output
    assert str(jam.backup.would_evict(max_age_s=0.0)) == "nothing would leave Redis now"


def wait_until_older(jam: Jamboree, *, seconds: float) -> None:
    newest = max(one.started_at + one.elapsed_s for one in jam.episodes().summaries())
    wait_until(lambda: time.time() - newest > seconds)


def test_a_limit_that_takes_nothing_is_set_without_asking(jam: Jamboree, run: Run) -> None:
    record(jam)
    jam.backup.flush()
    assert run("retain", "--max-age", "30d").output == "what is older than 30 days goes\n"


def test_what_is_replaced_is_said(jam: Jamboree, run: Run) -> None:
    run("retain", "--max-age", "30d")
    replaced = "replaced: what is older than 30 days goes\n"
    assert (
        run("retain", "--max-age", "12h").output == replaced + "what is older than 12 hours goes\n"
    )
    assert jam.backup.retain(max_redis_bytes=2**40) == RetentionPolicy(max_age_s=12 * 3600)


def test_a_size_counts_the_oldest_first(jam: Jamboree) -> None:
    for _ in range(3):
        record(jam)
    jam.backup.flush()
    used = jam._connection.redis_store.eviction.memory().used_bytes

    assert not jam.backup.would_evict(max_redis_bytes=2 * used)
    assert jam.backup.would_evict(max_redis_bytes=0).episodes == 3


def test_a_home_that_is_not_there_is_made_of_a_backup_or_a_dataset(
    jam: Jamboree, tmp_path: Path
) -> None:
    record(jam)
    jam.backup.copy_to((tmp_path / "copy").as_uri())
    to_hdf5(jam.episodes(), tmp_path / "exported")
    namespace = ("--namespace", jam._connection.keyspace.namespace)
    for command, told in (
        (("backup", "restore", "--from", str(tmp_path / "copy")), "1 log put back"),
        (("import", str(tmp_path / "exported")), "run exported: 1 episode"),
    ):
        with new_home() as home:
            result = CliRunner().invoke(app, [*command, *namespace, "--home", str(home)])
            assert (result.exit_code, result.output) == (0, f"{told}\n")


def test_a_home_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    home, other = tmp_path / "misspelt", tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    looking = (["backup", "status"], ["backup", "trim"], ["verify"], ["status"], ["down"])
    for command in (*looking, ["backup", "restore"]):
        result = CliRunner().invoke(app, [*command, "--home", str(home)])
        assert result.exit_code in (1, 2)
        assert f"no home at {home}: nothing has been recorded there" in result.output
        result = CliRunner().invoke(app, [*command, "--home", str(other)])
        assert f"no home at {other}" in result.output
    assert [one.name for one in tmp_path.rglob("*")] == ["other", "thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--max-redis-bytes", "2X"), "give a number with a unit"),
        (("--max-age", "old"), "give a number with a unit: 3s, 3m, 3h, 3d, 3w"),
        (("--max-age", "3"), "give a number with a unit: 3s, 3m, 3h, 3d, 3w"),
        (("--max-redis-bytes", "2000"), "give a number with a unit: 3B, 3KB, 3MB, 3GB, 3TB"),
        (("--keep", "best"), "give name=value"),
        (("--keep", "runs=best"), "there is no 'runs'"),
        (("--keep", "min_return=best"), "is no number"),
    ],
)
def test_what_retain_does_not_understand_is_an_error_of_one_line(
    run: Run, arguments: tuple[str, ...], what: str
) -> None:
    result = run("retain", *arguments)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert what in result.output


def test_a_backup_is_copied_to_a_folder_and_restored_from_it(
    jam: Jamboree, run: Run, tmp_path: Path
) -> None:
    handler = saved(jam)
    folder = (tmp_path / "backup").as_uri()
    said = f"copied to the folder {tmp_path / 'backup'}"
    assert run("copy", "--to", folder).output == f"1 log {said}, which is new\n"
    assert run("copy", "--to", str(tmp_path / "backup")).output == f"0 logs {said}\n"
    assert json.loads(run("copy", "--to", folder, "--json").output) == {"logs": 0}
    jam.redis.delete(at(jam, handler._key))
    assert run("restore", "--from", str(tmp_path / "backup")).output == "1 log put back\n"
    assert handler.count() == 3
    wrong = run("copy", "--to", "ftp://somewhere")
    assert wrong.exit_code == 2
    assert "file:///path" in wrong.output
    full = run("restore", "--from", (tmp_path / "none" / "backup").as_uri())
    assert full.exit_code == 3
    mistyped = run("restore", "--from", str(tmp_path / "bakcup"))
    assert (mistyped.exit_code, len(mistyped.output.splitlines())) == (3, 2)
    assert f"backups near it: {folder}" in mistyped.output
    assert "is not there" in full.output
