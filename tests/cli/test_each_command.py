"""What holds for each command: help, wrong calls, a store that is away, pipes, Ctrl-C, names."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from conftest import Server
from recorded_store import Store, record_store
from typer.main import get_command
from typer.testing import CliRunner

from jamboree_gym import Jamboree
from jamboree_gym.cli import app, build_app
from jamboree_gym.cli.commands import StoreOptions
from jamboree_gym.cli.reference import commands_of, example_of

PROGRAM = get_command(build_app())
COMMANDS = commands_of(build_app())
AWAY = "unix:///nowhere.sock"
ARGUMENTS = {  # where another call than the example is right for this store
    "replay": "replay EPISODE --steps 2",
    "show": "show @last",
    "tail": "tail ppo --since 0 --steps 1",
    "verify": "verify --run ppo --last 1",
    "find": "find EPISODE 'reward > 0'",
    "what-if": "what-if EPISODE --step 2 --policy random -n 1",
    "fork": "fork EPISODE --step 2",
    "video": "video EPISODE out.gif",
    "record": "record CartPole-v1 --run trial",
}
WITH_STORE = [
    name
    for name, command in COMMANDS.items()
    if any(one.name == "namespace" for one in command.params)
]


def arguments_of(name: str, store: Store) -> list[str]:
    text = ARGUMENTS.get(name, example_of(COMMANDS[name]).partition(" ")[2])
    given = shlex.split(text.replace("EPISODE", store.first_id))
    return given if name != "ui" else [*given, "--port", "0"]


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    recorded = record_store(valkey.url, mongo.url)
    with recorded.open() as jam:
        jam.backup.flush()
    recorded.first_id = recorded.objects("ls", "--limit", 1)[0]["id"]
    return recorded


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))


@pytest.mark.once
@pytest.mark.parametrize("name", COMMANDS)
def test_its_help_has_an_example_and_says_what_each_option_is(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert done.stderr == ""
    assert f"Example: jamboree-gym {name}" in done.stdout
    for one in COMMANDS[name].params:
        assert one.help, one.name
        if one.opts[0].startswith("-"):
            assert one.opts[0] in done.stdout


@pytest.mark.once
@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_it_does_not_have_is_exit_code_2(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--nonsense"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No such option: --nonsense" in done.stderr
    assert f"jamboree-gym {name}" in done.stderr or "Usage: " in done.stderr


@pytest.mark.parametrize("name", [one for one in WITH_STORE if one != "doctor"])
def test_a_store_that_is_away_is_exit_code_3_and_a_line(store: Store, name: str) -> None:
    done = store.run(*arguments_of(name, store), "--redis-url", AWAY)
    assert (done.exit_code, done.stdout) == (3, ""), done.output
    assert done.stderr.startswith("error: Redis at /nowhere.sock cannot be reached")
    assert len(done.stderr.splitlines()) <= 2


TAKE_A_RUN = {
    "run": "run pop",
    "tail": "tail pop --timeout 1s",
    "ls": "ls --run pop",
    "rm": "rm --run pop --dry-run",
    "prune": "prune --run pop --older-than 1d --dry-run",
    "verify": "verify --run pop",
    "export": "export --run pop --format parquet -o steps",
    "video": "video pop out.gif --worst",
}
TAKE_AN_EPISODE = {
    "show": "show zzzzzz",
    "find": "find zzzzzz 'reward > 0'",
    "replay": "replay zzzzzz",
    "diff": "diff zzzzzz @last",
    "rm": "rm zzzzzz --yes",
    "fork": "fork zzzzzz --step 1",
    "video": "video zzzzzz out.gif",
    "verify": "verify zzzzzz",
    "what-if": "what-if zzzzzz --step 1 --policy random",
    "backup restore": "backup restore zzzzzz",
}


@pytest.mark.parametrize("name", TAKE_A_RUN)
def test_a_misspelt_run_is_answered_with_the_nearest(store: Store, name: str) -> None:
    done = store.run(*shlex.split(TAKE_A_RUN[name]))
    assert done.exit_code == (2 if name == "verify" else 1), done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: no run 'pop'; there are ppo, odd")


@pytest.mark.parametrize("name", TAKE_AN_EPISODE)
def test_an_episode_that_is_not_there_is_said(store: Store, name: str) -> None:
    done = store.run(*shlex.split(TAKE_AN_EPISODE[name]))
    assert done.exit_code == (2 if name in ("verify", "replay") else 1), done.output
    said = done.stdout if name == "verify" else done.stderr  # a report of each is its result
    assert "no episode 'zzzzzz'" in said
    assert (done.stdout == "") == (name != "verify")
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.once
def test_each_command_that_names_a_run_or_an_episode_is_tried() -> None:
    takes = {
        name
        for name, command in COMMANDS.items()
        if any(one.name in ("episode", "episodes", "run", "name", "a") for one in command.params)
    }
    make_runs = {"record", "train", "import"}  # the name of a new run
    assert takes - make_runs == TAKE_A_RUN.keys() | TAKE_AN_EPISODE.keys()


@pytest.mark.once
@pytest.mark.parametrize("name", [*COMMANDS, "--version"])
def test_a_misspelt_command_is_answered_with_the_nearest(name: str) -> None:
    group, _, last = name.rpartition(" ")
    misspelt = last[:-1] + ("x" if last[-1] != "x" else "y")
    done = CliRunner().invoke(app, [*group.split(), misspelt])
    assert done.exit_code == 2
    if len(last) > 3:  # of a shorter one, a letter may be too much
        assert f"'{last}'" in done.stderr or f"{last}" in done.stderr


# They ask for other processes or go on: their own tests run them.
OWN_PROCESSES = {"check", "train", "ui", "up", "down", "import", "export"}


def ended(store: Store, name: str, stdout: int) -> tuple[int, str]:
    """Run a command in this process, as `main` does: its exit code, and what stderr says."""
    given = arguments_of(name, store)
    said = StringIO()
    with pytest.MonkeyPatch.context() as patch, suppress(BrokenPipeError):
        for variable, value in store.environment.items():
            patch.setenv(variable, value)
        patch.setattr(sys, "stderr", said)
        with open(stdout, "w") as output:
            patch.setattr(sys, "stdout", output)
            with pytest.raises(SystemExit) as end:
                PROGRAM(store.command(*given) if name in WITH_STORE else given, "jamboree-gym")
    return int(end.value.code or 0), said.getvalue()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in OWN_PROCESSES])
def test_a_reader_that_has_gone_is_exit_code_141_and_nothing_is_said(
    store: Store, name: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert ended(store, name, writing) == (141, "")


@pytest.mark.parametrize(
    "name", [name for name in WITH_STORE if name not in {*OWN_PROCESSES, "doctor"}]
)
def test_ctrl_c_is_exit_code_130_and_nothing_is_said(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = StoreOptions.open

    def opened_and_interrupted(self: StoreOptions, **options: bool) -> Jamboree:
        with opened(self, **options):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("Ctrl-C is heard at once")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(StoreOptions, "open", opened_and_interrupted)
    try:
        assert ended(store, name, os.open(os.devnull, os.O_WRONLY)) == (130, "")
    finally:
        signal.signal(signal.SIGINT, before)
