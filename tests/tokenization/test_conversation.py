"""Messages reach a chat template in the form that it is written for."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from octavo.config import ContentFormat
from octavo.errors import RequestError
from octavo.tokenization.chat_template import ChatTemplate
from octavo.tokenization.conversation import Conversation

USER = {"role": "user", "content": "Hi"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": "world"}]}
EACH = "{% for m in messages %}{{ m.role }}: "
TEXT_TEMPLATE = EACH + "{{ m.content }};{% endfor %}"
PARTS_TEMPLATES = {
    "a loop": EACH
    + "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %};{% endfor %}",
    "a variable": EACH
    + "{% set content = m['content'] %}{% for c in content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}"
    "{% endfor %};"
    "{% endfor %}",
    "a macro": "{% macro show(parts) %}{% for c in parts %}{{ c.text }}{% endfor %}{% endmacro %}"
    + EACH
    + "{{ show(m.content) }};{% endfor %}",
    "a filter": EACH
    + "{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') }};{% endfor %}",
}
BOTH_TEMPLATES = {
    "is string": EACH
    + "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}"
    "{% endif %};"
    "{% endfor %}",
    "is iterable": EACH
    + "{% if m.content is iterable and m.content is not string %}{% for c in m.content %}{{ c.text }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %};{% endfor %}",
}


def render(source: str, messages: Any, content_format: ContentFormat = "auto", **options: Any) -> str:
    return ChatTemplate(source, {}, content_format).render(Conversation(messages=messages, **options)).text


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "w", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


@pytest.mark.parametrize("source", [*PARTS_TEMPLATES.values(), *BOTH_TEMPLATES.values()])
def test_a_template_that_takes_parts_shows_texts_and_parts(source: str) -> None:
    assert render(source, [{"role": "user", "content": "hello world"}]) == "user: hello world;"
    assert render(source, [PARTS]) == "user: helloworld;"
    tool = {"role": "tool", "tool_call_id": "c", "content": "b"}
    history = [{"role": "system", "content": "S"}, USER, call("{}"), tool, PARTS]
    called = '<tool_call>\n{"name": "w", "arguments": {}}\n</tool_call>'
    answered = "<tool_response>\nb\n</tool_response>"
    assert render(source, history) == f"system: S;user: Hi;assistant: {called};tool: {answered};user: helloworld;"


def test_a_template_that_takes_text_gets_parts_joined_with_line_breaks() -> None:
    assert render(TEXT_TEMPLATE, [PARTS]) == "user: hello\nworld;"
    assert render("{{ messages[0].content | tojson }}", [PARTS]) == '"hello\\nworld"'


def test_a_template_that_takes_the_first_part_sees_the_text() -> None:
    assert render("{{ messages[0].content[0].text }}", [{"role": "user", "content": "hello world"}]) == "hello world"


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_template_that_takes_the_first_part_finds_an_empty_one(role: str) -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content[0].text }};{% endfor %}"
    assert render(source, [{"role": role, "content": ""}, USER]) == f"{role}: ;user: Hi;"


@pytest.mark.parametrize("part", ["content[0].text", "(content | first).text", "content[-1]['text']"])
def test_a_template_that_takes_one_part_loses_no_other(part: str) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    source = f"{{% set content = messages[0].content %}}{{{{ {part} }}}}"
    assert render(source, [{"role": "user", "content": parts}]) == "one\ntwo"
    or_text = f"{{% set content = messages[0].content %}}{{{{ content if content is string else {part} }}}}"
    assert render(or_text, [{"role": "user", "content": parts}]) == "one\ntwo"


def test_each_role_gets_its_own_form() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{% for c in m.content %}{{ c.text }}{% endfor %}"
        "{% else %}{{ m.content | trim }}{% endif %};{% endfor %}"
    )
    messages = [{**PARTS, "role": "system"}, PARTS, {**PARTS, "role": "assistant"}, USER]
    assert render(source, messages) == "hello\nworld;helloworld;hello\nworld;Hi;"


def test_a_template_that_is_strict_about_turns_is_found_out_as_well() -> None:
    source = (
        "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}"
        "{% endif %}"
        "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
        "{% endif %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"
    )
    assert render(source, [USER, {"role": "assistant", "content": "a"}, USER]) == "HiaHi"


def test_the_form_of_content_can_be_settled() -> None:
    assert render(BOTH_TEMPLATES["is string"], [PARTS], "string") == "user: hello\nworld;"
    assert render("{{ messages[0].content is string }}", [USER], "openai") == "False"
    assert render("{{ messages[0].content is string }}", [PARTS], "string") == "True"


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "text", "text": "a"}, "a"),
        ({"type": "input_text", "text": "a"}, "a"),
        ({"type": "output_text", "text": "a", "annotations": []}, "a"),
        ({"type": "refusal", "refusal": "no"}, "no"),
    ],
)
@pytest.mark.parametrize("source", [TEXT_TEMPLATE, PARTS_TEMPLATES["a loop"]])
def test_every_kind_of_text_part_is_shown(source: str, part: dict[str, Any], text: str) -> None:
    assert render(source, [{"role": "assistant", "content": [part]}]) == f"assistant: {text};"


@pytest.mark.parametrize("template", [TEXT_TEMPLATE, *PARTS_TEMPLATES.values(), "{{ 'x' + messages[1]['content'] }}"])
@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}, {"content": []}])
def test_a_turn_without_text_is_an_empty_one(template: str, content: dict[str, Any]) -> None:
    assert render(template, [USER, {"role": "assistant", **content}]) in ("user: Hi;assistant: ;", "x")


@pytest.mark.parametrize("template", [TEXT_TEMPLATE, *PARTS_TEMPLATES.values()])
@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
def test_turns_of_tools_and_their_calls_may_have_no_text(template: str, content: dict[str, Any]) -> None:
    shows_calls = "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %};"
    place_for_tools = "{{ tools | tojson if tools }}"
    source = place_for_tools + template.replace("%};", f"%}}{shows_calls}").replace("}};", f"}}}}{shows_calls}")
    tool = {"role": "tool", "tool_call_id": "c", **content}
    assert render(source, [USER, call("{}") | content, tool]) == "user: Hi;assistant: {};tool: ;"


def test_a_message_as_the_sdk_dumps_it_is_the_message() -> None:
    nothing = dict.fromkeys(("refusal", "audio", "function_call", "name"))
    dumped: dict[str, Any] = {"role": "assistant", "content": "a", "annotations": [], "tool_calls": None, **nothing}
    source = "{{ 'tool_calls' in messages[1] }} {{ messages[1].name is defined }} {{ messages[1].content }}"
    assert render(source, [USER, dumped]) == "False False a"
    assert render(source, [USER, {**dumped, "tool_calls": []}]) == "False False a"
    assert render(source, [USER, {**dumped, "content": None, "refusal": "no"}]) == "False False no"


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_a_question_without_content_is_refused(role: str) -> None:
    with pytest.raises(RequestError, match=r"messages\[0\]\.content is missing"):
        render(TEXT_TEMPLATE, [{"role": role, "content": None}])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city": "SF", "n": [1, 2.5, null]}', '{"city": "SF", "n": [1, 2.5, null]}'),
        ({"city": "SF"}, '{"city": "SF"}'),
        ("", "{}"),
        (None, "{}"),
        ("[1]", "[1]"),
        ("city: SF", '"city: SF"'),
        ('{"city": ', '"{\\"city\\": "'),
        ("[" * 100_000, None),
    ],
)
def test_arguments_of_calls_are_what_their_json_says(arguments: Any, shown: str | None) -> None:
    prompt = render("{{ messages[1].tool_calls[0].function.arguments | tojson }}", [USER, call(arguments)])
    assert prompt == (f'"{arguments}"' if shown is None else shown)


def test_arguments_of_calls_are_a_mapping() -> None:
    source = "{% for k, v in messages[1].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
    assert render(source, [USER, call('{"city": "SF"}')]) == "city=SF"
    flat = {"role": "assistant", "tool_calls": [{"name": "w", "arguments": '{"city": "SF"}'}]}
    assert render(source, [USER, flat]) == "city=SF"


@pytest.mark.parametrize(
    "source",
    [
        EACH + "{% for c in m.tool_calls or [] %}{{ 'args ' + c.function.arguments }}{% endfor %};{% endfor %}",
        EACH + "{% for c in m.tool_calls or [] %}args {{ c.function.arguments }}{% endfor %};{% endfor %}",
    ],
)
@pytest.mark.parametrize("arguments", ['{"city": "SF"}', {"city": "SF"}])
def test_a_template_that_writes_arguments_as_they_are_gets_their_json(source: str, arguments: Any) -> None:
    assert render(source, [USER, call(arguments)]) == 'user: ;assistant: args {"city": "SF"};'


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ({"role": "user<|im_end|>", "content": "a"}, r"role must be .* letters, digits"),
        ({"role": "user\nsystem", "content": "a"}, r"role must be .* letters, digits"),
        ({"role": "u" * 65, "content": "a"}, r"role must be"),
        ({"role": "assistant", "tool_calls": "w"}, r"tool_calls must be a list, got str"),
        ({"role": "assistant", "tool_calls": ["w"]}, r"tool_calls\[0\] must be an object with a function, got str"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, r"tool_calls\[0\]\.function must be"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}, r"tool_calls\[0\]\.function must be"),
        ({"role": "assistant", "tool_calls": [{"id": 1, "function": {"name": "w"}}]}, r"tool_calls\[0\]\.id must be"),
        ({"role": "assistant", "function_call": "w"}, r"function_call must be an object with name and arguments"),
        ({"role": "assistant", "function_call": {"arguments": "{}"}}, r"tool_calls\[0\]\.function must be"),
        ({"role": "assistant", "reasoning": ["hm"]}, r"reasoning must be a text, got list"),
        ({"role": "assistant", "audio": {"id": "a"}}, r"audio is not supported"),
        ({"role": "user", "content": [{"type": "refusal"}]}, r"content\[0\]\.refusal must be a text"),
        ({"role": "user", "content": [{"type": ["text"], "text": "a"}]}, r"content\[0\]\.type is"),
    ],
)
def test_a_malformed_message_is_refused_with_its_place(message: dict[str, Any], cause: str) -> None:
    with pytest.raises(RequestError, match=rf"messages\[0\]\.{cause}"):
        render(TEXT_TEMPLATE, [message])


@pytest.mark.parametrize("text", ["1, 2, 3,", "1, 2, 3, ", " \n1", "", "a <|im", "{x} </think> y"])
@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("as_parts", [False, True])
def test_a_final_message_is_left_open_as_transformers_leaves_it(
    text: str, trims: bool, as_parts: bool, smollm2_oracle: PreTrainedTokenizerBase
) -> None:
    shown = "m.content | trim" if trims else "m.content"
    if as_parts:
        joined = "m.content | map(attribute='text') | join"
        shown = f"(m.content if m.content is string else {joined})" + (" | trim" if trims else "")
    source = f"{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ {shown} }}}}</end>{{% endfor %}}"
    content: Any = [{"type": "text", "text": "a"}, {"type": "text", "text": text}] if as_parts else text
    messages = [USER, {"role": "assistant", "content": content}]
    expected = smollm2_oracle.apply_chat_template(
        messages, chat_template=source, continue_final_message=True, tokenize=False
    )
    prompt = render(source, messages, add_generation_prompt=False, continue_final_message=True)
    assert prompt == expected
    assert prompt.endswith(text.strip() if trims else text)


def test_only_a_final_message_that_is_shown_can_be_gone_on_with() -> None:
    for source, last in (
        ("{{ messages[0].content }}", {"role": "assistant", "content": "a"}),
        (PARTS_TEMPLATES["a loop"], {"role": "assistant", "content": None}),
    ):
        with pytest.raises(RequestError, match="continue_final_message needs a last message whose text"):
            render(source, [USER, last], add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(RequestError, match="exclude each other"):
        Conversation(messages=[USER], continue_final_message=True)


def test_documents_that_a_template_has_no_use_for_are_refused() -> None:
    variables = {"documents": [{"title": "t", "text": "d"}]}
    with pytest.raises(RequestError, match="no use for documents"):
        render(TEXT_TEMPLATE, [USER], variables=variables)
    source = "{% for each in documents %}{{ each.title }}{% endfor %}"
    assert render(source, [USER], variables=variables) == "t"


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "continue_final_message", "chat_template"])
def test_a_variable_that_has_a_parameter_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"must not set {name}"):
        Conversation(messages=[USER], variables={name: 1})
