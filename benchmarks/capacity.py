"""`python -m benchmarks capacity`: how many messages N nodes carry in each scheme, and what that costs, up to sizes that nobody has here.

Strategy: what each step of a message costs is measured once (`--measure`, `benchmarks.costs`) and kept in a file; the rest is arithmetic
(`benchmarks.model`), so an answer takes no time and can be asked for any number of nodes. `--check` asks real processes whether the
arithmetic is right, as far as this machine goes.

The file that comes with the sources, `benchmarks/costs.json`, has the costs of the machine that it names: steps are dearer or cheaper
elsewhere, and their ratios less so. Whoever plans for a machine measures on it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.clusters import redis_missing
from benchmarks.costs import Run, Taker, check, measure_costs, read_costs
from benchmarks.curves import from_nodes
from benchmarks.driving import Figures, RunError, UnfitError
from benchmarks.model import Answer, Case, Costs, crossing, most, predict
from benchmarks.pages import page_with, put, table
from benchmarks.schemes import SCHEMES
from benchmarks.servers import ServerError, choose_cores
from benchmarks.terminal import TEMPORARY, among, each, folder, make_folder, print_table, raise_file_limit, say, share, whole

EXAMPLES = """
examples:
  python -m benchmarks capacity
      each scheme from 1 to 1,000 nodes, every process as busy as it can be
  python -m benchmarks capacity --nodes 4,16,64 --users 200000 --rate 0.05 --locality 0.5
      two hundred thousand users, each of whom writes a message every twenty seconds: how busy is everything?
  python -m benchmarks capacity --measure --out figures
      with the costs of this machine, kept in benchmarks/costs.json; and the picture, figures/capacity.png
  python -m benchmarks capacity --check
      is the model right? real clusters of 1, 2, 4 and 8 nodes, beside what it foretells
  python -m benchmarks capacity --page
      docs/capacity.md and its picture again, from the costs and the check that are kept; --measure --check --page makes both anew

