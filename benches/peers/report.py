"""Results as text, as Markdown tables in the README and as charts: nothing is measured here."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import charts

LEVEL = 0.97  # at least this much of the best peer's speed counts as level with it
SLOWER = 1.05  # threads that cost this much more than one thread are flagged


def best_times(row: dict) -> dict[str, float]:
    """Return the times of those whose answer is right."""
    return {key: result["best"] for key, result in row["results"].items() if result["state"] == "right"}


def ours(results: dict) -> list[dict]:
    return [contestant for contestant in results["contestants"] if contestant["ours"]]


def peers(results: dict) -> list[dict]:
    return [contestant for contestant in results["contestants"] if not contestant["ours"]]


def best_peer(row: dict, results: dict) -> float | None:
    times = best_times(row)
    return min((times[peer["key"]] for peer in peers(results) if peer["key"] in times), default=None)


def ratio(row: dict, key: str, results: dict) -> float | None:
    """Return the best peer's time by ours: above 1 we are ahead."""
    times, best = best_times(row), best_peer(row, results)
    return best / times[key] if best is not None and key in times else None


def geometric_mean(values: list[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def duration(seconds: float) -> str:
    """0.00143 as "1.43 ms": three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= 0.9995 * size or unit == "ns":
            value = seconds / size
            decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{decimals}f} {unit}"
    return ""


def cell(result: dict | None) -> str:
    """Return what a table shows for one result."""
    if result is None or result["state"] == "unsupported":
        return "–"
    return duration(result["best"]) if result["state"] == "right" else result["state"].upper()


def heading(results: dict) -> str:
    """Say what runs where."""
    where = results["machine"]
    versions = ", ".join(f"{c['title']} {c['version']}" for c in results["contestants"]).replace("`", "")
    return f"{results['suite']}: {versions}\n{where['cpu']}, {where['threads']} threads, Python {where['python']}"


def line(row: dict, results: dict) -> str:
    """Return one finished row for the terminal."""
    parts = [f"{c['key']} {cell(row['results'].get(c['key']))}" for c in results["contestants"]]
    ratios = [f"{value:.2f}" for c in ours(results) if (value := ratio(row, c["key"], results))]
    return f"{row['name']}: {' | '.join(parts)}" + (f" | best peer / ours {' and '.join(ratios)}" if ratios else "")


def standings(results: dict) -> list[str]:
    """Return sentences on how each of our columns stands against the best peer of each row."""
    sentences = []
    for contestant in ours(results):
        known = [(row["name"], value) for row in results["rows"] if (value := ratio(row, contestant["key"], results))]
        if not known:
            continue
        values = [value for _, value in known]
        ahead = sum(value >= 1 for value in values)
        level = sum(LEVEL <= value < 1 for value in values)
        sentences.append(
            f"{contestant['title']} against the best peer of each row: {geometric_mean(values):.2f} times as fast "
            f"in the geometric mean of {len(values)} rows; ahead on {ahead}, level (within 3%) on {level}, "
            f"behind on {len(values) - ahead - level}."
        )
    return sentences


def against_each(results: dict) -> str:
    """Return our geometric mean against each peer alone."""
    parts = []
    rows = [best_times(row) for row in results["rows"]]
    for contestant in ours(results)[:1]:
        key = contestant["key"]
        for peer in peers(results):
            values = [times[peer["key"]] / times[key] for times in rows if {peer["key"], key} <= times.keys()]
            if values:
                parts.append(f"{peer['title']} {geometric_mean(values):.2f} ({len(values)} rows)")
    return "Against each peer alone, in the geometric mean: " + ", ".join(parts) + "." if parts else ""


def not_right(results: dict) -> list[str]:
    """Say why results are missing that should be there."""
    titles = {contestant["key"]: contestant["title"] for contestant in results["contestants"]}
    return [
        f"{titles[key]}, {row['name']}: {result['state'].upper()}, {result['say']}"
        for row in results["rows"]
        for key, result in row["results"].items()
        if result["state"] in ("wrong", "failed")
    ]


def slower_threads(results: dict) -> list[str]:
    """Return the rows of the sweep where more threads take longer than one."""
    keys = [contestant["key"] for contestant in results["contestants"]]
    found = []
    for row in results["rows"]:
        times = best_times(row)
        for key in keys[1:]:
            if keys[0] in times and key in times and times[key] > SLOWER * times[keys[0]]:
                more = times[key] / times[keys[0]]
                found.append(f"{row['name']}: {key} threads take {more:.2f} times as long as {keys[0]}")
    return found


def own_ratios(results: dict) -> list[str]:
    """Say what storing the weights in float16 gains where the weights are the traffic."""
    packed = {row["name"]: best_times(row).get("packed") for row in results["rows"]}
    sentences = []
    for name, narrow in packed.items():
        wide = packed.get(name.replace(" f16 weights", ""))
        if name.endswith(" f16 weights") and narrow and wide:
            shape = name.replace(" f32 f16 weights", "")
            gain = f"{wide / narrow:.2f} times as fast as with float32 ones"
            sentences.append(f"`Linear` with float16 weights on {shape}: {gain}.")
    return sentences


def against_the_machine(results: dict) -> list[str]:
    """Say how near the rows that are bound by arithmetic or by memory come to what the machine can do."""
    peak, threads = results.get("peak") or {}, str(results["machine"]["threads"])
    sentences = []
    for row in results["rows"]:
        times = best_times(row)
        for contestant in ours(results):
            if contestant["key"] not in times:
                continue
            seconds = times[contestant["key"]]
            who = "`Linear`" if contestant["key"] == "packed" else f"`{row['op']}`"
            if row["flops"] >= 1e9 and any(f" {dtype} " in f"{row['name']} " for dtype in ("f32", "f64")):
                kind = "f64" if " f64" in row["name"] else "f32"
                limit = peak.get(f"fma_{kind}", {}).get(threads)
                rate, unit = row["flops"] / seconds / 1e9, "GFLOP/s"
            elif not row["flops"] and row["elements"] >= 10_000_000 and (" out=" in row["name"] or "sum" in row["op"]):
                limit = peak.get("read" if "sum" in row["op"] else "copy", {}).get(threads)
                rate, unit = row["bytes"] / seconds / 1e9, "GB/s"
            else:
                continue
            if limit:
                sentences.append(f"{row['name']} with {who}: {rate:.0f} of {limit:.0f} {unit}, {rate / limit:.0%}")
    return sentences


def conclusions(results: dict) -> list[str]:
    """Return what the rows add up to, as sentences."""
    if results["suite"] == "sweep":
        slower = slower_threads(results)
        count = f"Threads cost time in {len(slower)} of {len(results['rows'])} rows"
        return [count + (":" if slower else "."), *slower]
    return [sentence for sentence in (*standings(results), against_each(results), *own_ratios(results)) if sentence]


def summary(results: dict) -> str:
    """Return the end of the terminal's report, the worst rows first."""
    lines = conclusions(results)
    for contestant in ours(results):
        known = [(value, row) for row in results["rows"] if (value := ratio(row, contestant["key"], results))]
        known.sort(key=lambda pair: pair[0])
        if known:
            lines.append(f"The worst rows of {contestant['title']}:")
        for value, row in known[:5]:
            times, best = best_times(row), best_peer(row, results)
            who = next(peer["title"] for peer in peers(results) if times.get(peer["key"]) == best)
            lines.append(f"  {value:.2f}  {row['name']}: {duration(times[contestant['key']])}, {who} {duration(best)}")
    return "\n".join(lines + against_the_machine(results) + not_right(results)).replace("`", "")


def table(results: dict) -> str:
    """Return the Markdown table: every time, the best of a row in bold, and how we stand."""
    columns = results["contestants"]
    ratios = ours(results) if peers(results) else []
    titles = [c["title"] for c in columns]
    titles += ["best peer ÷ ours"] if len(ratios) == 1 else [f"best peer ÷ {c['title'].split()[-1]}" for c in ratios]
    if len(ratios) == 2:
        titles[0], titles[-2] = "Polyglot Bridge `linear`", "best peer ÷ `linear`"
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for row in results["rows"]:
        times = best_times(row)
        fastest = min(times.values(), default=None)
        cells = []
        for contestant in columns:
            text = cell(row["results"].get(contestant["key"]))
            cells.append(f"**{text}**" if times.get(contestant["key"]) == fastest and fastest is not None else text)
        for contestant in ratios:
            value = ratio(row, contestant["key"], results)
            cells.append("–" if value is None else f"{value:.2f}" + (" (behind)" if value < LEVEL else ""))
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep_table(results: dict) -> str:
    """Return the sweep as a table: a row per size, a pair of times per operation."""
    keys = [contestant["key"] for contestant in results["contestants"]]
    operations = list(dict.fromkeys(row["op"] for row in results["rows"]))
    by_size: dict[int, dict[str, dict]] = {}
    for row in results["rows"]:
        by_size.setdefault(row["elements"], {})[row["op"]] = row
    titles = [f"{op.replace('_', ' ')}, {' / '.join(keys)} threads" for op in operations]
    lines = ["| elements | " + " | ".join(titles) + " |", "|---:|" + "---:|" * len(titles)]
    for size, found in sorted(by_size.items()):
        cells = []
        for op in operations:
            each = found[op]["results"] if op in found else {}
            cells.append(" / ".join(cell(each.get(key)) for key in keys))
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(results: dict) -> str:
    """Return the suite's chart as SVG."""
    series = [charts.Series(c["key"], c["title"].replace("`", ""), c["ours"]) for c in results["contestants"]]
    if results["suite"] == "sweep":
        panels: dict[str, dict[str, list]] = {}
        for row in results["rows"]:
            for key, seconds in best_times(row).items():
                points = panels.setdefault(row["op"].replace("_", " "), {}).setdefault(key, [])
                points.append((row["elements"], row["elements"] / seconds / 1e9))
        return charts.lines("Elements per second by size", panels, series, "elements", "billion elements per second")
    if results["suite"] == "linear":
        rows = [(r["name"], {k: r["flops"] / t / 1e9 for k, t in best_times(r).items()}) for r in results["rows"]]
        return charts.dots("Linear layers and matrix products", rows, series, "GFLOP/s (more is better)")
    rows = []
    for row in results["rows"]:
        times = best_times(row)
        fastest = min(times.values(), default=1.0)
        rows.append((row["name"], {key: seconds / fastest for key, seconds in times.items()}))
    return charts.dots("Kernels", rows, series, "time, as a multiple of the fastest (1 is best)")


def section(results: dict) -> str:
    """Return what stands between the README's markers."""
    suite, where = results["suite"], results["machine"]
    versions = ", ".join(f"{c['title']} {c['version']}" for c in peers(results))
    measured = (
        f"Measured on {where['date']}: {where['cpu']}, {where['threads']} threads each, {where['system']}, "
        f"Python {where['python']}"
        + (f"; {versions}" if versions else "")
        + "."
        + (" A quick run with short turns: rough." if results["quick"] else "")
    )
    found = conclusions(results)
    if suite == "sweep":
        found = [" ".join(found[:1])] + [f"- {sentence}" for sentence in found[1:]]
    notes = [f"- {note}" for note in not_right(results)]
    limits = against_the_machine(results)
    if limits:
        limits = ["Of what the machine can do at most, measured beside it (`cargo bench --bench peak`):", *limits]
    body = sweep_table(results) if suite == "sweep" else table(results)
    parts = [
        measured,
        "\n".join(found) if suite == "sweep" else " ".join(found),
        f"![Chart of the {suite} benchmark](docs/bench/{suite}.svg)",
        f"<details><summary>All times of the {suite} benchmark</summary>\n\n{body}\n\n</details>",
        "\n- ".join(limits),
        "\n".join(notes),
    ]
    return "\n\n".join(part for part in parts if part)


def write(results: dict, root: Path) -> None:
    """Put the results into docs/bench and, between its markers, into the README."""
    suite = results["suite"]
    folder = root / "docs" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{suite}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{suite}.svg").write_text(chart(results))
    readme = root / "README.md"
    start, end = f"<!-- bench:{suite}:start -->", f"<!-- bench:{suite}:end -->"
    text = readme.read_text() if readme.exists() else ""
    if start not in text or end not in text:
        print(f"README.md has no {start} ... {end}: the table is not written; the chart is docs/bench/{suite}.svg")
        return
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    readme.write_text(pattern.sub(lambda _: f"{start}\n{section(results)}\n{end}", text))
