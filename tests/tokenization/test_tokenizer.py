"""A tokenizer read from a folder, and what every tokenizer does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from octavo.errors import ModelError, RequestError
from octavo.tokenization.tokenizer import Tokenizer

SPECIAL_TOKENS = "{{ bos_token }} {{ eos_token }}"
MESSAGES = [{"role": "user", "content": "the"}]


@pytest.fixture(scope="module")
def oracle(byte_level_folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(byte_level_folder)
    return tokenizer


def test_a_folder_encodes_and_decodes_as_transformers_does(
    byte_level: Tokenizer, oracle: PreTrainedTokenizerBase, varied_texts: list[str]
) -> None:
    for text in [*varied_texts, "<|im_start|><한글> <think>x<|im_end|>"]:
        token_ids = byte_level.encode(text)
        assert token_ids == oracle.encode(text)
        for skips in (True, False):
            assert byte_level.decode(token_ids, skip_special_tokens=skips) == oracle.decode(
                token_ids, skip_special_tokens=skips, clean_up_tokenization_spaces=False
            )


@pytest.mark.parametrize("options", [{}, {"add_bos_token": True}, {"add_prefix_space": True}])
def test_gpt2s_two_files_are_read_as_transformers_does(
    byte_level_backend: tokenizers.Tokenizer, varied_texts: list[str], tmp_path: Path, options: dict[str, bool]
) -> None:
    byte_level_backend.model.save(str(tmp_path))
    eos = {"__type": "AddedToken", "content": "<|endoftext|>", "special": True}
    special = {"bos_token": "<|im_start|>", "eos_token": eos, "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "GPT2Tokenizer", **special, **options}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, oracle = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in [*varied_texts, "<|im_start|>the<|endoftext|> dog"]:
        token_ids = tokenizer.encode(text)
        assert token_ids == oracle.encode(text)
        assert tokenizer.decode(token_ids) == oracle.decode(token_ids, skip_special_tokens=True)
    assert (tokenizer.encode("the")[0] == 1) == ("add_bos_token" in options)


def test_two_files_of_another_kind_than_gpt2s_are_not_guessed_at(
    byte_level_backend: tokenizers.Tokenizer, tmp_path: Path
) -> None:
    byte_level_backend.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_special_tokens_are_known_by_text_or_object(byte_level_folder: Path, oracle: PreTrainedTokenizerBase) -> None:
    tokenizer = Tokenizer.from_folder(byte_level_folder, chat_template=SPECIAL_TOKENS)
    assert tokenizer.render_chat(MESSAGES) == f"{oracle.bos_token} {oracle.eos_token}"
    assert tokenizer.vocab_size == len(oracle)


def test_special_tokens_may_be_in_their_own_file(byte_level_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>", "bos_token": null}')
    tokenizer = Tokenizer.from_folder(tmp_path, chat_template=SPECIAL_TOKENS)
    assert tokenizer.render_chat(MESSAGES) == " <|endoftext|>"


def test_the_files_post_processor_adds_bos_once(byte_level_backend: tokenizers.Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level_backend.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<|im_start|>"}')
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("the")[0] == 1
    assert tokenizer.encode("the", add_special_tokens=False) == tokenizer.encode("the")[1:]
    assert tokenizer.encode_chat([{"role": "user", "content": "the"}]) == tokenizer.encode("the")


def test_a_prompt_is_neither_cut_nor_padded(byte_level_backend: tokenizers.Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level_backend.to_str())
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).encode("the dog " * 9) == byte_level_backend.encode("the dog " * 9).ids


@pytest.mark.parametrize("text", ["half a pair \ud83d", "\udc00", 5, None, ["a"], b"bytes"])
def test_what_is_no_text_is_refused(text: object, byte_level: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"surrogate pair|must be a text, got"):
        byte_level.encode(text)  # type: ignore[arg-type]


def test_the_text_of_one_token_keeps_its_space_and_spells_the_bytes_of_half_characters(byte_level: Tokenizer) -> None:
    space_the = byte_level.encode(" the")
    assert [byte_level.token_text(token_id) for token_id in space_the] == [" the"]
    assert byte_level.token_text(2) == "<|im_end|>"
    assert {byte_level.token_text(token_id) for token_id in byte_level.encode("쫯")} == {
        "bytes:\\xec",
        "bytes:\\xab",
        "bytes:\\xaf",
    }


def test_ids_that_the_vocabulary_does_not_have_are_no_text(byte_level: Tokenizer) -> None:
    assert byte_level.decode([10**6, *byte_level.encode("the")]) == "the"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json; .*save_pretrained"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "not JSON"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
    ],
)
def test_a_broken_file_is_named(name: str, content: str, byte_level_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=name):
        Tokenizer.from_folder(tmp_path)


def test_a_template_file_goes_before_the_configs_and_a_given_one_before_both(
    byte_level_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.from_folder(tmp_path).chat_template == "default"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer.from_folder(tmp_path).chat_template == "file"
    assert Tokenizer.from_folder(tmp_path, chat_template="given").chat_template == "given"


def test_a_template_for_conversations_with_tools_is_used_for_those(byte_level_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    with_tools = "{% for t in tools %}{{ t.function.name }}{% endfor %}{{ style }}{{ messages[0].content }}"
    named = [{"name": "tool_use", "template": with_tools}, {"name": "default", "template": "{{ messages[0].content }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))

    def shown(tokenizer: Tokenizer) -> list[str]:
        hi = [{"role": "user", "content": "Hi"}]
        tools = [{"type": "function", "function": {"name": "clock"}}]
        prompts = [tokenizer.render_chat(hi, variables=variables) for variables in ({}, {"tools": tools})]
        tokenizer.close()
        return prompts

    tokenizer = Tokenizer.from_folder(tmp_path)
    assert "style" not in tokenizer.template_variables()
    assert "style" in tokenizer.template_variables(has_tools=True)
    assert shown(tokenizer) == ["Hi", "clockHi"]
    (tmp_path / "chat_template.jinja").write_text("a file")
    assert shown(Tokenizer.from_folder(tmp_path)) == ["a file", "a file"]
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("a file for tools")
    assert shown(Tokenizer.from_folder(tmp_path)) == ["a file", "a file for tools"]
    given = Tokenizer.from_folder(tmp_path, chat_template="{{ tools[0].function.name if tools else 'given' }}")
    assert shown(given) == ["given", "clock"]


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ([{"name": "default"}], "missing required field `template`"),
        ([{"name": "default", "template": None}], "template"),
        (["default"], "`object`, got `str`"),
        (5, "got `int`"),
    ],
)
def test_a_malformed_chat_template_is_named(
    template: object, cause: str, byte_level_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(ModelError, match=rf"chat_template in .*tokenizer_config\.json must be .*{cause}"):
        Tokenizer.from_folder(tmp_path)


def test_a_template_file_that_is_not_utf_8_is_named(byte_level_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes("안녕".encode("cp949"))
    with pytest.raises(ModelError, match=r"chat_template\.jinja cannot be read as UTF-8"):
        Tokenizer.from_folder(tmp_path)


def test_a_config_whose_named_templates_have_no_default_has_none(byte_level_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_folder / "tokenizer.json").read_bytes())
    named = [{"name": "tool_use", "template": "tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.from_folder(tmp_path).chat_template is None


def test_the_front_needs_no_torch_and_forks_without_a_warning(byte_level_folder: Path) -> None:
    program = (
        "import os, sys\n"
        "from octavo import output_assembler\n"
        "from octavo.tokenization.tokenizer import Tokenizer\n"
        "Tokenizer.from_folder(sys.argv[1]).encode('the quick brown fox ' * 64)\n"
        "child = os.fork()\n"
        "Tokenizer.from_folder(sys.argv[1]).encode('the quick brown fox ' * 64)\n"
        "if child: os.waitpid(child, 0); print('torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(byte_level_folder)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")
