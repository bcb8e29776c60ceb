//! Counts the instructions that operations take an element, beside plain loops that do the same with `libm` and with
//! `micromath`. Prints a line for each: who, operation, instructions of one call, elements.
#![no_std]
#![no_main]

#[path = "../board.rs"]
mod board;
#[path = "../loops.rs"]
mod loops;

use core::hint::black_box;

use board::Board;
use polyglot_bridge::{Epilogue, Matrix, ShapeError, gelu, layer_norm, linear, softmax};

const LEN: usize = 256;
const INPUTS: usize = 64;
const OUTPUTS: usize = 32;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Numbers between -4 and 4 in no order.
fn fill(values: &mut [f32], mut seed: u32) {
    for value in values {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = (seed >> 8) as f32 * (8.0 / 16_777_216.0) - 4.0;
    }
}

struct Race {
    board: Board,
    x: [f32; LEN],
    weight: [f32; INPUTS * OUTPUTS],
    out: [f32; LEN],
    expected: [f32; LEN],
    right: bool,
}

impl Race {
    /// Runs one operation and prints what it took. What it wrote must be what the first of its kind wrote.
    #[inline(never)]
    fn run(&mut self, who: &str, operation: &str, elements: usize, tolerance: f32, body: impl FnOnce(&mut Self)) {
        let instructions = board::count(|| body(self));
        for part in [who, " ", operation, " "] {
            self.board.print(part);
        }
        self.board.print_number(instructions);
        self.board.print(" ");
        self.board.print_number(elements as u64);
        if tolerance == 0.0 {
            self.expected = self.out;
        } else if !self.out.iter().zip(&self.expected).all(|(a, b)| (a - b).abs() <= tolerance) {
            self.board.print(" WRONG");
            self.right = false;
        }
        self.board.print("\n");
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut race = Race {
        board: Board::new(),
        x: [0.0; LEN],
        weight: [0.0; INPUTS * OUTPUTS],
        out: [0.0; LEN],
        expected: [0.0; LEN],
        right: true,
    };
    fill(&mut race.x, 1);
    fill(&mut race.weight, 2);
    let result = compare(&mut race);
    let right = race.right && result.is_ok();
    race.board.exit(right)
}

fn compare(race: &mut Race) -> Result<(), ShapeError> {
    let mut result = Ok(());
    race.run("libm", "softmax", LEN, 0.0, |r| loops::softmax(black_box(&r.x), &mut r.out, libm::expf));
    race.run("micromath", "softmax", LEN, 1e-3, |r| loops::softmax(black_box(&r.x), &mut r.out, loops::micromath_exp));
    race.run("polyglot-bridge", "softmax", LEN, 1e-6, |r| result = softmax(black_box(&r.x), &mut r.out));
    result?;
    race.run("libm", "layer_norm", LEN, 0.0, |r| {
        loops::layer_norm(black_box(&r.x), &r.weight, &r.weight, 1e-5, &mut r.out, libm::sqrtf);
    });
    race.run("micromath", "layer_norm", LEN, 0.1, |r| {
        loops::layer_norm(black_box(&r.x), &r.weight, &r.weight, 1e-5, &mut r.out, loops::micromath_sqrt);
    });
    race.run("polyglot-bridge", "layer_norm", LEN, 1e-4, |r| {
        let weight = r.weight.get(..LEN);
        result = layer_norm(black_box(&r.x), weight, weight, 1e-5, &mut r.out);
    });
    result?;
    race.run("libm", "gelu", LEN, 0.0, |r| loops::gelu(black_box(&r.x), &mut r.out));
    race.run("polyglot-bridge", "gelu", LEN, 1e-5, |r| result = gelu(black_box(&r.x), &mut r.out));
    result?;
    let macs = INPUTS * OUTPUTS;
    race.out = [0.0; LEN];
    race.run("libm", "linear", macs, 0.0, |r| {
        loops::linear(black_box(&r.x[..INPUTS]), &r.weight, &r.x[..OUTPUTS], &mut r.out[..OUTPUTS]);
    });
    race.run("polyglot-bridge", "linear", macs, 1e-3, |r| {
        result = Matrix::new(black_box(&r.weight), INPUTS, OUTPUTS).and_then(|weight| {
            linear(&r.x[..INPUTS], weight, Epilogue::new().bias(&r.x[..OUTPUTS]), &mut r.out[..OUTPUTS])
        });
    });
    result
}
