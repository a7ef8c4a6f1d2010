"""The script that trains small models of other architectures begins with the demo checkpoint's own weights."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("bm25s")

PAIR = ("play chess", "gnuchess is a program that plays chess")


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("distill_demo")


@pytest.fixture(scope="module")
def demo(script: ModuleType) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        script.DEMO / "checkpoint", dtype=torch.float32
    ).eval()


def embedded(model: Any, tokenizer: Any) -> Any:
    """Return what the first layer reads for the pair, [tokens, channels]."""
    with torch.inference_mode():
        states: Any = model(**tokenizer(*PAIR, return_tensors="pt"), output_hidden_states=True).hidden_states
    return states[0][0]


def test_narrow_embeddings_give_the_first_layer_most_of_what_the_demo_gives_it(
    script: ModuleType, demo: Any, tmp_path: Path
) -> None:
    script.write_tokenizer(tmp_path, mpnet=False)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    model = script.electra(dict(demo.state_dict())).eval()
    assert model.config.embedding_size < model.config.hidden_size
    with torch.inference_mode():
        ids = tokenizer(*PAIR, return_tensors="pt")
        narrow = model.electra.embeddings(ids["input_ids"], ids["token_type_ids"])
        found = model.electra.embeddings_project(narrow)[0]
    expected = embedded(demo, tokenizer)
    assert float((found - expected).norm() / expected.norm()) < 0.5  # 0.43 was measured; unrelated embeddings have 1.4


def test_mpnets_tokens_have_the_rows_of_the_demos(script: ModuleType, demo: Any, tmp_path: Path) -> None:
    script.write_tokenizer(tmp_path, mpnet=True)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(script.DEMO / "checkpoint")
    found, expected = tokenizer(*PAIR)["input_ids"], theirs(*PAIR)["input_ids"]
    [end] = [place for place, token in enumerate(expected[:-1]) if token == theirs.sep_token_id]
    expected = [*expected[: end + 1], expected[end], *expected[end + 1 :]]  # two ends part the texts, as in RoBERTa
    weights = dict(demo.state_dict())
    model = script.mpnet(weights)
    rows = model.get_input_embeddings().weight[found]
    torch.testing.assert_close(rows, weights["bert.embeddings.word_embeddings.weight"][expected])
    assert tokenizer.convert_ids_to_tokens([found[0], found[-1], 1]) == ["<s>", "</s>", "<pad>"]


def test_albert_has_the_demos_first_layer(script: ModuleType, demo: Any) -> None:
    weights = dict(demo.state_dict())
    model = script.albert(weights)
    (layer,) = model.albert.encoder.albert_layer_groups[0].albert_layers
    torch.testing.assert_close(layer.ffn.weight, weights["bert.encoder.layer.0.intermediate.dense.weight"])
    assert model.config.num_hidden_layers == 3


def test_a_name_that_the_model_lacks_is_an_error(script: ModuleType, demo: Any) -> None:
    with pytest.raises(SystemExit, match="other names"):
        script.begun(demo, {"bert.embeddings.words": torch.zeros(1)})


def test_queries_to_judge_by_are_not_trained_on(script: ModuleType, tmp_path: Path) -> None:
    ids, lists = script.sample_pairs()
    assert (len(ids), {len(each) for each in lists}) == (200, {50})
    script.write_judged(tmp_path, ids[:: script.JUDGED], lists[:: script.JUDGED])
    from crossrt.engine.files.trec import read_collection

    queries, passages, run = read_collection(*(tmp_path / name for name in ("queries.tsv", "passages.tsv", "run.trec")))
    assert list(queries) == ids[:: script.JUDGED]
    first = ids[0]
    assert [(queries[first], passages[passage]) for passage in run[first]] == lists[0]
