"""Documents as rows of tokens: whole documents side by side, none cut in two."""

import random
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rlhf_forge.toy_world.corpus import Document, documents

NOT_LEARNT = -100

Piece = tuple[list[int], list[int]]


def batches(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, start: int, rows: int, length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (tokens, labels) [rows, length] without end, from batch number ``start`` on.

    Batch n is a function of (seed, n). Labels are the tokens themselves, not shifted; what is not
    learnt holds ``NOT_LEARNT``. Rows end in padding where no further document fitted.
    """
    number = start
    while True:
        stream = documents(random.Random(f"{seed}/{number}"))
        yield _batch(stream, tokenizer, rows=rows, length=length)
        number += 1


def encode(document: Document, tokenizer: PreTrainedTokenizerFast) -> Piece:
    """Tokens and labels of a document, the begin token in front, which is never learnt."""
    tokens, labels = [tokenizer.bos_token_id], [NOT_LEARNT]
    for text, learnt in document:
        ids = tokenizer(text)["input_ids"]
        tokens += ids
        labels += ids if learnt else [NOT_LEARNT] * len(ids)
    return tokens, labels


def _batch(
    stream: Iterator[Document], tokenizer: PreTrainedTokenizerFast, *, rows: int, length: int
) -> tuple[Tensor, Tensor]:
    """First fit: each document goes into the first row with room; ten misfits end the batch."""
    tokens = torch.full((rows, length), tokenizer.pad_token_id)
    labels = torch.full((rows, length), NOT_LEARNT)
    used = [0] * rows
    misfits = 0
    while misfits < 10:
        piece_tokens, piece_labels = encode(next(stream), tokenizer)
        size = len(piece_tokens)
        row = next((row for row in range(rows) if used[row] + size <= length), None)
        if row is None:
            misfits += 1
            continue
        place = slice(used[row], used[row] + size)
        tokens[row, place] = torch.tensor(piece_tokens)
        labels[row, place] = torch.tensor(piece_labels)
        used[row] += size
    return tokens, labels