Each process is taken to have a core of its own, and every node as many users as any other. The picture needs matplotlib: pip install
'.[bench]'
"""

STORED = Path(__file__).parent / "costs.json"
#: What can be asked for: what has more than one node. A single server is one node of any of them.
ASKED = {name: scheme for name, scheme in SCHEMES.items() if name != "single"}
CLUSTERS = tuple(name for name, scheme in ASKED.items() if not scheme.alone)
NODES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
USERS = 100  #: of each node, if nobody says
CHECKED_NODES = (1, 2, 4, 8)
CHECKED_LOCALITIES = (0.0, 0.5)
AIM = 0.15  #: by which the model may be off
RESULTS = "capacity.json"
CHECK_HEADS = ["", "nodes", "local", "measured", "from its steps", "off", "foretold", "off", "copies", "counted", "wasted", "counted"]
PAGE = Path("docs/capacity.md")
BLOCKS = ("capacity: check", "capacity: crossings")  #: of the page, which --page writes
PARTS = {"node_load": "nodes", "route_server_load": "route server", "redis_load": "Redis"}


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 10_000:
        raise argparse.ArgumentTypeError(f"takes messages of a user in a second, above 0, not {text!r}")
    return rate


def _full(text: str) -> float:
    part = share(text)
    if not part:
        raise argparse.ArgumentTypeError("takes a share of a core above 0")
    return part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    names = ",".join(CLUSTERS)
    add("--nodes", type=each(whole(1, 100_000)), default=NODES, metavar="N,…", help="how many [default: 1,2,4,…,512,1000]")
    add("--users", type=whole(1), metavar="N", help=f"users of all nodes together [default: {USERS} for each node]")
    add("--locality", type=each(share), default=[0.0, 0.5, 0.9], metavar="P,…", help="share of local messages [default: 0,0.5,0.9]")
    add("--strategy", type=each(among(ASKED)), default=list(CLUSTERS), metavar="NAME,…", help=f"{', '.join(ASKED)} [default: {names}]")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=_rate, metavar="R", help="messages of each user in a second: how busy is everything then?")
    pace.add_argument("--max", action="store_true", help="as many as can be, with each user's window always full [the default]")
    add("--window", type=whole(1), default=8, metavar="N", help="with --max: messages of each user in flight [default: 8]")
    add("--full", type=_full, default=1.0, metavar="SHARE", help="with --max: how busy the busiest process may be [default: 1]")
    add("--costs", type=Path, default=STORED, metavar="FILE", help="what the steps cost [default: benchmarks/costs.json]")
    add("--measure", action="store_true", help="measure that first, and keep it there: ten minutes")
    add("--check", action="store_true", help="compare with real clusters of up to 8 nodes: ten minutes")
    add("--repeat", type=whole(1), metavar="N", help="how often --measure and --check run each; medians count [default: 2]")
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where stores have their files for a while [default: {TEMPORARY}]")
    add("--out", type=Path, metavar="DIR", help=f"write {RESULTS} and the picture there [default: no picture]")
    add("--quick", action="store_true", help="--measure and --check only show that they work; figures of no weight")
    add(
        "--page",
        type=page_with(*BLOCKS),
        nargs="?",
        const=str(PAGE),
        metavar="FILE",
        help=f"write these answers, and the check that is kept with the costs, into this page, and the picture beside it [{PAGE}]",
    )
    add("--json", action="store_true", help=f"print what {RESULTS} holds, instead of tables")


def run(options: argparse.Namespace) -> int:
    """Answers; gives the exit status."""
    parser: argparse.ArgumentParser = options.parser
    options.repeat = options.repeat or (1 if options.quick else 2)
    chosen = list(dict.fromkeys(options.strategy))
    if options.measure and options.quick and options.costs == STORED:
        parser.error("--measure --quick gives costs of no weight: say with --costs where to keep them")
    if options.page is not None and options.measure and not options.check:
        parser.error("--page takes costs with a check: add --check to --measure")
    if (options.measure or options.check) and "redis" in chosen and (missing := redis_missing()):
        parser.error(f"{missing}; or leave redis out of --strategy")
    if (options.measure or options.check) and (problem := raise_file_limit("--check", 2000, "users")):
        parser.error(problem)
    if options.out is not None:
        make_folder(options.out, parser)
    results: Figures = {"rows": [], "check": []}
    try:
        if options.measure:
            measured = measure_costs(
                [name for name in chosen if name in CLUSTERS], choose_cores(), options.data, say, repeat=options.repeat, quick=options.quick
            )
            _write(options.costs, measured)
            say(f"{options.costs}: steps explain these runs to {measured['fit']['off_median']:.0%} (median)")
        costs, stored = read_costs(options.costs)
        results["costs"] = {name: value for name, value in stored.items() if name != "check"}
        results["rows"] = rows(options, chosen, costs)
        results["check"] = stored.get("check", [])
        if options.check:
            results["check"] = []
            _check(options, chosen, costs, results["check"])
            if options.measure:
                _write(options.costs, {**stored, "check": results["check"]})
    except ValueError as error:
        parser.error(f"--costs: {error}")
    except UnfitError as error:
        parser.error(str(error))
    except (RunError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.check and results["check"]:
            show_check(results["check"])
            if options.out is not None:
                _write(options.out / RESULTS, results)
        raise
    results["crossings"] = crossings(results["rows"])
    if options.json:
        print(json.dumps(results))
    else:
        show(results)
        if options.check:
            show_check(results["check"])
    if options.out is not None:
        _write(options.out / RESULTS, results)
        _draw(options.out, options, chosen, costs, results)
    if options.page is not None:
        if not results["check"]:
            parser.error("--page takes costs with a check, and none is kept with these: make one with --measure --check")
        put(options.page, page_blocks(results))
        say(f"written: {options.page}")
        _draw(options.page.parent, options, chosen, costs, results, ["svg"])
    faults = [*results["costs"].get("faults", []), *(f"{row['name']}: {fault}" for row in results["check"] for fault in row["faults"])]
    for fault in faults if options.measure or options.check else []:
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if faults and (options.measure or options.check) else 0


def _write(path: Path, what: Figures) -> None:
    """Never half a file."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _draw(
    out: Path, options: argparse.Namespace, chosen: Sequence[str], costs: Costs, results: Figures, kinds: Sequence[str] = ("png", "svg")
) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        say("no picture: pip install matplotlib")
        return
    from benchmarks.capacity_plot import draw

    for path in draw(out, options, chosen, costs, results, kinds):
        say(f"picture: {path}")


def ask(options: argparse.Namespace, name: str, nodes: int, locality: float, costs: Costs) -> tuple[Case, Answer]:
    """One answer, and what it answers with its rate filled in."""
    users = options.users or USERS * nodes
    if options.rate:
        case = Case(SCHEMES[name], nodes, users, locality, users * options.rate)
        return case, predict(case, costs)
    asked = Case(SCHEMES[name], nodes, users, locality, 1.0, options.window)
    rate, found = most(asked, costs, options.full)
    return Case(asked.scheme, nodes, users, locality, rate, options.window), found


