"""How long a step takes on a device: each of its amounts at the rate that the device has for it."""

from dataclasses import dataclass
from functools import partial

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
        if self.precision not in self.device.products:
            known = ", ".join(self.device.products)
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

    def slowed(self, times: float, plan: Plan) -> StepSeconds:
        """What a plan takes where computing takes so many times as long."""
        cost = self(plan)
        return cost._replace(compute_s=times * cost.compute_s)

    def compute_s(self, amounts: StepAmounts) -> float:
        """Seconds on the device, without moves."""
        device, work = self.device, self.work
        seconds = amounts.copied_bytes / device.copy_bytes_s
        if not amounts.num_tokens:
            return seconds
        seconds += device.step_s + device.layer_s * work.num_layers + self._products_s(amounts)
        seconds += amounts.context_bytes / device.context_bytes_s + amounts.attention_ops / device.attention_ops_s
        seconds += amounts.activations / device.activations_s
        seconds += amounts.num_sampled * work.vocab_size / device.logits_s
        if amounts.num_reductions:
            seconds += amounts.num_reductions * device.link_s + amounts.reduced_bytes / device.link_bytes_s
        return seconds

    def _products_s(self, amounts: StepAmounts) -> float:
        """Of layers and head. Each token takes a share of the experts, whichever; each that is taken has its part of
        the tokens."""
        work, product_s = self.work, partial(self.device.product_s, self.precision)
        seconds = product_s(amounts.num_tokens, work.layer_weights)
        if work.expert_weights:
            touched = 1 - (1 - work.chosen_share) ** amounts.num_tokens
            tokens_each = amounts.num_tokens * work.chosen_share / touched
            seconds += product_s(tokens_each, touched * work.expert_weights)
        if amounts.num_sampled:
            seconds += product_s(amounts.num_sampled, work.head_weights)
        return seconds
