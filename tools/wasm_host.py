"""Runs a WebAssembly module of examples/embedded in wasmtime, for tools/embedded.py.

`wasm_host.py classify MODULE` prints the class of each test digit; `wasm_host.py measure MODULE` a line for each entry
of the race: who, operation, instructions, elements, and WRONG where its results are not those of the first.
"""

import struct
import sys

import wasmtime

PLENTY = 1 << 62


class Module:
    """A module that runs, and what its instructions are counted with: one unit of fuel is one instruction, those that
    only give structure excepted."""

    def __init__(self, path):
        config = wasmtime.Config()
        config.consume_fuel = True
        self.store = wasmtime.Store(wasmtime.Engine(config))
        module = wasmtime.Module.from_file(self.store.engine, path)
        self.exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        self.store.set_fuel(PLENTY)

    def call(self, name, *arguments):
        return self.exports[name](self.store, *arguments)

    def count(self, name, *arguments):
        before = self.store.get_fuel()
        result = self.call(name, *arguments)
        return result, before - self.store.get_fuel()

    def read(self, start, count):
        return self.exports["memory"].read(self.store, start, start + count)

    def write(self, start, values):
        self.exports["memory"].write(self.store, values, start)


def classify(module):
    for index in range(module.call("digits")):
        print(module.call("classify", index))


def measure(module):
    place, count = module.call("results"), module.call("len")
    expected = ()
    for index in range(module.call("entries")):
        who, operation = (
            bytes(module.read(module.call("text_start", index, what), module.call("text_len", index, what))).decode()
            for what in (0, 1)
        )
        module.write(place, bytes(4 * count))
        ran, instructions = module.count("run", index)
        results = struct.unpack(f"<{count}f", module.read(place, 4 * count))
        if who == "libm":
            expected = results
        allowed = module.call("tolerance", index)
        right = ran and all(abs(a - b) <= allowed for a, b in zip(results, expected, strict=True))
        print(who, operation, instructions, module.call("elements", index), *([] if right else ["WRONG"]))


if __name__ == "__main__":
    {"classify": classify, "measure": measure}[sys.argv[1]](Module(sys.argv[2]))
