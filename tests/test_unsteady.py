"""`.ci/unsteady.py`: a test that fails again fails CI, and so do many that fail."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.once


@pytest.fixture
def unsteady(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("unsteady", ROOT / ".ci/unsteady.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TIMES", 2)
    return module


TESTS = """
from pathlib import Path

ran = Path(__file__).with_name("ran")

def test_right(): pass

def test_wrong(): assert False

def test_wrong_the_first_time():
    ran.open("a").write("once ")
    assert ran.read_text() != "once "

def test_right_the_second_time_alone():
    ran.open("a").write("once ")
    assert ran.read_text() == "once once "

def test_also_wrong(): assert False

def test_wrong_as_well(): assert False
"""


@pytest.mark.parametrize(
    ("chosen", "is_chance", "said"),
    [
        ("first_time", True, "UNSTEADY"),
        ("second_time", False, "failed again, alone, at try 2"),
        ("first_time or test_wrong", False, "too many to be chance"),
        ("nothing of this name", False, "no test failed"),
    ],
)
def test_what_failed_once_is_unsteady_if_it_passes_alone(
    unsteady: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    chosen: str,
    is_chance: bool,
    said: str,
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-k", chosen]
    subprocess.run([*command, f"--rootdir={tmp_path}"], cwd=tmp_path, capture_output=True)
    assert unsteady.main(sys.executable, report, tmp_path) is is_chance
    assert said in capsys.readouterr().out
