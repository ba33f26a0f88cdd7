"""The only place where Redis keys, MongoDB collection names and names of blobs are made.

Parts are percent-quoted, because environment ids and episode ids may hold `:`, `/`, `{`, `}`,
newlines or any other character that would change the meaning of a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from urllib.parse import quote, unquote
from zlib import crc32

__all__ = [
    "MONGO_BLOBS",
    "MONGO_BUNDLES",
    "MONGO_CHUNKS",
    "MONGO_DELETED",
    "MONGO_LOGS",
    "MONGO_SETTINGS",
    "BucketKeys",
    "Keyspace",
    "database_name",
    "digest",
    "quote_part",
    "without_buckets",
]

MONGO_LOGS = "logs"
MONGO_BUNDLES = "bundles"
MONGO_CHUNKS = "chunks"
MONGO_BLOBS = "blobs"
MONGO_DELETED = "deleted"
MONGO_SETTINGS = "settings"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_RESERVED_DATABASES = ("admin", "config", "local")
_OF_EPISODE = re.compile(r"(?:episode:\{|records:\{.*:episode=)([^:]*)\}")
_OUR_EPISODE = r"episode:\{([0-9a-f]{9})[0-9a-f]{3}([0-9a-f]{16})[0-9a-f]{4}\}"
_OF_OUR_EPISODE = re.compile(_OUR_EPISODE)
_OUR_ID = re.compile("[0-9a-f]{32}")
_BUCKET = re.compile(r"\{([^:{}]*):[0-9a-f]{2}\}:")
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


def database_name(namespace: str) -> str:
    """The name of the database, or folder, of a namespace.

    It has lower-case letters, digits, `_` and `-`, at most 63 bytes.

    MongoDB refuses two names that differ only in case, and reserves some names for itself.
    """
    safe = "".join(c if c in _NAME_CHARACTERS else "_" for c in namespace)
    if safe == namespace and len(safe) <= 48 and safe not in _RESERVED_DATABASES:
        return safe
    return f"{safe[:40]}-{digest(namespace.encode())}"


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

    @cached_property
    def _before_name(self) -> str:
        return f"{self._prefix}:"

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

    def logs_of_run(self, run: str) -> list[str]:
        """The logs of a run's sessions, metrics and checkpoints."""
        return [self.records(entity, {"run": run}) for entity in _LOGS_OF_RUNS]

    @cached_property
    def _before_runs(self) -> tuple[str, ...]:
        return tuple(f"{self._prefix}:records:{{{entity}:run=" for entity in _LOGS_OF_RUNS)

    def episode(self, episode_id: str) -> str:
        """The log of an episode's rows."""
        return f"{self._prefix}:episode:{{{quote_part(episode_id)}}}"

    def episodes(self, ids: Sequence[str]) -> list[str]:
        """As `episode`, of many."""
        text = "".join(ids)
        if all(ids) and text.isalnum() and text.isascii():  # none of them has to be quoted
            before = f"{self._prefix}:episode:{{"
            return [f"{before}{id}}}" for id in ids]
        return list(map(self.episode, ids))

    def is_episode(self, key: str) -> bool:
        """Whether a log is an episode's."""
        return key.startswith(f"{self._prefix}:episode:")

    def episode_id(self, key: str) -> str:
        """Inverse of `episode`."""
        return unquote(key[key.index("{") + 1 : -1], errors="surrogatepass")

    def in_words(self, key: str) -> str:
        """What messages call a log: an episode by its id, any other log by its key."""
        return f"episode {self.episode_id(key)!r}" if self.is_episode(key) else key

    def summaries(self, run: str) -> str:
        """Name of the listing of a run, of which each bucket has a part."""
        return f"{self._prefix}:run:{{{quote_part(run)}}}"

    def lease(self, writer: str) -> str:
        """Sign of life of a process that records; expires."""
        return f"{self._prefix}:lease:{writer}"

    @cached_property
    def backup(self) -> str:
        """Hash: what the backup last said of itself."""
        return f"{self._prefix}:backup"

    @cached_property
    def retention(self) -> str:
        """String: what may be evicted here once the backup holds it."""
        return f"{self._prefix}:retention"

    @cached_property
    def backup_holder(self) -> str:
        """Who copies to the backup by itself; expires. In the slot of `backup`."""
        return f"{{{self._prefix}:backup}}:holder"

    def blob(self, digest: str) -> str:
        """Immutable content (schemas, provenance), named by its own digest."""
        return f"{self._prefix}:blob:{digest}"

    # -- buckets ----------------------------------------------------------------------------

    @cached_property
    def layout(self) -> tuple[str, str]:
        """Hashes with the number of buckets.

        Releases without buckets had keys of other types under these names: they and this one refuse
        what the other has written.
        """
        return self.without_bucket("epoch"), self.without_bucket("runs")

    def without_bucket(self, name: str) -> str:
        """A key of releases that had no buckets: their `unbacked`, for example."""
        return f"{self._prefix}:{name}"

    def buckets(self, number: int) -> tuple[BucketKeys, ...]:
        """The keys of each bucket, if there are this many."""
        return tuple(BucketKeys(at, f"{{{self._prefix}:{at:02x}}}") for at in range(number))

    def bucket_of(self, key: str, number: int) -> int:
        """In which of that many buckets a log is; docs/storage.md has the rule."""
        name = key.removeprefix(self._before_name)
        ours = _OF_OUR_EPISODE.fullmatch(name)
        if ours is not None:  # most are; the rest of this says the same of them
            return crc32((ours[1] + ours[2]).encode()) % number
        found = _OF_EPISODE.fullmatch(name)
        if found is not None:
            name = found[1]
            if _OUR_ID.fullmatch(name):  # episodes that a writer begins within 4.096 s lie together
                name = name[:9] + name[12:28]
        return crc32(name.encode()) % number

    def in_bucket(self, key: str, bucket: BucketKeys) -> str:
        """The key under which Redis has a log."""
        return bucket.tag + key.removeprefix(self._prefix)

    def in_buckets(self, keys: Sequence[str], buckets: Sequence[BucketKeys]) -> list[str]:
        """As `in_bucket`, of many logs, each in its own one of all buckets.

        Where all are episodes of ours, one search finds what `bucket_of` would find in each.
        """
        number, skipped = len(buckets), len(self._prefix)
        ours = self._our_episodes.findall("\n".join(keys))
        if len(ours) != len(keys):
            return [self.in_bucket(key, buckets[self.bucket_of(key, number)]) for key in keys]
        tags = [bucket.tag for bucket in buckets]
        places = [crc32((begin + writer).encode()) % number for begin, writer in ours]
        return [tags[place] + key[skipped:] for place, key in zip(places, keys, strict=True)]

    @cached_property
    def _our_episodes(self) -> re.Pattern[str]:
        return re.compile(f"^{re.escape(self._before_name)}{_OUR_EPISODE}$", re.MULTILINE)

    def out_of_bucket(self, stored: str) -> str:
        """Inverse of `in_bucket`; what is no such key stays as it is."""
        _, found, name = stored.partition("}")
        return self._prefix + name if found else stored

    def log_patterns(self) -> tuple[str, str]:
        """SCAN patterns that find every log of the namespace."""
        return f"{{{self._prefix}:??}}:records:*", f"{{{self._prefix}:??}}:episode:*"


