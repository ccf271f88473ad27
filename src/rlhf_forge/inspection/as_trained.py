"""A pair as a run would see it: rendered by its chat template, cut at its length."""

from rlhf_forge.data.records import BadRecord, Conversation, Pair, assistant, user
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.inspection.record_checks import Checks

# Normalizers may make texts equal, or longer; this shows whether one does.
PROBE = "Ab  É é ﬁ ﷺ"


class AsTrained:
    """The checks that need the run's tokenizer, template and length.

    Args:
        template: Of the run.
        max_length: Tokens that a side may have.
    """

    def __init__(self, template: ChatTemplate, max_length: int) -> None:
        self.template, self.max_length = template, max_length
        normalizer = template.tokenizer.backend_tokenizer.normalizer
        normal = PROBE if normalizer is None else normalizer.normalize_str(PROBE)
        self._plain = str(normal).replace("▁", " ").strip() == PROBE
        once, twice = (self._length(turns) for turns in (user("a"), _TWO_TURNS))
        self._rendered: set[tuple[str, ...]] = set()
        self._per_turn = max(twice - once, 1)
        self._overhead = once + 8

    def checks_of(self, pair: Pair) -> Checks:
        """PREF202 and PREF205 where they apply; PREF102 where the template refuses the pair."""
        roles = tuple(
            turn["role"] for turn in (*pair.prompt, *pair.chosen, {"role": ""}, *pair.rejected)
        )
        if roles in self._rendered and self._is_harmless(pair):
            return {}
        try:
            chosen, _ = self.template.answered(pair.prompt, pair.chosen)
            rejected, _ = self.template.answered(pair.prompt, pair.rejected)
        except BadRecord as bad:
            return {"PREF102": str(bad).split(":")[0]}
        self._rendered.add(roles)
        sides = {"chosen": chosen, "rejected": rejected}
        long = [name for name, tokens in sides.items() if len(tokens) > self.max_length]
        told = {"PREF205": " and ".join(long)} if long else {}
        if chosen[: self.max_length] == rejected[: self.max_length]:
            told["PREF202"] = "cut" if long else "rendered"
        return told

    def _is_harmless(self, pair: Pair) -> bool:
        """Whether it is certain without tokenizing that nothing is cut and the sides differ."""
        return (
            self._plain
            and self._most_tokens(pair) <= self.max_length
            and _squeezed(pair.chosen) != _squeezed(pair.rejected)
        )

    def _most_tokens(self, pair: Pair) -> int:
        """What a side's tokens cannot exceed: each stands for a byte at least."""
        answers = max(_bytes(pair.chosen), _bytes(pair.rejected))
        turns = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        return self._overhead + self._per_turn * turns + _bytes(pair.prompt) + answers

    def _length(self, turns: Conversation) -> int:
        return len(self.template.prompt(turns))


_TWO_TURNS = user("a") + assistant("a") + user("a")


def _bytes(conversation: Conversation) -> int:
    return sum(len(turn["content"].encode(errors="replace")) for turn in conversation)


def _squeezed(conversation: Conversation) -> str:
    """Without white space, which templates trim."""
    return "".join("".join(turn["content"].split()) for turn in conversation)
