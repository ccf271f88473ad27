from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
)

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.decode_step import DecodeStep
from rlhf_forge.backbone.loading import freeze
from rlhf_forge.generation.decode import Response, decode, generate
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.rows import join
from rlhf_forge.generation.sampler import Sampling
from tests import countable, tiny
from tests.countable import EOS, Size

GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
SAMPLED = Sampling(temperature=1.0, max_new_tokens=12)
PROMPTS = [row[row > 0].tolist() for row in tiny.rows(9, 14, 3, 11, 1, 6)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    backbone = tiny.four_roles(tiny.open_tiny())
    backbone.add_bare_role("base")
    return backbone


def requests(
    role: str = "policy", prompts: Sequence[Sequence[int]] = PROMPTS, *, seed: int = 0
) -> list[Request]:
    return [Request(prompt, role, (seed, 0, row)) for row, prompt in enumerate(prompts)]


def stock_greedy(model: Any, eos_ids: Sequence[int]) -> list[list[int]]:
    """What transformers generates, each response cut after its end."""
    width = max(len(prompt) for prompt in PROMPTS)
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    out = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=GREEDY.max_new_tokens,
        eos_token_id=list(eos_ids) or None,
        pad_token_id=0,
    )
    responses = out[:, width:].tolist()
    ends = [next((i for i, t in enumerate(r) if t in eos_ids), len(r)) for r in responses]
    return [response[: end + 1] for response, end in zip(responses, ends, strict=True)]


