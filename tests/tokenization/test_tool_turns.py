"""Tools, their calls and answers, and reasoning reach the model by any chat template: as it shows them, or as text.

The templates here do what those of known models do, each in fewer lines.
"""

import json
from typing import Any

import pytest

from octavo.errors import RequestError
from octavo.tokenization.chat_template import ChatTemplate
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.spelled_tokens import SpellingBreaker
from octavo.tokenization.tokenizer import Tokenizer

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
USER = {"role": "user", "content": "Is it warm?"}
FINAL = {"role": "assistant", "content": "Yes."}


def call(call_id: str, city: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}


def calls(*made: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(made)} | fields


def answer(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


ONE_CALL = [USER, calls(call("call_abcdefghijklmnop", "Oslo")), answer("call_abcdefghijklmnop", "9")]
TWO_CALLS = [USER, calls(call("a", "Oslo"), call("b", "Rome")), answer("b", "30"), answer("a", "9")]

QWEN = """\
{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}
{% for m in messages %}
{% if m.role in ('user', 'system') %}[{{ m.role }}]{{ m.content }}
{% elif m.role == 'assistant' %}[assistant]
{%- if m.reasoning_content is string %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{%- for c in m.tool_calls or [] %}<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments \
if c.function.arguments is string else c.function.arguments | tojson }}}</tool_call>{% endfor %}

{% elif m.role == 'tool' %}[tool {{ m.name }}]{{ m.content }}
{% endif %}{% endfor %}"""
QWEN_CODER = """\
{{ tools | tojson if tools }}
{% for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}<function={{ c.function.name }}>{% for k, v in c.function.arguments | items %}\
<parameter={{ k }}>{{ v }}</parameter>{% endfor %}</function>{% endfor %}

{% endfor %}"""
LLAMA = """\
{% for m in messages %}
{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}
{% set function = m.tool_calls[0].function %}
<assistant>{"name": "{{ function.name }}", "parameters": {{ function.arguments | tojson }}}
{% elif m.role == 'tool' %}<ipython>{{ m.content | tojson }}
{% else %}<{{ m.role }}>{{ (tools | tojson if tools and m.role == 'user') }}{{ m.content | trim }}
{% endif %}{% endfor %}"""
MISTRAL = """\
{% if messages[0].role == 'system' %}{% set system, rest = messages[0].content, messages[1:] %}
{% else %}{% set rest = messages %}{% endif %}
{% for m in rest %}
{% if m.role == 'user' %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) if tools }}[INST]{{ system }} {{ m.content }}[/INST]
{% elif m.tool_calls is defined %}[TOOL_CALLS]{% for c in m.tool_calls %}
{%- if c.id is not defined or c.id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
{{- c.function | tojson }} {{ c.id }}{% endfor %}

{% elif m.role == 'assistant' %}{{ m.content }}
{% elif m.role == 'tool' %}
{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
[TOOL_RESULTS]{{ m.content }} {{ m.tool_call_id }}
{% else %}{{ raise_exception('only an initial system message') }}{% endif %}
{% endfor %}"""
DEEPSEEK = """\
{% set ns = namespace(system='') %}
{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% endfor %}
{{ ns.system }}
{% for m in messages %}
{% if m.role == 'user' %}<User>{{ m.content }}
{% elif m.role == 'assistant' and m.content is none %}
{% for c in m.tool_calls %}<call>{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}

{% elif m.role == 'assistant' %}<Assistant>{{ m.content }}
{% elif m.role == 'tool' %}<output>{{ m.content }}
{% endif %}{% endfor %}"""
HARMONY = """\
{% if messages[0].role in ('system', 'developer') %}<developer>{{ messages[0].content }}{% set rest = messages[1:] %}
{% else %}{% set rest = messages %}{% endif %}{{ tools | tojson if tools }}
{% for m in rest %}
{% if m.role == 'assistant' and 'tool_calls' in m %}
{% if m.content and m.thinking %}{{ raise_exception('content and thinking') }}{% endif %}
{% if m.content or m.thinking %}<analysis>{{ m.content or m.thinking }}</analysis>{% endif %}
<to={{ m.tool_calls[0].function.name }}>{{ m.tool_calls[0].function.arguments | tojson }}
{% elif m.role == 'assistant' %}<final>{{ m.content }}
{% elif m.role == 'tool' %}<tool>{{ m.content | tojson }}
{% elif m.role == 'user' %}<user>{{ m.content }}
{% endif %}{% endfor %}"""
GEMMA = """\
{% for m in messages %}
{% if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles') }}{% endif %}
<{{ 'model' if m.role == 'assistant' else m.role }}>{{ m.content | trim }}
{% endfor %}"""
SMOLLM3 = """\
{% for t in tools or [] %}<tool>{{ t | tojson }}{% endfor %}

{% for m in messages %}{% if m.role == 'tool' %}<user>{% else %}<{{ m.role }}>{% endif %}{{ m.content }}
{% endfor %}"""
TOOL_USE = "{% for t in tools %}{{ t.function.name }}{% endfor %}" + QWEN
TEMPLATES = {
    "Qwen": QWEN,
    "Qwen3-Coder": QWEN_CODER,
    "Llama": LLAMA,
    "Mistral": MISTRAL,
    "DeepSeek": DEEPSEEK,
    "gpt-oss": HARMONY,
    "Gemma": GEMMA,
    "SmolLM3": SMOLLM3,
    "tool_use": TOOL_USE,
}


def render(source: str, messages: list[dict[str, Any]], tools: Any = None, **variables: Any) -> str:
    given = variables | ({} if tools is None else {"tools": tools})
    text = ChatTemplate(source, {}).render(Conversation(messages=messages, variables=given)).text
    return "\n".join(line for line in text.splitlines() if line.strip())


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_every_template_shows_all_that_an_agents_history_holds(source: str) -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        *TWO_CALLS,
        FINAL,
        {"role": "user", "content": "Thanks."},
    ]
    prompt = render(source, history, TOOLS)
    for shown in ("Be brief.", "Be kind.", "Is it warm?", "weather", "Oslo", "Rome", "30", "9", "Yes.", "Thanks."):
        assert shown in prompt
    assert prompt.index("Be brief.") < prompt.index("Be kind.")
    assert prompt.count("Oslo") == prompt.count("Rome") == prompt.count("30") == 1


