"""Anthropic's conversations and blocks, without a server: what they become, and what is refused."""

import hashlib
from base64 import b64encode
from typing import Any

import msgspec
import pytest

from octavo.answers.parts import CallArguments, CallStart, Part, Reasoning, Text
from octavo.answers.tools import ToolUse
from octavo.errors import RequestError
from octavo.server.anthropic.blocks import BlockWriter, blocks_of
from octavo.server.anthropic.body import PromptBody
from octavo.server.anthropic.conversation import chat_messages
from octavo.server.errors import ApiError

USER = {"role": "user", "content": "hi"}
PARTS: list[Part] = [
    Reasoning("Hm. "),
    Reasoning("Yes."),
    Text("Let me "),
    Text("look."),
    CallStart(0, "look", "call_1"),
    CallArguments(0, '{"where": "he'),
    CallArguments(0, 're"}'),
    CallStart(1, "think", None),
    CallArguments(1, "{}"),
]


def use_of(**fields: Any) -> ToolUse:
    return PromptBody.model_validate({"messages": [USER], **fields}).tool_use()


def builtins(value: Any) -> Any:
    return msgspec.to_builtins(value)


def test_a_conversation_with_tools_and_thoughts_becomes_messages_of_a_chat_template() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "ä"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "42"}]}
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    messages: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "ok"}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]
    assert chat_messages("Be good.", messages) == [
        {"role": "system", "content": "Be good."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "ok",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "ä"}'}}],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "42"},
        {"role": "user", "content": "and?"},
    ]


@pytest.mark.parametrize(
    "system",
    [
        "x-anthropic-billing-header: cch=1f2;\nBe good.",
        [{"type": "text", "text": "x-anthropic-billing-header: cch=9"}, {"type": "text", "text": "Be good."}],
    ],
)
def test_a_billing_line_that_changes_with_each_request_is_left_out(system: Any) -> None:
    assert chat_messages(system, [USER])[0] == {"role": "system", "content": "Be good."}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": [{"type": "image", "source": {}}]}, "content[0].type is 'image'"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "content[0].text"),
        ({"role": "user", "content": [{"type": "tool_result"}]}, "content[0].tool_use_id"),
        ({"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}]}, ".input"),
        ({"role": "assistant", "content": [{"type": "server_tool_use"}]}, "content[0].type is 'server_tool_use'"),
    ],
)
def test_what_is_no_text_and_no_call_is_refused_with_its_place(message: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError) as refusal:
        chat_messages(None, [message])
    assert told in str(refusal.value)


def test_blocks_come_in_order_with_the_arguments_of_calls_read() -> None:
    signature = b64encode(hashlib.sha256(b"Hm. Yes.").digest()).decode()
    direct = {"type": "direct"}
    assert builtins(blocks_of(PARTS)) == [
        {"type": "thinking", "thinking": "Hm. Yes.", "signature": signature},
        {"type": "text", "text": "Let me look.", "citations": []},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"where": "here"}, "caller": direct},
        {"type": "tool_use", "id": "toolu_", "name": "think", "input": {}, "caller": direct},
    ]


def test_the_events_of_a_block_are_its_start_its_pieces_and_its_end_one_block_at_a_time() -> None:
    writer = BlockWriter()
    events = [builtins(event) for event in (*writer.write(PARTS), *writer.end())]
    open_blocks: list[int] = []
    seen = []
    for event in events:
        if event["type"] == "content_block_start":
            assert open_blocks == []
            open_blocks.append(event["index"])
            seen.append(event["index"])
        elif event["type"] == "content_block_stop":
            assert open_blocks == [event["index"]]
            open_blocks = []
        else:
            assert open_blocks == [event["index"]]
    assert seen == [0, 1, 2, 3]
    assert open_blocks == []


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a": [1, 2', {"a": [1, 2]}),
        ('{"a": "Zur', {"a": "Zur"}),
        ("", {"INVALID_JSON": ""}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ('{"a": oops}', {"INVALID_JSON": '{"a": oops}'}),
    ],
)
def test_arguments_that_are_cut_short_are_read_as_far_as_they_go_and_others_quoted(arguments: str, read: Any) -> None:
    [call] = blocks_of([CallStart(0, "f", "call_1"), CallArguments(0, arguments)])
    assert builtins(call)["input"] == read


def test_tools_of_anthropics_own_are_left_out() -> None:
    own = {"type": "web_search_20250305", "name": "web_search"}
    mine = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {}}}}
    use = use_of(tools=[own, mine], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert [tool.name for tool in use.tools] == ["f"]
    assert (use.choice, use.parallel, use.named) == ("required", False, None)
    assert use_of(tools=[mine], tool_choice={"type": "tool", "name": "f"}).named == "f"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tools": [{"name": "f g"}]}, "tools[0].name"),
        ({"tools": [{"name": "f", "input_schema": []}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0] has OpenAI's form"),
        ({"tools": [{"name": "f"}, {"name": "f"}]}, "'f'"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "'f'"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"tool_choice": {"type": "sometimes"}}, "tool_choice.type"),
        ({"tool_choice": {"type": []}}, "tool_choice.type"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "disable_parallel_tool_use"),
    ],
)
def test_a_wrong_tool_is_refused_by_name(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError) as refusal:
        use_of(**fields)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"thinking": {"type": []}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": True}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2**70}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": 3}}, "output_config.effort"),
    ],
)
def test_thinking_that_is_malformed_is_refused_with_its_place(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError) as refusal:
        PromptBody.model_validate({"messages": [USER], **fields}).reasoning_ask(does_think=True)
    assert told in str(refusal.value)
