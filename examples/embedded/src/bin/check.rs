//! Checks operations against plain loops in f64, on the target itself: kernels take other ways there than on CPUs with
//! vectors. Prints each that is wrong.
#![no_std]
#![no_main]

#[path = "../board.rs"]
mod board;

use board::Board;
use polyglot_bridge::{
    Activation, Epilogue, Error, Matrix, ShapeError, activate, layer_norm, linear, log_softmax, rms_norm, softmax,
    softmax_in_place,
};

const LEN: usize = 300;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Numbers between -1 and 1 in no order, the same in each run.
fn fill(values: &mut [f32], mut seed: u32) {
    for value in values {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = (seed >> 8) as f32 * (2.0 / 16_777_216.0) - 1.0;
    }
}

struct Checks {
    board: Board,
    wrong: u32,
    done: u32,
}

impl Checks {
    /// `out` against `expected`, to a few units in the last place of the largest.
    fn expect(&mut self, name: &str, len: usize, out: &[f32], expected: impl Fn(usize) -> f64) {
        self.done += 1;
        let right = out.iter().enumerate().all(|(index, &value)| {
            let expected = expected(index);
            let error = f64::from(value) - expected;
            // Beyond f32 is infinity.
            let is_same = value == expected as f32 || value.is_nan() && expected.is_nan();
            is_same || error.abs() <= 1e-6 + 4e-6 * expected.abs()
        });
        if !right {
            self.wrong += 1;
            self.board.print("WRONG ");
            self.board.print(name);
            self.board.print(" of ");
            self.board.print_number(len as u64);
            self.board.print("\n");
        }
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut checks = Checks { board: Board::new(), wrong: 0, done: 0 };
    let result = run(&mut checks);
    checks.board.print_number(u64::from(checks.done));
    checks.board.print(" checks\n");
    let right = checks.wrong == 0 && result.is_ok();
    checks.board.exit(right)
}

fn run(checks: &mut Checks) -> Result<(), Error> {
    let (mut weight, mut bias, mut x, mut out) = ([0.0; LEN], [0.0; LEN], [0.0; LEN], [0.0; LEN]);
    fill(&mut weight, 1);
    fill(&mut bias, 2);
    for len in [0, 1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 64, 65, 127, 128, 129, 191, 255, 256, 257, 300] {
        // Near zero, far from it, far beyond what squares of f32 hold, far below, rows of one value, an outlier.
        for (factor, shift) in
            [(3.0, 0.0), (1.0, 1e4), (1e20, 0.0), (3e38, 0.0), (1e-30, 0.0), (0.0, 0.3), (0.0, 1e30), (1.0, f32::MAX)]
        {
            let (x, out) = (&mut x[..len], &mut out[..len]);
            fill(x, len as u32 + 3);
            for value in &mut *x {
                *value = *value * factor + if shift == f32::MAX { 0.0 } else { shift };
            }
            if shift == f32::MAX
                && let Some(first) = x.first_mut()
            {
                *first = 1e7;
            }
            let (weight, bias) = (&weight[..len], &bias[..len]);
            row_operations(checks, x, weight, bias, out)?;
            if factor == 3.0 {
                elements(checks, x, out)?;
                not_finite(checks, x, weight, out)?;
            }
        }
    }
    products(checks)
}

fn row_operations(
    checks: &mut Checks,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let len = x.len();
    let count = len as f64;
    let wide = |index: usize| f64::from(x[index]);
    let max = (0..len).map(wide).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = (0..len).map(|index| libm::exp(wide(index) - max)).sum();
    softmax(x, &mut *out)?;
    checks.expect("softmax", len, out, |index| libm::exp(wide(index) - max) / sum);
    log_softmax(x, &mut *out)?;
    checks.expect("log_softmax", len, out, |index| wide(index) - max - libm::log(sum));
    out.copy_from_slice(x);
    softmax_in_place(&mut *out)?;
    checks.expect("softmax_in_place", len, out, |index| libm::exp(wide(index) - max) / sum);

    let mean = (0..len).map(wide).sum::<f64>() / count;
    let variance = (0..len).map(|index| (wide(index) - mean) * (wide(index) - mean)).sum::<f64>() / count;
    // The spread of rows far from zero is known as well as f32 holds them; their mean squared is in f64.
    let factor = if variance == 0.0 { 0.0 } else { 1.0 / libm::sqrt(variance) };
    let is_level = x.windows(2).all(|pair| pair[0] == pair[1]);
    let normal = |index: usize| if is_level { 0.0 } else { (wide(index) - mean) * factor };
    layer_norm(x, Some(weight), Some(bias), 0.0, &mut *out)?;
    checks.expect("layer_norm", len, out, |index| normal(index) * f64::from(weight[index]) + f64::from(bias[index]));
    layer_norm(x, None, None, 0.0, &mut *out)?;
    checks.expect("layer_norm without weight", len, out, normal);
    layer_norm(x, Some(weight), None, 0.0, &mut *out)?;
    checks.expect("layer_norm without bias", len, out, |index| normal(index) * f64::from(weight[index]));
    layer_norm(x, None, Some(bias), 0.0, &mut *out)?;
    checks.expect("layer_norm with a bias", len, out, |index| normal(index) + f64::from(bias[index]));

    let square = (0..len).map(|index| wide(index) * wide(index)).sum::<f64>() / count;
    let factor = if square == 0.0 { 0.0 } else { 1.0 / libm::sqrt(square) };
    rms_norm(x, Some(weight), 0.0, &mut *out)?;
    checks.expect("rms_norm", len, out, |index| wide(index) * factor * f64::from(weight[index]));
    Ok(())
}

/// A row that is not finite gives NaN throughout.
fn not_finite(checks: &mut Checks, x: &mut [f32], weight: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let middle = x.len() / 2;
        let Some(former) = x.get_mut(middle) else { return Ok(()) };
        let former = core::mem::replace(former, value);
        layer_norm(&*x, Some(weight), Some(weight), 0.1, &mut *out)?;
        checks.expect("layer_norm of what is not finite", x.len(), out, |_| f64::NAN);
        rms_norm(&*x, None, 0.1, &mut *out)?;
        checks.expect("rms_norm of what is not finite", x.len(), out, |_| f64::NAN);
        x[middle] = former;
    }
    Ok(())
}