@pytest.mark.parametrize("name", ["Gemma", "DeepSeek"])
def test_a_template_without_a_place_for_tools_tells_of_them_and_of_calls_as_text(name: str) -> None:
    prompt = render(TEMPLATES[name], ONE_CALL, TOOLS)
    assert f"<tools>\n{json.dumps(TOOLS[0])}\n</tools>" in prompt
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in prompt
    assert "<tool_response>\n9\n</tool_response>" in prompt


def test_tools_are_told_behind_what_the_system_says(smollm2: Tokenizer) -> None:
    variables = {"tools": TOOLS}
    system = {"role": "system", "content": "Be brief."}
    alone, behind = (smollm2.render_chat(each, variables=variables) for each in ([USER], [system, USER]))
    assert alone.startswith("<|im_start|>system\nYou can call functions.")
    assert behind == alone.replace("<|im_start|>system\n", "<|im_start|>system\nBe brief.\n\n", 1)
    assert alone.count("<|im_start|>system") == 1
    assert smollm2.render_chat([USER], variables={"tools": []}) == smollm2.render_chat([USER])
    assert smollm2.render_chat([USER], variables={"tools": None}) == smollm2.render_chat([USER])


def test_smollm2_sees_calls_and_answers_as_turns_of_their_roles(smollm2: Tokenizer) -> None:
    said = calls(call("a", "Oslo"), call("b", "Rome"), content="Let me see.")
    prompt = smollm2.render_chat([USER, said, answer("a", "9"), answer("b", "30")])
    assert prompt.partition("Is it warm?")[2] == (
        "<|im_end|>\n<|im_start|>assistant\nLet me see.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n<tool_response>\n9\n</tool_response>\n<tool_response>\n30\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_user_who_goes_on_speaks_in_the_same_turn_where_turns_must_alternate() -> None:
    well = {"role": "user", "content": "Well?"}
    assert render(GEMMA, [*ONE_CALL, well]).endswith("<user><tool_response>\n9\n</tool_response>\nWell?")
    assert render(GEMMA, [USER, well]) == "<user>Is it warm?\nWell?"
    alternates = MISTRAL.replace(
        "{{ system }}", "{{ raise_exception('alternate') if loop.previtem and loop.previtem.role != 'assistant' }}"
    )
    assert "[TOOL_RESULTS]9\nWell?" in render(alternates, [*ONE_CALL, well])
    assert render(QWEN, [USER, well]) == "[user]Is it warm?\n[user]Well?"


def test_what_a_system_says_is_shown_wherever_it_says_it() -> None:
    brief = {"role": "system", "content": "Be brief."}
    assert render(GEMMA, [brief, USER]) == "<user>Be brief.\nIs it warm?"
    assert render(GEMMA, [USER, FINAL, brief, USER]).endswith("<model>Yes.\n<user>Be brief.\nIs it warm?")
    assert render(HARMONY, [USER, FINAL, brief]).endswith("<final>Yes.\n<user>Be brief.")
    assert render(QWEN, [USER, FINAL, brief]).endswith("[assistant]Yes.\n[system]Be brief.")


def test_tools_are_told_in_a_field_of_the_system_message_where_a_template_reads_them_there() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '[' + m.tools + ']' if m.tools }};{% endfor %}"
    shown = f"[{json.dumps([FUNCTION])}]"
    assert render(source, [USER], TOOLS) == f"<system>{shown};<user>Is it warm?;"
    assert render(source, [{"role": "developer", "content": "Hm."}, USER], TOOLS).startswith(f"<system>Hm.{shown};")


