"""Documents as rows of tokens: whole documents side by side, none cut in two."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rlhf_forge.toy_world.corpus import Document

Piece = tuple[list[int], list[float]]


def batch(
    stream: Iterator[Document], tokenizer: PreTrainedTokenizerFast, *, rows: int, length: int
) -> tuple[Tensor, Tensor]:
    """The next documents as tokens and weights [rows, length].

    First fit: each document goes into the first row with room; ten misfits end the batch, and rows
    end in padding. A weight is that of the token at its own place, not of the next one; 0 is not
    learnt.
    """
    tokens = torch.full((rows, length), tokenizer.pad_token_id)
    weights = torch.zeros(rows, length)
    used = [0] * rows
    misfits = 0
    while misfits < 10:
        piece_tokens, piece_weights = encode(next(stream), tokenizer)
        size = len(piece_tokens)
        row = next((row for row in range(rows) if used[row] + size <= length), None)
        if row is None:
            misfits += 1
            continue
        place = slice(used[row], used[row] + size)
        tokens[row, place] = torch.tensor(piece_tokens)
        weights[row, place] = torch.tensor(piece_weights)
        used[row] += size
    return tokens, weights


def encode(document: Document, tokenizer: PreTrainedTokenizerFast) -> Piece:
    """Tokens of a document and their weights, the begin token in front, which is never learnt."""
    tokens, weights = [tokenizer.bos_token_id], [0.0]
    for text, weight in document:
        ids = tokenizer(text)["input_ids"]
        tokens += ids
        weights += [weight] * len(ids)
    return tokens, weights
