"""`.ci/pinned_servers.py` on an index that lacks some, has yanked some, or does not answer."""

from __future__ import annotations

import importlib.util
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from conftest import free_port

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pinned_servers", ROOT / ".ci/pinned_servers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def add(folder: Path, name: str, version: str, attributes: str = "") -> None:
    """Put a package on an index."""
    file = f"{name}-{version}-py3-none-any.whl"
    (folder / "simple" / name).mkdir(parents=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / "simple" / name / file, "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    page = f'<!DOCTYPE html><a href="{file}" {attributes}>{file}</a>'
    (folder / "simple" / name / "index.html").write_text(page)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


def only(url: str) -> Mapping[str, str]:
    """pip asks this index, whatever its configuration says."""
    return {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": url,
        "PIP_NO_CACHE_DIR": "1",
        **dict.fromkeys(("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"), ""),
    }


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("index")
    add(folder, "yanked", "1.0", 'data-yanked="it lost data"')
    add(folder, "newer", "2.0")
    add(folder, "pip", "1.0")
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


@pytest.mark.long  # CI asks the index itself
def test_what_is_gone_or_yanked_is_wrong_and_an_index_that_is_away_says_nothing(
    script: ModuleType, index: str
) -> None:
    away = f"http://127.0.0.1:{free_port()}/simple"
    asked = [("yanked", index), ("newer", index), ("nowhere", index), ("there", away)]
    with ThreadPoolExecutor() as pool:
        found = list(
            pool.map(lambda one: script.check(script.Pin(one[0], "1.0"), only(one[1])), asked)
        )

    assert [one.known.name for one in found] == ["YANKED", "GONE", "GONE", "NOTHING"]
    assert [one.is_wrong for one in found] == [True, True, True, False]
    assert str(found[0]) == "yanked 1.0 was yanked: it lost data"
    assert "was not checked: the index does not answer" in str(found[3])


def test_the_pins_are_those_of_the_lowest_versions(script: ModuleType) -> None:
    lowest = (ROOT / "constraints/lowest.txt").read_text().splitlines()
    pinned = {f"{one.name}=={one.version}" for one in script.pins() if one.name != "nx-27017"}
    assert pinned <= set(lowest)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = {one.partition(">=")[0] for one in extras["embedded"]}
    assert named <= {one.name for one in script.pins()}


@pytest.mark.parametrize(("known", "code"), [("YANKED", 1), ("GONE", 1), ("NOTHING", 0)])
def test_ci_fails_only_for_what_is_known(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    known: str,
    code: int,
) -> None:
    monkeypatch.setattr(script, "check", lambda pin: script.Found(pin, script.Known[known]))

    assert script.main() == code

    said = capsys.readouterr().out
    assert said.count(script.Known[known].value) == len(script.pins())
    assert ("Raise the bound" in said) == bool(code)
