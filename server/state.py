"""`State`: what all requests to one server share."""

from collections.abc import Sequence

from .dialects.request_error import RequestError
from .http.api_keys import ApiKeys
from .metrics import IN_PROGRESS, BorrowedGauges, ModelMetrics, PathMetrics
from .models.served_model import ServedModel
from .routes import SCORING, statuses
from .settings import Settings


class State:
    """The settings, the models by name, the keys, and whether the server is ending. Used in the event loop's thread alone."""

    def __init__(self, settings: Settings, models: Sequence[ServedModel], keys: ApiKeys) -> None:
        self.settings = settings
        self.models = {model.name: model for model in models}
        self.keys = keys
        self.draining = False
        """Set when the server is told to end: it is not ready, goes on, and asks clients to close their connections."""
        self.in_progress = 0
        """Requests without an answer yet."""
        tei_paths = {route.path for route in SCORING if route.tei is not False}
        self.path_metrics = {
            path: PathMetrics(path, {*codes, settings.tei_validation_status} if path in tei_paths else codes)
            for path, codes in statuses().items()
        }
        self.model_metrics = {model.name: ModelMetrics(model) for model in models}
        self._borrowed = BorrowedGauges(settings.gauges, models)
        self._first = models[0]

    def model(self, name: str | None) -> ServedModel:
        """Return the model that a request names.

        Clients of other servers name those servers' models. So one model answers whatever the name. Of several, one that is not
        named is the first, and an unknown name raises RequestError.
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

    async def problem(self) -> str | None:
        """Return why the server is not ready, None where it is."""
        if self.draining:
            return "the server is shutting down"
        problems = [await model.problem() for model in self.models.values()]
        return next((problem for problem in problems if problem is not None), None)

    def refresh_metrics(self) -> None:
        """Hand what was counted to Prometheus, and set the gauges to what they are now."""
        IN_PROGRESS.set(self.in_progress)
        for path in self.path_metrics.values():
            path.flush()
        for model in self.model_metrics.values():
            model.refresh()
        self._borrowed.refresh()
