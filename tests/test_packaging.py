"""The distributions, the dependencies, the import, and what no file of the repository says."""

import ast
import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import Server
from processes import run_python

import jamboree_gym

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jamboree_gym"

# The rooms, the lowest first: a room imports only from those before it, and from itself.
ROOMS = [
    *("errors", "wording", "checked", "progress", "process_life", "keys", "compiled"),
    *("arrays", "records", "environment", "encoding", "tables"),
    *("store", "servers", "journal", "delivery", "connection"),
    *("handlers", "reading", "backup", "recording", "runs"),
    *("wrappers", "integrations", "replay", "multi_agent", "diagnosis", "jamboree", "page", "cli"),
]

# Each of these costs a user who does not need it tenths of a second, or a server.
NOT_LOADED_BY_JAMBOREE = {
    "aiohttp",
    "ale_py",
    "av",
    "dask",
    "datasets",
    "duckdb",
    "fastapi",
    "h5py",
    "minari",
    "mujoco",
    "mpe2",
    "nicegui",
    "pandas",
    "pettingzoo",
    "polars",
    "pymongo",
    "stable_baselines3",
    "starlette",
    "tensordict",
    "torch",
    "torchrl",
    "typer",
    "uvicorn",
    "vaex",
}

# What `Jamboree` needs; `import jamboree_gym` alone is quicker than `import gymnasium`.
NOT_LOADED_BY_IMPORT = NOT_LOADED_BY_JAMBOREE | {
    *("asyncio", "filelock", "gymnasium", "msgspec", "numpy", "psutil", "pyarrow", "redis")
}


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


# --- the distributions ----------------------------------------------------------------------------


# A phase of CI builds the wheel and installs it. That pyproject.toml names each file, shows the
# test below in a moment.
builds = pytest.mark.long


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel and sdist, out of a copy: a build leaves files beside its sources."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "*cache", "*.so")
    for name in ("jamboree_gym", "envs", "constraints", "native", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "MANIFEST.in",
        "Makefile",
        "setup.py",
    ):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        yield archive


@builds
def test_the_wheel_holds_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    def files(folder: str, package: str) -> set[str]:
        return {
            f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix not in (".pyc", ".so")
        }

    expected = files("jamboree_gym", "jamboree_gym") | files("envs", "jamboree_envs")
    built = re.compile(r"\.dist-info/|\.so$")
    held = {name for name in wheel.namelist() if not built.search(name)}
    assert held == expected, "name new packages in [tool.setuptools] packages of pyproject.toml"


@pytest.mark.compiled
@builds
def test_the_wheel_holds_the_compiled_core(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if name.endswith(".so")]


@builds
def test_the_wheel_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    assert "jamboree_gym/py.typed" in wheel.namelist()


