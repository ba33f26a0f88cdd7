"""OpenTelemetry: metrics and traces of what a `Jamboree` brings to Redis and to the backup.

Nothing is measured unless `observe` is called. It uses the API of OpenTelemetry only: your program
chooses the SDK and where it sends everything.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from jamboree_gym.backup.backup import Backup, BackupStatus
from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection, HasConnection
from jamboree_gym.delivery.writer import Delivery
from jamboree_gym.encoding.batch_format import CODEC_STEPS, batch_span
from jamboree_gym.errors import JamboreeError, MissingExtra
from jamboree_gym.store.log import Append

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import SpanKind, StatusCode, Tracer, TracerProvider
except ImportError as error:
    raise MissingExtra("this needs OpenTelemetry: pip install 'jamboree-gym[telemetry]'") from error

__all__ = ["observe"]

SCOPE: Final = "jamboree_gym"
NS: Final = 1_000_000_000
DURATIONS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STATUS_S: Final = 1.0  # a status is as good as new for so long

log = logging.getLogger(__name__)


@checked
def observe(
    jam: HasConnection,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Report metrics and traces of a Jamboree to OpenTelemetry, until it is closed.

    The metrics, each with the attribute `jamboree.namespace`:

    - `jamboree.steps` ({step}) and `jamboree.records` ({record}): how many Redis has taken from
      this process. Their rates are steps and records a second.
    - `jamboree.delivery.size` (By): the bytes of these.
    - `jamboree.delivery.duration` (s, a histogram): each round trip that brings them there. If it
      fails, `error.type` says which error.
    - `jamboree.pending.size` (By) and `jamboree.pending.records` ({record}): what waits in this
      process.
    - `jamboree.backup.lag` (s) and `jamboree.backup.pending` ({record}): how far the backup is
      behind; as in `jam.backup.status()`, which is asked once per export.
    - `jamboree.backup.failing` (1): 1 while something stops the copy, else 0.
    - `jamboree.evicted` (By): bytes evicted from Redis so far.
    - `jamboree.redis.memory` (By): all memory that the Redis server uses.

    Each delivery is also a span, `jamboree.delivery`.

    Source: the names and units follow the semantic conventions of OpenTelemetry,
    https://opentelemetry.io/docs/specs/semconv/.

    Example:
        >>> observe(jam)  # sends to where your SDK sends; without an SDK this does nothing

    Args:
        jam: The Jamboree.
        meter_provider: None = the global one.
        tracer_provider: None = the global one.
    """
    connection = jam._connection
    connection.check_open()
    meters = meter_provider or metrics.get_meter_provider()
    tracers = tracer_provider or trace.get_tracer_provider()
    instruments = _of_provider.get(meters)
    if instruments is None:
        instruments = _of_provider[meters] = _Instruments(meters.get_meter(SCOPE))
    if connection in instruments.observed:
        return
    instruments.observed.add(connection)
    reporter = _Reporter(connection, instruments, tracers.get_tracer(SCOPE))
    connection.writer.watchers += (reporter.report,)


class _Reporter:
    """Reports the deliveries of one connection."""

    def __init__(self, connection: Connection, instruments: _Instruments, tracer: Tracer) -> None:
        self._instruments = instruments
        self._tracer = tracer
        self._common = {"jamboree.namespace": connection.keyspace.namespace}
        self._where = {"db.system.name": "redis", "server.address": connection.store.where}

    def report(self, delivery: Delivery) -> None:
        """Report one; an SDK that fails does not stop what is delivered."""
        try:
            self._report(delivery, time.perf_counter() - delivery.began)
        except Exception:
            log.exception("a delivery could not be reported to OpenTelemetry")

    def _report(self, delivery: Delivery, took_s: float) -> None:
        common, error = self._common, delivery.error
        failed = {} if error is None else {"error.type": type(error).__name__}
        self._instruments.duration.record(took_s, common | failed)
        counts = {
            "jamboree.steps": _steps(delivery.taken),
            "jamboree.records": _records(delivery.taken),
            "jamboree.delivery.size": sum(len(one) for one in _batches(delivery.taken)),
        }
        for name, count in counts.items():
            self._instruments.counters[name].add(count, common)
        ended = time.time_ns()
        span = self._tracer.start_span(
            "jamboree.delivery",
            kind=SpanKind.CLIENT,
            start_time=ended - int(took_s * NS),
            attributes={**common, **self._where, **counts, **failed},
        )
        if error is not None:
            span.set_status(StatusCode.ERROR, str(error))
        span.end(ended)


