"""What a merged model needs besides its weights to be one of Ollama's."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_forge.backbone.config import BackboneConfig
    from rlhf_forge.data.records import Conversation
    from rlhf_forge.data.render import ChatTemplate

MODELFILE, CHECK = "Modelfile", "check.jsonl"
# As python -m rlhf_forge chat has it; a penalty would change the likeliest answer too.
TEMPERATURE = 0.7
MOST_CONTEXT = 4096
CHECK_TOKENS = 48
# A prompt, a system turn, and an answer between two prompts: all that the template can write.
CHECKS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "What is the capital of France?"),),
    (("system", "Answer in one word."), ("user", "Is snow white or black?")),
    (
        ("user", "Name a river."),
        ("assistant", "The Nile is a river."),
        ("user", "Where does it end?"),
    ),
)

MODELFILE_TEXT = '''# ollama create NAME -f Modelfile; then compare with check.jsonl, see README.md
FROM .
TEMPLATE """{template}"""
{stops}
PARAMETER temperature {temperature}
PARAMETER repeat_penalty 1.0
PARAMETER num_ctx {context}
'''

CARD = """
## In Ollama

```console
ollama create NAME -f Modelfile
```

`TEMPLATE` and the stop strings in `Modelfile` are written from the chat template that the model was
trained with. Blanks around a turn are kept by Ollama and were cut in training.

`check.jsonl` holds three conversations with the answers that this folder's weights give when the
likeliest token is always taken ({tokens} tokens at most; computed by rlhf_forge in {dtype}). Ask
for one of them so:

```console
head -1 check.jsonl | python -c "import json, sys; print(json.dumps(
    json.loads(sys.stdin.read()) | {{'model': 'NAME', 'stream': False, 'options': {{
    'temperature': 0, 'num_predict': {tokens}, 'repeat_penalty': 1}}}}))" \\
    | curl -s http://127.0.0.1:11434/api/chat -d @-
```

In 16 bits the beginnings agree, and where two tokens are about as likely an answer may take the
other one. Answers that differ from their first words on mean that the template or the tokenizer is
another: do not use such a model. Quantised (`ollama create --quantize q4_K_M`) the weights are
others than those that were trained, and answers differ sooner.
"""


def add_ollama(out: Path, base: "BackboneConfig", plain: "BackboneConfig") -> None:
    """Write Modelfile and check.jsonl into the folder of a merged model, and its card about them.

    Args:
        out: The folder; its tokenizer has the chat template.
        base: What was merged into: the tokenizer's own files are taken from there.
        plain: The merged model, as the checks are to be computed.

    Raises:
        UserError: If the chat template cannot be written for Ollama.
    """
    from rlhf_forge.backbone.loading import context_of
    from rlhf_forge.data.go_template import begins, go_template
    from rlhf_forge.data.render import load_template

    template = load_template(str(out), "tokenizer")
    text = MODELFILE_TEXT.format(
        template=go_template(template),
        stops="\n".join(f"PARAMETER stop {json.dumps(stop)}" for stop in _stops(template)),
        temperature=TEMPERATURE,
        context=min(context_of(str(out)), MOST_CONTEXT),
    )
    (out / MODELFILE).write_text(text, encoding="utf-8")
    _complete_tokenizer(out, base, begins=begins(template))
    checks = [_conversation(turns) for turns in CHECKS]
    lines = (
        json.dumps({"messages": turns, "answer": answer}, ensure_ascii=False) + "\n"
        for turns, answer in zip(checks, _answers(template, plain, checks), strict=True)
    )
    (out / CHECK).write_text("".join(lines), encoding="utf-8")
    with (out / "README.md").open("a", encoding="utf-8") as card:
        card.write(CARD.format(tokens=CHECK_TOKENS, dtype=plain.precision))


def _stops(template: "ChatTemplate") -> list[str]:
    tokens = template.tokenizer.convert_ids_to_tokens(sorted(template.eos_ids))
    return [str(token) for token in tokens]


def _conversation(turns: tuple[tuple[str, str], ...]) -> "Conversation":
    return [{"role": role, "content": content} for role, content in turns]


def _complete_tokenizer(out: Path, base: "BackboneConfig", *, begins: bool) -> None:
    """Ollama writes the begin token only if it is told to, and reads SentencePiece's own file."""
    from rlhf_forge.hub import tokenizer_folder

    place = out / "tokenizer_config.json"
    config = json.loads(place.read_text(encoding="utf-8"))
    config |= {"add_bos_token": begins, "add_eos_token": False}
    place.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    pieces = tokenizer_folder(base.path) / "tokenizer.model"
    if pieces.is_file():
        shutil.copy(pieces, out)


def _answers(
    template: "ChatTemplate", plain: "BackboneConfig", checks: "list[Conversation]"
) -> list[str]:
    from rlhf_forge.backbone.backbone import Backbone
    from rlhf_forge.backbone.devices import default_device
    from rlhf_forge.backbone.loading import load_base
    from rlhf_forge.data.records import BadRecord
    from rlhf_forge.generation.decode import generate
    from rlhf_forge.generation.engine import Request
    from rlhf_forge.generation.sampler import Sampling

    backbone = Backbone(load_base(plain, default_device()), plain.lora)
    backbone.add_bare_role("merged")
    prompts = []
    for turns in checks:
        try:
            prompts.append(template.prompt(turns))
        except BadRecord:  # the template takes no system turn, and Ollama's leaves it out
            prompts.append(template.prompt(turns[1:]))
    requests = [Request(prompt, "merged", (0, at)) for at, prompt in enumerate(prompts)]
    sampling = Sampling(temperature=0.0, max_new_tokens=CHECK_TOKENS)
    # One row at a time: what is written down should not depend on what ran beside it.
    found = generate(backbone, requests, sampling, template.eos_ids, max_rows=1)
    return [template.decode(response.tokens) for response in found]
