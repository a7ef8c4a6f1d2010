"""A served bundle gives the scores of `CrossEncoder`, in the dialect of each client."""

import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder, Windows
from crossrt.engine.activation import sigmoid

from .conftest import Served, Start, eventually

QUERY = "where is the river"
TEXTS = ["berlin is a city", "the river is long and green " * 8, "people live in paris", ""]


@pytest.fixture(scope="module")
def server(start_for_all: Start, bundle: Path) -> Served:
    return start_for_all("--device", "cpu", bundle=bundle)


@pytest.fixture(scope="module")
def logits(model: CrossEncoder) -> Any:
    return model.logits([(QUERY, text) for text in TEXTS])[:, 0]


def ordered(scores: Any) -> list[tuple[int, float]]:
    return [(int(place), float(scores[place])) for place in np.argsort(-scores, kind="stable")]


def test_texts_get_teis_list_of_sigmoids(server: Served, logits: Any) -> None:
    answer = server.post("/rerank", {"query": QUERY, "texts": TEXTS})
    assert [(each["index"], each["score"]) for each in answer.json] == ordered(sigmoid(logits))
    assert set(answer.json[0]) == {"index", "score"}
    assert answer.headers["x-compute-tokens"] == str(server_tokens(server))


def server_tokens(server: Served) -> int:
    answer = server.post("/v2/rerank", {"query": QUERY, "documents": TEXTS}).json
    assert (
        answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] == answer["meta"]["tokens"]["input_tokens"]
    )
    return int(answer["usage"]["total_tokens"])


@pytest.mark.parametrize("path", ["/", "/invocations", "/rerank"])
def test_raw_scores_and_texts_are_returned_where_they_are_asked_for(server: Served, logits: Any, path: str) -> None:
    body = {"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True, "truncation_direction": "Right"}
    answer = server.post(path, body).json
    assert [(each["index"], each["score"]) for each in answer] == ordered(logits)
    assert [TEXTS[each["index"]] for each in answer] == [each["text"] for each in answer]


@pytest.mark.parametrize(
    ("path", "shown"), [("/rerank", True), ("/v1/rerank", True), ("/v2/rerank", False), ("/v3/rerank", False)]
)
def test_documents_get_one_object_for_all_clients(server: Served, logits: Any, path: str, shown: bool) -> None:
    body = {"model": "whatever", "query": QUERY, "documents": TEXTS, "top_n": 2, "unknown": [1]}
    answer = server.post(path, body).json
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == ordered(sigmoid(logits))[:2]
    assert ["document" in each for each in answer["results"]] == [shown, shown]
    other = server.post(path, {**body, "return_documents": not shown}).json["results"]
    assert ["document" in each for each in other] == [not shown, not shown]
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    if path in ("/v1/rerank", "/v2/rerank"):
        assert answer["meta"]["api_version"] == {"version": path[2]}, "as Cohere tells it"
    assert "data" not in answer


@pytest.mark.parametrize(
    ("path", "fields", "most"),
    [
        ("/rerank", {"texts": TEXTS, "top_k": 2}, 2),
        ("/rerank", {"texts": TEXTS, "top_k": 0}, 4),
        ("/v1/rerank", {"documents": TEXTS, "top_n": 0}, 4),
        ("/v1/rerank", {"documents": TEXTS, "top_k": 2}, 2),
        ("/v1/rerank", {"documents": TEXTS, "top_k": 2, "top_n": 3}, 3),
        ("/v1/ranking", {"passages": [{"text": text} for text in TEXTS], "top_k": 2}, 2),
        ("/v1/ranking", {"passages": [{"text": text} for text in TEXTS], "top_k": 0}, 4),
    ],
)
def test_the_best_alone_are_returned_where_they_are_asked_for(
    server: Served, logits: Any, path: str, fields: dict[str, Any], most: int
) -> None:
    answer = server.post(path, {"query": {"text": QUERY} if "passages" in fields else QUERY, **fields}).json
    results = answer if "texts" in fields else answer["results" if "documents" in fields else "rankings"]
    assert [each["index"] for each in results] == [place for place, _ in ordered(logits)][:most]


def test_cohere_bills_a_search_for_each_hundred_documents(server: Served) -> None:
    for count, units in ((100, 1), (101, 2)):
        answer = server.post("/v2/rerank", {"query": QUERY, "documents": ["a"] * count}).json
        assert answer["meta"]["billed_units"] == {"search_units": units}


def test_voyages_top_k_adds_data_also_where_it_is_null(server: Served) -> None:
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "top_k": None}).json
    assert [(each["index"], each["relevance_score"]) for each in answer["data"]] == [
        (each["index"], each["relevance_score"]) for each in answer["results"]
    ]
    assert answer["object"] == "list"
    assert not any("document" in each for each in answer["data"])
    body = {"query": QUERY, "documents": [*TEXTS[:-1], {"text": TEXTS[-1]}], "top_k": 4, "return_documents": True}
    data = server.post("/v1/rerank", body).json["data"]
    assert [each["document"] for each in data] == [TEXTS[each["index"]] for each in data], "as bare strings"


