"""Models with random weights, and engines that serve them."""

import dataclasses
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.execution.local import LocalExecutor

KNOBS = {field.name for field in dataclasses.fields(EngineConfig)}


class Served:
    """A model that is loaded, and what makes engines of it.

    Args:
        config: of the model, as in config.json.
        device: as `--device` takes it.
        knobs: of the engine. Those that this Octavo does not have are left out, and told.
    """

    def __init__(self, config: dict[str, Any], device: str, knobs: dict[str, Any]) -> None:
        self.model = config
        self.asked = knobs
        self.unknown = sorted(knobs.keys() - KNOBS)
        self._folder = TemporaryDirectory()
        (Path(self._folder.name) / "config.json").write_text(json.dumps(config))
        known = {name: value for name, value in knobs.items() if name in KNOBS}
        self.config = EngineConfig(
            model=self._folder.name,
            load_format="dummy",
            device=device,
            **{"kernels": "auto" if device == "cuda" else "triton", **known},
        )
        start_s = time.perf_counter()
        self.executor = LocalExecutor(self.config)
        self.load_s = time.perf_counter() - start_s

    def is_for(self, config: dict[str, Any], knobs: dict[str, Any]) -> bool:
        """Whether it was loaded for these."""
        return config == self.model and knobs == self.asked

    def engine(self, **knobs: Any) -> Engine:
        """A new engine on the same executor, with other knobs of the scheduler."""
        return Engine.configured(self.executor, dataclasses.replace(self.config, **knobs))

    @property
    def kv_token_bytes(self) -> float:
        """Of K and V of one token, all layers."""
        capacity = self.executor.capacity
        return capacity.block_bytes * len(capacity.layer_groups.groups) / capacity.block_size

    def told(self) -> dict[str, Any]:
        """What was loaded."""
        capacity, loaded = self.executor.capacity, self.executor.loaded
        told: dict[str, Any] = {
            "load_s": self.load_s,
            "weight_bytes": loaded.weight_bytes,
            "dtype": loaded.dtype,
            "kernels": loaded.kernels,
            "blocks": capacity.num_blocks,
            "block_bytes": capacity.block_bytes,
            "max_model_len": capacity.max_model_len,
        }
        if self.unknown:
            told["knobs_that_are_not_there"] = self.unknown
        return told

    def close(self) -> None:
        """Drop weights, cache and folder."""
        self.executor.close()
        self._folder.cleanup()


def num_product_weights(config: dict[str, Any]) -> int:
    """Numbers in a LLaMA's or OPT's matrices that each token is multiplied with, but for the last one."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    attention = hidden * head_dim * (2 * heads + 2 * config.get("num_key_value_heads", heads))
    feed_forward = (
        3 * hidden * config["intermediate_size"] if "ffn_dim" not in config else 2 * hidden * config["ffn_dim"]
    )
    return int(config["num_hidden_layers"] * (attention + feed_forward))
