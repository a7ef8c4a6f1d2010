"""The demo's tokenizer and model, with the model's initial weights."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg
import torch
import transformers
from demo_data import Package
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.processors import TemplateProcessing

VOCABULARY = 8000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, CLS, SEP = (SPECIAL.index(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
POSITIONS = 160  # longest pair: training pairs are no longer, and positions beyond would stay random
HIDDEN, HEADS = 128, 4
RARITY, SIDE, IS_SPECIAL = 0, 1, 2  # dimensions of the embeddings with an initial meaning
FLAGS = [31, 63, 95, 127]
MEANING = [*range(3, 31), *range(32, 63)]
CODE = [*range(64, 95), *range(96, 127)]
WINDOW = 8  # tokens

Pair = tuple[list[int], list[int]]


def make_tokenizer(training: Sequence[Package]) -> Tokenizer:
    """Train a lower-casing WordPiece vocabulary on the training texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    texts = [text for package in training for text in (package.synopsis, package.description)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), limit_alphabet=400, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def encoded(tokenizer: Tokenizer, packages: Sequence[Package]) -> list[Pair]:
    """Return the token ids of each package's synopsis and description, without special tokens."""
    synopses = tokenizer.encode_batch([package.synopsis for package in packages], add_special_tokens=False)
    texts = tokenizer.encode_batch([package.description for package in packages], add_special_tokens=False)
    return [(synopsis.ids, text.ids) for synopsis, text in zip(synopses, texts, strict=True)]


def rarity(vocabulary: int, texts: Sequence[Pair]) -> torch.Tensor:
    """Return each token's standardised inverse document frequency in the passages."""
    counts = Counter(token for _, passage in texts for token in set(passage))
    documents = torch.tensor([counts[token] for token in range(vocabulary)], dtype=torch.float32)
    idf = torch.log(len(texts) / (1 + documents))
    return (idf - idf.mean()) / idf.std()


def word_vectors(vocabulary: int, texts: Iterable[Sequence[int]], size: int) -> npt.NDArray[np.float32]:
    """Return a unit vector for each token, from the truncated SVD of positive pointwise mutual information.

    After Levy and Goldberg 2014 (Neural Word Embedding as Implicit Matrix Factorization), with context counts smoothed by the
    power 0.75. A token's context is the eight tokens on either side, weighted by 1 / distance. Synopses and descriptions are
    separate texts. Counted together, they would reveal which synopsis belongs to which description.
    """
    rows, columns, weights = [], [], []
    for text in texts:
        tokens = np.array(text)
        for distance in range(1, min(WINDOW, len(tokens) - 1) + 1):
            rows.append(tokens[:-distance])
            columns.append(tokens[distance:])
            weights.append(np.full(len(tokens) - distance, 1 / distance))
    row, column, weight = (np.concatenate(parts) for parts in (rows, columns, weights))
    counts = scipy.sparse.coo_matrix((weight, (row, column)), shape=(vocabulary, vocabulary))
    counts = (counts + counts.T).tocoo()  # the sum also merges what was counted more than once
    total = np.bincount(counts.row, counts.data, minlength=vocabulary)
    context = total**0.75 / (total**0.75).sum()
    information = np.log(counts.data / (total[counts.row] * context[counts.col]))
    positive = information > 0
    matrix = scipy.sparse.csr_matrix(
        (information[positive], (counts.row[positive], counts.col[positive])), shape=(vocabulary, vocabulary)
    )
    left, values, _ = scipy.sparse.linalg.svds(matrix, k=size, random_state=0)
    vectors = left * np.sqrt(values)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9), dtype=np.float32)


def make_model(idf: torch.Tensor, vectors: torch.Tensor) -> Any:
    """Return a BERT with 2 layers x 128, whose initial weights search for the query's words in the passage.

    From random weights, learning that words must match takes far more data than there is here. So the model begins with that, and
    learns the rest. A token's embedding holds its `rarity`, the text it is in, whether it is a special token, a random code (its
    identity) and its word vector (its meaning). In the first layer two heads compare codes and two compare meanings, always with
    the other text. A token that finds no match attends to a special token, and this raises a flag. In the last layer two heads of
    [CLS] look at the flags of the query's rarest words. The other values and outputs begin as near-identities, after the mimetic
    initialisation of Trockman and Kolter 2023 (arXiv:2305.09828).
    """
    config = transformers.BertConfig(
        vocab_size=len(idf),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=POSITIONS,
        num_labels=1,
        hidden_dropout_prob=0.0,  # a small model and few epochs need little regularisation
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        words = torch.zeros(len(idf), HIDDEN)
        words[:, RARITY] = 2 * idf
        words[:, CODE] = 7 * torch.nn.functional.normalize(torch.randn(len(idf), len(CODE)))
        words[:, MEANING] = 7 * vectors
        words[[PAD, CLS, SEP]] = 0
        words[[CLS, SEP], IS_SPECIAL] = 8
        model.bert.embeddings.word_embeddings.weight.copy_(words)
        sides = torch.zeros(2, HIDDEN)
        sides[:, SIDE] = torch.tensor([4.0, -4.0])
        model.bert.embeddings.token_type_embeddings.weight.copy_(sides)
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            basis = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN)).Q * 1.5
            attention.query.weight.copy_(basis)
            attention.key.weight.copy_(basis)
            attention.value.weight.copy_(torch.eye(HIDDEN) * 0.5 + torch.randn(HIDDEN, HIDDEN) * 0.03)
            layer.attention.output.dense.weight.copy_(torch.eye(HIDDEN) * 0.5 + torch.randn(HIDDEN, HIDDEN) * 0.03)
        first, last = model.bert.encoder.layer
        match_words(first.attention)
        read_flags(last.attention.self)
    return model


