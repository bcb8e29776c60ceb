"""One library in a process of its own: builds a case, checks the answer, times it, one JSON line per request.

Started by run.py as `worker.py MODULE VARIANT THREADS`. Which cases there are is in cases.py, how the library
computes them in MODULE (use_*.py).

Requests (one line of JSON on stdin) and replies (one line on stdout):
    {"do": "build", "case": {...}, "folder": "..."}  ->  {"state": "right", "wrong" or "unsupported", "say": "why"}
    {"do": "time", "seconds": 0.2}                   ->  {"best": seconds, "median": seconds, "calls": number}
    {"do": "drop"}                                   ->  {}
    anything that raises                             ->  {"failed": "what"}
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import sys
import time
import timeit
from pathlib import Path

import cases
from snippet import Unsupported

# A batch of calls is timed at once where one call is too short for the clock.
SHORTEST_BATCH = 50e-6


class Worker:
    """Holds one library and at most one case."""

    def __init__(self, module: str, variant: str, threads: int) -> None:
        self.library = importlib.import_module(module)
        self.variant = variant
        self.timer: timeit.Timer | None = None
        self.library.start(threads)

    def build(self, request: dict) -> dict:
        """Make the case ready, run it once and compare the answer with float64."""
        fields = request["case"]
        fields["shape"] = tuple(fields["shape"])
        case = cases.Case(**fields)
        arrays, expected = cases.load(Path(request["folder"]))
        try:
            snippet = self.library.build(case, arrays, self.variant)
        except Unsupported as reason:
            return {"state": "unsupported", "say": str(reason)}
        answer = eval(snippet.expression, snippet.names)  # noqa: S307, our own expression
        wrong = cases.what_is_wrong(case, self.library.to_numpy(answer), expected)
        if wrong:
            return {"state": "wrong", "say": wrong, "code": snippet.expression}
        self.timer = timeit.Timer(snippet.expression, globals=snippet.names)
        return {"state": "right", "say": "", "code": snippet.expression}

    def time(self, request: dict) -> dict:
        """Time the case for about that many seconds, after warming up for a tenth of it."""
        assert self.timer is not None, "nothing was built"
        seconds = request["seconds"]
        number, start = 1, time.perf_counter()
        while True:  # warms up, and finds how many calls make a batch
            batch = self.timer.timeit(number)
            if batch < SHORTEST_BATCH:
                number = max(number * 2, min(1000 * number, int(SHORTEST_BATCH / max(batch / number, 1e-9))))
            elif time.perf_counter() - start >= seconds / 10:
                break
        times, start = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < seconds:
            times.append(self.timer.timeit(number) / number)
        return {"best": min(times), "median": statistics.median(times), "calls": number * len(times)}

    def drop(self, _request: dict) -> dict:
        """Forget the case and its arrays."""
        self.timer = None
        gc.collect()
        return {}


def main() -> None:
    """Answer requests until the input ends."""
    # Whatever a library prints goes to the errors, so that it can't be taken for an answer.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(answer: dict) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    module, variant, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        worker = Worker(module, variant, threads)
        reply({"version": worker.library.version()})
    except Exception as failure:  # noqa: BLE001, a library may fail to import in any way
        reply({"failed": f"{type(failure).__name__}: {failure}"})
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(getattr(worker, request["do"])(request))
        except Exception as failure:  # noqa: BLE001, reported to the driver, which shows it
            said = (str(failure).strip().splitlines() or [""])[0]
            reply({"failed": f"{type(failure).__name__}: {said}"[:300]})


if __name__ == "__main__":
    main()
