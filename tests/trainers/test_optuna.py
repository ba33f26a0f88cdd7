"""Trials of Optuna in parallel processes record into one store."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from conftest import Server
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from run_example import run_example

from jamboree_gym import Jamboree

pytestmark = pytest.mark.timeout(300)  # a busy machine takes its time

TRIALS = 4


def test_each_trial_is_a_run_that_has_its_parameters_as_tags(
    valkey: Server, namespace: str, tmp_path: Path
) -> None:
    options = ("--study", namespace, "--trials", TRIALS, "--processes", 2)
    said = run_example("optuna_trials", *options, redis_url=valkey.url, folder=tmp_path)

    assert f"{TRIALS} trials, {TRIALS * 5} episodes" in said
    assert "equal, bit for bit" in said
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    study = optuna.load_study(study_name=namespace, storage=storage)
    with Jamboree(valkey.url, backup=False) as jam:
        for trial in study.trials:
            summaries = jam.episodes(run=trial.user_attrs["run"]).summaries()
            returns = [one.episode_return for one in summaries]
            assert sum(returns) / len(returns) == trial.value
            assert all(one.tags["trial"] == trial.number for one in summaries)
            assert all(trial.params.items() <= one.tags.items() for one in summaries)