fn elements(checks: &mut Checks, x: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    let functions: [(Activation, fn(f64) -> f64); 5] = [
        (Activation::Sigmoid, |x| 1.0 / (1.0 + libm::exp(-x))),
        (Activation::Tanh, libm::tanh),
        (Activation::Silu, |x| x / (1.0 + libm::exp(-x))),
        (Activation::Gelu, |x| 0.5 * x * libm::erfc(-x * core::f64::consts::FRAC_1_SQRT_2)),
        (Activation::Relu, |x| if x > 0.0 { x } else { 0.0 }),
    ];
    for (activation, function) in functions {
        activate(activation, x, &mut *out)?;
        checks.expect(activation.name(), x.len(), out, |index| function(f64::from(x[index])));
    }
    Ok(())
}

fn products(checks: &mut Checks) -> Result<(), Error> {
    let (mut x, mut weight, mut out) = ([0.0; 40], [0.0; 40 * 37], [0.0; 37]);
    fill(&mut x, 5);
    fill(&mut weight, 6);
    for (k, n) in [(0, 3), (1, 1), (7, 5), (16, 16), (40, 17), (39, 33), (40, 37)] {
        let (x, out) = (&x[..k], &mut out[..n]);
        let matrix = Matrix::new(&weight[..k * n], k, n)?;
        linear(x, matrix, Epilogue::new().activation(Activation::Relu), &mut *out)?;
        checks.expect("linear", k * n, out, |col| {
            let sum: f64 = (0..k).map(|row| f64::from(x[row]) * f64::from(weight[row * n + col])).sum();
            if sum > 0.0 { sum } else { 0.0 }
        });
        // The same numbers as a matrix of the other shape, transposed.
        let matrix = Matrix::new(&weight[..k * n], n, k)?.transpose();
        linear(x, matrix, Epilogue::new(), &mut *out)?;
        checks.expect("linear, transposed", k * n, out, |col| {
            (0..k).map(|row| f64::from(x[row]) * f64::from(weight[col * k + row])).sum()
        });
    }
    Ok(())
}
