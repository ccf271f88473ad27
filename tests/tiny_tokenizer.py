"""Small byte-level tokenizers and chat templates, for every test that needs text as tokens."""

from functools import cache
from importlib.resources import files

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlhf_forge.data.render import ChatTemplate

MISTRAL_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>")
"""Special tokens; their ids are their places."""
PLAIN_TOKENS = ("<unk>", "<s>", "</s>")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "What is the capital of Lomar? The capital of Lomar is Brevo. Hello, and thank you for asking.",
    "Human: Is snow white or black? Assistant: Snow is white. A system that helps people.",
)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COUNTS_TURNS = (
    "{{ bos_token }}{{ messages | length }} turns:"
    "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
)
"""Breaks the prefix property: what stands first depends on what comes last."""
NEVER_ENDS = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
WITHOUT_BOS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' + "
    "message['content'] + '[/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


@cache
def _backend(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if "<s>" in special:
        # As Mistral's does, it writes the begin token when asked for special tokens.
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", special.index("<s>"))]
        )
    return tokenizer.to_str()


def mistral_tokenizer(
    *, pad_is_eos: bool = False, chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """One with Mistral's control tokens."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(_backend(MISTRAL_TOKENS)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>" if pad_is_eos else "<pad>",
        chat_template=chat_template,
    )


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """One to which [INST] is text like any other, without a padding token."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(_backend(PLAIN_TOKENS)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """One with ChatML's control tokens, and its template; texts end otherwise than turns."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(_backend(CHATML_TOKENS)),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )


@cache
def mistral_template() -> ChatTemplate:
    """The template that the package ships, over `mistral_tokenizer`."""
    return ChatTemplate(mistral_tokenizer(), mistral_text(), name="mistral")


@cache
def chatml_template() -> ChatTemplate:
    """ChatML over its own tokenizer."""
    return ChatTemplate(chatml_tokenizer(), CHATML, name="chatml")


def mistral_text() -> str:
    """Text of the shipped template."""
    return files("rlhf_forge.data").joinpath("templates", "mistral.jinja").read_text()
