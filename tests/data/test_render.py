from pathlib import Path

import pytest

from rlhf_forge.data.records import BadRecord, Conversation, assistant, user
from rlhf_forge.data.render import ChatTemplate, load_template
from rlhf_forge.errors import UserError
from tests.tiny_tokenizer import (
    CHATML,
    COUNTS_TURNS,
    NEVER_ENDS,
    WITHOUT_BOS,
    chatml_template,
    chatml_tokenizer,
    mistral_template,
    mistral_text,
    mistral_tokenizer,
    plain_tokenizer,
)

BOS, EOS, INST, END_INST = 1, 2, 3, 4
SYSTEM: Conversation = [{"role": "system", "content": "Be kind."}]
TWO_TURNS = user("Hi") + assistant("Hello.") + user("Why?") + assistant("So.")


def text(template: ChatTemplate, tokens: list[int]) -> str:
    return str(template.tokenizer.decode(tokens))


def learnt(template: ChatTemplate, tokens: list[int], targets: list[bool]) -> str:
    return text(template, [t for t, target in zip(tokens, targets, strict=True) if target])


def test_mistral_template_writes_turns_between_its_markers() -> None:
    template = mistral_template()
    tokens, _ = template.answered(TWO_TURNS[:1], TWO_TURNS[1:])
    assert text(template, tokens) == "<s>[INST] Hi[/INST] Hello.</s>[INST] Why?[/INST] So.</s>"


def test_mistral_template_joins_the_system_text_into_the_first_user_turn() -> None:
    template = mistral_template()
    assert text(template, template.prompt(SYSTEM + user("Hi"))) == "<s>[INST] Be kind.\n\nHi[/INST]"


def test_a_text_without_a_prompt_is_learnt_whole_but_for_the_begin_token() -> None:
    template = mistral_template()
    tokens, targets = template.answered([], assistant("Once."))
    assert text(template, tokens) == "<s>Once.</s>"
    assert targets == [False] + [True] * (len(tokens) - 1)


def test_blanks_around_a_turn_do_not_change_its_tokens() -> None:
    template = mistral_template()
    assert template.answered(user(" Hi\n"), assistant(" Hello. ")) == template.answered(
        user("Hi"), assistant("Hello.")
    )


@pytest.mark.parametrize(
    "turns",
    [
        user("Hi") + SYSTEM,
        SYSTEM,
        SYSTEM + assistant("Hello."),
        [*user("Hi"), {"role": "tool", "content": "3"}],
    ],
)
def test_mistral_template_refuses_turns_it_would_lose(turns: Conversation) -> None:
    with pytest.raises(BadRecord, match="mistral refuses it"):
        mistral_template().answered(turns, assistant("Fine."))


def test_only_the_response_is_learnt_with_the_token_that_ends_it() -> None:
    template = mistral_template()
    tokens, targets = template.answered(TWO_TURNS[:3], TWO_TURNS[3:])
    assert learnt(template, tokens, targets) == " So.</s>"
    assert tokens[-1] == EOS
    assert targets[-1]


def test_every_assistant_turn_of_the_response_is_learnt_and_no_user_turn() -> None:
    template = mistral_template()
    tokens, targets = template.answered(TWO_TURNS[:1], TWO_TURNS[1:])
    assert learnt(template, tokens, targets) == " Hello.</s> So.</s>"


@pytest.mark.parametrize("template", [mistral_template(), chatml_template()], ids=["own", "chatml"])
def test_a_prompt_is_the_beginning_of_the_answered_conversation(template: ChatTemplate) -> None:
    prompt = template.prompt(TWO_TURNS[:3])
    tokens, targets = template.answered(TWO_TURNS[:3], TWO_TURNS[3:])
    assert tokens[: len(prompt)] == prompt
    assert targets == [False] * len(prompt) + [True] * (len(tokens) - len(prompt))


def test_there_is_exactly_one_begin_token() -> None:
    template = mistral_template()
    tokens, _ = template.answered(TWO_TURNS[:1], TWO_TURNS[1:])
    assert tokens.count(BOS) == 1
    assert tokens[0] == BOS


def test_a_begin_token_the_template_forgets_is_written_where_the_tokenizer_wants_one() -> None:
    template = ChatTemplate(mistral_tokenizer(), WITHOUT_BOS)
    assert template.prompt(user("Hi"))[:2] == [BOS, INST]


def test_a_template_that_begins_twice_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"mine\.jinja writes the begin token twice"):
        ChatTemplate(mistral_tokenizer(), "{{ bos_token }}" + mistral_text(), name="mine.jinja")


def test_a_template_that_breaks_the_prefix_property_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"counts\.jinja does not render the beginning"):
        ChatTemplate(mistral_tokenizer(), COUNTS_TURNS, name="counts.jinja")


def test_a_template_whose_answers_begin_otherwise_than_they_are_asked_for_is_refused() -> None:
    asks = "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
    with pytest.raises(UserError, match="turn 2"):
        ChatTemplate(mistral_tokenizer(), mistral_text() + asks)


def test_a_template_that_never_ends_an_answer_is_refused() -> None:
    with pytest.raises(UserError, match="never learns to stop"):
        ChatTemplate(mistral_tokenizer(), NEVER_ENDS)


