"""One policy to talk to, without a server around it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.devices import default_device
from rlhf_forge.data.records import Conversation
from rlhf_forge.errors import UserError
from rlhf_forge.generation.decode import decode
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.serve.models import ServedModels, load_models, only, open_models
from rlhf_forge.serve.text_stream import TextStream


@dataclass
class Speaker:
    """A policy that answers conversations.

    Attributes:
        models: Where it comes from.
        backbone: Has its adapter.
        sampling: How it speaks.
        seed: Answer k is a function of (seed, k) and its conversation.
        answered: Answers begun so far.
    """

    models: ServedModels
    backbone: Backbone
    sampling: Sampling
    seed: int
    answered: int = 0

    @property
    def role(self) -> str:
        """Name of the policy."""
        return self.models.policies[-1]

    def answer(self, conversation: Conversation) -> Iterator[str]:
        """The answer in pieces, as they become certain.

        Raises:
            BadRecord: If the template refuses the conversation.
            UserError: If the conversation leaves no room in the context.
        """
        template = self.models.template
        prompt = template.prompt(conversation)
        room = self.models.context - len(prompt)
        if room < 1:
            raise UserError(
                f"the conversation has {len(prompt)} tokens, the context {self.models.context}"
            )
        sampling = replace(self.sampling, max_new_tokens=min(room, self.sampling.max_new_tokens))
        request = Request(prompt, self.role, (self.seed, self.answered))
        self.answered += 1
        text = TextStream(template)
        for step in decode(self.backbone, [request], sampling, template.eos_ids):
            yield text.push(step[0])
        yield text.rest()


def open_speaker(path: str, sampling: Sampling, *, seed: int | None) -> Speaker:
    """The last policy of a run, or the policy of an artefact, loaded.

    Args:
        path: Folder of a run or an artefact.
        sampling: How it speaks.
        seed: None for one that nobody knows.

    Raises:
        UserError: If there is no policy in ``path``.
    """
    models = open_models([path])
    if len(models.policies) == 1:
        raise UserError(f"{path}: a reward model gives scores, not answers")
    backbone = load_models(only(models, models.policies[-1]).weights, default_device())
    seed = int.from_bytes(os.urandom(8)) if seed is None else seed
    return Speaker(models, backbone, sampling, seed)
