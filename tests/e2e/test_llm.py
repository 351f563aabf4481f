"""The offline API on the real model: shapes of what comes back, streaming, stops, logprobs, aborts."""

import math
import time

import pytest
import torch

from e2e.server_process import until
from octavo import LLM, RequestOutput, SamplingParams
from octavo.checkpoints.locate import locate
from octavo.errors import ConfigError, EngineError, RequestError
from tiny_checkpoints import transformers_from_gguf, transformers_logits

GREEDY = SamplingParams(temperature=0, max_tokens=24)
HI = [{"role": "user", "content": "Hi"}]
PROMPTS = ["The capital of France is", "def fibonacci(n):"]


@pytest.fixture(scope="module")
def greedy(smollm2) -> list[RequestOutput]:
    outputs: list[RequestOutput] = smollm2.generate(PROMPTS, GREEDY, use_tqdm=False)
    return outputs


def test_outputs_have_the_fields_usual_shape(smollm2, greedy):
    for prompt, output in zip(PROMPTS, greedy, strict=True):
        assert output.prompt == prompt
        assert output.prompt_token_ids == smollm2.tokenizer.encode(prompt)
        [completion] = output.outputs
        assert completion.text == smollm2.tokenizer.decode(completion.token_ids)
        assert len(completion.token_ids) == 24
        assert completion.finish_reason == "length"
        assert output.finished
        assert output.metrics.arrival_s <= output.metrics.first_scheduled_s <= output.metrics.first_token_s
        assert output.metrics.first_token_s <= output.metrics.finished_s
    assert "Paris" in greedy[0].outputs[0].text


def test_a_prompt_may_be_text_ids_or_a_dict_and_one_or_many(smollm2, greedy):
    ids = greedy[0].prompt_token_ids
    wanted = greedy[0].outputs[0].token_ids[:3]
    brief = SamplingParams(temperature=0, max_tokens=3)
    for prompts in (PROMPTS[0], ids, [ids], {"prompt_token_ids": ids}, [{"prompt": PROMPTS[0]}], [tuple(ids)]):
        [output] = smollm2.generate(prompts, brief, use_tqdm=False)
        assert output.outputs[0].token_ids == wanted
    assert smollm2.generate([], brief) == []


def test_each_prompt_may_have_its_own_parameters(smollm2):
    short, long = smollm2.generate(
        PROMPTS, [SamplingParams(max_tokens=2), SamplingParams(max_tokens=5, n=3)], use_tqdm=False
    )
    assert [len(each.token_ids) for each in short.outputs] == [2]
    assert [(each.index, len(each.token_ids)) for each in long.outputs] == [(0, 5), (1, 5), (2, 5)]


def test_a_stream_assembled_equals_the_whole_answer(smollm2):
    params = SamplingParams(n=3, temperature=0.9, seed=4, max_tokens=40, stop=[".\n", "!"])
    [whole] = smollm2.generate("Seoul (서울) 🎉 is", params, use_tqdm=False)
    texts, counts = [""] * 3, [0] * 3
    for assembler in smollm2.stream("Seoul (서울) 🎉 is", params):
        for delta in assembler.take_delta():
            texts[delta.index] += delta.text
            counts[delta.index] += len(delta.token_ids)
    assert texts == [each.text for each in whole.outputs]
    assert counts == [len(each.token_ids) for each in whole.outputs]


def test_a_stop_text_ends_the_text_before_it_and_frees_the_blocks(smollm2, greedy):
    text = greedy[0].outputs[0].text
    stop = text[10:14]
    [output] = smollm2.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=24, stop=stop), use_tqdm=False)
    assert output.outputs[0].text == text[: text.index(stop)]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)
    assert len(output.outputs[0].token_ids) < 24
    assert smollm2.ledger().num_used_blocks == 0


