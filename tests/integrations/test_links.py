"""Other tools learn which run it is: TensorBoard really, the others as far as they are loaded."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trained import CASES, one_thread

from jamboree_gym import Jamboree

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def learn(jam: Jamboree, **options: Any) -> None:
    from jamboree_gym.integrations.sb3 import JamboreeCallback

    case = CASES["PPO"]
    model = case.model(jam.record(case.make_venv(), run="my run"), **options)
    model.learn(64, callback=JamboreeCallback(jam))


def test_tensorboard_shows_the_run(jam: Jamboree, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn(jam, tensorboard_log=str(tmp_path))
    (folder,) = tmp_path.iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()

    (event,) = events.Tensors("jamboree/run/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert text.startswith("my run (jamboree://")
    assert text.endswith(f"/{jam._connection.keyspace.namespace}/my%20run)")
    assert [tag for tag in events.Tags()["tensors"] if "jamboree" in tag] == [
        "jamboree/run/text_summary"
    ]
    assert not [tag for tag in events.Tags()["scalars"] if "jamboree" in tag]


def test_a_tool_that_fails_is_a_warning(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(types.ModuleType):
        def active_run(self) -> None:
            raise RuntimeError("no server")

    monkeypatch.setitem(sys.modules, "mlflow", Broken("mlflow"))
    with caplog.at_level(logging.WARNING, "jamboree_gym"):
        learn(jam)

    assert "MLflow was not told of the run: RuntimeError('no server')" in caplog.text
    assert jam.run("my run").info["how"] == "finished"
