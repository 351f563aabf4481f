"""vLLM's keywords, flags and parameters: carried out, taken with one line, or refused by name."""

import asyncio
import dataclasses
import re
from typing import Any

import pytest
import torch

from cli.commands import octavo
from octavo import LLM, AsyncLLM, BeamSearchParams, EngineArgs, RequestOutputKind, SamplingParams
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig
from octavo.errors import ConfigError, EngineError, RequestError
from octavo.server_config import ServerConfig
from octavo.vllm.engine_args import engine_knobs
from octavo.vllm.flags import FlexibleArgumentParser
from octavo.vllm.keywords import ENGINE, MAPPED
from tiny_checkpoints import make_llama

MESSAGES = [{"role": "user", "content": "Hi"}]


def config(**keywords) -> EngineConfig:
    return EngineConfig(**engine_knobs(keywords))


@pytest.mark.parametrize(
    ("keywords", "knobs"),
    [
        ({"quantization": None, "seed": None, "max_num_seqs": None, "max_model_len": None, "swap_space": None}, {}),
        ({"dtype": "half"}, {"dtype": "float16"}),
        ({"dtype": "float"}, {"dtype": "float32"}),
        ({"dtype": torch.float32, "kv_cache_dtype": torch.float16}, {"dtype": "float32", "kv_cache_dtype": "float16"}),
        ({"load_format": "pt"}, {"load_format": "bin"}),
        ({"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "fp8"}),
        ({"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "fp8"}),
        ({"kv_cache_dtype": torch.float8_e4m3fn}, {"kv_cache_dtype": "fp8"}),
        ({"enable_prefix_caching": True}, {}),
        ({"enable_prefix_caching": False}, {"prefix_cache_scope": "off"}),
        ({"kv_cache_memory_bytes": 2**26}, {"kv_cache_memory": 2**26}),
        ({"tokenizer_mode": "auto", "runner": "generate", "task": "auto", "hf_overrides": {}}, {}),
        ({"runner": "pooling", "convert": "embed", "pooler_config": {"pooling_type": "MEAN"}}, {"pooling": "mean"}),
        ({"enforce_eager": True, "async_scheduling": False}, {"cuda_graphs": "off", "steps_in_flight": 1}),
        ({"enforce_eager": False, "async_scheduling": True}, {}),
        ({"speculative_config": {"method": "ngram"}}, {"speculate": "auto"}),
        ({"speculative_model": "[ngram]"}, {"speculate": "auto"}),
        ({"pipeline_parallel_size": 1, "enable_lora": False, "logprobs_mode": "raw_logprobs"}, {}),
    ],
)
def test_keywords_that_mean_something_set_knobs(keywords, knobs, caplog):
    assert config(**keywords) == EngineConfig(**knobs)
    assert caplog.text == ""


def test_keywords_that_change_nothing_are_told_in_one_line(caplog):
    idle = {
        "disable_log_stats": False,
        "trust_remote_code": False,
        "enable_chunked_prefill": False,
        "limit_mm_per_prompt": {"image": 1},
        "cpu_offload_gb": 4,
        "compilation_config": 3,
        "distributed_executor_backend": "mp",
        "attention_backend": "FLASH_ATTN",
    }
    assert config(**idle) == EngineConfig()
    [record] = caplog.records
    assert all(name in record.message for name in idle)


def test_how_many_tokens_vllm_would_guess_changes_nothing_and_is_told(caplog):
    asked = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}
    assert config(speculative_config=asked) == EngineConfig(speculate="auto")
    [record] = caplog.records
    assert "speculative_config: num_speculative_tokens, prompt_lookup_max of vLLM, changing nothing" in record.message


def test_a_share_of_a_gpus_memory_is_told_to_bound_nothing_on_the_processor(tmp_path, caplog):
    folder = str(make_llama(tmp_path))
    LLM(folder, tokenizer="smollm2", kv_cache_memory="1MiB", gpu_memory_utilization=0.9, device="cpu").close()
    assert "bounds nothing" not in caplog.text
    LLM(folder, tokenizer="smollm2", kv_cache_memory="1MiB", gpu_memory_utilization=0.5, device="cpu").close()
    assert "--gpu-memory-utilization 0.5 bounds nothing: the model runs on the processor" in caplog.text
    for share in (0, 1.5, "all", True):
        with pytest.raises(ConfigError, match=r"--gpu-memory-utilization must be 0\.01 to 1, got"):
            config(gpu_memory_utilization=share)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size of 2.*tensor_parallel_size"),
        ({"data_parallel_size": 4}, "data_parallel_size of 4"),
        ({"tokenizer_mode": "mistral"}, "tokenizer_mode of 'mistral'"),
        ({"device": "tpu"}, "--device is 'tpu'; it is one of auto, cpu, cuda"),
        ({"runner": "draft"}, "runner of 'draft'"),
        ({"task": "reward"}, "task of 'reward'"),
        ({"pooler_config": {"pooling_type": "STEP"}}, "pooler_config asks for pooling_type 'step'"),
        ({"pooler_config": {"pooling_type": "CLS"}, "pooling": "mean"}, "pooler_config contradicts pooling mean"),
        ({"speculative_config": {"method": "eagle", "model": "x"}}, "speculative_config.*request's own.*ngram"),
        ({"speculative_config": {"model": "facebook/opt-125m"}}, "speculative_config asks for .*opt-125m"),
        ({"speculative_config": {"method": "ngram", "draft_sample_method": "greedy"}}, "no draft_sample_method here"),
        ({"speculative_config": "ngram"}, "speculative_config must be a dict"),
        ({"speculative_model": "draft"}, "speculative_model of 'draft'"),
        ({"skip_tokenizer_init": True}, "skip_tokenizer_init"),
        ({"tokenizer_revision": "main"}, "tokenizer_revision of 'main'.*revision"),
        ({"enable_lora": True}, "enable_lora of True.*adapters"),
        ({"hf_overrides": {"rope_theta": 1}}, "hf_overrides"),
        ({"hf_token": "hf_secret"}, "^hf_token cannot be had: log in"),
        ({"logprobs_mode": "processed_logits"}, "logprobs_mode"),
        ({"scheduling_policy": "longest"}, "scheduling.policy"),
        ({"logits_processors": ["mine"]}, "logits_processors"),
        ({"enable_prefix_caching": "yes"}, "enable_prefix_caching must be true or false"),
        ({"enable_prefix_caching": True, "prefix_cache_scope": "off"}, "enable_prefix_caching of True contradicts"),
        ({"enable_prefix_caching": False, "prefix_cache_scope": "global"}, "contradicts"),
        ({"kv_cache_memory_bytes": 2**26, "kv_cache_memory": "1GiB"}, "kv_cache_memory_bytes contradicts"),
        ({"swap_space": 4}, "swap-space is 4, .*4GiB"),
        ({"swap_space": 4.0}, "swap-space is 4.0, .*4GiB"),
        ({"kv_cache_memory": "16"}, "kv-cache-memory is 16, .*16GiB"),
        ({"quantization": "bitsandbytes"}, "quantization is 'bitsandbytes'.*int8, int4, fp8, awq"),
        ({"dtype": torch.int8}, "dtype is 'int8'"),
        ({"async_scheduling": True, "steps_in_flight": 1}, "async_scheduling of True contradicts steps_in_flight 1"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "kv-cache-dtype is 'fp8_e5m2'.*int8, fp8"),
        ({"gpu_memory_utilisation": 0.9}, "unknown keyword gpu_memory_utilisation"),
    ],
)
def test_keywords_that_cannot_be_had_are_refused_by_name(keywords, words):
    with pytest.raises(ConfigError, match=words):
        LLM("smollm2", **keywords)


def parse(*arguments: str) -> EngineConfig:
    parser = FlexibleArgumentParser()
    add_config_flags(parser, ServerConfig)
    add_config_flags(parser, EngineConfig)
    parsed = parser.parse_args(arguments)
    read_config_flags(parsed, ServerConfig)
    return read_config_flags(parsed, EngineConfig)


def test_flags_may_be_spelled_as_vllm_has_them(caplog):
    wanted = EngineConfig(
        max_num_seqs=8,
        dtype="float16",
        tensor_parallel_size=2,
        prefix_cache_scope="off",
        cuda_graphs="off",
        steps_in_flight=1,
    )
    flags = (
        *("--max_num_seqs", "8", "--dtype=half", "-tp", "2", "--no_enable_prefix_caching"),
        *("--enforce-eager", "--no-async-scheduling"),
    )
    idle = (
        "--disable-log-stats",
        "--compilation_config={'a_b': 1}",
        "--uvicorn-log-level",
        "info",
    )
    assert parse(*flags, *idle, "--pipeline-parallel-size", "1", "--hf-overrides", "{}") == wanted
    engine, server = sorted(record.message for record in caplog.records)
    assert all(flag in engine for flag in ("--disable-log-stats", "--compilation-config"))
    assert "--uvicorn-log-level" in server


def test_vllms_flags_of_logging_switch_the_log_of_requests():
    parser = FlexibleArgumentParser()
    add_config_flags(parser, ServerConfig)

    def is_on(*arguments: str) -> bool:
        return read_config_flags(parser.parse_args(arguments), ServerConfig).log_requests

    assert is_on()
    assert is_on("--enable-log-requests")
    assert not is_on("--disable_log_requests")
    assert not is_on("--no-enable-log-requests")
    with pytest.raises(ConfigError, match="contradict"):
        is_on("--disable-log-requests", "--enable-log-requests")


def test_vllms_flag_of_a_tool_parser_chooses_the_format_of_calls():
    parser = FlexibleArgumentParser()
    add_config_flags(parser, ServerConfig)
    arguments = parser.parse_args(["--enable-auto-tool-choice", "--tool-call-parser", "qwen3_xml"])
    assert read_config_flags(arguments, ServerConfig).tool_parser == "qwen3_xml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pipeline-parallel-size", "2"), "--pipeline-parallel-size of 2"),
        (("--enable_lora",), "--enable-lora of True"),
        (("--hf-overrides", '{"a": 1}'), "--hf-overrides"),
        (("--tool-parser-plugin", "mine.py"), "--tool-parser-plugin of 'mine.py'"),
        (("--ssl-keyfile", "key.pem"), "--ssl-keyfile"),
        (("--swap-space", "4"), "--swap-space is 4"),
    ],
)
def test_flags_that_cannot_be_had_are_refused_by_name(arguments, words):
    with pytest.raises(ConfigError, match=words):
        parse(*arguments)