def test_infinitys_documents_are_bare_strings(server: Served) -> None:
    body = {"query": QUERY, "documents": [*TEXTS[:-1], {"text": TEXTS[-1], "title": "unused"}]}
    objects = server.post("/rerank", body).json["results"]
    answer = server.post("/infinity/rerank", {**body, "return_documents": True}).json
    assert answer["results"] == [{**each, "document": each["document"]["text"]} for each in objects]
    assert all("document" not in each for each in server.post("/infinity/rerank", body).json["results"])


def test_documents_may_be_objects_and_one_text(server: Served) -> None:
    objects = [{"title": "berlin", "text": "a city"}, {"title": "river", "text": "water"}]
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": objects, "rank_fields": ["title", "text"]}).json
    texts = server.post("/v1/rerank", {"query": QUERY, "documents": ["berlin\na city", "river\nwater"]}).json
    assert [each["relevance_score"] for each in answer["results"]] == [
        each["relevance_score"] for each in texts["results"]
    ]
    assert answer["results"][0]["document"] == objects[answer["results"][0]["index"]]
    body = {"query": QUERY, "documents": [{"title": "berlin", "year": 1}], "rank_fields": ["title"]}
    [only] = server.post("/v1/rerank", body).json["results"]
    assert only["document"] == {"text": "berlin", "title": "berlin", "year": 1}, "what was scored is the text"
    assert len(server.post("/rerank", {"query": QUERY, "documents": "one text"}).json["results"]) == 1


def test_a_field_that_is_named_again_and_again_is_scored_once(server: Served) -> None:
    body = {"query": QUERY, "documents": [{"text": "berlin"}], "rank_fields": ["text"] * 100}
    once = server.post("/v1/rerank", {**body, "rank_fields": ["text"]})
    assert server.post("/v1/rerank", body).json["usage"] == once.json["usage"]
    refused = server.post("/v1/rerank", {**body, "rank_fields": ["text"] * 101})
    assert refused.status == 400
    assert "rank_fields" in refused.json["message"]


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_pairs_are_scored_in_their_order(server: Served, logits: Any, names: tuple[str, str], path: str) -> None:
    answer = server.post(path, {names[0]: QUERY, names[1]: TEXTS}).json
    assert [each["score"] for each in answer["data"]] == logits.tolist()
    many = server.post(path, {names[0]: [QUERY] * len(TEXTS), names[1]: TEXTS}).json
    assert many["data"] == answer["data"]


def test_predict_gives_the_labels_of_one_pair_or_of_many(server: Served, logits: Any) -> None:
    one = server.post("/predict", {"inputs": [QUERY, TEXTS[0]]}).json
    assert one == [{"score": float(sigmoid(logits[:1])[0]), "label": "LABEL_0"}]
    raw = server.post("/predict", {"inputs": [[QUERY, text] for text in TEXTS], "raw_scores": True}).json
    assert [each[0]["score"] for each in raw] == logits.tolist()


def test_nims_ranking_has_logits(server: Served, logits: Any) -> None:
    body = {"model": "m", "query": {"text": QUERY}, "passages": [{"text": text} for text in TEXTS], "truncate": "END"}
    assert [(each["index"], each["logit"]) for each in server.post("/v1/ranking", body).json["rankings"]] == ordered(
        logits
    )