def test_stop_tokens_end_of_sequence_and_min_tokens(smollm2, greedy):
    ids = greedy[1].outputs[0].token_ids
    params = SamplingParams(temperature=0, max_tokens=24, stop_token_ids=[ids[4]])
    [output] = smollm2.generate(PROMPTS[1], params, use_tqdm=False)
    assert output.outputs[0].token_ids == ids[: ids.index(ids[4]) + 1]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", ids[4])
    later = SamplingParams(temperature=0, max_tokens=24, stop_token_ids=[ids[4]], min_tokens=20)
    [output] = smollm2.generate(PROMPTS[1], later, use_tqdm=False)
    assert len(output.outputs[0].token_ids) >= 20
    assert ids[4] not in output.outputs[0].token_ids[:20]


def test_chat_answers_with_the_models_template_and_stops_by_itself(smollm2):
    messages = [{"role": "user", "content": "What is the capital of Japan?"}]
    [output] = smollm2.chat(messages, SamplingParams(temperature=0, max_tokens=60), use_tqdm=False)
    assert "Tokyo" in output.outputs[0].text
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", None)
    assert "<|im_end|>" not in output.outputs[0].text
    assert output.prompt == smollm2.tokenizer.render_chat(messages)
    assert output.prompt_token_ids == smollm2.tokenizer.encode_chat(messages)
    assert len(smollm2.chat([messages, messages], GREEDY, use_tqdm=False)) == 2


def test_chat_goes_on_with_a_half_written_answer(smollm2):
    messages = [{"role": "user", "content": "Count to five."}, {"role": "assistant", "content": "1, 2, 3,"}]
    [output] = smollm2.chat(messages, GREEDY, use_tqdm=False, continue_final_message=True)
    assert output.prompt.endswith("<|im_start|>assistant\n1, 2, 3,")
    assert output.outputs[0].text.startswith(" 4, 5")


def test_chat_takes_template_variables_by_their_name_only(smollm2):
    for unknown in ({"priority": [0]}, {"add_generation_promt": False}, {"enable_thinking": False}):
        with pytest.raises(RequestError, match=next(iter(unknown))):
            smollm2.chat(HI, GREEDY, use_tqdm=False, **unknown)
    shown = {"chat_template": "{{ style }}", "chat_template_kwargs": {"style": "brief"}}
    assert smollm2.chat(HI, GREEDY, use_tqdm=False, **shown)[0].prompt == "brief"
    with pytest.raises(RequestError, match=r"tools\[0\] must be an object"):
        smollm2.chat(HI, GREEDY, tools=[{"type": "function"}])
    with pytest.raises(RequestError, match="must not set messages"):
        smollm2.chat(HI, GREEDY, chat_template_kwargs={"messages": []})
    with pytest.raises(RequestError, match="exclude each other"):
        smollm2.chat(HI, GREEDY, add_generation_prompt=True, continue_final_message=True)


def test_chat_shows_tools_and_what_they_answered(smollm2):
    tools = [{"type": "function", "function": {"name": "clock", "description": "Tells the time."}}]
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "clock", "arguments": "{}"}}]}
    messages = [*HI, called, {"role": "tool", "content": "It is noon."}]
    [output] = smollm2.chat(messages, GREEDY, use_tqdm=False, tools=tools)
    assert '"description": "Tells the time."' in output.prompt
    assert '<tool_call>\n{"name": "clock", "arguments": {}}' in output.prompt
    assert "<tool_response>\nIt is noon." in output.prompt


@pytest.mark.parametrize("messages", [[], {}, "Hi", [{"content": "Hi"}], [[{"role": "user", "content": "Hi"}], []]])
def test_a_conversation_that_is_none_is_refused(smollm2, messages):
    with pytest.raises(RequestError, match="messages"):
        smollm2.chat(messages, GREEDY)


