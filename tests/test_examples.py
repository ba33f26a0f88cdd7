"""The examples do what they say."""

import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.arrays.values import decode_value
from jamboree_gym.servers.embedded import stop_servers

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]  # a busy machine takes its time

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("JAMBOREE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    stop_servers(tmp_path / "home")


def load_example(name: str):
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.vaex
def test_the_readme_loop_prints_its_time_and_all_its_records_reach_redis_and_mongo(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random.seed(3)
    handler = load_example("sample_env").main()
    assert "it took" in capsys.readouterr().out
    check_that_all_records_reached_redis_and_mongo(handler, at_least=10_000)
    handler.event.close()


@pytest.mark.vaex
def test_a_twentieth_of_the_readme_loop_does_the_same(
    jam: Jamboree, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load_example("sample_env")
    example.Jamboree = lambda: jam
    example.range = lambda rounds: range(rounds // 20)
    random.seed(3)
    handler = example.main()
    assert "it took" in capsys.readouterr().out
    check_that_all_records_reached_redis_and_mongo(handler, at_least=500)


def check_that_all_records_reached_redis_and_mongo(handler: DBHandler, at_least: int) -> None:
    jam = handler.event
    records = handler.many(2 * at_least)
    assert len(records) == handler.count() > at_least
    assert [record["index"] for record in records] == list(range(len(records)))

    jam.backup.flush()
    kept = records_in_mongo(jam)
    assert len(kept) == len(records)
    for in_redis, in_mongo in zip(records, kept, strict=True):
        assert {"value": in_redis["value"]} == in_mongo


def records_in_mongo(jam: Jamboree) -> list[dict]:
    """Every record of every chunk, read with pymongo, in order."""
    from jamboree_gym.encoding.batch_format import decode_batch

    found = []
    for chunk in jam.mongo["chunks"].find().sort("_id", 1):
        batch = decode_batch(chunk["content"], where=chunk["_id"])
        found += decode_value(bytes(batch.body[batch.count * 8 :]), where=chunk["_id"])
    return found


@pytest.mark.vaex
def test_balance_is_the_sum_of_the_last_three_values(jam: Jamboree) -> None:
    handler = load_example("sample_env").SampleEnvHandler()
    handler.event = jam
    handler["episode"] = "balance"
    balances = []
    for value in (5, 7, 11, 2):
        handler.save({"value": value})
        balances.append(handler.balance)
    assert balances == [5, 12, 23, 20]


@pytest.mark.vaex
def test_transactions_are_the_newest_of_the_limit_newest_first(jam: Jamboree) -> None:
    handler = load_example("sample_env").SampleEnvHandler()
    handler.event = jam
    handler["episode"] = "transactions"
    handler.limit = 4
    for value in range(10):
        handler.save({"value": value})
    assert handler.transactions["value"].tolist() == [9, 8, 7, 6]
    handler.save_update_recent({"value": 100})
    assert handler.last()["value"] == 104


@pytest.mark.torch
def test_the_demo_holds_all_its_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo.py", "--timesteps", "2048"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    load_example("demo").main()
    said = capsys.readouterr().out
    assert "✗" not in said
    assert said.count("✓") == 10
    assert list(tmp_path.glob("jamboree-*")) == []


WITHOUT_SECANTUS = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "secantus":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
"""


@pytest.mark.long
@pytest.mark.torch
@pytest.mark.parametrize("backup", ["SecantusDB, the embedded", "the folder"])
def test_the_demo_runs_as_make_runs_it_and_says_what_its_backup_is(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, backup: str
) -> None:
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(WITHOUT_SECANTUS if backup == "the folder" else "")
    paths = os.pathsep.join([str(site), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/demo.py"), "--timesteps", "2048"],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the backup is {backup}" in done.stdout
    assert "✗" not in done.stdout
    assert done.stdout.count("✓") == 10
    assert list(tmp_path.glob("jamboree-*")) == []


def test_what_if_prints_what_would_have_come_and_verifies_what_it_tried(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/what_if.py")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"from step 20 on, 200 times: return \d", done.stdout)
    assert re.search(r"the first 2\d steps are equal; then action at step 2\d: ", done.stdout)
    assert re.search(r"\d+ steps are equal, bit for bit$", done.stdout.strip())


@pytest.mark.long
@pytest.mark.torch
def test_recent_transactions_plots_both_agents_and_prints_their_intervals(tmp_path: Path) -> None:
    options = [
        "--seeds",
        "2",
        "--timesteps",
        "512",
        "--workers",
        "1",
        "--output",
        str(tmp_path / "plot.png"),
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/recent_transactions.py"), *options],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    numbers = re.findall(r"^(.+?) {2,}(\d+\.\d)", done.stdout, re.MULTILINE)
    assert [label for label, _ in numbers] == [
        "sees its last three actions",
        "sees the demand",
        "best without memory (exact)",
        "best possible (exact)",
    ]
    assert all(0 < float(mean) < 78.5 for _, mean in numbers)


def balance_the_pole(jam: Jamboree, run: str, episodes: int) -> int:
    """Record what follows one rule; the number of steps."""
    env = jam.record(gym.make("CartPole-v1", max_episode_steps=60), run=run)
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        done = False
        while not done:
            action = falls_to_the_right(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
    env.close()
    jam.flush()
    return recorded_steps(jam, run)


def falls_to_the_right(observation: np.ndarray) -> int:
    return int(observation[2] + 0.3 * observation[3] > 0)


def recorded_steps(jam: Jamboree, run: str) -> int:
    return sum(summary.steps for summary in jam.episodes(run=run).summaries())


@pytest.mark.torch
def test_offline_records_what_ppo_plays_and_takes_only_episodes_that_ended(jam: Jamboree) -> None:
    offline = load_example("offline")
    offline.record(jam, "ppo", "CartPole-v1", 1024)

    assert recorded_steps(jam, "ppo") == 1024
    ends = {summary.status for summary in offline.dataset(jam, "ppo").summaries()}
    assert ends == {"terminated"}


@pytest.mark.torch
def test_a_clone_does_as_recorded_in_episodes_that_it_has_not_seen(jam: Jamboree) -> None:
    offline = load_example("offline")
    balance_the_pole(jam, "seen", 60)
    balance_the_pole(jam, "unseen", 4)
    models = offline.learn_bc(jam.episodes(run="seen"), seed=0, every=300)
    data = [episode.data() for episode in jam.episodes(run="unseen")]
    observations = np.concatenate([one.observations[:-1] for one in data])
    actions = np.concatenate([one.actions for one in data])
    model = next(models)
    early = negative_log_likelihood(model, observations, actions)
    next(models)

    assert negative_log_likelihood(model, observations, actions) < early
    predicted, _ = model.predict(observations, deterministic=True)
    assert np.mean(predicted == actions) > 0.9


def negative_log_likelihood(model, observations: np.ndarray, actions: np.ndarray) -> float:
    import torch

    with torch.no_grad():
        of_them = torch.as_tensor(observations), torch.as_tensor(actions)
        return -model.policy.evaluate_actions(*of_them)[1].mean().item()


@pytest.mark.torch
def test_the_target_of_dqn_follows_without_an_environment(jam: Jamboree) -> None:
    offline = load_example("offline")
    balance_the_pole(jam, "data", 2)
    models = offline.learn_dqn(jam.episodes(run="data"), seed=0, every=1, n_steps=20)
    targets = [next(iter(next(models).q_net_target.parameters())).clone() for _ in range(2)]

    assert not targets[0].equal(targets[1])


@pytest.mark.torch
def test_what_offline_trains_with_has_the_stored_spaces_and_cannot_be_played(jam: Jamboree) -> None:
    offline = load_example("offline")
    balance_the_pole(jam, "data", 1)
    env = offline.spaces_of(jam.episodes(run="data")[0])

    assert env.observation_space == gym.make("CartPole-v1").observation_space
    assert env.action_space == gym.make("CartPole-v1").action_space
    with pytest.raises(NotImplementedError):
        env.step(0)


@pytest.mark.long
@pytest.mark.torch
def test_offline_trains_from_a_stored_run_and_adds_no_step_to_it(
    home: Path, tmp_path: Path
) -> None:
    with Jamboree() as jam:
        steps = balance_the_pole(jam, "mine", 20)
        returns = jam.episodes(run="mine").summary_table()["episode_return"].to_numpy()
        picture = tmp_path / "plot.png"
        options = ["--run=mine", "--seeds=2", "--every=10", "--points=2", "--workers=1"]
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/offline.py"), *options, "--output", str(picture)],
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "recording" not in done.stderr
        assert f"20 episodes, {steps:,} steps" in done.stderr
        assert recorded_steps(jam, "mine") == steps
    assert picture.read_bytes().startswith(b"\x89PNG")
    numbers = dict(re.findall(r"^(.+?) {2,}(\d+\.\d)", done.stdout, re.MULTILINE))
    assert list(numbers) == [
        "BC of the best tenth",
        "DQN, 20-step returns",
        "DQN, one-step returns",
        "mean recorded",
        "best recorded",
    ]
    assert float(numbers["mean recorded"]) == pytest.approx(returns.mean(), abs=0.05)
    assert float(numbers["best recorded"]) == returns.max()
    assert all(0 < float(mean) <= 500 for mean in numbers.values())