def test_a_refused_flag_of_the_server_is_one_line_and_what_follows_two_hyphens_is_no_flag():
    refused = octavo("serve", "--data_parallel_size", "2")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "--data-parallel-size of 2" in refused.stderr
    told = octavo("generate", "--max_tokens", "1", "--model", "/nowhere_at_all", "--", "--my_text")
    assert "/nowhere_at_all" in told.stderr


def test_engine_args_hold_every_keyword_and_give_them_back():
    args = EngineArgs(model="smollm2", max_num_seqs=4, enforce_eager=True, enable_prefix_caching=False)
    given = dataclasses.asdict(args)
    assert given.keys() >= {*ENGINE, *MAPPED, *(field.name for field in dataclasses.fields(EngineConfig))}
    knobs: dict[str, Any] = {"prefix_cache_scope": "off", "cuda_graphs": "off"}
    assert config(**given) == EngineConfig(model="smollm2", max_num_seqs=4, **knobs)
    with pytest.raises(TypeError, match="max_num_seq"):
        EngineArgs(max_num_seq=4)


def test_sampling_params_default_as_vllms_and_take_its_keywords():
    idle: dict[str, Any] = {"best_of": None, "detokenize": True, "logits_processors": None, "extra_args": {}}
    params = SamplingParams(**idle)
    assert params == SamplingParams()
    assert (params.max_tokens, params.temperature, params.n) == (16, 1.0, 1)
    cold: dict[str, Any] = {"beam_width": 2, "temperature": 0.0}
    assert BeamSearchParams(**cold) == BeamSearchParams(beam_width=2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"best_of": 2}, "best_of of 2"),
        ({"logits_processors": [print]}, "logits_processors"),
        ({"guided_decoding": {"json": {}}}, "structured_outputs must be a StructuredOutputsParams"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"use_beam_search": True}, r"use_beam_search.*LLM\.beam_search"),
        ({"detokenize": False}, "detokenize"),
        ({"max_new_tokens": 5}, "unknown field max_new_tokens"),
        ({"output_kind": "delta"}, "output_kind must be a RequestOutputKind"),
        ({"ignore_eos": "no"}, "ignore_eos must be True or False, got 'no'"),
        ({"skip_special_tokens": "false"}, "skip_special_tokens must be True or False"),
        ({"include_stop_str_in_output": 1}, "include_stop_str_in_output must be True or False"),
    ],
)
def test_sampling_fields_that_cannot_be_had_are_refused_by_name(fields, words):
    with pytest.raises(RequestError, match=words):
        SamplingParams(**fields)


