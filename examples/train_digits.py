"""Trains the digit classifier whose weights lie in examples/digits/, and writes them. NumPy only; half a minute.

    pip install numpy scikit-learn
    python examples/train_digits.py

The held-out test images are not looked at before the last line. The seed is fixed: on one machine the same run gives
the same weights; another machine's BLAS may round differently and give others that are as good.
"""

from itertools import pairwise

import digits_data as data
import numpy as np

# Chosen by threefold cross-validation within the training images (99.1% of the left-out ones right).
EPOCHS = 300
BATCH = 64
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 0.1
SMOOTHING = 0.1


def forward(layers, x):
    """The activations of every layer, the class scores (before softmax) last."""
    activations = [x]
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if number < len(layers) - 1:
            x = np.maximum(x, 0)
        activations.append(x)
    return activations


def gradients(layers, x, classes):
    """Of the cross-entropy with smoothed labels, by backpropagation."""
    activations = forward(layers, x)
    scores = activations[-1]
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    wanted = np.full(scores.shape, SMOOTHING / scores.shape[1])
    wanted[np.arange(len(classes)), classes] += 1 - SMOOTHING
    back = (exps / exps.sum(axis=1, keepdims=True) - wanted) / len(classes)
    result = []
    for number in reversed(range(len(layers))):
        inputs = activations[number]
        result.append((inputs.T @ back, back.sum(axis=0)))
        back = (back @ layers[number][0].T) * (inputs > 0)
    return result[::-1]


def shifted(pixels, rng):
    """Half of the images as they are, half moved by up to one pixel each way, as another writer might place them."""
    images = np.pad(pixels.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    down, across = rng.integers(0, 3, (2, len(images), 1, 1))
    rows = np.arange(8).reshape(1, 8, 1) + down
    cols = np.arange(8).reshape(1, 1, 8) + across
    moved = images[np.arange(len(images)).reshape(-1, 1, 1), rows, cols].reshape(-1, 64)
    return np.where(rng.random((len(images), 1)) < 0.5, moved, pixels)


def train(pixels, classes):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), the rate falling to 0 along a cosine."""
    rng = np.random.default_rng(2024)
    layers = [
        (rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)), np.zeros(outputs))
        for inputs, outputs in pairwise(data.WIDTHS)
    ]
    means = [[np.zeros_like(part) for part in layer] for layer in layers]
    squares = [[np.zeros_like(part) for part in layer] for layer in layers]
    steps = EPOCHS * (len(pixels) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(pixels))
        images = data.scaled(shifted(pixels, rng), np.float64)
        for batch in np.array_split(order, len(pixels) // BATCH):
            step += 1
            rate = LEARNING_RATE * (1 + np.cos(np.pi * step / steps)) / 2
            found = gradients(layers, images[batch], classes[batch])
            for layer, mean, square, gradient in zip(layers, means, squares, found):
                for part, m, s, g in zip(layer, mean, square, gradient):
                    m += 0.1 * (g - m)
                    s += 0.001 * (g * g - s)
                    m_hat, s_hat = m / (1 - 0.9**step), s / (1 - 0.999**step)
                    part -= rate * (m_hat / (np.sqrt(s_hat) + 1e-8) + (part.ndim == 2) * WEIGHT_DECAY * part)
    return layers


def accuracy(layers, pixels, classes):
    """The share of images put into their class."""
    scores = forward(layers, data.scaled(pixels, np.float64))[-1]
    return np.mean(scores.argmax(axis=1) == classes)


def main():
    pixels, classes, test_pixels, test_classes = data.split()
    trained = train(pixels, classes)
    rounded = [tuple(part.astype(np.float16).astype(np.float64) for part in layer) for layer in trained]
    data.save_weights(rounded)
    data.save_test_set(test_pixels, test_classes)
    print(f"trained on {len(pixels)} images: {accuracy(rounded, pixels, classes):.2%} of them right")
    print(f"weights rounded to float16: {data.WEIGHTS} ({data.WEIGHTS.stat().st_size} bytes)")
    print(f"held-out test images: {accuracy(rounded, test_pixels, test_classes):.2%} of {len(test_pixels)} right")


if __name__ == "__main__":
    main()
