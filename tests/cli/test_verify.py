"""`jamboree-gym verify`: some commands in a process of their own, as a user or CI runs it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import Server
from forged import forge_provenance
from processes import PATHS
from typer.testing import CliRunner, Result

from jamboree_gym import Jamboree
from jamboree_gym.cli import app

PROGRAM = "from jamboree_gym.cli import main; main()"
ENVS = """
import gymnasium as gym
import numpy as np

class CountEnv(gym.Env):
    observation_space = gym.spaces.Box(-9, 9, (2,))
    action_space = gym.spaces.Discrete(2)
    off = {off}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.seen(), {{"lives": 3 + self.off}}

    def step(self, action):
        self.count += 1
        return self.seen(), 1.0, False, self.count == 3, {{"lives": 3}}

    def seen(self):
        return np.array([self.count, self.off if self.count == 2 else 0], np.float32)

gym.register("Count-v0", entry_point=CountEnv)
"""


class Shell:
    """A working directory with the module `count_envs`, and a store."""

    def __init__(self, directory: Path, url: str, namespace: str) -> None:
        self.directory, self.url, self.namespace = directory, url, namespace
        self.write(off=0)

    def write(self, off: float) -> None:
        """The module, as it is from now on."""
        (self.directory / "count_envs.py").write_text(ENVS.format(off=off))

    def record(self, *names: str) -> None:
        """An episode of each environment."""
        with self.as_a_process(), Jamboree(self.url, namespace=self.namespace) as jam:
            importlib.import_module("count_envs")
            for name in names:
                env = jam.record(gym.make(name), run="cli")
                env.action_space.seed(1)
                env.reset(seed=1)
                is_over = False
                while not is_over:
                    *_, terminated, truncated, _ = env.step(env.action_space.sample())
                    is_over = terminated or truncated
                env.close()

    def verify(self, *arguments: object) -> Result:
        """The command, in this process."""
        return self.run(*self.command(*arguments))

    def run(self, *arguments: str) -> Result:
        """Any command, in this process."""
        with self.as_a_process():
            return CliRunner().invoke(app, arguments)

    @contextmanager
    def as_a_process(self) -> Iterator[None]:
        """What comes next does not find `count_envs`, but where it imports it anew."""
        importlib.invalidate_caches()
        yield
        sys.modules.pop("count_envs", None)
        gym.registry.pop("Count-v0", None)

    def verify_in_a_process(
        self, *arguments: object, stderr: int = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        """The command, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *self.command(*arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            check=False,
            timeout=60,
        )

    def command(self, *arguments: object) -> list[str]:
        return ["verify", "--namespace", self.namespace, *map(str, arguments)]


@pytest.fixture
def shell(as_in_a_shell: Path, valkey: Server, namespace: str) -> Shell:
    return Shell(as_in_a_shell, valkey.url, namespace)


def test_all_equal_is_exit_code_0(shell: Shell) -> None:
    shell.record("CartPole-v1", "Count-v0")

    done = shell.verify_in_a_process("--import", "count_envs", "--workers", 2, "--all-infos")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 of 2 episodes are equal; ")
    assert done.stderr == ""  # nobody looks: no progress bar


def test_a_difference_is_exit_code_1_and_a_line_and_on_a_terminal_there_is_a_progress_bar(
    shell: Shell,
) -> None:
    shell.record("CartPole-v1", "Count-v0")
    shell.write(off=1)
    ours, theirs = os.openpty()

    done = shell.verify_in_a_process("--import", "count_envs", "-o", "out.json", stderr=theirs)
    os.close(theirs)

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "differs: observation[1] at step 1: recorded 0.0, now 1.0" in lines[0]
    assert lines[1].startswith("  changed since it was recorded: ")
    assert lines[2].startswith("1 of 2 episodes are equal, 1 differ; ")
    content = json.loads((shell.directory / "out.json").read_text())
    assert content["reports"][1]["mismatch"]["leaf"] == "observation[1]"
    assert b"verifying" in os.read(ours, 4096)
    os.close(ours)


def test_what_could_not_be_checked_is_exit_code_2(shell: Shell) -> None:
    shell.record("Count-v0")

    done = shell.verify()

    assert done.exit_code == 2
    assert "'Count-v0' is not registered here: it came from the module count_envs" in done.stdout
    assert shell.verify("--trust-entry-point").exit_code == 0


def test_nothing_to_check_is_exit_code_2(shell: Shell) -> None:
    done = shell.verify("--env-id", "none")

    assert done.exit_code == 2
    assert done.stdout.startswith("0 of 0 episodes are equal")


def test_a_misspelt_run_is_said_with_exit_code_2(shell: Shell) -> None:
    done = shell.verify("--run", "misspelt")

    assert done.exit_code == 2
    assert "no run 'misspelt'" in done.stderr


def test_episodes_are_chosen(shell: Shell) -> None:
    shell.record("CartPole-v1", "Count-v0", "Count-v0")
    with Jamboree(shell.url, namespace=shell.namespace) as jam:
        ids = jam.episodes(run="cli").ids()

    def checked(*arguments: object) -> list[str]:
        shell.verify("--import", "count_envs", "-o", "out.json", *arguments)
        content = json.loads((shell.directory / "out.json").read_text())
        return [report["episode_id"] for report in content["reports"]]

    assert checked("--limit", 1) == ids[:1]
    assert checked("--last", 2) == ids[1:]
    assert checked("--env-id", "Count-v0", "--last", 1) == ids[2:]
    assert checked(ids[2], ids[0]) == [ids[2], ids[0]]


