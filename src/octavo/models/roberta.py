"""RoBERTa (Liu et al., 2019) and XLM-RoBERTa (Conneau et al., 2020): BERT with other positions and another head."""

from typing import Any, ClassVar

from octavo.models.bert import BertModel, encoder_fields


class RobertaModel(BertModel):
    """BERT whose table of positions begins behind padding's row, and whose texts are all one segment."""

    base_prefix: ClassVar[str] = "roberta."
    class_layers: ClassVar[tuple[str, str]] = ("classifier.dense", "classifier.out_proj")

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """With transformers' defaults."""
        padding = raw.get("pad_token_id", 1)
        return encoder_fields({**raw, "sep_token_id": None}, first_row=padding + 1)