def test_logprobs_of_output_and_prompt_are_those_of_transformers(smollm2):
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=3, prompt_logprobs=2)
    [output] = smollm2.generate(PROMPTS[0], params, use_tqdm=False)
    [completion] = output.outputs
    ids = output.prompt_token_ids + completion.token_ids
    oracle = transformers_logits(transformers_from_gguf(locate("smollm2").path, 30), ids).log_softmax(-1)
    start = len(output.prompt_token_ids)
    assert output.prompt_logprobs[0] is None
    for position, at in enumerate(output.prompt_logprobs[1:] + completion.logprobs):
        wanted = oracle[position]
        token = ids[position + 1]
        assert math.isclose(at[token].logprob, float(wanted[token]), abs_tol=1e-3)
        assert at[token].rank == 1 + int((wanted > wanted[token]).sum())
        top = torch.topk(wanted, 3 if position + 1 >= start else 2).indices.tolist()
        assert set(top) <= at.keys()
        assert at[token].decoded_token == smollm2.tokenizer.token_text(token)
    assert math.isclose(
        completion.cumulative_logprob,
        sum(a[t].logprob for a, t in zip(completion.logprobs, completion.token_ids, strict=True)),
    )


def test_allowed_tokens_bias_and_a_mask_restrict_what_is_sampled(smollm2):
    digits = [smollm2.tokenizer.encode(digit)[0] for digit in "0123456789"]
    [output] = smollm2.generate("Pi is 3.", SamplingParams(max_tokens=12, allowed_token_ids=digits), use_tqdm=False)
    assert output.outputs[0].text.isdigit()
    biased = SamplingParams(temperature=0, max_tokens=3, logit_bias={digits[7]: 100.0})
    assert smollm2.generate("Pi is 3.", biased, use_tqdm=False)[0].outputs[0].text == "777"


def test_leaving_a_stream_early_frees_everything(smollm2):
    for _ in smollm2.stream(PROMPTS, SamplingParams(n=4, max_tokens=500, ignore_eos=True)):
        assert smollm2.ledger().num_used_blocks > 0
        break
    assert smollm2.ledger().num_used_blocks == 0
    assert not smollm2.engine.has_unfinished


def test_streams_and_other_work_may_be_mixed(smollm2, greedy):
    stream = smollm2.stream(PROMPTS, GREEDY)
    first = next(stream)
    other = smollm2.generate(PROMPTS[0], GREEDY, use_tqdm=False)
    assert first.finished
    assert other[0].outputs[0].token_ids == greedy[0].outputs[0].token_ids
    finished = {assembler.output.prompt: assembler.output for assembler in stream}
    for wanted in greedy:
        assert finished[wanted.prompt].outputs[0].token_ids == wanted.outputs[0].token_ids


def test_an_idle_model_uses_no_processor_time(smollm2):
    smollm2.generate(PROMPTS, GREEDY, use_tqdm=False)

    def used_asleep_s() -> float:
        start_s = time.process_time()
        time.sleep(1)
        return time.process_time() - start_s

    until(lambda: used_asleep_s() < 0.02)


