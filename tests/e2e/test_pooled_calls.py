"""`LLM.embed` and its siblings, under vLLM's names."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, AsyncLLM, PoolingParams, PoolingRequestOutput, SamplingParams
from octavo.errors import ConfigError, RequestError
from octavo.vllm.llm_engine import LLMEngine
from tiny_checkpoints import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["The sea is wide.", "A cat sat on the mat."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny"), vocab_size=49152, max_position_embeddings=512)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(str(folder), tokenizer="smollm2", kv_cache_memory="8MiB", runner="pooling") as llm:
        yield llm


def vectors(llm: LLM, prompts: Any, **keywords: Any) -> list[list[float]]:
    outputs = llm.embed(prompts, use_tqdm=False, **keywords)
    assert llm.ledger().num_used_blocks == 0
    return [output.outputs.embedding for output in outputs]


def test_embeddings_come_in_the_order_of_their_prompts_whatever_form_these_have(llm: LLM) -> None:
    outputs = llm.embed(TEXTS, use_tqdm=False)
    token_ids = [output.prompt_token_ids for output in outputs]
    assert token_ids == [llm.tokenizer.encode(text) for text in TEXTS]
    assert all(output.finished and output.outputs.hidden_size == 32 for output in outputs)
    whole = [output.outputs.embedding for output in outputs]
    assert vectors(llm, token_ids) == whole
    assert vectors(llm, [{"prompt": TEXTS[0]}, {"prompt_token_ids": token_ids[1]}]) == whole
    assert vectors(llm, TEXTS[0]) == whole[:1]
    assert [output.outputs.data.tolist() for output in llm.encode(TEXTS, use_tqdm=False)] == whole


def test_each_prompt_can_have_its_own_parameters(llm: LLM) -> None:
    each = [PoolingParams(dimensions=4), PoolingParams(normalize=False), PoolingParams(use_activation=False)]
    short, raw, same = vectors(llm, [TEXTS[0]] * 3, pooling_params=each)
    assert (len(short), len(raw)) == (4, 32)
    assert same == raw
    assert short == pytest.approx([number / math.hypot(*raw[:4]) for number in raw[:4]], rel=1e-6)
    with pytest.raises(RequestError, match="2 prompts and 3 pooling_params"):
        llm.embed(TEXTS, pooling_params=each)
    with pytest.raises(RequestError, match="pooling_params must be a PoolingParams"):
        llm.embed(TEXTS, pooling_params=SamplingParams())  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="prompt 1: dimensions=33 is over the 32"):
        llm.embed(TEXTS, pooling_params=[PoolingParams(), PoolingParams(dimensions=33)])


def test_the_end_of_a_prompt_is_kept_where_it_is_cut(llm: LLM) -> None:
    token_ids = llm.tokenizer.encode(TEXTS[1])
    kept = vectors(llm, token_ids[-3:])
    assert vectors(llm, TEXTS[1], truncate_prompt_tokens=3) == kept
    assert vectors(llm, token_ids, truncate_prompt_tokens=3) == kept
    assert vectors(llm, TEXTS[1], pooling_params=PoolingParams(truncate_prompt_tokens=3)) == kept
    with pytest.raises(RequestError, match="maximum context length is 512"):
        llm.embed("sea " * 600)
    assert vectors(llm, "sea " * 600, truncate_prompt_tokens=-1)


def test_a_language_model_scores_documents_by_its_answer(llm: LLM) -> None:
    outputs = llm.score("Which animal?", TEXTS, use_tqdm=False)
    assert all(0 < output.outputs.score < 1 for output in outputs)
    text = llm.tokenizer.decode(outputs[1].prompt_token_ids, skip_special_tokens=False)
    assert "<Query>: Which animal?\n<Document>: A cat sat on the mat.<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")
    again = llm.score(["Which animal?"] * 2, TEXTS, use_tqdm=False)
    assert [each.outputs.score for each in again] == [each.outputs.score for each in outputs]
    for arguments, words in (
        ((TEXTS, ["a"]), "2 and 1 texts make no pairs"),
        (("a", []), "1 and 0 texts"),
        (("a", [3]), "score takes texts"),
    ):
        with pytest.raises(RequestError, match=words):
            llm.score(*arguments)
    with pytest.raises(RequestError, match="would cut what the model is asked"):
        llm.score("a", "b", truncate_prompt_tokens=5)
    with pytest.raises(RequestError, match="dimensions is for embeddings"):
        llm.score("a", "b", pooling_params=PoolingParams(dimensions=5))
    with pytest.raises(RequestError, match="no task 'classify'"):
        llm.classify("a")


def test_a_template_words_the_question(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "question.jinja"
    template.write_text("{% for message in messages %}[{{ message.role }}: {{ message.content }}]{% endfor %} Good?")
    with LLM(str(folder), tokenizer="smollm2", kv_cache_memory="2MiB", score_template=str(template)) as llm:
        [output] = llm.score("Which animal?", "A cat.", use_tqdm=False)
        assert llm.tokenizer.decode(output.prompt_token_ids) == "[query: Which animal?][document: A cat.] Good?"
    with pytest.raises(ConfigError, match=r"--score-template .* cannot be read"):
        LLM(str(folder), tokenizer="smollm2", kv_cache_memory="2MiB", score_template="/nowhere")


def test_a_model_said_to_embed_scores_by_cosine(folder: Path) -> None:
    config = {"pooling_type": "MEAN"}
    with LLM(str(folder), tokenizer="smollm2", kv_cache_memory="2MiB", pooler_config=config, task="embed") as llm:
        one, other = vectors(llm, TEXTS)
        [there, back, same] = llm.score([*TEXTS, TEXTS[0]], [TEXTS[1], *[TEXTS[0]] * 2], use_tqdm=False)
        assert there.outputs.score == back.outputs.score
        assert there.outputs.score == pytest.approx(sum(map(lambda a, b: a * b, one, other)), abs=1e-6)
        assert same.outputs.score == pytest.approx(1)


def test_an_engine_stepped_by_hand_pools_and_generates_side_by_side(llm: LLM) -> None:
    engine: LLMEngine = llm.llm_engine
    engine.add_request("vector", TEXTS[0], PoolingParams())
    engine.add_request("answer", TEXTS[0], SamplingParams(temperature=0, max_tokens=4))
    ends: dict[str, Any] = {}
    while engine.has_unfinished_requests():
        ends |= {output.request_id: output for output in engine.step() if output.finished}
    assert isinstance(ends["vector"], PoolingRequestOutput)
    assert [ends["vector"].outputs.data.tolist()] == vectors(llm, TEXTS[0])
    [alone] = llm.generate(TEXTS[0], SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    assert ends["answer"].outputs[0].token_ids == alone.outputs[0].token_ids
    with pytest.raises(RequestError, match="SamplingParams or PoolingParams"):
        engine.add_request("neither", TEXTS[0], {})  # type: ignore[arg-type]


def test_coroutines_get_their_vectors(folder: Path) -> None:
    async def encode(engine: AsyncLLM, name: str, text: str) -> list[float]:
        outputs = [output async for output in engine.encode(text, PoolingParams(), name)]
        [output] = outputs
        assert (output.request_id, output.finished) == (name, True)
        return list(output.outputs.data.tolist())

    async def all_at_once(engine: AsyncLLM) -> list[list[float]]:
        return list(await asyncio.gather(*(encode(engine, str(i), text) for i, text in enumerate(TEXTS * 3))))

    llm = LLM(str(folder), tokenizer="smollm2", kv_cache_memory="2MiB")
    expected = vectors(llm, TEXTS) * 3
    engine = AsyncLLM(LLMEngine(llm))
    assert asyncio.run(all_at_once(engine)) == expected
    engine.shutdown()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dimensions": 0}, "dimensions must be a whole number of at least 1"),
        ({"dimensions": True}, "dimensions must be"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens must be"),
        ({"normalize": 1}, "normalize must be True or False"),
        ({"task": "token_embed"}, "task must be one of embed, classify, score"),
        ({"label_token_ids": [3]}, "label_token_ids must be a list of two"),
        ({"softmax": True}, "softmax of True cannot be had: use_activation"),
        ({"nothing": 1}, "unknown field nothing; PoolingParams takes task, dimensions"),
    ],
)
def test_parameters_are_checked_when_they_are_made(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        PoolingParams(**fields)
