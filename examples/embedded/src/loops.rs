//! The same operations as plain loops, as one would write them without a library: what the crate is compared with.

use micromath::F32Ext;

#[inline(never)]
pub fn softmax(x: &[f32], out: &mut [f32], exp: impl Fn(f32) -> f32) {
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let mut sum = 0.0;
    for (out, &x) in out.iter_mut().zip(x) {
        *out = exp(x - max);
        sum += *out;
    }
    for out in out {
        *out /= sum;
    }
}

#[inline(never)]
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32], sqrt: impl Fn(f32) -> f32) {
    let count = x.len() as f32;
    let mean = x.iter().sum::<f32>() / count;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    let factor = 1.0 / sqrt(variance + eps);
    for (((out, &x), &weight), &bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * factor * weight + bias;
    }
}

#[inline(never)]
pub fn gelu(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = 0.5 * x * (1.0 + libm::erff(x * core::f32::consts::FRAC_1_SQRT_2));
    }
}

/// `weight` has a row for each input and a column for each output.
#[inline(never)]
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    out.copy_from_slice(bias);
    for (&x, row) in x.iter().zip(weight.chunks_exact(bias.len())) {
        for (out, &weight) in out.iter_mut().zip(row) {
            *out += x * weight;
        }
    }
}

#[inline(always)]
pub fn micromath_exp(x: f32) -> f32 {
    F32Ext::exp(x)
}

#[inline(always)]
pub fn micromath_sqrt(x: f32) -> f32 {
    F32Ext::sqrt(x)
}
