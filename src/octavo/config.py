"""Every knob of an engine, declared once: typed, documented, bounded. Command-line flags, `LLM` keywords, `--help` and
the checks derive from here; a server's own knobs are in `server_config`."""

from dataclasses import dataclass
from typing import Literal

from octavo.errors import ConfigError
from octavo.knobs import Size, check_knobs, flag, knob, parse_size

DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]
CacheDType = Literal["auto", "float32", "bfloat16", "float16", "int8", "fp8"]
LoadFormat = Literal["auto", "safetensors", "bin", "gguf", "dummy"]
Quantization = Literal["auto", "none", "int8", "int4", "fp8", "awq", "gptq", "compressed-tensors", "gguf"]
DeviceName = Literal["auto", "cpu", "cuda"]
CudaGraphs = Literal["auto", "off"]
KernelName = Literal["auto", "cpu", "triton", "reference"]
ContentFormat = Literal["auto", "string", "openai"]
PrefixCacheScope = Literal["tenant", "global", "off"]
SchedulingPolicy = Literal["fcfs", "shortest-first", "priority", "static"]
Speculation = Literal["auto", "off"]
PreemptionMode = Literal["auto", "recompute", "swap"]
PoolingChoice = Literal["auto", "mean", "last", "cls"]
KVAllocation = Literal["paged", "contiguous-max", "contiguous-pow2", "contiguous-oracle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that shapes an engine.

    Raises:
        ConfigError: a value is out of its range, or two do not go together; the message names the flags.
    """

    model: str = knob(
        "smollm2",
        "alias (smollm2, gemma3, minilm), folder in Hugging Face format, GGUF file, or a model on the Hugging Face hub "
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
    generation_config: str = knob(
        "auto",
        "whose sampling defaults requests get in fields that they leave out: auto is the model's own "
        "(generation_config.json, or a GGUF file's metadata), none is nobody's (vllm says the same), and a folder with "
        "a generation_config.json has its own; their max_new_tokens bounds every answer of a server",
        group="model",
        metavar="auto|none|FOLDER",
    )
    override_generation_config: str | None = knob(
        None,
        'JSON object that goes before those defaults: {"temperature": 0.6, "top_p": 0.95}; also top_k, min_p, '
        "repetition_penalty, max_new_tokens",
        group="model",
        metavar="JSON",
    )
    chat_template_content_format: ContentFormat = knob(
        "auto",
        "what the chat template is given as a message's content: string is a text, openai a list of parts, and auto "
        "what trial messages show that it takes",
        group="model",
    )
    special_tokens_in_messages: bool = knob(
        False,
        "take special tokens that messages spell for such, and not for text: whoever writes a message can then end "
        "its turn and write others",
        group="model",
    )
    load_format: LoadFormat = knob(
        "auto",
        "which of a model's weights to read: auto takes safetensors, else torch's own .bin files (no code in them is "
        "run), else a GGUF file; dummy makes up random weights of the model's shape",
        group="model",
    )
    weight_cache: str = knob(
        "off",
        "folder that keeps the weights as the CPU kernels pack them, as large as they are in memory: the next start "
        "with the same model and flags maps them, which takes a moment and no memory twice; may be deleted at any time",
        group="model",
        metavar="FOLDER|off",
    )
    dtype: DType = knob(
        "auto", "of weights and activations; auto is the checkpoint's own, and bfloat16 for a GGUF", group="model"
    )
    quantization: Quantization = knob(
        "auto",
        "form of the weights that products read; auto keeps those of 4 and 8 bits as the checkpoint has them (GGUF, "
        "AWQ, GPTQ, compressed-tensors) where the kernels can, which those of GPUs cannot, and all others in --dtype; "
        "none is --dtype, whatever the checkpoint has; int8 halves the memory of 16 bits, and answers differ "
        "slightly; int4 halves it again (embeddings and head stay in int8), on a CPU, and they differ more; fp8 is "
        "float8_e4m3fn, for GPUs (on a CPU only the slow kernels 'reference' compute it); with fewer than 16 bits "
        "activations are quantized, too; a kind of checkpoint (awq, gptq, compressed-tensors, gguf) is as auto, and "
        "refuses others",
        group="model",
    )
    pooling: PoolingChoice = knob(
        "auto",
        "what makes a prompt's vector of its tokens' last hidden states: their mean, the last token's, or the first's "
        "(cls); auto is as the model's files say (1_Pooling/config.json), and the last token's without such",
        group="model",
    )
    score_template: str | None = knob(
        None,
        "Jinja template file that makes of a query and a document (messages of those roles) a question for a language "
        "model, to which the model says yes or no: scores are the share of yes; by default one in plain words, which "
        "is that of Qwen3-Reranker, in the model's chat template",
        group="model",
        metavar="FILE",
    )
    max_model_len: int | None = knob(
        None,
        "longest sequence, prompt and output, in tokens; the model's own by default",
        group="model",
        metavar="TOKENS",
        at_least=1,
    )
    seed: int | None = knob(
        None,
        "of requests that bring none, and of dummy weights; by default a server draws one when it starts, and all "
        "else takes 0",
        group="model",
        metavar="N",
        at_least=0,
    )
    block_size: int = knob(
        16,
        "token slots in a KV block; the CPU's kernels read multiples of 16 in place, and copy others first",
        group="memory",
        metavar="TOKENS",
        at_least=1,
    )
    kv_cache_memory: Size | None = knob(
        None,
        "memory for the KV cache: 48MiB, 2GiB, or a share of what is free after loading, 40%; by default 40% on a CPU, "
        "and on a GPU what --gpu-memory-utilization leaves",
        group="memory",
        metavar="SIZE",
    )
    gpu_memory_utilization: float = knob(
        0.9,
        "share of each GPU's memory that Octavo may take in all: what weights, the largest step and CUDA graphs leave "
        "of it is the KV cache, unless --kv-cache-memory says how large that is; on a CPU it bounds nothing",
        group="memory",
        metavar="SHARE",
        at_least=0.01,
        at_most=1,
    )
    kv_cache_dtype: CacheDType = knob(
        "auto",
        "of the KV cache; auto is that of --dtype. int8 halves the memory of a 16-bit one, with a scale for each "
        "vector; so does fp8 (e4m3), coarser and without scales, for GPUs and the reference kernels",
        group="memory",
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
        items="file names",
    )
    swap_space: Size = knob(
        "10%",
        "memory to which preempted requests' blocks are moved: a size, or a share of what is free beside the KV cache; "
        "no more than the KV cache is ever taken, and 0 is none",
        group="memory",
        metavar="SIZE",
        at_least=0,
    )
    max_num_seqs: int = knob(
        256,
        "sequences that run in one step; further samples of a request wait for its first",
        group="scheduling",
        metavar="N",
        at_least=1,
    )
    max_num_batched_tokens: int = knob(
        2048,
        "tokens computed in one step; longer prompts are cut into chunks",
        group="scheduling",
        metavar="TOKENS",
        at_least=1,
    )
    kv_allocation: KVAllocation = knob(
        "paged",
        "paged allocates blocks when tokens need them; the others are the paper's baselines, which reserve a "
        "contiguous run for each sequence: for the longest one (-max), for the next power of two of the output length "
        "(-pow2), or for exactly that length (-oracle); they keep no prefixes, and neither share nor swap",
        group="memory",
    )
    steps_in_flight: int | None = knob(
        None,
        "steps that are planned and started before the first of them is collected: 1, or 2 to plan a step while the "
        "one before it runs; by default 2 on a GPU and 1 on a CPU",
        group="scheduling",
        metavar="N",
        at_least=1,
        at_most=2,
    )
    scheduling_policy: SchedulingPolicy = knob(
        "fcfs",
        "who goes first: the first to come; or the shortest prompt, which then waits for no longer ones but those that "
        "run, and nobody is overtaken by those that come later than --overtaking-time says; or the request with the "
        "lowest priority, however late it comes; static is the paper's FasterTransformer baseline: the first that "
        "wait, as many as fit by --max-num-seqs and memory, run as a batch, and nobody joins before all of it is over; "
        "answers stream as they come, and what is over is not computed any more, which favours the baseline: the "
        "original computes it to the batch's end",
        group="scheduling",
    )
    overtaking_time: float = knob(
        300.0,
        "with --scheduling-policy shortest-first, how long after a prompt of the model's length shorter ones may come "
        "and still pass it; for other prompts in proportion to their tokens",
        group="scheduling",
        metavar="SECONDS",
        at_least=0,
    )
    preemption_mode: PreemptionMode = knob(
        "auto",
        "how a request gives up its memory: recompute its tokens later, swap its blocks out and back, or (auto) "
        "whichever takes less time at the rates measured so far",
        group="scheduling",
    )
    speculate: Speculation = knob(
        "auto",
        "auto guesses a sequence's next tokens where its end has come before, as in an answer that repeats its prompt, "
        "and computes them in one step as far as that pays: the same tokens, in less time; on a GPU, or with two steps "
        "in flight, it guesses nothing; off never does, but what a grammar forces is computed so all the same",
        group="scheduling",
    )
    max_logprobs: int = knob(
        20,
        "cap on a request's logprobs and prompt_logprobs; -1 is none, and allows requests -1 for the whole vocabulary",
        group="scheduling",
        metavar="N",
        at_least=-1,
    )
    device: DeviceName = knob(
        "auto", "where the model runs; auto is cuda where torch finds a GPU, and cpu elsewhere", group="machine"
    )
    kernels: KernelName = knob(
        "auto",
        "cpu is C++, triton for CUDA GPUs, reference plain torch; auto takes the best that can serve",
        group="machine",
    )
    cuda_graphs: CudaGraphs = knob(
        "auto",
        "auto captures the launches of a decode step on a GPU once for each number of sequences, and replays them; off "
        "launches each kernel in each step",
        group="machine",
    )
    tensor_parallel_size: int = knob(
        1,
        "processes that hold the model together, each a part of every layer and on a GPU of its own where there are "
        "GPUs; they share the machine's memory and threads as the other flags give them",
        group="machine",
        metavar="N",
        at_least=1,
        at_most=64,
    )
    num_threads: int | None = knob(
        None,
        "threads for the CPU kernels of all processes; by default one a core, or OMP_NUM_THREADS, but no more than "
        "the cores that the affinity mask and a container's quota leave (`octavo doctor` shows them)",
        group="machine",
        metavar="N",
        at_least=1,
        at_most=1024,
    )

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"--max-num-batched-tokens ({self.max_num_batched_tokens}) is below --max-num-seqs "
                f"({self.max_num_seqs}): "
                "every running sequence computes a token in each step; raise the one or lower the other"
            )
        if not self.weight_cache:
            raise ConfigError("--weight-cache must name a folder, or be off")
        if self.kv_allocation != "paged":
            self._check_contiguous()
        if self.preemption_mode == "swap" and parse_size(self.swap_space, 2**40, flag("swap_space"), least=0) == 0:
            raise ConfigError(
                f"--preemption-mode swap needs room to swap to, and --swap-space is {self.swap_space}: raise it"
            )

    def _check_contiguous(self) -> None:
        """Refuse what only paged memory can do."""
        asked = {
            flag("pin_prefix"): bool(self.pin_prefix),
            "--preemption-mode swap": self.preemption_mode == "swap",
        }
        for name, is_asked in asked.items():
            if is_asked:
                raise ConfigError(
                    f"{name} needs --kv-allocation paged, and it is {self.kv_allocation}: change one of them"
                )
