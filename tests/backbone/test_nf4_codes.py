"""The permutations that unpack 4-bit codes, run by a small interpreter of their instructions."""

import re
from collections.abc import Callable

import pytest
import torch

from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes
from rlhf_forge.backbone.nf4_codes import NF4, UNPACK


def permuted(first: int, second: int, selector: int) -> int:
    """What prmt.b32 does: each of four nibbles picks a byte of eight; more than 7 is not used."""
    eight = (first | second << 32).to_bytes(8, "little")
    nibbles = [selector >> 4 * place & 15 for place in range(4)]
    assert max(nibbles) < 8
    return int.from_bytes(bytes(eight[nibble] for nibble in nibbles), "little")


OPERATIONS: dict[str, Callable[..., int]] = {
    "and.b32": lambda one, other: one & other,
    "or.b32": lambda one, other: one | other,
    "shr.u32": lambda one, other: one >> other,
    "prmt.b32": permuted,
}


def unpacked(word: int) -> list[float]:
    """Weights of four bytes, those of the upper halves first."""
    registers = {"$4": word}
    for line in UNPACK.splitlines():
        found = re.fullmatch(r"(\S+) (\S+), (.+);", line)
        if found is None or found[1] == ".reg":
            continue
        values = [registers[n] if n in registers else int(n, 0) for n in found[3].split(", ")]
        registers[found[2]] = OPERATIONS[found[1]](*values)
    halves = [registers[f"${place}"] >> shift & 0xFFFF for place in range(4) for shift in (0, 16)]
    return torch.tensor(halves, dtype=torch.uint16).view(torch.bfloat16).tolist()


@pytest.mark.parametrize("place", range(4))
def test_every_byte_becomes_its_two_weights(place: int) -> None:
    values = torch.tensor(NF4).bfloat16().tolist()
    for byte in range(256):
        other = (byte * 7 + 3) % 256
        word = int.from_bytes(bytes(byte if at == place else other for at in range(4)), "little")
        found = unpacked(word)
        assert (found[place], found[4 + place]) == (values[byte >> 4], values[byte & 15])
        beside = (place + 1) % 4
        assert (found[beside], found[4 + beside]) == (values[other >> 4], values[other & 15])


def test_the_codes_mean_what_bitsandbytes_means_by_them() -> None:
    stock = import_bitsandbytes().functional.get_4bit_type("nf4", device="cpu")
    assert stock.tolist() == pytest.approx(NF4, abs=0)


def test_bitsandbytes_packs_the_first_of_two_weights_into_the_upper_half_of_a_byte() -> None:
    functional = import_bitsandbytes().functional
    weights = torch.tensor([NF4[3], NF4[12]] * 32)
    packed, _ = functional.quantize_4bit(weights, quant_type="nf4", blocksize=64)
    # Scaled by the largest of its block, so the codes are not 3 and 12 but their scaled neighbours.
    scaled = weights / weights.abs().max()
    nearest = [min(range(16), key=lambda code: abs(NF4[code] - w)) for w in scaled[:2].tolist()]
    assert packed.flatten()[0].item() == nearest[0] << 4 | nearest[1]