def rows(options: argparse.Namespace, chosen: Sequence[str], costs: Costs) -> list[Figures]:
    """An answer for each scheme, locality and number of nodes."""
    found = []
    for locality in dict.fromkeys(options.locality):
        for name in chosen:
            for nodes in sorted(set(options.nodes)):
                case, answer = ask(options, name, nodes, locality, costs)
                found.append(described(case, answer))
    return found


def described(case: Case, answer: Answer) -> Figures:
    """An answer, under the names of the output."""
    loads = {name: round(getattr(answer, name), 5) for name in PARTS}
    return {
        "scheme": str(case.scheme),
        "nodes": case.nodes,
        "users": case.users,
        "locality": case.local,
        "asked_locality": case.locality,
        "messages_per_s": round(case.rate, 2),
        "cpu_us_per_message": round(answer.us, 2),
        "node_cpu_us_per_message": round(answer.node_us, 2),
        "route_server_cpu_us_per_message": round(answer.route_server_us, 2),
        "redis_cpu_us_per_message": round(answer.redis_us, 2),
        **loads,
        "busiest": PARTS[max(loads, key=lambda name: loads[name])],
        "fits": answer.load <= 1.001,
        "copies_per_message": round(answer.copies, 4),
        "wasted_copies_per_message": round(answer.wasted, 4),
        "bytes_per_message": round(answer.bytes, 1),
        "links": answer.links,
        "steps": {part: {step: round(count, 5) for step, count in steps.items()} for part, steps in answer.work.items()},
    }


def crossings(found: Sequence[Figures]) -> list[Figures]:
    """From how many nodes on broadcast is dearer than each other scheme, and from how many a route server or a Redis is what is full."""
    told = []
    for locality in dict.fromkeys(row["asked_locality"] for row in found):
        costs: dict[str, dict[int, float]] = {}
        for row in found:
            if row["asked_locality"] == locality and row["nodes"] > 1:
                costs.setdefault(row["scheme"], {})[row["nodes"]] = row["cpu_us_per_message"]
        for scheme, own in costs.items():
            if scheme == "broadcast":
                continue
            at = crossing(costs.get("broadcast", {}), own)
            told.append({"locality": locality, "scheme": scheme, "dearer_from": round(at, 2) if at else None, "fewest": min(own)})
        full: dict[str, tuple[int, str]] = {}
        for row in found:
            middle = row["busiest"] != PARTS["node_load"]
            if row["asked_locality"] == locality and middle and max(row["route_server_load"], row["redis_load"]) >= 0.999:
                full.setdefault(row["scheme"], (row["nodes"], row["busiest"]))
        told += [{"locality": locality, "full": scheme, "part": part, "full_from": nodes} for scheme, (nodes, part) in full.items()]
    return told


def checked(names: Sequence[str], *, quick: bool) -> list[Run]:
    """The runs of a check."""
    nodes, localities = ((2,), (0.5,)) if quick else (CHECKED_NODES, CHECKED_LOCALITIES)
    wanted = []
    for count in nodes:
        for locality in localities if count > 1 else (1.0,):
            for name in names:
                short: dict[str, Any] = {"users": 12, "seconds": 0.3, "warmup": 0.1} if quick else {}
                wanted.append(Run(name, count, locality, 0, **short))
    return wanted


def _check(options: argparse.Namespace, chosen: Sequence[str], costs: Costs, into: list[Figures]) -> None:
    cores = choose_cores()
    runs = checked(chosen, quick=options.quick)
    if len(cores.servers) < max(run.nodes for run in runs) + 1:
        say(f"all processes share {len(cores.servers)} core(s): the CPU of a message is compared, and no rate")
    for row in check(runs, costs, Taker(cores, options.data, quick=options.quick), say, repeat=options.repeat):
        into.append(row)


