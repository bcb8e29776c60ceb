//! The results of every operation, each folded into one number: what a build without std and one with it must agree on
//! at the same CPU level. main.rs prints them, and tests/same_bits.rs of the crate compares them with its own.

use polyglot_bridge::{
    Activation, AttentionOptions, Compute, Epilogue, Error, Float, Mask, Matrix, MatrixMut, PackedLinear, Residual,
    activate, add_layer_norm, attention, dropout_add, embedding, l2_normalize, layer_norm, linear, log_softmax, matmul,
    mean_pool, rms_norm, scale, softmax, sum_of_squares,
};

/// A prime number of rows' elements: more than a block, and no multiple of a vector.
const LEN: usize = 307;
const OUT: usize = 19;

/// The same numbers in each run, between -6 and 6 (xorshift64*, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn fill<T: Float>(&mut self, values: &mut [T]) {
        for value in values {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let unit = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64;
            *value = T::from_acc(Compute::from_f64(12.0 * unit - 6.0));
        }
    }
}

/// The values' bits, folded into one number (FNV-1a, Fowler, Noll and Vo).
fn fold<T: Float>(values: &[T]) -> u64 {
    values.iter().fold(0xcbf2_9ce4_8422_2325, |hash, value| {
        (hash ^ value.to_acc().into_f64().to_bits()).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    })
}

/// How many of x86's levels the one in force includes.
pub(crate) fn level() -> u64 {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        let level = polyglot_bridge::simd::level();
        let included = [
            level.as_sse2().is_some(),
            level.as_sse4_2().is_some(),
            level.as_avx2().is_some(),
            level.as_avx512().is_some(),
        ];
        return included.into_iter().map(u64::from).sum();
    }
    #[allow(unreachable_code, reason = "reached on every other target")]
    0
}

/// Gives `report` each operation's name and its results' number.
pub(crate) fn of_operations<T: Float>(mut report: impl FnMut(&str, u64)) -> Result<(), Error> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut x, mut other, mut weight, mut bias) =
        ([T::ZERO; LEN], [T::ZERO; LEN], [T::ZERO; LEN * OUT], [T::ZERO; OUT]);
    numbers.fill(&mut x);
    numbers.fill(&mut other);
    numbers.fill(&mut weight);
    numbers.fill(&mut bias);
    let factor = <T::Acc as Compute>::from_f64(0.3);
    let mut out = [T::ZERO; LEN];

    softmax(&x, &mut out)?;
    report("softmax", fold(&out));
    log_softmax(&x, &mut out)?;
    report("log_softmax", fold(&out));
    layer_norm(&x, Some(&other), Some(&other), factor, &mut out)?;
    report("layer_norm", fold(&out));
    rms_norm(&x, Some(&other), factor, &mut out)?;
    report("rms_norm", fold(&out));
    for activation in Activation::ALL {
        activate(activation, &x, &mut out)?;
        report(activation.name(), fold(&out));
    }
    scale(&x, factor, &mut out)?;
    report("scale", fold(&out));
    dropout_add(&x, &other, Mask::Multiply((&x).into()), factor, &mut out)?;
    report("dropout_add", fold(&out));
    report("sum_of_squares", sum_of_squares::<T>(&x).to_bits());

    let weight = Matrix::new(&weight, LEN, OUT)?;
    let mut product = [T::ZERO; 2 * OUT];
    let mut two = [T::ZERO; 2 * LEN];
    two[..LEN].copy_from_slice(&x);
    two[LEN..].copy_from_slice(&other);
    let two = Matrix::new(&two, 2, LEN)?;
    matmul(two, weight, MatrixMut::new(&mut product, 2, OUT)?)?;
    report("matmul", fold(&product));
    // More rows take another way than few.
    let (mut five, mut products) = ([T::ZERO; 5 * LEN], [T::ZERO; 5 * OUT]);
    numbers.fill(&mut five);
    matmul(Matrix::new(&five, 5, LEN)?, weight, MatrixMut::new(&mut products, 5, OUT)?)?;
    report("matmul of five rows", fold(&products));
    // Over its residual, which is the product.
    let epilogue = Epilogue::new().bias(&bias[..]).activation(Activation::Gelu).residual(Residual::Out);
    linear(two, weight, epilogue, MatrixMut::new(&mut product, 2, OUT)?)?;
    report("linear", fold(&product));
    for activation in Activation::ALL {
        linear(two, weight, Epilogue::new().activation(activation), MatrixMut::new(&mut product, 2, OUT)?)?;
        report("linear with an activation", fold(&product));
    }

    // At most two panels, of at most 32 columns.
    let mut panels = [T::ZERO; LEN * 64];
    PackedLinear::<T>::pack_into(&mut panels, weight)?;
    let packed = PackedLinear::from_packed(&panels, (LEN, OUT), None, Activation::Silu)?;
    packed.forward(two, Residual::None, MatrixMut::new(&mut product, 2, OUT)?)?;
    report("packed linear", fold(&product));

    l2_normalize(&x, &mut out)?;
    report("l2_normalize", fold(&out));
    // The sums of longer rows of two bytes are rounded in between without std.
    add_layer_norm(&x[..61], &other[..61], Some(&other[..61]), None, factor, &mut out[..61])?;
    report("add_layer_norm", fold(&out[..61]));
    embedding(&[(two, &[1]), (two, &[0])], &mut out)?;
    report("embedding", fold(&out));
    // 43 tokens of 7 features each, some of them left out.
    let tokens = Matrix::new(&x, 43, 7)?;
    let mut keep = [true; 43];
    keep[5..9].fill(false);
    mean_pool(tokens, Some((&keep).into()), &mut out[..7])?;
    report("mean_pool", fold(&out[..7]));
    // More than 16 keys are gone over in smaller blocks without std.
    let (queries, keys, tokens) = (Matrix::new(&other, 21, 7)?, Matrix::new(&other, 13, 7)?, tokens.block(0..13, 0..7));
    attention(queries, keys, tokens, AttentionOptions::new(), MatrixMut::new(&mut out[..147], 21, 7)?)?;
    report("attention", fold(&out[..147]));
    attention(queries, keys, tokens, AttentionOptions::new().causal(true), MatrixMut::new(&mut out[..147], 21, 7)?)?;
    report("attention, causal", fold(&out[..147]));
    Ok(())
}
