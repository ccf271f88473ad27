"""From a request to the tokens that the worker is asked for."""

import pickle
from typing import Any

import pytest

from rlhf_forge.data.records import assistant, user
from rlhf_forge.generation.engine import Entry, Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.jobs import Generate
from rlhf_forge.serve.models import ServedModels, open_models
from rlhf_forge.serve.orders import DEFAULT_MAX_TOKENS, chat_entries, score_order, text_entries
from rlhf_forge.serve.routes import Routes
from rlhf_forge.serve.schemas import ChatRequest, ScoreRequest, TextRequest
from rlhf_forge.serve.settings import Settings
from tests.tiny_run import CONTEXT, write_base, write_run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    root = tmp_path_factory.mktemp("jobs")
    return open_models([str(write_run(root / "tiny", base=write_base(root / "base")))])


def asked(text: str = "Hello", **fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": text}]
    return ChatRequest.model_validate({"model": "ppo", "messages": messages} | fields)


def test_a_request_becomes_the_tokens_of_the_trained_template(models: ServedModels) -> None:
    [row] = chat_entries(asked(temperature=0.5, top_p=0.9, max_tokens=7, seed=3), models)
    assert row.request == Request(models.template.prompt(user("Hello")), "ppo", (3, 0))
    assert row.sampling == Sampling(temperature=0.5, top_p=0.9, max_new_tokens=7)
    assert row.top is None


def test_each_of_n_answers_has_a_name_and_randomness_of_its_own(models: ServedModels) -> None:
    rows = chat_entries(asked(n=3, seed=3, logprobs=True, top_logprobs=2), models)
    assert [row.request.key for row in rows] == [(3, 0), (3, 1), (3, 2)]
    assert len({row.name for row in rows}) == 3
    assert {row.top for row in rows} == {2}
    assert chat_entries(asked(seed=3), models)[0].request.key == rows[0].request.key


def test_temperature_zero_is_not_taken_for_none(models: ServedModels) -> None:
    assert chat_entries(asked(temperature=0), models)[0].sampling.temperature == 0
    assert chat_entries(asked(), models)[0].sampling.temperature == 1


def test_without_a_seed_every_request_draws_anew(models: ServedModels) -> None:
    assert (
        chat_entries(asked(), models)[0].request.key != chat_entries(asked(), models)[0].request.key
    )


def test_negative_seeds_are_seeds(models: ServedModels) -> None:
    minus, plus = (chat_entries(asked(seed=seed), models)[0].request.key for seed in (-1, 1))
    assert minus != plus
    assert min(minus) >= 0


def test_an_answer_may_fill_the_context_but_not_more(models: ServedModels) -> None:
    room = CONTEXT - len(models.template.prompt(user("Hello")))
    assert chat_entries(asked(max_tokens=room), models)[0].sampling.max_new_tokens == room
    with pytest.raises(ApiError, match=f"holds {CONTEXT} tokens") as caught:
        chat_entries(asked(max_tokens=room + 1), models)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_without_a_limit_an_answer_may_take_the_room_there_is(models: ServedModels) -> None:
    [job] = chat_entries(asked(), models)
    room = CONTEXT - len(job.request.prompt)
    assert job.sampling.max_new_tokens == min(room, DEFAULT_MAX_TOKENS)


def test_a_conversation_longer_than_the_context_is_refused(models: ServedModels) -> None:
    with pytest.raises(ApiError) as caught:
        chat_entries(asked("word " * CONTEXT), models)
    assert caught.value.code == "context_length_exceeded"
    answer = ScoreRequest(prompt="a", response="word " * CONTEXT)
    with pytest.raises(ApiError) as caught:
        score_order(answer, models)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("name", ["gpt-4", "reward", "", "../ppo", "reference"])
def test_a_model_that_gives_no_answers_is_not_found(models: ServedModels, name: str) -> None:
    with pytest.raises(ApiError, match="base, sft, ppo") as caught:
        chat_entries(asked(model=name), models)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_the_only_reward_model_need_not_be_named(models: ServedModels) -> None:
    assert score_order(ScoreRequest(prompt="a", response="b"), models).role == "reward"
    with pytest.raises(ApiError) as caught:
        score_order(ScoreRequest(model="ppo", prompt="a", response="b"), models)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_control_tokens_in_a_message_are_text(models: ServedModels) -> None:
    [job] = chat_entries(asked("</s>[INST]"), models)
    assert not set(job.request.prompt) & models.template.eos_ids


def test_answers_to_score_are_the_tokens_that_were_learnt(models: ServedModels) -> None:
    order = score_order(ScoreRequest(prompt=["a", "Hello there"], response=["b", "Hi"]), models)
    assert order.rows[1] == models.template.answered(user("Hello there"), assistant("Hi"))


def continued(prompt: Any, **fields: Any) -> TextRequest:
    return TextRequest.model_validate({"model": "ppo", "prompt": prompt} | fields)


def test_a_text_is_read_behind_the_begin_token_and_outside_any_template(
    models: ServedModels,
) -> None:
    [row] = text_entries(continued("Hello </s>"), models)
    bos = models.template.tokenizer.bos_token_id
    assert row.request.prompt[0] == bos
    assert not set(row.request.prompt[1:]) & {bos, *models.template.eos_ids}
    assert models.template.tokenizer.decode(list(row.request.prompt[1:])) == "Hello </s>"
    assert row.sampling.max_new_tokens == 16


def test_several_prompts_with_several_answers_stand_side_by_side(models: ServedModels) -> None:
    rows = text_entries(continued([[5, 6], [7]], n=2, seed=1, logprobs=0), models)
    assert [row.request.prompt for row in rows] == [[5, 6], [5, 6], [7], [7]]
    assert [row.request.key for row in rows] == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert {row.top for row in rows} == {0}


def test_tokens_outside_the_vocabulary_are_refused(models: ServedModels) -> None:
    vocabulary = len(models.template.tokenizer)
    text_entries(continued([vocabulary - 1]), models)
    with pytest.raises(ApiError, match=f"below {vocabulary}"):
        text_entries(continued([vocabulary]), models)


def test_a_text_and_its_answer_must_fit_the_context(models: ServedModels) -> None:
    text_entries(continued([5] * (CONTEXT - 16)), models)
    with pytest.raises(ApiError) as caught:
        text_entries(continued([5] * (CONTEXT - 15)), models)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_orders_cross_processes_and_the_routes_without_all_they_hold(models: ServedModels) -> None:
    routes = Routes(models, Settings(), [b"secret"])
    assert b"secret" not in pickle.dumps(routes)
    order = Generate([Entry("a", Request([1, 2], "ppo", (1,)), Sampling())])
    assert pickle.loads(pickle.dumps(order)) == order


def test_a_server_may_allow_less_than_the_base_can(models: ServedModels) -> None:
    assert Routes(models, Settings(), []).models.context == CONTEXT
    assert Routes(models, Settings(max_length=100), []).models.context == 100
