"""What of a stage's config its memory depends on."""

from dataclasses import dataclass
from typing import Any

from rlhf_forge.backbone.config import LoraSpec, Precision, precision_named
from rlhf_forge.modules.settings import at_first
from rlhf_forge.planning.activations import Decoder
from rlhf_forge.planning.shape import Shape
from rlhf_forge.planning.weights import COMPUTED_IN, Roles

# A reward model's answers and DPO's come in pairs, which are cut together.
PAIRED = frozenset({"reward", "dpo"})


@dataclass(frozen=True)
class Setup:
    """A stage on a device.

    Attributes:
        stage: sft, reward, dpo or ppo.
        shape: Of the base.
        precision: How the base is held.
        rank: Of the adapters.
        recomputes: Gradient checkpointing.
        cuda: Whether it runs on a GPU.
        packs: Whether rows are packed; see `rlhf_forge.backbone.packed_decoder`.
        roles: Of the stage.
        batch_size: Examples of a step; in PPO prompts of an iteration.
        each: Responses to a prompt.
        minibatch_size: Rows of one optimiser step.
        micro_batch_tokens: Padded tokens of one forward and backward.
        max_length: Tokens of the longest example; in PPO of the longest prompt.
        max_new_tokens: Tokens of the longest response.
        generated: Rows generated at once; 0 where nothing is.
        length: Steps or iterations of the run.
        epochs: Passes over each rollout; 1 outside PPO.
    """

    stage: str
    shape: Shape
    precision: Precision
    rank: int
    recomputes: bool
    cuda: bool
    packs: bool
    roles: Roles
    batch_size: int
    each: int
    minibatch_size: int
    micro_batch_tokens: int
    max_length: int
    max_new_tokens: int
    generated: int
    length: int
    epochs: int

    @property
    def decoder(self) -> Decoder:
        """How its layers are computed."""
        size = COMPUTED_IN[self.precision]
        return Decoder(self.shape, self.rank, size, self.packs, self.recomputes, fused=self.cuda)


def setup_of(config: Any, shape: Shape, *, stage: str, cuda: bool, packs: bool) -> Setup:
    """What a parsed config sets up.

    Args:
        config: As `rlhf_forge.parsed_stage` has it.
        shape: Of its base.
        stage: sft, reward, dpo or ppo.
        cuda: Whether it runs on a GPU.
        packs: Whether rows are packed there.
    """
    arguments, batch = config.model.init_args, config.data.batch_size
    rollout, updates = arguments.get("rollout"), arguments.get("updates")
    sampling = rollout or arguments.sampling
    each = 1 if rollout is None else rollout.responses_per_prompt
    size = batch if updates is None else updates.minibatch_size
    rows = rollout.max_rows if rollout else arguments.max_rows
    at_once = {"ppo": batch * each, "reward": arguments.get("calibration_samples") or 0}
    knobs = updates or arguments
    return Setup(
        stage=stage,
        shape=shape,
        precision=precision_named(arguments.backbone.precision),
        rank=(LoraSpec() if arguments.backbone.lora is None else arguments.backbone.lora).r,
        recomputes=arguments.backbone.gradient_checkpointing,
        cuda=cuda,
        packs=packs,
        roles=roles_of(arguments, stage),
        batch_size=batch,
        each=each,
        minibatch_size=size,
        micro_batch_tokens=at_first(knobs.micro_batch_tokens),
        max_length=config.data.max_length,
        max_new_tokens=sampling.max_new_tokens,
        generated=min(rows, at_once.get(stage, 0)),
        length=int(arguments.get("total_steps") or arguments.get("total_iterations")),
        epochs=1 if updates is None else updates.ppo_epochs,
    )


def roles_of(arguments: Any, stage: str) -> Roles:
    """Adapters that a stage trains and holds: the bare base is no adapter."""
    reference = 0 if arguments.get("reference") == "base" else 1
    if stage == "sft":
        return Roles(trained=1, frozen=0)
    if stage == "reward":
        return Roles(trained=arguments.ensemble, frozen=reference)
    if stage == "dpo":
        return Roles(trained=1, frozen=reference)
    critic = arguments.updates.advantage == "gae"
    # Of an ensemble every member is one more; its artefact tells, and is not looked into.
    return Roles(trained=2 if critic else 1, frozen=reference + 1)