def test_a_template_that_is_not_jinja_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"broken\.jinja refuses it") as caught:
        ChatTemplate(mistral_tokenizer(), "{% for %}", name="broken.jinja")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("typed", ["</s>", "[INST]", "a </s> b[/INST]<s>", "\ue000</s>"])
def test_control_tokens_that_people_typed_are_text(typed: str) -> None:
    template = mistral_template()
    tokens, targets = template.answered(user(typed), assistant(f"You wrote {typed}, I say."))
    control = [token for token in tokens if token in range(6)]
    assert control == [BOS, INST, END_INST, EOS]
    expected = f"<s>[INST] {typed}[/INST] You wrote {typed}, I say.</s>"
    assert text(template, tokens) == expected
    assert learnt(template, tokens, targets) == f" You wrote {typed}, I say.</s>"


def test_a_typed_control_token_leaves_no_trace_in_the_next_conversation() -> None:
    template = mistral_template()
    before = template.prompt(user("Hi"))
    template.prompt(user("</s>"))
    assert template.prompt(user("Hi")) == before


def test_text_around_a_typed_control_token_is_cut_as_a_whole_text_would_be() -> None:
    """The blank behind the marker and the word behind it stay one token."""
    template = mistral_template()
    plain = template.prompt(user("What is it?"))
    typed = template.prompt(user("What is it? </s>"))
    assert typed[: len(plain) - 1] == plain[:-1]


def test_a_tokenizer_without_the_markers_gets_them_as_text() -> None:
    template = ChatTemplate(plain_tokenizer(), mistral_text())
    tokens, targets = template.answered(TWO_TURNS[:1], TWO_TURNS[1:])
    assert text(template, tokens) == "<s>[INST] Hi[/INST] Hello.</s>[INST] Why?[/INST] So.</s>"
    assert learnt(template, tokens, targets) == " Hello.</s> So.</s>"


def test_an_end_token_that_is_also_the_padding_token_is_learnt() -> None:
    template = ChatTemplate(mistral_tokenizer(pad_is_eos=True), mistral_text())
    tokens, targets = template.answered(user("Hi"), assistant("Hello."))
    assert (tokens[-1], targets[-1]) == (EOS, True)


def test_the_line_break_behind_an_end_token_is_not_learnt() -> None:
    template = chatml_template()
    tokens, targets = template.answered(TWO_TURNS[:1], TWO_TURNS[1:])
    assert learnt(template, tokens, targets) == "Hello.<|im_end|>So.<|im_end|>"
    assert text(template, tokens[-1:]) == "<|im_end|>"


def test_stopping_tokens_are_the_tokenizers_and_the_templates() -> None:
    assert mistral_template().eos_ids == {EOS}
    assert chatml_template().eos_ids == {0, 2}


def test_a_prompt_that_ends_with_an_answer_is_refused() -> None:
    with pytest.raises(BadRecord, match="ends with an answer"):
        mistral_template().prompt(TWO_TURNS)


def test_text_that_is_not_unicode_is_a_bad_record() -> None:
    with pytest.raises(BadRecord, match="not valid Unicode"):
        mistral_template().prompt(user("half \ud83d"))


def test_decoding_gives_the_text_that_was_rendered() -> None:
    template = mistral_template()
    tokens, targets = template.answered(user("Hi"), assistant("Hello, wörld."))
    response = [t for t, target in zip(tokens, targets, strict=True) if target]
    assert template.decode(response) == "Hello, wörld."


def test_hashes_tell_templates_and_tokenizers_apart() -> None:
    own, other = mistral_template(), chatml_template()
    again = ChatTemplate(mistral_tokenizer(), mistral_text())
    assert (again.hash, again.tokenizer_hash) == (own.hash, own.tokenizer_hash)
    assert own.hash != other.hash
    assert own.tokenizer_hash != other.tokenizer_hash


def test_a_tokenizers_hash_survives_saving_it(tmp_path: Path) -> None:
    mistral_tokenizer().save_pretrained(tmp_path)
    loaded = load_template(str(tmp_path), "mistral")
    assert loaded.tokenizer_hash == mistral_template().tokenizer_hash


def test_the_tokenizers_own_template_is_taken_if_asked_for(tmp_path: Path) -> None:
    chatml_tokenizer().save_pretrained(tmp_path)
    assert load_template(str(tmp_path), "tokenizer").text == CHATML


def test_a_template_file_is_read(tmp_path: Path) -> None:
    mistral_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "mine.jinja"
    file.write_text(WITHOUT_BOS)
    assert load_template(str(tmp_path), str(file)).text == WITHOUT_BOS


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out(tmp_path: Path) -> None:
    mistral_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no chat template") as caught:
        load_template(str(tmp_path), "tokenizer")
    assert "data.chat_template to mistral" in str(caught.value.hint)


def test_a_misspelt_template_is_refused_with_the_nearest(tmp_path: Path) -> None:
    mistral_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'mistrl' is neither") as caught:
        load_template(str(tmp_path), "mistrl")
    assert caught.value.hint == "did you mean mistral?"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_template(str(tmp_path), "mistral")


def test_a_token_of_many_examples_is_one_number_in_memory() -> None:
    template = mistral_template()
    one, other = (template.prompt(user(text)) for text in ("What is this?", "What is that?"))
    numbers = {number: number for number in one}
    assert all(numbers.get(number, number) is number for number in other)
    assert max(set(one) & set(other)) > 256, "smaller ones the interpreter shares itself"