def test_fields_are_given_by_name():
    with pytest.raises(RequestError, match="SamplingParams takes its fields by name"):
        SamplingParams(*[0.5])


def test_methods_of_vllms_that_are_not_there_say_why(smollm2):
    for name, words in (("reward", "a prompt has one vector"), ("sleep", "close()"), ("nothing", "no attribute")):
        assert not hasattr(smollm2, name)
        with pytest.raises(AttributeError, match=re.escape(words)):
            getattr(smollm2, name)


def test_a_beam_search_at_a_temperature_is_refused():
    warm: dict[str, Any] = {"beam_width": 2, "temperature": 0.7}
    with pytest.raises(RequestError, match=r"temperature of 0\.7"):
        BeamSearchParams(**warm)


def test_sampling_params_may_be_set_and_cloned_and_are_checked_when_used(smollm2):
    stops = ["x"]
    params = SamplingParams(temperature=0, stop=stops)
    copy = params.clone()
    params.max_tokens = 3
    stops.append("y")
    assert (copy.max_tokens, copy.stop) == (16, ["x"])
    [output] = smollm2.generate("The sea is", params, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 3
    params.max_tokens = 0
    with pytest.raises(RequestError, match="max_tokens must be a whole number of at least 1, got 0"):
        smollm2.generate("The sea is", params, use_tqdm=False)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"lora_request": 1}, "lora_request of 1.*adapters"),
        ({"priority": [1]}, "priority"),
        ({"add_generation_promt": False}, "add_generation_promt"),
        ({"prompt_token_ids": [1]}, "prompt_token_ids"),
    ],
)
def test_keywords_of_calls_are_those_of_the_class_or_refused(smollm2, keywords, words):
    with pytest.raises(RequestError, match=words):
        smollm2.generate("Hi", use_tqdm=False, **keywords)
    with pytest.raises(RequestError, match=words):
        smollm2.chat(MESSAGES, use_tqdm=False, **keywords)
    with pytest.raises(RequestError, match=words):
        smollm2.beam_search("Hi", BeamSearchParams(beam_width=2, max_tokens=1), use_tqdm=False, **keywords)
    assert smollm2.generate("Hi", SamplingParams(max_tokens=1), use_tqdm=False, lora_request=None)[0].finished


