"""The files in deploy/ name options, paths and metrics that there are."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomllib
import typer.main

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

from crossrt.__main__ import app
from crossrt.commands.shared.variables import PREFIX
from crossrt.server.routes import PROBES

from .conftest import Served, Start

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def options() -> set[str]:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {str(parameter.name) for parameter in command.params}


def test_every_option_is_one_of_crossrt_serve() -> None:
    for file in ("Dockerfile", "compose.yaml", "kubernetes.yaml", "crossrt.service"):
        lines = [line for line in (DEPLOY / file).read_text().splitlines() if "crossrt" in line or "args" in line]
        text = "\n".join(lines + [line for line in (DEPLOY / file).read_text().splitlines() if "--shutdown" in line])
        named = {name.replace("-", "_") for name in re.findall(r"[\"' ]--([a-z][a-z-]+)", text)}
        others = {
            "from",
            "file",
            "build_arg",
            "tag",
            "publish",
            "from_file",
            "calibrate",
            "no_cache_dir",
            "uid",
            "no_create_home",
            "shell",
        }
        assert named - others <= options(), file
    variables = re.findall(r"CROSSRT_([A-Z_]+)=", (DEPLOY / "Dockerfile").read_text())
    assert {name.lower() for name in variables} <= options()
    example = tomllib.loads((DEPLOY / "serve.toml").read_text())
    assert {name.replace("-", "_") for name in example} <= options()


def test_every_probe_is_one_of_the_server() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text() + (DEPLOY / "Dockerfile").read_text()
    paths = re.findall(r"path: (/\w+)", text) + re.findall(r"8080(/\w+)", text)
    assert len(paths) == 4
    assert set(paths) <= set(PROBES)


def test_the_health_check_of_the_image_tells_whether_the_server_is_ready(start: Start) -> None:
    (words,) = re.findall(r"^HEALTHCHECK [^\[]*CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    served = start()
    command = [word.replace("8080", str(served.port)) for word in json.loads(words)]
    assert command[0] == "python"

    def status() -> int:
        return subprocess.run([sys.executable, *command[1:]], capture_output=True, timeout=20).returncode

    assert status() == 0
    served.end()
    assert status() != 0


def test_every_metric_of_the_dashboard_is_exported(stub: Served) -> None:
    exported = stub.get("/metrics").body.decode()
    queries = json.dumps(json.loads((DEPLOY / "grafana.json").read_text()))
    metrics = set(re.findall(r"\b((?:crossrt|process)_\w+)\b(?=\{|,)", queries))
    assert len(metrics) > 10
    assert {name for name in metrics if f"\n{name}" not in exported} == set()


def documents(file: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / file).read_text()))


def service_links(service: dict[str, Any]) -> Iterator[str]:
    """The variables that Kubernetes sets in each pod of a namespace for a service that was there before the pod."""
    name = service["metadata"]["name"].upper().replace("-", "_")
    yield from (f"{name}_SERVICE_HOST", f"{name}_SERVICE_PORT", f"{name}_PORT")
    for port in service["spec"]["ports"]:
        yield f"{name}_SERVICE_PORT_{port['name'].upper()}"
        link = f"{name}_PORT_{port['port']}_{port.get('protocol', 'TCP')}"
        yield from (link, f"{link}_PROTO", f"{link}_PORT", f"{link}_ADDR")


def test_pods_get_no_variables_that_the_server_takes_for_options() -> None:
    parts = documents("kubernetes.yaml")
    services = [each for each in parts if each["kind"] == "Service"]
    pods = [each["spec"]["template"]["spec"] for each in parts if each["kind"] == "Deployment"]
    assert services
    assert pods
    known = {f"{PREFIX}_{name}".upper() for name in options()}
    for pod in pods:
        names = {each["name"] for container in pod["containers"] for each in container.get("env", [])}
        if pod.get("enableServiceLinks", True):
            names.update(name for service in services for name in service_links(service))
        assert {name for name in names if name.startswith(f"{PREFIX}_")} <= known


def test_compose_gives_grafana_the_dashboard_and_its_source() -> None:
    services = documents("compose.yaml")[0]["services"]
    mounts: dict[str, str] = {}
    for service in services.values():
        for volume in service.get("volumes", []):
            here, there, _ = volume.split(":")
            assert (DEPLOY / here).is_file(), here
            mounts[there] = here.removeprefix("./")
    (sources,) = documents(mounts["/etc/grafana/provisioning/datasources/crossrt.yaml"])
    (source,) = sources["datasources"]
    (providers,) = documents(mounts["/etc/grafana/provisioning/dashboards/crossrt.yaml"])
    folder = providers["providers"][0]["options"]["path"]
    dashboard = json.loads((DEPLOY / mounts[f"{folder}/crossrt.json"]).read_text())
    chosen = next(each for each in dashboard["templating"]["list"] if each["type"] == "datasource")
    assert chosen["current"]["value"] == source["uid"]
    assert chosen["query"] == source["type"]
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert used == {"${" + chosen["name"] + "}"}
    assert source["url"] in {f"http://{name}:9090" for name in services}
    (scraped,) = documents(mounts["/etc/prometheus/prometheus.yml"])[0]["scrape_configs"]
    host, port = scraped["static_configs"][0]["targets"][0].split(":")
    assert port == services[host]["ports"][0].split(":")[1]


def test_what_compose_starts_is_what_its_first_lines_say() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    said = re.search(r"--profile (\w+) up +also Prometheus, and Grafana on port (\d+)", text)
    assert said is not None
    services = documents("compose.yaml")[0]["services"]
    assert {name: each.get("profiles", []) for name, each in services.items()} == {
        "crossrt": [],
        "prometheus": [said[1]],
        "grafana": [said[1]],
    }
    assert services["grafana"]["ports"][0].split(":")[0] == said[2]
