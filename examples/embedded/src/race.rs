//! What is measured: each operation by this crate and by what one would write or link instead. Knows neither a board nor
//! a host: `bin/measure.rs` counts instructions on the one, `race_web.rs` lets the other count them.

use core::hint::black_box;

use polyglot_bridge::{Epilogue, Error, Matrix, gelu, layer_norm, linear, softmax};

#[cfg(feature = "cmsis")]
use crate::cmsis;
use crate::loops;

pub const LEN: usize = 256;
const INPUTS: usize = 64;
const OUTPUTS: usize = 32;

/// One run: who computes what.
pub struct Entry {
    pub who: &'static str,
    pub operation: &'static str,
    /// Elements, or multiply-adds.
    pub elements: usize,
    /// How far the results may be from those of the loops with `libm`, which come first.
    pub tolerance: f32,
    compute: fn(&mut [f32; LEN]) -> Result<(), Error>,
}

impl Entry {
    /// Computes what is counted, into an array of zeros: not every operation fills it.
    #[inline(never)]
    pub fn run(&self, out: &mut [f32; LEN]) -> Result<(), Error> {
        (self.compute)(out)
    }
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

/// The same weight with a row for each output, as CMSIS-DSP wants it.
#[cfg(feature = "cmsis")]
static TRANSPOSED: [f32; INPUTS * OUTPUTS] = {
    let mut values = [0.0; INPUTS * OUTPUTS];
    let mut at = 0;
    while at < INPUTS * OUTPUTS {
        values[at % OUTPUTS * INPUTS + at / OUTPUTS] = WEIGHT[at];
        at += 1;
    }
    values
};

/// So many inputs, channels or outputs. Inlined, so that loops may be compiled for the length that they get.
#[inline(always)]
fn some(len: usize) -> &'static [f32] {
    X.get(..len).unwrap_or_default()
}

const OURS: &str = "polyglot-bridge";

/// Loops with `libm` come before whatever is compared with them.
pub static ENTRIES: &[Entry] = &[
    Entry {
        who: "libm",
        operation: "softmax",
        elements: LEN,
        tolerance: 0.0,
        compute: |out| {
            loops::softmax(black_box(&X), out, libm::expf);
            Ok(())
        },
    },
    Entry {
        who: "micromath",
        operation: "softmax",
        elements: LEN,
        tolerance: 1e-3,
        compute: |out| {
            loops::softmax(black_box(&X), out, loops::micromath_exp);
            Ok(())
        },
    },
    #[cfg(feature = "cmsis")]
    Entry {
        who: "CMSIS-DSP",
        operation: "softmax",
        elements: LEN,
        tolerance: 1e-6,
        compute: |out| {
            cmsis::softmax(black_box(&X), out);
            Ok(())
        },
    },
    Entry {
        who: OURS,
        operation: "softmax",
        elements: LEN,
        tolerance: 1e-6,
        compute: |out| Ok(softmax(black_box(&X), &mut out[..])?),
    },
    Entry {
        who: "libm",
        operation: "layer_norm",
        elements: LEN,
        tolerance: 0.0,
        compute: |out| {
            loops::layer_norm(black_box(&X), some(LEN), some(LEN), 1e-5, out, libm::sqrtf);
            Ok(())
        },
    },
    Entry {
        who: "micromath",
        operation: "layer_norm",
        elements: LEN,
        tolerance: 0.1,
        compute: |out| {
            loops::layer_norm(black_box(&X), some(LEN), some(LEN), 1e-5, out, loops::micromath_sqrt);
            Ok(())
        },
    },
    #[cfg(feature = "cmsis")]
    Entry {
        who: "CMSIS-DSP",
        operation: "layer_norm",
        elements: LEN,
        tolerance: 1e-4,
        compute: |out| {
            cmsis::layer_norm(black_box(&X), some(LEN), some(LEN), 1e-5, out);
            Ok(())
        },
    },
    Entry {
        who: OURS,
        operation: "layer_norm",
        elements: LEN,
        tolerance: 1e-4,
        compute: |out| Ok(layer_norm(black_box(&X), Some(some(LEN)), Some(some(LEN)), 1e-5, &mut out[..])?),
    },
    Entry {
        who: "libm",
        operation: "gelu",
        elements: LEN,
        tolerance: 0.0,
        compute: |out| {
            loops::gelu(black_box(&X), out);
            Ok(())
        },
    },
    Entry {
        who: OURS,
        operation: "gelu",
        elements: LEN,
        tolerance: 1e-5,
        compute: |out| Ok(gelu(black_box(&X), &mut out[..])?),
    },
    Entry {
        who: "libm",
        operation: "linear",
        elements: INPUTS * OUTPUTS,
        tolerance: 0.0,
        compute: |out| {
            let out = out.get_mut(..OUTPUTS).unwrap_or_default();
            loops::linear(black_box(some(INPUTS)), &WEIGHT, some(OUTPUTS), out);
            Ok(())
        },
    },
    #[cfg(feature = "cmsis")]
    Entry {
        who: "CMSIS-DSP",
        operation: "linear",
        elements: INPUTS * OUTPUTS,
        tolerance: 1e-3,
        compute: |out| {
            let out = out.get_mut(..OUTPUTS).unwrap_or_default();
            cmsis::linear(some(INPUTS), black_box(&TRANSPOSED), some(OUTPUTS), out);
            Ok(())
        },
    },
    Entry {
        who: OURS,
        operation: "linear",
        elements: INPUTS * OUTPUTS,
        tolerance: 1e-3,
        compute: |out| {
            let weight = Matrix::new(black_box(&WEIGHT), INPUTS, OUTPUTS)?;
            let epilogue = Epilogue::new().bias(some(OUTPUTS));
            linear(some(INPUTS), weight, epilogue, out.get_mut(..OUTPUTS).unwrap_or_default())
        },
    },
];
