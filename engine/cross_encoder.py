"""`CrossEncoder`: the public class that opens a model and scores pairs of texts with it."""

import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from . import compatibility
from .activation import Activation, Floats, apply, check_activation, is_identity, is_monotonic
from .attributes import CrossEncoderAttributes, ModelCardData
from .batching.batch import Batch
from .bundle.bundle import Bundle
from .bundle.resolve import bundle_from_source
from .errors import BackendError, BundleError, InputError, OptionError
from .labels import label_number, need_label
from .log import warn_once
from .options import whole
from .precision import Precision
from .runtime.cancellation import Cancellation
from .runtime.exact_ranking import ExactRankings, exact_best
from .runtime.pending import Pending
from .runtime.request import Request, Scored
from .runtime.scorer import Scorer, open_scorer
from .scores import best_first, label_scores, relevance_scores
from .selection.select import choose_execution
from .store.passage_store import PassageStore
from .text.encoded_pairs import EncodedPairs
from .text.inputs import check_text, checked_pairs, checked_passages, is_single
from .text.pair_source import PairSource, StoredPassages, TextPairs, TokenizedPairs
from .text.pair_tokenizer import PairTokenizer
from .text.text_limits import NO_LIMITS, TextLimits
from .text.truncation import Truncation, TruncationCounter
from .text.windows import WindowCounts, Windows
from .token_model import TokenModel

logger = logging.getLogger("crossrt")

NOT_PICKLED = frozenset(
    {"bundle", "config", "_tokenizer", "_pair_tokenizer", "_scorer", "_exact", "_counter", "_options"}
)
"""Attributes that are not pickled: a copy of the model creates them when it opens the bundle."""