def test_tolerance_and_infos_are_handed_on(shell: Shell) -> None:
    shell.record("Count-v0")
    shell.write(off=0.125)

    assert shell.verify("--import", "count_envs").exit_code == 1
    assert shell.verify("--import", "count_envs", "--atol", 0.2).exit_code == 0
    assert shell.verify("--import", "count_envs", "--rtol", 0.2).exit_code == 1
    done = shell.verify("--import", "count_envs", "--atol", 0.1, "--info", "lives")
    assert 'info["lives"] at reset: recorded 3, now 3.125' in done.stdout
    done = shell.verify("--import", "count_envs", "--atol", 0.2, "--info", "livs")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (2, "no episode has these infos: livs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--import", "no_such_module"], "error: --import no_such_module: ModuleNotFoundError"),
        (["-o", "no/such/folder"], "error: -o no/such/folder cannot be written: No such"),
    ],
)
def test_an_error_is_two_lines_at_most_and_exit_code_2(
    shell: Shell, arguments: list[str], said: str
) -> None:
    failed = shell.verify(*arguments)

    assert failed.exit_code == 2
    assert failed.stderr.startswith(said)
    assert len(failed.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    "arguments",
    [["someid", "--run", "x"], ["--limit", "1", "--last", "1"], ["--workers", "0"], ["--atol=-1"]],
)
def test_what_cannot_be_meant_is_exit_code_2(shell: Shell, arguments: list[str]) -> None:
    assert shell.verify(*arguments).exit_code == 2


def test_what_a_terminal_obeys_is_not_printed(shell: Shell) -> None:
    shell.record("CartPole-v1")

    def change(provenance: Any) -> None:
        wrapper = {"name": "x", "entry_point": "esc\x1b[2J:X", "kwargs": {}}
        provenance["env_spec"]["additional_wrappers"].append(wrapper)

    with Jamboree(shell.url, namespace=shell.namespace) as jam:
        forge_provenance(jam, jam.episodes().first(), change)

    done = shell.verify()

    assert done.exit_code == 2
    assert "recorded through esc\\x1b[2J:X, which cannot be rebuilt" in done.stdout
    assert "\x1b" not in done.stdout


def test_what_cannot_be_rebuilt_is_handed_over(shell: Shell) -> None:
    shell.record("CartPole-v1")
    made = "import gymnasium as gym\ndef make():\n    return gym.make('CartPole-v1')\n"
    (shell.directory / "handed.py").write_text(made)

    assert shell.verify("--make", "handed:make").exit_code == 0
    assert shell.verify("--arg", "sutton_barto_reward=false").exit_code == 0
    assert shell.verify("--arg", "sutton_barto_reward=true").exit_code == 1
    for make, message in (("handed", "give module:function"), ("handed:absent", "AttributeError")):
        done = shell.verify("--make", make)
        assert (done.exit_code, message in done.stderr) == (2, True)


HANDED = """
import gymnasium as gym
from gymnasium.wrappers import TransformReward

def make():
    return TransformReward(gym.make("CartPole-v1"), lambda reward: 2 * reward)
"""


def test_forks_take_what_cannot_be_rebuilt(shell: Shell) -> None:
    (shell.directory / "doubled.py").write_text(HANDED)
    with Jamboree(shell.url, namespace=shell.namespace) as jam:
        env = jam.record(gym.wrappers.TransformReward(gym.make("CartPole-v1"), doubled), run="cli")
        env.reset(seed=1)
        for action in (0, 1, 0, 1):
            env.step(action)
        env.close()
    store = ("--namespace", shell.namespace)
    what_if = ("what-if", "@last", "--step", "2", "-n", "2", "--max-steps", "3", "--json")

    refused = shell.run("fork", "@last", "--step", "2", *store)
    assert (refused.exit_code, "--make module:function" in refused.stderr) == (1, True)
    assert len(refused.stderr.splitlines()) == 2
    forked = shell.run("fork", "@last", "--step", "2", "--make", "doubled:make", *store)
    assert forked.exit_code == 0, forked.output
    assert forked.stdout.startswith("import doubled\nfrom jamboree_gym")
    assert ".fork(2, make=doubled.make)" in forked.stdout
    code = forked.stdout
    with shell.as_a_process():
        names: dict[str, Any] = {}
        exec(code, names)
        names["env"].close()
        names["jam"].close()
    assert names["reward"] == 2.0
    continued = shell.run(*what_if, "--policy", "random", "--make", "doubled:make", *store)
    assert json.loads(continued.stdout)["returns"] == [6.0, 6.0]


def doubled(reward: Any) -> float:
    return 2 * float(reward)


def test_forks_take_arguments_of_the_environment(shell: Shell) -> None:
    shell.record("CartPole-v1")
    store = ("--namespace", shell.namespace)
    fork = ("fork", "@last", "--step", "2", "--arg")
    what_if = ("what-if", "@last", "--step", "2", "--policy", "random", "-n", "1", "--arg")

    same = shell.run(*fork, "sutton_barto_reward=false", *store)
    assert ".fork(2, env_kwargs={'sutton_barto_reward': False})" in same.stdout
    for command in (fork, what_if):
        other = shell.run(*command, "sutton_barto_reward=true", *store)
        assert (other.exit_code, "reward at step 0" in other.stderr) == (1, True), other.output
        assert len(other.stderr.splitlines()) <= 2
