"""Scripts in the shape of vLLM's examples: only the package's name and the model's are changed before they run."""

import io
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

from tiny_checkpoints import make_checkpoint

Run = Callable[..., str]


@pytest.fixture(scope="module")
def model(byte_level_folder, one_thread, tmp_path_factory) -> Path:
    """A small random model with a tokenizer and a chat template."""
    folder = make_checkpoint(
        tmp_path_factory.mktemp("tiny"), "LlamaForCausalLM", vocab_size=512, max_position_embeddings=2048
    )
    for file in byte_level_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def run(model) -> Run:
    """Runs a script and returns what it printed."""

    def run(script: str, *arguments: str) -> str:
        source = re.sub(r"^(\s*(?:from|import) )vllm\b", r"\1octavo", script, flags=re.MULTILINE)
        source = source.replace("MODEL", str(model))
        printed = io.StringIO()
        with redirect_stdout(printed), patch.object(sys, "argv", ["script.py", *arguments]):
            exec(compile(source, "script.py", "exec"), {"__name__": "__main__"})
        return printed.getvalue()

    return run


BASIC = """
from vllm import LLM, SamplingParams

prompts = ["Hello, my name is", "The president of the United States is", "The capital of France is"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)

def main():
    llm = LLM(model="MODEL", trust_remote_code=False, enforce_eager=True, gpu_memory_utilization=0.3)
    outputs = llm.generate(prompts, sampling_params)
    for output in outputs:
        print(f"Prompt: {output.prompt!r} Tokens: {len(output.outputs[0].token_ids)}")
        assert isinstance(output.outputs[0].text, str)

if __name__ == "__main__":
    main()
"""


def test_the_basic_script_ends_after_vllms_16_tokens(run):
    printed = run(BASIC)
    counts = [int(line.rsplit(" ", 1)[1]) for line in printed.splitlines()]
    assert len(counts) == 3
    assert max(counts) == 16


CHAT = """
from vllm import LLM, EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

def create_parser():
    parser = FlexibleArgumentParser()
    engine_group = parser.add_argument_group("Engine arguments")
    EngineArgs.add_cli_args(engine_group)
    engine_group.set_defaults(model="MODEL")
    sampling_group = parser.add_argument_group("Sampling parameters")
    sampling_group.add_argument("--max-tokens", type=int)
    sampling_group.add_argument("--temperature", type=float)
    sampling_group.add_argument("--top-k", type=int)
    return parser

args = vars(create_parser().parse_args())
max_tokens, temperature, top_k = args.pop("max_tokens"), args.pop("temperature"), args.pop("top_k")
llm = LLM(**args)
sampling_params = llm.get_default_sampling_params()
if max_tokens is not None:
    sampling_params.max_tokens = max_tokens
if temperature is not None:
    sampling_params.temperature = temperature
if top_k is not None:
    sampling_params.top_k = top_k
conversation = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {"role": "user", "content": "Write an essay about the importance of higher education."},
]
[output] = llm.chat(conversation, sampling_params, use_tqdm=False)
print("Prompt:", repr(output.prompt))
print("Tokens:", len(output.outputs[0].token_ids), llm.llm_engine.config.max_num_seqs)
outputs = llm.chat([conversation for _ in range(3)], sampling_params, use_tqdm=True)
print("Batch:", len(outputs))
tokenizer = llm.get_tokenizer()
text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
assert output.prompt == text, (output.prompt, text)
assert tokenizer.apply_chat_template(conversation, add_generation_prompt=True) == output.prompt_token_ids
assert tokenizer.decode(tokenizer.encode("the other")) == "the other"
"""


def test_the_chat_script_reads_its_flags_and_tells_the_rendered_prompt(run):
    printed = run(
        CHAT, "--max_tokens", "5", "--temperature=0", "--max_num_seqs=7", "--enforce-eager", "--dtype", "float"
    )
    assert r"Prompt: '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user" in printed
    assert "Tokens: 5 7" in printed
    assert "Batch: 3" in printed


