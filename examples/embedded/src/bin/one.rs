//! Calls one operation, the one that the environment variable OPERATION names while this is compiled, or none: the
//! difference is what an operation takes of flash.
#![no_std]
#![no_main]

#[path = "../panic.rs"]
mod panic;

use core::hint::black_box;

use polyglot_bridge as pb;
use polyglot_bridge::{Activation, Epilogue, Mask, Matrix};

const LEN: usize = 64;

/// Compares two names while compiling.
const fn is(name: &str) -> bool {
    let Some(wanted) = option_env!("OPERATION") else { return false };
    let (a, b) = (name.as_bytes(), wanted.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

fn run() -> Result<(), pb::ShapeError> {
    let (x, mut out) = (black_box([1.0_f32; LEN]), [0.0_f32; LEN]);
    if const { is("softmax") } {
        pb::softmax(&x, &mut out)?;
    }
    if const { is("log_softmax") } {
        pb::log_softmax(&x, &mut out)?;
    }
    if const { is("layer_norm") } {
        pb::layer_norm(&x, Some(&x), Some(&x), 1e-5, &mut out)?;
    }
    if const { is("rms_norm") } {
        pb::rms_norm(&x, Some(&x), 1e-5, &mut out)?;
    }
    if const { is("relu") } {
        pb::relu(&x, &mut out)?;
    }
    if const { is("sigmoid") } {
        pb::sigmoid(&x, &mut out)?;
    }
    if const { is("tanh") } {
        pb::tanh(&x, &mut out)?;
    }
    if const { is("silu") } {
        pb::silu(&x, &mut out)?;
    }
    if const { is("gelu") } {
        pb::gelu(&x, &mut out)?;
    }
    if const { is("gelu_tanh") } {
        pb::gelu_tanh(&x, &mut out)?;
    }
    if const { is("scale") } {
        pb::scale(&x, 2.0, &mut out)?;
    }
    if const { is("dropout_add") } {
        pb::dropout_add(&x, &x, Mask::Multiply((&x).into()), 2.0, &mut out)?;
    }
    if const { is("sum_of_squares") } {
        out[0] = pb::sum_of_squares::<f32>(&x) as f32;
    }
    if const { is("linear") } {
        let weight = Matrix::new(&x, 8, 8)?;
        let epilogue = Epilogue::new().bias(&x[..8]).activation(Activation::Relu);
        pb::linear(&x[..8], weight, epilogue, &mut out[..8])?;
    }
    if const { is("linear_gelu") } {
        let weight = Matrix::new(&x, 8, 8)?;
        let epilogue = Epilogue::new().bias(&x[..8]).activation(Activation::Gelu);
        pb::linear(&x[..8], weight, epilogue, &mut out[..8])?;
    }
    if const { is("packed_linear") } {
        let layer = pb::PackedLinear::from_packed(&x, (4, 16), Some(&x[..16]), Activation::Relu)?;
        layer.forward(&x[..4], pb::Residual::None, &mut out[..16])?;
    }
    black_box(out);
    Ok(())
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let _ = run();
    loop {}
}