def test_two_labels_are_ranked_by_the_sigmoid_of_the_margin(start: Start, two_label_bundle: Path) -> None:
    server = start("--device", "cpu", bundle=two_label_bundle)
    with CrossEncoder(two_label_bundle, device="cpu") as model:
        logits = model.logits([(QUERY, text) for text in TEXTS])
        margins = model.relevance(logits)
    answer = server.post("/rerank", {"query": QUERY, "texts": TEXTS}).json
    assert [(each["index"], each["score"]) for each in answer] == ordered(sigmoid(margins))
    labels = server.post("/predict", {"inputs": [QUERY, TEXTS[0]]}).json
    assert sum(each["score"] for each in labels) == pytest.approx(1)
    assert [each["score"] for each in labels] == sorted((each["score"] for each in labels), reverse=True)


def test_truncation_is_counted_and_can_be_refused(start: Start, bundle: Path) -> None:
    server = start("--device", "cpu", "--max-length", "16", bundle=bundle)
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS}).json
    assert answer["meta"]["warnings"][0].startswith("1 of 4 documents were truncated and lost ")
    assert server.metric("crossrt_truncated_texts_total") == 1
    assert server.metric("crossrt_truncated_tokens_total") > 10
    pairs = [[QUERY, text] for text in TEXTS]
    passages = [{"text": text} for text in TEXTS]
    for path, query, field, texts, refusal in (
        ("/rerank", {"query": QUERY}, "texts", TEXTS, {"truncate": False}),
        ("/v1/rerank", {"query": QUERY}, "documents", TEXTS, {"truncation": False}),
        ("/score", {"text_1": QUERY}, "text_2", TEXTS, {"truncation": False}),
        ("/predict", {}, "inputs", pairs, {"truncate": False}),
        ("/v1/ranking", {"query": {"text": QUERY}}, "passages", passages, {"truncate": "NONE"}),
    ):
        refused = server.post(path, {**query, field: texts, **refusal})
        assert refused.status == (422 if path in ("/rerank", "/predict") else 400)
        assert "text 1 has" in refused.body.decode()
        assert server.post(path, {**query, field: texts[2:], **refusal}).status == 200, "none is too long"


def test_texts_can_be_limited(server: Served, model: CrossEncoder) -> None:
    limits = {"max_tokens_per_doc": 3, "truncation_side": "left", "use_activation": False}
    texts = ["paris is a city", "people live in the river"]  # a token a word
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": texts, **limits}).json
    by_place = {each["index"]: each["relevance_score"] for each in answer["results"]}
    expected = model.logits([(QUERY, "is a city"), (QUERY, "in the river")])[:, 0]
    assert [by_place[0], by_place[1]] == pytest.approx(expected.tolist(), abs=1e-5)
    scored = server.post("/score", {"text_1": QUERY, "text_2": texts, **limits}).json["data"]
    assert [each["score"] for each in scored] == pytest.approx(expected.tolist(), abs=1e-5)
    none = {"max_tokens_per_doc": 0, "max_tokens_per_query": 0, "truncate_prompt_tokens": -1, "window": 20}
    body = {"query": QUERY, "documents": TEXTS}
    unlimited = server.post("/v1/rerank", {**body, **none}).json["results"]
    assert unlimited == server.post("/v1/rerank", {**body, "window": 20}).json["results"]


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"stride": 8}, Windows(length=20, stride=8)),
        ({}, Windows(length=20, stride=10)),
        ({"aggregate": "mean:2"}, Windows(length=20, stride=10, aggregate="mean:2")),
    ],
)
@pytest.mark.parametrize(
    ("path", "texts", "score"), [("/v1/rerank", "documents", "relevance_score"), ("/rerank", "texts", "score")]
)
def test_windows_and_their_place_can_be_asked_for(
    server: Served, model: CrossEncoder, fields: dict[str, Any], windows: Windows, path: str, texts: str, score: str
) -> None:
    answer = server.post(path, {"query": QUERY, texts: TEXTS, "window": 20, "raw_scores": True, **fields}).json
    results = answer if texts == "texts" else answer["results"]
    expected = model.rank(QUERY, TEXTS, windows=windows)
    assert [(each["index"], tuple(each["window"])) for each in results] == [
        (each["corpus_id"], each["window"]) for each in expected
    ]
    assert [each[score] for each in results] == pytest.approx([each["score"] for each in expected])


