"""From nothing to the first token: a process of its own that imports, loads and generates."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_parts.bench import Bench


def run(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Seconds until the first token is on the host, of a process that has to import everything and load the model."""
    bench.free()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(bench.sizes.llama_3_8b))
        knobs = {
            "kv_cache_memory": bench.sizes.kv_cache_memory,
            "kernels": "triton" if bench.is_toy else "auto",
            "max_num_batched_tokens": bench.sizes.max_num_batched_tokens,
            "max_num_seqs": bench.sizes.max_num_seqs,
        }
        paths = [str(Path(__file__).parents[1]), *sys.path]
        start_s = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "gpu_parts.first_token", folder, bench.device.type, json.dumps(knobs)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            capture_output=True,
            text=True,
            timeout=max(1.0, bench.left_s),
        )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-500:])
    moments = json.loads(done.stdout.splitlines()[-1])
    yield "seconds until", {name: moment_s - start_s for name, moment_s in moments.items()}
