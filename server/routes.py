"""The table of paths, with what each accepts and answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .dialects.body import Body
from .dialects.documents import Rerank, RerankAnswer
from .dialects.infinity import InfinityRerank
from .dialects.ranking import Ranking, RankingAnswer
from .dialects.reading import read_rerank, reader
from .dialects.request_error import ERROR_KINDS
from .dialects.scoring import ScoreAnswer, ScoreBody
from .dialects.tei import Prediction, Rank, TeiPredict, TeiRerank


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRoute:
    """A path to which texts are posted.

    `takes` and `gives` are the types of its bodies and answers. `documents` tells whether results hold their documents if the
    client does not say. `api_version` is what Cohere's client reads. `tei` tells whether errors are TEI's if the body could not
    be read, or is None if clients of several dialects use the path.
    """

    path: str
    says: str
    read: Callable[[bytes], Body]
    takes: tuple[type[Body], ...]
    gives: tuple[object, ...]
    documents: bool = False
    api_version: str = "2"
    tei: bool | None = False


_rerank = ScoringRoute(
    path="/rerank",
    says="Rank texts for a query: TEI's `texts`, or `documents` as Cohere, Jina, Voyage and vLLM send them",
    read=read_rerank,
    takes=(TeiRerank, Rerank),
    gives=(list[Rank], RerankAnswer),
    documents=True,
    tei=None,
)
_v1 = ScoringRoute(
    path="/v1/rerank",
    says="Rank documents as Cohere's version 1, Jina, Voyage and vLLM do",
    read=reader(Rerank),
    takes=(Rerank,),
    gives=(RerankAnswer,),
    documents=True,
    api_version="1",
)
_score = ScoringRoute(
    path="/score",
    says="Score pairs of texts in their order, as vLLM does",
    read=reader(ScoreBody),
    takes=(ScoreBody,),
    gives=(ScoreAnswer,),
)

SCORING = (
    _rerank,
    replace(_rerank, path="/", says="The same as /rerank, as in TEI", tei=True),
    replace(_rerank, path="/invocations", says="The same as /rerank, for SageMaker", tei=True),
    _v1,
    replace(_v1, path="/v2/rerank", says="Rank documents as Cohere's version 2 does", documents=False, api_version="2"),
    replace(_v1, path="/v3/rerank", says="Rank documents as OpenVINO Model Server does", documents=False),
    ScoringRoute(
        path="/infinity/rerank",
        says="Rank documents as Infinity does, with documents as bare strings",
        read=reader(InfinityRerank),
        takes=(InfinityRerank,),
        gives=(RerankAnswer,),
    ),
    _score,
    replace(_score, path="/v1/score"),
    ScoringRoute(
        path="/predict",
        says="Score the labels of pairs of texts, as TEI does",
        read=reader(TeiPredict),
        takes=(TeiPredict,),
        gives=(list[Prediction], list[list[Prediction]]),
        tei=True,
    ),
    ScoringRoute(
        path="/v1/ranking",
        says="Rank passages as NVIDIA's NIM does",
        read=reader(Ranking),
        takes=(Ranking,),
        gives=(RankingAnswer,),
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
READING = {
    "/info": "The model and its limits, as TEI tells them",
    "/v1/models": "The served models, as OpenAI lists them",
    "/metrics": "Metrics for Prometheus",
    "/openapi.json": "This description",
    "/": "The same as /docs",
    "/docs": "A page that shows this description and can try a request",
}
OPEN = frozenset({*PROBES, "/", "/metrics", "/openapi.json", "/docs"})
"""Paths that need no key."""
RELOAD = "/admin/reload"
OTHER = "other"
"""The name of all unknown paths in metrics."""


def statuses() -> dict[str, set[int]]:
    """Return the statuses that answers can have, by path. In TEI's dialect `validation` adds another one: see `Settings`."""
    scoring = {200, CLIENT_GONE, *(kind.status for kind in ERROR_KINDS.values())}
    reading, probing = {200, 401, 405, 500}, {200, 405, 500}
    found = {route.path: set(scoring) for route in SCORING}
    for path in (*PROBES, *READING, RELOAD, OTHER):
        found.setdefault(path, set()).update(probing if path in OPEN else reading)
        if path in PROBES and path not in LIVENESS:
            found[path].add(503)
    found[RELOAD] |= {404, 503}
    found[OTHER] = {401, 404, 500}
    return found
