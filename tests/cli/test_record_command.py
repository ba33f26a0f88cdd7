"""`jamboree-gym record`, `train` and `what-if`: new episodes from a shell."""

from __future__ import annotations

import importlib
import json
import uuid
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import Server
from gymnasium.envs.registration import EnvSpec
from processes import wait_until
from recorded_store import WARM_STREAMS, Store
from stable_baselines3 import A2C
from warm import run_warm

from jamboree_gym.servers.embedded import stop_servers

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    """A training of 60 timesteps, and two episodes under a random policy."""
    made = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    learnt = made.run("train", "CartPole-v1", "--algo", "a2c", "--timesteps", 60, "--run", "learnt")
    assert learnt.exit_code == 0, learnt.output
    assert learnt.stdout.startswith("learnt (stopped): ")
    recorded = made.run(
        *("record", "CartPole-v1", "--episodes", 2, "--run", "trial", "--seed", 3),
        *("--tag", "by=hand", "--arg", "sutton_barto_reward=true"),
    )
    assert recorded.exit_code == 0, recorded.output
    assert recorded.stdout.startswith("run trial: 2 episodes, ")
    return made


def test_what_is_recorded_is_as_it_was_asked_for(store: Store) -> None:
    first, second = store.objects("ls", "--run", "trial")
    assert (first["seed"], second["seed"]) == (3, 4)
    assert first["tags"] == {"policy": "random", "by": "hand"}
    assert first["episode_return"] == -1.0  # of sutton_barto_reward
    assert store.run("verify", "--run", "trial").exit_code == 0


def test_a_seed_makes_it_repeatable(store: Store) -> None:
    args = ("record", "CartPole-v1", "--seed", 7, "--run")
    ids = [store.objects(*args, name)[0]["episodes"][0] for name in ("a", "b")]
    assert store.run("diff", *ids).exit_code == 0


def test_a_training_has_episodes_and_a_checkpoint(store: Store) -> None:
    (run,) = store.objects("run", "learnt")
    assert run["checkpoint"]["timesteps"] == 60
    assert run["steps"] == 60


def test_a_recording_that_is_told_to_end_delivers_what_it_has(store: Store) -> None:
    process = store.start("record", "CartPole-v1", "--episodes", 10**6, "--run", "told")
    with store.open() as jam:
        wait_until(lambda: "told" in [one.name for one in jam.runs().summaries()])
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    (newest,) = store.objects("ls", "--run", "told", "--last", 1)
    assert newest["status"] in {"abandoned", "terminated"}


def test_policies_are_a_function_or_a_file(
    store: Store, as_in_a_shell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(as_in_a_shell)
    (as_in_a_shell / "pushing.py").write_text("def left(observation):\n    return 0\n")
    importlib.invalidate_caches()
    pushed = store.objects("record", "CartPole-v1", "--policy", "pushing:left")[0]["episodes"][0]
    assert {line[1] for line in store.lines("find", pushed, "index >= 0")} == {"0"}
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save("model.zip")
    arguments = ("record", "CartPole-v1", "--policy", "model.zip", "--max-steps", 20)
    drawn = [
        store.objects(*arguments, "--algo", "a2c", "--seed", 5)[0]["episodes"][0] for _ in range(2)
    ]
    assert store.run("diff", *drawn).exit_code == 0


class ClosesOnce(gym.Wrapper):
    """Refuses to be closed twice, as simulators in other processes do."""

    is_closed = False

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True
        super().close()


def closes_once() -> gym.Env:
    return ClosesOnce(gym.make("CartPole-v1"))


def test_an_environment_is_closed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "test/Once-v0", EnvSpec("test/Once-v0", closes_once))
    done = store.run("record", "test/Once-v0")
    assert (done.exit_code, done.exception) == (0, None)


def fails() -> gym.Env:
    raise ValueError("a wire is loose")