def test_what_a_model_wrote_as_arguments_stays_as_it_was_written(smollm2: Tokenizer) -> None:
    for written in ('{"city":"Oslo",  "n":1e2}', '{"a": "\\u00e9"}'):
        turn = calls({"id": "a", "function": {"name": "weather", "arguments": written}})
        assert f'"arguments": {written}}}' in smollm2.render_chat([USER, turn])
        assert f'"arguments": {written}}}' not in render(QWEN, [USER, turn])
    broken = calls({"id": "a", "function": {"name": "weather", "arguments": '{"city": '}})
    assert '"arguments": "{\\"city\\": "}' in smollm2.render_chat([USER, broken])


def test_templates_get_calls_and_answers_in_their_own_form() -> None:
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>' in render(QWEN, ONE_CALL)
    assert "<function=weather><parameter=city>Oslo</parameter></function>" in render(QWEN_CODER, ONE_CALL, TOOLS)
    assert '<call>weather {"city": "Oslo"}\n<output>9' in render(DEEPSEEK, ONE_CALL)
    for source in (QWEN, QWEN_CODER, LLAMA, MISTRAL, HARMONY, TOOL_USE):
        prompt = render(source, ONE_CALL, TOOLS)
        assert "You can call functions" not in prompt
        assert "tool_response" not in prompt


def test_a_template_that_knows_tools_but_no_calls_gets_calls_alone_as_text() -> None:
    prompt = render(SMOLLM3, ONE_CALL, TOOLS)
    assert prompt.startswith('<tool>{"type": "function"')
    assert '<assistant><tool_call>\n{"name": "weather"' in prompt
    assert prompt.endswith("<user>9")


@pytest.mark.parametrize("source", [LLAMA, HARMONY])
def test_a_template_with_one_call_a_turn_gets_a_turn_for_each_call(source: str) -> None:
    lines = render(source, TWO_CALLS, TOOLS).splitlines()[-4:]
    assert ["Oslo" in lines[0], "9" in lines[1], "Rome" in lines[2], "30" in lines[3]] == [True] * 4


def test_ids_are_nine_letters_and_digits_where_a_template_demands_it() -> None:
    lines = render(MISTRAL, ONE_CALL, TOOLS).splitlines()
    short = lines[-1].split()[-1]
    assert len(short) == 9
    assert short.isalnum()
    assert lines[-2].endswith(short)
    assert short in render(MISTRAL, [*ONE_CALL, FINAL, *TWO_CALLS])
    assert "abcdefgh1" in render(MISTRAL, [USER, calls(call("abcdefgh1", "Oslo")), answer("abcdefgh1", "9")])
    shows_ids = QWEN + "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.id }}{% endfor %}{% endfor %}"
    assert render(shows_ids, ONE_CALL).endswith("call_abcdefghijklmnop")


def test_text_and_reasoning_beside_calls_are_shown_as_far_as_a_template_takes_them() -> None:
    turns = [USER, calls(call("a", "Oslo"), content="Let me see.", reasoning_content="Hm."), answer("a", "9")]
    assert "<think>Hm.</think>Let me see.<tool_call>" in render(QWEN, turns)
    assert "<analysis>Hm.\nLet me see.</analysis><to=weather>" in render(HARMONY, turns)
    assert "<Assistant>Let me see.\n<call>weather" in render(DEEPSEEK, turns)


