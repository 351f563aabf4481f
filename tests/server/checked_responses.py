"""Answers of /v1/responses, read as strictly as the official package's types have them."""

from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from server.conftest import Server

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ASK: dict[str, Any] = {"model": "smollm2", "input": "What is 2 + 3?", "max_output_tokens": 12, "temperature": 0}


def whole(server: Server, **fields: Any) -> Response:
    """An answer as strictly as the official package's types have it."""
    with server.http() as http:
        answer = http.post("/v1/responses", json={**ASK, **fields})
    assert answer.status_code == 200, answer.text
    return Response.model_validate_json(answer.content, strict=True)


def streamed(server: Server, **fields: Any) -> list[Any]:
    """The events of a stream, read as strictly."""
    with server.http() as http:
        answer = http.post("/v1/responses", json={**ASK, **fields, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(EVENT.validate_json(data.removeprefix("data: "), strict=True))
        assert name == f"event: {events[-1].type}"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def told(response: Response) -> list[dict[str, Any]]:
    """The output without what is drawn anew for each answer."""
    return [item.model_dump(exclude={"id", "call_id"}) for item in response.output]


def check_stream(server: Server, **fields: Any) -> None:
    """A stream and its items are complete and in order, and joined they are the answer that is sent whole."""
    events, response = streamed(server, **fields), whole(server, **fields)
    first, second, last = events[0], events[1], events[-1]
    assert (first.type, second.type) == ("response.created", "response.in_progress")
    assert first.response.status == second.response.status == "in_progress"
    assert first.response.output == []
    assert last.type == f"response.{response.status}"
    assert told(last.response) == told(response)
    assert last.response.usage.output_tokens == response.usage.output_tokens  # type: ignore[union-attr]
    for place, item in enumerate(last.response.output):
        own = [event for event in events[2:-1] if event.output_index == place]
        assert own[0].type == "response.output_item.added"
        assert own[-1].type == "response.output_item.done"
        assert own[-1].item == item
        assert {event.item_id for event in own[1:-1]} == {item.id}
        joined = "".join(event.delta for event in own if event.type.endswith(".delta"))
        assert joined == (item.arguments if item.type == "function_call" else item.content[0].text)