def show(results: Figures) -> None:
    """Prints the answers for people."""
    heads = ["", "nodes", "local", "messages/s", "CPU/msg", "a node", "route server", "Redis", "copies", "wasted", "bytes", "links"]
    lines = []
    for row in results["rows"]:
        full = {"nodes": "node_load", "route server": "route_server_load", "Redis": "redis_load"}[row["busiest"]]
        loads = {
            "node_load": f"{row['node_load']:.0%}",
            "route_server_load": f"{row['route_server_load']:.0%}" if row["route_server_cpu_us_per_message"] else "–",
            "redis_load": f"{row['redis_load']:.0%}" if row["redis_cpu_us_per_message"] else "–",
        }
        loads[full] += " *"
        lines.append(
            [
                row["scheme"],
                f"{row['nodes']:,}",
                f"{row['locality']:g}",
                f"{row['messages_per_s']:,.0f}",
                f"{row['cpu_us_per_message']:,.1f} µs",
                *loads.values(),
                f"{row['copies_per_message']:,.2f}",
                f"{row['wasted_copies_per_message']:,.2f}",
                f"{row['bytes_per_message']:,.0f}",
                f"{row['links']:,}",
            ]
        )
    print_table(heads, lines)
    costs = results["costs"]
    print(
        f"Costs: {costs['machine']}; {costs['store']} on {costs['file_system']}; Python {costs['python']}; twisted_im {costs['version']}; "
        f"{costs['payload']} bytes; {costs['date']}. * is the busiest. Copies and wasted are for each of a message's two pushes."
    )
    for locality, dearer, filled in told_crossings(results["crossings"]):
        print(f"{locality} local. Broadcast costs more than: {dearer}. Full in the middle: {filled}.")
    if not all(row["fits"] for row in results["rows"]):
        print("Above 100% there is more than the process can do: it falls behind.")


def told_crossings(found: Sequence[Figures]) -> list[list[str]]:
    """For each locality: it, from where on broadcast is dearer than what, and from where on what stands in the middle is full."""
    lines = []
    for locality in dict.fromkeys(told["locality"] for told in found):
        here = [told for told in found if told["locality"] == locality]
        dearer = [f"{told['scheme']} {from_nodes(told['dearer_from'], told['fewest'])}" for told in here if told.get("dearer_from")]
        full = [f"{told['part']} ({told['full']}) from {told['full_from']:,} nodes on" for told in here if "full" in told]
        lines.append([f"{locality:.0%}", ", ".join(dearer) or "none", ", ".join(full) or "nothing"])
    return lines


def check_lines(found: Sequence[Figures]) -> list[list[str]]:
    """What was compared, as the cells of a table below `CHECK_HEADS`."""
    return [
        [
            row["scheme"],
            str(row["nodes"]),
            f"{row['locality']:g}",
            f"{row['measured_us']:.1f} µs",
            f"{row['by_steps_us']:.1f} µs",
            f"{row['by_steps_off']:+.0%}",
            f"{row['foretold_us']:.1f} µs",
            f"{row['foretold_off']:+.0%}",
            f"{row['copies']:.2f}",
            f"{row['copies_counted']:.2f}",
            f"{row['wasted']:.2f}",
            f"{row['wasted_counted']:.2f}",
        ]
        for row in found
    ]


def check_sums(found: Sequence[Figures]) -> str:
    """How well it was foretold, in some sentences."""
    ways = {"from the steps that were counted": "by_steps_us", "wholly foretold": "foretold_us"}
    told = []
    for paced in (False, True):
        for way, name in ways.items():
            off = [abs(row[name] * (row["pace"] if paced else 1.0) / row["measured_us"] - 1) for row in found]
            told.append(f"{sum(each <= AIM for each in off)} of {len(found)} {way} (off by {statistics.median(off):.0%} in the median)")
    paces = [row["pace"] for row in found]
    return (
        f"CPU of a message in all processes. Within {AIM:.0%}: {told[0]}, {told[1]}. Parallel servers in turn with these took "
        f"{min(paces):.2f} to {max(paces):.2f} × what their costs say. Were all that is foretold multiplied by that, it would be "
        f"{told[2]}, {told[3]}."
    )


def page_blocks(results: Figures) -> dict[str, str]:
    """What the page has of a run, by its marks."""
    costs = results["costs"]
    foot = (
        f"{costs['machine']}, {costs['server_cores']} for all processes; Python {costs['python']}; {costs['file_system']}; {costs['date']}."
    )
    note = [costs["note"]] if "note" in costs else []
    heads = ["local", "broadcast costs more CPU than", "full in the middle"]
    made = ["\n\n".join([table(CHECK_HEADS, check_lines(results["check"]), left=1), check_sums(results["check"]), foot, *note])]
    return dict(zip(BLOCKS, [*made, table(heads, told_crossings(results["crossings"]))], strict=True))


def show_check(found: Sequence[Figures]) -> None:
    """Prints what was compared."""
    print_table(CHECK_HEADS, check_lines(found))
    print(check_sums(found))
