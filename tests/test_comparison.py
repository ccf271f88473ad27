"""The configs that hold PPO, RLOO, GRPO and DPO against each other: alike in all but the method."""

from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import QUIET

pytestmark = QUIET
CONFIGS = Path(__file__).parent.parent / "configs"
SAMPLING = ("ppo", "rloo", "grpo")


def config(name: str) -> Any:
    return parsed_stage(["--config", str(CONFIGS / "quickstart-compare" / f"{name}.yaml")]).config


@pytest.mark.parametrize("name", ["sft", "reward", "ppo", "evaluate"])
def test_what_is_shared_is_the_quickstarts(name: str) -> None:
    texts = [
        (CONFIGS / f / f"{name}.yaml").read_text() for f in ("quickstart", "quickstart-compare")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", SAMPLING[1:])
def test_what_samples_has_ppos_responses_price_and_updates(name: str) -> None:
    ppo, other = config("ppo"), config(name)
    for spent in (ppo, other):
        arguments = spent.model.init_args
        spent.responses = (
            arguments.total_iterations
            * spent.data.batch_size
            * arguments.rollout.responses_per_prompt
        )
        # What makes the method, and the critic that only PPO has.
        arguments.rollout.responses_per_prompt = spent.data.batch_size = 0
        arguments.objective.kl_in = arguments.updates.loss_aggregation = ""
        arguments.updates.advantage = ""
        arguments.updates.value_learning_rate = arguments.updates.gae_lambda = 0.0
        arguments.updates.value_clip_range = 1.0
        spent.config, spent.name = [], ""
    assert other == ppo


def test_dpo_has_the_reward_models_pairs_once_and_ppos_length() -> None:
    dpo, reward = config("dpo"), config("reward")
    assert dpo.data == reward.data
    assert dpo.model.init_args.total_steps == reward.model.init_args.total_steps
    longest = config("ppo").model.init_args.rollout.max_new_tokens
    assert dpo.model.init_args.sampling.max_new_tokens == longest
