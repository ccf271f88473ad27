"""What a forward keeps for its backward, in bytes, counted tensor by tensor.

d is the width, q and k the widths of all query and all key heads, f the gated layer's, H the number
of query heads, r the adapters' rank, e the bytes of a number.
"""

from dataclasses import dataclass

from rlhf_forge.backbone.backbone import LOGITS_PER_CHUNK
from rlhf_forge.planning.micro_batch import MicroBatch
from rlhf_forge.planning.shape import Shape

FLOAT32 = 4
# Rows of logits are held so often at once: the logits, their exponentials, the product of both.
LOGIT_COPIES = 3


@dataclass(frozen=True)
class Decoder:
    """How the layers are computed.

    Attributes:
        shape: Of the base.
        rank: Of the adapters.
        size: Bytes of a number that is computed with: 4 in fp32, else 2.
        packs: Whether rows are packed and layers have a backward of their own; the stock decoder
            keeps more.
        recomputes: Whether layers are computed once more in the backward: then each keeps its input
            alone.
        fused: Whether attention keeps no weights, and computes them again: on a GPU.
    """

    shape: Shape
    rank: int
    size: int
    packs: bool
    recomputes: bool
    fused: bool


def attention_kept(decoder: Decoder, part: MicroBatch) -> int:
    """Of one layer up to attention: packed 2 d + q + 3 r a token, 2 k a key, and the weights.

    A row that goes on from a prefix keeps the prefix's keys and values beside its own. The weights,
    H x rows x queries x keys, are kept on a CPU; a GPU's fused attention computes them again with
    the help of a number a token and head.
    """
    shape = decoder.shape
    numbers = 2 * shape.width + shape.queries + 3 * decoder.rank
    keys_and_values = 2 * shape.keys * decoder.size * part.keys
    if decoder.packs:
        weights = 0 if decoder.fused else decoder.size * shape.heads * part.squares
        normalisers = 1 + (shape.heads if decoder.fused else 0)
        each = decoder.size * numbers + FLOAT32 * normalisers
        return part.tokens * each + keys_and_values + weights
    # The norm keeps a float32 copy of its input, attention its output beside what goes on.
    norm = FLOAT32 * shape.width if decoder.size < FLOAT32 else 0
    # The plain softmax is in float32, and cast.
    weights = 0 if decoder.fused else (FLOAT32 + decoder.size) * shape.heads * part.squares
    each = decoder.size * (numbers + shape.queries) + norm
    return part.tokens * each + keys_and_values + weights


def mlp_kept(decoder: Decoder, part: MicroBatch, tokens: int) -> int:
    """Of one layer behind attention, for ``tokens``: packed 2 d + q + 3 f + 4 r.

    The stock activation keeps its own result too: 4 f.
    """
    shape = decoder.shape
    gated = (3 if decoder.packs else 4) * shape.inner
    numbers = 2 * shape.width + shape.queries + gated + 4 * decoder.rank
    norm = FLOAT32 * (1 if decoder.packs else shape.width * (decoder.size < FLOAT32))
    return tokens * (decoder.size * numbers + norm)


def adapters_kept(decoder: Decoder) -> int:
    """Of one packed layer, whatever the tokens: A of each adapter, scaled, and B if it was cast."""
    if not decoder.packs:
        return 0
    downs = decoder.rank * sum(inner for inner, _ in decoder.shape.linears)
    ups = decoder.rank * sum(outer for _, outer in decoder.shape.linears)
    return decoder.size * (downs + ups * (decoder.size < FLOAT32))


def backward_extra(decoder: Decoder, part: MicroBatch, tokens: int) -> int:
    """What the backward of one layer needs beside what is kept: 3 f + 2 d a token, at its widest.

    The stock activation's backward has an intermediate more: 4 f. Attention's gradients of the
    weights and of the logits, of one block at a time, come when the gated part, 3 f, is free again:
    they are more only where rows are long.
    """
    shape = decoder.shape
    gated = tokens * ((3 if decoder.packs else 4) * shape.inner + 2 * shape.width)
    if decoder.fused:
        return decoder.size * gated
    attention = 2 * shape.heads * part.largest - 3 * shape.inner * tokens
    return decoder.size * max(gated, attention)


def activations(decoder: Decoder, part: MicroBatch) -> int:
    """Most bytes that a micro-batch's forward and backward hold at once, logits aside.

    Behind the last attention of the packed decoder only the wanted tokens go on. So the peak is at
    the start of the backward, or one layer later, where all tokens meet the backward's own tensors.
    """
    last = part.wanted if decoder.packs else part.tokens
    below = attention_kept(decoder, part) + adapters_kept(decoder)
    layer = below + mlp_kept(decoder, part, part.tokens)
    top = below + mlp_kept(decoder, part, last)
    # The final norm's input and output, and where each log-probability pulls.
    ends = 3 * decoder.size * decoder.shape.width * part.wanted
    layers = decoder.shape.layers
    if decoder.recomputes:
        inputs = layers * decoder.size * decoder.shape.width * part.tokens
        return inputs + ends + layer + backward_extra(decoder, part, part.tokens)
    first = (layers - 1) * layer + top + ends + backward_extra(decoder, part, last)
    second = (layers - 1) * layer + backward_extra(decoder, part, part.tokens)
    return max(first, second)


def logits(decoder: Decoder, part: MicroBatch) -> int:
    """Of the rows of logits that are held at once, float32; none where only scores are read."""
    if part.wanted == 0:
        return 0
    rows = min(part.wanted, max(1, LOGITS_PER_CHUNK // decoder.shape.vocab))
    return LOGIT_COPIES * FLOAT32 * rows * decoder.shape.vocab


def unpacked(decoder: Decoder) -> int:
    """A 4-bit base's weights that are unpacked at once: the widest product's, on a CPU twice."""
    widest = max(2 * decoder.shape.inner, decoder.shape.queries + 2 * decoder.shape.keys)
    return (1 if decoder.fused else 2) * decoder.size * widest * decoder.shape.width