LONG = ["paris is a city", "people live in the river"]  # a token a word
SHORT = {"left": ["is a city", "in the river"], "right": ["paris is a", "people live in"]}
WAYS = [{"exact": True, "top_n": 2}, {"window": 40}]
"""What is scored by `CrossEncoder.rank`."""


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("way", WAYS)
def test_exact_and_windows_keep_the_limits_of_texts(
    server: Served, model: CrossEncoder, way: dict[str, Any], side: str
) -> None:
    body = {"query": f"x {QUERY} x", "documents": LONG, "use_activation": False, **way}
    query = {"left": "is the river x", "right": "x where is the"}[side]
    limits = {"max_tokens_per_doc": 3, "max_tokens_per_query": 4, "truncation_side": side}
    answer = server.post("/v1/rerank", {**body, **limits}).json
    by_place = {each["index"]: each["relevance_score"] for each in answer["results"]}
    expected = model.logits([(query, text) for text in SHORT[side]])[:, 0]
    assert [by_place[0], by_place[1]] == pytest.approx(expected.tolist(), abs=1e-5)
    # A text of four tokens lost one, a text of five lost two, and each lost two of its query.
    assert answer["meta"]["warnings"][0].startswith("2 of 2 documents were truncated and lost 7 tokens")
    assert "warnings" not in server.post("/v1/rerank", body).json["meta"]
    refused = server.post("/v1/rerank", {**body, **limits, "truncation": False})
    assert refused.status == 400
    if "window" in way:
        assert "too many for `max_tokens_per_doc`" in refused.json["message"]


def test_the_window_of_a_text_that_is_cut_at_its_beginning_stands_in_the_whole_text(server: Served) -> None:
    limits = {"max_tokens_per_doc": 3, "truncation_side": "left"}
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": LONG, "window": 40, **limits}).json["results"]
    found = {each["index"]: LONG[each["index"]][slice(*each["window"])] for each in answer}
    assert [found[0], found[1]] == SHORT["left"]


