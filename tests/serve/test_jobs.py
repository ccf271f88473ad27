"""From a request to tokens, and from tokens to what the worker sends back."""

from typing import Any

import pytest
import torch

from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import assistant, user
from rlhf_forge.generation.decode import generate
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.models import ServedModels, load_models, open_models
from rlhf_forge.serve.routes import DEFAULT_MAX_TOKENS, Routes, chat_job, score_job
from rlhf_forge.serve.schemas import ChatRequest, ScoreRequest
from rlhf_forge.serve.worker import ChatJob, ScoreJob, Worker
from tests.tiny import CPU
from tests.tiny_run import CONTEXT, write_base, write_run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    root = tmp_path_factory.mktemp("jobs")
    return open_models([str(write_run(root / "tiny", base=write_base(root / "base")))])


@pytest.fixture(scope="module")
def worker(models: ServedModels) -> Worker:
    worker = Worker(models.weights, models.template.eos_ids, Routes(models, "127.0.0.1"))
    worker._backbone = load_models(models.weights, CPU)
    return worker


def asked(text: str = "Hello", **fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": text}]
    return ChatRequest.model_validate({"model": "ppo", "messages": messages} | fields)


def test_a_request_becomes_the_tokens_of_the_trained_template(models: ServedModels) -> None:
    job = chat_job(asked(temperature=0.5, top_p=0.9, max_tokens=7, seed=3), models)
    assert job.request == Request(models.template.prompt(user("Hello")), "ppo", (3,))
    assert job.sampling == Sampling(temperature=0.5, top_p=0.9, max_new_tokens=7)


def test_temperature_zero_is_not_taken_for_none(models: ServedModels) -> None:
    assert chat_job(asked(temperature=0), models).sampling.temperature == 0
    assert chat_job(asked(), models).sampling.temperature == 1


def test_without_a_seed_every_request_draws_anew(models: ServedModels) -> None:
    assert chat_job(asked(), models).request.key != chat_job(asked(), models).request.key


def test_negative_seeds_are_seeds(models: ServedModels) -> None:
    minus, plus = (chat_job(asked(seed=seed), models).request.key for seed in (-1, 1))
    assert minus != plus
    assert min(minus) >= 0


def test_an_answer_may_fill_the_context_but_not_more(models: ServedModels) -> None:
    room = CONTEXT - len(models.template.prompt(user("Hello")))
    assert chat_job(asked(max_tokens=room), models).sampling.max_new_tokens == room
    with pytest.raises(ApiError, match=f"holds {CONTEXT} tokens") as caught:
        chat_job(asked(max_tokens=room + 1), models)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_without_a_limit_an_answer_may_take_the_room_there_is(models: ServedModels) -> None:
    job = chat_job(asked(), models)
    room = CONTEXT - len(job.request.prompt)
    assert job.sampling.max_new_tokens == min(room, DEFAULT_MAX_TOKENS)


def test_a_conversation_longer_than_the_context_is_refused(models: ServedModels) -> None:
    with pytest.raises(ApiError) as caught:
        chat_job(asked("word " * CONTEXT), models)
    assert caught.value.code == "context_length_exceeded"
    answer = ScoreRequest(prompt="a", response="word " * CONTEXT)
    with pytest.raises(ApiError) as caught:
        score_job(answer, models)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("name", ["gpt-4", "reward", "", "../ppo", "reference"])
def test_a_model_that_gives_no_answers_is_not_found(models: ServedModels, name: str) -> None:
    with pytest.raises(ApiError, match="base, sft, ppo") as caught:
        chat_job(asked(model=name), models)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_the_only_reward_model_need_not_be_named(models: ServedModels) -> None:
    assert score_job(ScoreRequest(prompt="a", response="b"), models).role == "reward"
    with pytest.raises(ApiError) as caught:
        score_job(ScoreRequest(model="ppo", prompt="a", response="b"), models)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_control_tokens_in_a_message_are_text(models: ServedModels) -> None:
    job = chat_job(asked("</s>[INST]"), models)
    assert not set(job.request.prompt) & models.template.eos_ids


def test_the_worker_sends_the_tokens_that_generate_gives(
    models: ServedModels, worker: Worker
) -> None:
    job = chat_job(asked(max_tokens=12, seed=5), models)
    backbone = load_models(models.weights, CPU)
    expected = generate(backbone, [job.request], job.sampling, models.template.eos_ids, max_rows=1)
    assert list(worker.predict(job)) == expected[0].tokens


def test_policies_differ_and_the_base_is_bare(models: ServedModels, worker: Worker) -> None:
    answers = [
        tuple(worker.predict(chat_job(asked(model=name, temperature=0, max_tokens=8), models)))
        for name in models.policies
    ]
    assert len(set(answers)) == len(models.policies)


def test_scores_are_those_of_training(models: ServedModels, worker: Worker) -> None:
    job = score_job(ScoreRequest(prompt=["a", "Hello there"], response=["b", "Hi"]), models)
    backbone = load_models(models.weights, CPU)
    for row, got in zip(job.rows, worker.predict(job), strict=True):
        ids, mask = torch.tensor([row[0]]), torch.tensor([row[1]])
        assert got == score(backbone, ids, mask).item()
    tokens, targets = models.template.answered(user("Hello there"), assistant("Hi"))
    assert job.rows[1] == (tokens, targets)


def test_a_score_does_not_depend_on_what_it_is_asked_with(
    models: ServedModels, worker: Worker
) -> None:
    both = score_job(ScoreRequest(prompt=["a", "longer than a"], response=["b", "c"]), models)
    alone = ScoreJob(both.role, both.rows[:1])
    assert next(worker.predict(both)) == next(worker.predict(alone))


def test_jobs_and_workers_cross_processes_without_the_tokenizer(worker: Worker) -> None:
    import pickle

    state = worker.spec.__getstate__()
    assert state["_models"] is None
    job = ChatJob(Request([1, 2], "ppo", (1,)), Sampling())
    assert pickle.loads(pickle.dumps(job)) == job
