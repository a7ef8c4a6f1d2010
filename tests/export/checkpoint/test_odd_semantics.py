"""Odd checkpoints, one row a case: what their small files say of token types, prompts, labels and other settings.

The right scores are sentence-transformers' on the same files.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

from crossrt import CrossEncoder
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.calibration.judging_set import JudgingSet
from crossrt.engine.backends.registry import installed_backends
from crossrt.engine.errors import CheckpointError, OptionError, ParityError
from crossrt.engine.precision import Precision
from crossrt.export import export
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.files import label_names
from crossrt.export.checkpoint.settings import KNOWN
from crossrt.export.export import export_bundle
from crossrt.export.parity.parity import judge_of, parity
from tests.conftest import vocabulary

SIZES = {
    "bert": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 66,
    },
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 96, "max_position_embeddings": 66},
}
PAIRS = [
    ("how long does it take", "the river is long"),
    ("what is in the water", "eggs and salt in the water of the river"),
    ("paris", "people live in paris"),
    ("paris", "berlin is a city"),
    ("where is the river", "where " * 80),
    ("", "light"),
]
NO_TYPES = ["input_ids", "attention_mask"]
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
TEXT = {"text": {"method": "forward", "method_output_name": "logits"}}


def saved(transformer: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The files that sentence-transformers 6 writes beside a cross-encoder."""
    module = {"transformer_task": "sequence-classification", "modality_config": TEXT, "module_output_name": "scores"}
    return {
        "modules.json": MODULES,
        "sentence_bert_config.json": module | (transformer or {}),
        "config_sentence_transformers.json": {"model_type": "CrossEncoder", "__version__": {}} | fields,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A checkpoint of a family, with changes to its files. `error` is what reading or exporting it is refused with, `warns`
    what the export warns of; `relevant` is the label that it is to rank by."""

    name: str
    family: str = "bert"
    labels: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    relevant: int | None = 0
    error: str | None = None
    warns: str | None = None


PROMPT = {"prompts": {"q": "how long ", "none": ""}, "default_prompt_name": "q"}

CASES_EQUAL = [
    Case(name="bert", config={"id2label": {"0": None}}),
    Case(name="bert whose tokenizer gives no token types", tokenizer={"model_input_names": NO_TYPES}),
    Case(
        name="bert whose tokenizer is of no class",
        tokenizer={"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"},
    ),
    Case(
        name="electra whose tokenizer gives no token types",
        family="electra",
        config={"embedding_size": 32},
        tokenizer={"model_input_names": NO_TYPES},
    ),
    Case(name="roberta with two token types", family="roberta", config={"type_vocab_size": 2}),
    Case(name="xlm-roberta with three token types", family="xlm-roberta", config={"type_vocab_size": 3}),
    Case(name="camembert with two token types", family="camembert", config={"type_vocab_size": 2}),
    Case(
        name="roberta with two token types that its tokenizer does not give",
        family="roberta",
        config={"type_vocab_size": 2},
        tokenizer={"model_input_names": NO_TYPES},
    ),
    Case(name="distilbert whose tokenizer gives token types", family="distilbert", config={"layer_norm_eps": 0.1}),
    Case(name="default prompt", files=saved(**PROMPT)),
    Case(name="prompts of which none is the default", files=saved(prompts={"q": "how long "})),
    Case(
        name="prompts that sentence-transformers does not read",
        files={"config_sentence_transformers.json": {"model_type": "CrossEncoder", **PROMPT}},
        warns=r"prompts, default_prompt_name not applied, as sentence-transformers: there is no modules\.json",
    ),
    Case(
        name="prompts of another kind of model",
        files=saved(model_type="SentenceTransformer", **PROMPT),
        warns="prompts, default_prompt_name not applied, as sentence-transformers: its model_type is not CrossEncoder",
    ),
    Case(name="saved activation", files=saved(activation_fn="torch.nn.modules.activation.Tanh")),
    Case(
        name="saved activation that sentence-transformers does not read",
        files={"config_sentence_transformers.json": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
        warns="activation_fn not applied",
    ),
    Case(
        name="saved activation that is remote code, before one that is not",
        config={"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
        files=saved(activation_fn="somebody.Activation"),
    ),
    Case(name="saved length", files=saved({"max_seq_length": 12})),
    Case(name="length under its old name", tokenizer={"model_max_length": ..., "max_len": 12}),
    Case(name="no length, and one under its old name", tokenizer={"model_max_length": None, "max_len": 12}),
    Case(
        name="three labels",
        labels=3,
        config={"id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"}},
        relevant=None,
    ),
    Case(name="two labels of which the first is relevant", labels=2, config={"id2label": {0: "relevant", 1: "rest"}}),
    Case(
        name="unknown setting",
        config={"attention_temperature": 2.0, "rotary": True},
        tokenizer={"shuffle": 1},
        warns=r"config\.json: crossrt does not know attention_temperature = 2\.0, rotary = true",
    ),
]
CASES_REFUSED = [
    Case(name="decoder", config={"is_decoder": True}, error=r"config\.json has is_decoder = true"),
    Case(name="cross attention", config={"add_cross_attention": True}, error="add_cross_attention = true"),
    Case(
        name="relative positions",
        config={"position_embedding_type": "relative_key"},
        error='position_embedding_type = "relative_key".*"absolute" is supported',
    ),
    Case(name="pruned heads", config={"pruned_heads": {"0": [1]}}, error=r'pruned_heads = \{"0": \[1\]\}'),
    Case(name="split special tokens", tokenizer={"split_special_tokens": True}, error="split_special_tokens = true"),
    Case(
        name="more token types than the table has",
        family="roberta",
        config={"type_vocab_size": 1},
        error="the tokenizer gives .*token_type_ids up to 1.* no embedding",
    ),
    Case(
        name="default prompt that is not there",
        files=saved(prompts={"q": "x"}, default_prompt_name="r"),
        error="default_prompt_name is 'r', which is none of the prompts q",
    ),
    Case(name="prompts that are no texts", files=saved(prompts={"q": 1}), error="prompts are texts by name"),
    Case(
        name="texts in lower case",
        files=saved({"do_lower_case": True}),
        error=r"sentence_bert_config\.json has do_lower_case = true",
    ),
    *(
        Case(name=name, files=saved({name: value}), error=rf"sentence_bert_config\.json has {name} = ")
        for name, value in {
            "processor_kwargs": {"do_lower_case": True},
            "tokenizer_args": {"do_lower_case": True},
            "config_kwargs": {"hidden_act": "relu"},
            "config_args": {"hidden_act": "relu"},
            "tokenizer_name_or_path": "another/tokenizer",
        }.items()
    ),
    Case(name="encoder and decoder", config={"is_encoder_decoder": True}, error="is_encoder_decoder = true"),
    Case(
        name="other truncation",
        files=saved({"processing_kwargs": {"text": {"max_length": 8}}}),
        error="processing_kwargs = ",
    ),
    Case(
        name="messages",
        files=saved({"modality_config": {"message": {"method": "forward", "method_output_name": "logits"}}}),
        error="modality_config = ",
    ),
    Case(
        name="further modules",
        files=saved() | {"modules.json": [*MODULES, {"path": "1_Dense", "type": "sentence_transformers.models.Dense"}]},
        error="modules Transformer in '', Dense in '1_Dense'",
    ),
    Case(
        name="fewer names than labels",
        labels=2,
        config={"id2label": {"0": "relevant"}},
        error="declares 1 labels, the head has 2",
    ),
    Case(
        name="more names than labels",
        labels=2,
        config={"id2label": {"0": "relevant", "1": "no", "2": "perhaps"}},
        error="declares 3 labels, the head has 2",
    ),
    Case(name="modules that are none", files=saved() | {"modules.json": {"a": 1}}, error="not a list of modules"),
]


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge an export on these pairs alone: the built-in ones take longer, and are checked elsewhere."""
    monkeypatch.setattr(export, "builtin_pairs", lambda *_: PAIRS)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Case], Path]:
    return lambda case: written(case, tmp_path / "checkpoint")


