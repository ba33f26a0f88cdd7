"""Every step of a Gymnasium environment, kept: traced to Redis, replayed, backed up."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from jamboree_gym.errors import (
    BackupMismatch,
    BufferMismatch,
    CheckpointNotFound,
    ColumnConflict,
    DecodeError,
    EmbeddedServerError,
    EpisodeInUse,
    EpisodeNotFound,
    ExportError,
    InvalidArgument,
    InvalidExpression,
    InvalidRecord,
    InvalidUrl,
    JamboreeClosed,
    JamboreeError,
    MissingExtra,
    NotCopyable,
    NotReset,
    ReplayArgument,
    ReplayError,
    ReplayMismatch,
    RunNotFound,
    StoreFull,
    StoreUnavailable,
    UnknownKey,
    UnsavedRecords,
    UnsupportedServer,
    UnsupportedSpace,
)
from jamboree_gym.progress import timecontext

if TYPE_CHECKING:
    from jamboree_gym.arrays.kinds.registered import register_value
    from jamboree_gym.handlers.db_handler import DBHandler
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.reading.episode import Episode
    from jamboree_gym.recording.episode_handler import EpisodeHandler
    from jamboree_gym.records import EpisodeData, EpisodeSummary, StepData, Transitions

__version__ = "0.1.0"

__all__ = [
    "BackupMismatch",
    "BufferMismatch",
    "CheckpointNotFound",
    "ColumnConflict",
    "DBHandler",
    "DecodeError",
    "EmbeddedServerError",
    "Episode",
    "EpisodeData",
    "EpisodeHandler",
    "EpisodeInUse",
    "EpisodeNotFound",
    "EpisodeSummary",
    "ExportError",
    "InvalidArgument",
    "InvalidExpression",
    "InvalidRecord",
    "InvalidUrl",
    "Jamboree",
    "JamboreeClosed",
    "JamboreeError",
    "MissingExtra",
    "NotCopyable",
    "NotReset",
    "ReplayArgument",
    "ReplayError",
    "ReplayMismatch",
    "RunNotFound",
    "StepData",
    "StoreFull",
    "StoreUnavailable",
    "Transitions",
    "UnknownKey",
    "UnsavedRecords",
    "UnsupportedServer",
    "UnsupportedSpace",
    "register_value",
    "timecontext",
]

# Imported when they are first used: redis-py, pyarrow and Gymnasium take half a second.
_MODULES = {
    "DBHandler": "handlers.db_handler",
    "Episode": "reading.episode",
    "EpisodeData": "records",
    "EpisodeHandler": "recording.episode_handler",
    "EpisodeSummary": "records",
    "Jamboree": "jamboree",
    "StepData": "records",
    "Transitions": "records",
    "register_value": "arrays.kinds.registered",
}
# Where a name is that people look for here.
_ELSEWHERE = {
    "JamboreeCallback": "from jamboree_gym.integrations.sb3 import JamboreeCallback",
    "JamboreeReplayBuffer": "from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer",
    "RecentTransactionsObservation": (
        "from jamboree_gym.wrappers import RecentTransactionsObservation"
    ),
    "RecordEpisodes": "from jamboree_gym.wrappers import RecordEpisodes",
    "ReplayEnv": "from jamboree_gym.replay import ReplayEnv",
    "episodes": "Jamboree().episodes(run=...)",
    "fork": "episode.fork(step)",
    "record": "Jamboree().record(env)",
    "run": "Jamboree().run(name)",
    "verify": "episode.verify(), or from jamboree_gym.replay import verify",
    "video": "episode.video(path)",
}
_ROOMS = {
    "backup",
    "handlers",
    "integrations",
    "multi_agent",
    "records",
    "replay",
    "runs",
    "servers",
    "wrappers",
}


# The arguments of wrappers are noted as soon as there can be any: Gymnasium is loaded, and whole.
if hasattr(sys.modules.get("gymnasium"), "Wrapper"):
    import_module(f"{__name__}.environment.constructor_calls")


def __getattr__(name: str) -> object:
    if name in _MODULES:
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    hint = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
