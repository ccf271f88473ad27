"""A base's shape, from its config.json alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from rlhf_forge.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Of a decoder of Mistral's form; all numbers are counts.

    Attributes:
        width: Of a hidden state.
        layers: Of the decoder.
        heads: Query heads of a layer.
        kv_heads: Key heads, and as many value heads.
        head: Width of a head.
        inner: Width of the gated layer.
        vocab: Tokens known.
        tied: Whether the output embedding is the input's.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocab: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], base: str) -> Self:
        """The shape that a config.json tells.

        Args:
            config: Its keys.
            base: Name of the base, for the message.

        Raises:
            UserError: If a key is missing or no whole number.
        """
        try:
            heads = int(config["num_attention_heads"])
            width = int(config["hidden_size"])
            return cls(
                width=width,
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head=int(config.get("head_dim") or width // heads),
                inner=int(config["intermediate_size"]),
                vocab=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"base {base}: its config.json does not say its shape: {error}"
            ) from error

    @property
    def queries(self) -> int:
        """Numbers of all query heads of a token."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Numbers of all key heads of a token, and of all value heads."""
        return self.kv_heads * self.head

    @property
    def side_by_side(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a layer's linear layers that read one input: q, k and v; gate and up."""
        d, f = self.width, self.inner
        return (d, self.queries), (d, self.keys), (d, self.keys), (d, f), (d, f)

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of all seven linear layers of a layer of the decoder."""
        return (*self.side_by_side, (self.queries, self.width), (self.inner, self.width))

    @property
    def linear_weights(self) -> int:
        """Numbers in all linear layers of the decoder: what 4 bit holds in 4 bit."""
        return self.layers * sum(inner * outer for inner, outer in self.linears)

    @property
    def other_weights(self) -> int:
        """Numbers in embeddings and norms."""
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        return embeddings + (2 * self.layers + 1) * self.width

    def adapter(self, rank: int) -> int:
        """Numbers in one adapter: r x (in + out) for each linear layer."""
        return rank * self.layers * sum(inner + outer for inner, outer in self.linears)
