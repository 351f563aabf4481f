"""`octavo generate`: completes prompts and streams them to the terminal, with what the memory did."""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from octavo.cli.flags import add_config_flags, add_sampling_flags, given_sampling, read_config_flags, sampling_params
from octavo.cli.streams import StreamPrinter
from octavo.config import EngineConfig
from octavo.errors import RequestError
from octavo.sampling_params import SamplingParams

if TYPE_CHECKING:
    from octavo.inputs import Prompt
    from octavo.llm import LLM


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "generate",
        help="complete prompts and stream them to the terminal",
        description="Complete prompts, batched together, and stream them to the terminal; at the end, what "
        "the KV memory held.",
        epilog="example: octavo generate --chat -n 4 --temperature 0.8 --max-tokens 64 'Write a haiku about paper.'",
    )
    parser.add_argument(
        "prompts", nargs="*", metavar="PROMPT", help="text to complete; read from standard input where none is given"
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="take each prompt as a user's message and answer it with the model's chat template",
    )
    add_sampling_flags(parser)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Generate and print.

    Raises:
        OctavoError: a flag, the model or a prompt is wrong.
    """
    params, config = sampling_params(arguments), read_config_flags(arguments, EngineConfig)
    texts = arguments.prompts or [_read_prompt()]
    if not all(texts):
        raise RequestError("the prompt is empty: give some text")
    from octavo.llm import LLM

    start_s = time.monotonic()
    with LLM.configured(config) as llm:
        print(f"{config.model} ready in {time.monotonic() - start_s:.1f} s", file=sys.stderr)
        prompts = [_prompt(llm, text, arguments.chat) for text in texts]
        _stream(llm, prompts, llm.sampling_defaults.applied(params, given_sampling(arguments)))


def _read_prompt() -> str:
    """Standard input as text.

    Raises:
        RequestError: it is closed, or not UTF-8.
    """
    if sys.stdin is None:
        raise RequestError("give a prompt: standard input is closed")
    try:
        return sys.stdin.buffer.read().decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"standard input is not UTF-8 text: {error}") from error


def _prompt(llm: "LLM", text: str, chat: bool) -> "Prompt":
    return llm.tokenizer.encode_chat([{"role": "user", "content": text}]) if chat else text


def _stream(llm: "LLM", prompts: "list[Prompt]", params: SamplingParams) -> None:
    """Print the texts as they come, then the rates and the ledger at its fullest and at the end."""
    labels = {
        (number, index): f"{number + 1}.{index + 1}" for number in range(len(prompts)) for index in range(params.n)
    }
    printer = StreamPrinter(labels, sys.stdout)
    numbers: dict[str, int] = {}
    num_tokens = 0
    start_s = time.monotonic()
    for assembler in llm.stream(prompts, params):
        number = numbers.setdefault(assembler.request_id, len(numbers))
        for delta in assembler.take_delta():
            num_tokens += len(delta.token_ids)
            printer.add((number, delta.index), delta.text, delta.finish_reason is not None)
    seconds = time.monotonic() - start_s
    print(f"\n{num_tokens} tokens in {seconds:.1f} s, {num_tokens / seconds:.1f} tokens/s", file=sys.stderr)
    print(f"KV memory at its fullest: {llm.engine.fullest}", file=sys.stderr)
    print(f"KV memory now:            {llm.ledger()}", file=sys.stderr)
