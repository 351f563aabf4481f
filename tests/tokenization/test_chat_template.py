"""Conversations become the prompts that transformers would make, and no template gets out of its sandbox."""

import datetime
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from octavo.errors import RequestError
from octavo.tokenization.chat_template import ChatTemplate
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.tokenizer import Tokenizer

HI = [{"role": "user", "content": "Hi <b>there</b> & 안녕 🙂"}]
CONVERSATIONS: list[list[dict[str, Any]]] = [
    HI,
    [{"role": "system", "content": "Be brief."}, *HI, {"role": "assistant", "content": "Hello!\n"}, *HI],
    [*HI, {"role": "assistant", "content": ""}, {"role": "note", "name": "clock", "content": '{"hour": 12}'}],
]
TOOLS = [{"type": "function", "function": {"name": "clock", "description": "Tells <the> time — 시각"}}]

DEMANDING_TEMPLATE = """\
{{ bos_token }}
{%- if tools %}
    {{- tools | tojson(indent=2) }} {{ tools[0] | tojson }}
{%- endif %}
{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == "note" %}
        {% continue %}
    {% endif %}
    {% generation %}
    {% set ns.count = ns.count + 1 %}
[{{ message['role'] | upper }}] {{ message.content.strip().split(' ')[0] }}{{ message.get('name', '-') }}
    {% endgeneration %}
    {% if loop.last or ns.count > 9 %}{% break %}{% endif %}
{% endfor %}
{{ ns.count }} {{ messages | map(attribute='role') | list | join(',') }}{{ eos_token }}
{% if add_generation_prompt %}<answer{{ ' thinking' if enable_thinking is defined and enable_thinking }}>{% endif %}
"""


def render(source: str, messages: object = HI, **variables: Any) -> str:
    conversation = Conversation(messages=messages, variables=variables)
    return ChatTemplate(source, {"bos_token": "<s>"}).render(conversation).text


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_smollm2_renders_as_transformers_does(
    messages: list[dict[str, Any]],
    add_generation_prompt: bool,
    smollm2: Tokenizer,
    smollm2_oracle: PreTrainedTokenizerBase,
) -> None:
    expected = smollm2_oracle.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    assert smollm2.render_chat(messages, add_generation_prompt) == expected
    assert smollm2.encode_chat(messages, add_generation_prompt) == smollm2_oracle.encode(
        expected, add_special_tokens=False
    )


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("variables", [{}, {"tools": TOOLS}, {"enable_thinking": True}])
def test_what_templates_use_works_as_in_transformers(
    messages: list[dict[str, Any]], variables: dict[str, Any], smollm2_oracle: PreTrainedTokenizerBase
) -> None:
    template = ChatTemplate(DEMANDING_TEMPLATE, smollm2_oracle.special_tokens_map)
    expected = smollm2_oracle.apply_chat_template(
        messages, chat_template=DEMANDING_TEMPLATE, add_generation_prompt=True, tokenize=False, **variables
    )
    assert template.render(Conversation(messages=messages, variables=variables)).text == expected


def test_a_template_knows_the_date() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.datetime.now().year - past) for past in (0, 1)}


def test_text_parts_are_joined_with_line_breaks() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "one\ntwo"


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ("hi", "messages must be a list, got str"),
        ({"role": "user", "content": "hi"}, "messages must be a list, got dict"),
        ([], "messages must not be empty"),
        (["hi"], r"messages\[0\] must be an object with role and content, got str"),
        ([*HI, {"content": "hi"}], r"messages\[1\]\.role must be a text such as 'user', got None"),
        ([{"role": "", "content": "hi"}], r"messages\[0\]\.role"),
        ([{"role": 3, "content": "hi"}], r"messages\[0\]\.role"),
        ([{"role": "user"}], r"messages\[0\]\.content is missing: send a text or a list of text parts"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content .*got int"),
        ([{"role": "user", "content": ["hi"]}], r"messages\[0\]\.content\[0\] must be"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\]\.type is 'image_url'; .*only 'text'"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text must be a text, got NoneType"),
    ],
)
def test_malformed_messages_are_refused_with_their_place(messages: object, cause: str, smollm2: Tokenizer) -> None:
    with pytest.raises(RequestError, match=cause):
        smollm2.render_chat(messages)


def test_a_model_without_a_template_says_which_flag_gives_one(byte_level_folder: Any, tmp_path: Any) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    with pytest.raises(RequestError, match="no chat template: give one with --chat-template"):
        Tokenizer.from_folder(tmp_path).render_chat(HI)
    given = Tokenizer.from_folder(tmp_path, chat_template="{{ messages[0].role }}")
    assert given.render_chat(HI) == "user"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate; --chat-template"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ nothing.at.all }}", "nothing"),
        ("{% for a in range(10 ** 6) %}{% endfor %}", "Range too big"),
        ("{{ lipsum(n=2) }}", "'lipsum' is undefined"),
    ],
)
def test_a_template_that_fails_refuses_the_request_with_its_own_words(source: str, cause: str) -> None:
    with pytest.raises(RequestError, match=cause):
        render(source)


@pytest.mark.parametrize("source", ["{% if %}", "{% for x in y %}", "{{ 'a' ", "{% unknown %}", "{{ a | nope }}"])
def test_a_template_that_is_not_jinja_is_refused(source: str) -> None:
    with pytest.raises(RequestError, match=r"not valid Jinja: .*--chat-template"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ ('{0.__cla' ~ 'ss__}') | format('') if false else '{x.__class__}'.format_map({'x': ''}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ self.__init__ }}",
        "{{ messages | map(attribute='__class__') | list }}",
        "{{ messages.append(1) }}",
        "{% set _ = messages[0].update({'role': 'system'}) %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_cannot_reach_python_or_change_the_messages(source: str) -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(RequestError):
        render(source, messages)
    assert messages == [{"role": "user", "content": "hi"}]
