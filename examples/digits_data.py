"""The digits, their split and the files in digits/: what the demo and the training share. No model lives here."""

from itertools import pairwise
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "digits"
WEIGHTS = HERE / "weights.f16"
TEST_SET = HERE / "test.u8"

# The network: 64 pixels, two hidden layers, 10 classes.
WIDTHS = (64, 128, 64, 10)


def split():
    """The 1,797 digits that scikit-learn ships, in two: (training pixels, classes, test pixels, classes).

    Pixels are 0 to 16. Of each class, in the data set's order, every fourth image is for testing: no seed to pick,
    the same split in any language, each class equally well held out.
    """
    # Only who asks for the data needs the package; a server that has the weights does not.
    from sklearn.datasets import load_digits

    digits = load_digits()
    testing = np.zeros(len(digits.target), dtype=bool)
    for digit in range(10):
        testing[np.flatnonzero(digits.target == digit)[3::4]] = True
    pixels = digits.data.astype(np.uint8)
    return pixels[~testing], digits.target[~testing], pixels[testing], digits.target[testing]


def scaled(pixels, dtype):
    """Pixels as the network takes them, 0 to 1: exact in every dtype, float16 included."""
    return (pixels / 16.0).astype(dtype)


def save_weights(layers):
    """Writes [(weight, bias), ...] in the layout that digits/README.md gives."""
    parts = [np.asarray(part, dtype="<f2").ravel() for layer in layers for part in layer]
    WEIGHTS.write_bytes(np.concatenate(parts).tobytes())


def load_weights(dtype):
    """Reads [(weight, bias), ...], weight (in, out); every value is a float16, so any dtype holds it exactly."""
    values = np.frombuffer(WEIGHTS.read_bytes(), dtype="<f2").astype(dtype)
    layers, at = [], 0
    for inputs, outputs in pairwise(WIDTHS):
        weight = values[at : at + inputs * outputs].reshape(inputs, outputs)
        at += weight.size
        layers.append((weight, values[at : at + outputs]))
        at += outputs
    if at != values.size:
        raise ValueError(f"{WEIGHTS} holds {values.size} values, a network of {WIDTHS} has {at}")
    return layers


def save_test_set(pixels, classes):
    """Writes one record of 65 bytes an image, 64 pixels and the class, for the Rust example."""
    records = np.column_stack([pixels, classes]).astype(np.uint8)
    TEST_SET.write_bytes(records.tobytes())
