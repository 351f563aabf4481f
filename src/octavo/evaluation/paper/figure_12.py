"""Figure 12: basic sampling, the paper's models and data sets."""

from octavo.evaluation.paper.rate_curves import ITERATION_LEVEL, Panel, RateCurves
from octavo.evaluation.paper.setups import (
    FASTER_TRANSFORMER,
    OPT_13B,
    OPT_66B,
    OPT_175B,
    ORCA_MAX,
    ORCA_ORACLE,
    Setup,
)
from octavo.evaluation.paper.workload import NAMES, Workload

GAINS = {
    "sharegpt": {ORCA_ORACLE: (1.7, 2.7), ORCA_MAX: (2.7, 8.0), FASTER_TRANSFORMER: (2.7, 22.0)},
    "alpaca": {},
}
"""Section 6.2. FasterTransformer's 22 is said as the most; it is slower than all of Orca's."""
BASIC_ALPACA = {ORCA_ORACLE: (1.3, 1.3)}
"""OPT-13B's, which section 6.3 begins with."""
FIRST_RATES = {"sharegpt": 1.0, "alpaca": 10.0}
SECONDS = {"sharegpt": (1200.0, 100.0), "alpaca": (200.0, 25.0)}
NOTES = {
    "OPT-175B": "with so many slots over a hundred sequences run at once, and what each takes on the host limits the "
    "rate before the memory does; the less that is, the larger the ratio"
}
NOTE = "rates that are only just too high come in time where requests do not come for an hour"


def _panel(setup: Setup, dataset: str) -> Panel:
    is_first = setup == OPT_13B
    full, quick = SECONDS[dataset]
    return Panel(
        title=f"{setup.name}, {NAMES[dataset]}",
        setup=setup,
        workload=Workload(dataset),
        first_rate=FIRST_RATES[dataset],
        seconds=(full, quick if is_first else 0.0),
        gains=BASIC_ALPACA if is_first and dataset == "alpaca" else GAINS[dataset],
        slack=0.25 if dataset == "alpaca" else 0.0,
        systems=(FASTER_TRANSFORMER, *ITERATION_LEVEL),
        note=NOTES.get(setup.name, NOTE),
    )


FIGURE_12 = RateCurves(
    "figure-12",
    "Figure 12: normalized latency against request rate",
    tuple(_panel(setup, dataset) for dataset in NAMES for setup in (OPT_13B, OPT_66B, OPT_175B)),
)
