"""The only place where Redis keys, MongoDB collection names and names of blobs are made.

Parts are percent-quoted, because environment ids and episode ids may hold `:`, `/`, `{`, `}`,
newlines or any other character that would change the meaning of a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from urllib.parse import quote, unquote

__all__ = [
    "MONGO_BLOBS",
    "MONGO_BUNDLES",
    "MONGO_CHUNKS",
    "MONGO_DELETED",
    "MONGO_LOGS",
    "MONGO_SETTINGS",
    "Keyspace",
    "digest",
    "quote_part",
]

MONGO_LOGS = "logs"
MONGO_BUNDLES = "bundles"
MONGO_CHUNKS = "chunks"
MONGO_BLOBS = "blobs"
MONGO_DELETED = "deleted"
MONGO_SETTINGS = "settings"
_LOGS_OF_RUNS = ("run-session", "run-metric", "run-checkpoint")


def digest(content: bytes) -> str:
    """Name of an immutable blob: 16 hexadecimal digits of its BLAKE2b hash."""
    return blake2b(content, digest_size=8).hexdigest()


def quote_part(part: object) -> str:
    """Quote one part of a key, so that no value can be mistaken for another part.

    Example:
        >>> quote_part("ALE/Pong-v5:a{b}")
        'ALE%2FPong-v5%3Aa%7Bb%7D'
    """
    text = str(part)
    if not text or (text.isalnum() and text.isascii()):  # as the ids that we give
        return text
    return quote(text, safe="", errors="surrogatepass")


@dataclass(frozen=True)
class Keyspace:
    """All keys of one namespace.

    Attributes:
        namespace: Keeps two projects on one server apart.
    """

    namespace: str

    @cached_property
    def _prefix(self) -> str:
        return quote_part(self.namespace)

    def records(self, entity: str, keys: Mapping[str, object]) -> str:
        """The log of a `DBHandler`'s records."""
        parts = ":".join(f"{quote_part(name)}={quote_part(keys[name])}" for name in sorted(keys))
        return f"{self._prefix}:records:{{{quote_part(entity)}:{parts}}}"

    def run_of(self, key: str) -> str | None:
        """The run whose sessions, metrics or checkpoints a log holds; None for any other log."""
        for before in self._before_runs:
            if key.startswith(before):
                return unquote(key[len(before) : -1], errors="surrogatepass")
        return None

    @cached_property
    def _before_runs(self) -> tuple[str, ...]:
        return tuple(f"{self._prefix}:records:{{{entity}:run=" for entity in _LOGS_OF_RUNS)

    def episode(self, episode_id: str) -> str:
        """The log of an episode's rows."""
        return f"{self._prefix}:episode:{{{quote_part(episode_id)}}}"

    def is_episode(self, key: str) -> bool:
        """Whether a log is an episode's."""
        return key.startswith(f"{self._prefix}:episode:")

    def episode_id(self, key: str) -> str:
        """Inverse of `episode`."""
        return unquote(key[key.index("{") + 1 : -1], errors="surrogatepass")

    def summaries(self, run: str) -> str:
        """Hash of a run: episode id -> summary."""
        return f"{self._prefix}:run:{{{quote_part(run)}}}"

    @cached_property
    def runs(self) -> str:
        """Sorted set: run -> time of what was written to it last (epoch seconds)."""
        return f"{self._prefix}:runs"

    def lease(self, writer: str) -> str:
        """Sign of life of a process that records; expires."""
        return f"{self._prefix}:lease:{writer}"

    @cached_property
    def unbacked(self) -> str:
        """Sorted set: log key -> revision that MongoDB has not acknowledged."""
        return f"{self._prefix}:unbacked"

    @cached_property
    def backup(self) -> str:
        """Hash: what the backup last said of itself."""
        return f"{self._prefix}:backup"

    @cached_property
    def retention(self) -> str:
        """String: what may be let go of here once MongoDB holds it."""
        return f"{self._prefix}:retention"

    @cached_property
    def backup_holder(self) -> str:
        """Who copies to MongoDB by itself; expires."""
        return f"{self._prefix}:backup:holder"

    @cached_property
    def deleted(self) -> str:
        """Hash: identity of a deleted log -> its birth, until MongoDB has forgotten it, too."""
        return f"{self._prefix}:deleted"

    @cached_property
    def deletions(self) -> str:
        """Number of deletions so far: what was read from MongoDB before one is not put back."""
        return f"{self._prefix}:deletions"

    @cached_property
    def epoch(self) -> str:
        """At random, made by whoever finds none: another one, and Redis was emptied meanwhile."""
        return f"{self._prefix}:epoch"

    @cached_property
    def coverage(self) -> str:
        """Whether the listings hold what MongoDB does: `all`, or `part` to save memory.

        Absent where Redis was emptied, and where it has not been compared yet.
        """
        return f"{self._prefix}:coverage"

    @cached_property
    def feed(self) -> str:
        """Capped stream: an entry for each append to an episode, with its id and run."""
        return f"{self._prefix}:feed"

    def blob(self, digest: str) -> str:
        """Immutable content (schemas, provenance), named by its own digest."""
        return f"{self._prefix}:blob:{digest}"

    def log_patterns(self) -> tuple[str, str]:
        """SCAN patterns that find every log of the namespace."""
        return f"{self._prefix}:records:*", f"{self._prefix}:episode:*"
