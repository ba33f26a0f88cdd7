"""The web application: its addresses, and what each of them answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from jamboree_gym.errors import (
    EpisodeNotFound,
    InvalidArgument,
    JamboreeClosed,
    JamboreeError,
    MissingExtra,
    ReplayError,
    RunNotFound,
    StoreUnavailable,
)
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.page.access import Access, AccessRules
from jamboree_gym.page.answers import Answers
from jamboree_gym.page.changes import events
from jamboree_gym.page.columns import columns_of, rows_of
from jamboree_gym.page.pictures import Simulations, observed_picture, recorded_frame
from jamboree_gym.page.plain import as_json, short_text
from jamboree_gym.store.backups.errors import BackupUnavailable

__all__ = ["VIEWS", "build_page"]

STATIC: Final = Path(__file__).parent / "static"
VIEWS: Final = ("/", "/run", "/runs", "/episode", "/compare", "/lineage")
MAX_BODY_BYTES: Final = 64_000
IMMUTABLE: Final = "private, max-age=31536000, immutable"

Answer = Callable[[Request], Any]


def build_page(
    jam: Jamboree, rules: AccessRules, closing: asyncio.Event, *, allow_actions: bool = False
) -> Starlette:
    """The page of a store.

    Args:
        jam: The store.
        rules: Who may ask.
        closing: Set when the server stops: answers that go on end then.
        allow_actions: Whether the page may change something: flags.
    """
    page = _Page(jam, closing, allow_actions=allow_actions)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        page.simulations.close()

    return Starlette(
        routes=page.routes(),
        middleware=[Middleware(Access, rules=rules)],
        exception_handlers={JamboreeError: _refused, Exception: _failed},
        lifespan=lifespan,
    )


class _Page:
    def __init__(self, jam: Jamboree, closing: asyncio.Event, *, allow_actions: bool) -> None:
        self._jam = jam
        self._closing = closing
        self._answers = Answers(jam)
        self._allow_actions = allow_actions
        self.simulations = Simulations()

    def routes(self) -> list[BaseRoute]:
        """What is no coroutine asks the store in a thread of Starlette's: the loop never waits."""
        answers = self._answers
        reading: dict[str, Answer] = {
            "store": self._store,
            "runs": self._runs,
            "run": lambda asked: answers.run(_name(asked, "run")),
            "curve": self._curve,
            "metrics": lambda asked: answers.metrics(_name(asked, "run")),
            "surprise": lambda asked: answers.surprise(_name(asked, "run")),
            "episodes": self._episodes,
            "episode": lambda asked: answers.episode(_name(asked, "id")),
            "provenance": lambda asked: answers.provenance(_name(asked, "id")),
            "neighbours": lambda asked: answers.neighbours(_name(asked, "id")),
            "rows": self._rows,
            "compare": lambda asked: answers.compare(_name(asked, "a"), _name(asked, "b")),
            "lineage": lambda asked: answers.lineage(_name(asked, "id")),
        }
        return [
            *(Route(path, _index) for path in VIEWS),
            *(Route(f"/api/{name}", _told(answer)) for name, answer in reading.items()),
            Route("/api/columns", self._columns),
            Route("/api/picture", self._picture),
            Route("/api/changes", self._changes),
            Route("/api/flags", self._flags, methods=["POST", "DELETE"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]

    # -- JSON -------------------------------------------------------------------------------

    def _store(self, asked: Request) -> Mapping[str, Any]:
        return {
            "namespace": self._jam._connection.keyspace.namespace,
            "version": version("jamboree-gym"),
            "actions": self._allow_actions,
        }

    def _runs(self, asked: Request) -> Any:
        filters = {name: _text(asked, name) for name in ("text", "env", "tag")}
        return self._answers.runs(**filters, start=_number(asked, "start"))

    def _curve(self, asked: Request) -> Any:
        size = _number(asked, "size", 0) or None
        return self._answers.curve(_name(asked, "run"), size, _number(asked, "start"))

    def _episodes(self, asked: Request) -> Any:
        return self._answers.episodes(
            _name(asked, "run"),
            _number(asked, "start"),
            _number(asked, "count", 100),
            flagged=_text(asked, "flagged") == "1",
            where=_text(asked, "where"),
            status=_text(asked, "status"),
            sort=_text(asked, "sort") or "-started_at",
            forks=_text(asked, "forks") == "1",
        )

    def _rows(self, asked: Request) -> Any:
        start, stop = _number(asked, "start"), _number(asked, "stop")
        return {"rows": rows_of(self._jam.episode(_name(asked, "id")), start, stop)}

    # -- bytes ------------------------------------------------------------------------------

    def _columns(self, asked: Request) -> Response:
        stop = _number(asked, "stop", -1)
        episode = self._jam.episode(_name(asked, "id"))
        content = columns_of(episode, _number(asked, "start"), None if stop < 0 else stop)
        return Response(content, media_type="application/octet-stream")

    def _picture(self, asked: Request) -> Response:
        episode, step = self._jam.episode(_name(asked, "id")), _number(asked, "step")
        kind = _name(asked, "kind")
        shown = step
        if kind == "simulated":
            content = self.simulations.frame(episode, step)
        elif kind == "recorded":
            found = recorded_frame(episode, step)
            if found is None:
                return Response(status_code=204)
            content, shown = found
        else:
            content = observed_picture(episode, kind, step)
        headers = {"X-Step": str(shown)}
        if shown == step or episode.status != "running":
            headers["Cache-Control"] = IMMUTABLE
        return Response(content, media_type="image/png", headers=headers)

    # -- events and actions -----------------------------------------------------------------

    def _changes(self, asked: Request) -> Response:
        look = self._look(asked)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = events(look, _said, self._closing)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    def _look(self, asked: Request) -> Callable[[], Mapping[str, Any]]:
        """What the view that asks for changes shows."""
        answers, of = self._answers, _name(asked, "of")
        if of == "runs":
            text, env, tag = (_text(asked, name) for name in ("text", "env", "tag"))

            def runs() -> Mapping[str, Any]:
                found = answers.runs(text, env, tag)
                rows = {f"run {row['name']}": row for row in found["runs"]}
                order = [row["name"] for row in found["runs"]]
                counts = {"found": found["found"], "total": found["total"]}
                return {**rows, "order": order, "counts": counts, "backup": found["backup"]}

            return runs
        if of == "run":
            name = _name(asked, "run")

            def run() -> Mapping[str, Any]:
                found = answers.run(name)
                del found["now"]
                return found

            return run
        if of == "episode":
            episode = self._jam.episode(_name(asked, "id"))

            def steps() -> Mapping[str, Any]:
                summary = episode.summary
                return {
                    "status": summary.status,
                    "steps": summary.steps,
                    "episode_return": summary.episode_return,
                    "returns": summary.returns,
                    "elapsed_s": summary.elapsed_s,
                }

            return steps
        raise InvalidArgument(f"of={of!r}: choose runs, run or episode")

    async def _flags(self, asked: Request) -> Response:
        if not self._allow_actions:
            return _json({"error": "start the page with --allow-actions to set flags"}, 403)
        id = _name(asked, "id")
        if asked.method == "DELETE":
            return _json(await run_in_threadpool(self._answers.unflag, id))
        body = await asked.body()
        try:
            given = json.loads(body) if len(body) <= MAX_BODY_BYTES else None
        except (RecursionError, ValueError):
            given = None
        if not isinstance(given, dict):
            raise InvalidArgument("send a small JSON object with a note")
        return _json(
            await run_in_threadpool(self._answers.flag, id, given.get("note"), given.get("step"))
        )


def _index(asked: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def _told(answer: Answer) -> Callable[[Request], Response]:
    return lambda asked: _json(answer(asked))


def _json(value: Any, status: int = 200) -> Response:
    return Response(as_json(value), status, media_type="application/json")


# -- what was asked -------------------------------------------------------------------------


def _text(asked: Request, name: str) -> str:
    return asked.query_params.get(name, "")


def _name(asked: Request, name: str) -> str:
    value = _text(asked, name)
    if not value:
        raise InvalidArgument(f"{name}= is missing")
    return value


def _number(asked: Request, name: str, default: int = 0) -> int:
    text = _text(asked, name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"{name}={text!r:.40}: give a whole number") from None


# -- errors ---------------------------------------------------------------------------------

_STATUS: Final[tuple[tuple[type[JamboreeError], int], ...]] = (
    (StoreUnavailable, 503),
    (JamboreeClosed, 503),
    (EpisodeNotFound, 404),
    (RunNotFound, 404),
    (InvalidArgument, 400),
    (ReplayError, 422),
    (MissingExtra, 422),
)


def _said(error: JamboreeError) -> dict[str, Any]:
    if isinstance(error, StoreUnavailable):
        what = "Redis"
        if isinstance(error, BackupUnavailable):
            what = "MongoDB" if "MongoDB" in str(error) else "The folder of the backup"
        return {"error": f"{what} does not answer. The page asks again each second.", "away": True}
    return {"error": short_text(error, 1000), "kind": type(error).__name__}


async def _refused(asked: Request, error: Exception) -> Response:
    assert isinstance(error, JamboreeError)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 400)
    return _json(_said(error), status)


async def _failed(asked: Request, error: Exception) -> Response:
    """The server logs what it was; who asked learns only that."""
    return _json({"error": "an error in the page itself: its terminal shows it"}, 500)
