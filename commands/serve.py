"""`crossrt serve`: an HTTP server that reranks."""

import asyncio
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.errors import OptionError
from .shared.app import app
from .shared.arguments import as_typed
from .shared.option_groups import with_option_groups
from .shared.options import BatchSize, HubOptions, ModelOptions, Precision
from .shared.options_file import defaults_from_file, model_tables
from .shared.output import say
from .shared.requirements import need_serve
from .shared.variables import PREFIX, models_of_variable, refuse_unknown_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..server.models.model_settings import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningOptions:
    """Where the server listens."""

    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 or :: means all addresses.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one and logs it.")] = 8080
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on instead of an address.")] = None
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that share the address. One is fastest, unless requests are tiny.")
    ] = 1
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Certificate chain for HTTPS, a PEM file; needs --tls-key.")
    ] = None
    tls_key: Annotated[Path | None, typer.Option(help="Private key of --tls-certificate, a PEM file.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessOptions:
    """Who may call."""

    api_keys: Annotated[
        Path | None,
        typer.Option(help="File with an API key on each line; SIGHUP reads it again. Probes and /metrics need no key."),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose web pages may send requests, or *; may be given several times."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Limits of a model's requests and queue."""

    max_documents: Annotated[int, typer.Option(min=1, help="Largest number of texts in a request.")] = 2048
    max_request_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens in a request.")] = 1_048_576
    max_queue_tokens: Annotated[
        int, typer.Option(min=1, help="Largest number of tokens that may wait for a model; further requests get 429.")
    ] = 2_097_152
    truncate: Annotated[
        bool, typer.Option("--truncate/--no-truncate", help="Truncate pairs that are too long, or refuse the request.")
    ] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOptions:
    """How long things may take, in seconds."""

    request_timeout: Annotated[
        float, typer.Option(help="Seconds for a request; a client can ask for less with the header x-request-timeout.")
    ] = 60.0
    header_timeout: Annotated[float, typer.Option(help="Seconds for a client to send the headers of a request.")] = 10.0
    body_timeout: Annotated[float, typer.Option(help="Seconds for a client to send the body of a request.")] = 30.0
    write_timeout: Annotated[float, typer.Option(help="Seconds for a client to read its answer.")] = 60.0
    keep_alive: Annotated[float, typer.Option(help="Seconds to keep a connection open between two requests.")] = 75.0
    shutdown_delay: Annotated[
        float,
        typer.Option(
            help="Seconds to go on serving after SIGTERM, while readiness fails, so that load balancers turn elsewhere."
        ),
    ] = 5.0
    shutdown_timeout: Annotated[
        float, typer.Option(help="Seconds to finish accepted requests after --shutdown-delay.")
    ] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationOptions:
    """What the server reports about itself, and the status of validation errors."""

    log_format: Annotated[str, typer.Option(help="text or json.")] = "text"
    log_requests: Annotated[
        str,
        typer.Option(help="Requests to log: all, usual (without successful probes and /metrics), failed, none."),
    ] = "usual"
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Log queries and texts too.")] = False
    gauges: Annotated[
        list[str] | None, typer.Option(help="Also export the gauges of tei or vllm; may be given several times.")
    ] = None
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="URL to send traces to, by OTLP over HTTP; needs crossrt[otlp].")
    ] = None
    tei_validation_status: Annotated[
        int, typer.Option(help="Status of validation errors for TEI's clients: 422, or 413 as TEI had until 1.8.")
    ] = 422


@app.command(
    epilog="Examples:  crossrt serve minilm-l6 --precision int8  |  crossrt serve small=tinybert large=minilm-l12 --port 9000",
    context_settings={"auto_envvar_prefix": PREFIX},
)
@with_option_groups
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]BUNDLE...",
            help="Bundles, checkpoint directories or hub ids to serve; the first is the default model.",
        ),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=defaults_from_file,
            help="TOML file with options by their names, and a table [models.NAME] with options for each model.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            is_eager=True,
            callback=refuse_unknown_variables,
            help="Check the options and the address, open the models, score a token with each, and exit.",
        ),
    ] = False,
    listening: ListeningOptions,
    access: AccessOptions,
    max_payload: Annotated[int, typer.Option(min=1, help="Largest body of a request in bytes.")] = 16 << 20,
    limits: LimitOptions,
    times: TimeOptions,
    observation: ObservationOptions,
    precision: Precision = None,
    batch_size: BatchSize = 32,
    opened: ModelOptions,
    hub: HubOptions,
) -> None:
    """Serve models over HTTP to clients of TEI, Cohere, Jina, Voyage, vLLM and NIM.

    Every option can also be set by an environment variable, such as CROSSRT_PORT for --port. CROSSRT_MODELS has the bundles,
    separated by commas. Options take precedence over variables, and variables over the file of --config. SIGHUP opens replaced
    bundles again, SIGTERM finishes accepted requests and exits.
    """
    need_serve()
    from ..server import serving, workers
    from ..server.settings import Settings

    common = {**asdict(opened), **asdict(limits), **asdict(hub), "precision": precision, "batch_size": batch_size}
    settings = Settings(
        models=tuple(_models(models or models_of_variable(), config, common)),
        max_payload=max_payload,
        api_keys=access.api_keys,
        cors_origins=tuple(access.cors_origin or ()),
        **asdict(listening),
        **asdict(times),
        **{**asdict(observation), "gauges": tuple(observation.gauges or ())},
    )
    if check:
        asyncio.run(serving.check(settings))
        for model in settings.models:
            say(f"{model.name}: {model.bundle} opens and scores")
    elif settings.workers > 1:
        workers.supervise(settings)
    else:
        serving.serve(settings)


def _models(words: list[str], config: Path | None, common: dict[str, Any]) -> "Iterator[ModelSettings]":
    """Yield the models given by words, as NAME=BUNDLE or BUNDLE, then those of the configuration file."""
    for word in words:
        name, separator, bundle = as_typed(word, "the bundle").partition("=")
        if not separator or Path(word).exists():
            name, bundle = Path(word).absolute().name or word, word  # `.` too has the name of its folder
        yield _model(name, bundle, common)
    for name, table in model_tables(config, {"bundle", *common}).items():
        if not isinstance(table.get("bundle"), str):
            raise OptionError(f'{config}: models.{name} names no bundle; write bundle = "PATH"')
        for option, value in table.items():
            if isinstance(common.get(option), bool) and not isinstance(value, bool):
                raise OptionError(f"{config}: models.{name} has {option} = {value!r}; write true or false")
        yield _model(name, table.pop("bundle"), {**common, **table})


def _model(name: str, bundle: str, options: dict[str, Any]) -> "ModelSettings":
    from ..server.models.model_settings import ModelLimits, ModelSettings

    if options["revision"] is not None:
        HubOptions(revision=options["revision"]).for_bundles([bundle])  # raises for a directory
    limits = {field.name: options[field.name] for field in fields(ModelLimits)}
    others = {key: value for key, value in options.items() if key not in limits and key != "batch_size"}
    return ModelSettings(
        name=name, bundle=bundle, options=others, batch_size=options["batch_size"], limits=ModelLimits(**limits)
    )
