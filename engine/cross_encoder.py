"""`CrossEncoder`: what users hold."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from . import compatibility
from .activation import Activation, Floats, apply, is_softmax, softmax
from .attributes import CrossEncoderAttributes, ModelCardData
from .batching.batch import Batch
from .bundle.bundle import Bundle
from .bundle.resolve import bundle_from_source
from .errors import BackendError, BundleError, InputError, OptionError
from .labels import label_number, margin, need_label
from .options import whole
from .precision import Precision
from .runtime.pending import Pending
from .runtime.scorer import Scorer, open_scorer
from .runtime.select import choose_execution
from .store.passage_store import PassageStore
from .text.encoded_pairs import EncodedPairs
from .text.inputs import check_text, checked_pair, checked_pairs, is_single
from .text.pair_tokenizer import PairTokenizer
from .token_model import TokenModel

logger = logging.getLogger("crossrt")

CHUNK = 8192
"""Pairs tokenized and sorted together: enough that sorting leaves little padding, few enough that memory stays flat."""
GROWTH = 4
"""From one chunk to the next: a device that is quicker than the tokenizer is given its first batches soon, and sorting
leaves as little padding as can be."""

REOPENED = frozenset({"bundle", "config", "_tokenizer", "_pair_tokenizer", "_scorer", "_options", "_closed"})
"""Attributes that a copy of a model makes itself, when it is opened."""

Item = TypeVar("Item")


class CrossEncoder(CrossEncoderAttributes):
    """A cross-encoder that scores query-passage pairs; replaces `sentence_transformers.CrossEncoder` for inference.

    `model_name_or_path` is a bundle, a checkpoint directory or a hub id; the last two are exported once into a cache.
    `precision` None is FP32 and never changes scores behind your back, so a bundle that holds none, as one made of an INT8
    ONNX file, needs its precision named; `"auto"` takes the fastest that passed its parity check, or what there is in such
    a bundle; `allow_failed` opens one that did not pass, and silences the warning about one that was never checked.
    `device` is `cpu`, `cuda` or `cuda:1`, `devices` several GPUs; None takes the first GPU that can run the bundle, and
    else the CPU. `rebuild` builds a TensorRT engine for a GPU that the bundle has none for, once, into a cache; it takes
    minutes. `trust_engines` allows the engines that came with the bundle, which are machine code of whoever built them;
    `engine` names the file of the one to take, where a bundle has several. `threads` defaults to the processors this
    process may use.
    `num_labels`, when given, must be the model's. `relevant_label` is the label that `rank` ranks by, its index or its name,
    where a model has several; unless given it is the bundle's. Evaluators of sentence-transformers write their figures to
    `model_card_data`. Several threads may call `predict` and `rank` at once. Use `with`, or `close()`, to free the model.

    A model can be pickled and copied: the copy opens the same bundle again, by its absolute path and with the same options.

    Raises SourceError when the model cannot be found, BundleError when a bundle is damaged, BackendError when no
    backend is installed, OptionError for an option that is not allowed.
    """

    def __init__(
        self,
        model_name_or_path: str | PathLike[str] | None = None,
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
        mapped = compatibility.constructor_options(others)
        if model_name_or_path is None:
            raise OptionError("model_name_or_path is missing: give a bundle, a checkpoint directory or a hub id")
        self.bundle: Bundle = bundle_from_source(
            fspath(model_name_or_path),
            revision=mapped.get("revision") if revision is None else revision,
            token=mapped.get("token") if token is None else token,
            cache_folder=mapped.get("cache_folder") if cache_folder is None else cache_folder,
            local_files_only=local_files_only or mapped.get("local_files_only", False),
        )
        manifest = self.bundle.manifest
        wanted_labels = num_labels if num_labels is not None else mapped.get("num_labels")
        if wanted_labels is not None and whole("num_labels", wanted_labels, least=1) != manifest.labels:
            raise OptionError(
                f"num_labels={wanted_labels}, but the model has {manifest.labels}: another head would have random weights"
            )
        self._relevant_label = manifest.relevant_label
        if relevant_label is not None:
            self._relevant_label = label_number(relevant_label, manifest.label_names, manifest.labels)
        self._pair_tokenizer = self._tokenizer_for(max_length if max_length is not None else mapped.get("max_length"))
        self.activation_fn: Activation = manifest.activation if activation_fn is None else activation_fn
        self.model_card_data = ModelCardData() if model_card_data is None else model_card_data
        if devices is None:
            # device_map comes before device, as in sentence-transformers.
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
        self._closed = False
        self._scorer = self._opened_scorer(mapped.get("dtype") if precision is None else None)
        self._pair_tokenizer = self._fitting(self._pair_tokenizer)
        opened = self.precision.value
        if opened in manifest.models and manifest.models[opened].parity is None and not allow_failed:
            _say_unchecked(self.bundle.path.absolute(), opened)

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
        **others: Any,
    ) -> Any:
        """Score one pair or any iterable of pairs of texts.

        Returns float32 scores, in the order given: `(n,)` for one label, `(n, labels)` for more, one item less for a
        single pair. `convert_to_tensor` gives a torch tensor, `convert_to_numpy=False` a list of them; only then is
        torch imported. `activation_fn` holds for this call alone; `apply_softmax` acts on models with several labels.
        `prompt`, or the one that the model saved as `prompt_name`, is put before each query instead of the model's default
        one; an empty one puts nothing there. `batch_size` bounds the rows computed together and changes no score.
        `processing_kwargs={"text": {"max_length": 256}}` sets `max_length` for this call alone. Raises InputError, naming
        the index, for what is no pair, OptionError for an option that is not allowed, and BackendError where the model
        gives NaN or Inf.
        """
        others = compatibility.renamed(others, {"inputs": inputs, "activation_fn": activation_fn})
        inputs = others.pop("inputs", inputs)
        activation_fn = others.pop("activation_fn", activation_fn)
        compatibility.refuse({"pool": pool, **others})
        self.check_device(device)
        if inputs is None:
            raise InputError("expected pairs of texts, got None; pass [(query, passage), ...]")
        single = is_single(inputs)
        pairs: Iterable[tuple[str, str]] = [checked_pair(inputs, 0)] if single else checked_pairs(inputs)
        total = len(inputs) if not single and isinstance(inputs, Sequence) else None
        logits = self.logits(
            pairs,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            total=total,
            max_length=compatibility.per_call_max_length(processing_kwargs),
            prompt=self._prompt(prompt, prompt_name),
        )
        scores = self._scores(logits, activation_fn, softmaxed=bool(apply_softmax))
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
        **others: Any,
    ) -> list[dict[str, Any]]:
        """Rank passages for one query, best first; equal scores keep the order given.

        Returns dictionaries with `corpus_id` (index into `documents`), `score` (float) and, with `return_documents`,
        `text`. Instead of `documents`, `passage_ids` names passages of the store `passages`, which are not tokenized
        again; `corpus_id` is then an index into them, and `passage_id` the id. A model with several labels ranks by the
        margin between its relevant logit and the others, which orders as `softmax` does but does not saturate; see
        `relevance`. `apply_softmax` gives that softmax, of models with several labels. `prompt` and `prompt_name` are as
        in `predict`.

        Raises InputError, naming the index, for what is no text, StoreError for an id that the store lacks or a store of
        another tokenizer, OptionError for a model with more than two labels of which none was chosen, and BackendError
        where the model gives NaN or Inf.
        """
        others = compatibility.renamed(others, {"activation_fn": activation_fn})
        activation_fn = others.pop("activation_fn", activation_fn)
        for ignored in ("convert_to_numpy", "convert_to_tensor"):  # as sentence-transformers 6 does
            others.pop(ignored, None)
        compatibility.refuse({"pool": pool, **others})
        self.check_device(device)
        if top_k is not None:
            top_k = whole("top_k", top_k, least=0, hint=", or None for all")
        check_text(query, "the query")
        self._need_label()  # before anything is computed
        prompt = self._prompt(prompt, prompt_name)
        texts: list[str] = []
        if passage_ids is not None or passages is not None:
            if passage_ids is None or passages is None or documents is not None or return_documents:
                raise OptionError(
                    "passage_ids and passages go together, in place of documents, and return no texts: a store holds none"
                )
            passage_ids = passage_ids if isinstance(passage_ids, str) else list(passage_ids)
            logits = self.logits_from(passages, query, passage_ids, batch_size=batch_size, prompt=prompt)
        else:
            if isinstance(documents, (str, bytes)) or not isinstance(documents, Iterable):
                raise InputError("documents is one text; pass a list of passages")
            texts = list(documents)
            for index, document in enumerate(texts):
                check_text(document, f"passage {index}")
            logits = self.logits(
                ((query, document) for document in texts),
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                total=len(texts),
                prompt=prompt,
            )
        scores = self.relevance(logits, activation_fn, apply_softmax=bool(apply_softmax))
        best = np.argsort(-scores, kind="stable")[:top_k]
        results: list[dict[str, Any]] = []
        for index in best.tolist():
            result: dict[str, Any] = {"corpus_id": index, "score": float(scores[index])}
            if passage_ids is not None:
                result["passage_id"] = passage_ids[index]
            if return_documents:
                result["text"] = texts[index]
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
    ) -> Floats:
        """Return the raw logits of pairs of texts, float32 [n, labels], before any activation, NaN where the model gives that.

        `max_length` holds for this call alone. `prompt` None is the model's default one, if it has one.
        """
        batch_size = whole("batch_size", batch_size, least=1)
        tokenizer = self._pair_tokenizer if max_length is None else self._fitting(self._tokenizer_for(max_length))
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        chunks = _chunks(pairs, self._scorer.first_chunk)
        encode = tokenizer.encode if prompt is None else partial(tokenizer.encode, prompt=prompt)
        if not show_progress_bar:  # a bar that is not shown takes a tenth of the time of a single pair
            return self._chunked_logits(chunks, encode, batch_size)
        with tqdm(total=total, desc="Scoring", unit="pair") as bar:
            return self._chunked_logits(chunks, encode, batch_size, bar.update)

    def encode(
        self, pairs: Iterable[tuple[str, str]], *, prompt: str | None = None, max_length: int | None = None
    ) -> EncodedPairs:
        """Tokenize pairs of texts as `predict` does, all at once. `max_length` and `prompt` are as in `logits`.

        Raises InputError, naming the index, for what is no pair. Several threads may call at once.
        """
        tokenizer = self._pair_tokenizer if max_length is None else self._fitting(self._tokenizer_for(max_length))
        return tokenizer.encode(list(checked_pairs(pairs)), prompt=prompt)

    def submit(self, pairs: EncodedPairs, *, batch_size: int = 32) -> Pending:
        """Start to score encoded pairs, and return without waiting. `Pending.wait` gives their raw logits.

        The logits are float32 [n, labels], in the order of the pairs. Several threads may submit at once. Raises ShapeError
        for a pair longer than the model takes, and BackendError once the model is closed.
        """
        return self._scorer.submit(pairs, batch_size=whole("batch_size", batch_size, least=1))

    def run(self, batch: Batch) -> Floats:
        """Score one padded batch exactly as it is given, on all processors, and return raw logits, float32 [rows, labels].

        `submit` chooses batches and padding itself, and is faster. This is for whoever compares runtimes on the same
        arrays. Raises ShapeError for a batch longer than the model takes.
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
    ) -> Floats:
        """Return the raw logits of one query with prepared passages, float32 [n, labels], as `logits` of their texts."""
        batch_size = whole("batch_size", batch_size, least=1)
        check_text(query, "the query")
        if isinstance(passage_ids, (str, bytes)) or not all(isinstance(name, str) for name in passage_ids):
            raise InputError("passage_ids is a list of texts, the ids of the store's passages")
        passages.check(
            self.bundle.tokenizer_sha256,
            max_length=self.max_length,
            truncation_side=self.bundle.manifest.truncation_side,
        )
        encode = partial(self._pair_tokenizer.encode_from, passages, query, prompt=prompt)
        return self._chunked_logits(_chunks(passage_ids, self._scorer.first_chunk), encode, batch_size)

    def relevance(
        self, logits: Floats, activation_fn: Activation | None = None, *, apply_softmax: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return one score per pair, float32 [n], from logits [n, labels]: of one label the activation of its logit.

        Of several it is the margin, the relevant logit less the logsumexp of the others (of two labels `relevant -
        other`), whose sigmoid is the softmax of the relevant label; the model's own activation is not applied to it, and
        `activation_fn` is. A softmax instead, as activation or by `apply_softmax`, is taken over each pair's labels, as
        `predict` does it. Raises OptionError for more than two labels of which none was chosen.
        """
        if self.num_labels == 1:
            return self._scores(logits, activation_fn, softmaxed=False).reshape(len(logits))
        self.check_finite(logits)
        label = self._need_label()
        if apply_softmax or (activation_fn is not None and is_softmax(activation_fn)):
            return self._scores(logits, activation_fn, softmaxed=apply_softmax)[:, label]
        relevant = margin(logits, label)
        return apply(activation_fn, relevant) if activation_fn is not None else relevant

    def check_finite(self, logits: Floats) -> None:
        """Raise BackendError, naming model and pair, for logits that are NaN or Inf: nothing can be ranked by them."""
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
        """Return the prompt that a call asks for; None where it asks for none, so that the model's default one holds."""
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

    def _chunked_logits(
        self,
        chunks: Iterable[tuple[list[Item], bool]],
        encode: Callable[[list[Item]], EncodedPairs],
        batch_size: int,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> Floats:
        # A chunk is tokenized while the one before it is computed.
        logits: list[Floats] = []
        pending: Pending | None = None
        try:
            for chunk, last in chunks:
                tokens = encode(chunk)
                started = self._scorer.submit(tokens, batch_size=batch_size, inline=last and pending is None)
                before, pending = pending, started
                if before is not None:
                    logits.append(before.wait(progress))
            if pending is not None:
                logits.append(pending.wait(progress))
        except BaseException:
            if pending is not None:
                pending.cancel()
            raise
        return np.concatenate(logits) if logits else np.zeros((0, self.num_labels), dtype=np.float32)

    def _scores(self, logits: Floats, activation_fn: Activation | None, *, softmaxed: bool) -> Floats:
        self.check_finite(logits)
        scores = apply(self.activation_fn if activation_fn is None else activation_fn, logits)
        if self.num_labels == 1:
            return scores.reshape(-1)
        return softmax(scores) if softmaxed else scores

    # -- what it is

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, as the checkpoint has them; empty where it names none."""
        return self.bundle.manifest.label_names

    @property
    def relevant_label(self) -> int | None:
        """The label that `rank` ranks by; None for more than two of which none was chosen."""
        return self._relevant_label

    @property
    def max_length(self) -> int:
        """Longest pair in tokens; longer ones are truncated, the longer side first. May be set.

        Never more than the engine on a GPU takes; a warning says so.
        """
        return self._pair_tokenizer.max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self._pair_tokenizer = self._fitting(self._tokenizer_for(value))

    max_seq_length = max_length

    @property
    def backend(self) -> str:
        """The runtime that computes."""
        return self._scorer.config.backend

    @property
    def threads(self) -> int:
        """Threads that compute, in all."""
        return self._scorer.config.threads

    @property
    def model(self) -> TokenModel:
        """The model that takes a tokenizer's tensors and gives logits. It is this one's, and closed with it."""
        return TokenModel(self)

    def _tokenizer_for(self, max_length: int | None) -> PairTokenizer:
        manifest = self.bundle.manifest
        if max_length is not None and whole("max_length", max_length, least=1) > manifest.max_positions:
            raise OptionError(
                f"max_length={max_length}, but the model has positions for {manifest.max_positions} tokens; "
                f"give at most that"
            )
        tokenizer = self.bundle.pair_tokenizer(max_length=max_length)
        for what, largest, count in (
            ("token id", tokenizer.largest_id, manifest.vocab_size),
            ("token type", tokenizer.largest_type, manifest.token_types),
        ):
            # A model without token types is not given those that its tokenizer has.
            if count and largest >= count:
                raise BundleError(
                    f"{self.bundle.tokenizer_file} has the {what} {largest}, and the model has {count}: they do not belong "
                    "together; export the bundle again"
                )
        return tokenizer

    def _fitting(self, tokenizer: PairTokenizer) -> PairTokenizer:
        """Return the tokenizer, or where the engine takes fewer tokens one that truncates to them."""
        longest = self._scorer.longest
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
        return self._fitting(self._tokenizer_for(longest))

    def __repr__(self) -> str:
        return f"CrossEncoder({str(self.bundle.path)!r}, {self.precision.value}, {self.backend}, {self.device})"

    # -- lifetime

    def _opened_scorer(self, dtype: str | None) -> Scorer:
        """Open the model; a `dtype` that cannot be had here is replaced by FP32, which errs by less, with a warning."""
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
        compatibility.warn_once(
            f"the dtype asks for {dtype}, which cannot be had here, so the model runs in fp32: {why}"
        )
        return scorer

    def close(self) -> None:
        """Free the model. May be called again; scoring afterwards raises BackendError."""
        self._closed = True
        self._scorer.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._closed:
            raise BackendError("this model is closed, so it cannot be pickled or copied; open the bundle again")
        options = {**self._options, "max_length": self.max_length}
        state = {name: value for name, value in vars(self).items() if name not in REOPENED}
        return _reopened, (type(self), str(self.bundle.path.absolute()), options), state

    def __enter__(self) -> "CrossEncoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _reopened(kind: type[CrossEncoder], path: str, options: dict[str, Any]) -> CrossEncoder:
    """Open a copy of a pickled model, whose class may have a constructor of its own."""
    model = kind.__new__(kind)
    CrossEncoder.__init__(model, path, **options)
    return model


@cache
def _say_unchecked(path: Path, precision: str) -> None:
    """Warn of a model whose scores nobody has compared with PyTorch's: once, as the result is remembered."""
    logger.warning(
        "the scores of the %s model of %s were never compared with PyTorch's; where its PyTorch "
        "weights are, do so with: crossrt parity %s --against CHECKPOINT --precision %s",
        precision,
        path,
        path,
        precision,
    )


def _chunks(items: Iterable[Item], first: int) -> Iterator[tuple[list[Item], bool]]:
    """Yield chunks, of `first` items and then more, each with whether it is the last."""
    items, size, nothing = iter(items), min(first, CHUNK), object()
    ahead: Any = next(items, nothing)
    while ahead is not nothing:
        chunk = [ahead, *islice(items, size - 1)]
        ahead = next(items, nothing)
        yield chunk, ahead is nothing
        size = min(size * GROWTH, CHUNK)
