"""The files of `examples/deployment/` are what Kubernetes and Compose take, and name what is ours.

There is neither a Kubernetes nor a Docker here. So their schemas are asked, our command line is
asked for each command, and a Valkey is started with the configuration of the files.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from conftest import Server, redis_answers, valkey_program
from typer.main import get_command

from jamboree_gym.backup.__main__ import _parse
from jamboree_gym.cli import build_app
from jamboree_gym.diagnosis import diagnose

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "deployment"
COMPOSE = FOLDER / "compose.yaml"
KUBERNETES = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
OF_BACKUP = ["python", "-m", "jamboree_gym.backup"]
VALKEY = "valkey"


def of_kind(kind: str) -> dict[str, Any]:
    return {one["metadata"]["name"]: one for one in KUBERNETES if one["kind"] == kind}


def pods() -> dict[str, Any]:
    """The specifications of the pods, by the name of what makes them."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in KUBERNETES
        if "template" in one.get("spec", {})
    }


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods().items():
        for container in pod.get("initContainers", []) + pod["containers"]:
            yield name, container


def commands() -> Iterator[list[str]]:
    """Each command of our image, those of probes included."""
    for name, container in containers():
        if name != VALKEY:
            yield container["command"]
            yield from (
                container[probe]["exec"]["command"] for probe in container if "Probe" in probe
            )
    for name, service in SERVICES.items():
        if name != VALKEY:
            yield service["command"]
            test = service.get("healthcheck", {}).get("test", [])
            yield from [test[1:]] if test else []


def accepts(arguments: list[str]) -> None:
    """Raise if the command line does not take these; nothing is run."""
    command, context = get_command(build_app()), None
    name = "jamboree-gym"
    while True:
        context = command.make_context(name, list(arguments), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        name, command, arguments = command.resolve_command(context, rest)


def test_the_manifest_is_valid() -> None:
    for one in KUBERNETES:
        newest = kubernetes_validate.latest_version()
        kubernetes_validate.validate(one, newest, strict=True)


def test_the_compose_file_is_valid() -> None:
    options = ["--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *options, str(COMPOSE)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("text", sorted({" ".join(command) for command in commands()}))
def test_the_command_line_takes_each_command(text: str) -> None:
    command = text.split()
    if command[:3] == OF_BACKUP:
        assert isinstance(_parse(command[3:]), argparse.Namespace)
    else:
        assert command[0] == "jamboree-gym"
        accepts(command[1:])


@pytest.mark.parametrize("wrong", [["no-command"], ["record"], ["backup", "status", "--no-option"]])
def test_a_wrong_command_is_refused(wrong: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such (command|option)|Missing parameter"):
        accepts(wrong)


def test_each_variable_is_one_that_the_code_reads() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "jamboree_gym").rglob("*.py"))
    read = set(re.findall(r"\"(JAMBOREE_[A-Z_]+)\"", code))
    in_image = re.findall(r"^ENV (\w+)=", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    of_services = [
        variable
        for name, service in SERVICES.items()
        for variable in service["environment"]
        if name != VALKEY
    ]
    given = {*of_kind("Secret")["jamboree"]["stringData"], *in_image, *of_services}
    assert given <= read


def test_what_the_manifest_refers_to_is_in_it() -> None:
    secrets, maps = of_kind("Secret"), of_kind("ConfigMap")
    for name, container in containers():
        for source in container.get("envFrom", []):
            assert source["secretRef"]["name"] in secrets
        for variable in container.get("env", []):
            key = variable["valueFrom"]["secretKeyRef"]
            assert key["key"] in secrets[key["name"]]["stringData"]
        claims = (
            of_kind("StatefulSet").get(name, {}).get("spec", {}).get("volumeClaimTemplates", [])
        )
        volumes = {one["name"]: one for one in pods()[name]["volumes"]}
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted <= volumes.keys() | {one["metadata"]["name"] for one in claims}
        assert all(
            one["configMap"]["name"] in maps for one in volumes.values() if "configMap" in one
        )


def test_the_programs_reach_valkey_with_its_password() -> None:
    secrets = of_kind("Secret")
    url = urlsplit(secrets["jamboree"]["stringData"]["JAMBOREE_REDIS_URL"])
    (service,) = of_kind("Service").values()
    assert url.hostname == service["metadata"]["name"]
    assert url.password == secrets["valkey"]["stringData"]["password"]
    assert url.port in [one["port"] for one in service["spec"]["ports"]]
    labels = of_kind("StatefulSet")["valkey"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (rule,) = of_kind("NetworkPolicy")["valkey"]["spec"]["ingress"]
    admitted = rule["from"][0]["podSelector"]["matchLabels"].items()
    for one in KUBERNETES:
        if one["kind"] in ("Deployment", "Job"):
            assert admitted <= one["spec"]["template"]["metadata"]["labels"].items()
    environment = SERVICES["trainer"]["environment"]
    assert "@valkey:6379" in environment["JAMBOREE_REDIS_URL"]


def configurations(folder: Path) -> dict[str, list[str]]:
    """What each file gives to its Valkey, without the password."""
    file = folder / "valkey.conf"
    file.write_text(of_kind("ConfigMap")["valkey"]["data"]["valkey.conf"])
    return {"kubernetes": [str(file)], "compose": SERVICES[VALKEY]["command"][1:-2]}


@pytest.mark.parametrize("name", ["kubernetes", "compose"])
def test_the_doctor_finds_nothing_wrong_with_its_valkey(
    name: str, short_directory: Path, tmp_path: Path
) -> None:
    path = short_directory / f"{name}.sock"
    elsewhere = ["--port", "0", "--unixsocket", str(path), "--dir", str(tmp_path)]
    command = [valkey_program(), *configurations(tmp_path)[name], *elsewhere]
    server = Server(f"unix://{path}", command, redis_answers).start()
    try:
        found = [one for one in diagnose(server.url, home=tmp_path) if "redis" in one.check]
    finally:
        server.stop()
    assert {one.level for one in found} == {"ok"}
    assert {"redis disk", "redis eviction"} <= {one.check for one in found}
