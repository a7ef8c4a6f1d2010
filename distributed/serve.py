"""`application`: the HTTP server as an application of Ray Serve, with replicas scaled by the number of waiting tokens."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..engine.errors import BackendError, OptionError
from ..server.settings import Settings

ONGOING = 1000
"""Most requests that Serve passes to a replica at a time. They wait in the replica's queue, which shares time fairly and can
refuse them."""
QUEUED = "queued_tokens"


class QueuedTokens:
    """The autoscaling policy: one replica per `tokens_per_replica` tokens of accepted requests that are not scored yet."""

    def __init__(self, tokens_per_replica: int) -> None:
        self._tokens = tokens_per_replica

    def __call__(self, context: Any) -> tuple[int, Mapping[str, Any]]:
        """Return the wanted number of replicas, before Serve's limits and delays. `context` is Serve's AutoscalingContext."""
        queued = sum((context.aggregated_metrics or {}).get(QUEUED, {}).values())
        return max(1, math.ceil(queued / self._tokens)), {}


def application(
    settings: Settings,
    *,
    threads: int = 1,
    gpus: float = 0,
    bundles_per_replica: int = 3,
    min_replicas: int = 1,
    max_replicas: int = 1,
    tokens_per_replica: int = 100_000,
    autoscaling: Mapping[str, Any] | None = None,
) -> Any:
    """Return a `ray.serve.Application` that answers as `crossrt serve` does. Run it with `ray.serve.run`.

    Paths, dialects, limits and keys of `settings` work as in `crossrt serve`. Ray Serve handles sockets, TLS, workers and
    signals. A replica gets `threads` processors, one for each thread of its models, and `gpus` GPUs. It opens a bundle when a
    request names it, by Serve's header `serve_multiplexed_model_id` or by the field `model` of its body, and keeps up to
    `bundles_per_replica` open. Serve starts replicas, up to `max_replicas`, until each has fewer than `tokens_per_replica` tokens
    waiting. `autoscaling` has further fields of Serve's AutoscalingConfig, such as delays.

    Raises BackendError if Ray Serve is not installed, and OptionError for `threads`, `bundles_per_replica` or
    `tokens_per_replica` below 1, and for a model with options of its own for the device or threads.
    """
    counts = {"threads": threads, "bundles_per_replica": bundles_per_replica, "tokens_per_replica": tokens_per_replica}
    if wrong := [name for name, value in counts.items() if value < 1]:
        raise OptionError(f"{wrong[0]}={counts[wrong[0]]}: give 1 or more")
    try:
        from ray import serve
        from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
    except ImportError:
        raise BackendError('this needs Ray Serve: pip install "crossrt[ray]"') from None
    for model in settings.models:
        if own := [name for name in ("device", "devices", "threads") if model.options.get(name) is not None]:
            raise OptionError(
                f"the model {model.name} has the option {own[0]!r}: give gpus= and threads= of a replica instead"
            )
    device = {"device": "cuda" if gpus else "cpu", "threads": threads}
    models = tuple(replace(model, options={**model.options, **device}) for model in settings.models)
    settings = replace(settings, models=models)

    @serve.deployment(
        name="crossrt",
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": threads, "num_gpus": gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            policy=AutoscalingPolicy(
                policy_function=QueuedTokens, policy_kwargs={"tokens_per_replica": tokens_per_replica}
            ),
            **(autoscaling or {}),
        ),
    )
    @serve.ingress()
    class Reranker:
        def __init__(self) -> None:
            from .multiplexed import Multiplexed

            self._served = Multiplexed(settings)
            self._served.load = self.load

        def __serve_build_asgi_app__(self) -> Any:
            return self._served

        @serve.multiplexed(max_num_models_per_replica=bundles_per_replica)
        async def load(self, name: str) -> Any:
            return await self._served.open(name)

        async def record_autoscaling_stats(self) -> dict[str, int]:
            return {QUEUED: self._served.queued_tokens}

        async def check_health(self) -> None:
            if problem := await self._served.problem():
                raise RuntimeError(problem)

    deployed: Any = Reranker
    return deployed.bind()
