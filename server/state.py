"""`State`: the state that all requests to a server share."""

from collections.abc import Sequence

from .dialects.request_error import RequestError
from .http.api_keys import ApiKeys
from .metrics import IN_PROGRESS, CompatibilityGauges, ModelMetrics, PathMetrics
from .models.served_model import ServedModel
from .routes import SCORING_ROUTES, statuses
from .settings import Settings


class State:
    """The settings, the models by name, the keys, and whether the server is shutting down.

    Only the event loop's thread may use it.
    """

    def __init__(self, settings: Settings, models: Sequence[ServedModel], keys: ApiKeys) -> None:
        self.settings = settings
        self.models = {model.name: model for model in models}
        self.keys = keys
        self.draining = False
        """Set when the server is told to end. It is then not ready, keeps serving, and asks clients to close their
        connections."""
        self.in_progress = 0
        """Number of requests without an answer yet."""
        tei_paths = {route.path for route in SCORING_ROUTES if route.tei is not False}
        self.path_metrics = {
            path: PathMetrics(path, {*codes, settings.tei_validation_status} if path in tei_paths else codes)
            for path, codes in statuses().items()
        }
        self.model_metrics = {model.name: ModelMetrics(model) for model in models}
        self._borrowed = CompatibilityGauges(settings.gauges, models)
        self._first = models[0]

    def model(self, name: str | None) -> ServedModel:
        """Return the model that a request names.

        Clients of other servers send the names of those servers' models. So a server with one model answers for every name. With
        several models, a request without a name gets the first, and an unknown name raises RequestError.
        """
        if name is None or len(self.models) == 1:
            return self._first
        found = self.models.get(name)
        if found is None:
            raise RequestError(
                "not_found",
                f"there is no model {name[:80]!r}; this server has {', '.join(self.models)}",
                logged="there is no model of this name",
            )
        return found

    async def opened(self, name: str | None) -> ServedModel:
        """Return the model that a request names, as `model` does. A state that opens models on demand opens it first."""
        return self.model(name)

    @property
    def names(self) -> list[str]:
        """The names of all models, the first one first."""
        return list(self.models)

    async def problem(self) -> str | None:
        """Return why the server is not ready, or None if it is."""
        if self.draining:
            return "the server is shutting down"
        problems: list[str | None] = []
        for name in list(self.models):  # a copy, since models may be opened and closed while one of them is probed
            if name in self.models:
                problems.append(await self.models[name].problem())
        return next((problem for problem in problems if problem is not None), None)

    def refresh_metrics(self) -> None:
        """Pass the counts to Prometheus, and set the gauges to their present values."""
        IN_PROGRESS.set(self.in_progress)
        for path in self.path_metrics.values():
            path.flush()
        for model in self.model_metrics.values():
            model.refresh()
        self._borrowed.refresh()
