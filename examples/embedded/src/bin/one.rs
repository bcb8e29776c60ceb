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

fn run() -> Result<(), pb::Error> {
    let (x, mut out) = ([1.0_f32; LEN], [0.0_f32; LEN]);
    // No length is known while compiling, or code would be left out that a program needs in general.
    let (x, out, eight) = (black_box(&x[..]), black_box(&mut out[..]), black_box(8));
    let row = x.get(..eight).unwrap_or_default();
    if const { is("softmax") } {
        pb::softmax(x, &mut *out)?;
    }
    if const { is("log_softmax") } {
        pb::log_softmax(x, &mut *out)?;
    }
    if const { is("layer_norm") } {
        pb::layer_norm(x, Some(x), Some(x), 1e-5, &mut *out)?;
    }
    if const { is("rms_norm") } {
        pb::rms_norm(x, Some(x), 1e-5, &mut *out)?;
    }
    if const { is("relu") } {
        pb::relu(x, &mut *out)?;
    }
    if const { is("sigmoid") } {
        pb::sigmoid(x, &mut *out)?;
    }
    if const { is("tanh") } {
        pb::tanh(x, &mut *out)?;
    }
    if const { is("silu") } {
        pb::silu(x, &mut *out)?;
    }
    if const { is("gelu") } {
        pb::gelu(x, &mut *out)?;
    }
    if const { is("gelu_tanh") } {
        pb::gelu_tanh(x, &mut *out)?;
    }
    if const { is("scale") } {
        pb::scale(x, 2.0, &mut *out)?;
    }
    if const { is("dropout_add") } {
        pb::dropout_add(x, x, Mask::Multiply(x.into()), 2.0, &mut *out)?;
    }
    if const { is("sum_of_squares") } {
        black_box(pb::sum_of_squares::<f32>(x));
    }
    if const { is("linear") } {
        let weight = Matrix::new(x, eight, eight)?;
        let epilogue = Epilogue::new().bias(row).activation(Activation::Relu);
        pb::linear(row, weight, epilogue, out.get_mut(..eight).unwrap_or_default())?;
    }
    if const { is("linear_gelu") } {
        let weight = Matrix::new(x, eight, eight)?;
        let epilogue = Epilogue::new().bias(row).activation(Activation::Gelu);
        pb::linear(row, weight, epilogue, out.get_mut(..eight).unwrap_or_default())?;
    }
    if const { is("packed_linear") } {
        let layer = pb::PackedLinear::from_packed(x, (black_box(4), eight), Some(row), Activation::Relu)?;
        layer.forward(
            x.get(..black_box(4)).unwrap_or_default(),
            pb::Residual::None,
            out.get_mut(..eight).unwrap_or_default(),
        )?;
    }
    Ok(())
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let _ = run();
    loop {}
}
