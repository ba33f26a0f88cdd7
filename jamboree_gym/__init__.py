"""Every step of a Gymnasium environment, kept: traced to Redis, replayed, backed up to MongoDB."""

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
from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.reading.episode import Episode
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.records import EpisodeData, EpisodeSummary, StepData, Transitions
from jamboree_gym.timing import timecontext

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
    "timecontext",
]
