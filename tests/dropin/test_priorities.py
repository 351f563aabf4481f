"""Under --scheduling-policy priority the lowest priority goes first, over HTTP and from Python."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.config import EngineConfig
from octavo.errors import RequestError
from server.conftest import Server, running_engine, serving, until
from tiny_checkpoints import make_llama

SHORT = SamplingParams(max_tokens=2, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny"))


def make_llm(folder: Path, **knobs: Any) -> LLM:
    return LLM(str(folder), tokenizer="smollm2", kv_cache_memory="4MiB", max_num_seqs=1, **knobs)


def test_a_call_gives_each_prompt_a_priority(folder: Path) -> None:
    prompts = [[number] * 5 for number in range(1, 5)]
    with make_llm(folder, scheduling_policy="priority") as llm:
        outputs = llm.generate(prompts, SHORT, use_tqdm=False, priority=[3, -1, 2, -1])
        began = [output.metrics.first_scheduled_s or 0.0 for output in outputs]
        assert sorted(range(4), key=began.__getitem__) == [1, 3, 2, 0]
        for wrong in ([1], [1, 2, 3, 4, 5]):
            with pytest.raises(RequestError, match=r"4 prompts and .* entries of priority"):
                llm.generate(prompts, SHORT, use_tqdm=False, priority=wrong)
        engine = llm.llm_engine
        for name, priority in (("late", 5), ("first", 0), ("second", 0)):
            engine.add_request(name, [1, 2, 3], SHORT, priority=priority)
        ended: list[str] = []
        while engine.has_unfinished_requests():
            ended += [output.request_id for output in engine.step() if output.finished]
        assert ended == ["first", "second", "late"]


def test_without_the_policy_a_priority_is_refused_and_names_it(folder: Path) -> None:
    with make_llm(folder) as llm:
        assert llm.generate([1], SHORT, use_tqdm=False, priority=[0])[0].finished
        with pytest.raises(RequestError, match=r"prompt 0: priority is 4.*--scheduling-policy priority"):
            llm.generate([1], SHORT, use_tqdm=False, priority=[4])
        with pytest.raises(RequestError, match="--scheduling-policy priority"):
            llm.llm_engine.add_request("a", [1], SHORT, priority=-4)


def post(server: Server, priority: int, num_tokens: int) -> None:
    body = {"prompt": "a", "max_tokens": num_tokens, "ignore_eos": True, "priority": priority}
    with server.http() as http:
        assert http.post("/v1/completions", json=body).status_code == 200


def test_a_server_begins_with_the_lowest_priority(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="octavo.requests")
    config = EngineConfig(
        model="smollm2", quantization="int8", kv_cache_memory="256MiB", max_num_seqs=1, scheduling_policy="priority"
    )
    endless = {"prompt": "a", "ignore_eos": True, "stream": True, "max_tokens": 8000, "priority": 10}
    with running_engine(config) as background, serving(background) as server, ThreadPoolExecutor(4) as pool:
        with server.http() as http, http.stream("POST", "/v1/completions", json=endless) as running:
            lines = running.iter_lines()  # kept: a dropped iterator closes the connection
            assert next(lines)
            for count, (priority, num_tokens) in enumerate([(9, 1), (0, 2), (-5, 3), (0, 4)], start=2):
                pool.submit(post, server, priority, num_tokens)
                until(lambda count=count: background.front.client.num_open == count)  # type: ignore[misc]
        until(background.is_idle)
    logged = [json.loads(record.getMessage()) for record in caplog.records if record.name == "octavo.requests"]
    assert [line["output_tokens"] for line in logged if line["finish_reasons"] == ["length"]] == [3, 2, 4, 1]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_server_without_the_policy_refuses_a_priority(server: Server, path: str) -> None:
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    del body["messages" if path == "/v1/completions" else "prompt"]
    with server.http() as http:
        error = http.post(path, json=body | {"priority": 3}).json()["error"]
        assert http.post(path, json=body | {"priority": 0}).status_code == 200
    assert error["param"] == "priority"
    assert "--scheduling-policy priority" in error["message"]
