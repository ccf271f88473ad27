"""The one frozen base and the roles that live on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_forge.backbone.adapted_linear import AdaptedLinear, Selection, adaptable, fresh_pair
from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.attention import cache_argument
from rlhf_forge.backbone.checkpointing import recomputed
from rlhf_forge.backbone.config import LoraSpec
from rlhf_forge.backbone.packed_decoder import PackedDecoder, can_pack
from rlhf_forge.backbone.packing import pack, to_the_left
from rlhf_forge.backbone.scalar_head import HeadWeights, ScalarHead
from rlhf_forge.errors import UserError
from rlhf_forge.functional.log_probs import chunked_log_probs
from rlhf_forge.functional.products import product

# Rows of logits computed at once hold about this many numbers (float32: 8 MiB): they stay in
# the cache.
LOGITS_PER_CHUNK = 2**21


class Backbone(nn.Module):
    """A frozen causal LM; named LoRA adapters (roles) on it; a float32 scalar head for some.

    Every forward runs inside ``with backbone.using(...)``. All sequences are right-padded: under a
    causal mask what stands to the right of a token never reaches it, so no padding mask is needed
    and padding may hold any token id.

    Args:
        model: The frozen base, as `load_base` gives it.
        lora: Shape of new adapters, as the config gives it; None: r 16, alpha 32.
        gradient_checkpointing: Recompute layers in the backward pass.
    """

    def __init__(
        self, model: PreTrainedModel, lora: LoraSpec | None, *, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.lora = lora
        self.roles: set[str] = set()
        self.heads = nn.ModuleDict()
        self.model = model
        self._selection = Selection()
        self._adapted = _adapt(model, self._selection)
        self.packed = (
            PackedDecoder(model, recompute=gradient_checkpointing) if can_pack(model) else None
        )
        if gradient_checkpointing:
            for layer in model.model.layers:
                layer.forward = recomputed(layer.forward, self._selection)

    @property
    def device(self) -> torch.device:
        """Where the base lies."""
        return self.model.device

    @property
    def pads(self) -> bool:
        """Whether it computes the padding of a batch, as the stock decoder does."""
        return self.packed is None

    def add_role(self, role: str, weights: AdapterWeights, *, trainable: bool) -> None:
        """Give ``role`` the adapter, and the head if there is one, in ``weights``.

        The values are copied. Masters of trainable roles are float32; frozen ones are held in the
        base's dtype, to which the masters are cast in the forward: equal weights, equal bits.

        Raises:
            UserError: If the weights do not fit the base.
        """
        expected = {name: (a.in_features, a.out_features) for name, a in self._frozen_layers()}
        got = {name: (down.shape[1], up.shape[0]) for name, (down, up) in weights.pairs.items()}
        if got != expected:
            odd = min(expected.items() ^ got.items())[0]
            raise UserError(f"the adapter of {role} does not fit this base: see layer {odd}")
        dtype = torch.float32 if trainable else self.model.dtype
        scaling = weights.lora.alpha / weights.lora.r
        for name, layer in self._adapted.items():
            down, up = (w.detach().to(dtype, copy=True) for w in weights.pairs[name])
            layer.add(role, down, up, scaling=scaling, trainable=trainable)
        if role in self.heads:
            del self.heads[role]
        if weights.head is not None:
            self.heads[role] = ScalarHead(weights.head, self.device).requires_grad_(trainable)
        self.roles.add(role)
        for number, member in enumerate(weights.members, start=1):
            self.add_role(f"{role}~{number}", member, trainable=trainable)

    def add_bare_role(self, role: str) -> None:
        """Let ``role`` be the base itself, without any adapter."""
        self.roles.add(role)

    def fresh_weights(self, *, seed: int) -> AdapterWeights:
        """A new adapter, without head, that leaves the base as it is: B is zero."""
        generator = torch.Generator().manual_seed(seed)
        lora = self.lora or LoraSpec()
        pairs = {n: fresh_pair(a, lora.r, generator) for n, a in self._frozen_layers()}
        return AdapterWeights(lora, pairs)

    def fresh_head(
        self, weights: AdapterWeights, *, seed: int, likelihood: float | None = None
    ) -> AdapterWeights:
        """``weights`` with a new head drawn from N(0, 1 / (hidden + 1)).

        Args:
            weights: An adapter; a head it may have is replaced.
            seed: Of the draw.
            likelihood: First weight of the reference-likelihood feature; None: off.
        """
        hidden = self.model.config.hidden_size
        generator = torch.Generator().manual_seed(seed)
        head = torch.randn(1, hidden, generator=generator, device="cpu") / (hidden + 1) ** 0.5
        return replace(weights, head=HeadWeights(head, likelihood=likelihood))

    def set_scale(
        self, role: str, *, mean: float, std: float, likelihood_mean: float = 0.0
    ) -> None:
        """Set what counts as 0 and as 1 of the role's scalars; see `HeadWeights`."""
        raw = self.head(role).weights()
        trainable = self.head(role).weight.requires_grad
        scaled = replace(raw, mean=mean, std=std, likelihood_mean=likelihood_mean)
        self.heads[role] = ScalarHead(scaled, self.device).requires_grad_(trainable)

    def weights_of(self, role: str) -> AdapterWeights:
        """A copy of the role's adapter and head, float32, on the CPU."""
        pairs = {
            name: (_exported(layer.lora_A[role]), _exported(layer.lora_B[role]))
            for name, layer in self._adapted.items()
        }
        first = next(iter(self._adapted.values()))
        rank = first.lora_A[role].shape[0]
        lora = LoraSpec(r=rank, alpha=round(first.scaling[role] * rank))
        head = self.head(role).weights() if role in self.heads else None
        return AdapterWeights(lora, pairs, head)

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        """The adapter's and the head's parameters of ``role``, always in the same order."""
        adapters = [p for a in self._adapted.values() for p in (a.lora_A[role], a.lora_B[role])]
        return adapters + (list(self.heads[role].parameters()) if role in self.heads else [])

    @contextmanager
    def using(self, roles: str | Sequence[str]) -> Iterator[None]:
        """Compute as one role, or row by row as ``roles[row]``; the state before comes back.

        Gradients are left alone: a backward may run inside or after the block.

        Raises:
            KeyError: If a role was never added.
        """
        with self._selection.of(self._groups([roles] if isinstance(roles, str) else roles)):
            yield

    def hidden(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time hidden"]:
        """Last hidden states of right-padded ``tokens``; those of padding have no meaning."""
        self._require_roles_for(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        out = self.model.model(input_ids=tokens, position_ids=positions, use_cache=False)
        states: Tensor = out.last_hidden_state
        return states

    def states(
        self, tokens: Int[Tensor, "batch time"], wanted: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "wanted hidden"]:
        """`hidden` at the ``wanted`` tokens of each row, row by row; computed no further than that.

        All training and scoring goes through here: over packed rows where the base can be packed,
        and under several roles at once by the stock decoder.
        """
        self._require_roles_for(tokens)
        groups = self._selection.groups
        if self.packed is None or len(groups) > 1:
            return self.hidden(tokens)[wanted]
        return self.packed(tokens, pack(tokens, wanted), groups[0][0])

    def log_probs(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Bool[Tensor, "batch time"],
        *,
        temperature: float,
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
        """Log-probability of each target token given all before it, and the entropy there.

        Logits exist only where a target is predicted, and only a chunk of them at a time.

        Args:
            tokens: Right-padded sequences.
            targets: True on the tokens to score; never on the first of a row.
            temperature: What the logits are divided by.

        Returns:
            ``log_probs`` and ``entropy`` in nats, float32, both 0 off target. Entry [b, t] is
            about tokens[b, t].
        """
        if targets[:, 0].any():
            raise ValueError("the first token of a row has no probability: nothing precedes it")
        states = self.states(tokens, to_the_left(targets))
        head = self.model.lm_head.weight
        values, entropy = chunked_log_probs(
            states,
            head,
            tokens[targets],
            temperature=temperature,
            chunk_size=max(1, LOGITS_PER_CHUNK // head.shape[0]),
        )
        blank = values.new_zeros(tokens.shape)
        return blank.masked_scatter(targets, values), blank.masked_scatter(targets, entropy)

    def scalars(
        self,
        tokens: Int[Tensor, "batch time"],
        wanted: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time"]:
        """The head's output after reading each token, float32; padding has no meaning.

        Args:
            tokens: Right-padded sequences.
            wanted: Tokens to compute it for, 0 elsewhere; None: all.

        Raises:
            KeyError: If the role in use has no head, or several roles are in use.
        """
        roles = [role for role, _ in self._selection.groups]
        if len(roles) != 1 or roles[0] not in self.heads:
            raise KeyError(f"scalars need one role with a head, in use: {roles}")
        if wanted is None:
            wanted = torch.ones_like(tokens, dtype=torch.bool)
        values: Tensor = self.heads[roles[0]](self.states(tokens, wanted))
        return values.new_zeros(tokens.shape).masked_scatter(wanted, values)

    def next_logits(
        self,
        tokens: Int[Tensor, "batch new"],
        attention_mask: Int[Tensor, "batch seen"],
        positions: Int[Tensor, "batch new"],
        cache: Any,
    ) -> Float[Tensor, "batch vocab"]:
        """Logits after the last of ``tokens``, float32, with keys and values kept in ``cache``.

        Unlike the other forwards this one takes left-padded rows, so the mask is needed.
        """
        self._require_roles_for(tokens)
        out = self.model.model(
            input_ids=tokens,
            attention_mask=attention_mask,
            position_ids=positions,
            use_cache=True,
            **cache_argument(self.model.model, cache),
        )
        return product(out.last_hidden_state[:, -1], self.model.lm_head.weight).float()

    def _frozen_layers(self) -> list[tuple[str, nn.Linear]]:
        return [(name, layer.frozen) for name, layer in self._adapted.items()]

    def head(self, role: str) -> ScalarHead:
        """The scalar head of ``role``; KeyError if it has none."""
        head = self.heads[role]
        assert isinstance(head, ScalarHead)
        return head

    def _require_roles_for(self, tokens: Tensor) -> None:
        groups = self._selection.groups
        if not groups:
            raise RuntimeError("no role in use: wrap the call in `with backbone.using(role):`")
        named = [len(rows) for _, rows in groups if rows is not None]
        if named and sum(named) != len(tokens):
            raise ValueError(f"{sum(named)} roles for {len(tokens)} rows: one for each is needed")

    def _groups(self, roles: Sequence[str]) -> list[tuple[str, Tensor | None]]:
        unknown = set(roles) - self.roles
        if unknown:
            raise KeyError(f"no role {min(unknown)!r} here; roles: {sorted(self.roles)}")
        distinct = sorted(set(roles))
        if len(distinct) == 1:
            return [(distinct[0], None)]
        rows = {role: [row for row, name in enumerate(roles) if name == role] for role in distinct}
        return [(role, torch.tensor(rows[role], device=self.device)) for role in distinct]


def _adapt(model: PreTrainedModel, selection: Selection) -> dict[str, AdaptedLinear]:
    """Wrap every linear layer of the decoder in place; by name in the model."""
    layers = adaptable(model)
    adapted = {name: AdaptedLinear(module, selection) for name, module in layers.items()}
    for name, layer in adapted.items():
        model.set_submodule(name, layer)
    return adapted


def _exported(parameter: Tensor) -> Tensor:
    return parameter.detach().float().cpu().clone()
