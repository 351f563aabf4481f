"""langchain-openai's ChatOpenAI against a server."""

from typing import Any

import pytest

langchain_openai = pytest.importorskip("langchain_openai")

from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from e2e.server_process import Server

pytestmark = pytest.mark.clients


def chat(server: Server, **settings: Any) -> Any:
    given = {"model": "smollm2", "base_url": server.url, "api_key": "EMPTY", "temperature": 0, "max_tokens": 12}
    return langchain_openai.ChatOpenAI(**{**given, **settings})


def test_an_answer_its_stream_and_its_batch_say_the_same(server: Server) -> None:
    messages: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage("Say hello.")]
    model = chat(server)
    answer = model.invoke(messages)
    assert answer.content == "".join(chunk.content for chunk in model.stream(messages)) != ""
    assert [one.content for one in model.batch([messages] * 4)] == [answer.content] * 4
    assert answer.usage_metadata["output_tokens"] <= 12


def test_a_chain_of_prompt_model_and_parser_gives_text(server: Server) -> None:
    chain = (
        ChatPromptTemplate.from_messages([("user", "Name the capital of {country}.")])
        | chat(server)
        | StrOutputParser()
    )
    assert "Tokyo" in chain.invoke({"country": "Japan"})


def test_a_tool_calls_turn_can_be_sent_back(server: Server) -> None:
    call = {"id": "c1", "name": "weather", "args": {"city": "Oslo"}, "type": "tool_call"}
    turns = [
        HumanMessage("Weather in Oslo?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("Rain.", tool_call_id="c1"),
    ]
    assert chat(server).invoke(turns).usage_metadata["output_tokens"] > 0


def test_a_prompt_over_the_context_is_recognised(server: Server) -> None:
    with pytest.raises(ContextOverflowError):
        chat(server).invoke("word " * 2000)


def test_vectors_of_documents_and_of_a_query_are_the_servers(server: Server) -> None:
    texts = ["The sea is wide.", "A cat sat on the mat."]
    # Without this it would send token ids of OpenAI's own vocabulary.
    model = langchain_openai.OpenAIEmbeddings(
        model="smollm2", base_url=server.url, api_key="EMPTY", check_embedding_ctx_length=False
    )
    told = server.client.embeddings.create(model="smollm2", input=texts)
    assert model.embed_documents(texts) == [each.embedding for each in told.data]
    assert model.embed_query(texts[1]) == told.data[1].embedding
