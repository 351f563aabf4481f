"""What a client sees of guesses at tokens: faster answers, counted in the usage and in /metrics, and the same."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from server.conftest import until
from server.test_observability import samples

ASK: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Why is the sea salty?"}],
    "max_tokens": 48,
    "temperature": 0,
}


def test_an_answer_that_was_predicted_is_the_same_and_its_guesses_are_counted(serve: Any) -> None:
    with serve() as server, server.http() as http:
        client: OpenAI = server.openai()
        plain = client.chat.completions.create(**ASK)
        before = samples(http)
        text = plain.choices[0].message.content or ""
        pieces: Any = [{"type": "text", "text": text[:40]}, {"type": "text", "text": text[40:]}]
        predicted = client.chat.completions.create(**ASK, prediction={"type": "content", "content": pieces})
        assert predicted.choices[0].message.content == text
        assert predicted.usage is not None
        details = predicted.usage.completion_tokens_details
        assert details is not None
        num_accepted, num_rejected = details.accepted_prediction_tokens, details.rejected_prediction_tokens
        assert num_accepted is not None
        assert num_rejected is not None
        assert 10 < num_accepted < predicted.usage.completion_tokens
        until(lambda: server.num_in_server == 0)
        after = samples(http)
    name = "vllm:spec_decode_num_{}_tokens_total"
    told = {kind: after[name.format(kind)] - before[name.format(kind)] for kind in ("draft", "accepted")}
    assert told == {"draft": num_accepted + num_rejected, "accepted": num_accepted}


@pytest.mark.parametrize("wrong", [{"type": "diff", "content": "x"}, {"type": "content"}, "text"])
def test_a_malformed_prediction_is_refused_by_name(client: OpenAI, wrong: Any) -> None:
    with pytest.raises(BadRequestError, match="prediction"):
        client.chat.completions.create(**ASK, prediction=wrong)
