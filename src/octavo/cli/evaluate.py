"""`octavo evaluate paper`: the paper's figures, done again."""

import argparse
from pathlib import Path

from octavo.cli.bench.output import check_matplotlib, progress_bar
from octavo.errors import ConfigError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser("evaluate", help="do the paper's evaluation again")
    evaluations = parser.add_subparsers(title="evaluations", dest="evaluation", metavar="EVALUATION", required=True)
    paper = evaluations.add_parser(
        "paper",
        help="figures of the PagedAttention paper, beside its published values",
        description="Runs the evaluation of the PagedAttention paper: its models on its GPUs, simulated, with the "
        "scheduler and the memory managers that serve requests; and, where a small machine can, smollm2 for real, at "
        "the end, with nothing else running. Draws each figure beside the paper's values, and writes a page that says "
        "which of its claims hold. What has been run is kept: a run that was stopped goes on where it was.",
        epilog="example: octavo evaluate paper --quick --figures figure-12 figure-13",
    )
    paper.add_argument("--figures", nargs="+", metavar="NAME", help="which: table-1, figure-2, ... (default: all)")
    paper.add_argument(
        "--quick", action="store_true", help="fewer requests and models, less for real: about two minutes"
    )
    paper.add_argument(
        "--out",
        type=Path,
        default=Path("paper-evaluation"),
        metavar="FOLDER",
        help="where figures and results go, and the page beside it: FOLDER.md (default: paper-evaluation)",
    )
    paper.add_argument("--again", action="store_true", help="forget what earlier runs have left in the folder")
    paper.add_argument("--processes", type=int, metavar="N", help="that simulate at once (default: one a core)")
    paper.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run what is missing, draw, and write the page.

    Raises:
        OctavoError: a flag is wrong.
    """
    check_matplotlib("octavo evaluate")
    from octavo.evaluation.paper.evaluation import FIGURES, draw, full_runs, missing_jobs, read_results, run_jobs
    from octavo.evaluation.paper.report import report
    from octavo.execution.machine import cores

    names = list(dict.fromkeys(arguments.figures or FIGURES))
    if unknown := [name for name in names if name not in FIGURES]:
        raise ConfigError(f"--figures {unknown[0]}: known are {', '.join(FIGURES)}")
    if arguments.processes is not None and arguments.processes < 1:
        raise ConfigError(f"--processes must be at least 1, got {arguments.processes}")
    folder: Path = arguments.out.resolve()
    if not folder.name:
        raise ConfigError(f"--out {arguments.out}: the page is written beside the folder, so it needs a name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {arguments.out} is no folder, and cannot become one: {error}") from error
    if arguments.quick and not arguments.again and (full := full_runs(names, folder)):
        raise ConfigError(
            f"{arguments.out} has results of a full run ({full[0]}), which --quick would replace: give another folder "
            "by --out, or --again"
        )
    if arguments.again:
        for name in names:
            (folder / f"{name}.json").unlink(missing_ok=True)
    jobs = missing_jobs(names, folder, arguments.quick)
    with progress_bar(len(jobs), "part", "Evaluating") as bar:

        def told(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        run_jobs(jobs, folder, arguments.quick, arguments.processes or cores().usable, told)
    results = {name: read_results(folder, name, arguments.quick) for name in names}
    for name, own in results.items():
        if own.parts:
            draw(name, own.parts, folder)
    command = "octavo evaluate paper" + (" --quick" if arguments.quick else "")
    page = report(results, command, folder.name)
    folder.with_name(f"{folder.name}.md").write_text(page)
    print(page, end="")
