"""How two 4-bit codes become two bf16 numbers in a GPU's registers: by permutations of bytes.

A table in memory would be read once for every weight. Sixteen bf16 numbers are 32 bytes, eight
registers, and one instruction picks any four bytes of two registers.
"""

import torch

# More rows than this are faster with the weight unpacked.
MOST_ROWS = 128
# The 4-bit codes' values (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, appendix E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


def _words(numbers: list[int]) -> list[str]:
    """Sixteen bytes as the four registers that a permutation picks from."""
    return [f"{int.from_bytes(numbers[at : at + 4], 'little'):#x}" for at in range(0, 16, 4)]


def _looked_up(source: str, even: str, odd: str) -> str:
    """PTX that turns the four codes in the low half of ``source`` into two pairs of bf16."""
    values = torch.tensor(NF4).bfloat16().view(torch.int16).tolist()
    lines = [
        f"and.b32 low, {source}, 0x7777;",  # which of eight, for each code
        f"and.b32 high, {source}, 0x8888;",  # whether of the second eight
        "shr.u32 high, high, 1;",
        "or.b32 high, high, 0x3210;",
    ]
    for name, shift in (("tails", 0), ("heads", 8)):
        first, second, third, fourth = _words([value >> shift & 255 for value in values])
        lines += [
            f"prmt.b32 one, {first}, {second}, low;",
            f"prmt.b32 other, {third}, {fourth}, low;",
            f"prmt.b32 {name}, one, other, high;",
        ]
    # The first of two weights is in a byte's upper half.
    lines += [
        f"prmt.b32 {even}, tails, heads, 0x7351;",
        f"prmt.b32 {odd}, tails, heads, 0x6240;",
    ]
    return "\n".join(lines)


# PTX: of four bytes, $4, the weights in their upper halves, $0 and $1, and lower ones, $2 and $3.
UNPACK = "\n".join(
    [
        "{",
        ".reg .b32 low, high, one, other, tails, heads, rest;",
        _looked_up("$4", "$0", "$2"),
        "shr.u32 rest, $4, 16;",
        _looked_up("rest", "$1", "$3"),
        "}",
    ]
)
