"""A typical reranking server, FastAPI with sentence-transformers, for `benchmarks/serving.py --peer`.

.peers/fastapi/bin/python benchmarks/peers/fastapi_server.py CHECKPOINT 7998
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

model = CrossEncoder(sys.argv[1], device="cpu")
app = FastAPI()


class Request(BaseModel):
    """A query and its documents."""

    query: str
    documents: list[str]


@app.post("/rerank")
def rerank(request: Request) -> list[dict[str, float]]:
    """Rank the documents. FastAPI calls this in a thread, since it is not a coroutine."""
    found = model.rank(request.query, request.documents)
    return [{"index": int(each["corpus_id"]), "relevance_score": float(each["score"])} for each in found]


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