@builds
def test_the_wheel_has_the_version_that_the_package_states(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == jamboree_gym.__version__


@builds
def test_the_wheel_holds_the_license(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


@builds
def test_the_sdist_holds_what_its_tests_need(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints/lowest.txt", "native/plain_step.c", "setup.py"} <= names
    assert "tests/test_packaging.py" in names


def test_every_file_of_both_packages_is_named() -> None:
    named = pyproject()["tool"]["setuptools"]
    for package, folder in {"jamboree_gym": "jamboree_gym", "jamboree_envs": "envs"}.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_dir() or path.suffix in (".pyc", ".so"):
                continue
            within = path.relative_to(ROOT / folder)
            patterns = [one.rpartition("/")[2] for one in named["package-data"][package]]
            if path.suffix == ".py":
                assert ".".join([package, *within.parent.parts]) in named["packages"], path
            else:
                assert any(within.match(one) for one in patterns), path


# --- the dependencies -----------------------------------------------------------------------------


@pytest.mark.once
def test_each_lower_bound_is_the_version_that_ci_installs() -> None:
    project = pyproject()["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    del groups["dev"]  # the tools, which do not run against the lowest versions
    bounds = {}
    for requirement in (line for lines in groups.values() for line in lines):
        if requirement.startswith("jamboree-gym["):
            continue
        match = re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
        assert match, f"no lower bound: {requirement}"
        bounds[match[1]] = match[2]
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins == bounds


@pytest.mark.once
def test_the_extra_all_holds_every_extra_for_users() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    (line,) = extras["all"]
    assert set(line.removeprefix("jamboree-gym[").removesuffix("]").split(",")) == (
        extras.keys() - {"all", "dev", "test"}
    )


# --- the import -----------------------------------------------------------------------------------


IMPORT = """
import sys, threading
import jamboree_gym
print(*sys.modules)
from jamboree_gym import Jamboree
print(*sys.modules)
import psutil
print(threading.active_count(), len(psutil.Process().children()))
import jamboree_envs
"""


@pytest.fixture(scope="module")
def imported() -> subprocess.CompletedProcess[str]:
    """What a fresh Python says when it imports both packages, and warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", IMPORT]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_import_loads_nothing_heavy(imported: subprocess.CompletedProcess[str]) -> None:
    by_package, by_jamboree = (line.split() for line in imported.stdout.splitlines()[:2])
    assert "jamboree_gym" in by_package
    assert not NOT_LOADED_BY_IMPORT & set(by_package)
    assert "jamboree_gym.jamboree" in by_jamboree
    assert not NOT_LOADED_BY_JAMBOREE & set(by_jamboree)


def test_what_is_imported_lazily_is_found_as_an_attribute() -> None:
    source = "import jamboree_gym as j; j.wrappers.RecordEpisodes, j.replay.verify, j.Episode; j.no"
    done = run_python(source)
    assert "module 'jamboree_gym' has no attribute 'no'" in done.stderr


def test_import_starts_no_thread_and_no_process(
    imported: subprocess.CompletedProcess[str],
) -> None:
    assert imported.stdout.splitlines()[2] == "1 0"


def test_import_warns_of_nothing(imported: subprocess.CompletedProcess[str]) -> None:
    assert imported.returncode == 0, imported.stderr


def test_the_supervisor_of_the_embedded_servers_loads_nothing_heavy() -> None:
    program = ROOT / "jamboree_gym" / "servers" / "run_supervisor.py"
    source = f"""
import runpy, sys
try:
    runpy.run_path({str(program)!r}, run_name="__main__")  # which says how it is used, and ends
finally:
    print(*sys.modules)
"""
    command = [sys.executable, "-c", source]
    loaded = set(
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    )
    assert "jamboree_gym.servers.supervisor" in loaded
    assert not {"numpy", "gymnasium", "pymongo", "redis"} & loaded


FIRST_STEPS = """
import sys
from recorded_envs import CountingEnv, NestedEnv
from jamboree_gym import Jamboree

before = set(sys.modules)
with Jamboree(sys.argv[1]) as jam:
    for recorded in (CountingEnv(), NestedEnv()):  # the values of the other have no fixed size
        env = jam.record(recorded)
        env.reset(seed=1)
        env.annotate(value=0.5)
        env.step(env.action_space.sample())
        assert len(jam.episode(env.episode_id).data()) == 1
        env.close()
    assert jam.episodes().last() is not None
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""


def test_the_first_episodes_load_nothing_heavy(valkey: Server) -> None:
    done = run_python(FIRST_STEPS, valkey.url)
    assert done.returncode == 0, done.stderr
    assert not NOT_LOADED_BY_JAMBOREE & set(done.stdout.split())


# --- which way imports point ----------------------------------------------------------------------


@cache
def own_modules() -> dict[Path, ast.Module]:
    """Each module of ours, and what is in it."""
    paths = sorted((ROOT / "jamboree_gym").rglob("*.py"))
    return {path: ast.parse(path.read_text()) for path in paths}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_imports(path: Path, tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import of one of our own modules: the statement, and the dotted name it imports from."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            # `from jamboree_gym import x` may name a module; deeper down the layer is in the base.
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node, name) for name in names if name.split(".")[0] == "jamboree_gym")


@pytest.mark.once
def test_every_module_stands_in_a_room() -> None:
    names = {
        module_name(path).split(".")[1] for path in own_modules() if module_name(path).count(".")
    }
    assert names == set(ROOMS), "a new room goes into ROOMS, above what it imports"


MOST_MODULES = 12
MOST_MODULES_AT_THE_TOP = 9


@pytest.mark.once
def test_no_folder_has_more_modules_than_one_can_look_through() -> None:
    modules = Counter(path.parent for path in own_modules() if not path.name.startswith("__"))
    at_the_top = modules.pop(PACKAGE)
    large = {str(folder.relative_to(ROOT)): n for folder, n in modules.items() if n > MOST_MODULES}
    assert not large
    assert at_the_top <= MOST_MODULES_AT_THE_TOP


def rooms_named(docstring: str, label: str) -> set[str]:
    """What stands behind `Imports:` or `Imported by:`."""
    found = re.search(rf"^{label}: ([^.]*)\.", docstring, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", found[1])) if found else set()


@cache
def own_edges() -> set[tuple[str, str]]:
    """Each module of ours, with each of our own names that it imports."""
    return {
        (module_name(path), imported)
        for path, tree in own_modules().items()
        for _, imported in own_imports(path, tree)
    }


def room_of(name: str) -> str:
    """The room of a module; empty for the package itself."""
    return name.split(".")[1] if name.count(".") else ""


@pytest.mark.once
@pytest.mark.parametrize(
    "room", [module_name(path) for path in sorted(PACKAGE.glob("*/**/__init__.py"))]
)
def test_every_room_says_what_it_imports_and_who_imports_it(room: str) -> None:
    def is_inside(name: str) -> bool:
        return f"{name}.".startswith(f"{room}.")

    imports, imported_by = set[str](), set[str]()
    for importer, imported in own_edges():
        if is_inside(importer) and not is_inside(imported):
            imports.add(room_of(imported))
        elif is_inside(imported) and not is_inside(importer):
            imported_by.add(room_of(importer))
    docstring = ast.get_docstring(own_modules()[ROOT / Path(*room.split(".")) / "__init__.py"])
    assert docstring
    assert rooms_named(docstring, "Imports") == imports - {room_of(room)}
    assert rooms_named(docstring, "Imported by") == imported_by - {""}


@pytest.mark.once
def test_imports_point_one_way() -> None:
    wrong = []
    for path, tree in own_modules().items():
        name = module_name(path)
        if name == "jamboree_gym":
            continue
        own = ROOMS.index(name.split(".")[1])
        for node, imported in own_imports(path, tree):
            room = imported.split(".")[1]
            if room not in ROOMS[: own + 1] and (name, imported) not in MAY_IMPORT_UPWARDS:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {imported}")
    assert not wrong


MAY_IMPORT_UPWARDS = {
    # Going on with a run needs its trainer.
    ("jamboree_gym.runs.run", "jamboree_gym.integrations.sb3.training.resuming"),
    # What users try first are methods of an episode; the types are for type checkers alone.
    ("jamboree_gym.reading.episode", "jamboree_gym.replay"),
    *(
        ("jamboree_gym.reading.episode", f"jamboree_gym.replay.{name}")
        for name in ("ForkedEnv", "VerifyReport", "Video", "WhatIf")
    ),
    ("jamboree_gym.reading.episode", "jamboree_gym.replay.what_if.ChooseAction"),
    ("jamboree_gym.reading.episode", "jamboree_gym.replay.what_if.Predictor"),
    # `jam.ui()` serves the page, which stands on the Jamboree.
    ("jamboree_gym.jamboree", "jamboree_gym.page.serving.PageServer"),
    # A documented name from before the servers had a room of their own.
    ("jamboree_gym.store.embedded", "jamboree_gym.servers.embedded.*"),
    ("jamboree_gym.store.embedded", "jamboree_gym.servers.embedded.__all__"),
}

MAY_IMPORT_LATE = {
    # `jam.record` takes a VecEnv, but the wrapper of one can only be a class where SB3 is.
    ("jamboree_gym.jamboree", "jamboree_gym.integrations.sb3"),
    # Nor can the recorders of PettingZoo's environments be classes where it is not.
    ("jamboree_gym.jamboree", "jamboree_gym.multi_agent"),
    *(
        ("jamboree_gym.multi_agent.joint_fork", f"jamboree_gym.multi_agent.recording.{name}")
        for name in ("record_aec.RecordAEC", "record_parallel.RecordParallel")
    ),
    # As with an episode: its methods are done by what stands on it.
    *(
        ("jamboree_gym.multi_agent.joint_episode", f"jamboree_gym.multi_agent.{name}")
        for name in (
            *("verification.verify", "joint_fork.fork"),
            *("joint_what_if.what_if", "joint_video.video"),
        )
    ),
    # The page needs a web server, which nobody else loads.
    ("jamboree_gym.jamboree", "jamboree_gym.page.serving.PageServer"),
    # What users try first are methods of an episode, and what does them stands on episodes.
    ("jamboree_gym.reading.episode", "jamboree_gym.reading.diff"),
    ("jamboree_gym.reading.episode", "jamboree_gym.replay"),
    # Reading a run loads no torch; going on with it does.
    ("jamboree_gym.runs.run", "jamboree_gym.integrations.sb3.training.resuming"),
}


@pytest.mark.once
def test_no_function_imports_our_own_modules() -> None:
    hidden = []
    for path, tree in own_modules().items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            hidden += [
                f"{path.relative_to(ROOT)}:{node.lineno} imports {imported} in {function.name}()"
                for node, imported in own_imports(path, function)
                if (module_name(path), imported) not in MAY_IMPORT_LATE
                and PACKAGE / "cli" not in path.parents  # `--help` loads no library
            ]
    assert not hidden


@pytest.mark.once
def test_one_module_alone_asks_python_for_forks_and_the_end_of_the_process() -> None:
    asks = r"\b(register_at_fork|register_after_fork|atexit\.|util\.Finalize)"
    found = {
        str(path.relative_to(ROOT)) for path in own_modules() if re.search(asks, path.read_text())
    }
    assert found == {"jamboree_gym/process_life.py"}


@pytest.mark.once
def test_a_frame_is_a_picture_and_no_part_of_a_file() -> None:
    in_folder = (PACKAGE / "store" / "folder").glob("*.py")
    assert not [path.name for path in in_folder if "frame" in path.read_text().lower()]


# --- what the repository must not say -------------------------------------------------------------


def repository_files() -> Iterator[Path]:
    """Every file of ours: no virtual environment, no cache, nothing built."""

    def walk(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or re.fullmatch(
                r"\.git|\.venv.*|.*cache.*|\.hypothesis|build|dist|.*\.egg-info|.*\.so", path.name
            ):
                continue
            if path.is_dir():
                yield from walk(path)
            else:
                yield path

    return walk(ROOT)


def places(pattern: str, accepted: frozenset[str] = frozenset()) -> list[str]:
    """`file:line: text` of each match whose first group is not accepted."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in repository_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for match in re.finditer(pattern, line)
        if match[1] not in accepted
    ]


@pytest.mark.once
def test_no_file_names_a_path_of_somebodys_machine() -> None:
    examples = r"(?!/mnt/(backup|usb)\b)"  # of a folder for the backup
    assert not places(rf"(?<![\w.}}*-]){examples}/(home|mnt|opt|root|Users|work)/\w")


@pytest.mark.once
def test_no_file_holds_a_password() -> None:
    stand_ins = frozenset({"***", "pass", "password", "pw", "secret"})
    assert not places(r"\w://[^\s/@:]*:([^\s/@:{}<>$]+)@\w", stand_ins)


@pytest.mark.once
def test_no_file_holds_a_token_or_a_private_key() -> None:
    assert not places(r"\b(ghp_\w{20}|github_pat_\w{20}|AKIA[0-9A-Z]{16}|pypi-AgE\w{20})")
    assert not places(r"-{5}(BEGIN) (?:\w+ )?PRIVATE KEY")


def test_the_id_of_each_test_fits_into_a_variable(request: pytest.FixtureRequest) -> None:
    """Linux starts no process with one of 128 KiB, and pytest sets one to the id."""
    assert [item.nodeid[:99] for item in request.session.items if len(item.nodeid) > 1000] == []