@pytest.mark.parametrize(
    ("prompts", "params", "words"),
    [
        ("", {}, "the prompt is empty"),
        ([[]], {}, "the prompt is empty"),
        ([[1] * 2048], {}, "2048.*--max-model-len"),
        ([[1] * 2000], {"min_tokens": 100, "max_tokens": 100}, "min_tokens=100 is over the 48 tokens that fit"),
        ([[1, 49152]], {}, "token id 49152.*0 to 49151"),
        ([[-5]], {}, "token id -5"),
        ("Hi", {"n": 65_537}, "n must be .* 1 to 65536, got 65537"),
        ("Hi", {"logprobs": 21}, "logprobs=21.*20.*--max-logprobs"),
        ([["a"]], {}, "a prompt is a text"),
        ([{"text": "Hi"}], {}, "prompt_token_ids"),
        ("\ud800", {}, "."),
    ],
)
def test_bad_input_is_refused_by_name_and_disturbs_nothing(smollm2, prompts, params, words):
    good = SamplingParams(temperature=0, max_tokens=4)
    stream = smollm2.stream(PROMPTS[0], good)
    next(stream)
    before = smollm2.ledger()
    batch = [PROMPTS[1], *([prompts] if isinstance(prompts, str) else prompts)]
    with pytest.raises(RequestError, match=words):
        smollm2.generate(batch, SamplingParams(**params), use_tqdm=False)
    assert smollm2.ledger() == before
    for assembler in stream:
        output = assembler.output
    assert len(output.outputs[0].token_ids) == 4
    assert smollm2.ledger().num_used_blocks == 0


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"kv_cache_memory": "lots"}, "--kv-cache-memory.*'lots'.*48MiB"),
        ({"kv_cache_memory": "1KiB"}, "--kv-cache-memory 1KiB is less than one KV block"),
        ({"kv_cache_memory": "900TiB", "max_num_seqs": 2048}, "--kv-cache-memory.*free"),
        ({"max_model_len": 9000}, "--max-model-len 9000.*8192"),
        ({"dtype": "int3"}, "--dtype.*'int3'.*bfloat16"),
        ({"block_size": 0}, "--block-size"),
        ({"max_num_seqs": 300, "max_num_batched_tokens": 200}, "--max-num-batched-tokens.*--max-num-seqs"),
        ({"chat_template": "/nowhere"}, "--chat-template /nowhere"),
        ({"gpu_memory": 0.9}, "gpu_memory.*kv_cache_memory"),
    ],
)
def test_a_knob_that_cannot_work_names_its_flag(knobs, words):
    with pytest.raises(ConfigError, match=words):
        LLM("smollm2", **knobs)


def test_a_pool_smaller_than_the_models_length_starts_and_says_what_it_can_serve(caplog):
    with LLM("smollm2", kv_cache_memory="8MiB", max_num_seqs=4) as llm:
        assert "holds 352 tokens" in caplog.text
        assert "--kv-cache-memory" in caplog.text
        with pytest.raises(RequestError, match="--kv-cache-memory"):
            llm.generate([[1] * 400], use_tqdm=False)
        [output] = llm.generate([[1] * 300], SamplingParams(ignore_eos=True, max_tokens=None), use_tqdm=False)
        assert len(output.outputs[0].token_ids) == 52


@pytest.mark.parametrize("prompts", [b"abc", {"prompt_token_ids": "hello"}, None, iter("ab"), [1.5], [[True]], [None]])
def test_what_is_no_prompt_is_refused_and_not_guessed(smollm2, prompts):
    with pytest.raises(RequestError, match="prompt"):
        smollm2.generate(prompts, GREEDY, use_tqdm=False)


def test_sampling_params_of_another_type_are_refused(smollm2):
    with pytest.raises(RequestError, match="SamplingParams"):
        smollm2.generate("Hi", {"n": 1}, use_tqdm=False)


def test_a_request_aborted_from_elsewhere_is_told_to_its_caller(smollm2):
    stream = smollm2.stream(PROMPTS[0], GREEDY)
    assembler = next(stream)
    smollm2.engine.abort(assembler.request_id)
    with pytest.raises(EngineError, match="aborted from elsewhere"):
        next(stream)


def test_an_error_while_showing_progress_leaves_nothing_behind(smollm2, greedy, monkeypatch):
    def broken(*_args, **_keywords):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("octavo.offline_run.tqdm", broken)
        with pytest.raises(OSError, match="disk full"):
            smollm2.generate(PROMPTS, GREEDY)
    assert not smollm2.engine.has_unfinished
    [output] = smollm2.generate(PROMPTS[0], GREEDY, use_tqdm=False)
    assert output.outputs[0].token_ids == greedy[0].outputs[0].token_ids


def test_an_extreme_top_k_is_just_all_tokens(smollm2):
    [output] = smollm2.generate("Hi", SamplingParams(top_k=2**63, max_tokens=2, ignore_eos=True), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 2
