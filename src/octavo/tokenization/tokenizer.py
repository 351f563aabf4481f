"""Text to token ids and back, in the words of one model."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from octavo.config import ContentFormat
from octavo.errors import RequestError
from octavo.sampling_params import SamplingParams
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.detokenizer import Detokenizer
from octavo.tokenization.spelled_tokens import Rendered, SpelledTokens
from octavo.tokenization.template_processes import TemplateProcesses
from octavo.tokenization.text_length import TextLength
from octavo.tokenization.token_bytes import TokenBytes, strip_leading_spaces
from octavo.tokenization.tokenizer_folder import read_tokenizer_folder
from octavo.tokenization.vocabulary import Vocabulary

ENCODED_AT_ONCE = 2**12
"""Characters of the texts that are too short to let other threads run meanwhile: they take about a millisecond."""


class Tokenizer:
    """A model's tokenizer, from a Hugging Face folder or a GGUF file's own vocabulary. Threads may share it.

    Args:
        vocabulary: what the model's files say.
        chat_template: Jinja source to use in place of the model's own.
        content_format: in which form the template is given the content of messages (`TemplateTrials`).
        special_tokens_in_messages: special tokens that a message spells are taken as such, and not as text.

    Raises:
        ModelError: tokens cannot be turned back into text one by one.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        chat_template: str | None = None,
        content_format: ContentFormat = "auto",
        special_tokens_in_messages: bool = False,
    ) -> None:
        self._backend = vocabulary.backend
        self.token_bytes = TokenBytes(vocabulary.backend)
        self._special_tokens = vocabulary.special_tokens
        self._config = vocabulary.config
        self.chat_template = chat_template if chat_template is not None else vocabulary.chat_template
        """Jinja source, or None where the model has none."""
        self._tool_template = vocabulary.tool_template if chat_template is None else None
        self._own_variables: dict[str, frozenset[str]] = {}
        self._spelled = SpelledTokens(vocabulary.backend, set(vocabulary.special_tokens.values()))
        self._templates = TemplateProcesses(
            {
                "special_tokens": vocabulary.special_tokens,
                "content_format": content_format,
                "spellings": [] if special_tokens_in_messages else self._spelled.spellings,
            }
        )

    @classmethod
    def from_folder(cls, path: str | Path, chat_template: str | None = None, **chat: Any) -> Self:
        """Read tokenizer.json and the files beside it; `chat` are further arguments of the constructor.

        Raises:
            ModelError: a file is missing or cannot be read.
        """
        return cls(read_tokenizer_folder(Path(path)), chat_template, **chat)

    @classmethod
    def from_gguf(cls, *pieces: Path, chat_template: str | None = None, **chat: Any) -> Self:
        """Read a GGUF file's metadata; its tensors are not touched. The pieces are those of `read_header`.

        Raises:
            ModelError: the file cannot be read, or its vocabulary is of an unknown kind.
        """
        from octavo.tokenization.gguf_vocabulary import read_gguf_vocabulary  # the gguf package is for GGUF files only

        return cls(read_gguf_vocabulary(*pieces), chat_template, **chat)

    @cached_property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included. A model's own vocabulary may be padded to more."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, str]:
        """Texts by role: `bos_token`, `eos_token` ..."""
        return self._special_tokens

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it; None where it has no such token."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    @cached_property
    def _text_length(self) -> TextLength:
        return TextLength.of(self._backend)

    def least_tokens(self, text: str) -> int:
        """A lower bound of a text's tokens, found without tokenizing it; 0 where nothing is known."""
        return self._text_length.least_tokens(text)

    @cached_property
    def document_start(self) -> list[int]:
        """The token that a new document begins after, `<|endoftext|>` where there is one; empty where none is known."""
        names = ("<|endoftext|>", self._special_tokens.get("bos_token"), self._special_tokens.get("eos_token"))
        found = (self._backend.token_to_id(name) for name in names if name is not None)
        return next(([token_id] for token_id in found if token_id is not None), [])

    def bad_words(self, words: Iterable[str]) -> list[list[int]]:
        """Token ids of words that are not to be generated: at the start of a text or within one, and behind a space.

        Raises:
            RequestError: as `encode`.
        """
        spelled = (spelling for word in words for spelling in (word, " " + word.lstrip()))
        found = dict.fromkeys(tuple(self.encode(spelling, add_special_tokens=False)) for spelling in spelled)
        return [list(token_ids) for token_ids in found if token_ids]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Spelled-out special tokens are taken as such.

        Args:
            add_special_tokens: put the tokens around the text that the model was trained with, such as BOS.

        Raises:
            RequestError: the text is no text, or holds half of a surrogate pair.
        """
        try:
            if len(text) < ENCODED_AT_ONCE:
                return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
            # Only for batches does the package release the interpreter's lock, so that other threads go on.
            [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return encoding.ids
        except TypeError as error:
            raise RequestError(_why_not_encoded(text)) from error

    def encode_within(self, text: str, most: int, pair: str | None = None, *, keeps_end: bool = True) -> list[int]:
        """Token ids of a text, or of a pair of texts, cut to `most` of them. The tokens around the texts stay. Of a
        pair the second text is cut, at its end.

        Raises:
            RequestError: as `encode`, or what stays is more than `most`.
        """
        try:
            encoding = self._backend.encode(text, pair)
        except TypeError as error:
            raise RequestError(_why_not_encoded(text)) from error
        num_extra = len(encoding.ids) - most
        if num_extra <= 0:
            return encoding.ids
        cut = [i for i, part in enumerate(encoding.sequence_ids) if part == (0 if pair is None else 1)]
        if num_extra >= len(cut):
            raise RequestError(f"truncate_prompt_tokens={most} leaves no token of the text beside those around it")
        left_out = set(cut[:num_extra] if keeps_end and pair is None else cut[-num_extra:])
        return [token_id for i, token_id in enumerate(encoding.ids) if i not in left_out]

    def encode_chat(self, messages: object, add_generation_prompt: bool = True, **options: Any) -> list[int]:
        """Token ids of a rendered conversation. The template writes the special tokens itself, so none are added.

        Raises:
            RequestError: as `render_chat` and `encode`.
        """
        return self.encode_rendered(self.render(_conversation(messages, add_generation_prompt, options)))

    def render_chat(self, messages: object, add_generation_prompt: bool = True, **options: Any) -> str:
        """The prompt that the chat template makes of a conversation. The arguments are `Conversation`'s.

        Raises:
            RequestError: the model has no chat template, the messages are malformed, or the template refuses them.
        """
        return self.render(_conversation(messages, add_generation_prompt, options)).plain

    def render(self, conversation: Conversation) -> Rendered:
        """The same, with what tells the template's special tokens from those that messages spell.

        Raises:
            RequestError: as `render_chat`, or the template takes too much time or memory.
            EngineError: the tokenizer is closed.
        """
        if conversation.chat_template is None:
            source = self._own_template(bool(conversation.variables.get("tools")))
            conversation = dataclasses.replace(conversation, chat_template=source)
        return self._templates.render(conversation)

    def template_for(self, has_tools: bool) -> str | None:
        """Jinja source of the model's own chat template, or of that for conversations with tools; None where it has
        none."""
        return self._tool_template if has_tools and self._tool_template is not None else self.chat_template

    def template_variables(self, chat_template: str | None = None, has_tools: bool = False) -> frozenset[str]:
        """The names of all variables that a chat template may ask for, such as `enable_thinking`; kept for the model's.

        Args:
            chat_template: Jinja source in place of the model's own.
            has_tools: of conversations with tools, for which models may have another template.

        Raises:
            RequestError: there is no template, it is not valid Jinja, or it takes too long to read.
            EngineError: the tokenizer is closed.
        """
        if chat_template is not None:
            return self._templates.variables(chat_template)
        source = self._own_template(has_tools)
        if source not in self._own_variables:
            self._own_variables[source] = self._templates.variables(source)
        return self._own_variables[source]

    def _own_template(self, has_tools: bool) -> str:
        source = self.template_for(has_tools)
        if source is None:
            raise RequestError("this model has no chat template: give one with --chat-template, or send a plain prompt")
        return source

    def encode_rendered(self, prompt: Rendered, add_special_tokens: bool = False) -> list[int]:
        """Token ids of what `render` has made: special tokens that messages spell are text.

        Args:
            add_special_tokens: put tokens around the prompt, beside those that the template writes.

        Raises:
            RequestError: the text holds half of a surrogate pair.
        """
        if prompt.separator is None or prompt.separator not in prompt.text:
            return self.encode(prompt.plain, add_special_tokens)
        before, behind = self._spelled.around if add_special_tokens else ([], [])
        try:
            return [*before, *self._spelled.encode(prompt.text, prompt.separator), *behind]
        except TypeError as error:
            raise RequestError(_why_not_encoded(prompt.text)) from error

    def close(self) -> None:
        """End the processes in which chat templates run: a conversation that is being rendered fails."""
        self._templates.close()

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids, all at once. Bytes that are no UTF-8, at the end too, become U+FFFD."""
        kept = (i for i in token_ids if not (skip_special_tokens and self.token_bytes.is_special(i)))
        text = b"".join(self.token_bytes[token_id] for token_id in kept).decode("utf-8", errors="replace")
        return strip_leading_spaces(text, self.token_bytes.num_leading_spaces)

    def special_stops(self, params: SamplingParams) -> frozenset[str]:
        """Stop texts that spell special tokens, where those are left out of the text: they have to be looked for in the
        whole of it."""
        if not params.skip_special_tokens:
            return frozenset()
        specials = self.token_bytes.special_texts
        return frozenset(stop for stop in params.stops if any(special in stop for special in specials))

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself, special or not, leading space and all. One that is no text, as parts of
        characters aren't, is spelled in bytes as OpenAI does it: `bytes:\\xf0\\x9f`."""
        content = self.token_bytes[token_id]
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def grammar_tokens(self) -> list[bytes]:
        """The bytes of every token, as a grammar of text takes them: those of a special one behind a byte that no text
        has, 0xFF."""
        tokens = self.token_bytes
        return [(b"\xff" if tokens.is_special(i) else b"") + tokens[i] for i in range(self.vocab_size)]

    def token_pieces(self, token_ids: Iterable[int]) -> list[str]:
        """How the vocabulary spells each token (a space as `Ġ`, for one); "" for an id that it does not have."""
        return [self._backend.id_to_token(token_id) or "" for token_id in token_ids]

    @property
    def response_template(self) -> Any:
        """How the model marks the sections of its answers, as tokenizer_config.json declares it; None where it does
        not. It may be malformed."""
        return self._config.get("response_template")

    def description(self) -> dict[str, Any]:
        """What the model's tokenizer_config.json says, special tokens as their texts (None where it has none), and the
        chat template in use. Of a GGUF file it is what the file says in other words."""
        config = {name: value for name, value in self._config.items() if name != "name_or_path"}
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token")) | self._special_tokens
        return {"tokenizer_class": "PreTrainedTokenizerFast", **config, **special, "chat_template": self.chat_template}

    def stream(
        self, skip_special_tokens: bool = True, continues: bool = False, kept_specials: Collection[str] = ()
    ) -> Detokenizer:
        """A new incremental decoder (see `Detokenizer`)."""
        return Detokenizer(self.token_bytes, skip_special_tokens, continues, kept_specials)


def _conversation(messages: object, add_generation_prompt: bool, options: Mapping[str, Any]) -> Conversation:
    return Conversation(messages=messages, add_generation_prompt=add_generation_prompt, **options)


def _why_not_encoded(text: object) -> str:
    if not isinstance(text, str):
        return f"a prompt must be a text, got {type(text).__name__}"
    return "the text is not valid Unicode: it holds half of a surrogate pair, which cannot be written as UTF-8"