PREFIX_CACHING = """
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

prefix = "You are an expert school principal, skilled in effectively managing faculty and staff. Draft questions. "
prompts = ["Hello, my name is", "The president of the United States is", "The capital of France is"]
generating_prompts = [prefix + prompt for prompt in prompts]
sampling_params = SamplingParams(temperature=0.0)

regular_llm = LLM(model="MODEL", gpu_memory_utilization=0.4, enable_prefix_caching=False)
regular = [output.outputs[0].text for output in regular_llm.generate(generating_prompts, sampling_params)]
print("Cached:", sum(output.num_cached_tokens for output in regular_llm.generate(generating_prompts, sampling_params)))
del regular_llm
cleanup_dist_env_and_memory()

prefix_cached_llm = LLM(model="MODEL", enable_prefix_caching=True, gpu_memory_utilization=0.4)
prefix_cached_llm.generate(generating_prompts[0], sampling_params)
outputs = prefix_cached_llm.generate(generating_prompts, sampling_params)
print("Cached:", min(output.num_cached_tokens for output in outputs))
print("Same:", regular == [output.outputs[0].text for output in outputs])
"""


def test_the_prefix_caching_script_gives_the_same_texts_with_and_without(run):
    printed = run(PREFIX_CACHING).splitlines()
    assert printed[0] == "Cached: 0"
    assert int(printed[1].removeprefix("Cached: ")) >= 64
    assert printed[2] == "Same: True"


AUTOMATIC_PREFIX_CACHING = """
import time
from vllm import LLM, SamplingParams

LONG_PROMPT = "You are a helpful assistant who recognises the content of tables in markdown format.\\n" + "".join(
    f"| {number} | the other name | {number * 7} |\\n" for number in range(30)
)

def get_generation_time(llm, sampling_params, prompts):
    start_time = time.time()
    output = llm.generate(prompts, sampling_params=sampling_params)
    end_time = time.time()
    print(f"Generated: {output[0].outputs[0].text!r} in {end_time - start_time} s")
    return output[0]

llm = LLM(model="MODEL", enable_prefix_caching=True)
sampling_params = SamplingParams(temperature=0, max_tokens=10)
first = get_generation_time(llm, sampling_params, LONG_PROMPT + "Question: what is the name in line 29? Answer: ")
second = get_generation_time(llm, sampling_params, LONG_PROMPT + "Question: what is the name in line 30? Answer: ")
print(first.num_cached_tokens, second.num_cached_tokens, len(second.prompt_token_ids))
"""


def test_the_automatic_prefix_caching_script_finds_the_table_the_second_time(run):
    first, second, whole = map(int, run(AUTOMATIC_PREFIX_CACHING).splitlines()[-1].split())
    assert first == 0
    assert whole - 64 < second < whole


BEAM_SEARCH = """
from vllm import LLM
from vllm.inputs import TokensPrompt
from vllm.sampling_params import BeamSearchParams

llm = LLM(model="MODEL", max_num_seqs=8)
tokenizer = llm.get_tokenizer()
prompts = [{"prompt": "The quick brown"}, TokensPrompt(prompt_token_ids=tokenizer.encode("The quick brown"))]
params = BeamSearchParams(beam_width=3, max_tokens=6, temperature=0.0, ignore_eos=True)
for output in llm.beam_search(prompts, params):
    for sequence in output.sequences:
        assert sequence.text.startswith("The quick brown"), sequence.text
        print(len(sequence.tokens), sequence.cum_logprob, repr(sequence.text))
"""


def test_the_beam_search_script_prints_its_sequences_best_first(run):
    lines = run(BEAM_SEARCH).splitlines()
    assert len(lines) == 6
    assert lines[:3] == lines[3:]
    scores = [float(line.split(" ")[1]) for line in lines[:3]]
    assert scores == sorted(scores, reverse=True)


ENGINE_LOOP = """
import argparse
from vllm import EngineArgs, LLMEngine, RequestOutput, SamplingParams
from vllm.utils import FlexibleArgumentParser

def create_test_prompts():
    return [
        ("A robot may not injure a human being", SamplingParams(temperature=0.0, logprobs=1, prompt_logprobs=1)),
        ("To be or not to be,", SamplingParams(temperature=0.8, top_k=5, presence_penalty=0.2)),
        ("What is the meaning of life?", SamplingParams(n=2, temperature=0.8, top_p=0.95, frequency_penalty=0.1)),
    ]

def process_requests(engine, test_prompts):
    request_id = 0
    while test_prompts or engine.has_unfinished_requests():
        if test_prompts:
            prompt, sampling_params = test_prompts.pop(0)
            engine.add_request(str(request_id), prompt, sampling_params)
            request_id += 1
        request_outputs: list[RequestOutput] = engine.step()
        for request_output in request_outputs:
            if request_output.finished:
                print("Finished:", request_output.request_id, [len(each.token_ids) for each in request_output.outputs])

def initialize_engine(args: argparse.Namespace) -> LLMEngine:
    return LLMEngine.from_engine_args(EngineArgs.from_cli_args(args))

parser = FlexibleArgumentParser(description="Demo on using the LLMEngine class directly")
parser = EngineArgs.add_cli_args(parser)
args = parser.parse_args()
process_requests(initialize_engine(args), create_test_prompts())
"""