def batch_sizes(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every forward from now on."""
    sizes = []
    prompts, step = backbone.next_logits, DecodeStep.__call__

    def counted_prompts(tokens: Tensor, *others: Any) -> Tensor:
        sizes.append(len(tokens))
        return prompts(tokens, *others)

    def counted_step(self: DecodeStep, tokens: Tensor, *others: Any) -> Tensor:
        sizes.append(len(tokens))
        return step(self, tokens, *others)

    monkeypatch.setattr(backbone, "next_logits", counted_prompts)
    monkeypatch.setattr(DecodeStep, "__call__", counted_step)
    return sizes


def staggered_ends(responses: Sequence[Response]) -> list[int]:
    """Token ids that end some of these responses, at different steps."""
    return [responses[row].tokens[step] for row, step in ((0, 2), (1, 5), (2, 7), (4, 4))]


def test_greedy_decoding_is_that_of_transformers(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = generate(backbone, requests("base"), GREEDY, [], max_rows=8)
    eos_ids = staggered_ends(endless)
    sizes = batch_sizes(backbone, monkeypatch)
    responses = generate(backbone, requests("base"), GREEDY, eos_ids, max_rows=8)
    stock = AutoModelForCausalLM.from_pretrained(tiny.base(), attn_implementation="eager")
    assert [response.tokens for response in endless] == stock_greedy(stock, [])
    assert [response.tokens for response in responses] == stock_greedy(stock, eos_ids)
    assert len({len(response.tokens) for response in responses}) > 2
    assert sizes[0] == len(PROMPTS)
    assert sizes[-1] < len(PROMPTS)


def test_greedy_decoding_of_a_role_is_that_of_the_adapted_model(backbone: Backbone) -> None:
    responses = generate(backbone, requests("policy"), GREEDY, [], max_rows=8)
    with backbone.using("policy"):
        expected = stock_greedy(backbone.model, [])
    assert [response.tokens for response in responses] == expected


def sliding(window: int | None) -> PreTrainedModel:
    config = tiny.base_config()
    config.sliding_window = window
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return freeze(MistralForCausalLM(config))


def test_a_sliding_window_slides_in_generation_and_in_the_training_forward_alike() -> None:
    model = sliding(5)
    expected = stock_greedy(model, [])
    assert expected != stock_greedy(sliding(None), [])
    backbone = Backbone(model, tiny.LORA)
    backbone.add_bare_role("base")
    responses = generate(backbone, requests("base"), GREEDY, [], max_rows=8)
    assert [response.tokens for response in responses] == expected
    tokens, mask = join(PROMPTS, responses, tiny.CPU)
    with torch.no_grad(), backbone.using("base"):
        likeliest = model.lm_head(backbone.hidden(tokens)).argmax(-1)
    assert torch.equal(likeliest[:, :-1][mask[:, 1:]], tokens[:, 1:][mask[:, 1:]])


@pytest.mark.parametrize("max_rows", [1, 2, 5])
def test_a_rows_response_does_not_depend_on_how_many_are_generated_at_once(
    backbone: Backbone, max_rows: int
) -> None:
    eos_ids = staggered_ends(generate(backbone, requests(), SAMPLED, [], max_rows=8))
    together = generate(backbone, requests(), SAMPLED, eos_ids, max_rows=8)
    assert generate(backbone, requests(), SAMPLED, eos_ids, max_rows=max_rows) == together


def test_a_rows_response_does_not_depend_on_its_neighbours(backbone: Backbone) -> None:
    eos_ids = staggered_ends(generate(backbone, requests(), SAMPLED, [], max_rows=8))
    together = generate(backbone, requests(), SAMPLED, eos_ids, max_rows=8)
    order = [3, 0, 5, 1, 4, 2]
    permuted = generate(backbone, [requests()[row] for row in order], SAMPLED, eos_ids, max_rows=8)
    assert permuted == [together[row] for row in order]
    assert generate(backbone, requests()[2:3], SAMPLED, eos_ids, max_rows=8) == together[2:3]


def test_another_key_gives_another_response(backbone: Backbone) -> None:
    one, other = (generate(backbone, requests(seed=s), SAMPLED, [], max_rows=8) for s in (0, 1))
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_roles_mixed_in_a_batch_generate_as_each_alone(backbone: Backbone) -> None:
    roles = ["policy", "reference", "reward", "base", "policy", "reward"]
    mixed = [
        Request(prompt, role, (0, 0, row))
        for row, (prompt, role) in enumerate(zip(PROMPTS, roles, strict=True))
    ]
    responses = generate(backbone, mixed, SAMPLED, [], max_rows=8)
    for row, role in enumerate(roles):
        alone = generate(backbone, requests(role), SAMPLED, [], max_rows=8)
        assert responses[row] == alone[row]
    assert responses[2] != generate(backbone, requests("policy"), SAMPLED, [], max_rows=8)[2]


def test_an_end_at_the_first_token_is_a_finished_response_of_one_token(backbone: Backbone) -> None:
    responses = generate(backbone, requests(), SAMPLED, range(tiny.VOCAB), max_rows=8)
    assert all(len(response.tokens) == 1 and response.finished for response in responses)


def test_an_end_at_the_last_allowed_token_is_an_end(backbone: Backbone) -> None:
    endless = generate(backbone, requests(), GREEDY, [], max_rows=8)
    assert not any(response.finished for response in endless)
    tokens = endless[1].tokens
    step = max(step for step, token in enumerate(tokens) if token not in tokens[:step])
    for allowed, finished in ((step + 1, True), (step, False)):
        if allowed:
            sampling = Sampling(temperature=0.0, max_new_tokens=allowed)
            response = generate(backbone, requests(), sampling, [tokens[step]], max_rows=8)[1]
            assert response == Response(tokens[:allowed], finished)


def test_a_step_yields_a_token_for_each_running_row_and_none_after_its_end(
    backbone: Backbone,
) -> None:
    eos_ids = staggered_ends(generate(backbone, requests(), SAMPLED, [], max_rows=8))
    running = set(range(len(PROMPTS)))
    for step in decode(backbone, requests(), SAMPLED, eos_ids):
        assert set(step) == running
        running -= {row for row, token in step.items() if token in eos_ids}
    assert len(running) < len(PROMPTS)


def test_decoding_may_be_left_half_way(backbone: Backbone) -> None:
    steps = decode(backbone, requests(), SAMPLED, [])
    next(steps)
    with backbone.using("reward"):  # another role may compute between two steps
        next(steps)
        with torch.no_grad():
            scalars = backbone.scalars(torch.tensor([[5, 6]]))
        assert scalars.shape == (1, 2)
    assert isinstance(steps, Generator)
    steps.close()
    with pytest.raises(RuntimeError, match="no role in use"):
        backbone.hidden(torch.tensor([[5, 6]]))


@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpointing_changes_nothing_about_generation(
    backbone: Backbone, training: bool
) -> None:
    recomputing = tiny.four_roles(tiny.open_tiny(checkpointing=True)).train(training)
    responses = generate(recomputing, requests(), SAMPLED, [], max_rows=8)
    assert responses == generate(backbone, requests(), SAMPLED, [], max_rows=8)


def test_gradients_are_not_kept(backbone: Backbone) -> None:
    for _ in decode(backbone, requests(), SAMPLED, []):
        assert torch.is_grad_enabled()  # of the caller, between two steps
    assert all(p.grad is None for p in backbone.parameters())


def test_nothing_to_generate_gives_nothing(backbone: Backbone) -> None:
    assert generate(backbone, [], SAMPLED, [], max_rows=8) == []


def test_an_empty_prompt_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="a token in every prompt"):
        generate(backbone, requests(prompts=[[5], []]), SAMPLED, [], max_rows=8)


def test_a_prompt_that_several_requests_share_is_read_once_and_changes_no_response(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [
        Request(PROMPTS[row], role, (0, row, draw))
        for row in (0, 3)
        for role in ("policy", "base")
        for draw in range(3)
    ]
    alone = [generate(backbone, [request], SAMPLED, [], max_rows=1)[0] for request in shared]
    sizes = batch_sizes(backbone, monkeypatch)
    assert generate(backbone, shared, SAMPLED, [], max_rows=12) == alone
    assert sizes[:2] == [4, 12]
    assert len({tuple(response.tokens) for response in alone}) == 12


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_responses_are_drawn_as_often_as_the_training_forward_says(temperature: float) -> None:
    """Chi-squared of all 15 responses to a padded and to a longer prompt, in one batch."""
    size, draws = Size(vocab=3, longest=3), 4000
    backbone = countable.open_countable(size)
    drawn = generate(
        backbone,
        [Request(countable.PROMPTS[row % 2], "policy", (0, row)) for row in range(2 * draws)],
        Sampling(temperature=temperature, max_new_tokens=size.longest),
        [EOS],
        max_rows=2 * draws,
    )
    log_probs = countable.response_log_probs(backbone, "policy", size, temperature=temperature)
    for prompt, expected in enumerate(draws * log_probs.exp()):
        counts = Counter(tuple(response.tokens) for response in drawn[prompt::2])
        seen = torch.tensor([counts[tokens] for tokens in countable.all_responses(size)])
        assert seen.sum() == draws
        frequent = expected >= 5
        squares = (seen - expected).square() / expected
        # 14 degrees of freedom: more than 36 once in a thousand.
        assert squares[frequent].sum() < 36
        assert seen[~frequent].sum() <= 4 * expected[~frequent].sum() + 4
