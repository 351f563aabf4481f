"""Names that other servers have for fields: the answer is that of the field's own name."""

from collections.abc import Mapping
from typing import Any

import pytest

from octavo.server.openai.aliases import CHAT_ALIASES, TEXT_ALIASES, Alias, own_fields
from server.conftest import Server

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Name a colour."}]},
    COMPLETE: {"prompt": "The sea is"},
}
BASE = {"max_tokens": 6, "temperature": 0, "return_token_ids": True}


def send(server: Server, path: str, fields: dict[str, Any]) -> Any:
    with server.http() as http:
        return http.post(path, json=ASKED[path] | fields)


def told(answer: dict[str, Any]) -> Any:
    """An answer without what every one has of its own."""
    return answer["choices"], answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("aliases", [TEXT_ALIASES, CHAT_ALIASES], ids=["completions", "chat"])
@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        ({"max_new_tokens": 3}, {"max_tokens": 3}),
        ({"n_predict": 3}, {"max_tokens": 3}),
        ({"num_predict": 3}, {"max_tokens": 3}),
        ({"min_new_tokens": 5}, {"min_tokens": 5}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_words": ["a"]}, {"stop": ["a"]}),
        ({"stopping_strings": ["a"]}, {"stop": ["a"]}),
        ({"custom_stopping_strings": ["a"]}, {"stop": ["a"]}),
        ({"no_stop_trim": True}, {"include_stop_str_in_output": True}),
        ({"num_return_sequences": 2}, {"n": 2}),
        ({"n_cmpl": 2}, {"n": 2}),
        ({"return_tokens": True}, {"return_token_ids": True}),
        ({"suppress_tokens": [5, 6]}, {"bad_words_ids": [[5], [6]]}),
        ({"banned_tokens": [5, 6]}, {"bad_words_ids": [[5], [6]]}),
        ({"custom_token_bans": "5,  6"}, {"bad_words_ids": [[5], [6]]}),
        ({"truncate": 2}, {"truncate_prompt_tokens": 2}),
        ({"num_beams": 2}, {"use_beam_search": True, "best_of": 2}),
        ({"repeat_penalty": 1.5, "repeat_last_n": -1}, {"repetition_penalty": 1.5, "repeat_last_n": -1}),
        ({"random_seed": 5}, {"seed": 5}),
        ({"sampling_seed": 5}, {"seed": 5}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"extra_body": {"max_new_tokens": 2, "top_k": 1}, "n": 3}, {"max_tokens": 2, "top_k": 1, "n": 3}),
    ],
)
def test_an_alias_is_read_as_the_field(
    theirs: dict[str, Any], own: dict[str, Any], aliases: Mapping[str, Alias]
) -> None:
    assert own_fields(theirs, aliases) == own


