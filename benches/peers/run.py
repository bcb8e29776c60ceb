"""Race Polyglot Bridge against the libraries that are installed: `make bench`, `make bench-linear`.

Each library runs in a process of its own, which is stopped while another one runs; they take turns case by case, for
several rounds, and the best time of each counts. An answer is compared with float64 before it is timed. Results are
printed, saved as JSON and, with --write, put into the README and docs/bench as tables and charts.

    python benches/peers/run.py                      every suite, every library there is
    python benches/peers/run.py --suite linear --quick
    python benches/peers/run.py --suite kernels --cases 'softmax.*f32' --peers numpy,onnxruntime
    python benches/peers/run.py --render --write     tables and charts again, from the results saved last
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import platform
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SAVED = ROOT / "docs" / "bench"
CAN_STOP = hasattr(signal, "SIGSTOP")

try:
    import cases
    import report
except ImportError as failure:
    sys.exit(f"{failure}: pip install -r {HERE / 'requirements.txt'}")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A column of the tables."""

    key: str
    title: str
    package: str  # what has to be importable
    module: str
    variant: str = ""
    suites: tuple[str, ...] = ("linear", "kernels")
    threads: int = 0  # another number than the one that all share


CONTESTANTS = [
    Contestant("polyglot", "Polyglot Bridge", "polyglot_bridge", "use_polyglot"),
    Contestant("packed", "Polyglot Bridge `Linear`", "polyglot_bridge", "use_polyglot", "packed", ("linear",)),
    Contestant("numpy", "NumPy", "numpy", "use_numpy"),
    Contestant("torch", "PyTorch", "torch", "use_torch"),
    Contestant("onnxruntime", "ONNX Runtime", "onnxruntime", "use_onnxruntime"),
    Contestant("jax", "JAX", "jax", "use_jax"),
    Contestant("openvino", "OpenVINO", "openvino", "use_openvino"),
    Contestant("numba", "Numba", "numba", "use_numba", suites=("kernels",)),
    Contestant("numexpr", "numexpr", "numexpr", "use_numexpr", suites=("kernels",)),
]


def contestants_of(suite: str, options: argparse.Namespace) -> list[Contestant]:
    """Return who takes part: in the sweep only ourselves, with one thread and with all of them."""
    if suite == "sweep":
        return [
            dataclasses.replace(
                CONTESTANTS[0], key=str(count), title="1 thread" if count == 1 else f"{count} threads", threads=count
            )
            for count in sorted({1, options.threads})
        ]
    return [c for c in CONTESTANTS if suite in c.suites and c.key in options.peers]


class WorkerLost(Exception):
    """The process ended, or gave no answer in time."""


class Worker:
    """A contestant's process, as the driver sees it; stopped whenever it has nothing to do."""

    def __init__(self, contestant: Contestant, threads: int) -> None:
        self.contestant = contestant
        self.threads = threads
        self.version = ""
        self.process: subprocess.Popen | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.errors = tempfile.TemporaryFile("w+")

    def start(self) -> None:
        """Start the process and wait until the library is imported."""
        threads = str(self.threads)
        limits = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM", "POLYGLOT")
        environment = os.environ | {f"{library}_NUM_THREADS": threads for library in limits}
        environment |= {"NUMEXPR_MAX_THREADS": threads, "NPROC": threads, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, str(HERE / "worker.py"), self.contestant.module, self.contestant.variant, threads]
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment
        )
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True).start()
        reply = self._wait(120)
        if "failed" in reply:
            raise WorkerLost(reply["failed"])
        self.version = reply["version"]
        self._signal("SIGSTOP")

    @staticmethod
    def _read(stream, lines: queue.Queue) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    def _wait(self, patience: float) -> dict:
        try:
            line = self.lines.get(timeout=patience)
        except queue.Empty:
            self.end()
            raise WorkerLost(f"no answer in {patience:.0f} s") from None
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its output ended, so it is about to end as well
                self.process.wait(1)
            code = self.end()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or [""])[-1]
            raise WorkerLost(f"process ended ({code}) {last[:300]}".strip())
        return json.loads(line)

    def _signal(self, name: str) -> None:
        if CAN_STOP and self.process is not None and self.process.poll() is None:
            self.process.send_signal(getattr(signal, name))

    def ask(self, patience: float = 300, **request) -> dict:
        """Wake the process, have it do something, put it to sleep again."""
        if self.process is None:
            self.start()
        assert self.process is not None and self.process.stdin is not None
        self._signal("SIGCONT")
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended: waiting for its answer tells why
        reply = self._wait(patience)
        self._signal("SIGSTOP")
        return reply

    def end(self) -> int | None:
        """End the process and return its exit code; the next request starts a new one."""
        if self.process is None:
            return None
        self.process.kill()
        code = self.process.wait()
        self.process = None
        return code


