"""What a machine does in a second: the devices that are known, and fits that `octavo calibrate` has written."""

import math
from bisect import bisect_right
from pathlib import Path

import msgspec

from octavo.errors import ConfigError

GB, GIB, TERA = 1e9, 2**30, 1e12

READING_SHARE = 0.8
"""Of a GPU's memory bandwidth, what products with few rows and attention reach."""
PRODUCT_SHARE = 0.6
"""Of a GPU's dense operations a second, what large products reach."""
ATTENTION_SHARE = 0.35
"""The same, for the attention of prefill."""
LINK_SHARE = 0.7
"""Of a link's bandwidth, what sums over ranks reach."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, or one machine that computes on its processor: rates that steps reach, not those of a data sheet."""

    name: str
    source: str
    """Where the figures are from."""
    memory_bytes: int
    """That weights and KV cache share."""
    host_memory_bytes: int
    """That a swap space can take."""
    is_gpu: bool
    """Steps are planned while the one before runs, and the memory is shared out as on a GPU."""
    products: dict[str, list[tuple[int, float]]]
    """By the weights' precision (`bfloat16`, `int8`): for rising numbers of tokens, the seconds that products of so
    many take with 10^9 weights. Few tokens wait for the weights to be read, many for the multiplications."""
    context_bytes_s: float
    """At which attention reads keys and values."""
    attention_ops_s: float
    activations_s: float
    """Numbers a second, of one layer, that go through all that is no product and no attention."""
    layer_s: float
    """Seconds for each layer, however little it does: launches, and threads that wait for each other."""
    step_s: float
    """The same, for each step."""
    logits_s: float
    """Logits a second that are sampled from."""
    copy_bytes_s: float
    """Of blocks within the memory."""
    move_bytes_s: float
    """Of blocks to the host's memory, and back."""
    link_bytes_s: float = 0.0
    """To the other ranks; 0 where there are none."""
    link_s: float = 0.0
    """Seconds for each sum over ranks, however small."""
    host_step_s: float
    """Seconds in which the host plans a step and hands out its tokens."""
    host_row_s: float
    """The same, for each row."""
    error: float | None = None
    """Of a fit: the median error of steps that it was not made from."""

    def product_s(self, precision: str, num_tokens: float, num_weights: float) -> float:
        """Seconds of the products of some tokens with weights."""
        curve = self.products[precision]
        if num_tokens >= curve[-1][0]:
            return num_weights * 1e-9 * curve[-1][1] * num_tokens / curve[-1][0]
        place = bisect_right(curve, (num_tokens, math.inf))
        if place == 0:
            return num_weights * 1e-9 * curve[0][1]
        (low, low_s), (high, high_s) = curve[place - 1 : place + 1]
        return num_weights * 1e-9 * (low_s + (high_s - low_s) * (num_tokens - low) / (high - low))


KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Numbers of tokens that a device's products are told for. Between them time goes in a straight line, and above the
last in proportion."""
WEIGHT_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0, "int8": 1.0, "fp8": 1.0}


def _gpu(
    name: str,
    source: str,
    *,
    memory_gb: float,
    memory_gb_s: float,
    tera_ops: float,
    tera_ops_8_bits: float,
    has_fp8: bool = True,
    link_gb_s: float,
    host_gb_s: float,
) -> Device:
    """A GPU by its data sheet.

    Args:
        memory_gb: GiB.
        tera_ops: 10^12 dense operations a second, of 16 bits.
        link_gb_s, host_gb_s: of one direction.
    """
    reading = READING_SHARE * memory_gb_s * GB
    multiplying = {2.0: tera_ops, 4.0: tera_ops / 8, 1.0: tera_ops_8_bits}
    return Device(
        name=name,
        source=source,
        memory_bytes=int(memory_gb * GIB),
        host_memory_bytes=128 * GIB,
        is_gpu=True,
        products={
            precision: [
                (tokens, max(num_bytes * 1e9 / reading, 2e9 * tokens / (PRODUCT_SHARE * multiplying[num_bytes] * TERA)))
                for tokens in KNOTS
            ]
            for precision, num_bytes in WEIGHT_BYTES.items()
            if precision != "fp8" or has_fp8
        },
        context_bytes_s=reading,
        attention_ops_s=ATTENTION_SHARE * tera_ops * TERA,
        activations_s=reading / ACTIVATION_BYTES,
        layer_s=LAYER_S,
        step_s=STEP_S,
        logits_s=reading / LOGIT_BYTES,
        copy_bytes_s=reading / 2,
        move_bytes_s=READING_SHARE * host_gb_s * GB,
        link_bytes_s=LINK_SHARE * link_gb_s * GB,
        link_s=REDUCTION_S,
        host_step_s=HOST_STEP_S,
        host_row_s=HOST_ROW_S,
    )


ACTIVATION_BYTES = 40.0
"""That a number of a layer's width is read and written, in norms, activations and the sums of residuals, of 16 bits:
some twenty times."""
LOGIT_BYTES = 16.0
"""The same of a logit, in float32: four times."""
LAYER_S, STEP_S = 15e-6, 200e-6
"""Of replayed CUDA graphs."""
REDUCTION_S = 10e-6
HOST_STEP_S, HOST_ROW_S = 300e-6, 4e-6
"""Of Octavo's own engine (docs/performance.md, "Planning a step"), on a server's processor, with its messages."""

_A100 = "NVIDIA A100 data sheet, 2021; PCIe 4.0 x16"
_H100 = "NVIDIA H100 data sheet (SXM), 2023; PCIe 5.0 x16"
DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _gpu(
            "a100-40gb",
            _A100,
            memory_gb=40,
            memory_gb_s=1555,
            tera_ops=312,
            tera_ops_8_bits=624,
            has_fp8=False,
            link_gb_s=300,
            host_gb_s=25,
        ),
        _gpu(
            "a100-80gb",
            _A100,
            memory_gb=80,
            memory_gb_s=2039,
            tera_ops=312,
            tera_ops_8_bits=624,
            has_fp8=False,
            link_gb_s=300,
            host_gb_s=25,
        ),
        _gpu(
            "h100",
            _H100,
            memory_gb=80,
            memory_gb_s=3350,
            tera_ops=989,
            tera_ops_8_bits=1979,
            link_gb_s=450,
            host_gb_s=50,
        ),
        _gpu(
            "h200",
            "NVIDIA H200 data sheet (SXM), 2024; PCIe 5.0 x16",
            memory_gb=141e9 / GIB,
            memory_gb_s=4800,
            tera_ops=989,
            tera_ops_8_bits=1979,
            link_gb_s=450,
            host_gb_s=50,
        ),
        _gpu(
            "l4",
            "NVIDIA L4 data sheet, 2023; PCIe 4.0 x16, which is also the way to other GPUs",
            memory_gb=24,
            memory_gb_s=300,
            tera_ops=121,
            tera_ops_8_bits=242,
            link_gb_s=25,
            host_gb_s=25,
        ),
    )
}


_ZEN_3 = Device(
    name="zen3-2-cores",
    source="octavo calibrate, smollm2 in int8, 2 cores of an AMD EPYC of the third generation (AVX2), 2026-11-28",
    memory_bytes=22 * GIB,
    host_memory_bytes=22 * GIB,
    is_gpu=False,
    products={
        "int8": [
            (1, 0.0661),
            (2, 0.0672),
            (4, 0.0789),
            (8, 0.0927),
            (16, 0.1807),
            (32, 0.2976),
            (64, 0.6289),
            (128, 1.4658),
            (256, 2.5938),
            (512, 6.0109),
            (1024, 11.3617),
            (2048, 22.3491),
            (4096, 41.06),
        ]
    },
    context_bytes_s=2.03e10,
    attention_ops_s=7.78e10,
    activations_s=1.03e09,
    layer_s=1.75e-05,
    step_s=0.0,
    logits_s=9.61e08,
    copy_bytes_s=1.01e10,
    move_bytes_s=1.06e10,
    host_step_s=0.000197,
    host_row_s=2.12e-05,
    error=0.064,
)
DEVICES[_ZEN_3.name] = _ZEN_3


def find_device(name: str) -> Device:
    """A device by its name, or the fit in a file.

    Raises:
        ConfigError: there is neither.
    """
    if name in DEVICES:
        return DEVICES[name]
    path = Path(name)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Device)
    except OSError:
        known = ", ".join(DEVICES)
        raise ConfigError(f"--device {name}: neither a file of `octavo calibrate` nor one of {known}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"--device {name} is not a file of `octavo calibrate`: {error}") from error
    if wrong := _wrong_rate(found):
        raise ConfigError(f"--device {name}: {wrong} is no rate of a machine; see `octavo calibrate`")
    return found


_MAY_BE_NONE = ("layer_s", "step_s", "link_bytes_s", "link_s", "host_memory_bytes", "host_step_s", "host_row_s")


def _wrong_rate(device: Device) -> str | None:
    """The name of what no machine could have, if anything."""
    for name, value in msgspec.structs.asdict(device).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and name != "error"
        if is_number and not (math.isfinite(value) and (value > 0 or (value == 0 and name in _MAY_BE_NONE))):
            return name
    for precision, curve in device.products.items():
        tokens = [each for each, _ in curve]
        is_rising = tokens == sorted(set(tokens)) and bool(tokens) and tokens[0] >= 1
        if not (is_rising and all(0 < seconds < math.inf for _, seconds in curve)):
            return f"products.{precision}"
    return None if device.products else "products"