def written(case: Case, path: Path) -> Path:
    """Write a case's checkpoint: seeded weights that are lively enough for every part to change the scores."""
    path.mkdir()
    tokens = vocabulary()
    (path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    config = transformers.CONFIG_MAPPING[case.family](
        **{
            **SIZES.get(case.family, SIZES["bert"]),
            "vocab_size": len(tokens),
            "pad_token_id": 0,
            "num_labels": case.labels,
            **{name: value for name, value in case.config.items() if name in ("type_vocab_size", "embedding_size")},
        }
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            wide = 0.5 if "embeddings" in name else parameter.shape[-1] ** -0.5
            if not name.endswith(("LayerNorm.weight", "layer_norm.weight")):
                parameter.copy_(torch.randn_like(parameter) * wide)
    model.save_pretrained(path)
    fields = json.loads((path / "config.json").read_text()) | case.config
    (path / "config.json").write_text(json.dumps(fields))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    transformers.AutoTokenizer.from_pretrained(path).save_pretrained(path)
    changed = {name: value for name, value in (settings | case.tokenizer).items() if value is not ...}
    (path / "tokenizer_config.json").write_text(json.dumps(changed))
    for name, content in case.files.items():
        (path / name).write_text(json.dumps(content))
    return path


def by_name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES_EQUAL, ids=by_name)
def test_scores_are_sentence_transformers(
    case: Case, make: Callable[[Case], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make(case)
    expected = np.asarray(sentence_transformers.CrossEncoder(str(checkpoint), device="cpu").predict(PAIRS))
    assert np.ptp(expected, axis=0).min() > 0.01  # the rows tell something
    bundle, _ = export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle")
    assert bundle.manifest.relevant_label == case.relevant
    said = [record.getMessage() for record in caplog.records if record.name == "crossrt"]
    assert (case.warns is None) == (not said), said
    if case.warns is not None:
        assert any(re.search(case.warns, text) for text in said), said
        assert bundle.manifest.source["warnings"] == said
    backends = [name for name in installed_backends() if name in ("onnxruntime", "openvino")]
    if bundle.manifest.models["fp32"].native_file is not None:
        backends.append("native")
    for backend in backends:
        with CrossEncoder(bundle.path, device="cpu", backend=backend) as model:
            np.testing.assert_allclose(model.predict(PAIRS), expected, rtol=0, atol=1e-4, err_msg=backend)


@pytest.mark.parametrize("case", CASES_REFUSED, ids=by_name)
def test_what_would_change_scores_is_refused_by_name(case: Case, make: Callable[[Case], Path], tmp_path: Path) -> None:
    checkpoint = make(case)
    with pytest.raises(CheckpointError, match=case.error):
        export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("config", "labels", "names"),
    [
        ({}, 2, ()),
        ({"id2label": {"0": "relevant", "1": "rest"}}, 2, ("relevant", "rest")),
        ({"id2label": {"1": "b", "0": "a"}}, 2, ("a", "b")),
        ({"id2label": {"0": 0, "1": 1.5}}, 2, ("0", "1.5")),
        ({"id2label": {"0": None, "1": "yes"}}, 2, ("LABEL_0", "yes")),
        ({"id2label": {"0": "a"}}, 2, ()),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, 2, ()),
        ({"id2label": {"1": "a", "2": "b"}}, 2, ()),
        ({"id2label": {"a": "b", "c": "d"}}, 2, ()),
        ({"id2label": ["a", "b"]}, 2, ()),
        ({"label2id": {"no": 0, "yes": 1}}, 2, ("no", "yes")),
        ({"label2id": {"no": "0", "yes": "1"}}, 2, ("no", "yes")),
        ({"label2id": {"no": 0, "yes": 0}}, 2, ()),
        ({"id2label": None, "label2id": {"yes": 0}}, 1, ("yes",)),
    ],
)
def test_labels_have_names_where_each_is_given_one(config: dict[str, Any], labels: int, names: tuple[str, ...]) -> None:
    assert label_names(config, labels) == names


def test_a_head_with_label2id_alone_is_ranked_by_it(make: Callable[[Case], Path], tmp_path: Path) -> None:
    checkpoint = make(Case(name="label2id", labels=2))
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"label2id": {"entailment": 0, "not_entailment": 1}}
    config.pop("id2label", None)
    (checkpoint / "config.json").write_text(json.dumps(config))
    theirs = sentence_transformers.CrossEncoder(str(checkpoint), device="cpu").predict(PAIRS, apply_softmax=True)
    bundle, _ = export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle")
    assert bundle.manifest.label_names == ("entailment", "not_entailment")
    with CrossEncoder(bundle.path, device="cpu") as model:
        ranked = model.rank("paris", [passage for _, passage in PAIRS], activation_fn="softmax")
        scores = model.predict([("paris", passage) for _, passage in PAIRS], apply_softmax=True)
        np.testing.assert_array_equal([row["corpus_id"] for row in ranked], np.argsort(-scores[:, 0], kind="stable"))
        np.testing.assert_allclose(model.predict(PAIRS, apply_softmax=True), theirs, atol=1e-4)