def test_endpoints_have_names_of_their_own() -> None:
    assert own_fields({"n_probs": 2}, TEXT_ALIASES) == {"logprobs": 2}
    assert own_fields({"top_n_tokens": 2}, CHAT_ALIASES) == {"logprobs": True, "top_logprobs": 2}
    assert own_fields({"return_full_text": True}, TEXT_ALIASES) == {"echo": True}
    assert own_fields({"max_completion_tokens": 2}, TEXT_ALIASES) == {"max_tokens": 2}
    assert own_fields({"max_completion_tokens": 2}, CHAT_ALIASES) == {"max_completion_tokens": 2}


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_aliases_ask_for_the_answer_that_the_fields_ask_for(server: Server, path: str) -> None:
    theirs = {"max_new_tokens": 5, "min_new_tokens": 3, "stop_sequences": ["e"], "no_stop_trim": True, "n_cmpl": 2}
    theirs |= {"return_tokens": True, "suppress_tokens": [441, 28], "truncate": 2, "random_seed": 5, "n_probs": 1}
    theirs |= {"repeat_penalty": 1.5, "repeat_last_n": -1}
    own = {"max_tokens": 5, "min_tokens": 3, "stop": "e", "include_stop_str_in_output": True, "n": 2}
    own |= {"return_token_ids": True, "bad_words_ids": [[441], [28]], "truncate_prompt_tokens": 2, "seed": 5}
    own |= {"repetition_penalty": 1.5, "logprobs": 1} | ({"logprobs": True, "top_logprobs": 1} if path == CHAT else {})
    answers = [send(server, path, fields | {"temperature": 1.5}) for fields in (theirs, own)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert told(answers[0].json()) == told(answers[1].json())


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_banned_tokens_are_not_generated_and_banned_sequences_not_as_a_whole(server: Server, path: str) -> None:
    first, second, third = send(server, path, BASE).json()["choices"][0]["token_ids"][:3]
    without = send(server, path, BASE | {"suppress_tokens": [first, second]}).json()["choices"][0]["token_ids"]
    assert not {first, second} & set(without)
    split = send(server, path, BASE | {"bad_words_ids": [[second, third]]}).json()["choices"][0]["token_ids"]
    assert split[:2] == [first, second]
    assert split[2] != third
    wrong = send(server, path, {"bad_words_ids": [[5], [49152]]}).json()["error"]["message"]
    assert "bad_words_ids holds token id 49152" in wrong


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"max_tokens": 3, "n_predict": 4}, ("n_predict", "max_tokens")),
        ({"max_new_tokens": 3, "n_predict": 4}, ("n_predict", "max_new_tokens")),
        ({"stop": ["a"], "stop_sequences": ["b"]}, ("stop_sequences", "stop")),
        ({"do_sample": False, "temperature": 0.5}, ("do_sample", "temperature")),
        ({"extra_body": {"n": 2}, "n": 1}, ("extra_body.n", "n")),
        ({"extra_body": {"n_cmpl": 2}, "n": 1}, ("n_cmpl", "n")),
    ],
)
def test_two_names_with_different_values_are_refused(
    server: Server, fields: dict[str, Any], names: tuple[str, str]
) -> None:
    answer = send(server, CHAT, fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == names[0]
    assert error["message"] == f"{names[0]} and {names[1]} say different things: send one of them"


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_two_names_with_one_value_and_names_that_ask_for_nothing_are_taken(server: Server, path: str) -> None:
    fields = {"max_tokens": 2, "n_predict": 2, "max_new_tokens": None, "stop": ["zz"], "stop_words": []}
    neutral = {"n_cmpl": 1, "num_beams": 1, "min_new_tokens": 0, "repeat_penalty": 1.0, "custom_token_bans": ""}
    answer = send(server, path, fields | neutral | {"extra_body": {}, "n": 2, "do_sample": True, "banned_tokens": []})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop_words", "a"),
        ("do_sample", 1),
        ("num_beams", "2"),
        ("suppress_tokens", 5),
        ("custom_token_bans", "5;6"),
        ("repeat_penalty", 1.1),
        ("extra_body", [1]),
    ],
)
def test_a_value_that_means_nothing_here_is_refused_by_the_name_that_was_sent(
    server: Server, name: str, value: Any
) -> None:
    error = send(server, COMPLETE, {"max_tokens": 1, name: value}).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", name)


def test_caps_hold_under_every_name(server: Server) -> None:
    for fields, flag in (
        ({"stop_sequences": ["a"] * 17}, "--max-stop-strings"),
        ({"extra_body": {"stop": ["a"] * 17}}, "--max-stop-strings"),
        ({"suppress_tokens": [5] * 4097}, "--max-token-ids"),
        ({"num_return_sequences": 65}, "--max-n"),
    ):
        assert flag in send(server, COMPLETE, fields).json()["error"]["message"]


def test_a_negative_number_of_tokens_is_as_many_as_fit() -> None:
    assert own_fields({"n_predict": -1}, TEXT_ALIASES)["max_tokens"] > 10**9
    assert own_fields({"num_predict": -2}, CHAT_ALIASES)["max_tokens"] > 10**9


def test_the_description_tells_the_other_names(server: Server) -> None:
    with server.http() as http:
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
    for body, aliases in (("ChatBody", CHAT_ALIASES), ("CompletionBody", TEXT_ALIASES)):
        names = schemas[body]["x-other-names"]
        assert names.keys() == aliases.keys()
        assert names["max_new_tokens"] == "max_tokens"
        fields = {field for told in names.values() for field in told.split(", ")}
        assert fields <= schemas[body]["properties"].keys()
