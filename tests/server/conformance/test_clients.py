"""The clients of other servers, as they come from PyPI, get the scores of crossrt serve. scripts/conformance runs this."""

import json
import os
import urllib.request
from typing import Any

import pytest

URL = os.environ.get("SERVER_URL", "")
if not URL:
    pytest.skip("SERVER_URL names no server; scripts/conformance starts one", allow_module_level=True)

QUERY = "play chess against the computer"
TEXTS = ["a calculator for the shell", "a chess program that plays normal chess", "a game of cards", "chess pieces"]


def posted(path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def expected() -> list[tuple[int, float]]:
    """Return the places of the texts and their sigmoids, best first."""
    return [(each["index"], each["score"]) for each in posted("/rerank", {"query": QUERY, "texts": TEXTS})]


def check(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    assert [place for place, _ in found] == [place for place, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-6)


# -- Cohere


@pytest.mark.parametrize("name", ["Client", "ClientV2"])
def test_cohere(expected: list[tuple[int, float]], name: str) -> None:
    cohere = pytest.importorskip("cohere")
    client = getattr(cohere, name)(api_key="none", base_url=URL)
    answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS, top_n=3)
    check([(each.index, each.relevance_score) for each in answer.results], expected[:3])
    assert answer.id
    assert answer.meta.api_version.version in ("1", "2")
    assert answer.meta.billed_units.search_units == 1


def test_cohere_with_documents() -> None:
    cohere = pytest.importorskip("cohere")
    client = cohere.Client(api_key="none", base_url=URL)
    answer = client.rerank(model="m", query=QUERY, documents=[{"text": text} for text in TEXTS], return_documents=True)
    assert [each.document.text for each in answer.results] == [TEXTS[each.index] for each in answer.results]


def test_cohere_raises_its_own_errors() -> None:
    cohere = pytest.importorskip("cohere")
    with pytest.raises(cohere.BadRequestError, match="empty"):
        cohere.ClientV2(api_key="none", base_url=URL).rerank(model="m", query=QUERY, documents=[])


# -- Voyage


def test_voyageai(expected: list[tuple[int, float]]) -> None:
    voyageai = pytest.importorskip("voyageai")
    client = voyageai.Client(api_key="none", base_url=f"{URL}/v1")
    for top_k in (None, 2):
        answer = client.rerank(QUERY, TEXTS, model="rerank-2.5", top_k=top_k)
        check([(each.index, each.relevance_score) for each in answer.results], expected[:top_k])
        assert answer.total_tokens > 0
        assert [each.document for each in answer.results] == [TEXTS[each.index] for each in answer.results]


# -- LiteLLM


@pytest.mark.parametrize(
    ("model", "path"),
    [("cohere/m", ""), ("jina_ai/m", ""), ("hosted_vllm/m", ""), ("huggingface/m", ""), ("infinity/m", "/infinity")],
)
def test_litellm(expected: list[tuple[int, float]], model: str, path: str) -> None:
    litellm = pytest.importorskip("litellm")
    answer = litellm.rerank(
        model=model, query=QUERY, documents=TEXTS, top_n=3, api_base=URL + path, api_key="none", return_documents=True
    )
    found = [(each["index"], each["relevance_score"]) for each in answer.results][:3]
    check(found, expected[:3])
    assert [each["document"]["text"] for each in answer.results][:3] == [TEXTS[place] for place, _ in expected[:3]]


# -- LlamaIndex


def test_llama_index(expected: list[tuple[int, float]]) -> None:
    base = pytest.importorskip("llama_index.postprocessor.tei_rerank.base")
    from llama_index.core.schema import NodeWithScore, TextNode

    reranker = base.TextEmbeddingInference(base_url=URL, top_n=3)
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(place))) for place, text in enumerate(TEXTS)]
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    check([(int(each.node.node_id), each.score) for each in found], expected[:3])


# -- Haystack


@pytest.mark.parametrize("kind", ["tei", "vllm"])
def test_haystack(expected: list[tuple[int, float]], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    haystack = pytest.importorskip("haystack")
    documents = [haystack.Document(content=text, id=str(place)) for place, text in enumerate(TEXTS)]
    if kind == "tei":
        module = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
        ranker = module.HuggingFaceTEIRanker(url=URL, top_k=3)
    else:
        module = pytest.importorskip("haystack_integrations.components.rankers.vllm")
        ranker = module.VLLMRanker(model="m", api_base_url=f"{URL}/v1", top_k=3)
    if hasattr(ranker, "warm_up"):
        ranker.warm_up()
    found = ranker.run(query=QUERY, documents=documents)["documents"]
    check([(int(each.id), each.score) for each in found], expected[:3])


# -- rerankers


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("cohere", "/v1/rerank"),
        ("jina", "/v1/rerank"),
        ("voyage", "/v1/rerank"),
        ("text-embeddings-inference", "/rerank"),
    ],
)
def test_rerankers(expected: list[tuple[int, float]], provider: str, path: str) -> None:
    api_rankers = pytest.importorskip("rerankers.models.api_rankers")
    ranker = api_rankers.APIRanker("m", "none", provider, url=URL + path)
    found = ranker.rank(QUERY, TEXTS)
    check([(each.document.doc_id, each.score) for each in found.results], expected)


# -- LangChain, through NVIDIA's client of NIM


def test_langchain(expected: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia = pytest.importorskip("langchain_nvidia_ai_endpoints")
    from langchain_core.documents import Document

    ranker = nvidia.NVIDIARerank(model="demo", base_url=f"{URL}/v1", nvidia_api_key="none", top_n=3)
    documents = [Document(page_content=text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    found = ranker.compress_documents(documents, QUERY)
    assert [each.metadata["place"] for each in found] == [place for place, _ in expected[:3]]
    raw = posted("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True})
    assert [each.metadata["relevance_score"] for each in found] == pytest.approx([each["score"] for each in raw[:3]])
