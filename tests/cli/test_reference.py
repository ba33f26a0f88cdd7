"""The page `docs/cli.md`, the help, and the examples in it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import Server
from processes import run_python
from recorded_store import LIBRARY, Store, play, record_store

from jamboree_gym.cli import build_app
from jamboree_gym.cli.reference import commands_of, example_of, json_fields, reference
from jamboree_gym.servers.embedded import stop_servers

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = commands_of(build_app())


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    """One whose last episode is of CartPole, as the examples want it, and that is backed up."""
    recorded = record_store(valkey.url, mongo.url)
    with recorded.open() as jam:
        env = jam.record(gym.make("CartPole-v1"), run="ppo")
        play(env, seed=5)
        env.close()
        jam.backup.flush()
    return recorded


@pytest.mark.once
def test_the_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == reference(), "python -m jamboree_gym.cli.reference > docs/cli.md"


@pytest.mark.once
def test_the_page_has_defaults_choices_and_both_words_of_a_switch() -> None:
    page = reference()
    assert "| `--timesteps` | How many. | `100000` |" in page
    assert "| `--open`, `--no-open` | Whether to show it in a browser. | `--open` |" in page
    assert "| `--format` | The format. One of `arrow`, `parquet`, " in page
    assert "| `--step` | Number of steps before the fork. | required |" in page


def test_help_loads_nothing_of_the_library() -> None:
    done = run_python(
        "import sys\n"
        "from jamboree_gym.cli import main\n"
        "sys.argv = ['jamboree-gym', 'ls', '--help']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    assert "--worst" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "typer" in loaded
    assert not LIBRARY & loaded


# tests/page/test_page_command.py and test_check.py run them.
OWN_TESTS = {"ui", "check"}


def forget_what_was_made(store: Store, command: str) -> None:
    """Delete a new run: `@last` is to be of `ppo` for the next command."""
    run = {"record": "trial", "train": "learnt"}.get(command)
    if run is not None:
        assert store.run("rm", "--run", run, "--yes").exit_code == 0


@pytest.mark.usefixtures("warm_workers")
def test_every_example_in_the_help_works(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    made = store.run("export", "--run", "ppo", "--format", "minari", "-o", "cartpole/random-v0")
    assert made.exit_code == 0, made.output
    try:
        for name, command in COMMANDS.items():
            if name in OWN_TESTS:
                continue
            program, *arguments = shlex.split(example_of(command))
            assert program == "jamboree-gym"
            assert " ".join(arguments).startswith(name)
            has_store = any(one.name == "namespace" for one in command.params)
            done = store.run(*arguments) if has_store else store.run_elsewhere(*arguments)
            if name in NEEDS_A_DATA_SET:
                done = store.run(*arguments, "--json")
                assert json.loads(done.stdout).keys() == json_fields()[name].keys()
            forget_what_was_made(store, name)
            expected = (0, 1) if name in ("diff", "doctor") else (0,)
            assert done.exit_code in expected, f"{name}: {done.output}"
    finally:
        stop_servers(tmp_path / "servers")


EXAMPLES = {  # where another one than in the help
    "diff": "diff @last @last",
    "show": "show @last",
    "find": "find @last~1 'reward > 0' --limit 1",
    "tail": "tail ppo --since 0 --steps 1",
    "rm": "rm --run ppo --dry-run",
    "verify": "verify --last 1",
    "replay": "replay @last --steps 2",
    "video": "video @last out.gif",
}


NEEDS_A_DATA_SET = {"import"}  # the test above has one


@pytest.mark.parametrize(
    "name", [name for name in json_fields() if name not in OWN_TESTS | NEEDS_A_DATA_SET]
)
def test_json_has_the_fields_that_the_page_names(
    store: Store, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(EXAMPLES.get(name, example_of(COMMANDS[name]).partition(" ")[2]))
    has_store = any(one.name == "namespace" for one in COMMANDS[name].params)
    done = (store.run if has_store else store.run_elsewhere)(*arguments, "--json")
    forget_what_was_made(store, name)
    assert done.exit_code == 0, done.output
    is_list = name in ("runs", "ls", "find", "tail", "replay")
    for text in done.stdout.splitlines() if is_list else [done.stdout]:
        assert json.loads(text).keys() == json_fields()[name].keys()


@pytest.mark.once
def test_each_field_of_json_has_a_meaning() -> None:
    takes_json = {
        name
        for name, command in COMMANDS.items()
        if any(one.name == "json" for one in command.params)
    }
    assert json_fields().keys() == takes_json
    assert not [
        (name, field)
        for name, meanings in json_fields().items()
        for field, meaning in meanings.items()
        if not meaning
    ]
