"""The adapter for LangChain, beside langchain-core and langchain-classic."""

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed: run scripts/integrations langchain")
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ValidationError

from crossrt import CrossEncoder
from crossrt.integrations.langchain import CrossrtCrossEncoder, CrossrtRerank

from .conftest import QUERY


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    return [Document(text, id=str(place), metadata={"place": place}) for place, text in enumerate(texts)]


def test_the_best_documents_are_copies_with_their_score(
    demo_model: CrossEncoder, documents: list[Document], texts: list[str]
) -> None:
    before = [document.model_copy(deep=True) for document in documents]
    reranker = CrossrtRerank(model=demo_model, top_n=4)
    assert isinstance(reranker, BaseDocumentCompressor)
    found = reranker.compress_documents(documents, QUERY)
    ranked = demo_model.rank(QUERY, texts, top_k=4)
    assert [document.metadata for document in found] == [
        {"place": each["corpus_id"], "relevance_score": each["score"]} for each in ranked
    ]
    assert [document.id for document in found] == [str(each["corpus_id"]) for each in ranked]
    assert documents == before
    assert asyncio.run(reranker.acompress_documents(documents, QUERY)) == found


def test_no_documents_give_none_and_no_top_n_gives_all(demo_model: CrossEncoder, documents: list[Document]) -> None:
    assert CrossrtRerank(model=demo_model).compress_documents([], QUERY) == []
    assert len(CrossrtRerank(model=demo_model).compress_documents(documents, QUERY)) == 3
    assert len(CrossrtRerank(model=demo_model, top_n=None).compress_documents(documents, QUERY)) == len(documents)


def test_what_is_dumped_opens_the_same_model(demo_bundle: Path, documents: list[Document]) -> None:
    with CrossEncoder(demo_bundle, max_length=20) as model:
        reranker = CrossrtRerank(model=model, top_n=2)
        dumped = reranker.model_dump()
        assert dumped["model"] == str(demo_bundle)
        expected = reranker.compress_documents(documents, QUERY)
        for other in (CrossrtRerank(**dumped), pickle.loads(pickle.dumps(reranker))):
            assert other.compress_documents(documents, QUERY) == expected
    assert CrossrtRerank(model=demo_bundle, model_kwargs={"max_length": 20}).model_dump() == {
        "model": str(demo_bundle), "top_n": 3, "model_kwargs": {"max_length": 20},
    }  # fmt: skip


def test_a_token_is_not_dumped(demo_bundle: Path) -> None:
    reranker = CrossrtRerank(model=demo_bundle, model_kwargs={"token": "hf_secret", "max_length": 20})
    assert "hf_secret" not in reranker.model_dump_json() + repr(reranker)


def test_another_model_cannot_be_assigned(demo_model: CrossEncoder) -> None:
    reranker = CrossrtRerank(model=demo_model)
    for name, value in {"model": "another", "model_kwargs": {"precision": "int8"}}.items():
        with pytest.raises(ValidationError, match="frozen"):
            setattr(reranker, name, value)
    reranker.top_n = 1
    assert len(reranker.compress_documents([Document("a"), Document("b")], QUERY)) == 1


def test_langchains_own_reranker_takes_the_cross_encoder(
    demo_model: CrossEncoder, documents: list[Document], texts: list[str]
) -> None:
    classic = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    scorer = CrossrtCrossEncoder(demo_model)
    assert isinstance(scorer, BaseCrossEncoder)
    assert scorer.score([]) == []
    pairs = [(query, text) for query in (QUERY, "a compiler") for text in texts]
    assert scorer.score(pairs) == pytest.approx(demo_model.predict(pairs).tolist())
    theirs = classic.CrossEncoderReranker(model=scorer, top_n=4).compress_documents(documents, QUERY)
    ours = CrossrtRerank(model=demo_model, top_n=4).compress_documents(documents, QUERY)
    assert [document.page_content for document in theirs] == [document.page_content for document in ours]


def test_a_compression_retriever_takes_several_queries(demo_model: CrossEncoder, documents: list[Document]) -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers")

    class All(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
            return documents

    reranker = CrossrtRerank(model=demo_model, top_n=1)
    chain = retrievers.ContextualCompressionRetriever(base_compressor=reranker, base_retriever=All())
    found = chain.batch([QUERY, "a compiler"])
    assert found == [reranker.compress_documents(documents, query) for query in (QUERY, "a compiler")]
    assert asyncio.run(chain.ainvoke(QUERY)) == found[0]


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("LangChain")
