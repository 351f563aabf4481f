"""What vLLM's keywords and flags mean here, where no knob or field has that name: one changes nothing, or has one value
here and is refused by name with another. A leaf: plain data, and the functions that hold values to it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from octavo.errors import OctavoError, RequestError

Spelling = Callable[[str], str]
"""How an error calls a keyword: by its own name, or as a flag."""


@dataclass(frozen=True, slots=True)
class Keyword:
    """A keyword of vLLM's."""

    kind: type
    """Of its values: bool, int, float, str, or dict where the flag takes JSON."""
    served: tuple[Any, ...] | None = None
    """The values that can be had; None is any value, as it changes nothing here. A None is always as if absent."""
    remedy: str = ""
    """What to do where another value is wanted."""
    help: str = ""
    """Of its flag, where that is worth showing."""


def _changing_nothing(kind: type, names: str) -> dict[str, Keyword]:
    return {name: Keyword(kind) for name in names.split()}


_NO_REWARDS = "a prompt has one vector, and a class's score"
_OWN_TASKS = "a model has its tasks, whatever is asked for: to generate, to embed, to classify, to score"
_NO_ADAPTERS = "adapters are not loaded"
_NO_CODE = "no code from outside is run in a step"
_NO_PROCESSORS = f"{_NO_CODE}; logit_bias, allowed_token_ids, bad_words and structured_outputs say what is generated"
_NO_OVERRIDES = "change the model's config.json instead"
_NO_TLS = "put a proxy in front that speaks TLS"

ENGINE: dict[str, Keyword] = {
    **_changing_nothing(
        bool,
        "trust_remote_code disable_log_stats "
        "enable_chunked_prefill disable_custom_all_reduce disable_async_output_proc disable_cascade_attn "
        "disable_hybrid_kv_cache_manager use_v2_block_manager use_tqdm_on_load enable_expert_parallel enable_eplb "
        "enable_dbo enable_sleep_mode show_hidden_metrics kv_cache_metrics "
        "kv_sharing_fast_prefill disable_mm_preprocessor_cache skip_mm_profiling ray_workers_use_nsight "
        "enable_mm_embeds interleave_mm_strings enable_multimodal_encoder_data_parallel",
    ),
    **_changing_nothing(
        int,
        "max_seq_len_to_capture max_parallel_loading_workers num_lookahead_slots num_scheduler_steps "
        "max_num_partial_prefills max_long_partial_prefills long_prefill_token_threshold stream_interval "
        "tokenizer_pool_size max_loras max_lora_rank max_cpu_loras lora_extra_vocab_size mm_processor_cache_gb "
        "delay_factor optimization_level",
    ),
    **_changing_nothing(float, "cpu_offload_gb scheduler_delay_factor"),
    **_changing_nothing(
        str,
        "compilation_config distributed_executor_backend attention_backend attention_config all2all_backend model_impl "
        "prefix_caching_hash_algo limit_mm_per_prompt mm_processor_kwargs media_io_kwargs allowed_local_media_path "
        "allowed_media_domains mm_processor_cache_type mm_encoder_tp_mode code_revision served_model_name "
        "scheduler_cls worker_cls worker_extension_cls lora_dtype guided_decoding_backend structured_outputs_config "
        "guided_decoding_disable_fallback num_speculative_tokens "
        "model_loader_extra_config ignore_patterns otlp_traces_endpoint collect_detailed_traces profiler_config "
        "kv_events_config ec_transfer_config additional_config cuda_graph_sizes cudagraph_capture_sizes "
        "max_cudagraph_capture_size tokenizer_pool_type observability_config reasoning_parser",
    ),
    "tokenizer_mode": Keyword(str, ("auto", "hf"), "the tokenizer is the model's own"),
    "config_format": Keyword(str, ("auto", "hf"), "a model's config.json is read"),
    "runner": Keyword(str, ("auto", "generate", "pooling"), _OWN_TASKS),
    "task": Keyword(str, ("auto", "generate", "embed", "embedding", "classify", "score"), _OWN_TASKS),
    "convert": Keyword(str, ("auto", "none", "embed", "classify"), _OWN_TASKS),
    "pipeline_parallel_size": Keyword(int, (1,), "tensor_parallel_size splits a model over processes"),
    "data_parallel_size": Keyword(int, (1,), "start one server for each"),
    "decode_context_parallel_size": Keyword(int, (1,), "tensor_parallel_size splits a model over processes"),
    "prefill_context_parallel_size": Keyword(int, (1,), "tensor_parallel_size splits a model over processes"),
    "nnodes": Keyword(int, (1,), "a model runs on one machine"),
    "tokenizer_revision": Keyword(str, (), "revision is the model's and the tokenizer's"),
    "skip_tokenizer_init": Keyword(bool, (False,), "the tokenizer is always loaded"),
    "hf_token": Keyword(str, (True, False), "log in with `hf auth login`, or set HF_TOKEN"),
    "hf_config_path": Keyword(str, (), "put config.json beside the weights"),
    "hf_overrides": Keyword(dict, ({},), _NO_OVERRIDES),
    "rope_scaling": Keyword(dict, ({},), _NO_OVERRIDES),
    "rope_theta": Keyword(float, (), _NO_OVERRIDES),
    "disable_sliding_window": Keyword(bool, (False,), _NO_OVERRIDES),
    "logprobs_mode": Keyword(str, ("raw_logprobs",), "logprobs are those of the model's own distribution"),
    "logits_processors": Keyword(str, ([],), _NO_PROCESSORS),
    "logits_processor_pattern": Keyword(str, (), _NO_CODE),
    "enable_lora": Keyword(bool, (False,), _NO_ADAPTERS),
    "default_mm_loras": Keyword(dict, ({},), _NO_ADAPTERS),
    "enable_prompt_embeds": Keyword(bool, (False,), "prompts are texts or token ids"),
    "language_model_only": Keyword(bool, (True, False), "only text is served"),
    "calculate_kv_scales": Keyword(bool, (False,), "kv_cache_dtype='int8' has a scale for each vector"),
    "quantization_param_path": Keyword(str, (), "kv_cache_dtype='int8' has a scale for each vector"),
    "num_gpu_blocks_override": Keyword(int, (), "kv_cache_memory sizes the KV cache"),
    "kv_transfer_config": Keyword(dict, ({},), "the KV cache stays in this process"),
    "kv_offloading_size": Keyword(float, (0,), "swap_space has room for preempted requests"),
}
"""Of the engine (`LLM`, `EngineArgs`, every command): those that change nothing, and those with one value here."""