def test_exact_keeps_the_limit_of_the_pair_and_teis_side(server: Served, model: CrossEncoder) -> None:
    long = "green " * 30 + "the river"
    most, side = {"truncate_prompt_tokens": 12}, {"truncation_side": "left"}
    exact = {"query": QUERY, "documents": [long], "use_activation": False, "exact": True, "top_n": 1}
    plain = {key: value for key, value in exact.items() if key != "exact"}
    whole = server.post("/v1/rerank", plain).json["results"][0]["relevance_score"]
    for limits in (most, {**most, **side}):
        expected = server.post("/v1/rerank", {**plain, **limits}).json
        found = server.post("/v1/rerank", {**exact, **limits}).json
        assert (found["results"], found["meta"]) == (expected["results"], expected["meta"])
        assert found["results"][0]["relevance_score"] != whole
    very_long = "green " * 1000 + "the river"
    body = {"query": QUERY, "texts": [very_long], "raw_scores": True, "top_k": 1}
    scores = [
        server.post("/rerank", {**body, "truncation_direction": side, **exact}).json[0]["score"]
        for side in ("left", "right")
        for exact in ({}, {"exact": True})
    ]
    assert scores[0] == scores[1] != scores[2] == scores[3]


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("/v1/rerank", {"window": 20, "truncate_prompt_tokens": 12}, "`truncate_prompt_tokens` and `window`"),
        ("/v1/rerank", {"stride": 4}, "go with `window`"),
        ("/v1/rerank", {"aggregate": "mean"}, "go with `window`"),
        ("/v1/rerank", {"truncate_prompt_tokens": 0}, "at least 1"),
        ("/v1/rerank", {"truncate_prompt_tokens": -2}, "at least 1"),
        ("/v1/score", {"window": 20}, "are for rankings"),
        ("/v1/score", {"text_1": [QUERY] * 2}, "`text_1` has 2 texts and `text_2` 4"),
        ("/v1/score", {"text_1": [QUERY] * 5}, "`text_1` has 5 texts and `text_2` 4"),
        ("/v1/score", {"stride": 4}, "are for rankings"),
        ("/v1/score", {"aggregate": "mean"}, "are for rankings"),
        ("/v1/score", {"exact": True}, "are for rankings"),
        ("/predict", {"stride": 4}, "are for rankings"),
        ("/v1/ranking", {"stride": 4}, "go with `window`"),
        ("/v1/rerank", {"window": 100_000}, "give at most that"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(
    server: Served, path: str, fields: dict[str, Any], says: str
) -> None:
    bodies = {
        "/v1/rerank": {"query": QUERY, "documents": TEXTS},
        "/v1/score": {"text_1": QUERY, "text_2": TEXTS},
        "/predict": {"inputs": [[QUERY, TEXTS[0]]]},
        "/v1/ranking": {"query": {"text": QUERY}, "passages": [{"text": text} for text in TEXTS]},
    }
    answer = server.post(path, {**bodies[path], **fields})
    assert answer.status == (422 if path == "/predict" else 400)
    assert says in answer.body.decode()


def test_nims_ranking_takes_windows(server: Served, model: CrossEncoder) -> None:
    body = {"query": {"text": QUERY}, "passages": [{"text": text} for text in TEXTS], "window": 20, "stride": 8}
    answer = server.post("/v1/ranking", body).json["rankings"]
    expected = model.rank(QUERY, TEXTS, windows=Windows(length=20, stride=8), activation_fn="identity")
    assert [(each["index"], tuple(each["window"])) for each in answer] == [
        (each["corpus_id"], each["window"]) for each in expected
    ]
    assert [each["logit"] for each in answer] == pytest.approx([each["score"] for each in expected])


def test_the_tokens_of_windows_are_counted_and_bounded(start: Start, bundle: Path, model: CrossEncoder) -> None:
    server = start("--device", "cpu", "--max-request-tokens", "2000", bundle=bundle)
    text = "the river is long and green " * 20
    body = {"query": QUERY, "documents": [text, "a city"], "window": 20}
    answer = server.post("/v1/rerank", {**body, "stride": 8})
    windows = model._pair_tokenizer.encode_windows([(QUERY, text), (QUERY, "a city")], Windows(length=20, stride=8))
    assert answer.json["usage"]["total_tokens"] == len(windows.pairs().ids) < 2000
    refused = server.post("/v1/rerank", {**body, "stride": 1})
    assert refused.status == 400
    assert "tokens in its windows, and 2000 are allowed (--max-request-tokens)" in refused.json["message"]
    assert "a larger `stride`" in refused.json["message"]
    # 100,000 tokens become 100,000 windows; their 2,000,000 tokens are counted, and never made.
    before = memory(server)
    huge = server.post("/v1/rerank", {**body, "documents": ["river " * 100_000], "stride": 1})
    assert huge.status == 400
    assert memory(server) < before + 40_000


def memory(server: Served) -> int:
    """Most memory that the server had so far, in kB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def test_a_list_that_is_tokenized_in_pieces_gives_the_same_scores(server: Served, model: CrossEncoder) -> None:
    texts = [f"{word} is a city {'river ' * count}" for count in range(30) for word in "abcdefghijklmnopqrstuvwxyz"]
    answer = server.post("/v1/score", {"text_1": QUERY, "text_2": texts}).json
    expected = model.logits([(QUERY, text) for text in texts])[:, 0]
    assert [each["score"] for each in answer["data"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer["usage"]["total_tokens"] == len(model.encode([(QUERY, text) for text in texts]).ids)


def test_exact_needs_a_top_k(server: Served, logits: Any) -> None:
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "exact": True, "top_n": 2}).json["results"]
    assert [each["index"] for each in answer] == [place for place, _ in ordered(logits)[:2]]


def test_several_models_are_chosen_by_name(start: Start, bundle: Path, two_label_bundle: Path, tmp_path: Path) -> None:
    config = tmp_path / "crossrt.toml"
    config.write_text(
        f'log-format = "json"\n[models.one]\nbundle = "{bundle}"\ndevice = "cpu"\nmax-documents = 2\n'
        f'[models.two]\nbundle = "{two_label_bundle}"\ndevice = "cpu"\n'
    )
    server = start("--config", str(config), bundle=two_label_bundle)
    names = [each["id"] for each in server.get("/v1/models").json["data"]]
    assert names == [two_label_bundle.name, "one", "two"]
    body = {"query": QUERY, "documents": TEXTS}
    assert server.post("/v1/rerank", {**body, "model": "two"}).json["model"] == "two"
    assert server.post("/v1/rerank", {**body, "model": "one"}).status == 400
    unknown = server.post("/v1/rerank", {**body, "model": "three"})
    assert unknown.status == 404
    assert "one, two" in unknown.json["message"]


def test_info_tells_what_teis_clients_ask(server: Served, model: CrossEncoder) -> None:
    info = server.get("/info").json
    assert info["max_input_length"] == model.max_length
    assert info["model_type"]["reranker"]["id2label"] == {"0": "LABEL_0"}


def test_a_replaced_bundle_is_served_after_sighup(
    start: Start, make_bundle: Callable[..., Path], bundle: Path, tmp_path: Path
) -> None:
    place = tmp_path / "served"
    shutil.copytree(bundle, place)
    server = start("--device", "cpu", bundle=place)
    body = {"query": QUERY, "texts": TEXTS}
    before = server.post("/rerank", body).json
    other = make_bundle(seed=7)
    place.rename(tmp_path / "old")
    shutil.copytree(other, place)
    assert server.post("/rerank", body).json == before
    server.signal(signal.SIGHUP)
    with CrossEncoder(other, device="cpu") as model:
        expected = ordered(sigmoid(model.logits([(QUERY, text) for text in TEXTS])[:, 0]))
    assert expected != [(each["index"], each["score"]) for each in before]

    def answer() -> Any:
        found = server.post("/rerank", body)
        assert found.status == 200
        return [(each["index"], each["score"]) for each in found.json]

    eventually(lambda: answer() == expected)
    assert server.metric('crossrt_reloads_total{model="served",outcome="done"') == 1
    shutil.rmtree(place)
    server.signal(signal.SIGHUP)
    assert eventually(lambda: server.metric('crossrt_reloads_total{model="served",outcome="failed"') == 1)
    assert server.post("/rerank", body).status == 200


def test_an_exact_ranking_waits_for_the_reload_of_a_replaced_bundle(
    start: Start, make_rounded: Callable[..., Path], rounded: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(rounded, tmp_path / "served")
    server = start("--device", "cpu", "--precision", "int8", "--backend", "onnxruntime", bundle=place)
    body = {"query": QUERY, "texts": [*TEXTS, *TEXTS], "top_k": 2, "exact": True}
    place.rename(tmp_path / "old")
    shutil.copytree(make_rounded(seed=7), place)
    answer = server.post("/rerank", body)
    assert answer.status == 503
    assert "replaced by another bundle since it was opened" in answer.json["error"]
    assert "SIGHUP" in answer.json["error"]
    assert server.post("/rerank", {**body, "exact": False}).status == 200
    assert server.get("/readyz").status == 200
    server.signal(signal.SIGHUP)
    assert eventually(lambda: server.post("/rerank", body).status == 200)


def test_three_reloads_under_load_lose_no_request(
    start: Start, make_bundle: Callable[..., Path], bundle: Path, tmp_path: Path
) -> None:
    place = tmp_path / "served"
    shutil.copytree(bundle, place)
    server = start("--device", "cpu", "--log-requests", "failed", bundle=place)
    body = {
        "query": QUERY,
        "texts": TEXTS * 100,
    }  # many batches, so that requests are in the middle when a model is replaced
    by_bundle = [server.post("/rerank", body).json]
    failures: list[Any] = []
    scores: set[str] = set()
    answered, stop = [0, 0, 0, 0], threading.Event()

    def load(client: int) -> None:
        while not stop.is_set():
            try:
                answer = server.post("/rerank", body)
            except OSError as error:
                failures.append(error)
                continue
            if answer.status == 200:
                scores.add(str(answer.json))
            else:
                failures.append(answer.body)
            answered[client] += 1

    threads = [threading.Thread(target=load, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    done = 'crossrt_reloads_total{model="served",outcome="done"'
    others = [make_bundle(seed=7), bundle, make_bundle(seed=7)]
    try:
        for number, other in enumerate(others, start=1):
            place.rename(tmp_path / f"old-{number}")
            shutil.copytree(other, place)
            server.signal(signal.SIGHUP)
            eventually(lambda number=number: server.metric(done) == number)
            before = list(answered)
            eventually(lambda before=before: all(now > then + 3 for now, then in zip(answered, before, strict=True)))
            by_bundle.append(server.post("/rerank", body).json)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert by_bundle[0] == by_bundle[2] != by_bundle[1] == by_bundle[3]
    assert scores == {str(each) for each in by_bundle}, "each answer is of one bundle or the other"
