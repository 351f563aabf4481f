"""A tokenizer as `transformers` spells it: what `LLM.get_tokenizer` gives."""

from collections.abc import Iterable
from typing import Any

from octavo.errors import RequestError
from octavo.tokenization.tokenizer import Tokenizer
from octavo.vllm.keywords import TEMPLATE, check_keywords


class Encoded(dict[str, Any]):
    """What a call of a tokenizer gives: `encoded["input_ids"]` and `encoded.input_ids` are the same."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class NamedTokenizer:
    """`encode`, `decode` and `apply_chat_template` of a model's tokenizer, with their defaults in `transformers`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def chat_template(self) -> str | None:
        """Jinja source."""
        return self._tokenizer.chat_template

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    def __len__(self) -> int:
        return self._tokenizer.vocab_size

    @property
    def eos_token(self) -> str | None:
        return self._tokenizer.special_tokens.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self.convert_tokens_to_ids(self.eos_token)

    @property
    def bos_token(self) -> str | None:
        return self._tokenizer.special_tokens.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self.convert_tokens_to_ids(self.bos_token)

    def convert_tokens_to_ids(self, token: str | None) -> int | None:
        """The id of a token, None where there is no such token."""
        return None if token is None else self._tokenizer.token_id(token)

    def convert_ids_to_tokens(self, token_ids: int | Iterable[int]) -> str | list[str]:
        """The vocabulary's own words for token ids.

        Raises:
            RequestError: one is outside the vocabulary.
        """
        pieces = self._tokenizer.token_pieces(self._checked(token_ids))
        return pieces[0] if isinstance(token_ids, int) else pieces

    def __call__(self, text: str | Iterable[str], add_special_tokens: bool = True, **keywords: Any) -> Encoded:
        """The `input_ids` of a text, or of each of several, and an `attention_mask` of ones.

        Raises:
            RequestError: a text is no text, or not valid Unicode; or padding, truncation or tensors are asked for.
        """
        if asked := sorted(name for name, value in keywords.items() if value not in (None, False)):
            raise RequestError(f"the tokenizer pads, cuts and converts nothing: leave out {', '.join(asked)}")
        if isinstance(text, str):
            ids: Any = self.encode(text, add_special_tokens)
            return Encoded(input_ids=ids, attention_mask=[1] * len(ids))
        ids = [self.encode(each, add_special_tokens) for each in text]
        return Encoded(input_ids=ids, attention_mask=[[1] * len(each) for each in ids])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Raises:
            RequestError: the text is no text, or not valid Unicode.
        """
        return self._tokenizer.encode(text, add_special_tokens)

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids.

        Raises:
            RequestError: one is outside the vocabulary.
        """
        return self._tokenizer.decode(self._checked(token_ids), skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """`decode` of each."""
        return [self.decode(token_ids, skip_special_tokens) for token_ids in sequences]

    def _checked(self, token_ids: int | Iterable[int]) -> list[int]:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if wrong := [token for token in ids if not 0 <= token < self.vocab_size]:
            raise RequestError(f"token id {wrong[0]} is outside the vocabulary, 0 to {self.vocab_size - 1}")
        return ids

    def apply_chat_template(
        self,
        conversation: object,
        tools: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **keywords: Any,
    ) -> str | list[int]:
        """The prompt of a conversation, or its token ids. Further keywords are the template's variables.

        Raises:
            RequestError: the model has no chat template, or the template refuses the messages.
        """
        check_keywords({name: keywords.pop(name) for name in TEMPLATE.keys() & keywords.keys()}, TEMPLATE)
        render = self._tokenizer.encode_chat if tokenize else self._tokenizer.render_chat
        return render(
            conversation,
            add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template=chat_template,
            variables=keywords | ({"tools": tools} if tools else {}),
        )