def test_a_module_that_ends_its_process_and_an_environment_that_fails_are_said(
    store: Store, as_in_a_shell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(as_in_a_shell)
    (as_in_a_shell / "ending.py").write_text("import sys\nsys.exit(0)\n")
    importlib.invalidate_caches()
    monkeypatch.setitem(gym.registry, "test/Failing-v0", EnvSpec("test/Failing-v0", fails))
    for arguments, said in (
        (["record", "CartPole-v1", "--import", "ending"], "--import ending: SystemExit: 0"),
        (["record", "CartPole-v1", "--policy", "ending:play"], "--policy ending:play: SystemExit"),
        (["train", "test/Failing-v0"], "test/Failing-v0 cannot be made: a wire is loose"),
    ):
        failed = store.run(*arguments)
        assert (failed.exit_code, failed.stdout) == (2, "")
        assert said in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["record", "CartPole-v1", "--policy", "best"], "give random, a .zip file, or"),
        (["record", "CartPole-v1", "--policy", "none.zip"], "there is no such file"),
        (["record", "CartPole-v1", "--policy", "nomod:x"], "No module named 'nomod'"),
        (["record", "CartPole-v1", "--policy", "os:nothing"], "has no attribute 'nothing'"),
        (["record", "No-v3"], "No-v3 cannot be made: "),
        (["record", "CartPole-v1", "--arg", "wings=2"], "CartPole-v1 cannot be made: "),
        (["train", "CartPole-v1", "--algo", "magic"], "no algorithm 'magic'; there are a2c, "),
        (["train", "CartPole-v1", "--algo", "sac"], "SAC cannot be trained on CartPole-v1: "),
        (["train", "No-v3"], "No-v3 cannot be made: "),
        (["what-if", "@last", "--step", 1], "say which policy"),
        (["what-if", "@last", "--step", 4000, "--policy", "random"], "--step 4000: episode"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(
    store: Store, arguments: list[object], said: str
) -> None:
    failed = store.run(*arguments)
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_if_has_the_returns_that_would_have_followed(store: Store) -> None:
    episode = store.objects("ls", "--run", "learnt")[0]["id"]
    arguments = ("what-if", episode, "--step", 2, "-n", 4, "--max-steps", 5)
    found = store.objects(*arguments, "--checkpoint", 0, "--draw")[0]
    assert (found["step"], len(found["returns"]), max(found["lengths"])) == (2, 4, 5)
    shown = store.run(*arguments, "--policy", "random", "--record").stdout.splitlines()
    assert shown[0].startswith(f"episode {episode} from step 2 on, 4 times: return ")
    assert shown[-1].startswith("returns ")
    assert len(store.lines("ls", "--forks", "--tag", "what_if=2")) == 4
    again = [store.objects(*arguments, "--policy", "random")[0]["returns"] for _ in range(2)]
    assert again[0] == again[1]
    gone = store.run(*arguments, "--checkpoint", 99)
    assert (gone.exit_code, "no checkpoint" in gone.stderr) == (1, True)


def test_without_stable_baselines3_the_error_has_the_line_to_install(store: Store) -> None:
    arguments = store.command("train", "CartPole-v1")
    done = run_warm(
        f"{WARM_STREAMS}\n"
        "sys.modules['stable_baselines3'] = None\n"
        "from jamboree_gym.cli import main\n"
        f"sys.argv = ['jamboree-gym', *{arguments!r}, '--redis-url', {store.redis_url!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    print(end.code)\n"
    )
    assert done.stdout == "2\n"
    assert "pip install 'jamboree-gym[sb3]'" in done.stderr


def test_a_home_that_is_not_there_is_made(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAMBOREE_REDIS_URL", raising=False)
    home = short_directory / "new-home"
    program = (
        f"{WARM_STREAMS}\n"
        "from jamboree_gym.cli import main\n"
        "sys.argv = ['jamboree-gym', 'record', 'CartPole-v1', '--json', '--home', "
        f"{str(home)!r}]\n"
        "main()\n"
    )
    try:
        assert len(json.loads(run_warm(program).stdout)["episodes"]) == 1
    finally:
        stop_servers(home)