def test_chat_takes_vllms_keywords(smollm2):
    template = "{{ messages | length }}{% for tool in tools %}{{ tool.function.name }}{% endfor %}{{ style }}"
    template += "{% if add_generation_prompt %}>{% endif %}"
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("find", "add")]
    asked = {"chat_template": template, "tools": tools, "chat_template_kwargs": {"style": "brief"}}
    neutral = {"lora_request": None, "mm_processor_kwargs": None, "chat_template_content_format": "auto"}
    one = SamplingParams(max_tokens=1)
    for opens, end in ((True, ">"), (False, "")):
        keywords = asked | neutral | {"add_generation_prompt": opens, "continue_final_message": False}
        [output] = smollm2.chat(MESSAGES, one, use_tqdm=False, **keywords)
        assert output.prompt == f"{len(MESSAGES)}findaddbrief{end}"
    for name, value in (("mm_processor_kwargs", {"a": 1}), ("chat_template_content_format", "openai")):
        with pytest.raises(RequestError, match=f"^{name}"):
            smollm2.chat(MESSAGES, one, use_tqdm=False, **{name: value})


def test_generate_takes_vllms_keywords(smollm2):
    one = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2, ignore_eos=True)]
    neutral = {"lora_request": None, "priority": [0, 0], "tokenization_kwargs": None}
    outputs = smollm2.generate(
        prompts=["Hi", {"prompt_token_ids": [5]}], sampling_params=one, use_tqdm=False, **neutral
    )
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 2]


