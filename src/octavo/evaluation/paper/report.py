"""The page that says which of the paper's claims hold here."""

from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.evaluation import FIGURES, Results
from octavo.evaluation.paper.figure_12_measured import LATENCY_FACTOR
from octavo.evaluation.paper.runs import LATENCY_S
from octavo.evaluation.paper.setups import HOST_ROW_S, HOST_STEP_S

QUICK = "This was a quick run: requests come for a shorter time, and a rate is off by up to a fifth."
MARKS = {True: "yes", False: "**no**"}


def report(results: dict[str, Results], command: str, pictures: str) -> str:
    """Markdown: a table of all claims, then the figures.

    Args:
        results: by figure.
        command: that made it.
        pictures: the folder that has the figures, beside the page.
    """
    results = {name: each for name, each in results.items() if each.parts}
    claims = [claim for name, each in results.items() for claim in FIGURES[name].claims(each.parts)]
    machines = " and ".join(dict.fromkeys(each.machine for each in results.values() if each.machine))
    missed = [claim for claim in claims if False in claim.verdicts]
    num_held = sum(all(claim.verdicts) for claim in claims)
    lines = [
        "# The paper's evaluation, done again",
        "",
        f"Written by `{command}`. *Efficient Memory Management for Large Language Model Serving with",
        "PagedAttention* (Kwon et al., SOSP 2023), with Octavo's scheduler and memory managers: the paper's other",
        "systems, Orca's three variants and FasterTransformer, are policies of the same engine. **Simulated** is on",
        "the paper's models and GPUs: only the time of a step is reckoned, from its operations and bytes, the GPUs'",
        f"data sheets, and {HOST_STEP_S * 1e3:g} ms a step and {HOST_ROW_S * 1e3:g} ms a sequence for the",
        "implementation of 2023, which its own two batches of figure 13 tell. **Measured** is with a small model on",
        f"{machines or 'a machine of today'}. A rate is sustained up to a normalized latency of {LATENCY_S:g} s a",
        f"token; measured, up to {LATENCY_FACTOR:g} times that of an idle machine. Lengths are drawn from the",
        "published means, as the data sets are not here.",
        *([QUICK] if any(each.quick for each in results.values()) else []),
        "",
        f"**{num_held} of {len(claims)} claims hold**: {_held_by_figure(claims)}. One that is simulated and",
        "measured has to hold in both. Where the paper gives one number, how far ours may be from it is our choice",
        "(*within*); of figure 13, Octavo's two batches are what the host's times were fitted to.",
        "",
        "| | claim | paper | within | simulated | measured | holds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(_row, claims),
        "",
    ]
    if missed:
        lines += [
            "Where they differ:",
            "",
            *(f"- {claim.text}: {claim.note or 'not explained yet'}." for claim in missed),
            "",
        ]
    for name in results:
        lines += [f"## {FIGURES[name].title}", "", f"![{FIGURES[name].title}]({pictures}/{name}.svg)", ""]
    return "\n".join(lines)


def _held_by_figure(claims: list[Claim]) -> str:
    """As `figure-12 6 of 8`."""
    held: dict[str, list[bool]] = {}
    for claim in claims:
        held.setdefault(claim.figure, []).append(all(claim.verdicts))
    return ", ".join(f"{figure} {sum(each)} of {len(each)}" for figure, each in held.items())


def _told(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def _row(claim: Claim) -> str:
    unit = " points" if claim.unit.strip() == "%" else claim.unit
    slack = f"±{_told(claim.slack)}{unit}" if claim.slack else ""
    found = ["" if each is None else f"{_told(each)}{claim.unit}" for each in (claim.simulated, claim.measured)]
    holds = " and ".join(dict.fromkeys(MARKS[verdict] for verdict in claim.verdicts))
    return f"| {claim.figure} | {claim.text} | {claim.told} | {slack} | {found[0]} | {found[1]} | {holds} |"
