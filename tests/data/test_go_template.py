"""A chat template written for Ollama writes what it writes for us."""

import pytest

from rlhf_forge.data.go_template import begins, go_template
from rlhf_forge.data.records import Conversation, assistant, user
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.errors import UserError
from tests.data.go_templates import fill
from tests.tiny_tokenizer import (
    CHATML,
    WITHOUT_BOS,
    chatml_template,
    chatml_tokenizer,
    mistral_template,
    mistral_tokenizer,
)

QUOTES = CHATML.replace("<|im_start|>", '<|im_start|>""" \\\\ {{ é\\t')
SYSTEM = [{"role": "system", "content": "Be brief."}]
ONE = user("What is snow?")
TWO = [*ONE, *assistant("It is white."), *user('Is it "cold"?\n\n{{ .System }}')]
THREE = [*TWO, *assistant("Yes.</s>"), *user("Why?")]
TEMPLATES = {
    "mistral": mistral_template(),
    "chatml": chatml_template(),
    "quotes": ChatTemplate(chatml_tokenizer(), QUOTES),
}


def rendered(template: ChatTemplate, turns: Conversation) -> str:
    text = template.tokenizer.apply_chat_template(
        turns, chat_template=template.text, tokenize=False, add_generation_prompt=True
    )
    return str(text).removeprefix(template.tokenizer.bos_token or "\0")


@pytest.mark.parametrize("before", [[], SYSTEM], ids=["alone", "with a system turn"])
@pytest.mark.parametrize("turns", [ONE, TWO, THREE], ids=["one", "two", "three"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_go_writes_what_jinja_writes(name: str, turns: Conversation, before: Conversation) -> None:
    template = TEMPLATES[name]
    text = go_template(template)
    assert '"""' not in text
    assert fill(text, [*before, *turns]) == rendered(template, [*before, *turns])


def test_a_template_without_a_system_turn_leaves_it_out() -> None:
    template = ChatTemplate(mistral_tokenizer(), NO_SYSTEM)
    filled = fill(go_template(template), [*SYSTEM, *TWO])
    assert filled == rendered(template, TWO)


NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no') }}"
    "{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
LAST_PROMPT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST]' + ('last: ' if loop.last else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("text", [LAST_PROMPT, NO_SYSTEM.replace("bos_token", "messages | length")])
def test_what_go_cannot_say_is_refused(text: str) -> None:
    template = mistral_template()
    other = object.__new__(ChatTemplate)  # most such templates are refused by ChatTemplate itself
    other.__dict__ = template.__dict__ | {"text": text, "name": "theirs"}
    with pytest.raises(UserError, match="the chat template theirs writes other things"):
        go_template(other)


def test_the_begin_token_is_the_tokenizers() -> None:
    assert begins(mistral_template())
    assert not begins(chatml_template())
    assert begins(ChatTemplate(mistral_tokenizer(), WITHOUT_BOS))  # written by the tokenizer
