"""Figure 16: translations behind a prefix with one example, or five."""

from octavo.evaluation.paper.rate_curves import Panel, RateCurves
from octavo.evaluation.paper.setups import LLAMA_13B, ORCA_ORACLE
from octavo.evaluation.paper.workload import TRANSLATION, Workload
from octavo.evaluation.shared_prefix import PAPER

EXAMPLES = {80: "one example", 341: "five examples"}


FIGURE_16 = RateCurves(
    "figure-16",
    "Figure 16: a shared prefix (LLaMA-13B, translation)",
    tuple(
        Panel(
            title=f"Translation, prefix of {num_tokens} tokens",
            setup=LLAMA_13B,
            workload=Workload(TRANSLATION, prefix_tokens=num_tokens),
            first_rate=16.0,
            seconds=(100.0, 20.0),
            gains={ORCA_ORACLE: (told, told)},
            slack=0.25,
            paged_knobs={"prefix_cache_scope": "tenant"},
        )
        for num_tokens, told in PAPER.items()
    ),
)
