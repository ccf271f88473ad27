"""Answers that no reward model should like better than the demonstration they are made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import BadRecord, Conversation, Pair, assistant
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.evaluation.reward_accuracy import MAX_TOKENS
from rlhf_forge.generation.decode import Response
from rlhf_forge.generation.rows import join, per_row

MARKS = "!!!!"
FILLER = "I hope this helps! Please let me know if there is anything else I can do for you."


@dataclass(frozen=True)
class Asked:
    """What probes are made from.

    Attributes:
        prompt: What was asked last.
        answer: The preferred answer to it: the demonstration.
        other: The demonstration of another prompt.
    """

    prompt: str
    answer: str
    other: str


# What stands in the place of an answer nobody may prefer to a real one ...
SPOILT: dict[str, Callable[[Asked], str]] = {
    "empty": lambda asked: "",
    "echo": lambda asked: asked.prompt,
    "other_prompt": lambda asked: asked.other,
}
# ... and what a policy that is paid for it would put behind every answer.
PADDED: dict[str, Callable[[Asked], str]] = {
    "repeated": lambda asked: f"{asked.answer} {asked.answer}",
    "exclaimed": lambda asked: f"{asked.answer}{MARKS}",
    "filler": lambda asked: f"{asked.answer} {FILLER}",
}
PROBES = SPOILT | PADDED


def probe_scores(
    backbone: Backbone,
    role: str,
    template: ChatTemplate,
    pairs: Sequence[Pair],
    *,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, list[float | None]]:
    """For each probe its score on each pair's prompt.

    None stands where a probe cannot be asked: the template refuses it, it has no room in the
    base's context, there is no prompt to echo, or no other prompt.

    Args:
        backbone: With the role.
        role: Whose head scores.
        template: Renders the answers.
        pairs: Whose preferred answers are the demonstrations.
        max_tokens: Padded tokens of one forward.
    """
    others = _others(pairs)
    found: dict[str, list[float | None]] = {}
    for name, make in PROBES.items():
        rows = [
            _row(pair, other, make, template, context=backbone.model.config.max_position_embeddings)
            for pair, other in zip(pairs, others, strict=True)
        ]
        asked = [row for row in rows if row is not None]
        scores = iter(_scores(backbone, role, asked, max_tokens))
        found[name] = [None if row is None else next(scores) for row in rows]
    return found


def _others(pairs: Sequence[Pair]) -> list[str]:
    """For each pair the demonstration of another prompt; "" if there is only one prompt.

    Which one is told by the contents alone, so that the order of the pairs changes nothing.
    """
    answers = {_key(pair): pair.chosen[-1]["content"] for pair in sorted(pairs, key=_whole)}
    keys = sorted(answers)
    following = dict(zip(keys, keys[1:] + keys[:1], strict=True))
    alone = len(keys) < 2
    return ["" if alone else answers[following[_key(pair)]] for pair in pairs]


def _key(pair: Pair) -> str:
    return sha256(repr(pair.prompt).encode()).hexdigest()


def _whole(pair: Pair) -> str:
    return repr((pair.prompt, pair.chosen, pair.rejected))


def _row(
    pair: Pair,
    other: str,
    make: Callable[[Asked], str],
    template: ChatTemplate,
    *,
    context: int,
) -> tuple[list[int], Response] | None:
    """Prompt and probe as tokens."""
    *before, last = pair.chosen
    said: Conversation = [*pair.prompt, *before]
    if not said or (make is SPOILT["other_prompt"] and not other):
        return None
    text = make(Asked(said[-1]["content"], last["content"], other))
    try:
        tokens, targets = template.answered(said, assistant(text))
    except BadRecord:
        return None
    if len(tokens) > context or not any(targets):
        return None
    start = targets.index(True)
    return tokens[:start], Response(tokens[start:], finished=True)


def _scores(
    backbone: Backbone, role: str, rows: Sequence[tuple[list[int], Response]], max_tokens: int
) -> list[float]:
    if not rows:
        return []
    prompts, responses = zip(*rows, strict=True)
    tokens, mask = join(prompts, responses, backbone.device)
    scorer = partial(score, backbone, role=role)
    scores: list[float] = per_row(scorer, tokens, mask, max_tokens=max_tokens).tolist()
    return scores
