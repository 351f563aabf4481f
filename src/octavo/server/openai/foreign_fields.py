"""Fields of other servers that change an answer and that this one does not carry out: they are refused by name. Those
that it has under another name are in `aliases`.

What asks for nothing passes: null, as a rule false, and the values listed. Fields that are in no list, such as `user`,
`metadata`, `store`, `service_tier`, `parallel_tool_calls`, `guided_decoding_backend` or `cache_prompt`, change no
answer and are ignored.
"""

from collections.abc import Mapping
from typing import Any

from octavo.server.errors import ApiError

Neutral = tuple[Any, ...]
"""The values of a field that ask for nothing."""

OPENAI: dict[str, Neutral] = {
    "audio": (),
    "moderation": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
VLLM: dict[str, Neutral] = {
    "kv_transfer_params": (),
    "logits_processors": ([],),
    "logprobs_mode": ("raw_logprobs",),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "prompt_embeds": (),
    "repetition_detection": (),
    "vllm_xargs": ({},),
    "extra_args": ({},),
}
SGLANG: dict[str, Neutral] = {
    "bootstrap_host": (),
    "custom_logit_processor": (),
    "custom_params": ({},),
    "input_embeds": (),
    "input_ids": (),
    "lora_path": (),
    "return_hidden_states": (),
    "sampling_params": ({},),
    "session_params": (),
}
LLAMA_CPP: dict[str, Neutral] = {
    "adaptive_target": (-1,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "grammar_lazy": (),
    "grammar_triggers": ([],),
    "image_data": ([],),
    "input_extra": ([],),
    "input_prefix": ("",),
    "input_suffix": ("",),
    "lora": ([],),
    "min_keep": (0,),
    "mirostat": (0,),
    "multimodal_data": ([],),
    "n_discard": (0,),
    "n_indent": (0,),
    "n_keep": (0,),
    "penalize_nl": (),
    "post_sampling_probs": (),
    "repeat_last_n": (-1,),
    "response_fields": ([],),
    "return_progress": (),
    "samplers": (),
    "t_max_predict_ms": (0, -1),
    "t_max_prompt_ms": (0, -1),
    "tfs_z": (1,),
    "top_n_sigma": (-1,),
    "typical_p": (1,),
    "xtc_probability": (0,),
}
TGI: dict[str, Neutral] = {
    "adapter_id": (),
    "decoder_input_details": (),
    "details": (),
    "frequency_penalty_range": (0,),
    "guideline": (),
    "inputs": (),
    "parameters": ({},),
    "return_full_text": (),
    "tool_prompt": (),
    "watermark": (),
}
OTHERS: dict[str, Neutral] = {
    "banned_strings": ([],),
    "diversity_penalty": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "force_words_ids": ([],),
    "format": ("",),
    "guidance_scale": (1,),
    "images": ([],),
    "input": (),
    "instructions": (),
    "max_length": (),
    "min_length": (0,),
    "add_bos_token": (True,),
    "ban_eos_token": (),
    "negative_prompt": ("",),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "options": ({},),
    "penalty_alpha": (0,),
    "plugins": ([],),
    "smoothing_factor": (0,),
    "system": (),
    "tfs": (1,),
    "top_a": (0,),
    "transforms": ([],),
    "typical": (1,),
}
FALSE_ASKS = {"add_bos_token", "enable_thinking", "think"}
"""Fields in which false asks for something else than what is done."""
REFUSED = OPENAI | VLLM | SGLANG | LLAMA_CPP | TGI | OTHERS

INSTEAD = {
    "repeat_last_n": "send repetition_penalty, which looks at all tokens",
    "banned_strings": "send bad_words",
    "max_length": "send max_tokens",
    "min_length": "send min_tokens",
    "add_bos_token": "send add_special_tokens",
    "ban_eos_token": "send ignore_eos",
    "messages": "send them to /v1/chat/completions",
    "prompt": "send it to /v1/completions",
    "top_logprobs": "send their number as logprobs",
    "return_full_text": "send echo",
    "inputs": "send prompt, or messages",
    "input": "send prompt, or messages",
    "input_ids": "send them as prompt of /v1/completions",
}
"""What to send in place of a field, where this server has the same under another name."""


def check_foreign(
    fields: Mapping[str, Any], refused: Mapping[str, Neutral], instead: Mapping[str, str] = INSTEAD
) -> None:
    """Refuse fields that would change the answer.

    Args:
        instead: what to send in place of a field.

    Raises:
        ApiError: the message names the first of them.
    """
    for name, value in fields.items():
        if name in refused and not _asks_nothing(name, value, refused[name]):
            raise unsupported(name, instead.get(name, "leave it out"))


def _asks_nothing(name: str, value: object, neutral: Neutral) -> bool:
    if value is None or (value is False and name not in FALSE_ASKS):
        return True
    # True is no 1 and False no 0 here, so types are compared as well; 1.0 is 1.
    same = (each for each in neutral if isinstance(each, bool) == isinstance(value, bool))
    return any(value == each for each in same)


def unsupported(name: str, hint: str = "leave it out") -> ApiError:
    """The refusal of a field that would change the answer."""
    return ApiError(400, f"{name} is not supported by this server: {hint}", code="unsupported_parameter", param=name)
