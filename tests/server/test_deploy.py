"""The files in deploy/ name options, paths and metrics that there are."""

import json
import re
from pathlib import Path

import tomllib
import typer.main

from crossrt.__main__ import app
from crossrt.server.routes import PROBES

from .conftest import Served

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


def test_every_metric_of_the_dashboard_is_exported(stub: Served) -> None:
    exported = stub.get("/metrics").body.decode()
    queries = json.dumps(json.loads((DEPLOY / "grafana.json").read_text()))
    metrics = set(re.findall(r"\b((?:crossrt|process)_\w+)\b(?=\{|,)", queries))
    assert len(metrics) > 10
    assert {name for name in metrics if f"\n{name}" not in exported} == set()