def race(case: cases.Case, workers: list[Worker], seconds: float, rounds: int, progress) -> dict:
    """Let every worker check and then time one case, in turn, and return a row of results."""
    row: dict = {
        "name": case.name,
        "op": case.op,
        "elements": math.prod(case.shape),
        "flops": case.flops,
        "bytes": case.bytes_moved,
        "results": {},
    }
    with tempfile.TemporaryDirectory(prefix="polyglot-bench-") as folder:
        cases.save(case, Path(folder))
        ready = []
        for worker in workers:
            key = worker.contestant.key
            progress(f"checking {worker.contestant.title}")
            try:
                reply = worker.ask(do="build", case=dataclasses.asdict(case), folder=folder)
            except WorkerLost as lost:
                reply = {"failed": str(lost)}
            if "failed" in reply:
                reply = {"state": "failed", "say": reply["failed"]}
            row["results"][key] = reply
            if reply["state"] == "right":
                ready.append(worker)
    for turn in range(rounds):
        # Everyone gets to follow everyone: what one leaves in the caches must not always meet the same next one.
        shift = turn % max(len(ready), 1)
        for worker in ready[shift:] + ready[:shift]:
            result = row["results"][worker.contestant.key]
            if result["state"] != "right":
                continue
            progress(f"round {turn + 1} of {rounds}: {worker.contestant.title}")
            try:
                reply = worker.ask(do="time", seconds=seconds)
            except WorkerLost as lost:
                reply = {"failed": str(lost)}
            if "failed" in reply:
                result |= {"state": "failed", "say": reply["failed"]}
                continue
            result["best"] = min(reply["best"], result.get("best", float("inf")))
            result.setdefault("medians", []).append(reply["median"])
            result["calls"] = result.get("calls", 0) + reply["calls"]
    for worker in ready:
        if worker.process is not None:
            with contextlib.suppress(WorkerLost):
                worker.ask(do="drop")
    return row