class _Instruments:
    """The instruments of one meter provider, for all connections that are observed with it."""

    def __init__(self, meter: Meter) -> None:
        self.observed: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.duration = meter.create_histogram(
            "jamboree.delivery.duration",
            "s",
            "Round trips that bring rows to Redis",
            explicit_bucket_boundaries_advisory=DURATIONS_S,
        )
        self.counters = {
            name: meter.create_counter(name, unit, what)
            for name, unit, what in (
                ("jamboree.steps", "{step}", "Steps that Redis has taken"),
                ("jamboree.records", "{record}", "Records of handlers that Redis has taken"),
                ("jamboree.delivery.size", "By", "Bytes that Redis has taken"),
            )
        }
        gauge = meter.create_observable_gauge
        for name, unit, what, value in _WAITING:
            gauge(name, [partial(self._observe, value)], unit, what)
        for name, unit, what, found in _BACKED_UP:
            gauge(name, [partial(self._observe_backup, found)], unit, what)
        meter.create_observable_counter(
            "jamboree.evicted",
            [partial(self._observe_backup, lambda status: status.trimmed_bytes)],
            "By",
            "Bytes that were evicted from Redis",
        )
        self._statuses: weakref.WeakKeyDictionary[Connection, tuple[float, BackupStatus]]
        self._statuses = weakref.WeakKeyDictionary()

    def _open(self) -> Iterator[tuple[Connection, dict[str, str]]]:
        for connection in list(self.observed):
            if not connection.is_closed:
                yield connection, {"jamboree.namespace": connection.keyspace.namespace}

    def _observe(
        self, value: Callable[[Connection], int], options: CallbackOptions
    ) -> Iterable[Observation]:
        return [Observation(value(one), common) for one, common in self._open()]

    def _observe_backup(
        self, value: Callable[[BackupStatus], float | None], options: CallbackOptions
    ) -> Iterable[Observation]:
        found = []
        for connection, common in self._open():
            try:
                number = value(self._status(connection))
            except JamboreeError as error:  # Redis is away: the deliveries report that
                log.debug("the status of the backup is not known: %s", error)
            else:
                found += [] if number is None else [Observation(number, common)]
        return found

    def _status(self, connection: Connection) -> BackupStatus:
        """The status; asked once for all metrics of an export."""
        asked_at, status = self._statuses.get(connection, (-math.inf, None))
        if status is None or time.monotonic() - asked_at > STATUS_S:
            status = Backup(connection).status()
            self._statuses[connection] = time.monotonic(), status
        return status


_WAITING: Final = (
    (
        "jamboree.pending.size",
        "By",
        "Bytes that wait in this process",
        lambda one: one.writer.pending_bytes,
    ),
    (
        "jamboree.pending.records",
        "{record}",
        "Rows and records that wait in this process",
        lambda one: one.writer.unsaved,
    ),
)
_BACKED_UP: Final = (
    ("jamboree.backup.lag", "s", "How far the backup is behind", lambda one: one.lag_s),
    (
        "jamboree.backup.pending",
        "{record}",
        "Rows and records that the backup lacks",
        lambda one: one.pending_records,
    ),
    (
        "jamboree.backup.failing",
        "1",
        "1 while something stops the copy",
        lambda one: int(one.last_error is not None),
    ),
    ("jamboree.redis.memory", "By", "Memory that Redis uses", lambda one: one.redis_bytes),
)

_of_provider: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()


def _batches(appends: Sequence[Append]) -> Iterator[bytes]:
    for append in appends:
        yield from append.batches


def _steps(appends: Sequence[Append]) -> int:
    """How many steps these bring: the first row of an episode is its reset."""
    spans = map(batch_span, _batches([one for one in appends if one.codec == CODEC_STEPS]))
    return sum(stop - max(start, 1) for start, stop, _, _ in spans)


def _records(appends: Sequence[Append]) -> int:
    spans = map(batch_span, _batches([one for one in appends if one.codec != CODEC_STEPS]))
    return sum(stop - start for start, stop, _, _ in spans)