MAPPED: dict[str, Keyword] = {
    "enable_prefix_caching": Keyword(bool, help="whether computed prefixes are kept; off is --prefix-cache-scope off"),
    "enforce_eager": Keyword(bool, help="as --cuda-graphs off"),
    "speculative_config": Keyword(dict, help='JSON whose "method" (ngram or suffix) is as --speculate auto'),
    "speculative_model": Keyword(str, help="[ngram] is as --speculate auto"),
    "pooler_config": Keyword(dict, help='JSON whose "pooling_type" (MEAN, LAST or CLS) is as --pooling'),
    "override_pooler_config": Keyword(dict, help="the older name of --pooler-config"),
    "async_scheduling": Keyword(bool, help="off is --steps-in-flight 1, on is what --steps-in-flight is by default"),
    "kv_cache_memory_bytes": Keyword(int, help="bytes of the KV cache, as --kv-cache-memory"),
}
"""Of the engine, those that mean something here (see `engine_args.engine_knobs`)."""

LOGGING: dict[str, Keyword] = {
    "enable_log_requests": Keyword(bool, help="as --log-requests"),
    "disable_log_requests": Keyword(bool, help="as --no-log-requests"),
}
"""Of the server, those that mean something here; an `LLM` logs no requests."""

PARSERS: dict[str, Keyword] = {"tool_call_parser": Keyword(str, help="as --tool-parser")}
"""Of the server, those that say how answers are read."""

