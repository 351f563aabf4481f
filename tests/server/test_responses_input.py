"""The input of /v1/responses, as the messages that chat templates are written for."""

import base64
from typing import Any

import pytest

from octavo.errors import RequestError
from octavo.server.openai.responses_input import chat_messages, encrypted

CALL = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a": 1}'}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_text_is_what_a_user_says() -> None:
    assert chat_messages(None, "Hi") == [user("Hi")]
    assert chat_messages("Be brief.", "Hi") == [{"role": "system", "content": "Be brief."}, user("Hi")]


def test_items_of_an_assistant_are_one_turn_and_each_result_of_a_tool_is_one() -> None:
    messages = chat_messages(
        None,
        [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "1 + 1? 2 + 2?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
            CALL,
            {**CALL, "call_id": "call_2", "arguments": '{"a": 2}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "2"},
            {
                "type": "function_call_output",
                "call_id": "call_2",
                "output": [{"type": "input_text", "text": "4"}, {"type": "input_text", "text": "!"}],
            },
            {"role": "assistant", "content": "2 and 4."},
            {"role": "user", "content": "Thanks."},
        ],
    )
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": "add", "arguments": f'{{"a": {number}}}'}}
        for number in (1, 2)
    ]
    said = {"role": "assistant", "content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": calls}
    parts = [{"type": "text", "text": "4"}, {"type": "text", "text": "!"}]
    assert messages == [
        user("1 + 1? 2 + 2?"),
        said,
        {"role": "tool", "content": "2", "tool_call_id": "call_1", "name": "add"},
        {"role": "tool", "content": parts, "tool_call_id": "call_2", "name": "add"},
        {"role": "assistant", "content": "2 and 4."},
        user("Thanks."),
    ]


def test_instructions_and_what_developers_say_first_are_one_system_message() -> None:
    messages = chat_messages(
        "A", [{"role": "developer", "content": "B"}, user("C"), {"role": "system", "content": "D"}]
    )
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]),
        ("user", "C"),
        ("system", "D"),
    ]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"encrypted_content": encrypted("Für mich.")}, "Für mich."),
        ({"content": [{"type": "reasoning_text", "text": "A"}], "encrypted_content": encrypted("B")}, "A"),
        ({"encrypted_content": "gAAAAAB-of-others", "summary": [{"type": "summary_text", "text": "C"}]}, "C"),
        ({"encrypted_content": "gAAAAAB-of-others", "summary": []}, None),
        ({"encrypted_content": "octavo:" + base64.b64encode(b"\xff").decode(), "content": None}, None),
    ],
    ids=str,
)
def test_reasoning_comes_back_in_each_form_that_clients_keep_it_in(item: dict[str, Any], told: str | None) -> None:
    [turn] = chat_messages(None, [{"type": "reasoning", "id": "rs_1", **item}, {"role": "assistant", "content": "Yes"}])
    assert turn.get("reasoning_content") == told
    assert turn["content"] == "Yes"


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "an item at least"),
        (["Hi"], r"input\[0\] must be an object"),
        ([{"type": "item_reference", "id": "msg_1"}], r"input\[0\] refers to an item by its id"),
        ([{"id": "msg_1"}], "refers to an item"),
        ([user("Hi"), {"type": "web_search_call", "id": "ws_1"}], r"input\[1\].type is 'web_search_call'"),
        ([{"type": ["message"]}], r"input\[0\].type is"),
        ([{"role": "tool", "content": "4"}], "role is 'tool'"),
        ([{"role": "user"}], "content must be a text or a list"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], r"content\[0\].type is 'input_im"),
        ([{"role": "user", "content": ["Hi"]}], r"content\[0\].type"),
        ([{"role": "user", "content": [{"type": "input_text", "text": 4}]}], r"content\[0\].text must be a text"),
        ([{"type": "function_call", "call_id": "a", "name": "b"}], r"input\[0\].arguments must be a text"),
        ([{"type": "function_call_output", "output": "4"}], r"input\[0\].call_id must be a text"),
        ([{"type": "function_call_output", "call_id": "a", "output": [{"type": "input_file"}]}], "'input_file'"),
        ([{"type": "reasoning", "content": [{"type": "text", "text": "A"}]}], "content must be a list of"),
    ],
    ids=str,
)
def test_what_a_model_cannot_be_told_is_refused_with_its_place(items: list[Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        chat_messages("Be brief.", items)
