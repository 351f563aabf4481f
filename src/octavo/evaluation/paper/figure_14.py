"""Figure 14: parallel samples and beams, which share what is their request's."""

from octavo.evaluation.decoding import Decoding, Method
from octavo.evaluation.paper.rate_curves import Panel, RateCurves
from octavo.evaluation.paper.setups import OPT_13B, ORCA_ORACLE
from octavo.evaluation.paper.workload import Workload

NAMES: dict[Method, str] = {"parallel": "parallel size", "beam": "beam width"}
GAINS: dict[tuple[Method, int], tuple[float, float]] = {("beam", 6): (2.3, 2.3)}
"""Section 6.3: from 1.3 in basic sampling to this. Between the two no number is told."""

NOTE = (
    "over three hundred beams run at once, and what each takes on the host limits the rate before the memory does: if "
    "a step took 30 ms however many there are, the ratio would be 3.1"
)


def _panel(method: Method, num_sequences: int) -> Panel:
    told = GAINS.get((method, num_sequences))
    return Panel(
        title=f"Alpaca, {NAMES[method]} {num_sequences}",
        setup=OPT_13B,
        workload=Workload("alpaca", decoding=Decoding(method, num_sequences)),
        first_rate=16.0 / num_sequences,
        seconds=(60.0, 15.0 if told else 0.0),
        gains={ORCA_ORACLE: told} if told else {},
        slack=0.25,
        note=NOTE,
    )


FIGURE_14 = RateCurves(
    "figure-14",
    "Figure 14: parallel sampling and beam search (OPT-13B, Alpaca)",
    tuple(_panel(method, number) for method in NAMES for number in (2, 4, 6)),
)
