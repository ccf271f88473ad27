"""What SFT does besides learning: how it answers."""

import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.data.collate import collate_prompts
from rlhf_forge.data.records import Prompt, user
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.responses import respond
from rlhf_forge.modules.sft import SFTModule
from tests import tiny
from tests.tiny_tokenizer import mistral_template

TEMPLATE = mistral_template()
RECORDS = [
    Prompt(user(text), "here", {}) for text in ("Hello", "Why?", "Is snow white?", "Hm", "a")
]
BATCH = collate_prompts(
    [(n, PromptExample(TEMPLATE.prompt(r.prompt), r)) for n, r in enumerate(RECORDS)]
)


def ready(*, max_rows: int = 64, temperature: float = 1.0) -> SFTModule:
    module = SFTModule(
        BackboneConfig("base"),
        sampling=Sampling(temperature=temperature, max_new_tokens=3),
        max_rows=max_rows,
    )
    module.backbone, module.template = tiny.four_roles(tiny.open_tiny()), TEMPLATE
    return module


def test_no_more_than_max_rows_are_generated_at_once_and_the_answers_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []
    next_logits = Backbone.next_logits

    def counted(self: Backbone, tokens: Tensor, *args: Tensor) -> Tensor:
        rows.append(len(tokens))
        return next_logits(self, tokens, *args)

    whole = respond(ready(), BATCH, iteration=0)
    monkeypatch.setattr(Backbone, "next_logits", counted)
    assert respond(ready(max_rows=2), BATCH, iteration=0) == whole
    assert max(rows) == 2


def test_at_temperature_0_the_likeliest_token_is_taken() -> None:
    module = ready(temperature=0)
    first, *_ = respond(module, BATCH, iteration=0)
    tokens = torch.tensor([TEMPLATE.prompt(RECORDS[0].prompt)])
    with torch.no_grad(), module.backbone.using("policy"):
        logits = module.backbone.model.lm_head(module.backbone.hidden(tokens))[0, -1]
    assert first.tokens[0] == logits.argmax().item()


def test_max_rows_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_rows must be 1 or more, got 0"):
        SFTModule(BackboneConfig("base"), max_rows=0)
