//! The operations put together from CMSIS-DSP's functions for f32, which has none of them whole. A linear layer takes a
//! weight with a row for each output. `tools/embedded.py --cmsis FOLDER` compiles the library.

use libm::sqrtf;

#[repr(C)]
struct Matrix {
    rows: u16,
    cols: u16,
    values: *const f32,
}

unsafe extern "C" {
    fn arm_max_f32(x: *const f32, len: u32, max: *mut f32, index: *mut u32);
    fn arm_offset_f32(x: *const f32, offset: f32, out: *mut f32, len: u32);
    fn arm_vexp_f32(x: *const f32, out: *mut f32, len: u32);
    fn arm_accumulate_f32(x: *const f32, len: u32, sum: *mut f32);
    fn arm_scale_f32(x: *const f32, factor: f32, out: *mut f32, len: u32);
    fn arm_mean_f32(x: *const f32, len: u32, mean: *mut f32);
    fn arm_power_f32(x: *const f32, len: u32, sum: *mut f32);
    fn arm_mult_f32(a: *const f32, b: *const f32, out: *mut f32, len: u32);
    fn arm_add_f32(a: *const f32, b: *const f32, out: *mut f32, len: u32);
    fn arm_mat_vec_mult_f32(matrix: *const Matrix, x: *const f32, out: *mut f32);
}

#[inline(never)]
pub fn softmax(x: &[f32], out: &mut [f32]) {
    let (len, out) = (x.len().min(out.len()) as u32, out.as_mut_ptr());
    let (mut max, mut at, mut sum) = (0.0, 0, 0.0);
    // SAFETY: both have `len` elements; the functions may work in place.
    unsafe {
        arm_max_f32(x.as_ptr(), len, &raw mut max, &raw mut at);
        arm_offset_f32(x.as_ptr(), -max, out, len);
        arm_vexp_f32(out, out, len);
        arm_accumulate_f32(out, len, &raw mut sum);
        arm_scale_f32(out, 1.0 / sum, out, len);
    }
}

#[inline(never)]
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let len = x.len().min(out.len()).min(weight.len()).min(bias.len()) as u32;
    let out = out.as_mut_ptr();
    let (mut mean, mut sum) = (0.0, 0.0);
    // SAFETY: all have `len` elements; the functions may work in place.
    unsafe {
        arm_mean_f32(x.as_ptr(), len, &raw mut mean);
        arm_offset_f32(x.as_ptr(), -mean, out, len);
        arm_power_f32(out, len, &raw mut sum);
        arm_scale_f32(out, 1.0 / sqrtf(sum / len as f32 + eps), out, len);
        arm_mult_f32(out, weight.as_ptr(), out, len);
        arm_add_f32(out, bias.as_ptr(), out, len);
    }
}

#[inline(never)]
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    let (rows, cols) = (bias.len().min(out.len()), x.len());
    assert!(rows * cols <= weight.len(), "a row for each output");
    let matrix = Matrix { rows: rows as u16, cols: cols as u16, values: weight.as_ptr() };
    // SAFETY: the lengths were just compared; the function reads the matrix, no more.
    unsafe {
        arm_mat_vec_mult_f32(&raw const matrix, x.as_ptr(), out.as_mut_ptr());
        arm_add_f32(out.as_ptr(), bias.as_ptr(), out.as_mut_ptr(), rows as u32);
    }
}