def machine(threads: int) -> dict:
    """Describe where this runs."""
    name = platform.processor() or platform.machine()
    try:
        cpu = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*:\s*(.*)", cpu).group(1)
        flags = re.search(r"flags\s*:\s*(.*)", cpu).group(1).split()
        level = next((t for f, t in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("sse4_2", "SSE4.2")) if f in flags), "")
        name = f"{name} ({level})" if level else name
    except (OSError, AttributeError):
        pass
    return {
        "cpu": name,
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def peak() -> dict:
    """Return what the machine can do at most, as benches/peak.rs measures it; {} where there is no Cargo."""
    command = ["cargo", "bench", "--quiet", "--bench", "peak", "--no-default-features", "--features", "std"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=True)
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as failure:
        print(f"without the machine's peak: {failure}", file=sys.stderr)
        return {}


def available_threads() -> int:
    """Return on how many CPUs this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Progress:
    """One line that is overwritten on a terminal, and nothing where the errors go into a file."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.prefix = ""

    def __call__(self, text: str) -> None:
        if self.live:
            print(f"\r\x1b[2K{self.prefix}{text}"[:150], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def run_suite(suite: str, options: argparse.Namespace) -> dict:
    """Race all cases of a suite and return everything that there is to know about it."""
    chosen = [case for case in cases.SUITES[suite]() if re.search(options.cases, case.name)]
    workers = [Worker(c, c.threads or options.threads) for c in contestants_of(suite, options)]
    progress = Progress()
    results = {"suite": suite, "quick": options.quick, "machine": machine(options.threads)}
    results |= {"contestants": [], "rows": []}
    try:
        running = []
        for worker in workers:
            progress(f"starting {worker.contestant.title}")
            try:
                worker.start()
                running.append(worker)
            except WorkerLost as lost:
                progress.clear()
                print(f"without {worker.contestant.title}: {lost}", file=sys.stderr)
        results["contestants"] = [
            {
                "key": w.contestant.key,
                "title": w.contestant.title,
                "version": w.version,
                "ours": w.contestant.package == "polyglot_bridge",
            }
            for w in running
        ]
        if not running:
            progress.clear()
            print(f"{suite}: none of its libraries can be imported", file=sys.stderr)
            return results
        print(report.heading(results), flush=True)
        for number, case in enumerate(chosen, 1):
            progress.prefix = f"[{number}/{len(chosen)}] {case.name}: "
            row = race(case, running, options.seconds, options.rounds, progress)
            results["rows"].append(row)
            progress.clear()
            print(f"[{number}/{len(chosen)}] {report.line(row, results)}", flush=True)
    finally:
        for worker in workers:
            worker.end()
    return results


def main() -> None:
    """Read the command line, run, report."""
    names = list(cases.SUITES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*names, "all"], default="all", help="what to measure (all)")
    parser.add_argument("--peers", default="", help="comma-separated: " + ", ".join(c.key for c in CONTESTANTS))
    parser.add_argument("--cases", default="", help="only the rows whose name matches this regular expression")
    parser.add_argument("--threads", type=int, default=available_threads(), help="for every library (all there are)")
    parser.add_argument("--seconds", type=float, default=None, help="a turn's length (0.15; --quick: 0.03)")
    parser.add_argument("--rounds", type=int, default=None, help="turns a library gets per case (6; --quick: 2)")
    parser.add_argument("--quick", action="store_true", help="short turns: a first look, too rough to publish")
    parser.add_argument("--save", type=Path, default=ROOT / "out" / "bench", help="folder for the JSON (out/bench)")
    parser.add_argument("--no-peak", action="store_true", help="don't measure the machine's peak (needs Cargo)")
    parser.add_argument("--write", action="store_true", help="update README.md and docs/bench with tables and charts")
    parser.add_argument("--render", action="store_true", help="measure nothing: use the results in docs/bench")
    parser.add_argument("--list", action="store_true", help="print the cases and leave")
    options = parser.parse_args()
    options.seconds = options.seconds or (0.03 if options.quick else 0.15)
    options.rounds = options.rounds or (2 if options.quick else 6)
    suites = names if options.suite == "all" else [options.suite]

    if options.list:
        for suite in suites:
            print(f"{suite}:", *(f"  {case.name}" for case in cases.SUITES[suite]()), sep="\n")
        return

    known = [contestant.key for contestant in CONTESTANTS]
    installed = [c.key for c in CONTESTANTS if importlib.util.find_spec(c.package) is not None]
    options.peers = [key for key in options.peers.split(",") if key] or installed
    if unknown := set(options.peers) - set(known):
        parser.error(f"unknown peers {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if hasattr(os, "sched_setaffinity"):  # for libraries that go by the CPUs they may use; workers inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    if load > 0.5 and not options.render:
        print(f"The machine is busy (load {load:.1f}): expect noise.", file=sys.stderr)

    limits = {} if options.render or options.no_peak or suites == ["sweep"] else peak()
    for suite in suites:
        if options.render:
            path = SAVED / f"{suite}.json"
            if not path.exists():
                continue
            results = json.loads(path.read_text())
        else:
            results = run_suite(suite, options) | {"peak": limits}
            if not results["rows"]:
                continue
            options.save.mkdir(parents=True, exist_ok=True)
            path = options.save / f"{suite}.json"
            path.write_text(json.dumps(results, indent=1) + "\n")
        print("\n" + report.summary(results) + "\n", flush=True)
        if options.write:
            report.write(results, ROOT)


if __name__ == "__main__":
    main()
