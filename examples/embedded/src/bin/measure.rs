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
const fn numbers<const COUNT: usize>(mut seed: u32) -> [f32; COUNT] {
    let mut values = [0.0; COUNT];
    let mut at = 0;
    while at < COUNT {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        values[at] = (seed >> 8) as f32 * (8.0 / 16_777_216.0) - 4.0;
        at += 1;
    }
    values
}

static X: [f32; LEN] = numbers(1);
static WEIGHT: [f32; INPUTS * OUTPUTS] = numbers(2);

struct Race {
    board: Board,
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
        out: [0.0; LEN],
        expected: [0.0; LEN],
        right: true,
    };
    let result = compare(&mut race);
    let right = race.right && result.is_ok();
    race.board.exit(right)
}

fn compare(race: &mut Race) -> Result<(), ShapeError> {
    let mut result = Ok(());
    race.run("libm", "softmax", LEN, 0.0, |r| loops::softmax(black_box(&X), &mut r.out, libm::expf));
    race.run("micromath", "softmax", LEN, 1e-3, |r| loops::softmax(black_box(&X), &mut r.out, loops::micromath_exp));
    race.run("polyglot-bridge", "softmax", LEN, 1e-6, |r| result = softmax(black_box(&X), &mut r.out));
    result?;
    race.run("libm", "layer_norm", LEN, 0.0, |r| {
        loops::layer_norm(black_box(&X), &WEIGHT, &WEIGHT, 1e-5, &mut r.out, libm::sqrtf);
    });
    race.run("micromath", "layer_norm", LEN, 0.1, |r| {
        loops::layer_norm(black_box(&X), &WEIGHT, &WEIGHT, 1e-5, &mut r.out, loops::micromath_sqrt);
    });
    race.run("polyglot-bridge", "layer_norm", LEN, 1e-4, |r| {
        let weight = WEIGHT.get(..LEN);
        result = layer_norm(black_box(&X), weight, weight, 1e-5, &mut r.out);
    });
    result?;
    race.run("libm", "gelu", LEN, 0.0, |r| loops::gelu(black_box(&X), &mut r.out));
    race.run("polyglot-bridge", "gelu", LEN, 1e-5, |r| result = gelu(black_box(&X), &mut r.out));
    result?;
    let macs = INPUTS * OUTPUTS;
    race.out = [0.0; LEN];
    race.run("libm", "linear", macs, 0.0, |r| {
        loops::linear(black_box(&X[..INPUTS]), &WEIGHT, &X[..OUTPUTS], &mut r.out[..OUTPUTS]);
    });
    race.run("polyglot-bridge", "linear", macs, 1e-3, |r| {
        result = Matrix::new(black_box(&WEIGHT), INPUTS, OUTPUTS).and_then(|weight| {
            linear(&X[..INPUTS], weight, Epilogue::new().bias(&X[..OUTPUTS]), &mut r.out[..OUTPUTS])
        });
    });
    result
}
