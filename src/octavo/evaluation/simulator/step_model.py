"""How long a step takes on a device: each of its amounts at the rate that the device has for it."""

from dataclasses import dataclass

from octavo.errors import ConfigError
from octavo.evaluation.simulator.devices import Device
from octavo.evaluation.simulator.model_work import ModelWork, StepAmounts
from octavo.execution.plan import Plan
from octavo.execution.simulated import StepSeconds


@dataclass(frozen=True, slots=True)
class StepModel:
    """The cost of plans: what `SimulatedExecutor` takes.

    Raises:
        ConfigError: the device has no rate for such weights.
    """

    work: ModelWork
    device: Device
    precision: str
    """Of the weights: `bfloat16`, `int8`."""

    def __post_init__(self) -> None:
        if self.precision not in self.device.product_ops_s:
            known = ", ".join(self.device.product_ops_s)
            raise ConfigError(
                f"{self.device.name} has no rate for weights in {self.precision}, only for {known}: calibrate it with "
                "the same --dtype and --quantization, or change them here"
            )
        if self.work.num_ranks > 1 and not self.device.link_bytes_s:
            raise ConfigError(f"{self.device.name} has no links to other ranks: leave --tensor-parallel-size at 1")

    def __call__(self, plan: Plan) -> StepSeconds:
        amounts = self.work.of(plan)
        device = self.device
        return StepSeconds(
            compute_s=self.compute_s(amounts),
            move_s=amounts.moved_bytes / device.move_bytes_s,
            host_s=device.host_step_s + device.host_row_s * amounts.num_rows,
        )

    def compute_s(self, amounts: StepAmounts) -> float:
        """Seconds on the device, without moves."""
        device, ops_s = self.device, self.device.product_ops_s[self.precision]
        seconds = amounts.copied_bytes / device.copy_bytes_s
        if not amounts.num_tokens:
            return seconds
        seconds += device.step_s + device.layer_s * self.work.num_layers
        seconds += _overlapped(
            amounts.weight_bytes / device.weight_bytes_s, amounts.product_ops / ops_s, device.overlap
        )
        seconds += _overlapped(amounts.logits_bytes / device.weight_bytes_s, amounts.logits_ops / ops_s, device.overlap)
        seconds += amounts.context_bytes / device.context_bytes_s + amounts.attention_ops / device.attention_ops_s
        seconds += amounts.activations / device.activations_s + amounts.num_logits / device.logits_s
        if amounts.num_reductions:
            seconds += amounts.num_reductions * device.link_s + amounts.reduced_bytes / device.link_bytes_s
        return seconds


def _overlapped(reading_s: float, computing_s: float, power: float) -> float:
    longer = max(reading_s, computing_s)
    if not longer:
        return 0.0
    share = min(reading_s, computing_s) / longer
    result: float = longer * (1 + share**power) ** (1 / power)
    return result
