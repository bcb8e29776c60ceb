"""Serves the digit classifier over HTTP, on polyglot_bridge, NumPy or ONNX Runtime, and races the three under load.

    python examples/serve.py                      # serves on http://127.0.0.1:8000
    curl --data-binary @images http://127.0.0.1:8000/classify     # 64 bytes an image, pixels of 0 to 16, in; JSON out
    python examples/serve.py --load-test          # each backend in a process of its own, in turn, 8 clients at once

It needs starlette and uvicorn, for the race also onnx and onnxruntime, which is left out where they are not there.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import digits_data as data
import numpy as np

BACKENDS = ("polyglot", "numpy", "onnxruntime")


# --- The classifier, three times: a function from pixels (n, 64) of uint8 to probabilities (n, 10) --------------------


def polyglot():
    import polyglot_bridge as pb

    (w1, b1), (w2, b2), (w3, b3) = data.load_weights(np.float32)
    # Packed once, here. With several worker processes, `network.save(path)` once and `pb.Sequential.load(path)` in each
    # worker lets all of them use one copy of the weights.
    network = pb.Sequential(
        [pb.Linear(w1, b1, activation="relu"), pb.Linear(w2, b2, activation="relu"), pb.Linear(w3, b3), "softmax"]
    )
    return lambda pixels: network(data.scaled(pixels, np.float32))


def numpy():
    layers = data.load_weights(np.float32)

    def classify(pixels):
        x = data.scaled(pixels, np.float32)
        for weight, bias in layers[:-1]:
            x = np.maximum(x @ weight + bias, 0)
        weight, bias = layers[-1]
        scores = x @ weight + bias
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    return classify


def onnxruntime():
    import onnxruntime as runtime
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, value = [], [], "x"
    layers = data.load_weights(np.float32)
    for index, (weight, bias) in enumerate(layers):
        weights += [numpy_helper.from_array(weight, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [f"sum{index}"]))
        last = index == len(layers) - 1
        value = "y" if last else f"x{index}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"sum{index}"], [value]))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"x": data.scaled(pixels, np.float32)})[0]


# --- The server -------------------------------------------------------------------------------------------------------


def application(classify):
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request):
        body = await request.body()
        if not body or len(body) % 64 or len(body) > 1 << 20:
            return JSONResponse({"error": f"64 bytes an image, not {len(body)} bytes in all"}, status_code=400)
        pixels = np.frombuffer(body, np.uint8).reshape(-1, 64)
        # A batch takes microseconds: less than to hand it to another thread.
        probabilities = classify(pixels)
        best = probabilities.argmax(axis=1)
        return JSONResponse(
            {"classes": best.tolist(), "probabilities": probabilities.max(axis=1).astype(float).round(4).tolist()}
        )

    async def health(_):
        return JSONResponse({"ready": True})

    return Starlette(routes=[Route("/classify", answer, methods=["POST"]), Route("/", health)])


def serve(backend, port):
    import uvicorn

    uvicorn.run(application(globals()[backend]()), host="127.0.0.1", port=port, log_level="warning", access_log=False)


# --- The load test ----------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


async def client(port, requests, begin, seconds):
    """Sends requests one after the other on one connection, until they or the time are over: (latency, answer) each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    results = []
    for body in requests:
        sent = time.perf_counter()
        if sent - begin > seconds:
            break
        head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        headers = await reader.readuntil(b"\r\n\r\n")
        length = int(headers.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        answer = await reader.readexactly(length)
        results.append((time.perf_counter() - sent, headers[9:12], answer))
    writer.close()
    await writer.wait_closed()
    return results


async def load(port, pixels, options):
    """All clients at once, each from another image on: the results, and the seconds they took."""
    bodies = [pixels[start : start + options.batch].tobytes() for start in range(0, len(pixels) - options.batch + 1)]
    share = options.requests // options.clients
    queues = [[bodies[(number * 37 + step) % len(bodies)] for step in range(share)] for number in range(options.clients)]
    begin = time.perf_counter()
    tasks = [client(port, queue, begin, options.seconds) for queue in queues]
    results = await asyncio.wait_for(asyncio.gather(*tasks), options.seconds + 30)
    return queues, results, time.perf_counter() - begin


def check(queues, results, expected):
    """Every request has its answer, and the classes are those that NumPy finds."""
    for queue, answers in zip(queues, results):
        for body, (_, status, answer) in zip(queue, answers):
            assert status == b"200", (status, answer)
            if json.loads(answer)["classes"] != expected(body):
                raise AssertionError("an answer differs from NumPy's")


def load_test(options):
    _, _, pixels, _ = data.split()
    reference, known = numpy(), {}

    def expected(body):
        if body not in known:
            known[body] = reference(np.frombuffer(body, np.uint8).reshape(-1, 64)).argmax(axis=1).tolist()
        return known[body]

    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    backends = [name for name in BACKENDS if not (missing and name == "onnxruntime")]
    for name in missing:
        print(f"left out: onnxruntime, as {name} is not installed")
    best, servers = {}, {}
    try:
        for name in backends:
            port = free_port()
            command = [sys.executable, __file__, "--backend", name, "--port", str(port)]
            servers[name] = (subprocess.Popen(command, cwd=Path.cwd()), port)
        for process, port in servers.values():
            wait_for(port, process)
        for turn in range(options.rounds):
            # The first of a round is another one each time.
            for name in backends[turn % len(backends) :] + backends[: turn % len(backends)]:
                queues, results, seconds = asyncio.run(load(servers[name][1], pixels, options))
                check(queues, results, expected)
                latencies = sorted(latency for answers in results for latency, _, _ in answers)
                lost = sum(map(len, queues)) - len(latencies) if seconds < options.seconds else 0
                assert latencies and lost == 0, f"{name} lost {lost} requests"
                p50, p99 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99))
                row = (len(latencies) / seconds, p50, p99, len(latencies))
                best[name] = max(best.get(name, row), row)
    finally:
        for process, _ in servers.values():
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        for process, _ in servers.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    print(f"{options.clients} clients at once, {options.batch} images a request, the best of {options.rounds} rounds in turn\n")
    print(f"{'':14}{'requests/s':>12}{'median':>12}{'p99':>12}{'answered':>10}")
    for name in backends:
        rate, p50, p99, count = best[name]
        print(f"{name:14}{rate:12.0f}{p50 * 1e3:9.2f} ms{p99 * 1e3:9.2f} ms{count:10}")
    print("\nevery answer arrived, and each is NumPy's")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", choices=BACKENDS, default="polyglot")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--load-test", action="store_true", help="race the backends under load")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1600, help="of each backend in a round, at most")
    parser.add_argument("--seconds", type=float, default=20, help="for each backend in a round, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="images a request")
    options = parser.parse_args()
    if options.load_test:
        load_test(options)
    else:
        serve(options.backend, options.port)


if __name__ == "__main__":
    main()
