"""One policy against another on the same prompts."""

import json as json_library
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.evaluation.duel import Duel


def evaluate(  # noqa: PLR0913 - an argument is an option
    policy: str,
    against: str,
    prompts: str,
    judge: str,
    number: int = 500,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    max_length: int = 1024,
    seed: int = 0,
    data_seed: int = 0,
    json: bool = False,
) -> None:
    """Win rate of a policy over another, with what each answers.

    Args:
        policy: Artefact folder of the policy, such as lightning_logs/RUN/ppo/artefact.
        against: Artefact folder of the policy it is compared with, and KL is measured from: SFT's.
        prompts: Source of prompts: a file, a data set or module:function (its split validation).
        judge: module:function that scores responses, or the artefact folder of a reward model.
        number: At most so many prompts.
        temperature: Of sampling; 0 takes the likeliest token.
        max_new_tokens: Responses are cut here.
        max_length: Prompts of more tokens are left out and counted.
        seed: Of sampling.
        data_seed: Handed to a function of prompts.
        json: Print JSON instead of a table.
    """
    from rlhf_forge.evaluation.duel import Duel
    from rlhf_forge.generation.sampler import Sampling

    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    duel = Duel.between(Path(policy), Path(against), sampling=sampling, seed=seed)
    duel.load_prompts(prompts, number=number, max_length=max_length, seed=data_seed)
    if ":" not in judge:
        duel.load_judge(Path(judge))
    _show(duel, judge, as_json=json)


def _show(duel: "Duel", judge: str, *, as_json: bool) -> None:
    result: dict[str, Any] = duel.result(judge)
    if as_json:
        sys.stdout.write(json_library.dumps(result, indent=1) + "\n")
        return
    from rlhf_forge.commands.tables import print_duel

    if not result["models"]:
        raise UserError("evaluate: no prompts")
    print_duel(result)