class CrossEncoder(CrossEncoderAttributes):
    """A cross-encoder that scores query-passage pairs. It replaces `sentence_transformers.CrossEncoder` for inference.

    Source: `model_name_or_path` is a bundle (its path or an opened `Bundle`), a checkpoint directory or a hub id. A checkpoint
    or hub model is exported once, into a cache. `revision`, `token`, `cache_folder` and `local_files_only` work as in
    sentence-transformers.

    Precision: `precision` is `fp32`, `bf16`, `fp16`, `int8` or `auto`. None means FP32, and raises BundleError for a bundle
    without FP32, such as one made from an INT8 ONNX file. `auto` takes INT8 on a CPU or FP16 on a GPU if that precision passed
    its parity check, and FP32 otherwise, but never BF16. In a bundle without FP32, `auto` takes the first precision.
    `allow_failed` also opens a precision that failed its check, and silences the warning about one that was never checked.

    Device: `device` is `cpu`, `cuda` or `cuda:1`; `devices` names several GPUs. None takes `cuda:0` if it can run the bundle,
    and the CPU otherwise. `backend` is `auto`, `native` or `onnxruntime`; on a CPU also `openvino`, on a GPU also `tensorrt`.
    `threads` defaults to the number of processors that this process may use. `rebuild` builds a missing TensorRT engine for the
    GPU and keeps it in a cache. That takes minutes, once. `trust_engines` allows the TensorRT engines that came with the bundle.
    They run as machine code, so only allow engines from people you trust. `engine` names the engine file to use if a bundle has
    several.

    Labels: `num_labels`, if given, must be the model's number of labels. `relevant_label` is the index or name of the label that
    `rank` sorts by in a model with several labels; the default is the bundle's. `activation_fn` replaces the bundle's
    activation, and `max_length` its longest pair in tokens. Evaluators of sentence-transformers write their metrics to
    `model_card_data`.

    Several threads may call the scoring methods at once. Use `with` or `close()` to free the model. A model can be pickled and
    copied: the copy opens the same bundle again, by its absolute path and with the same options.

    Raises SourceError if the model cannot be found, BundleError if a bundle is damaged, BackendError if no backend is
    installed, and OptionError for an option that is not allowed.
    """

    def __init__(
        self,
        model_name_or_path: str | PathLike[str] | Bundle | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        device: Any = None,
        *,
        devices: Sequence[str] | None = None,
        precision: str | Precision | None = None,
        backend: str = "auto",
        relevant_label: int | str | None = None,
        revision: str | None = None,
        token: bool | str | None = None,
        cache_folder: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        threads: int | None = None,
        allow_failed: bool = False,
        rebuild: bool = False,
        engine: str | None = None,
        trust_engines: bool = False,
        model_card_data: Any = None,
        **others: Any,
    ) -> None:
        given = {
            "model_name_or_path": model_name_or_path,
            "cache_folder": cache_folder,
            "activation_fn": activation_fn,
            "token": token,
        }
        others = compatibility.renamed(others, given)
        model_name_or_path = others.pop("model_name_or_path", model_name_or_path)
        cache_folder = others.pop("cache_folder", cache_folder)
        activation_fn = others.pop("activation_fn", activation_fn)
        token = others.pop("token", token)
        mapped = compatibility.constructor_options(others, CrossEncoder.__init__)
        if model_name_or_path is None or model_name_or_path == "":  # "" would be the working directory
            raise OptionError("model_name_or_path is missing: give a bundle, a checkpoint directory or a hub id")
        if isinstance(model_name_or_path, Bundle):
            self.bundle = model_name_or_path
        else:
            self.bundle = bundle_from_source(
                fspath(model_name_or_path),
                revision=mapped.get("revision") if revision is None else revision,
                token=mapped.get("token") if token is None else token,
                cache_folder=mapped.get("cache_folder") if cache_folder is None else cache_folder,
                local_files_only=local_files_only or mapped.get("local_files_only", False),
            )
        manifest = self.bundle.manifest
        self._check_labels(num_labels if num_labels is not None else mapped.get("num_labels"))
        self._relevant_label = manifest.relevant_label
        if relevant_label is not None:
            self._relevant_label = label_number(relevant_label, manifest.label_names, manifest.labels)
        self._pair_tokenizer = self._tokenizer_for(max_length if max_length is not None else mapped.get("max_length"))
        self.activation_fn: Activation = manifest.activation if activation_fn is None else activation_fn
        check_activation(self.activation_fn)
        self.model_card_data = ModelCardData() if model_card_data is None else model_card_data
        if devices is None:
            # device_map takes precedence over device, as in sentence-transformers.
            devices = device if mapped.get("device") is None else mapped["device"]
        self._options: dict[str, Any] = {
            "device": compatibility.device_names(devices),
            "precision": precision if precision is not None else mapped.get("dtype"),
            "backend": compatibility.backend_named(backend),
            "threads": threads,
            "allow_failed": allow_failed,
            "rebuild": rebuild,
            "engine": engine,
            "trust_engines": trust_engines,
        }
        self._counter = TruncationCounter()
        self._scorer = self._opened_scorer(mapped.get("dtype") if precision is None else None)
        self._exact = ExactRankings(self.bundle, self._options, self._scorer)
        self._pair_tokenizer = self._fit_to_scorer(self._pair_tokenizer)
        if not allow_failed:
            self._warn_unchecked()

    # -- scoring

    def predict(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        processing_kwargs: Mapping[str, Any] | None = None,
        windows: Windows | None = None,
        **others: Any,
    ) -> Any:
        """Score one pair or any iterable of pairs of texts.

        Returns float32 scores in the order of the pairs: `(n,)` for a model with one label, `(n, labels)` for several. A single
        pair gives a scalar or `(labels,)`. `convert_to_tensor` returns a torch tensor, `convert_to_numpy=False` a list of torch
        tensors; otherwise torch is not imported.

        `activation_fn` replaces the model's activation in this call only. `apply_softmax` takes the softmax over the labels of a
        model with several labels. `prompt`, or the prompt that the model saved as `prompt_name`, is put before each query
        instead of the model's default prompt; an empty prompt puts nothing there. `batch_size` limits the rows of a batch on a
        CPU and changes no score. `processing_kwargs={"text": {"max_length": 256}}` sets `max_length` for this call only.
        `windows` scores long passages in pieces; see `Windows`.

        Raises InputError, naming the index, for an item that is not a pair of texts, OptionError for an option
        that is not allowed, and BackendError for a closed model and for scores that are NaN or Inf.
        """
        others = compatibility.renamed(others, {"inputs": inputs, "activation_fn": activation_fn})
        inputs = others.pop("inputs", inputs)
        activation_fn = others.pop("activation_fn", activation_fn)
        compatibility.refuse({"pool": pool, **others}, CrossEncoder.predict)
        self.check_device(device)
        activation = self._activation(activation_fn)
        if inputs is None:
            raise InputError("expected pairs of texts, got None; pass [(query, passage), ...]")
        single = is_single(inputs)
        total = len(inputs) if not single and isinstance(inputs, Sequence) else None
        logits = self.logits(
            [inputs] if single else inputs,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            total=total,
            max_length=compatibility.per_call_max_length(processing_kwargs),
            prompt=self._prompt(prompt, prompt_name),
            windows=windows,
        )
        self.check_finite(logits)
        scores = label_scores(logits, activation, apply_softmax=bool(apply_softmax))
        if len(scores) == 0:
            scores = np.zeros(0, dtype=np.float32)
        if convert_to_tensor or not convert_to_numpy:
            import torch

            tensor = torch.from_numpy(scores)
            tensors = tensor if convert_to_tensor else list(tensor)
            return tensors[0] if single else tensors
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        documents: Iterable[str] | None = None,
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        passage_ids: Sequence[str] | None = None,
        passages: PassageStore | None = None,
        apply_softmax: bool | None = False,
        exact: bool | None = None,
        windows: Windows | None = None,
        priority: int = 0,
        cancellation: Cancellation | None = None,
        limits: TextLimits | None = None,
        encoded: EncodedPairs | None = None,
        **others: Any,
    ) -> list[dict[str, Any]]:
        """Rank passages for one query, best first; equal scores keep the order given.

        Returns the `top_k` best passages, or all, as dictionaries with `corpus_id` (index into `documents`), `score` (float)
        and, with `return_documents`, `text`. Instead of `documents`, `passage_ids` can name passages of the store `passages`,
        which are already tokenized. `corpus_id` is then an index into `passage_ids`, and `passage_id` is the id. A model with
        several labels ranks by the margin of its relevant label, or with `apply_softmax` by the softmax of that label; see
        `relevance`. `prompt` and `prompt_name` are as in `predict`.

        With `exact`, a model in a cheaper precision returns the `top_k` passages that FP32 ranks highest, with FP32's scores.
        It scores all passages in the cheaper precision, and those that may be among the best again in FP32. See `exact_top_k`
        and docs/exact_top_k.md for the guarantee. The bundle must contain an FP32 model, which is opened at the first such call,
        and the score errors that the export measured. `exact=None` means exact if `precision="auto"` chose INT8 on the native
        kernels of a CPU and there are at least 4 `top_k` + 10 passages: then it is faster than FP32.

        With `exact`, all passages are scored in FP32 in four cases: the model is in FP32, `top_k` is more than half of the
        passages, the activation is not known to be monotonic, or `apply_softmax` is used with several labels and an activation
        other than identity. In the last three cases `exact=None` ranks by the cheaper precision only.

        With `windows`, long passages are scored in pieces (see `Windows`). Each result then has a `window`, which locates the
        best piece in the text: its first character, and its last character + 1. For prepared passages, whose texts are not
        stored, these are token numbers.

        `limits` is as in `encode`, and applies to texts only, not to prepared passages. With `windows`, the query and the
        passages are cut to their limits first. `limits.pair` is then refused, since the window's length limits the pair.

        `encoded` holds the pairs of the query with each of the `documents`, as `encode` returned them, so that they are not
        tokenized again. Prompt, limits, windows and prepared passages are then refused.

        `priority` is as in `submit`. Another thread can cancel the call through `cancellation`, a
        `crossrt.engine.runtime.cancellation.Cancellation`. Batches that have not begun are then not computed, and the call
        raises BackendError.

        Raises InputError, naming the index, for a passage that is not a text, StoreError for an id that the store lacks and for
        a store of another tokenizer, OptionError for a model with more than two labels and no relevant label chosen, and
        BackendError for a closed model and for scores that are NaN or Inf.
        """
        others = compatibility.renamed(others, {"activation_fn": activation_fn})
        activation_fn = others.pop("activation_fn", activation_fn)
        for ignored in ("convert_to_numpy", "convert_to_tensor"):  # sentence-transformers 6 ignores them too
            others.pop(ignored, None)
        compatibility.refuse({"pool": pool, **others}, CrossEncoder.rank)
        self.check_device(device)
        if top_k is not None:
            top_k = whole("top_k", top_k, minimum=0, hint=", or None for all")
        check_text(query, "the query")
        self._need_label()  # fail before computing anything
        self._activation(activation_fn)
        refused = {
            "prompt": prompt or prompt_name,
            "limits": limits,
            "windows": windows,
            "passages": passages is not None,
            "passage_ids": passage_ids is not None,
        }
        prompt = self._prompt(prompt, prompt_name)
        texts: list[str] = []
        items: list[Any]
        source: PairSource[Any]
        if encoded is not None:
            _check_alone(refused)
            texts = checked_passages(documents)
            if len(encoded) != len(texts):
                raise OptionError(f"encoded has {len(encoded)} pairs, and there are {len(texts)} documents")
            items = list(range(len(texts)))
            source = TokenizedPairs(pairs=encoded)
        elif passage_ids is not None or passages is not None:
            if passage_ids is None or passages is None or documents is not None or return_documents:
                raise OptionError(
                    "passage_ids and passages go together, in place of documents, and return no texts: a store holds none"
                )
            if limits:
                raise OptionError("limits are for texts: a store holds tokens, which were cut when it was prepared")
            passage_ids = passage_ids if isinstance(passage_ids, str) else list(passage_ids)
            source = self._stored_passages(passages, query, passage_ids, prompt)
            items = list(passage_ids)
        else:
            texts = checked_passages(documents)
            items = [(query, document) for document in texts]
            source = TextPairs(tokenizer=self._pair_tokenizer, prompt=prompt, limits=_limits_of(limits))
            _check_limits(windows, source.limits)
        request = replace(
            self._request(source, batch_size, windows),
            priority=whole("priority", priority),
            cancellation=cancellation,
        )
        with _progress(show_progress_bar, len(items)) as progress:
            rows, found = self._score_candidates(
                request, items, top_k, activation_fn, bool(apply_softmax), exact, progress
            )
        scores = self.relevance(found.logits, activation_fn, apply_softmax=bool(apply_softmax))
        if np.isnan(scores).any():
            raise BackendError(
                f"the activation gives NaN, which has no order, for {np.isnan(scores).sum()} of {len(scores)} passages"
            )
        results: list[dict[str, Any]] = []
        for place in best_first(scores, top_k):
            index = int(rows[place])
            result: dict[str, Any] = {"corpus_id": index, "score": float(scores[place])}
            if passage_ids is not None:
                result["passage_id"] = items[index]
            if return_documents:
                result["text"] = texts[index]
            if found.best is not None:
                begin, size = int(found.best.starts[place]), int(found.best.sizes[place])
                result["window"] = (
                    self._pair_tokenizer.window_text(texts[index], begin, size) if texts else (begin, begin + size)
                )
            results.append(result)
        return results

    def logits(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        total: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        windows: Windows | None = None,
    ) -> Floats:
        """Return the raw logits of pairs of texts, float32 [n, labels], before any activation; they may be NaN or Inf.

        `max_length` applies to this call only. `prompt=None` means the model's default prompt, if it has one. `windows` scores
        long passages in pieces, whose logits are aggregated. `total` is the number of pairs that the progress bar shows. Raises
        InputError, naming the index, for an item that is not a pair of texts, and BackendError once the model is closed.
        """
        if max_length is not None and windows is not None:
            raise OptionError(f"max_length={max_length} and windows exclude each other: set the windows' length")
        tokenizer = self._pair_tokenizer if max_length is None else self._fit_to_scorer(self._tokenizer_for(max_length))
        request = self._request(TextPairs(tokenizer=tokenizer, prompt=prompt), batch_size, windows)
        with _progress(show_progress_bar, total) as progress:
            return request.score(checked_pairs(pairs), self._scorer, progress=progress).logits

    def encode(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        prompt: str | None = None,
        max_length: int | None = None,
        limits: TextLimits | None = None,
    ) -> EncodedPairs:
        """Tokenize pairs of texts as `predict` does, all at once. `max_length` and `prompt` are as in `logits`.

        `limits` keeps fewer tokens of this call's pairs, queries or passages, or truncates on the other side; see `TextLimits`.
        Raises InputError, naming the index, for an item that is not a pair of texts. Several threads may call this at once, even
        after `close`.
        """
        tokenizer = self._pair_tokenizer if max_length is None else self._fit_to_scorer(self._tokenizer_for(max_length))
        limits = _limits_of(limits)
        if limits:
            return tokenizer.encode_within(list(checked_pairs(pairs)), limits, prompt=prompt)
        return tokenizer.encode(list(checked_pairs(pairs)), prompt=prompt)

    def count_windows(
        self,
        pairs: Iterable[tuple[str, str]],
        windows: Windows,
        *,
        prompt: str | None = None,
        limits: TextLimits | None = None,
    ) -> WindowCounts:
        """Count the tokens that `rank` would score with these `windows` and `limits`, without cutting any window.

        Raises InputError, naming the index, for an item that is not a pair of texts and for a query that leaves no room in a
        window, and OptionError for windows longer than the model takes. Several threads may call at once.
        """
        self._check_windows(windows)
        limits = _limits_of(limits)
        _check_limits(windows, limits)
        tokenizer = self._pair_tokenizer
        return tokenizer.count_windows(list(checked_pairs(pairs)), windows, prompt=prompt, limits=limits)

    def submit(self, pairs: EncodedPairs, *, batch_size: int = 32, priority: int = 0) -> Pending:
        """Start to score the pairs that `encode` returned, and return without waiting. `Pending.wait` returns their raw logits.

        The logits are float32 [n, labels], in the order of the pairs. `Pending.cancel` cancels a request. Several threads may
        submit at once. The requests of one model take turns, so that a small request does not wait for a large one. Requests
        with a lower `priority` are served first. Raises ShapeError for a pair longer than a GPU's engine takes, and BackendError
        once the model is closed.
        """
        return self._scorer.submit(
            pairs, batch_size=whole("batch_size", batch_size, minimum=1), priority=whole("priority", priority)
        )

    def run(self, batch: Batch) -> Floats:
        """Score one padded batch with all threads, and return raw logits, float32 [rows, labels].

        Use it to compare runtimes on the same arrays; `submit` chooses batches and padding itself, and is faster. ONNX Runtime
        and OpenVINO on a CPU compute the arrays as given. The native kernels and GPUs remove the padding first. Several threads
        may call this at once. Raises ShapeError for a batch longer than the model takes, and BackendError once the model is
        closed.
        """
        return self._scorer.run(batch)

    def logits_from(
        self,
        passages: PassageStore,
        query: str,
        passage_ids: Sequence[str],
        *,
        batch_size: int = 32,
        prompt: str | None = None,
        windows: Windows | None = None,
    ) -> Floats:
        """Return the raw logits of one query with prepared passages, float32 [n, labels], as `logits` gives for their texts.

        Raises StoreError for an id that the store lacks and for a store that was prepared for another tokenizer.
        """
        request = self._request(self._stored_passages(passages, query, passage_ids, prompt), batch_size, windows)
        return request.score(passage_ids, self._scorer).logits

    def _stored_passages(
        self, passages: PassageStore, query: str, passage_ids: Sequence[str], prompt: str | None
    ) -> StoredPassages:
        check_text(query, "the query")
        if isinstance(passage_ids, (str, bytes)) or not all(isinstance(name, str) for name in passage_ids):
            raise InputError("passage_ids is a list of texts, the ids of the store's passages")
        passages.check(
            self.bundle.tokenizer_sha256,
            max_length=self.max_length,
            truncation_side=self.bundle.manifest.truncation_side,
        )
        return StoredPassages(tokenizer=self._pair_tokenizer, store=passages, query=query, prompt=prompt)

    def _check_windows(self, windows: Windows) -> None:
        if not isinstance(windows, Windows):
            raise OptionError(f"windows={windows!r}: give crossrt.Windows(length=..., stride=...), or None for none")
        most = min(self.bundle.manifest.max_positions, self._scorer.max_length)
        if windows.length > most:
            raise OptionError(f"windows of {windows.length} tokens, but the model takes {most}; give at most that")

    def _request(self, source: PairSource[Any], batch_size: int, windows: Windows | None) -> Request:
        if windows is not None:
            self._check_windows(windows)
        return Request(
            source=source,
            num_labels=self.num_labels,
            relevant_label=self._relevant_label,
            batch_size=whole("batch_size", batch_size, minimum=1),
            windows=windows,
            counter=self._counter,
        )

    def _score_candidates(
        self,
        request: Request,
        items: Sequence[Any],
        top_k: int | None,
        activation_fn: Activation | None,
        apply_softmax: bool,
        exact: bool | None,
        progress: Callable[[int], object],
    ) -> tuple[npt.NDArray[np.int64], Scored]:
        """Return the rows to rank, and their scores. The rows include the `top_k` best."""
        everything = np.arange(len(items))
        error = self._exact.error_if_exact(exact, top_k, len(items))
        if error is None or top_k is None:
            return everything, request.score(items, self._scorer, progress=progress)
        activation: Activation = "identity"
        if activation_fn is not None or self.num_labels == 1:
            activation = self._activation(activation_fn)
        # The softmax of activated logits may give another order than the margin, which decides what is scored again.
        of_activated = apply_softmax and self.num_labels > 1 and not is_identity(self._activation(activation_fn))
        if of_activated or not is_monotonic(activation) or 2 * top_k > len(items):
            scorer = self._scorer if exact is None else self._exact.scorer()  # None asks for speed
            return everything, request.score(items, scorer, progress=progress)
        return exact_best(
            request,
            items,
            top_k,
            cheap=self._scorer,
            precise=self._exact.scorer(),
            error=error,
            activate=partial(apply, activation),
            progress=progress,
        )

    def _activation(self, chosen: Activation | None) -> Activation:
        """Return the activation of a call. Raises OptionError for what is none, before anything is computed."""
        activation = self.activation_fn if chosen is None else chosen
        check_activation(activation)
        return activation

    def relevance(
        self, logits: Floats, activation_fn: Activation | None = None, *, apply_softmax: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return the score that `rank` sorts by, float32 [n], from raw logits [n, labels].

        For one label it is the activation of the logit. For several labels it is the margin: the relevant logit minus the
        logsumexp of the others (for two labels, `relevant - other`). The sigmoid of the margin is the softmax of the relevant
        label, so both give the same order, but the margin does not saturate. `activation_fn` is applied to the margin; the
        model's own activation is not. A softmax, by `activation_fn` or `apply_softmax`, is taken over each pair's labels, as in
        `predict`. Raises OptionError for a model with more than two labels and no relevant label chosen, and BackendError for
        NaN or Inf.
        """
        self.check_finite(logits)
        label = self._need_label()
        return relevance_scores(
            logits, label, default=self.activation_fn, chosen=activation_fn, apply_softmax=apply_softmax
        )

    def check_finite(self, logits: Floats) -> None:
        """Raise BackendError, naming the model and the first such pair, for logits that are NaN or Inf, which have no order."""
        if not np.isfinite(logits).all():
            rows = np.flatnonzero(~np.isfinite(logits.reshape(len(logits), -1)).all(axis=1))
            raise BackendError(
                f"{self.bundle.path} gives NaN or Inf in {self.precision.value} on {self.backend} for {len(rows)} of "
                f"{len(logits)} pairs, the first of which is pair {rows[0]}. Score in fp32; where that is so too, the weights "
                "are broken"
            )

    def _need_label(self) -> int:
        return need_label(self._relevant_label, self.label_names, self.num_labels)

    def _prompt(self, prompt: str | None, name: str | None) -> str | None:
        """Return the prompt that a call asks for, or None for the model's default prompt."""
        if prompt is not None:
            check_text(prompt, "the prompt")
        elif name is not None:
            compatibility.check_prompt_name(name)
            prompts = self.bundle.manifest.prompts
            if name not in prompts:
                raise OptionError(
                    f"prompt_name={name!r}: the model saved {'the prompts ' + ', '.join(prompts) if prompts else 'no prompts'}; "
                    "give the text itself as prompt="
                )
            return prompts[name]
        return prompt

    # -- attributes

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels from the checkpoint; empty if it has none."""
        return self.bundle.manifest.label_names

    @property
    def relevant_label(self) -> int | None:
        """Index of the label that `rank` sorts by; None for a model with more than two labels if none was chosen."""
        return self._relevant_label

    @property
    def max_length(self) -> int:
        """Longest pair in tokens. Longer pairs are truncated, the longer text first. May be set.

        It is at most what the GPU's engine takes; a larger value is lowered, with a warning.
        """
        return self._pair_tokenizer.max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self._pair_tokenizer = self._fit_to_scorer(self._tokenizer_for(value))

    max_seq_length = max_length

    @property
    def truncation(self) -> Truncation:
        """How many pairs were scored since the model was opened, and how many of them were cut to `max_length`.

        Pairs that are scored with `windows` or through `submit` are not counted.
        """
        return self._counter.total

    @property
    def backend(self) -> str:
        """The name of the runtime that computes, such as `onnxruntime`."""
        return self._scorer.config.backend

    @property
    def threads(self) -> int:
        """Number of CPU threads that compute."""
        return self._scorer.config.threads

    @property
    def model(self) -> TokenModel:
        """The same model, called with a tokenizer's tensors instead of texts. Closing either closes both."""
        return TokenModel(self)

    def _tokenizer_for(self, max_length: int | None) -> PairTokenizer:
        """Return a tokenizer that truncates pairs to `max_length`. The tokenizer file is read once, when the model is opened."""
        manifest = self.bundle.manifest
        if max_length is not None and whole("max_length", max_length, minimum=1) > manifest.max_positions:
            raise OptionError(
                f"max_length={max_length}, but the model has positions for {manifest.max_positions} tokens; "
                f"give at most that"
            )
        opened: PairTokenizer | None = vars(self).get("_pair_tokenizer")
        if opened is not None:
            return opened.of_length(manifest.max_length if max_length is None else max_length)
        tokenizer = self.bundle.pair_tokenizer(max_length=max_length)
        for what, largest, count in (
            ("token id", tokenizer.largest_id, manifest.vocab_size),
            ("token type", tokenizer.largest_type, manifest.token_types),
        ):
            # A count of 0 token types means that the model takes none; the tokenizer's types are then not passed to it.
            if count and largest >= count:
                raise BundleError(
                    f"{self.bundle.tokenizer_file} has the {what} {largest}, and the model has {count}: they do not belong "
                    "together; export the bundle again"
                )
        return tokenizer

    def _fit_to_scorer(self, tokenizer: PairTokenizer) -> PairTokenizer:
        """Return the tokenizer, or one that truncates to fewer tokens if the GPU's engine takes fewer."""
        longest = self._scorer.max_length
        if tokenizer.max_length <= longest:
            tokenizer.threads = self._scorer.tokenizing_threads
            return tokenizer
        logger.warning(
            "max_length is %d, and the engine on %s takes %d tokens: longer pairs are truncated to that; crossrt engines %s "
            "--max-length %d builds an engine that takes them whole",
            tokenizer.max_length,
            self.device,
            longest,
            self.bundle.path,
            tokenizer.max_length,
        )
        return self._fit_to_scorer(self._tokenizer_for(longest))

    def __repr__(self) -> str:
        return f"CrossEncoder({str(self.bundle.path)!r}, {self.precision.value}, {self.backend}, {self.device})"

    # -- opening and closing

    def _check_labels(self, num_labels: Any) -> None:
        labels = self.bundle.manifest.labels
        if num_labels is not None and whole("num_labels", num_labels, minimum=1) != labels:
            raise OptionError(
                f"num_labels={num_labels}, but the model has {labels}: another head would have random weights"
            )

    def _warn_unchecked(self) -> None:
        """Warn if the scores of the opened precision were never compared with PyTorch's."""
        precision, path = self.precision.value, self.bundle.folder
        model = self.bundle.manifest.models.get(precision)
        if model is not None and model.parity is None:
            warn_once(
                f"the scores of the {precision} model of {path} were never compared with PyTorch's; where its PyTorch weights "
                f"are, do so with: crossrt parity {shlex.quote(str(path))} --against CHECKPOINT --precision {precision}"
            )

    def _opened_scorer(self, dtype: str | None) -> Scorer:
        """Open the model. If the precision of a torch `dtype` is not available, open FP32, which is more exact, and warn."""
        try:
            config = choose_execution(self.bundle, **self._options)
            if dtype is None or config.precision is not Precision.FP16 or config.device != "cpu":
                return open_scorer(self.bundle, config)
            why = "FP16 is for GPUs"
        except (BackendError, BundleError) as error:
            if dtype is None:
                raise
            why = str(error)
        self._options["precision"] = None
        scorer = open_scorer(self.bundle, choose_execution(self.bundle, **self._options))
        warn_once(f"the dtype asks for {dtype}, which is not available here, so the model runs in fp32: {why}")
        return scorer

    def close(self) -> None:
        """Cancel the batches that wait, wait for those that are being computed, then free the model.

        May be called again, from any thread. Scoring, pickling and copying afterwards raise BackendError.
        """
        self._scorer.close()
        self._exact.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._scorer.check_open()
        options = {**self._options, "max_length": self.max_length}
        state = {name: value for name, value in vars(self).items() if name not in NOT_PICKLED}
        return _reopened, (type(self), str(self.bundle.folder), options), state

    def __enter__(self) -> "CrossEncoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _check_alone(others: Mapping[str, object]) -> None:
    """Raise OptionError for an option of `rank` that cannot be combined with `encoded`."""
    for name, value in others.items():
        if value:
            raise OptionError(f"encoded and {name} exclude each other: the pairs are tokenized already")


def _limits_of(limits: TextLimits | None) -> TextLimits:
    """Return the limits of a call, none for None. Raises OptionError for another type, such as a dictionary."""
    if limits is None:
        return NO_LIMITS
    if not isinstance(limits, TextLimits):
        raise OptionError(
            f"limits={limits!r}: give crossrt.TextLimits(pair=..., query=..., passage=...), or None for none"
        )
    return limits


def _check_limits(windows: Windows | None, limits: TextLimits) -> None:
    if windows is not None and limits.pair is not None:
        raise OptionError(
            f"a limit of {limits.pair} tokens a pair and windows exclude each other: set the windows' length"
        )


def _reopened(kind: type[CrossEncoder], path: str, options: dict[str, Any]) -> CrossEncoder:
    """Open a copy of a pickled model. A subclass may have another constructor, so it is not called."""
    model = kind.__new__(kind)
    CrossEncoder.__init__(model, path, **options)
    return model


@contextmanager
def _progress(shown: bool | None, total: int | None) -> Iterator[Callable[[int], object]]:
    """Show a progress bar if `shown` is true. With None the log level decides, as in sentence-transformers."""
    if shown is None:
        shown = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    if not shown:  # a disabled bar still takes a tenth of the time of a single pair
        yield lambda rows: None
        return
    with tqdm(total=total, desc="Scoring", unit="pair") as bar:
        yield bar.update