def match_words(attention: Any) -> None:
    """Make the heads of a layer compare tokens with those of the other text, and flag tokens without a match."""
    size = HIDDEN // HEADS
    query, key = torch.randn(2, HIDDEN, HIDDEN) * 0.02
    for head, compared in enumerate((CODE[:30], CODE[31:61], MEANING[:28], MEANING[28:58])):
        start = head * size
        for row, dimension in enumerate(compared, start=start):
            query[row, dimension] = key[row, dimension] = 1.6
        query[start + size - 2, SIDE], key[start + size - 2, SIDE] = 1.5, -1.5
        key[start + size - 1, IS_SPECIAL] = attention.self.query.bias[start + size - 1] = 2
    attention.self.query.weight.copy_(query)
    attention.self.key.weight.copy_(key)
    attention.self.value.weight[FLAGS] = 0
    attention.self.value.weight[FLAGS, IS_SPECIAL] = 1
    attention.output.dense.weight[FLAGS] = 0
    attention.output.dense.weight[FLAGS, FLAGS] = 1


def read_flags(attention: Any) -> None:
    """Make two heads of [CLS] attend to the query's rare words, and pass on their flags."""
    size = HIDDEN // HEADS
    for start, sharpness in ((0, 1.4), (size, 2.8)):
        rare, side = start + size - 2, start + size - 1
        for projection in (attention.query, attention.key):
            projection.weight[start : start + size] *= 0.3
            projection.weight[[rare, side]] = 0
        attention.key.weight[rare, RARITY] = attention.key.weight[side, SIDE] = 2
        attention.query.bias[rare], attention.query.bias[side] = sharpness, 2
        rows = list(range(start, start + len(FLAGS)))
        attention.value.weight[rows] = 0
        attention.value.weight[rows, FLAGS] = 1


def layer_output(layer: Any, wanted: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return a BERT layer's output for the states `wanted`, which attend to all of `hidden`."""
    attention = layer.attention.self

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(2, (attention.num_attention_heads, -1)).transpose(1, 2)

    query, key, value = (
        heads(projection(states))
        for projection, states in ((attention.query, wanted), (attention.key, hidden), (attention.value, hidden))
    )
    context = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), wanted)
    output: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return output


def logits_of(model: Any, pairs: Sequence[Pair], limit: int) -> torch.Tensor:
    """Return the logit of each pair, cut to `limit` tokens.

    This equals the model's own forward pass, but the last layer computes only [CLS]. The rest is never read, and is two fifths of
    the work. `check_forward` compares the two.
    """
    ids, types, mask = padded(pairs, limit)
    hidden = model.bert.embeddings(input_ids=ids, token_type_ids=types)
    first, last = model.bert.encoder.layer
    hidden = layer_output(first, hidden, hidden, mask)
    hidden = layer_output(last, hidden[:, :1], hidden, mask)
    logits: torch.Tensor = model.classifier(model.bert.pooler(hidden))[:, 0]
    return logits


def padded(pairs: Sequence[Pair], limit: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, token types and mask of [CLS] query [SEP] passage [SEP]. The longer of the two texts is cut."""
    rows = []
    for query, passage in pairs:
        short = query[: max(limit - 3 - len(passage), (limit - 3) // 2)]
        rows.append(([CLS, *short, SEP], [*passage[: limit - 3 - len(short)], SEP]))
    width = max(len(left) + len(right) for left, right in rows)
    ids = np.full((len(rows), width), PAD)
    types = np.zeros((len(rows), width), dtype=np.int64)
    for row, (left, right) in enumerate(rows):
        ids[row, : len(left) + len(right)] = left + right
        types[row, len(left) : len(left) + len(right)] = 1
    return torch.from_numpy(ids), torch.from_numpy(types), torch.from_numpy(ids != PAD)