SERVER: dict[str, Keyword] = {
    **_changing_nothing(
        bool,
        "disable_frontend_multiprocessing disable_fastapi_docs disable_uvicorn_access_log enable_server_load_tracking "
        "enable_prompt_tokens_details enable_request_id_headers exclude_tools_when_tool_choice_none log_error_stack "
        "trust_request_chat_template enable_tokenizer_info_endpoint enable_log_deltas enable_auto_tool_choice",
    ),
    **_changing_nothing(int, "max_log_len h11_max_incomplete_event_size h11_max_header_count api_server_count"),
    **_changing_nothing(str, "uvicorn_log_level log_config_file disable_access_log_for_endpoints"),
    "response_role": Keyword(str, ("assistant",), "answers are the assistant's"),
    "return_tokens_as_token_ids": Keyword(bool, (False,), "tokens are told as texts"),
    "enable_force_include_usage": Keyword(bool, (False,), "requests ask for it: stream_options.include_usage"),
    "tool_parser_plugin": Keyword(str, ("",), _NO_CODE),
    "reasoning_parser_plugin": Keyword(str, ("",), _NO_CODE),
    "tool_server": Keyword(str, (), "the model calls no tools by itself"),
    "lora_modules": Keyword(str, (), _NO_ADAPTERS),
    "middleware": Keyword(str, (), "no code from outside is run"),
    "root_path": Keyword(str, ("",), "let the proxy in front cut it off"),
    "uds": Keyword(str, (), "the server listens on host and port"),
    "headless": Keyword(bool, (False,), "a model runs on one machine"),
    "allow_credentials": Keyword(bool, (False,), "a key travels in the Authorization header"),
    "allowed_origins": Keyword(str, ([],), "give each with --allowed-origin"),
    "enable_log_outputs": Keyword(bool, (False,), "--log-prompts logs answers too"),
    "ssl_keyfile": Keyword(str, (), _NO_TLS),
    "ssl_certfile": Keyword(str, (), _NO_TLS),
    "ssl_ca_certs": Keyword(str, (), _NO_TLS),
    "ssl_cert_reqs": Keyword(int, (0,), _NO_TLS),
    "enable_ssl_refresh": Keyword(bool, (False,), _NO_TLS),
}
"""Of `octavo serve` alone."""

SAMPLING: dict[str, Keyword] = {
    "best_of": Keyword(int, (), "n samples are all returned; LLM.beam_search gives the likeliest"),
    "use_beam_search": Keyword(bool, (False,), "LLM.beam_search takes BeamSearchParams"),
    "detokenize": Keyword(bool, (True,), "an output always has its text"),
    "spaces_between_special_tokens": Keyword(bool, (True,), "a text is what the tokens spell"),
    "truncate_prompt_tokens": Keyword(int, (), "shorten the prompt"),
    "logits_processors": Keyword(list, ([],), _NO_PROCESSORS),
    "flat_logprobs": Keyword(bool, (False,), "logprobs are a list of dicts"),
    "skip_reading_prefix_cache": Keyword(bool, (False,), "a prompt's cache_salt keeps it apart"),
    "skip_clone": Keyword(bool),
    "extra_args": Keyword(dict, ({},), _NO_CODE),
    "repetition_detection": Keyword(dict, (), "repetition_penalty discourages repetition"),
}
"""Of `SamplingParams`."""

STRUCTURED: dict[str, Keyword] = {
    "backend": Keyword(str),
    "_backend": Keyword(str),
    "disable_fallback": Keyword(bool),
}
"""Of `StructuredOutputsParams`, and of its older name `GuidedDecodingParams`."""

POOLING: dict[str, Keyword] = {
    "softmax": Keyword(bool, (), "use_activation says whether classes come as probabilities"),
    "activation": Keyword(bool, (), "use_activation says whether classes come as probabilities"),
    "step_tag_id": Keyword(int, (), "a prompt has one vector"),
    "returned_token_ids": Keyword(list, (), "a prompt has one vector"),
    "requires_token_ids": Keyword(bool),
    "skip_reading_prefix_cache": Keyword(bool, (False,), "a prompt's cache_salt keeps it apart"),
    "extra_kwargs": Keyword(dict, ({},), _NO_CODE),
}
"""Of `PoolingParams`."""

BEAM_SEARCH: dict[str, Keyword] = {
    "temperature": Keyword(float, (0,), "a beam search compares the model's own probabilities"),
}
"""Of `BeamSearchParams`."""

REQUEST: dict[str, Keyword] = {
    "lora_request": Keyword(dict, (), _NO_ADAPTERS),
    "priority": Keyword(int, (0, []), "LLM.generate, LLMEngine.add_request and AsyncLLM.generate take it"),
    "tokenization_kwargs": Keyword(dict, ({},), "give token ids instead"),
    "mm_processor_kwargs": Keyword(dict, ({},), "only text is served"),
    "trace_headers": Keyword(dict, ({},), "requests are not traced"),
    "data_parallel_rank": Keyword(int, (), "there is one engine"),
    "concurrency_limit": Keyword(int),
    "chat_template_content_format": Keyword(str, ("auto",), "LLM(chat_template_content_format=...) sets it for all"),
}
"""Of calls that make requests: `LLM.generate` and its siblings, `add_request`."""

