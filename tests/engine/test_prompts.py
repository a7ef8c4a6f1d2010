"""The prompt before every query: the one a model saved as its default, and those that a call asks for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from crossrt import CrossEncoder
from crossrt.engine.bundle.manifest import MANIFEST
from crossrt.engine.errors import InputError, OptionError
from crossrt.engine.store.preparation import prepare
from crossrt.engine.text.pair_tokenizer import PairTokenizer

PROMPT = "how long "
QUERY = "does it take"
PASSAGES = ["the river is long", "berlin", "people live in paris " * 20]
PAIRS = [(QUERY, passage) for passage in PASSAGES]


@pytest.fixture(scope="module")
def prompted(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a default prompt, and another one."""
    copy = tmp_path_factory.mktemp("prompted") / "bundle"
    shutil.copytree(bundle, copy)
    fields = json.loads((copy / MANIFEST).read_text())
    fields |= {"prompt": PROMPT, "prompts": {"q": PROMPT, "other": "where "}}
    (copy / MANIFEST).write_text(json.dumps(fields))
    return copy


def before(prompt: str) -> list[tuple[str, str]]:
    return [(prompt + QUERY, passage) for passage in PASSAGES]


def test_the_default_prompt_comes_before_every_query(prompted: Path, model: CrossEncoder) -> None:
    expected = model.predict(before(PROMPT))
    assert np.abs(expected - model.predict(PAIRS)).max() > 0.01
    with CrossEncoder(prompted, backend=model.backend) as opened:
        np.testing.assert_array_equal(opened.predict(PAIRS), expected)
        np.testing.assert_array_equal(opened.predict(PAIRS[0]), opened.predict(PAIRS[:1])[0])
        ranked = {entry["corpus_id"]: entry["score"] for entry in opened.rank(QUERY, PASSAGES, return_documents=True)}
        np.testing.assert_array_equal([ranked[row] for row in range(3)], expected)
        np.testing.assert_array_equal(opened.logits(PAIRS), model.logits(before(PROMPT)))
        opened.max_length = 16
        model_16 = CrossEncoder(model.bundle.path, backend=model.backend, max_length=16)
        np.testing.assert_array_equal(opened.predict(PAIRS), model_16.predict(before(PROMPT)))
        model_16.close()


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"prompt": "what "}, "what "),
        ({"prompt": ""}, ""),
        ({"prompt_name": "other"}, "where "),
        ({"prompt": "what ", "prompt_name": "other"}, "what "),
        ({"prompt": None, "prompt_name": None}, PROMPT),
    ],
)
def test_a_call_may_ask_for_another_prompt(
    prompted: Path, model: CrossEncoder, asked: dict[str, str], text: str
) -> None:
    expected = model.predict(before(text))
    with CrossEncoder(prompted, backend=model.backend) as opened:
        np.testing.assert_array_equal(opened.predict(PAIRS, **asked), expected)
        ranked = {entry["corpus_id"]: entry["score"] for entry in opened.rank(QUERY, PASSAGES, **asked)}
        np.testing.assert_array_equal([ranked[row] for row in range(3)], expected)


def test_a_model_without_prompts_takes_one_as_well(model: CrossEncoder) -> None:
    np.testing.assert_array_equal(model.predict(PAIRS, prompt=PROMPT), model.predict(before(PROMPT)))
    with pytest.raises(OptionError, match="prompt_name='q': the model saved no prompts"):
        model.predict(PAIRS, prompt_name="q")
    with pytest.raises(InputError, match="the prompt is int 3"):
        model.rank(QUERY, PASSAGES, prompt=3)  # type: ignore[arg-type]


def test_prepared_passages_get_the_prompt_too(prompted: Path, model: CrossEncoder, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("".join(f"p{row}\t{text}\n" for row, text in enumerate(PASSAGES)))
    with CrossEncoder(prompted, backend=model.backend) as opened:
        store = prepare(
            tmp_path / "p.tsv",
            tmp_path / "store",
            Tokenizer.from_file(str(opened.bundle.tokenizer_file)),
            tokenizer_sha256=opened.bundle.tokenizer_sha256,
            limit=64,
        )
        names = ["p0", "p1", "p2"]
        for asked, text in (({}, PROMPT), ({"prompt": "what "}, "what "), ({"prompt_name": "other"}, "where ")):
            ranked = opened.rank(QUERY, passage_ids=names, passages=store, **asked)
            found = {entry["passage_id"]: entry["score"] for entry in ranked}
            np.testing.assert_array_equal([found[name] for name in names], model.predict(before(text)))


@pytest.mark.parametrize("native", [True, False])
def test_both_ways_of_tokenizing_put_the_prompt_before_the_text(bundle: Path, native: bool) -> None:
    path = bundle / "tokenizer.json"
    plain, prompted = (PairTokenizer.from_file(path, max_length=24, prompt=prompt) for prompt in (None, PROMPT))
    if not native:
        plain._words = prompted._words = None
    repeated = [*PAIRS, ("other", "text"), ("other", "again")]
    expected = plain.encode([(PROMPT + query, passage) for query, passage in repeated])
    found = prompted.encode(repeated)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(prompted.encode(repeated, prompt="").ids, plain.encode(repeated).ids)