def test_logits_processors_are_refused_with_what_to_use_instead():
    made: Any = SamplingParams
    for refused, error in (
        (lambda: made(logits_processors=[print]), RequestError),
        (lambda: LLM("smollm2", logits_processors=["mine:Processor"]), ConfigError),
    ):
        with pytest.raises(error, match=r"logits_processors.*logit_bias, allowed_token_ids, bad_words and structured"):
            refused()
    assert made(logits_processors=[]) == SamplingParams()


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt": "<image> What is this?", "multi_modal_data": {"image": b"..."}},
        {"prompt": "Hi", "multi_modal_data": {}},
        {"prompt": "Hi", "mm_processor_kwargs": {"a": 1}},
        {"prompt_embeds": [[0.5]]},
        {"prompt": "Hi", "promt": "Ho"},
        {"encoder_prompt": "Hi", "decoder_prompt": "Ho"},
    ],
)
def test_what_a_prompt_asks_beside_its_text_is_refused_by_name(smollm2, prompt):
    name = next(key for key in prompt if key != "prompt")
    with pytest.raises(RequestError, match=name):
        smollm2.generate(prompt, use_tqdm=False)


def test_a_prompt_of_ids_tells_the_text_given_beside_them(smollm2):
    ids = smollm2.get_tokenizer().encode("The sea is")
    one = SamplingParams(max_tokens=1)
    [output] = smollm2.generate({"prompt_token_ids": ids, "prompt": "said so", "multi_modal_data": None}, one)
    assert (output.prompt, output.prompt_token_ids) == ("said so", ids)


def test_a_chats_prompt_is_the_rendered_text(smollm2):
    [output] = smollm2.chat(MESSAGES, SamplingParams(max_tokens=1), use_tqdm=False)
    assert output.prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert output.prompt_token_ids == smollm2.get_tokenizer().encode(output.prompt)


