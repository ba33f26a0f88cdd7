"""What a shell offers when Tab is pressed: names that are there, and that it cannot run."""

from __future__ import annotations

import uuid
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import Server, start_redis, valkey_program
from processes import run_python
from recorded_store import LIBRARY, Store, play, record_store
from typer.testing import CliRunner

from jamboree_gym.cli import app
from jamboree_gym.store.quick_names import quick_episode_ids, quick_run_names


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    recorded = record_store(valkey.url, mongo.url)
    with recorded.open() as jam:
        play(jam.record(gym.make("CartPole-v1"), run="$(reboot)"), seed=1)
        play(jam.record(gym.make("CartPole-v1"), run="newest/run"), seed=1)
    return recorded


def completed(store: Store, command: str, word: str, *more: str) -> list[str]:
    words = ["jamboree-gym", command, *store.command(*more), word]
    done = CliRunner().invoke(
        app,
        prog_name="jamboree-gym",
        env={
            **store.environment,
            "_JAMBOREE_GYM_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        },
    )
    return done.stdout.split()


@pytest.mark.one_server  # on a cluster it offers nothing
def test_runs_are_offered_the_one_written_last_first(store: Store) -> None:
    assert completed(store, "run", "") == ["newest/run", "ppo"]  # no name that a shell would run
    assert completed(store, "run", "p") == ["ppo"]
    assert completed(store, "tail", "p") == ["ppo"]


@pytest.mark.one_server  # on a cluster it offers nothing
def test_episodes_are_offered_by_their_beginning(store: Store) -> None:
    ids = [one["id"] for one in store.objects("ls")]
    assert completed(store, "show", "") == ["@last", *sorted(ids, reverse=True)]
    assert completed(store, "diff", ids[0][:-1]) == [
        one for one in sorted(ids, reverse=True) if one.startswith(ids[0][:-1])
    ]
    assert completed(store, "rm", "@l") == ["@last"]


def test_a_server_that_is_away_offers_nothing(store: Store, tmp_path: Path) -> None:
    for url in ("unix:///nowhere.sock", "redis://127.0.0.1:1", "rediss://127.0.0.1:1", "x"):
        away = Store(url, store.mongo_url, store.namespace)
        assert completed(away, "run", "") == []
        assert quick_episode_ids(url, store.namespace, "") == []
    assert quick_run_names(store.redis_url, f"none-{uuid.uuid4().hex}") == []


def test_a_home_that_is_not_there_offers_nothing_and_is_not_made(tmp_path: Path) -> None:
    words = ["jamboree-gym", "run", "--home", str(tmp_path / "none"), ""]
    done = CliRunner().invoke(
        app,
        prog_name="jamboree-gym",
        env={
            "_JAMBOREE_GYM_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": "4",
        },
    )
    assert done.stdout.strip() == ""
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_given(store: Store, short_directory: Path) -> None:
    server = start_redis(valkey_program(), short_directory / "locked")
    try:
        with Store(server.url, store.mongo_url, "locked").open() as jam:
            play(jam.record(gym.make("CartPole-v1"), run="behind"), seed=1)
            jam.flush()
            jam.redis.config_set("requirepass", "p@ss")
        url = server.url.replace("unix://", "unix://:p%40ss@")
        assert quick_run_names(url, "locked") == ["behind"]
        assert quick_run_names(server.url, "locked") == []
    finally:
        server.stop()


@pytest.mark.one_server  # on a cluster it offers nothing
def test_it_loads_nothing_of_the_library(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"jamboree-gym run --namespace {store.namespace} p"
    variables = {"_JAMBOREE_GYM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    for name, value in {**store.environment, **variables}.items():
        monkeypatch.setenv(name, value)
    done = run_python(
        "import sys\n"
        "from jamboree_gym.cli import main\n"
        "sys.argv = ['jamboree-gym']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    assert done.stdout == "ppo\n"
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "typer" in loaded
    assert not LIBRARY & loaded
