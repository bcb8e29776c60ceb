"""Classifies real handwritten digits with Polyglot Bridge and with NumPy, and races the two: `make demo`.

The network (64 pixels, 128 and 64 hidden units, 10 classes) was trained by train_digits.py beside this file; the test
images were held out. Prints accuracy, agreement and times, and draws out/digits.png. With `--classes DTYPE` it prints
the class of each test image instead, a line each, as the Rust example mlp does.
"""

import sys
import time
from pathlib import Path

import digits_data as data
import numpy as np
import polyglot_bridge as pb
from PIL import Image, ImageDraw, ImageFont

PICTURE = Path(__file__).parents[1] / "out" / "digits.png"


def classify(layers, x):
    """Class probabilities by Polyglot Bridge: a layer is one call, relu done before a result leaves the CPU."""
    *hidden, (weight, bias) = layers
    for hidden_weight, hidden_bias in hidden:
        x = pb.linear(x, hidden_weight, hidden_bias, activation="relu")
    return pb.softmax(pb.linear(x, weight, bias))


def classify_numpy(layers, x):
    """The same, as it is written with NumPy alone."""
    *hidden, (weight, bias) = layers
    for hidden_weight, hidden_bias in hidden:
        x = np.maximum(x @ hidden_weight + hidden_bias, 0)
    x = x @ weight + bias
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def race(functions, *arguments, seconds=0.5, rounds=20):
    """The best time of each function in seconds; they take turns, so that whatever else runs here troubles all."""
    best = [float("inf")] * len(functions)
    end = time.perf_counter() + seconds
    while rounds > 0 or time.perf_counter() < end:
        rounds -= 1
        for number, function in enumerate(functions):
            start = time.perf_counter()
            function(*arguments)
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def draw(pixels, classes, probabilities, columns=10, rows=5, size=96):
    """A grid of test digits, each with its predicted class and probability; wrong ones first, in red."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != classes)
    right = np.flatnonzero(predicted == classes)
    shown = np.concatenate([wrong, right])[: columns * rows]
    font = ImageFont.load_default(16)
    caption, gap = 22, 8
    picture = Image.new("RGB", (columns * (size + gap) + gap, rows * (size + caption + gap) + gap), "white")
    pen = ImageDraw.Draw(picture)
    for place, number in enumerate(shown):
        left = gap + place % columns * (size + gap)
        top = gap + place // columns * (size + caption + gap)
        ink = Image.fromarray((255 - pixels[number].reshape(8, 8) * 15.9).astype(np.uint8))
        picture.paste(ink.resize((size, size), Image.Resampling.NEAREST), (left, top))
        miss = number in wrong
        colour = "#c02020" if miss else "#205080"
        pen.rectangle((left, top, left + size - 1, top + size - 1), outline=colour, width=3 if miss else 1)
        text = f"{predicted[number]}  {probabilities[number].max():.1%}" + (f"  (a {classes[number]})" if miss else "")
        pen.text((left + size / 2, top + size + 2), text, fill=colour, font=font, anchor="ma")
    PICTURE.parent.mkdir(exist_ok=True)
    picture.save(PICTURE)


def print_classes(dtype):
    pixels = data.split()[2]
    probabilities = classify(data.load_weights(dtype), data.scaled(pixels, dtype))
    print(*probabilities.argmax(axis=1), sep="\n")


def main():
    _, _, pixels, classes = data.split()
    print(f"{len(pixels)} handwritten digits that training never saw, polyglot_bridge {pb.__version__}\n")
    print(f"{'':21}{'accuracy':^21}{'same':>9}{'best time':^27}")
    print(
        f"{'dtype':9}{'batch':>6}{'NumPy':>13}{'Polyglot':>12}{'classes':>10}{'NumPy':>13}{'Polyglot':>12}{'ratio':>8}"
    )
    for dtype in (np.float32, np.float64, np.float16):
        layers, x = data.load_weights(dtype), data.scaled(pixels, dtype)
        ours, theirs = classify(layers, x), classify_numpy(layers, x)
        same = np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))
        accuracies = [np.mean(result.argmax(axis=1) == classes) for result in (theirs, ours)]
        for batch in (x, x[:1]):
            numpy_time, our_time = race([classify_numpy, classify], layers, batch)
            print(
                f"{np.dtype(dtype).name:9}{len(batch):6}{accuracies[0]:13.2%}{accuracies[1]:12.2%}{same:10.1%}"
                f"{numpy_time * 1e6:10.1f} µs{our_time * 1e6:9.1f} µs{numpy_time / our_time:8.2f}"
            )
        if dtype is np.float32:
            draw(pixels, classes, ours)
            assert accuracies[1] >= 0.97, "the classifier should be better than this"
            assert same == 1, "NumPy and Polyglot Bridge should agree on every digit"
    print(f"\nratio: how many times faster than NumPy. Picture: {PICTURE}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--classes"]:
        print_classes(*sys.argv[2:])
    else:
        main()
