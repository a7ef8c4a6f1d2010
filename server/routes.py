"""The table of paths, with what each accepts and answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .dialects.body import Body
from .dialects.decoding import decode_rerank, decoder_of
from .dialects.documents import Rerank, RerankAnswer
from .dialects.infinity import InfinityRerank
from .dialects.ranking import Ranking, RankingAnswer
from .dialects.request_error import ERROR_KINDS
from .dialects.scoring import ScoreAnswer, ScoreBody
from .dialects.tei import Prediction, Rank, TeiPredict, TeiRerank


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRoute:
    """A path to which texts are posted.

    `request_types` and `response_types` are the types of its bodies. `documents` tells whether results hold their documents if
    the client does not say. `api_version` is what Cohere's client reads. `tei` tells whether errors are TEI's if the body could
    not be read, or is None if clients of several dialects use the path.
    """

    path: str
    summary: str
    decode: Callable[[bytes], Body]
    request_types: tuple[type[Body], ...]
    response_types: tuple[object, ...]
    documents: bool = False
    api_version: str = "2"
    tei: bool | None = False


_rerank = ScoringRoute(
    path="/rerank",
    summary="Rank texts for a query: TEI's `texts`, or `documents` as Cohere, Jina, Voyage and vLLM send them",
    decode=decode_rerank,
    request_types=(TeiRerank, Rerank),
    response_types=(list[Rank], RerankAnswer),
    documents=True,
    tei=None,
)
_v1 = ScoringRoute(
    path="/v1/rerank",
    summary="Rank documents as Cohere's version 1, Jina, Voyage and vLLM do",
    decode=decoder_of(Rerank),
    request_types=(Rerank,),
    response_types=(RerankAnswer,),
    documents=True,
    api_version="1",
)
_score = ScoringRoute(
    path="/score",
    summary="Score pairs of texts in their order, as vLLM does",
    decode=decoder_of(ScoreBody),
    request_types=(ScoreBody,),
    response_types=(ScoreAnswer,),
)

SCORING_ROUTES = (
    _rerank,
    replace(_rerank, path="/", summary="The same as /rerank, as in TEI", tei=True),
    replace(_rerank, path="/invocations", summary="The same as /rerank, for SageMaker", tei=True),
    _v1,
    replace(
        _v1, path="/v2/rerank", summary="Rank documents as Cohere's version 2 does", documents=False, api_version="2"
    ),
    replace(_v1, path="/v3/rerank", summary="Rank documents as OpenVINO Model Server does", documents=False),
    ScoringRoute(
        path="/infinity/rerank",
        summary="Rank documents as Infinity does, with documents as bare strings",
        decode=decoder_of(InfinityRerank),
        request_types=(InfinityRerank,),
        response_types=(RerankAnswer,),
    ),
    _score,
    replace(_score, path="/v1/score"),
    ScoringRoute(
        path="/predict",
        summary="Score the labels of pairs of texts, as TEI does",
        decode=decoder_of(TeiPredict),
        request_types=(TeiPredict,),
        response_types=(list[Prediction], list[list[Prediction]]),
        tei=True,
    ),
    ScoringRoute(
        path="/v1/ranking",
        summary="Rank passages as NVIDIA's NIM does",
        decode=decoder_of(Ranking),
        request_types=(Ranking,),
        response_types=(RankingAnswer,),
    ),
)
"""The paths that score."""

CLIENT_GONE = 499
"""The status in logs and metrics for a client that left, as in nginx."""

PROBES = {
    "/health": "Ready: every model scores a token, or did a moment ago (TEI, vLLM)",
    "/ping": "The same, for SageMaker",
    "/readyz": "The same, for Kubernetes",
    "/v2/health/ready": "The same, as in KServe",
    "/livez": "The process answers; models are not asked",
    "/v2/health/live": "The same, as in KServe",
}
LIVENESS = ("/livez", "/v2/health/live")
"""Probes that do not ask the models."""
GET_PATHS = {
    "/info": "The model and its limits, as TEI tells them",
    "/v1/models": "The served models, as OpenAI lists them",
    "/metrics": "Metrics for Prometheus",
    "/openapi.json": "This description",
    "/": "The same as /docs",
    "/docs": "A page that shows this description and can try a request",
}
PUBLIC_PATHS = frozenset({*PROBES, "/", "/metrics", "/openapi.json", "/docs"})
"""Paths that need no key."""
RELOAD = "/admin/reload"
OTHER_PATHS = "other"
"""The name of all unknown paths in metrics."""


def statuses() -> dict[str, set[int]]:
    """Return the statuses that answers can have, by path. In TEI's dialect `validation` adds another one: see `Settings`."""
    scoring = {200, CLIENT_GONE, *(kind.status for kind in ERROR_KINDS.values())}
    reading, probing = {200, 401, 405, 500}, {200, 405, 500}
    found = {route.path: set(scoring) for route in SCORING_ROUTES}
    for path in (*PROBES, *GET_PATHS, RELOAD, OTHER_PATHS):
        found.setdefault(path, set()).update(probing if path in PUBLIC_PATHS else reading)
        if path in PROBES and path not in LIVENESS:
            found[path].add(503)
    found[RELOAD] |= {404, 503}
    found[OTHER_PATHS] = {401, 404, 500}
    return found
