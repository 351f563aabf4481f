"""How pairs of texts are put to a model that scores them: to a cross-encoder as a pair, to a language model as a
question of yes or no."""

from functools import cached_property
from typing import Literal

from octavo.errors import RequestError
from octavo.execution.executor import Capabilities
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.tokenizer import Tokenizer

BARE = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"
"""A chat template for models without one."""
ScoringMethod = Literal["classes", "likeness", "yes-no"]
"""By the one class of a cross-encoder's head, by the cosine of two embeddings, or by what a language model answers."""

JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The words that Qwen3-Reranker was trained with (Zhang et al., Qwen3 Embedding, 2025)."""


def scoring_method(known: Capabilities) -> ScoringMethod:
    """How a model scores pairs.

    Raises:
        RequestError: its head tells several classes apart, so that none of them is the score.
    """
    if "classify" in known.tasks:
        if len(known.pooling.labels) != 1:
            raise RequestError(
                f"a score needs a model whose head has one class, and this one's has {len(known.pooling.labels)}: "
                "classify texts with it"
            )
        return "classes"
    return "yes-no" if "score" in known.tasks and not known.pooling.is_declared else "likeness"


def pairs_of(first: list[str], second: list[str]) -> list[tuple[str, str]]:
    """The pairs that are to be scored: each with each where there are as many, one with all where there is one.

    Raises:
        RequestError: there are neither.
    """
    if not first or not second or len(first) not in (1, len(second)):
        raise RequestError(
            f"{len(first)} and {len(second)} texts make no pairs: give one and any number, or as many of both"
        )
    return list(zip(first * len(second) if len(first) == 1 else first, second, strict=True))


class YesNo:
    """Asks a language model whether a document answers a query.

    Args:
        template: Jinja source that writes the question, from messages of the roles `query` and `document`.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template

    @cached_property
    def label_token_ids(self) -> list[int]:
        """The tokens of "no" and "yes".

        Raises:
            RequestError: the vocabulary has no such tokens.
        """
        found = [self._tokenizer.encode(word, add_special_tokens=False) for word in ("no", "yes")]
        if any(len(token_ids) != 1 for token_ids in found):
            raise RequestError('this model cannot score: "yes" and "no" are no single tokens of its vocabulary')
        return [token_ids[0] for token_ids in found]

    def question(self, query: str, document: str) -> Conversation:
        """What is asked of the model, in its chat template; a model without one gets the bare words."""
        if self._template is not None:
            messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
            return Conversation(messages=messages, chat_template=self._template)
        asked = f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
        messages = [{"role": "system", "content": JUDGE}, {"role": "user", "content": asked}]
        bare = None if self._tokenizer.chat_template else BARE
        return Conversation(messages=messages, chat_template=bare, variables={"enable_thinking": False})
