"""Which parts there are, in their order, and how long each may take. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A subject that is checked or measured."""

    name: str
    function: str
    """`module.name` within this package: takes a `Bench`, yields names and figures."""
    least_s: float
    """With less of the budget left it is not begun."""
    most_s: float
    """After so long it is ended, whatever it is doing."""
    is_default: bool = True


PARTS = (
    Part("device", "device.told", 0, 40),
    Part("kernel_checks", "kernel_checks.run", 20, 100),
    Part("engine_checks", "engine_checks.run", 20, 75),
    Part("ceilings", "ceilings.run", 5, 30),
    Part("scattered", "ceilings.scattered", 5, 30),
    Part("attention", "attention.run", 10, 60),
    Part("operations", "operations.run", 5, 30),
    Part("start", "start.run", 20, 60),
    Part("decode", "steps.decode", 30, 90),
    Part("idle", "steps.idle", 5, 60),
    Part("prefill", "steps.prefill", 5, 60),
    Part("throughput", "throughput.llama_3_8b", 15, 75),
    Part("swap", "swap.run", 10, 45),
    Part("paged_or_reserved", "throughput.opt_13b", 45, 120),
    Part("throughput_13b", "throughput.llama_2_13b", 30, 75),
    Part("peers", "peers.run", 2, 120),
    Part("sweep", "attention.sweep", 30, 300, is_default=False),
)
