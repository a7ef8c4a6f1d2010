"""`Settings`: the settings in a checkpoint's JSON files, and which of them crossrt knows.

There are three kinds of known keys: those that crossrt applies, those that are harmless, and those that change scores but are not
applied. A key of the last kind is an error unless its value has no effect. An unknown key causes a warning, because it may affect
scores.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.errors import CheckpointError
from .files import SENTENCE_TRANSFORMERS, read_json, saved_by_sentence_transformers
from .modules import check_modules, modules_of

TRANSFORMER = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
)
"""Files in which sentence-transformers stores the settings of its Transformer module. The first one found is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The known keys of one file. `matters` has the keys that change scores and are not applied, each with the values other than
    null that have no effect."""

    applied: frozenset[str]
    harmless: frozenset[str] = frozenset()
    matters: Mapping[str, tuple[Any, ...]]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKENS = _words(
    "bos_token eos_token unk_token sep_token pad_token cls_token mask_token additional_special_tokens extra_special_tokens "
    "model_specific_special_tokens"
)

KNOWN: Mapping[str, Keys] = {
    "config.json": Keys(
        applied=_words(
            "architectures model_type num_labels id2label label2id vocab_size type_vocab_size max_position_embeddings "
            "hidden_size num_hidden_layers num_attention_heads intermediate_size embedding_size layer_norm_eps hidden_act "
            "dim n_layers n_heads hidden_dim activation pad_token_id sentence_transformers "
            "sbert_ce_default_activation_function bert_model quantization_config auto_map "
            # DeBERTa, MPNet, ALBERT.
            "relative_attention position_buckets max_relative_positions pos_att_type share_att_key norm_rel_ebd "
            "position_biased_input pooler_hidden_act pooler_hidden_size attention_head_size conv_kernel_size "
            "relative_attention_num_buckets num_hidden_groups inner_group_num "
            # ModernBERT.
            "hidden_activation norm_eps norm_bias attention_bias mlp_bias classifier_bias classifier_pooling "
            "classifier_activation layer_types global_attn_every_n_layers local_attention rope_parameters "
            "global_rope_theta local_rope_theta"
        ),
        harmless=_words(
            # Training and initialization.
            "attention_probs_dropout_prob hidden_dropout_prob classifier_dropout dropout attention_dropout qa_dropout "
            "seq_classif_dropout initializer_range gradient_checkpointing problem_type finetuning_task training "
            "task_specific_params sinusoidal_pos_embds pre_trained return_dict_in_generate pooler_dropout cls_dropout "
            "classifier_dropout_prob embedding_dropout mlp_dropout initializer_cutoff_factor "
            # Heads that are not exported.
            "summary_type summary_use_proj summary_activation summary_last_dropout summary_first_dropout directionality "
            "decoder_bias sparse_prediction sparse_pred_ignore_index "
            "pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type legacy "
            # ALBERT in TensorFlow, and a convolution that is not exported: conv_kernel_size tells whether a model has it.
            "net_structure_type gap_size num_memory_blocks down_scale_factor conv_act conv_groups "
            # Storage and computation.
            "dtype torch_dtype use_bfloat16 transformers_version torchscript use_cache chunk_size_feed_forward "
            "attn_implementation _attn_implementation _attn_implementation_autoset return_dict output_attentions "
            "deterministic_flash_attn reference_compile repad_logits_with_grad "
            "output_hidden_states output_past tie_word_embeddings tie_weights_ tie_encoder_decoder _name_or_path "
            "name_or_path _commit_hash tokenizer_class "
            # Generation.
            "bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id prefix "
            "cross_attention_hidden_size "
            "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k "
            "top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
            "bad_words_ids num_return_sequences output_scores forced_bos_token_id forced_eos_token_id remove_invalid_values "
            "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens"
        ),
        matters={
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "is_encoder_decoder": (False,),
            "position_embedding_type": ("absolute",),
            "pruned_heads": ({}, []),
        },
    ),
    # transformers builds the exported tokenizer from these settings, so they are not interpreted again.
    "tokenizer_config.json": Keys(
        applied=_TOKENS
        | _words(
            "tokenizer_class added_tokens_decoder do_lower_case strip_accents tokenize_chinese_chars add_prefix_space "
            "trim_offsets lowercase wordpieces_prefix sp_model_kwargs add_bos_token add_eos_token do_basic_tokenize "
            "never_split model_max_length max_len model_input_names truncation_side split_by_punct vocab_type keep_accents "
            "remove_space unk_id"
        ),
        harmless=_words(
            # Defaults for calls, which always pass their own values.
            "padding_side padding max_length stride truncation truncation_strategy pad_to_multiple_of pad_token_type_id "
            # Decoding and chats.
            "clean_up_tokenization_spaces errors chat_template "
            # Storage.
            "name_or_path _name_or_path special_tokens_map_file tokenizer_file vocab_file merges_file full_tokenizer_file "
            "processor_class use_fast from_slow legacy backend is_local local_files_only revision _commit_hash init_inputs "
            "transformers_version"
        ),
        # transformers would read the newest of these files that it understands instead of tokenizer.json.
        matters={"split_special_tokens": (False,), "fast_tokenizer_files": ([], ["tokenizer.json"])},
    ),
    "special_tokens_map.json": Keys(applied=_TOKENS, matters={}),
    SENTENCE_TRANSFORMERS: Keys(
        applied=_words("model_type prompts default_prompt_name activation_fn"),
        harmless=_words("__version__ similarity_fn_name truncate_dim keep_in_fp32_modules"),
        matters={},
    ),
    **dict.fromkeys(
        TRANSFORMER,
        Keys(
            applied=_words("max_seq_length transformer_task"),
            harmless=_words(
                "module_output_name unpad_inputs query_length document_length query_expansion model_kwargs model_args"
            ),
            matters={
                "do_lower_case": (False,),
                "processing_kwargs": ({},),
                "processor_kwargs": ({},),
                "tokenizer_args": ({},),
                "config_kwargs": ({},),
                "config_args": ({},),
                "tokenizer_name_or_path": (),
                # Texts that are passed as chat messages go through a chat template.
                "modality_config": ({}, {"text": {"method": "forward", "method_output_name": "logits"}}),
            },
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a checkpoint, found as in sentence-transformers.

    `prompts` are the saved prompts by name, and `prompt` is the text of the default one. `max_length` is the maximum number of
    tokens of a pair. `warnings` name unknown keys, and settings that are ignored because sentence-transformers ignores them.
    """

    prompts: Mapping[str, str]
    prompt: str | None
    max_length: int | None
    warnings: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read the small files of a checkpoint directory.

        Raises CheckpointError, naming the file, the key and its value, for a setting that would change scores and is not
        applied, and for a file with an unexpected structure.
        """
        read = {name: read_json(path / name, missing={}) for name in KNOWN if (path / name).is_file()}
        if (modules := modules_of(path)) is not None:
            check_modules(path, modules)
            if len(modules) > 1:  # their modality_config is different; `dense_head_of` checks it
                for name in TRANSFORMER:
                    read.get(name, {}).pop("modality_config", None)
        if read.get("config.json", {}).get("model_type") == "modernbert":
            # transformers ignores this key for ModernBERT. Checkpoints of ModernBERT-base have `absolute`, mmBERT's `sans_pos`.
            read["config.json"].pop("position_embedding_type", None)
        saved, unread = saved_by_sentence_transformers(path)
        warnings = list(unread)
        transformer = next((read[name] for name in TRANSFORMER if name in read), {})
        if not saved:  # sentence-transformers ignores these files
            transformer = {}
            read = {name: fields for name, fields in read.items() if name not in (SENTENCE_TRANSFORMERS, *TRANSFORMER)}
        for name, fields in read.items():
            warnings += _checked(path / name, fields, KNOWN[name])
        prompts = saved.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
            raise CheckpointError(f"{path / SENTENCE_TRANSFORMERS}: prompts are texts by name, got {prompts!r}")
        prompts = {name: text or "" for name, text in prompts.items()}
        default = saved.get("default_prompt_name")
        if default is not None and (not isinstance(default, str) or default not in prompts):
            raise CheckpointError(
                f"{path / SENTENCE_TRANSFORMERS}: default_prompt_name is {default!r}, which is none of the prompts "
                f"{', '.join(prompts) or '(there are none)'}; sentence-transformers refuses it too"
            )
        length = transformer.get("max_seq_length")
        return cls(
            prompts=prompts,
            prompt=None if default is None else prompts[default] or None,
            max_length=length if isinstance(length, int) and length > 0 else None,
            warnings=tuple(warnings),
        )


def _checked(file: Path, fields: Mapping[str, Any], keys: Keys) -> list[str]:
    for name, nothing in keys.matters.items():
        value = fields.get(name)
        if value is not None and value not in nothing:
            raise CheckpointError(
                f"{file} has {name} = {json.dumps(value)}, which changes scores and which crossrt does not apply; "
                + (
                    f"{' or '.join(map(json.dumps, nothing))} is supported"
                    if nothing
                    else "only without it can the model be used"
                )
            )
    known = keys.applied | keys.harmless | keys.matters.keys()
    odd = [f"{name} = {_short(value)}" for name, value in fields.items() if name not in known and value is not None]
    if not odd:
        return []
    return [f"{file.name}: crossrt does not know {', '.join(odd)}; see whether scores depend on it"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
