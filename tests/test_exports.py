from __future__ import annotations

import importlib

import pytest

import jamboree_gym

PUBLIC = {
    "jamboree_gym": [
        "DBHandler",
        "Episode",
        "EpisodeData",
        "EpisodeHandler",
        "EpisodeSummary",
        "Jamboree",
        "StepData",
        "Transitions",
        "register_value",
        "timecontext",
    ],
    "jamboree_envs": ["register_envs"],
    "jamboree_gym.backup": [
        "Backup",
        "BackupReport",
        "BackupStatus",
        "RetentionPolicy",
        "Trimmed",
        "WouldEvict",
    ],
    "jamboree_gym.errors": [
        "BackupMismatch",
        "BufferMismatch",
        "CheckpointNotFound",
        "ColumnConflict",
        "DecodeError",
        "EmbeddedServerError",
        "EpisodeInUse",
        "EpisodeNotFound",
        "ExportError",
        "InvalidArgument",
        "InvalidExpression",
        "InvalidRecord",
        "InvalidUrl",
        "JamboreeClosed",
        "JamboreeError",
        "MissingExtra",
        "NotCopyable",
        "NotReset",
        "ReplayArgument",
        "ReplayError",
        "ReplayMismatch",
        "RunNotFound",
        "StoreFull",
        "StoreUnavailable",
        "UnknownKey",
        "UnsavedRecords",
        "UnsupportedServer",
        "UnsupportedSpace",
    ],
    "jamboree_gym.integrations.datasets": ["from_datasets", "to_datasets"],
    "jamboree_gym.integrations.hdf5": ["from_hdf5", "to_hdf5"],
    "jamboree_gym.integrations.lerobot": ["to_lerobot"],
    "jamboree_gym.integrations.minari": ["from_minari", "to_minari"],
    "jamboree_gym.integrations.rlds": ["from_rlds", "to_rlds"],
    "jamboree_gym.integrations.sb3": [
        "JamboreeCallback",
        "JamboreeReplayBuffer",
        "PrioritizedSamples",
        "Trajectory",
        "Unsaved",
        "VecRecordEpisodes",
        "fill_replay_buffer",
        "to_replay_buffer",
        "to_trajectories",
    ],
    "jamboree_gym.integrations.telemetry": ["observe"],
    "jamboree_gym.integrations.torchrl": ["tensordicts", "to_replay_buffer", "to_tensordict"],
    "jamboree_gym.wrappers": ["RecentTransactionsObservation", "RecordEpisodes"],
    "jamboree_gym.wrappers.vector": ["RecentTransactionsObservation", "RecordEpisodes"],
    "jamboree_gym.multi_agent": [
        "JointEpisode",
        "JointFork",
        "JointReport",
        "JointWhatIf",
        "RecordAEC",
        "RecordParallel",
        "ReplayAEC",
        "ReplayParallel",
        "Turn",
        "fork",
        "joint_episodes",
        "verify",
        "video",
        "what_if",
    ],
    "jamboree_gym.replay": [
        "Change",
        "ForkedEnv",
        "Mismatch",
        "ReplayEnv",
        "ReplayVectorEnv",
        "ReplayedStep",
        "Reproducibility",
        "Snapshotable",
        "VerifyReport",
        "VerifyReports",
        "Video",
        "WhatIf",
        "check_reproducible",
        "fork",
        "replay_steps",
        "verify",
        "video",
        "what_if",
    ],
}

PUBLIC["jamboree_gym"] = sorted([*PUBLIC["jamboree_gym"], *PUBLIC["jamboree_gym.errors"]])

NEED_TORCH = {"jamboree_gym.integrations.sb3", "jamboree_gym.integrations.torchrl"}
MODULES = [
    pytest.param(module, marks=[pytest.mark.torch] if module in NEED_TORCH else [])
    for module in sorted(PUBLIC)
]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_these_and_no_others(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == PUBLIC[module]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_exists_and_is_documented(module: str) -> None:
    loaded = importlib.import_module(module)

    assert [name for name in loaded.__all__ if not getattr(loaded, name).__doc__] == []


def names_of(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def test_a_jamboree_shows_what_a_user_needs() -> None:
    assert names_of(jamboree_gym.Jamboree) == [
        *("atail", "backup", "close", "diff", "episode", "episodes", "flush"),
        *("joint_episode", "joint_episodes", "mongo", "recent"),
        *("record", "redis", "run", "runs", "tail", "ui"),
    ]


def test_an_episode_shows_what_a_user_needs() -> None:
    assert names_of(jamboree_gym.Episode) == [
        *("action_space", "as_of", "atail", "between", "children", "data", "delete", "diff"),
        *(
            "find",
            "flag",
            "flags",
            "fork",
            "frame",
            "lineage",
            "observation_space",
            "origin",
            "parent",
            "play",
        ),
        *("predecessor", "provenance", "recent", "renders", "snapshots", "status", "steps"),
        *("summary", "table", "tail", "unflag", "verify", "video", "what_if"),
    ]


@pytest.mark.parametrize("name", ["record", "JamboreeCallback", "verify"])
def test_a_name_that_is_elsewhere_says_where(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"has no attribute {name!r}: .*{name}"):
        getattr(jamboree_gym, name)
