"""A process that loads a model and generates a token, and prints when it had done what. A helper of `start.py`."""

import json
import sys
import time

from gpu_parts.bare import stand_in


def main(folder: str, device: str, knobs: str) -> None:
    """Arguments are the model's folder, its device, and the engine's knobs as JSON."""
    moments = {"python": time.time()}
    stand_in()
    import torch

    moments["torch"] = time.time()
    from octavo.config import EngineConfig
    from octavo.engine.engine import Engine
    from octavo.execution.local import LocalExecutor
    from octavo.sampling_params import SamplingParams
    from octavo.scheduling.messages import EngineRequest

    if device == "cuda":
        torch.cuda.init()
    moments["octavo, and the device is ready"] = time.time()
    config = EngineConfig(model=folder, load_format="dummy", device=device, **json.loads(knobs))  # type: ignore[arg-type]
    executor = LocalExecutor(config)
    engine = Engine.configured(executor, config)
    moments["the model is loaded"] = time.time()
    engine.add(EngineRequest("first", list(range(3, 20)), SamplingParams(temperature=0, max_tokens=1), 0.0, 0))
    while engine.has_unfinished:
        engine.step()
    moments["the first token"] = time.time()
    print(json.dumps(moments))


if __name__ == "__main__":
    main(*sys.argv[1:4])