def test_the_tokenizer_has_transformers_names(smollm2):
    tokenizer = smollm2.get_tokenizer()
    ids = tokenizer.encode("Hi<|im_end|>")
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", ids[-1])
    assert tokenizer.decode(ids) == "Hi<|im_end|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Hi"
    assert len(tokenizer) == tokenizer.vocab_size == 49152
    rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert rendered.endswith("assistant\n")
    assert tokenizer("Hi<|im_end|>").input_ids == tokenizer("Hi<|im_end|>")["input_ids"] == ids
    assert tokenizer(["Hi", "Ho ho"])["attention_mask"] == [[1], [1, 1]]
    assert tokenizer.batch_decode([ids, ids[:1]]) == ["Hi<|im_end|>", "Hi"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Hi", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == "Hi"
    with pytest.raises(RequestError, match="leave out padding, return_tensors"):
        tokenizer("Hi", return_tensors="pt", padding=True)
    for outside in (tokenizer.decode, tokenizer.convert_ids_to_tokens):
        with pytest.raises(RequestError, match="outside the vocabulary"):
            outside([10**6])
    with pytest.raises(RequestError, match="return_tensors of 'pt'"):
        tokenizer.apply_chat_template(MESSAGES, return_tensors="pt")


def test_an_engine_stepped_by_hand_tells_as_its_output_kind_says(smollm2):
    engine: Any = smollm2.llm_engine
    greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
    [whole] = smollm2.generate("The sea is", SamplingParams(**greedy), use_tqdm=False)
    for kind in RequestOutputKind:
        engine.add_request(kind.name, "The sea is", SamplingParams(**greedy, output_kind=kind))
    told: dict[str, list[str]] = {kind.name: [] for kind in RequestOutputKind}
    assert engine.get_num_unfinished_requests() == 3
    while engine.has_unfinished_requests():
        for output in engine.step():
            told[output.request_id].append(output.outputs[0].text)
    text = whole.outputs[0].text
    assert told["FINAL_ONLY"] == [text]
    assert told["CUMULATIVE"][-1] == text
    assert all(text.startswith(part) for part in told["CUMULATIVE"])
    assert len(told["DELTA"]) > 1
    assert "".join(told["DELTA"]) == text
    assert engine.step() == []


def test_parts_of_several_sequences_are_over_when_all_are(smollm2):
    engine: Any = smollm2.llm_engine
    params = SamplingParams(n=3, seed=4, max_tokens=30, stop=["e"], output_kind=RequestOutputKind.DELTA)
    [whole] = smollm2.generate("The sea is", params, use_tqdm=False)
    assert len({len(each.token_ids) for each in whole.outputs}) > 1
    engine.add_request("parts", "The sea is", params)
    texts, ends = ["", "", ""], []
    while engine.has_unfinished_requests():
        for output in engine.step():
            ends.append(output.finished)
            for part in output.outputs:
                texts[part.index] += part.text
    assert texts == [each.text for each in whole.outputs]
    assert ends == [False] * (len(ends) - 1) + [True]


def test_an_engine_stepped_by_hand_shares_its_steps_with_the_llms_own_calls(smollm2):
    engine: Any = smollm2.llm_engine
    params = SamplingParams(temperature=0, max_tokens=5)
    engine.add_request("a", "The sea is", params)
    with pytest.raises(RequestError, match="request_id 'a'"):
        engine.add_request("a", "The sea is", params)
    with pytest.raises(RequestError, match="prompt is empty"):
        engine.add_request("b", [], params)
    smollm2.generate("The capital of France is", params, use_tqdm=False)
    outputs = [output for output in engine.step() if output.finished] if engine.has_unfinished_requests() else []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    assert outputs[-1].finished
    engine.add_request("c", "The sea is", params)
    [last] = engine.abort_request(["c", "unknown"])
    assert last.outputs[0].finish_reason == "abort"
    assert not engine.has_unfinished_requests()
    assert smollm2.ledger().num_used_blocks == 0


def test_the_prefix_cache_can_be_reset_between_calls(smollm2):
    prompt, params = "Octavo keeps keys and values in blocks. " * 20, SamplingParams(temperature=0, max_tokens=1)

    def num_cached() -> int:
        [output] = smollm2.generate(prompt, params, use_tqdm=False)
        return int(output.num_cached_tokens)

    assert smollm2.reset_prefix_cache()
    assert num_cached() == 0
    assert num_cached() > 100
    assert smollm2.llm_engine.reset_prefix_cache()
    assert num_cached() == 0
    engine: Any = smollm2.llm_engine
    engine.add_request("a", prompt, params)
    assert not smollm2.reset_prefix_cache(), "a request is not over"
    engine.abort_request(["a"])
    assert num_cached() > 100


def test_a_closed_model_has_no_prefix_cache_to_reset(tmp_path):
    with LLM(str(make_llama(tmp_path)), tokenizer="smollm2", kv_cache_memory="1MiB", num_threads=1) as llm:
        pass
    with pytest.raises(EngineError, match="closed"):
        llm.reset_prefix_cache()


def test_an_async_engine_ends_aborted_left_and_refused_requests():
    engine = AsyncLLM.from_engine_args(EngineArgs(model="smollm2", kv_cache_memory="64MiB", max_model_len=512))
    long = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)

    async def aborted() -> str | None:
        async for output in engine.generate("The sea is", long, request_id="a"):
            last = output
            if len(output.outputs[0].token_ids) == 3:
                await engine.abort("a")
        return last.outputs[0].finish_reason

    async def left() -> int:
        async for output in engine.generate("The sea is", long, request_id="b"):
            return len(output.outputs[0].token_ids)
        return 0

    async def refused(words: str, **keywords) -> None:
        with pytest.raises(RequestError, match=words):
            async for _ in engine.generate(**keywords):
                pass

    async def main() -> None:
        reason, count = await asyncio.gather(aborted(), left())
        assert reason == "abort"
        assert count >= 1
        await refused("prompt is empty", prompt=[], sampling_params=long, request_id="c")
        await refused("lora_request", prompt="Hi", sampling_params=long, request_id="c", lora_request=1)
        short = SamplingParams(max_tokens=2, ignore_eos=True)
        outputs = [output async for output in engine.generate("Hi", short, request_id="b")]
        assert outputs[-1].finished

    asyncio.run(main())
    # Another loop may use the same engine.
    asyncio.run(refused("maximum context length", prompt=[1] * 600, sampling_params=SamplingParams(), request_id="d"))
    assert engine._engine._shared.ledger().num_used_blocks == 0
    engine.shutdown()
    with pytest.raises(EngineError, match="shut down"):
        asyncio.run(engine.check_health())


@pytest.mark.parametrize("params", [SamplingParams(), None, {"beam_width": 2}, [SamplingParams()]])
def test_a_beam_search_without_its_own_parameters_is_refused(smollm2, params):
    with pytest.raises(RequestError, match="params must be a BeamSearchParams"):
        smollm2.beam_search("Hi", params, use_tqdm=False)
