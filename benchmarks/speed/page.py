"""The results page and its chart, from the raw measurements."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from cases import ALL, LIBRARIES, OURS, PEERS, Case

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {
    "finerank": "finerank",
    "default": "finerank, default settings",
    "fuxictr": "FuxiCTR",
    "rechub": "torch-rechub",
    "deepctr": "DeepCTR-Torch",
    "nextrec": "NextRec",
    "floor": "floor",
}
ABOUT = """\
Each library trains the same model on the same synthetic data with the same sizes, vocabularies,
batch of 1024, Adam at 0.001, float32 and threads, set up as its own documentation does it. Ids are
zipf-like, histories lognormal, labels random: what is measured is speed, not what is learned.
finerank is measured a second time as it trains where nothing is said: bfloat16 products where the
CPU computes them (the other libraries have no such setting), and Adam for every row of every table
instead of lazy Adam. All ratios but those that say so are of float32.

- **end to end**: the library's own training loop with its own loader, from encoded data, after a
  warm-up.
- **step**: the same loop on batches that are made already: forward, backward, optimiser. On a GPU
  finerank makes its batches there, as a part of the step.
- **floor**, on a CPU: the step's bare matrix products as the model is written, forward and twice
  backward, by the faster of torch's two libraries for each, and one read and write of the batch's
  embedding rows with both moments of Adam, without any padding. A share of the floor of 100 % would
  leave no time for anything else; above it products were left out (finerank maps ids that repeat
  themselves in a batch once, and looks the result up) or shorter (bfloat16).
- Samples a second are medians over rounds, with the least and the most; rounds after the first
  repeat only the two fastest other libraries. Memory is the process's
  own, without those of loader workers: resident before training (library and data loaded), and the
  peak.

All processes run with OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=1000, which finerank sets for
itself and without which the others lose much more on a machine that is not quiet. Each library
uses the loader, and as many loader processes, as it does where nothing is said: FuxiCTR one (npz,
the faster of its two formats), the others none, finerank a thread. Importing libraries counts for
nobody.

What the setup can't make equal; details in the head of each library's file in `benchmarks/speed`:

- FuxiCTR clips the norm of all gradients in each step, and embeds numbers, so that its DNN and DCN
  are wider. Its DIN pads a batch to its own longest history, the others' to the longest there is.
- torch-rechub normalises every layer of every MLP over the batch, and its DIN's MLP has a Dice of
  its own.
- torch-rechub and NextRec attend to items and to categories apart, with width 64 each.
- finerank gives a number a second input: whether it is missing. In float32 it is measured with lazy
  Adam, which leaves the embedding rows at rest that a batch does not use; the others move every row
  of every table in each step, as finerank's default does when the row is next used.
- Models that a wheel lacks are composed of its layers: DNN in FuxiCTR, torch-rechub and NextRec,
  DCN and MMoE in FuxiCTR. The regularisers that DeepCTR-Torch and torch-rechub have by default are
  off.

What stood in the way:

- FuxiCTR's `fit` without a validation set fails at the epoch's end. Its GAUC sends each user to a
  pool of processes.
- torch-rechub's GAUC is NaN as soon as a user has one class: those users are left out before, in no
  measured time. Its `generate_seq_feature` makes no examples of impressions.
