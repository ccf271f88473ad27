"""Documents as rows of tokens: whole documents side by side, none cut in two."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast


def batch(
    stream: Iterator[str], tokenizer: PreTrainedTokenizerFast, *, rows: int, length: int
) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
    """The next documents as tokens, and which of them are learnt.

    First fit: each document goes into the first row with room; ten misfits end the batch, and rows
    end in padding. Begin tokens and padding are not learnt.
    """
    tokens = torch.full((rows, length), tokenizer.pad_token_id)
    learnt = torch.zeros(rows, length, dtype=torch.bool)
    used = [0] * rows
    misfits = 0
    while misfits < 10:
        piece = [tokenizer.bos_token_id, *tokenizer(next(stream))["input_ids"]]
        row = next((row for row in range(rows) if used[row] + len(piece) <= length), None)
        if row is None:
            misfits += 1
            continue
        start, end = used[row], used[row] + len(piece)
        tokens[row, start:end] = torch.tensor(piece)
        learnt[row, start + 1 : end] = True
        used[row] = end
    return tokens, learnt
