"""Figure 17: a chat, whose prompts are what was said before."""

from octavo.evaluation.paper.rate_curves import ITERATION_LEVEL, Panel, RateCurves
from octavo.evaluation.paper.setups import OPT_13B, PAGED
from octavo.evaluation.paper.workload import CHAT, Workload

GAIN = (2.0, 2.0)
"""Over all three of Orca's, section 6.5."""
NOTE = (
    "behind prompts of 1,024 tokens the paged memory has 14 requests at once, and the others have 7 or 8; a step of 14 "
    "takes longer than one of 7"
)

FIGURE_17 = RateCurves(
    "figure-17",
    "Figure 17: a chat (OPT-13B, ShareGPT)",
    (
        Panel(
            title="Chat",
            setup=OPT_13B,
            workload=Workload(CHAT),
            first_rate=0.5,
            seconds=(1200.0, 80.0),
            gains={system: GAIN for system in ITERATION_LEVEL if system != PAGED},
            slack=0.25,
            note=NOTE,
        ),
    ),
)