def test_the_engines_loop_ends_every_request(run, model):
    lines = run(ENGINE_LOOP, "--model", str(model), "--max_model_len", "256", "--no-enable-prefix-caching").splitlines()
    assert sorted(line.split(" ")[1] for line in lines) == ["0", "1", "2"]
    assert len(eval(next(line for line in lines if ": 2 " in line).split(" ", 2)[2])) == 2


ASYNC_STREAMING = """
import asyncio
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

async def stream_response(engine, prompt, request_id):
    sampling_params = SamplingParams(
        max_tokens=20, temperature=0, seed=42, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    text, pieces = "", 0
    async for output in engine.generate(request_id=request_id, prompt=prompt, sampling_params=sampling_params):
        for completion in output.outputs:
            text, pieces = text + completion.text, pieces + 1
        if output.finished:
            break
    return text, pieces

async def main():
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="MODEL", enforce_eager=True))
    try:
        answers = await asyncio.gather(*(stream_response(engine, "The quick", f"stream-{i}") for i in range(1, 4)))
        whole = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
        finals = [output async for output in engine.generate("The quick", whole, request_id="whole")]
        print(len(finals), {text for text, _ in answers} == {finals[0].outputs[0].text}, min(n for _, n in answers))
    finally:
        engine.shutdown()

asyncio.run(main())
"""


def test_the_async_script_streams_what_the_whole_answer_is(run):
    finals, are_equal, pieces = run(ASYNC_STREAMING).split()
    assert (finals, are_equal) == ("1", "True")
    assert int(pieces) > 5


METRICS = """
from vllm import LLM, SamplingParams
from vllm.v1.metrics.reader import Counter, Gauge, Histogram, Vector

prompts = ["Hello, my name is", "The president of the United States is"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95, ignore_eos=True)
llm = LLM(model="MODEL", disable_log_stats=False)
outputs = llm.generate(prompts, sampling_params)
for metric in llm.get_metrics():
    if isinstance(metric, Gauge):
        print(f"{metric.name} (gauge) = {metric.value}")
    elif isinstance(metric, Counter):
        print(f"{metric.name} (counter) = {metric.value}")
    elif isinstance(metric, Vector):
        print(f"{metric.name} (vector) = {metric.values}")
    elif isinstance(metric, Histogram):
        print(f"{metric.name} (histogram) sum = {metric.sum} count = {metric.count}")
        for bucket_le, value in metric.buckets.items():
            print(f"    {bucket_le} = {value}")
"""


def test_the_metrics_script_counts_what_it_generated(run):
    lines = run(METRICS).splitlines()
    assert "vllm:generation_tokens (counter) = 32" in lines
    assert "vllm:num_requests_running (gauge) = 0" in lines
    [first_tokens] = [line for line in lines if line.startswith("vllm:time_to_first_token_seconds (histogram)")]
    assert first_tokens.endswith("count = 2")
    assert "    +Inf = 2" in lines
    assert "octavo:requests_open (gauge) = 0.0" in lines or "octavo:requests_open (gauge) = 0" in lines


@pytest.mark.parametrize(
    "line",
    [
        "from vllm.sampling_params import SamplingParams, BeamSearchParams, RequestOutputKind",
        "from vllm.outputs import RequestOutput, CompletionOutput",
        "from vllm.distributed.parallel_state import cleanup_dist_env_and_memory, destroy_model_parallel",
        "from vllm.engine.async_llm_engine import AsyncLLMEngine",
        "from vllm.engine.llm_engine import LLMEngine",
        "from vllm.entrypoints.llm import LLM",
        "from vllm.inputs import TextPrompt, TokensPrompt, PromptType",
        "from vllm.utils import FlexibleArgumentParser, random_uuid; print(len(random_uuid()))",
        "import vllm.v1.engine.llm_engine",
    ],
)
def test_vllms_import_paths_lead_to_the_same_classes(run, line):
    run(line)


def test_a_path_that_vllm_has_and_octavo_lacks_is_a_plain_import_error(run):
    with pytest.raises(ModuleNotFoundError, match=r"octavo\.lora"):
        run("from vllm.lora.request import LoRARequest")
    with pytest.raises(ImportError, match="AsyncStream"):
        run("from vllm.engine.async_llm_engine import AsyncStream")