- DeepCTR-Torch has no GAUC: it gets sklearn's AUC of each user, with pandas.
- NextRec asks for NumPy and pandas below 2 on Python 3.11, but runs with newer ones.
- No peer builds histories from a log of impressions: they get a vectorised join in pandas.
"""
Series = dict[tuple[str, str, str], list[dict[str, Any]]]


def write(results: dict[str, Any], raw: Path) -> None:
    """Write the page, and the chart where matplotlib is installed, beside the raw results."""
    stem = raw.stem.replace("results", "RESULTS")
    chart = raw.with_suffix(".png")
    drawn = draw(results, chart)
    raw.with_name(f"{stem}.md").write_text(page(results, chart.name if drawn else None))


def page(results: dict[str, Any], chart: str | None) -> str:
    """The page as Markdown."""
    series, errors = _series(results)
    lines = ["# Speed", "", f"```\n{results['command']}\n```", "", ABOUT]
    where = f", on one {results['device_name']}" if results["device_name"] else ""
    lines += [
        f"{results['date']}, {results['cpu']}, {results['threads']} threads{where}. "
        f"{_versions(results)}.",
        "",
    ]
    scales = {each["scale"] for each in results["measurements"] if each.get("scale", 1) != 1}
    if scales:
        lines += [f"Tried out with fewer rows, by {sorted(scales)}: no results.", ""]
    if chart is not None:
        lines += [f"![how many times as fast as each library]({chart})", ""]
    for case in ALL.values():
        if any(key[0] == case.name for key in (*series, *errors)):
            lines += _section(case, series, errors)
    return "\n".join(lines)


def _section(case: Case, series: Series, errors: dict[tuple[str, str, str], str]) -> list[str]:
    lines = [f"## {case.name}", "", f"{case.about}. {case.rows:,} rows.", ""]
    floor = _median(series.get((case.name, "floor", "step")))
    head = ["", *(f"{measure}, samples/s" for measure in case.measures)]
    head += ["step / floor"] * (floor is not None) + ["memory before, MiB", "peak, MiB"]
    lines += [_row(head), _row(["---"] * len(head))]
    for library in LIBRARIES:
        found = {m: series.get((case.name, library, m)) for m in case.measures}
        failed = {m: errors.get((case.name, library, m)) for m in case.measures}
        if not any(found.values()) and not any(failed.values()):
            continue
        cells = [NAMES[library]]
        cells += [_speeds(found[m]) or failed[m] or "" for m in case.measures]
        if floor is not None:
            step = _median(found.get("step"))
            cells.append("" if step is None else f"{step / floor:.0%}")
        memory = found[case.measures[0]] or []
        for field in ("memory_before_mb", "memory_peak_mb"):
            values = [each[field] for each in memory]
            cells.append(f"{statistics.median(values):,.0f}" if values else "")
        lines.append(_row(cells))
    if floor is not None:
        speeds = _speeds(series[case.name, "floor", "step"])
        blank = [""] * (len(head) - len(case.measures) - 1)
        lines.append(_row(["floor", *[""] * (len(case.measures) - 1), speeds, *blank]))
    lines.append("")
    for measure in case.measures:
        best = _fastest_peer(case, measure, series)
        ours, default = (_median(series.get((case.name, o, measure))) for o in OURS)
        if best is not None and ours is not None:
            name, theirs = best
            line = f"{measure}: {ours / theirs:.2f} times the fastest peer, {NAMES[name]}"
            if default is not None:
                line += f"; {default / theirs:.2f} times with its default settings"
            lines += [f"{line}.", ""]
    peaks = {
        library: statistics.median(each["memory_peak_mb"] for each in found)
        for library in ("finerank", *PEERS)
        if (found := series.get((case.name, library, case.measures[0])))
    }
    ours = peaks.pop("finerank", None)
    if peaks and ours is not None:
        leanest = min(peaks, key=lambda peer: peaks[peer])
        share = f"{ours / peaks[leanest]:.2f} of the leanest peer's, {NAMES[leanest]}"
        lines += [f"Peak memory, {case.measures[0]}: {share}.", ""]
    return lines


def draw(results: dict[str, Any], file: Path) -> bool:
    """The chart: how many times as fast as each peer; False where there is nothing to draw."""
    series, _ = _series(results)
    ratios = {
        (case.name, measure): {
            peer: ours / theirs
            for peer in PEERS
            if (theirs := _median(series.get((case.name, peer, measure)))) is not None
        }
        for case in ALL.values()
        for measure in case.measures
        if (ours := _median(series.get((case.name, "finerank", measure)))) is not None
    }
    ratios = {key: peers for key, peers in ratios.items() if peers}
    try:
        import matplotlib as mpl  # noqa: PLC0415

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415
    except ImportError as error:
        print(f"no chart: {error}")
        return False
    if not ratios:
        return False
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(ratios) + 1.5))
    height = 0.8 / len(PEERS)
    for place, peer in enumerate(PEERS):
        places = [row for row, peers in enumerate(ratios.values()) if peer in peers]
        values = [peers[peer] for peers in ratios.values() if peer in peers]
        offset = (place - 1.5) * height
        widths = [value - 1 for value in values]
        rows = [row + offset for row in places]
        axes.barh(rows, widths, height, left=1, label=NAMES[peer])
    axes.set_yticks(range(len(ratios)), [f"{case}, {measure}" for case, measure in ratios])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("finerank's speed as a multiple of the other library's (right of 1: faster)")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return True


def _series(results: dict[str, Any]) -> tuple[Series, dict[tuple[str, str, str], str]]:
    series: Series = defaultdict(list)
    errors = {}
    for each in results["measurements"]:
        key = (each["case"], each["library"], each["measure"])
        if "error" in each:
            errors[key] = f"failed: {each['error']}".replace("|", "\\|")
        else:
            series[key].append(each)
    return dict(series), errors


def _median(measured: list[dict[str, Any]] | None) -> float | None:
    if not measured:
        return None
    return statistics.median(each["samples_per_s"] for each in measured)


def _speeds(measured: list[dict[str, Any]] | None) -> str:
    if not measured:
        return ""
    values = [each["samples_per_s"] for each in measured]
    if len(values) == 1:
        return f"{values[0]:,.0f} (once)"
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _fastest_peer(case: Case, measure: str, series: Series) -> tuple[str, float] | None:
    peers = {peer: _median(series.get((case.name, peer, measure))) for peer in PEERS}
    known = {peer: speed for peer, speed in peers.items() if speed is not None}
    return max(known.items(), key=lambda each: each[1]) if known else None


def _versions(results: dict[str, Any]) -> str:
    found = {n: v for each in results["measurements"] for n, v in each.get("versions", {}).items()}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