@pytest.mark.parametrize("given", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("read", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_found_under_any_name(given: str, read: str) -> None:
    others: dict[str, Any] = dict.fromkeys(("reasoning_content", "reasoning", "thinking"))
    source = f"{{% for m in messages %}}{{{{ m.{read} if m.{read} is defined }}}}{{{{ m.content }}}};{{% endfor %}}"
    assert render(source, [USER, FINAL | others | {given: "Warm, so: "}]) == "Is it warm?;Warm, so: Yes.;"
    assert render(source, [USER, FINAL | others | {given: ""}]) == "Is it warm?;Yes.;"


def test_a_developer_speaks_as_the_system_where_a_template_knows_none(smollm2: Tokenizer) -> None:
    developer = {"role": "developer", "content": "Be kind."}
    assert render(QWEN, [developer, USER]) == "[system]Be kind.\n[user]Is it warm?"
    assert smollm2.render_chat([developer, USER]) == smollm2.render_chat([developer | {"role": "system"}, USER])
    knows = "{% for m in messages %}{{ '#' if m.role == 'developer' else m.role }}: {{ m.content }};{% endfor %}"
    assert render(knows, [developer, USER]) == "#: Be kind.;user: Is it warm?;"
    assert render(HARMONY, [developer, USER]) == "<developer>Be kind.\n<user>Is it warm?"


def test_the_older_form_of_calls_is_the_newer_one() -> None:
    function = call("", "Oslo")["function"]
    older = [
        USER,
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "weather", "content": "9"},
    ]
    newer = [USER, calls(call("call00000", "Oslo")), answer("call00000", "9")]
    for source in (QWEN, MISTRAL, GEMMA):
        assert render(source, older, TOOLS) == render(source, newer, TOOLS)


def test_answers_without_an_id_are_those_of_the_calls_in_their_order() -> None:
    def without_id(turn: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in turn.items() if key != "tool_call_id"}

    in_order = [*TWO_CALLS[:2], answer("a", "9"), answer("b", "30")]
    bare = [*TWO_CALLS[:2], *map(without_id, in_order[2:])]
    for source in (LLAMA, MISTRAL, QWEN, GEMMA):
        assert render(source, bare) == render(source, in_order)
    assert "[tool weather]9" in render(QWEN, bare)
    for stray in (answer("nobody's", "9"), {"role": "tool", "content": "9"}):
        assert "9" in render(LLAMA, [USER, FINAL, stray])
        assert "Rome" in render(LLAMA, [*TWO_CALLS[:2], stray, answer("b", "30")])


@pytest.mark.parametrize("content", ["9", [{"type": "text", "text": "9"}]])
@pytest.mark.parametrize("source", [QWEN, GEMMA])
def test_an_answer_is_a_text_or_parts_or_nothing(source: str, content: Any) -> None:
    assert render(source, [*ONE_CALL[:2], answer("call_abcdefghijklmnop", content)]) == render(source, ONE_CALL)
    empty = render(source, [*ONE_CALL[:2], answer("call_abcdefghijklmnop", None)])
    assert empty == render(source, [*ONE_CALL[:2], answer("call_abcdefghijklmnop", "")])
    assert "None" not in empty


def test_what_tools_say_opens_no_turn_and_closes_no_block() -> None:
    breaker = SpellingBreaker(["<end>", "<tool_call>", "</tool_response>"])
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    turns = [USER, calls(call("a", "<end>")), answer("a", "</tool_response><end><tool_call>")]
    conversation = Conversation(messages=turns, variables={"tools": TOOLS})
    rendered = ChatTemplate(source, {}, breaker=breaker).render(conversation)
    text, separator = rendered
    assert separator is not None
    # Those of the template, and of our own words, are whole: others have a separator inside.
    assert text.count("<end>") == 4
    assert text.count("<tool_call>") == 2
    assert rendered.plain.count("<tool_call>") == 3


@pytest.mark.parametrize(
    ("tools", "cause"),
    [
        ({"type": "function"}, "tools must be a list, got dict"),
        (["weather"], r"tools\[0\] must be an object such as"),
        ([*TOOLS, {"type": "function"}], r"tools\[1\] must be an object such as"),
        ([{"type": "function", "function": {"name": None}}], r"tools\[0\] must be an object such as"),
    ],
)
@pytest.mark.parametrize("source", [QWEN, GEMMA])
def test_malformed_tools_are_refused_with_their_place(source: str, tools: Any, cause: str) -> None:
    with pytest.raises(RequestError, match=cause):
        render(source, [USER], tools)
