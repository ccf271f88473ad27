"""One policy against another on the same prompts."""

import json as json_library
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.data.tokenize import PromptExample
    from rlhf_forge.evaluation.duel import Lineup
    from rlhf_forge.generation.sampler import Sampling

BASE = "base"


def evaluate(  # noqa: PLR0913 - an argument is an option
    policy: str,
    against: str,
    prompts: str,
    judge: str,
    number: int = 500,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    max_length: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
    json: bool = False,
) -> None:
    """Win rate of a policy over another; with --reward the report card of a reward model.

    Args:
        policy: Artefact folder of the policy, such as lightning_logs/RUN/ppo/artefact.
        against: Artefact folder of the policy it is compared with, and KL is measured from: SFT's;
            or base for the bare base.
        prompts: Source of prompts: a file, a data set or module:function (its split validation).
        judge: module:function that scores responses, or the artefact folder of a reward model.
        number: At most so many prompts.
        temperature: Of sampling; 0 takes the likeliest token, and there is no KL then.
        max_new_tokens: Responses are cut here.
        max_length: Prompts of more tokens are left out and counted; none: of more than the base's
            context has room for.
        seed: Of sampling.
        data_seed: Handed to a function of prompts.
        json: Print JSON instead of a table.
    """
    from rlhf_forge.backbone.devices import default_device
    from rlhf_forge.data.functions import load_function
    from rlhf_forge.evaluation.duel import Duel, find_lineup

    require_least(number=(number, 1), seed=(seed, 0), data_seed=(data_seed, 0))
    sampling = _sampling(temperature, max_new_tokens)
    function = judge if ":" in judge else None
    if function is not None:
        load_function(function)  # a mistake in it is found before anything is sampled
    lineup = find_lineup(
        Path(policy),
        None if against == BASE else Path(against),
        None if function else Path(judge),
    )
    length = _longest_prompt(lineup, max_length, max_new_tokens)
    examples = _prompts(prompts, lineup, number=number, max_length=length, seed=data_seed)
    backbone = lineup.load(default_device())
    duel = Duel(backbone, lineup.template, examples, sampling, seed, function)
    _show(duel.result(), as_json=json)


def require_least(**options: tuple[int, int]) -> None:
    """Refuse a value below its least.

    Raises:
        UserError: Naming the option.
    """
    for name, (value, least) in options.items():
        if value < least:
            raise UserError(f"--{name}: must be {least} or more, got {value}")


def _sampling(temperature: float, max_new_tokens: int) -> "Sampling":
    from rlhf_forge.generation.sampler import Sampling

    try:
        return Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _longest_prompt(lineup: "Lineup", given: int | None, max_new_tokens: int) -> int:
    """``given``, or what the context leaves beside a response."""
    from rlhf_forge.backbone.loading import context_of

    context = context_of(lineup.base.path)
    room = context - max_new_tokens
    if room < 1:
        raise UserError(
            f"--max_new_tokens: must be below the context of the base ({context}), got "
            f"{max_new_tokens}"
        )
    length = room if given is None else given
    if not 1 <= length <= room:
        raise UserError(
            f"--max_length: must be from 1 to {room}, which is the context of the base ({context}) "
            f"less --max_new_tokens, got {length}"
        )
    return length


def _prompts(
    path: str, lineup: "Lineup", *, number: int, max_length: int, seed: int
) -> list["PromptExample"]:
    """The prompts; those that cannot be used are left out and counted on stderr."""
    from rlhf_forge.data.bad_records import skip
    from rlhf_forge.data.loading import load_examples

    loaded = load_examples(
        path,
        lineup.template,
        split="validation",
        columns={},
        kind="prompts",
        max_length=max_length,
        on_bad=skip,
        seed=seed,
    )
    lines = loaded.tally.lines()
    sys.stderr.write(f"{path}: " + "\n  ".join(lines) + "\n")
    return cast("list[PromptExample]", loaded.examples[:number])


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json_library.dumps(result, indent=1) + "\n")
        return
    from rlhf_forge.commands.tables import print_duel

    print_duel(result)