TEMPLATE: dict[str, Keyword] = {
    "return_dict": Keyword(bool, (False,), "token ids come as a list"),
    "return_tensors": Keyword(str, (), "token ids come as a list"),
    "return_assistant_tokens_mask": Keyword(bool, (False,), "token ids come as a list"),
    "padding": Keyword(bool, (False,), "token ids come as a list"),
    "truncation": Keyword(bool, (False,), "shorten the conversation"),
    "max_length": Keyword(int, (), "shorten the conversation"),
    "tokenizer_kwargs": Keyword(dict, ({},), "token ids come as a list"),
}
"""Of a tokenizer's `apply_chat_template`, beside a template's variables."""

SPELLINGS: dict[str, dict[str, str]] = {
    "dtype": {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"},
    "quantization": {
        **dict.fromkeys(("awq_marlin", "auto_awq"), "awq"),
        **dict.fromkeys(("gptq_marlin", "auto_gptq"), "gptq"),
    },
    "load_format": {"pt": "bin", "hf": "auto"},
    "kv_cache_dtype": {"fp8_e4m3": "fp8", "float8_e4m3fn": "fp8"},
}
"""vLLM's words for values of knobs."""


METHODS = {
    "reward": _NO_REWARDS,
    **dict.fromkeys(("collective_rpc", "apply_model"), _NO_CODE),
    **dict.fromkeys(("sleep", "wake_up"), "close() gives the memory back"),
    **dict.fromkeys(("start_profile", "stop_profile"), "octavo bench step tells where a step's time goes"),
}
"""Of vLLM's `LLM`, which are not there: what to know of each."""

SECRETS = ("hf_token",)
"""Keywords whose values no message tells."""


def check_keywords(
    given: Mapping[str, Any],
    known: Mapping[str, Keyword],
    error: type[OctavoError] = RequestError,
    spelling: Spelling = str,
) -> list[str]:
    """Refuse what cannot be had.

    Returns:
        The given ones that change nothing.

    Raises:
        OctavoError: as `error`, for the first value that would change the answer and is not served.
    """
    for name, value in given.items():
        served = known[name].served
        if value is not None and served is not None and value not in served:
            shown = "" if name in SECRETS else f" of {value!r:.100}"
            raise error(f"{spelling(name)}{shown} cannot be had: {known[name].remedy}")
    return [name for name, value in given.items() if value is not None and known[name].served is None]


class Parameters(msgspec.StructMeta):
    """The class of structs that take vLLM's keywords beside their fields, where these ask for nothing else than what
    is done anyway."""

    foreign: dict[str, Keyword]
    older_names: Mapping[str, str] = MappingProxyType({})
    """Of fields."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """An instance.

        Raises:
            RequestError: a keyword that nobody knows, or a value that cannot be had.
        """
        if args:
            raise RequestError(f"{self.__name__} takes its fields by name, as in {self.__struct_fields__[0]}=2")
        for older, name in self.older_names.items():
            value = keywords.pop(older, None)
            if value is not None and keywords.setdefault(name, value) is not value:
                raise RequestError(f"{older} is the older name of {name}: give one of them")
        foreign = {name: keywords.pop(name) for name in sorted(keywords.keys() - set(self.__struct_fields__))}
        if unknown := foreign.keys() - self.foreign.keys():
            fields = ", ".join(name for name in self.__struct_fields__ if name != "beams")
            raise RequestError(f"unknown field {', '.join(sorted(unknown))}; {self.__name__} takes {fields}")
        check_keywords(foreign, self.foreign)
        return super().__call__(**keywords)


def check_call(given: Mapping[str, Any], call: str) -> None:
    """Refuse keywords of a call that makes requests, but those of vLLM that ask for nothing.

    Raises:
        RequestError: one is unknown, or asks for what cannot be had.
    """
    if unknown := given.keys() - REQUEST.keys():
        raise RequestError(f"{call} has no keyword {', '.join(sorted(unknown))}")
    check_keywords(given, REQUEST)


def spelled(name: str, value: Any) -> Any:
    """A knob's value in this package's words: `half` and `torch.float16` are `float16`, and a dict is its JSON."""
    if isinstance(value, Mapping):
        return json.dumps(value, default=repr)
    if name in ("dtype", "kv_cache_dtype") and not isinstance(value, str):
        value = str(value).removeprefix("torch.")
    return SPELLINGS.get(name, {}).get(value, value) if isinstance(value, str) else value
