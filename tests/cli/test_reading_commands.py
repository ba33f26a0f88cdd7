"""`jamboree-gym runs`, `run`, `ls`, `show`, `find`, `diff`, `rm`, `tail`, `fork`, `export`."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import gymnasium as gym
import polars
import pytest
from conftest import Server
from processes import PATHS
from recorded_envs import ACTION, ScriptedEnv
from recorded_envs import play as play_actions
from recorded_store import ODD, PROGRAM, SEEDS, Store, play, record_store
from typer.testing import CliRunner

from jamboree_gym import __version__
from jamboree_gym.cli import app

SHOWN_ODD = "odd\\x1b[2J\\n\\t"


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    return record_store(valkey.url, mongo.url)


@pytest.fixture(scope="module")
def summaries(store: Store) -> list[dict[str, Any]]:
    return store.objects("ls")


@pytest.fixture(scope="module")
def ids(summaries: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in summaries]


def test_runs_are_a_line_each(store: Store) -> None:
    lines = store.lines("runs")
    assert sorted(line[0] for line in lines) == [SHOWN_ODD, "ppo"]
    ppo = next(line for line in lines if line[0] == "ppo")
    assert ppo[1:3] == ["stopped", str(len(SEEDS))]
    assert {one["name"] for one in store.objects("runs")} == {ODD, "ppo"}


def test_a_run_shows_how_it_stands(store: Store) -> None:
    shown = store.run("run", "ppo").stdout
    assert shown.startswith("ppo: stopped; ")
    assert "train/loss" in shown
    assert "newest of 1 checkpoint: 0" in shown
    (run,) = store.objects("run", "ppo")
    assert (run["name"], run["metrics"], run["is_stuck"]) == ("ppo", {"train/loss": 0.25}, False)
    assert run["sessions"][0]["how"] == "finished"
    assert run["checkpoint"]["timesteps"] == 50


def test_what_is_misspelt_is_answered_with_the_nearest(store: Store) -> None:
    run, tail, command = (store.run(*one) for one in (("run", "pop"), ("tail", "pop"), ("rnus",)))
    assert (run.exit_code, tail.exit_code, command.exit_code) == (1, 1, 2)
    assert run.stderr == tail.stderr
    assert run.stderr.startswith("error: no run 'pop'; there are ppo, odd")
    assert "Did you mean 'runs'" in command.stderr


def test_episodes_are_chosen_by_what_their_summaries_say(store: Store, ids: list[str]) -> None:
    def found(*options: object) -> list[str]:
        return [line[0] for line in store.lines("ls", *options)]

    returns = {one["id"]: one["episode_return"] for one in store.objects("ls", "--run", "ppo")}
    by_return = sorted(returns, key=returns.__getitem__)
    assert found() == ids
    assert found("--run", "ppo", "--run", ODD) == ids
    assert found("--worst", 2, "--run", "ppo") == by_return[:2]
    assert found("--best", 1, "--env", "CartPole-v1") == by_return[-1:]
    limit = returns[by_return[0]]
    assert found("--where", f"episode_return <= {limit} and tag_lr < 0.01") == by_return[:1]
    assert found("--tag", "lr=1e-3", "--status", "terminated") == ids[:3]
    assert found("--tag", "lr=0.1") == ids[3:]
    assert found("--last", 1) == ids[-1:]
    assert found("--limit", 1) == ids[:1]
    assert found("--since", "1h", "--until", "2001-01-01") == []
    assert found("--until", "0s") == ids


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls", "--last", 1, "--worst", 1], "choose one of --limit, --last, --worst and --best"),
        (["ls", "--since", "yesterday"], "give 90s, 30m, 2h or 3d for so long ago"),
        (["ls", "--tag", "lr"], "--tag lr: give name=value"),
        (["ls", "--where", "step < 2"], "did you mean 'steps'?"),
        (["ls", "--where", "steps <"], "is no expression"),
        (["find", "@last", "rewrd > 1"], "did you mean 'reward'?"),
        (["show", "@lst"], "@lst: give an id, @last, or @last~1 for the one before it"),
        (["tail", "@first"], "@first: give an id, @last"),
        (["ls", "--status", "terminatd"], "an episode is running, terminated, truncated"),
        (["ls", "--status", "terminatd"], "did you mean 'terminated'?"),
        (["record", "CartPole-v1", "--policy", "randm"], "did you mean 'random'?"),
        (["train", "CartPole-v1", "--algo", "ppp"], "did you mean 'ppo'?; there are a2c, "),
        (["rm"], "name episodes, or choose them"),
        (["rm", "abc", "--run", "ppo"], "name episodes, or choose them"),
        (["show", "-"], "there are no ids on stdin"),
        (["ls", "--since", "inf"], "--since inf: give 90s"),
        (["ls", "--since", "x" * 400], "...: give 90s"),
        (["ls", "--where", ""], "--where is empty"),
        (["ls", "--run", ""], "--run is empty"),
        (["rm", "--where", "", "--yes"], "--where is empty"),
        (["ls", "--where", "1/0 > 1"], "a number is divided by 0"),
        (["fork", "@last", "--step", 4000], "error: --step 4000: episode"),
        (["fork", "@last", "--step", 0, "--import", "nomod"], "No module named 'nomod'"),
        (["video", "@last", "out.txt"], "neither .mp4 nor .gif"),
        (["export", "-o", "steps"], "say --format arrow, parquet, hdf5"),
        (["export", "-o", "x", "--format", "lerobot"], "--fps is needed for --format lerobot"),
    ],
)
def test_what_cannot_be_meant_is_two_lines_and_exit_code_2(
    store: Store, arguments: list[object], said: str
) -> None:
    failed = store.run(*arguments)
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert said in failed.stderr
    assert len(failed.stderr.splitlines()) <= 2


def test_an_error_does_not_repeat_a_long_expression(store: Store) -> None:
    tests = ("steps > 1 and " * 60 + "foo > 1", "steps > 1 and " * 60 + "steps & 1", "x" * 2000)
    for test in tests:
        failed = store.run("ls", "--where", test)
        assert failed.exit_code == 2
        assert len(failed.stderr) < 300


def test_an_error_has_the_words_of_a_shell(store: Store, tmp_path: Path) -> None:
    (tmp_path / "there.arrow").touch()
    failed = store.run("export", "-o", tmp_path / "there.arrow")
    assert failed.stderr.endswith("is there already: --overwrite replaces it\n")


def test_a_listing_of_nothing_says_so(store: Store) -> None:
    done = store.run("ls", "--where", "steps > 4000")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no episode is like that\n")


def test_a_beginning_that_means_one_episode_by_chance_is_refused(
    valkey: Server, mongo: Server
) -> None:
    lonely = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    with lonely.open() as jam:
        play(jam.record(gym.make("CartPole-v1"), run="r"), seed=1)
    id = lonely.lines("ls")[0][0]
    for command in (["show"], ["rm", "--yes"]):
        failed = lonely.run(*command, id[:1])
        assert failed.exit_code == 2
        assert f"'{id[0]}' is too short: an id begins with its time" in failed.stderr
    assert lonely.run("show", id[:6]).exit_code == 0


@pytest.mark.parametrize("command", ["runs", "ls", "status", "run ppo", "verify @last"])
def test_a_store_that_is_away_is_exit_code_3(store: Store, command: str) -> None:
    failed = store.run(*command.split(), "--redis-url", "unix:///nowhere.sock")
    assert failed.exit_code == 3
    assert failed.stderr.startswith("error: Redis at /nowhere.sock cannot be reached")


def test_nan_is_null(store: Store) -> None:
    assert store.objects("ls", "--run", ODD)[0]["episode_return"] is None
    (run,) = store.objects("run", ODD)
    assert (run["mean_return"], run["episodes"]) == (None, 1)


def test_a_name_of_a_run_does_not_control_the_terminal(store: Store) -> None:
    commands = (["runs"], ["ls"], ["run", ODD], ["show", "@last"], ["run", "gone"])
    printed = [store.run(*command).output for command in commands]
    for text in printed:
        assert "odd\\x1b[2J" in text
        assert "\x1b" not in text
    assert "\todd\\x1b[2J\\n\\t\t" in printed[1]
    assert not any(line.startswith("\t") for text in printed for line in text.splitlines())


def test_an_episode_is_named_by_its_beginning_or_its_place(store: Store, ids: list[str]) -> None:
    def id_of(name: str, stdin: str = "") -> str:
        done = store.run("show", name, "--json", stdin=stdin)
        assert done.exit_code == 0, done.output
        return str(json.loads(done.stdout)["summary"]["id"])

    unique = next(
        ids[0][:n] for n in range(1, 33) if sum(one.startswith(ids[0][:n]) for one in ids) == 1
    )
    assert id_of(unique) == ids[0]
    assert id_of("@last") == ids[-1]
    assert id_of("@last~2") == ids[-3]
    assert id_of("-", stdin=f"{ids[1]}\tppo\n") == ids[1]
    assert id_of("-", stdin=json.dumps({"episode": ids[1]})) == ids[1]
    several = store.run("show", ids[0][:2])
    assert (several.exit_code, "give more of the id" in several.stderr) == (1, True)
    for gone in ("zzz", "@last~9"):
        assert store.run("show", gone).exit_code == 1


def test_show_has_where_it_comes_from_and_its_steps(store: Store, ids: list[str]) -> None:
    shown = store.run("show", ids[0]).stdout
    for part in ("CartPole-v1", "TimeLimit", "gymnasium ", "seed 1", "rewards ", "<step 0: "):
        assert part in shown
    shown = json.loads(store.run("show", ids[0], "--json").stdout)
    steps = shown["summary"]["steps"]
    assert len(shown["rewards"]) == steps
    assert [one["index"] for one in shown["last_steps"]] == [steps - 3, steps - 2, steps - 1]
    assert len(json.loads(store.run("show", ids[-1], "--json").stdout)["last_steps"]) == 0


@pytest.mark.parametrize(
    ("rewards", "span"),
    [([math.nan, 2.0, 1.0], "1 to 2"), ([math.nan, math.inf, math.nan], "no finite number")],
)
def test_show_has_the_span_of_the_rewards_that_are_finite(
    valkey: Server, mongo: Server, rewards: list[float], span: str
) -> None:
    made = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    with made.open() as jam:
        play_actions(jam.record(ScriptedEnv(rewards=rewards)), [ACTION] * 3)
    (line,) = (one for one in made.run("show", "@last").stdout.splitlines() if "rewards " in one)
    assert line.endswith(f" {span}")


def test_find_has_the_steps_of_which_it_is_true(store: Store, ids: list[str]) -> None:
    with store.open() as jam:
        expected = jam.episode(ids[0]).find("action == 1").tolist()
    found = store.lines("find", ids[0], "action == 1")
    assert [int(line[0]) for line in found] == expected
    assert {line[1] for line in found} == {"1"}
    limited = store.objects("find", ids[0], "action == 1", "--limit", 2)
    assert [one["index"] for one in limited] == expected[:2]
    none = store.run("find", ids[0], "reward > 5")
    assert (none.exit_code, none.stdout, none.stderr) == (1, "", "no step\n")


def test_diff_says_by_its_exit_code_whether_they_differ(store: Store, ids: list[str]) -> None:
    assert store.run("diff", ids[0], ids[0]).exit_code == 0
    differ = store.run("diff", ids[0], ids[1], "--json")
    assert differ.exit_code == 1
    report = json.loads(differ.stdout)
    assert (report["equal"], report["divergence"]["step"]) == (False, -1)


def test_tail_follows_a_run_and_an_episode(store: Store, ids: list[str]) -> None:
    run = store.objects("tail", "ppo", "--since", "1h", "--steps", 5)
    assert [(one["episode"], one["index"]) for one in run] == [(ids[0], step) for step in range(5)]
    episode = store.lines("tail", ids[0])
    assert [line[0] for line in episode] == [ids[0]] * len(episode)
    assert episode[-1][4] == "true"  # terminated
    assert store.lines("tail", "--timeout", "0.01s") == []


def test_the_code_of_a_fork_works(store: Store, ids: list[str]) -> None:
    done = store.run("fork", ids[0], "--step", 4)
    assert done.exit_code == 0, done.output
    code = done.stdout.partition("jam = ")
    names: dict[str, Any] = {}
    exec(code[0] + code[1] + code[2].replace("print(env", "print('' and env"), names)
    assert names["env"].fork_step == 4
    child = names["env"].episode_id
    names["jam"].close()
    assert [line[0] for line in store.lines("ls", "--forks", "--last", 1)] == [child]
    assert store.run("rm", child, "--yes").exit_code == 0
    refused = store.run("fork", ids[0], "--step", 10**6)
    assert (refused.exit_code, refused.stderr[:22]) == (2, "error: --step 1000000:")


def test_episodes_are_written_in_another_format(store: Store, tmp_path: Path) -> None:
    file, folder = tmp_path / "steps.arrow", tmp_path / "steps"
    assert store.run("export", "-o", file, "--run", "ppo").exit_code == 0
    (told,) = store.objects("export", "-o", folder, "--format", "parquet", "--run", "ppo")
    assert (told["format"], told["episodes"]) == ("parquet", 3)
    steps = sum(one["steps"] for one in store.objects("ls", "--run", "ppo"))
    assert polars.read_ipc(file).height == polars.read_parquet(folder / "*.parquet").height == steps
    again = store.run("export", "-o", file)
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


def test_rllib_is_a_format_too(store: Store, tmp_path: Path) -> None:
    done = store.run("export", "-o", tmp_path / "rl", "--format", "rllib", "--run", "ppo")
    if importlib.util.find_spec("ray") is None:
        assert (done.exit_code, "pip install 'ray[rllib]'" in done.stderr) == (2, True)
    else:
        assert done.exit_code == 0, done.output
    refused = store.run("import", tmp_path, "--format", "rllib")
    assert (refused.exit_code, "the format rllib lacks infos" in refused.stderr) == (2, True)


def test_a_format_that_holds_whole_episodes_is_read_again(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "back"
    store.run("export", "-o", folder, "--format", "hdf5", "--run", "ppo")
    (told,) = store.objects("import", folder, "--tag", "again=1")
    assert (told["format"], told["run"], len(told["episodes"])) == ("hdf5", "back", 3)
    by_file = store.run("import", folder / "main_data.hdf5")
    assert by_file.stdout == "run back: 3 episodes\n"
    assert store.run("rm", "--run", "back", "--yes").exit_code == 0


def test_a_format_that_lacks_something_says_which_can_be_imported(
    store: Store, tmp_path: Path
) -> None:
    for name, file in {
        "parquet": "part-00000.parquet",
        "lerobot": "meta/info.json",
        "arrow": "steps.arrow",
    }.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.touch()
        for given in (path if name == "arrow" else tmp_path / name, f"x --format {name}"):
            failed = store.run("import", *str(given).split(" "))
            assert (failed.exit_code, failed.stdout) == (2, "")
            first, second = failed.stderr.splitlines()
            assert f"the format {name} lacks the last observation" in first
            assert second.startswith("import reads minari, hdf5 and datasets")
    failed = store.run("import", tmp_path)
    assert failed.exit_code == 2
    assert "minari list local" in failed.stderr.splitlines()[1]


def test_a_misspelt_folder_is_answered_with_the_nearest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    (tmp_path / "all" / "steps").mkdir(parents=True)
    (tmp_path / "all" / "steps" / "main_data.hdf5").touch()
    for given, code, said in (
        ("al", 1, "al: there is no such folder or file; did you mean 'all'?"),
        ("all/stepz", 1, "there is no such folder or file; did you mean 'all/steps'?"),
        (f"{tmp_path}/all/stepz", 1, f"did you mean '{tmp_path}/all/steps'?"),
        ("all", 2, "has written (did you mean 'all/steps'?): it has no main_data.hdf5 (hdf5)"),
        ("cartpole/randm-v0", 1, "or file, and no Minari dataset 'cartpole/randm-v0' on this"),
    ):
        failed = store.run("import", given)
        assert (failed.exit_code, failed.stdout) == (code, "")
        first, second = failed.stderr.splitlines()
        assert said in first
        assert second.startswith("import reads a folder that export has written as hdf5")


def test_a_misspelt_environment_or_tag_is_answered_with_the_nearest(store: Store) -> None:
    for option, given, said in (
        ("--env", "CartPol-v1", "no episode of CartPol-v1; did you mean 'CartPole-v1'?"),
        ("--tag", "lrr=0.001", "no episode has this tag lrr; did you mean 'lr'?"),
    ):
        done = store.run("ls", option, given)
        assert (done.exit_code, done.stdout) == (0, "")
        assert said in done.stderr
    verified = store.run("verify", "--env", "CartPol-v1")
    assert verified.exit_code == 2
    assert "did you mean 'CartPole-v1'?" in verified.stderr


def test_ids_of_ls_are_what_other_commands_read(store: Store) -> None:
    listed = store.run("ls", "--run", "ppo").stdout
    verified = store.run("verify", "-", stdin=listed)
    assert (verified.exit_code, verified.stdout[:26]) == (0, "3 of 3 episodes are equal;")
    as_json = store.run("ls", "--run", "ppo", "--json").stdout
    report = json.loads(store.run("verify", "-", "--json", stdin=as_json).stdout)
    assert (report["equal"], report["episodes"]) == (True, 3)


def test_rm_says_how_much_and_wants_a_yes(store: Store) -> None:
    with store.open() as jam:
        env = jam.record(gym.make("CartPole-v1"), run="to-go")
        for seed in SEEDS:
            play(env, seed)
        env.close()
    refused = store.run("rm", "--run", "to-go", "--worst", 2)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: this would delete 2 episodes with ")
    assert store.run("rm", "--run", "to-go", "--dry-run").stdout.startswith("would delete 3 ")
    assert len(store.lines("ls", "--run", "to-go")) == 3
    best = store.lines("ls", "--run", "to-go", "--best", 1)[0][0]
    assert store.run("rm", "--run", "to-go", "--worst", 2, "--yes").exit_code == 0
    assert [line[0] for line in store.lines("ls", "--run", "to-go")] == [best]
    (deleted,) = store.objects("rm", best, "--yes")
    assert deleted["episodes"] == [best]
    assert store.run("rm", best, "--yes").exit_code == 1


def test_status_says_which_runs_are_alive_and_how_far_the_backup_is(store: Store) -> None:
    with store.open() as jam:
        env = jam.record(gym.make("CartPole-v1"), run="alive")
        env.reset(seed=1)
        env.step(0)
        jam.flush()
        (status,) = store.objects("status")
        shown = store.run("status").stdout
        env.close()
        jam.episodes(run="alive").last().delete()
    assert [one["name"] for one in status["alive"]] == ["alive"]
    assert status["steps_per_s"] > 0
    assert status["servers"] is None
    assert status["backup"]["pending_logs"] > 0
    assert shown.startswith("runs alive: 1, ")


def test_the_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"jamboree-gym {__version__}\n"


# --- as processes ---------------------------------------------------------------------------------


def test_a_reader_that_has_gone_is_exit_code_141_and_nothing_is_said(store: Store) -> None:
    reading, writing = os.pipe()
    process = store.start("ls", stdout=writing)
    os.close(writing)
    os.close(reading)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 141


def test_rm_takes_each_episode_once_and_only_what_was_chosen(store: Store) -> None:
    (last,) = store.objects("rm", "@last", "@last", "--dry-run")
    assert len(last["episodes"]) == 1
    for nothing in (["--forks"], []):
        done = store.run("rm", *nothing, "--dry-run")
        assert (done.exit_code, "choose them by options" in done.stderr) == (2, True)
    done = store.run("rm", "-", "--yes")
    assert (done.exit_code, done.stderr) == (2, "error: there are no ids on stdin\n")


def test_an_episode_before_the_first_is_not_there(store: Store, ids: list[str]) -> None:
    done = store.run("show", "@last~999")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: no @last~999: there are ")


def test_a_full_disk_is_said_in_a_line(store: Store) -> None:
    with open("/dev/full", "w") as full:
        process = store.start("ls", stdout=full.fileno())
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (
        1,
        "error: the output is not complete: No space left on device\n",
    )


def test_a_closed_stdout_is_said_in_a_line(store: Store) -> None:
    for command in ("ls", "--help"):
        shell = f'exec {sys.executable} -c "$0" "$@" >&-'
        arguments = store.command(command) if command == "ls" else [command]
        done = subprocess.run(
            ["sh", "-c", shell, PROGRAM, *arguments],
            env={**os.environ, **store.environment, "PYTHONPATH": os.pathsep.join(PATHS)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (
            1,
            "error: the output is not complete: Bad file descriptor\n",
        )


def test_a_terminal_without_the_bars_of_a_sparkline_has_others(
    store: Store, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    printed, said = store.start_python("show", ids[0], stdout=subprocess.PIPE).communicate(
        timeout=60
    )
    assert said == ""
    assert "rewards =" in printed


@pytest.mark.once
def test_a_ctrl_c_while_modules_are_loaded_is_exit_code_130() -> None:
    program = (
        "from jamboree_gym import cli\n"
        "def build_app():\n"
        "    raise KeyboardInterrupt\n"
        "cli.build_app = build_app\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, b"")


def test_on_a_terminal_tail_is_for_people_and_ctrl_c_is_exit_code_130(store: Store) -> None:
    ours, theirs = os.openpty()
    process = store.start("tail", "ppo", "--since", "0", stdout=theirs)
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as terminal:
        assert "<step 0: action" in terminal.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 130


def test_on_a_terminal_ls_is_a_table(store: Store) -> None:
    ours, theirs = os.openpty()
    process = store.start("ls", "--last", 1, stdout=theirs)
    process.wait(60)
    os.close(theirs)
    with os.fdopen(ours) as terminal:
        assert terminal.readline().split() == [
            *("episode", "run", "environment", "status", "steps", "return", "began")
        ]
        assert "odd\\x1b[2J" in terminal.readline()
    assert process.communicate()[1] == ""


def test_on_a_terminal_rm_asks(store: Store, ids: list[str]) -> None:
    ours, theirs = os.openpty()
    os.write(ours, b"n\n")
    process = store.start("rm", ids[0], stdin=theirs)
    printed, said = process.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)
    assert (process.returncode, printed) == (1, "")
    assert said.startswith("delete 1 episode with ")
    assert said.endswith("for good. Do it? [y/N]: nothing was changed\n")
    assert store.run("show", ids[0]).exit_code == 0