NLI = Case(name="nli", labels=3, config={"id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"}})


def test_a_label_chosen_at_export_is_kept_and_judged(make: Callable[[Case], Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint.read(make(NLI))
    judging = JudgingSet.pooled(CalibrationSet.builtin().pairs, source="the built-in pairs")
    with pytest.raises(OptionError, match=r"3 labels.*--relevant-label.*1 \(entailment\)"):
        judge_of(checkpoint, judging)
    for options in ({"judging": judging}, {"precisions": [Precision.INT8]}):
        with pytest.raises(OptionError, match="nothing says which of them means relevant"):
            export_bundle(checkpoint, tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()
    with pytest.raises(OptionError, match="relevant_label='relevant' is none of"):
        export_bundle(checkpoint, tmp_path / "none", relevant_label="relevant")
    bundle, (report, *_) = export_bundle(checkpoint, tmp_path / "bundle", relevant_label="Entailment")
    assert (bundle.manifest.relevant_label, bundle.manifest.source["chosen_relevant_label"]) == (1, 1)
    assert report.kendall_tau is not None
    with CrossEncoder(bundle.path, device="cpu") as model:
        unchosen = parity(model, checkpoint, PAIRS)
        assert unchosen.failures == ["the bundle ranks by label 1, the checkpoint by label None"]
        assert unchosen.kendall_tau is None
        assert parity(model, checkpoint.with_relevant_label(1), PAIRS)


def test_parity_catches_a_bundle_that_ranks_by_the_other_label(make: Callable[[Case], Path], tmp_path: Path) -> None:
    case = Case(name="two", labels=2, config={"id2label": {"0": "relevant", "1": "not_relevant"}})
    checkpoint = Checkpoint.read(make(case))
    bundle, _ = export_bundle(checkpoint, tmp_path / "bundle")
    with CrossEncoder(bundle.path, device="cpu", relevant_label=1) as model:
        assert parity(model, checkpoint, PAIRS).failures == ["the bundle ranks by label 1, the checkpoint by label 0"]


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (Case(name="types", family="roberta", config={"type_vocab_size": 2}), {"token_types": False}),
        (Case(name="prompt", files=saved(**PROMPT)), {"prompt": None}),
    ],
    ids=["token types", "prompt"],
)
def test_an_export_that_left_it_out_does_not_pass(
    case: Case, change: dict[str, Any], make: Callable[[Case], Path], tmp_path: Path
) -> None:
    checkpoint = Checkpoint.read(make(case))
    if "prompt" in change:
        checkpoint = dataclasses.replace(checkpoint, settings=dataclasses.replace(checkpoint.settings, **change))
    else:
        checkpoint = dataclasses.replace(checkpoint, **change)
    with pytest.raises(ParityError, match="logits differ"):
        export_bundle(checkpoint, tmp_path / "bundle")


def test_no_setting_is_both_known_to_matter_and_harmless() -> None:
    for name, keys in KNOWN.items():
        assert not keys.applied & keys.harmless, name
        assert not (keys.applied | keys.harmless) & keys.matters.keys(), name


@pytest.mark.parametrize("family", ["bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert"])
def test_all_that_transformers_writes_of_a_configuration_is_known(family: str) -> None:
    keys = KNOWN["config.json"]
    written = transformers.CONFIG_MAPPING[family]().to_dict()
    assert set(written) <= keys.applied | keys.harmless | keys.matters.keys()


def test_the_command_line_says_what_is_odd_and_takes_a_label(make: Callable[[Case], Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from crossrt import __main__  # noqa: F401, registers the commands
    from crossrt.commands.shared import app
    from crossrt.measurement.model_config import Options, model_configs

    files = saved(**PROMPT)
    case = Case(name="nli", labels=3, config={**NLI.config, "mystery": 1}, files=files)
    out = tmp_path / "bundle"
    made = CliRunner().invoke(app.app, ["export", str(make(case)), str(out), "--relevant-label", "entailment"])
    assert made.exit_code == 0, made.output
    shown = CliRunner().invoke(app.app, ["info", str(out)]).stdout
    assert "labels        3, relevant 1 of 0 (contradiction), 1 (entailment), 2 (neutral)" in shown
    assert "prompt        'how long ' before every query" in shown
    assert "warning       config.json: crossrt does not know mystery = 1" in shown
    [config] = model_configs([str(out)], ["fp32"], Options(relevant_label="neutral"))
    assert config.relevant_label == 2
    assert (config.fingerprint["head"], config.fingerprint["prompt"]) == ("label 2 of 3, identity", "how long ")
    with pytest.raises(OptionError, match="is none of the model's labels"):
        model_configs([str(out)], ["fp32"], Options(relevant_label=3))
    unchosen = CliRunner().invoke(app.app, ["export", str(tmp_path / "checkpoint"), str(out), "--force"])
    assert unchosen.exit_code == 0, unchosen.output
    assert "labels        3, none chosen of 0" in CliRunner().invoke(app.app, ["info", str(out)]).stdout
    with pytest.raises(OptionError, match="nothing says which of them means relevant"):
        model_configs([str(out)], ["fp32"], Options())
