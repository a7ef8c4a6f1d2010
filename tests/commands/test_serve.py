"""`crossrt serve` takes options, variables and a file. What it does not know is an error, and --check says so."""

import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from crossrt.__main__ import main

pytest.importorskip("msgspec", reason="crossrt[serve] is not installed")

REPOSITORY = Path(__file__).resolve().parents[2]
NAMED = re.compile(r'"(CROSSRT_[A-Z_]+)"')
"""A variable that a program names."""


def run(*words: str, patch: pytest.MonkeyPatch, **variables: str) -> int:
    patch.setattr(sys, "argv", ["crossrt", "serve", *words])
    for name, value in variables.items():
        patch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list that gets the settings instead of a server."""
    from crossrt.server import serving

    found: list[Any] = []
    monkeypatch.setattr(serving, "serve", found.append)
    return found


def test_options_precede_variables_and_these_the_file(
    settings: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'port = 1\nhost = "::1"\nkeep-alive = 5\ngauges = ["tei"]\ntruncate = false\n'
        '[models."a.b"]\nbundle = "x"\nmax-documents = 7\n'
    )
    words = ("y", "z=w", "--port", "3", "--config", str(file))
    run(*words, patch=monkeypatch, CROSSRT_PORT="2", CROSSRT_KEEP_ALIVE="6", CROSSRT_CORS_ORIGIN="https://a https://b")
    (found,) = settings
    assert (found.port, found.keep_alive, found.host, found.gauges) == (3, 6.0, "::1", ("tei",))
    assert found.cors_origins == ("https://a", "https://b")
    assert [(each.name, each.bundle) for each in found.models] == [("y", "y"), ("z", "w"), ("a.b", "x")]
    assert [each.limits.max_documents for each in found.models] == [2048, 2048, 7]
    assert not any(each.limits.truncate for each in found.models)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "'prot' is no option"),
        ("[models.a]\nbundel = 'x'", "models.a has 'bundel'"),
        ("[models.a]\nthreads = 1", "models.a names no bundle"),
        ("models.a = 'x'", "models.a is no table"),
        ("models = 'x'", "models is no table; write [models.NAME]"),
        ("models = ['a=x']", "models is no table; write [models.NAME]"),
        ("[models.a]\nbundle = 'x'\ntruncate = 'no'", "models.a has truncate = 'no'; write true or false"),
        ("port = ", "cannot be read as TOML"),
        ("cors-origin = 'https://a'", "cors_origin is 'https://a'; give a list"),
        ("gauges = 'tei'", "gauges is 'tei'; give a list"),
        ("host = ['::1', '127.0.0.1']", "host is ['::1', '127.0.0.1']; give a single value"),
        ("[host]\naddress = '::1'", "host is {'address': '::1'}; give a single value"),
    ],
)
def test_a_file_with_what_is_no_option_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, text: str, says: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    assert run("x", "--config", str(file), patch=monkeypatch) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("x", "--prot", "1"), "No such option"),
        ((), "no model to serve"),
        (("x", "x"), "two models have one name"),
        (("x", "--port", "70000"), "--port 70000"),
        (("x", "--keep-alive", "0"), "--keep-alive 0"),
        (("x", "--log-format", "xml"), "--log-format xml: give text or json"),
        (("x", "--tei-validation-status", "400"), "give 413 or 422"),
        (("x", "--tls-key", "k"), "go together"),
        ((str(REPOSITORY), "--revision", "main"), f"--revision 'main': {REPOSITORY} is a directory"),
        (("x", "--api-keys", "/nowhere", "--check"), "--api-keys /nowhere cannot be read"),
        (("x", "--tls-key", "/nowhere", "--tls-certificate", "/nowhere", "--check"), "no PEM certificate"),
    ],
)
def test_wrong_options_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, words: tuple[str, ...], says: str
) -> None:
    assert run(*words, patch=monkeypatch) == 2
    assert says in capsys.readouterr().err


def test_a_variable_that_is_no_option_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run("x", patch=monkeypatch, CROSSRT_PROT="1") == 2
    assert "CROSSRT_PROT" in capsys.readouterr().err


def test_variables_that_other_parts_read_are_no_options_of_the_server(
    settings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file for folder in ("engine", "tests", "benchmarks") for file in (REPOSITORY / folder).rglob("*.[cp]*")]
    sources = [file for file in files if file.suffix in (".c", ".cpp", ".py") and file != Path(__file__).resolve()]
    found = {name for file in sources for name in NAMED.findall(file.read_text(encoding="utf-8"))}
    assert {"CROSSRT_CACHE", "CROSSRT_KERNELS", "CROSSRT_HIDDEN_CPUID"} <= found
    run("x", patch=monkeypatch, **dict.fromkeys(found, ""))
    assert len(settings) == 1


def test_models_can_be_a_variable(settings: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run(patch=monkeypatch, CROSSRT_MODELS="small=/srv/a b, /srv/c,")
    run("d", patch=monkeypatch)
    models = [[(each.name, each.bundle) for each in found.models] for found in settings]
    assert models == [[("small", "/srv/a b"), ("c", "/srv/c")], [("d", "d")]]


def test_a_model_has_the_name_of_its_folder(
    settings: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path / "minilm")
    words = (".", "someone/reranker", f"{tmp_path}/large/", "./small")
    run(*words, patch=monkeypatch)
    models = [(each.name, each.bundle) for each in settings[0].models]
    assert models == list(zip(("minilm", "reranker", "large", "small"), words, strict=True))


def test_variables_of_a_service_or_a_linked_container_are_ignored(
    settings: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("port = 81\n")
    kubernetes = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "80",
        "SERVICE_PORT_HTTP": "80",
        "PORT": "tcp://10.0.0.1:80",
        "PORT_80_TCP": "tcp://10.0.0.1:80",
        "PORT_80_TCP_PROTO": "tcp",
        "PORT_80_TCP_PORT": "80",
        "PORT_80_TCP_ADDR": "10.0.0.1",
        "GPU_SERVICE_HOST": "10.0.0.2",  # of a Service crossrt-gpu
        "GPU_PORT": "udp://10.0.0.2:80",
    }
    docker = {"NAME": "/web/crossrt", "ENV_LANG": "C"}
    variables = {f"CROSSRT_{name}": value for name, value in {**kubernetes, **docker}.items()}
    run("x", "--config", str(file), patch=monkeypatch, **variables)
    assert settings[0].port == 81


@pytest.mark.parametrize("name", ["CROSSRT_GPU_PORT", "CROSSRT_NAME", "CROSSRT_PORTS"])
def test_a_variable_that_only_looks_like_a_services_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    assert run("x", patch=monkeypatch, **{name: "80"}) == 2
    assert name in capsys.readouterr().err


def test_windows_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name in ("crossrt.server.serving", "crossrt.server.workers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)  # there is none, as on Windows
    monkeypatch.setattr(sys, "platform", "win32")
    assert run("x", patch=monkeypatch) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "does not run on Windows" in said
    assert "WSL" in said


def test_check_opens_the_models_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, bundle: Path, tmp_path: Path
) -> None:
    assert run(f"mini={bundle}", "--device", "cpu", "--port", "0", "--check", patch=monkeypatch) == 0
    assert capsys.readouterr().out == f"mini: {bundle} opens and scores\n"
    assert run(str(tmp_path / "missing"), "--port", "0", "--check", "--local-files-only", patch=monkeypatch) == 1


def test_check_sees_an_address_that_is_taken_and_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, bundle: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(str(bundle), "--device", "cpu", "--check", "--port", port, patch=monkeypatch) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    words = (str(bundle), "--device", "cpu", "--check", "--uds")
    assert run(*words, str(tmp_path / "missing" / "socket"), patch=monkeypatch) == 2
    assert run(*words, str(tmp_path / "socket"), patch=monkeypatch) == 0
    assert list(tmp_path.iterdir()) == []


def test_check_sees_that_opentelemetry_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Any, bundle: Path) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    words = (str(bundle), "--device", "cpu", "--port", "0", "--otlp-endpoint", "http://127.0.0.1:4318/v1/traces")
    assert run(*words, "--check", patch=monkeypatch) == 1
    assert 'pip install "crossrt[serve,otlp]"' in capsys.readouterr().err
