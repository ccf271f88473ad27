"""What gpu.py measures on: Mistral-7B's shapes with random weights, and what the machine can do.

Speed and memory depend on shapes, not on values. Of the base never more than one layer's weight is
there in bf16: each is drawn, quantised to NF4 with double quantisation, and dropped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from rlhf_forge.backbone.adapted_linear import adaptable
from rlhf_forge.backbone.attention import attention_for
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes
from rlhf_forge.backbone.config import LoraSpec
from rlhf_forge.backbone.loading import freeze

SPREAD = 0.02
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A Mistral's."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    @property
    def kv_bytes(self) -> int:
        """Of one token's keys and values, bf16."""
        return 2 * 2 * self.layers * self.kv_heads * (self.width // self.heads)

    @property
    def linear_weights(self) -> int:
        """In the layers that are held in 4 bit."""
        kv = self.kv_heads * (self.width // self.heads)
        attention = 2 * self.width * (self.width + kv)
        return self.layers * (attention + 3 * self.width * self.ffn)


MISTRAL_7B = Shape(4096, 32, 32, 8, 14336, 32768)
TOY = Shape(64, 2, 4, 2, 128, 4096)


def random_base(shape: Shape, device: torch.device) -> PreTrainedModel:
    """A frozen base of ``shape`` in NF4, as `load_base` gives one of a real checkpoint on a GPU.

    Its attention is that of a GPU on a CPU too: what runs there as a toy is what a GPU will run.
    """
    config = MistralConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.width // shape.heads,
        max_position_embeddings=32768,
        rope_theta=1e6,
        sliding_window=None,
        attn_implementation=attention_for(torch.device("cuda")),
        dtype=torch.bfloat16,
    )
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        model = MistralForCausalLM(config).to(torch.bfloat16)
    for name, linear in adaptable(model).items():
        model.set_submodule(name, in_4bit(drawn(linear.weight.shape, device, generator)))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            of_norm = parameter.dim() == 1
            weight = (
                torch.ones(parameter.shape, device=device, dtype=torch.bfloat16)
                if of_norm
                else drawn(parameter.shape, device, generator)
            )
            owner = model.get_submodule(name.rpartition(".")[0])
            owner.weight = nn.Parameter(weight, requires_grad=False)
    # Its buffer was made on the meta device, and is in no checkpoint either.
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return freeze(model.eval())


def drawn(shape: torch.Size, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    """A weight in bf16, made where it is used."""
    blank = torch.empty(shape, device=device, dtype=torch.bfloat16)
    return blank.normal_(0.0, SPREAD, generator=generator)


def in_4bit(weight: torch.Tensor) -> nn.Linear:
    """A linear layer of this weight, quantised where the weight lies."""
    layers = import_bitsandbytes().nn
    with torch.device("meta"):
        linear: nn.Linear = layers.Linear4bit(
            weight.shape[1],
            weight.shape[0],
            bias=False,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
        )
    held = layers.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=linear
    )
    linear.weight = held.to(weight.device)
    return linear


def backbone_on(
    shape: Shape,
    device: torch.device,
    *,
    checkpointing: bool,
    trained: list[str],
    frozen: list[str],
) -> Backbone:
    """A backbone with these roles, all of rank 16 and equal; value and reward have heads."""
    backbone = Backbone(
        random_base(shape, device), LoraSpec(), gradient_checkpointing=checkpointing
    )
    weights = backbone.fresh_weights(seed=0)
    for role in [*frozen, *trained]:
        has_head = role in {"value", "reward"}
        own = backbone.fresh_head(weights, seed=1) if has_head else weights
        backbone.add_role(role, own, trainable=role in trained)
    return backbone


def held_bytes(backbone: Backbone, role: str) -> int:
    """What one decode step of ``role`` must read: 4-bit layers, adapter and output embedding."""
    total = backbone.model.lm_head.weight.nbytes
    for name, parameter in backbone.model.named_parameters():
        if name.endswith(".frozen.weight"):
            state = parameter.quant_state
            total += parameter.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    return total + sum(p.nbytes for p in backbone.parameters_of(role))


def seconds_of(work: Callable[[], object], device: torch.device, *, times: int = 1) -> float:
    """Seconds of one call, by the clock, with all that was launched done."""
    work()
    wait(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - started) / times


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, *, mib: int) -> float:
    """Bytes read and written a second by a copy."""
    source = torch.empty(mib * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device, times=10)


def gemm_rate(device: torch.device, *, side: int) -> float:
    """FLOPs a second of a square bf16 product."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: one @ other, device, times=10)


@dataclass(frozen=True)
class Memory:
    """Peaks since it was asked last, GiB; of a CPU nothing is known."""

    allocated: float | None
    reserved: float | None


def start_counting(device: torch.device) -> None:
    """Forget the peaks so far, and what is held and not used."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peaks(device: torch.device) -> Memory:
    """Since `start_counting`."""
    if device.type != "cuda":
        return Memory(None, None)
    return Memory(
        torch.cuda.max_memory_allocated(device) / GIB, torch.cuda.max_memory_reserved(device) / GIB
    )


def cap(device: torch.device, gib: float | None) -> bool:
    """Let this process have so much memory, None for all of it; False if there is not so much."""
    if device.type != "cuda":
        return True
    total = torch.cuda.get_device_properties(device).total_memory / GIB
    if gib is not None and gib > total:
        return False
    torch.cuda.set_per_process_memory_fraction(1.0 if gib is None else gib / total, device)
    return True
