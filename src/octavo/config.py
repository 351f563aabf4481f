"""Every knob, declared once: typed, documented, checked. Command-line flags, `LLM` keywords and `--help` derive from
here."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from octavo.errors import ConfigError

DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]
CacheDType = Literal["auto", "float32", "bfloat16", "float16", "int8"]
LoadFormat = Literal["auto", "safetensors", "bin", "gguf", "dummy"]
Quantization = Literal["none", "int8"]
KernelName = Literal["auto", "cpu", "reference"]
PrefixCacheScope = Literal["tenant", "global", "off"]
PreemptionMode = Literal["auto", "recompute", "swap"]

MAX_THREADS = 1024
MAX_RANKS = 64

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def parse_size(text: str | int, free_bytes: int, name: str, least: int = 1) -> int:
    """Bytes from a size (`48MiB`, `2GiB`, `500MB`, a bare number of bytes) or from a share of what is free (`40%`).

    Raises:
        ConfigError: it is neither, or less than `least` bytes, 1 or 0; the message calls it `name`.
    """
    if share := _SHARE.fullmatch(str(text)):
        percent = float(share[1])
        if not 0 < percent <= 100 and (percent, least) != (0, 0):
            raise ConfigError(f"{name} is {text!r}: a share must be above 0% and at most 100%")
        return int(free_bytes * percent / 100)
    size = _SIZE.fullmatch(str(text))
    if size is None or size[2].upper() not in _UNITS:
        raise ConfigError(
            f"{name} is {text!r}, which is not a size: write 48MiB, 2GiB, 500MB, a number of bytes, or a "
            f"share of free memory such as 40%"
        )
    num_bytes = float(size[1]) * _UNITS[size[2].upper()]
    if not least <= num_bytes < 2**63:
        raise ConfigError(f"{name} is {text!r}: it must be {'above zero' if least else 'zero or more'} and below 8 EiB")
    return int(num_bytes)


def knob(default: Any, help: str, *, group: str, metavar: str | None = None) -> Any:
    """One field of a config with what its flag's help says; choices and type come from the annotation."""
    return dataclasses.field(default=default, metadata={"help": help, "group": group, "metavar": metavar})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that shapes an engine.

    Raises:
        ConfigError: a value is out of its range, or two do not go together; the message names the flags.
    """

    model: str = knob(
        "smollm2",
        "alias (smollm2), folder in Hugging Face format, GGUF file, or a model on the Hugging Face hub "
        "(organisation/model)",
        group="model",
        metavar="MODEL",
    )
    revision: str | None = knob(
        None, "branch, tag or commit of a model on the hub; its main branch by default", group="model", metavar="NAME"
    )
    gguf_file: str | None = knob(
        None,
        "which of a folder's or a hub model's GGUF files to run: its name, or a part that no other has (Q4_K_M)",
        group="model",
        metavar="NAME",
    )
    download_dir: str | None = knob(
        None, "folder for models from the hub; the hub's own cache by default", group="model", metavar="FOLDER"
    )
    offline: bool = knob(False, "take models from the hub only as downloaded before", group="model")
    tokenizer: str | None = knob(
        None,
        "folder, GGUF file or hub name of the tokenizer, where it is not the model's own",
        group="model",
        metavar="PATH",
    )
    chat_template: str | None = knob(
        None, "Jinja chat template file, where the model's own is missing or unwanted", group="model", metavar="FILE"
    )
    load_format: LoadFormat = knob(
        "auto",
        "which of a model's weights to read: auto takes safetensors, else torch's own .bin files (no code in them is "
        "run), else a GGUF file; dummy makes up random weights of the model's shape",
        group="model",
    )
    dtype: DType = knob(
        "auto", "of weights and activations; auto is the checkpoint's own, and bfloat16 for a GGUF", group="model"
    )
    quantization: Quantization = knob(
        "none",
        "int8 keeps the weights of products in int8 and quantizes activations as they flow: half the memory of 16 "
        "bits, and answers that differ slightly",
        group="model",
    )
    max_model_len: int | None = knob(
        None,
        "longest sequence, prompt and output, in tokens; the model's own by default",
        group="model",
        metavar="TOKENS",
    )
    seed: int = knob(0, "of requests that bring none, and of dummy weights", group="model", metavar="N")
    block_size: int = knob(16, "token slots in a KV block", group="memory", metavar="TOKENS")
    kv_cache_memory: str | int = knob(
        "40%",
        "memory for the KV cache: 48MiB, 2GiB, or a share of what is free after loading, 40%",
        group="memory",
        metavar="SIZE",
    )
    kv_cache_dtype: CacheDType = knob(
        "auto", "of the KV cache; auto is that of --dtype, int8 halves the memory of a 16-bit one", group="memory"
    )
    prefix_cache_scope: PrefixCacheScope = knob(
        "tenant",
        "whose earlier requests a request may find computed blocks of: its own tenant's (that of its API key), "
        "everyone's (global), or nobody's (off)",
        group="memory",
    )
    pin_prefix: tuple[str, ...] = knob(
        (),
        "text file that prompts begin with (as the chat template renders it, for chats): its blocks are computed at "
        "the start and stay for all tenants; may be given several times",
        group="memory",
        metavar="FILE",
    )
    swap_space: str | int = knob(
        "10%",
        "memory to which preempted requests' blocks are moved: a size, or a share of what is free beside the KV cache; "
        "no more than the KV cache is ever taken, and 0 is none",
        group="memory",
        metavar="SIZE",
    )
    max_num_seqs: int = knob(256, "sequences that run in one step", group="scheduling", metavar="N")
    max_num_batched_tokens: int = knob(
        2048, "tokens computed in one step; longer prompts are cut into chunks", group="scheduling", metavar="TOKENS"
    )
    preemption_mode: PreemptionMode = knob(
        "auto",
        "how a request gives up its memory: recompute its tokens later, swap its blocks out and back, or (auto) "
        "whichever takes less time at the rates measured so far",
        group="scheduling",
    )
    max_logprobs: int = knob(20, "cap on a request's logprobs and prompt_logprobs", group="scheduling", metavar="N")
    kernels: KernelName = knob(
        "auto", "cpu is C++, reference plain torch; auto takes the best that can serve", group="machine"
    )
    tensor_parallel_size: int = knob(
        1,
        "processes that hold the model together, each a part of every layer, and share the machine's memory and "
        "threads as the other flags give them",
        group="machine",
        metavar="N",
    )
    num_threads: int | None = knob(
        None,
        "threads for the CPU kernels of all processes; torch's choice by default (one a core, or OMP_NUM_THREADS)",
        group="machine",
        metavar="N",
    )

    def __post_init__(self) -> None:
        hints = get_type_hints(EngineConfig)
        choices = ("dtype", "load_format", "quantization", "kv_cache_dtype", "kernels")
        for name in (*choices, "prefix_cache_scope", "preemption_mode"):
            if getattr(self, name) not in get_args(hints[name]):
                raise ConfigError(
                    f"{flag(name)} is {getattr(self, name)!r}; it is one of {', '.join(get_args(hints[name]))}"
                )
        counts = ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len", "num_threads")
        for name in (*counts, "tensor_parallel_size"):
            if getattr(self, name) is not None:
                check_whole(self, name, 1)
        if self.tensor_parallel_size > MAX_RANKS:
            raise ConfigError(f"--tensor-parallel-size must be at most {MAX_RANKS}, got {self.tensor_parallel_size}")
        for name in ("seed", "max_logprobs"):
            check_whole(self, name, 0)
        if self.num_threads is not None and self.num_threads > MAX_THREADS:
            raise ConfigError(f"--num-threads must be at most {MAX_THREADS}, got {self.num_threads}")
        for name in ("model", "revision", "gguf_file", "download_dir", "tokenizer", "chat_template"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "model"):
                raise ConfigError(f"{flag(name)} must be a text, got {value!r}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"--max-num-batched-tokens ({self.max_num_batched_tokens}) is below --max-num-seqs "
                f"({self.max_num_seqs}): "
                "every running sequence computes a token in each step; raise the one or lower the other"
            )
        pins: object = self.pin_prefix
        if not isinstance(pins, tuple | list) or not all(isinstance(path, str) and path for path in pins):
            raise ConfigError(f"{flag('pin_prefix')} must be a list of file names, got {pins!r}")
        parse_size(self.kv_cache_memory, 2**40, flag("kv_cache_memory"))
        if parse_size(self.swap_space, 2**40, flag("swap_space"), least=0) == 0 and self.preemption_mode == "swap":
            raise ConfigError(
                f"--preemption-mode swap needs room to swap to, and --swap-space is {self.swap_space}: raise it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything that shapes the HTTP server in front of an engine.

    Raises:
        ConfigError: a value is out of its range, or two do not go together; the message names the flags.
    """

    host: str = knob("127.0.0.1", "address to listen on", group="server", metavar="ADDRESS")
    port: int = knob(8000, "port to listen on; 0 takes a free one", group="server", metavar="PORT")
    api_key: tuple[str, ...] = knob(
        (), "a key that requests must bring as bearer token; may be given several times", group="server", metavar="KEY"
    )
    insecure: bool = knob(False, "listen on a public address without a key", group="server")
    served_model_name: str | None = knob(
        None, "name that requests call the model by; the value of --model by default", group="server", metavar="NAME"
    )
    max_queued_requests: int = knob(
        1024, "requests in the server at once; further ones get status 429", group="server limits", metavar="N"
    )
    max_n: int = knob(64, "cap on a request's n", group="server limits", metavar="N")
    max_body_bytes: str | int = knob("8MiB", "cap on a request's body", group="server limits", metavar="SIZE")
    max_stop_strings: int = knob(16, "cap on a request's stop texts", group="server limits", metavar="N")
    max_logit_bias: int = knob(1024, "cap on a request's logit_bias entries", group="server limits", metavar="N")
    max_prompts: int = knob(64, "cap on the prompts of one completion request", group="server limits", metavar="N")
    drain_timeout: float = knob(
        30.0, "seconds that running requests may take to finish after SIGTERM", group="server", metavar="SECONDS"
    )
    step_timeout: float = knob(
        120.0,
        "seconds without a step while requests wait, after which /health fails",
        group="server",
        metavar="SECONDS",
    )
    log_prompts: bool = knob(False, "put prompts and answers into the log", group="server")

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be 0 to 65535, got {self.port!r}")
        for name in ("max_queued_requests", "max_n", "max_prompts"):
            check_whole(self, name, 1)
        for name in ("max_stop_strings", "max_logit_bias"):
            check_whole(self, name, 0)
        for name in ("drain_timeout", "step_timeout"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{flag(name)} must be a number of seconds of at least 0")
        if not all(self.api_key):
            raise ConfigError("--api-key must not be empty")
        parse_size(self.max_body_bytes, 2**40, flag("max_body_bytes"))


def check_whole(config: object, name: str, low: int) -> None:
    """Refuse a knob that is not a whole number of at least `low`.

    Raises:
        ConfigError: it is not.
    """
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{flag(name)} must be a whole number of at least {low}, got {value!r}")


def flag(name: str) -> str:
    """A knob's command-line flag."""
    return "--" + name.replace("_", "-")
