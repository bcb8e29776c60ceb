//! A pipeline of rayon's over batches of rows: normalise, multiply, softmax. Over many small batches rayon spreads the
//! batches, and each call stays on its worker; over few large ones a call takes the workers that have nothing to do.
//! The numbers are the same bits either way.
//!
//!     cargo run --release --features parallel --example rayon_pipeline

use std::time::Instant;

use polyglot_bridge::{Activation, Error, Matrix, MatrixMut, PackedLinear, Residual, layer_norm, softmax_in_place};
use rayon::prelude::*;

const IN: usize = 256;
const OUT: usize = 64;
const ROWS: usize = 1 << 14;

struct Model {
    layer: PackedLinear<'static, f32>,
}

impl Model {
    /// Reads `rows` rows of `x`, gives as many of results.
    fn run(&self, x: &[f32]) -> Result<Vec<f32>, Error> {
        let rows = x.len() / IN;
        let mut normal = vec![0.0; x.len()];
        layer_norm(Matrix::new(x, rows, IN)?, None, None, 1e-5, MatrixMut::new(&mut normal, rows, IN)?)?;
        let mut out = vec![0.0; rows * OUT];
        self.layer.forward(Matrix::new(&normal, rows, IN)?, Residual::None, MatrixMut::new(&mut out, rows, OUT)?)?;
        softmax_in_place(MatrixMut::new(&mut out, rows, OUT)?)?;
        Ok(out)
    }
}

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let weight = numbers(IN * OUT, 1);
    let model = Model { layer: PackedLinear::new(Matrix::new(&weight, IN, OUT)?, None, Activation::Gelu)? };
    let x = numbers(ROWS * IN, 2);
    println!(
        "{ROWS} rows of {IN}, pool of {} threads, {} a call",
        rayon::current_num_threads(),
        polyglot_bridge::num_threads()
    );
    let mut results = Vec::new();
    for (name, rows) in [("many small batches", 16), ("few large batches", ROWS / 2)] {
        let mut best = f64::INFINITY;
        let mut all = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            all = x.par_chunks(rows * IN).map(|batch| model.run(batch)).collect::<Result<Vec<_>, _>>()?.concat();
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{name:>20}: {:>5} of {rows:>5} rows, {:>7.2} ms", ROWS / rows, best * 1e3);
        results.push(all);
    }
    assert!(results[0] == results[1], "the same rows give the same bits in any batch");
    Ok(())
}
