"""Metrics and traces for OpenTelemetry, by its own SDK; and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from processes import NoteHandler
from prometheus_client import REGISTRY
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.errors import JamboreeClosed, UnsavedRecords
from jamboree_gym.integrations import telemetry as telemetry_module
from jamboree_gym.integrations.telemetry import observe

DASHBOARD = Path(__file__).parents[2] / "examples" / "deployment" / "grafana-dashboard.json"


class Telemetry:
    """The SDK, with all that was exported."""

    def __init__(self) -> None:
        self._reader, self._spans = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters = MeterProvider([self._reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))

    def observe(self, jam: Jamboree) -> None:
        observe(jam, meter_provider=self.meters, tracer_provider=self.tracers)

    def metrics(self) -> dict[str, list[Any]]:
        """The data points of each metric."""
        found = self._reader.get_metrics_data()
        data = {"resource_metrics": []} if found is None else json.loads(found.to_json())
        found = [
            scope["metrics"] for one in data["resource_metrics"] for scope in one["scope_metrics"]
        ]
        return {one["name"]: one["data"]["data_points"] for group in found for one in group}

    def value(self, name: str) -> float:
        """The only value of a metric."""
        [point] = self.metrics()[name]
        return float(point["value"])

    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def shutdown(self) -> None:
        self.meters.shutdown()
        self.tracers.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    one = Telemetry()
    yield one
    one.shutdown()


def test_steps_and_records_are_counted_when_redis_has_them(
    jam: Jamboree, telemetry: Telemetry
) -> None:
    telemetry.observe(jam)
    telemetry.observe(jam)  # a second time changes nothing
    play(jam.record(CountingEnv(5)), [ACTION] * 5)
    NoteHandler(jam, "note").save({"n": 1})
    assert telemetry.value("jamboree.pending.records") > 0
    jam.flush()
    assert telemetry.value("jamboree.steps") == 5
    assert telemetry.value("jamboree.records") == 1
    assert telemetry.value("jamboree.pending.records") == 0
    assert telemetry.value("jamboree.pending.size") == 0
    [times] = telemetry.metrics()["jamboree.delivery.duration"]
    assert times["count"] == len(telemetry.spans()) > 0
    namespace = jam._connection.keyspace.namespace
    assert times["attributes"] == {"jamboree.namespace": namespace}
    spans = [dict(one.attributes or {}) for one in telemetry.spans()]
    assert sum(one["jamboree.steps"] for one in spans) == 5
    assert sum(one["jamboree.delivery.size"] for one in spans) == telemetry.value(
        "jamboree.delivery.size"
    )
    assert {one["server.address"] for one in spans} == {jam._connection.store.where}


def test_the_backup_is_reported(
    jam: Jamboree, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry.observe(jam)
    NoteHandler(jam, "note").save({"n": 1})
    jam.flush()
    assert "jamboree.backup.lag" not in telemetry.metrics(), "no copy has been complete"
    jam.backup.flush()
    monkeypatch.setattr(telemetry_module, "STATUS_S", 0.0)
    assert telemetry.value("jamboree.backup.lag") == 0
    assert telemetry.value("jamboree.backup.pending") == 0
    assert telemetry.value("jamboree.backup.failing") == 0
    assert telemetry.value("jamboree.redis.memory") > 0
    assert telemetry.value("jamboree.evicted") == 0


def test_a_delivery_that_fails_names_its_error_and_no_metric_does(
    own_valkey: Server, open_jamboree: Callable[..., Jamboree], telemetry: Telemetry
) -> None:
    jam = open_jamboree(own_valkey.url)
    telemetry.observe(jam)
    NoteHandler(jam, "note").save({"n": 1})
    own_valkey.kill()
    with pytest.raises(UnsavedRecords):
        jam.flush(0.1)
    failed = [
        one
        for one in telemetry.metrics()["jamboree.delivery.duration"]
        if one["attributes"].get("error.type") == "StoreUnavailable"
    ]
    assert failed[0]["count"] >= 1
    span = telemetry.spans()[0]
    assert span.status.status_code is StatusCode.ERROR
    assert "cannot be reached" in str(span.status.description)
    assert telemetry.value("jamboree.pending.records") == 1
    own_valkey.start()
    jam.flush()
    assert telemetry.value("jamboree.records") == 1


def test_an_sdk_that_fails_costs_no_step(
    jam: Jamboree,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry.observe(jam)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the collector is on fire")

    monkeypatch.setattr(type(telemetry.tracers.get_tracer("x")), "start_span", fail)
    NoteHandler(jam, "note").save({"n": 1})
    jam.flush()
    assert NoteHandler(jam, "note").count() == 1
    assert "could not be reported" in caplog.text


def test_of_a_closed_jamboree_nothing_is_reported(
    open_jamboree: Callable[..., Jamboree], telemetry: Telemetry
) -> None:
    with open_jamboree() as jam:
        telemetry.observe(jam)
    assert telemetry.metrics() == {}
    with pytest.raises(JamboreeClosed):
        telemetry.observe(jam)


def test_without_an_sdk_it_does_nothing(jam: Jamboree) -> None:
    observe(jam)
    NoteHandler(jam, "note").save({"n": 1})
    jam.flush()
    assert NoteHandler(jam, "note").count() == 1


def test_the_dashboard_shows_every_metric_by_the_name_that_prometheus_has(
    own_valkey: Server, mongo: Server, open_jamboree: Callable[..., Jamboree]
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    meters, exported, labels = MeterProvider([PrometheusMetricReader()]), set[str](), set[str]()

    def scrape() -> None:
        for sample in (one for family in REGISTRY.collect() for one in family.samples):
            if sample.name.startswith("jamboree_"):
                exported.add(sample.name)
                labels.update(sample.labels)

    try:
        observe(jam, meter_provider=meters)
        NoteHandler(jam, "note").save({"n": 1})
        jam.backup.flush()
        scrape()
        own_valkey.kill()
        NoteHandler(jam, "note").save({"n": 2})
        with pytest.raises(UnsavedRecords):
            jam.flush(0.1)
        scrape()
        own_valkey.start()
    finally:
        meters.shutdown()
    text = json.dumps(json.loads(DASHBOARD.read_text())["panels"])
    expressions = re.findall(r'"expr": "(.*?[^\\])"', text)
    shown = {name for one in expressions for name in re.findall(r"jamboree_\w+(?=\{)", one)}
    assert shown <= exported
    of_histogram = {one for one in exported if one.endswith(("_bucket", "_sum", "_count"))}
    created = {one for one in exported if one.endswith("_created")}
    assert exported - of_histogram - created <= shown
    grouped = {name for one in expressions for name in re.findall(r"by \((\w+)\)", one)}
    assert grouped <= labels