def without_buckets(text: str) -> str:
    """A text with the names of logs in place of the keys under which Redis has them."""
    return _BUCKET.sub(r"\1:", text)


class BucketKeys:
    """The keys of one bucket, beside its logs. They share a hash tag, and so a slot of a cluster.

    Attributes:
        at: Number of the bucket.
        tag: What all its keys begin with.
        unbacked: Sorted set: log -> revision that the backup has not acknowledged.
        runs: Sorted set: run -> time of what was written to it last (epoch seconds).
        feed: Capped stream: an entry for each append to an episode, with its id and run.
        epoch: A random text. A process that finds none makes one. If it is another one than before,
            Redis was emptied meanwhile.
        coverage: Whether the listings hold what the backup does: `all`, or `part` to save memory.
            Absent where Redis was emptied, and where it has not been compared yet.
        deleted: Hash: identity of a deleted log -> its birth, until the backup has deleted it, too.
        carried_out: Sorted set: identity of a deleted log -> when the backup has deleted it, too
            (epoch seconds). The newest 1,000, for an hour after the last.
        deletions: Number of deletions: what was read from the backup before one is not put back.
        backup: Hash: which backup acknowledges, and how much was evicted.
    """

    def __init__(self, at: int, tag: str) -> None:
        self.at = at
        self.tag = tag
        self.unbacked = f"{tag}:unbacked"
        self.runs = f"{tag}:runs"
        self.feed = f"{tag}:feed"
        self.epoch = f"{tag}:epoch"
        self.coverage = f"{tag}:coverage"
        self.deleted = f"{tag}:deleted"
        self.carried_out = f"{tag}:carried-out"
        self.deletions = f"{tag}:deletions"
        self.backup = f"{tag}:backup"

    def summaries(self, run: str) -> str:
        """Hash of a run: episode id -> summary."""
        return f"{self.tag}:run:{{{quote_part(run)}}}"
