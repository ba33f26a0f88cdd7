"""The examples do what they say."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jamboree_gym import Jamboree
from jamboree_gym.store.embedded import stop_servers
from jamboree_gym.values import decode_value

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("JAMBOREE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    stop_servers(tmp_path / "home")


def load_sample_env():
    import importlib.util

    spec = importlib.util.spec_from_file_location("sample_env", ROOT / "examples/sample_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.vaex
def test_the_readme_loop_prints_its_time_and_all_its_records_reach_redis_and_mongo(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random.seed(3)
    handler = load_sample_env().main()
    assert "it took" in capsys.readouterr().out

    jam = handler.event
    records = handler.many(20_000)
    assert len(records) == handler.count() > 10_000
    assert [record["index"] for record in records] == list(range(len(records)))

    jam.backup.flush()
    kept = records_in_mongo(jam)
    assert len(kept) == len(records)
    for in_redis, in_mongo in zip(records, kept, strict=True):
        assert {"value": in_redis["value"]} == in_mongo
    jam.close()


def records_in_mongo(jam: Jamboree) -> list[dict]:
    """Every record of every chunk, read with pymongo, in order."""
    from jamboree_gym.codec import decode_frame

    found = []
    for chunk in jam.mongo["chunks"].find().sort("_id", 1):
        frame = decode_frame(chunk["content"], where=chunk["_id"])
        found += decode_value(bytes(frame.body[frame.count * 8 :]), where=chunk["_id"])
    return found


@pytest.mark.vaex
def test_balance_is_the_sum_of_the_last_three_values(jam: Jamboree) -> None:
    handler = load_sample_env().SampleEnvHandler()
    handler.event = jam
    handler["episode"] = "balance"
    balances = []
    for value in (5, 7, 11, 2):
        handler.save({"value": value})
        balances.append(handler.balance)
    assert balances == [5, 12, 23, 20]


@pytest.mark.vaex
def test_transactions_are_the_newest_of_the_limit_newest_first(jam: Jamboree) -> None:
    handler = load_sample_env().SampleEnvHandler()
    handler.event = jam
    handler["episode"] = "transactions"
    handler.limit = 4
    for value in range(10):
        handler.save({"value": value})
    assert handler.transactions["value"].tolist() == [9, 8, 7, 6]
    handler.save_update_recent({"value": 100})
    assert handler.last()["value"] == 104


@pytest.mark.torch
def test_the_demo_holds_all_its_checks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/demo.py"), "--timesteps", "2048"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
        timeout=110,
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
