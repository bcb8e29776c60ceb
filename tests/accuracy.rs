//! The functions of one number against references, within the bounds that ACCURACY.md states: it is read here. f32
//! against f64 functions of the C library and of `libm`, f64 against vectors that tools/reference_vectors.py wrote with
//! mpmath; f16 and bf16, each there is, like f32. All of it at each CPU level.
//!
//! Vectors were preferred to the crate rug: they need no C compiler and no GMP, so they run wherever the crate does, and
//! the hard inputs, once found, stay found. What rug could do beyond them, more random inputs, the f32 sweep does: the
//! f64 functions are the same source with other constants.

#[macro_use]
mod common;

use std::fmt::{self, Display};

use common::{
    LENGTHS, Layout, Op, Random, Storage, all_from_f64, all_to_f64, at_one_level, exponent, for_each_level, from_f64,
    levels, power_of_two, run, to_f64,
};
use fearless_simd::{Simd, SimdBase, dispatch};
use polyglot_bridge::simd::{self, Level};
use polyglot_bridge::{
    Activation, Compute, Matrix, MatrixMut, ShapeError, activate, activate_in_place, math, with_threads,
};

/// What a row of ACCURACY.md allows.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Ulps(f64),
    Absolute(f64),
}

/// Where a row of ACCURACY.md holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Everywhere,
    AboveMinusTwo,
    UpToMinusTwo,
    NormalSigmoid,
    SubnormalSigmoid,
}

impl Place {
    const ALL: [Self; 5] =
        [Self::Everywhere, Self::AboveMinusTwo, Self::UpToMinusTwo, Self::NormalSigmoid, Self::SubnormalSigmoid];

    /// What ACCURACY.md calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::AboveMinusTwo => "x > -2",
            Self::UpToMinusTwo => "x <= -2",
            Self::NormalSigmoid => "sigmoid(x) normal",
            Self::SubnormalSigmoid => "sigmoid(x) subnormal",
        }
    }

    fn contains(self, x: f64, least_exponent: i32) -> bool {
        // The largest x whose sigmoid, about e^x, is subnormal.
        let edge = f64::from(least_exponent) * std::f64::consts::LN_2;
        match self {
            Self::Everywhere => true,
            Self::AboveMinusTwo => x > -2.0,
            Self::UpToMinusTwo => x <= -2.0,
            Self::NormalSigmoid => x >= edge,
            Self::SubnormalSigmoid => x < edge,
        }
    }
}

/// The rows of ACCURACY.md's first table for one function and one type.
fn bounds(function: &str, column: usize) -> Vec<(Place, Bound)> {
    let table = include_str!("../ACCURACY.md").lines().skip_while(|line| !line.starts_with('|'));
    let mut found = Vec::new();
    for line in table.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells[1] != function || cells[column + 2].is_empty() {
            continue;
        }
        let place = Place::ALL.into_iter().find(|place| place.name() == cells[2]);
        let place = place.unwrap_or_else(|| panic!("ACCURACY.md: unknown place {}", cells[2]));
        let bound = match cells[column + 2].strip_prefix("2^") {
            Some(exponent) => Bound::Absolute(power_of_two(exponent.parse().expect("an exponent"))),
            None => Bound::Ulps(cells[column + 2].parse().expect("a number of ULP")),
        };
        found.push((place, bound));
    }
    assert!(!found.is_empty(), "ACCURACY.md has no row for {function}");
    found
}

/// The worst error found in one place.
#[derive(Clone, Copy, Debug)]
struct Worst {
    bound: Bound,
    place: Place,
    /// In the bound's unit.
    error: f64,
    input: f64,
    found: f64,
}

impl Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, input, found, place, .. } = self;
        match self.bound {
            Bound::Ulps(_) => write!(f, "{error:.3} ULP at {input:e} ({place:?}), where it gives {found:e}"),
            Bound::Absolute(_) => write!(f, "2^{:.2} at {input:e} ({place:?})", error.log2()),
        }
    }
}

/// A type that functions are checked in.
trait Checked: Storage {
    /// Its column in ACCURACY.md, after function and place.
    const COLUMN: usize;

    /// A function that is no operation on arrays.
    fn apply_function(function: &str, values: &mut [Self]);
}

impl Checked for f32 {
    const COLUMN: usize = 1;

    fn apply_function(function: &str, values: &mut [Self]) {
        apply_function(function, values);
    }
}

impl Checked for f64 {
    const COLUMN: usize = 2;

    fn apply_function(function: &str, values: &mut [Self]) {
        apply_function(function, values);
    }
}

#[cfg(feature = "f16")]
impl Checked for half::f16 {
    const COLUMN: usize = 3;

    fn apply_function(function: &str, _: &mut [Self]) {
        panic!("no {function} for f16");
    }
}

#[cfg(feature = "f16")]
impl Checked for half::bf16 {
    const COLUMN: usize = 4;

    fn apply_function(function: &str, _: &mut [Self]) {
        panic!("no {function} for bf16");
    }
}

/// Replaces each value by the function of it, at the level in force.
fn apply<T: Checked>(function: &str, values: &mut [T]) {
    match Activation::from_name(function) {
        Some(activation) => activate_in_place(activation, values).expect("one row"),
        None => T::apply_function(function, values),
    }
}

fn apply_function<C: Compute>(function: &str, values: &mut [C]) {
    let level = simd::level();
    match function {
        "exp" => dispatch!(level, simd => each(simd, values, #[inline(always)] |x| math::exp::<_, C>(simd, x))),
        "exp_nonpositive" => {
            dispatch!(level, simd => each(simd, values, #[inline(always)] |x| math::exp_nonpositive::<_, C>(simd, x)));
        }
        "ln" => dispatch!(level, simd => each(simd, values, #[inline(always)] |x| math::ln::<_, C>(simd, x))),
        "erf" => dispatch!(level, simd => each(simd, values, #[inline(always)] |x| math::erf::<_, C>(simd, x))),
        other => panic!("no function {other}"),
    }
}

#[inline(always)]
fn each<S: Simd, C: Compute>(simd: S, values: &mut [C], f: impl Fn(C::Lanes<S>) -> C::Lanes<S>) {
    for chunk in values.chunks_mut(C::Lanes::<S>::LEN) {
        let mut padded = [C::ZERO; polyglot_bridge::MAX_LANES];
        padded[..chunk.len()].copy_from_slice(chunk);
        f(C::Lanes::<S>::from_slice(simd, &padded[..C::Lanes::<S>::LEN]))
            .store_slice(&mut padded[..C::Lanes::<S>::LEN]);
        chunk.copy_from_slice(&padded[..chunk.len()]);
    }
}

#[cfg(feature = "f16")]
const OPERATIONS: [&str; 6] = ["relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"];
const FUNCTIONS: [&str; 9] = ["exp", "ln", "erf", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"];

/// A function in f64, for f32 inputs: its error counts nothing there. Three of four f32 are so small or so large that a
/// few terms of Taylor's series, or a limit, are the function to f64's precision.
#[derive(Clone, Copy)]
struct Reference {
    /// Where |x| < 2^-10.
    near_zero: fn(f64) -> f64,
    exact: fn(f64) -> f64,
    /// Up to where and from where on a limit takes over.
    ends: (f64, f64),
    limits: (fn(f64) -> f64, fn(f64) -> f64),
}

impl Reference {
    fn at(&self, x: f64) -> f64 {
        if x.abs() < 2.0_f64.powi(-10) {
            (self.near_zero)(x)
        } else if x < self.ends.0 {
            (self.limits.0)(x)
        } else if x > self.ends.1 {
            (self.limits.1)(x)
        } else {
            (self.exact)(x)
        }
    }
}

fn reference(function: &str) -> Reference {
    /// 1 / (1 + e^-x) without overflow.
    fn sigmoid(x: f64) -> f64 {
        if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
    }
    fn sigmoid_near_zero(x: f64) -> f64 {
        0.5 + x * (0.25 - x * x * (1.0 / 48.0 - x * x / 480.0))
    }
    fn erf_near_zero(x: f64) -> f64 {
        std::f64::consts::FRAC_2_SQRT_PI * x * (1.0 - x * x * (1.0 / 3.0 - x * x / 10.0))
    }
    fn tanh_near_zero(x: f64) -> f64 {
        x * (1.0 - x * x * (1.0 / 3.0 - x * x * 2.0 / 15.0))
    }
    /// What gelu_tanh takes the tanh of.
    fn inner(x: f64) -> f64 {
        std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)
    }
    let (near_zero, exact, ends): (fn(f64) -> f64, fn(f64) -> f64, _) = match function {
        "exp" | "exp_nonpositive" => {
            (|x| 1.0 + x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0))), f64::exp, (-105.0, 89.0))
        }
        "ln" => (f64::ln, f64::ln, (f64::NEG_INFINITY, f64::INFINITY)),
        "erf" => (erf_near_zero, libm::erf, (-6.0, 6.0)),
        "relu" => (|x| x.max(0.0), |x| x, (0.0, f64::INFINITY)),
        "sigmoid" => (sigmoid_near_zero, sigmoid, (-105.0, 40.0)),
        "tanh" => (tanh_near_zero, f64::tanh, (-20.0, 20.0)),
        "silu" => (|x| x * sigmoid_near_zero(x), |x| x * sigmoid(x), (-115.0, 40.0)),
        "gelu" => (
            |x| 0.5 * x * (1.0 + erf_near_zero(x * std::f64::consts::FRAC_1_SQRT_2)),
            |x| 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            (-15.0, 9.0),
        ),
        "gelu_tanh" => (|x| 0.5 * x * (1.0 + tanh_near_zero(inner(x))), |x| x * sigmoid(2.0 * inner(x)), (-12.0, 9.0)),
        other => panic!("no reference for {other}"),
    };
    let limits: (fn(f64) -> f64, fn(f64) -> f64) = match function {
        "exp" | "exp_nonpositive" => (|_| 0.0, |_| f64::INFINITY),
        "erf" | "tanh" => (|_| -1.0, |_| 1.0),
        "sigmoid" => (|_| 0.0, |_| 1.0),
        _ => (|_| 0.0, |x| x),
    };
    Reference { near_zero, exact, ends, limits }
}

/// Compares what a function gave with what is right, and keeps the worst for each row of ACCURACY.md.
struct Comparison {
    rows: Vec<Worst>,
}

impl Comparison {
    fn new<T: Checked>(function: &str) -> Self {
        let start = |(place, bound)| Worst { bound, place, error: 0.0, input: 0.0, found: 0.0 };
        Self { rows: bounds(function, T::COLUMN).into_iter().map(start).collect() }
    }

    #[inline]
    fn add<T: Checked>(&mut self, x: T, found: T, right: f64) {
        self.add_exact(x, found, right, 0.0);
    }

    /// What is right is `right` and `rest` together, which no f64 can hold. What is rounded correctly is not counted as an
    /// error: it is the best that can be.
    #[inline]
    fn add_exact<T: Checked>(&mut self, x: T, found: T, right: f64, rest: f64) {
        let (x, found, rounded) = (to_f64(x), to_f64(found), to_f64(from_f64::<T>(right)));
        if found == rounded || found.is_nan() && right.is_nan() {
            return;
        }
        // Of the type it is computed in.
        let least_exponent = if size_of::<T::Acc>() == 8 { f64::LEAST_EXPONENT } else { f32::LEAST_EXPONENT };
        for row in &mut self.rows {
            if row.place.contains(x, least_exponent) {
                let unit = match row.bound {
                    Bound::Ulps(_) => ulp::<T>(right),
                    Bound::Absolute(_) => 1.0,
                };
                // A NaN or infinity that should be none, or the other way round, is infinitely wrong.
                let error = ((found - right) - rest).abs() / unit;
                let error = if error.is_nan() { f64::INFINITY } else { error };
                if error > row.error {
                    *row = Worst { error, input: x, found, ..*row };
                }
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        for (row, other) in self.rows.iter_mut().zip(&other.rows) {
            if other.error > row.error {
                *row = *other;
            }
        }
    }

    /// Says what was worst; fails where it is worse than allowed.
    fn finish(&self, what: impl Display) {
        for row in &self.rows {
            println!("{what}: {row}");
        }
        for row in &self.rows {
            let (Bound::Ulps(allowed) | Bound::Absolute(allowed)) = row.bound;
            assert!(row.error <= allowed, "{what}: {row}, allowed {:?}", row.bound);
        }
    }
}

/// The distance from one float to the next where `value` lies, subnormal distances too.
fn ulp<T: Storage>(value: f64) -> f64 {
    let exponent = if value == 0.0 { T::LEAST_EXPONENT } else { exponent(value).max(T::LEAST_EXPONENT) };
    power_of_two(exponent + 1 - T::DIGITS)
}

/// Inputs and outputs side by side, in blocks.
fn compare_blocks<T: Checked>(function: &str, inputs: impl Iterator<Item = T>, comparison: &mut Comparison) {
    let exact = reference(function);
    let mut inputs = inputs.peekable();
    let mut block = Vec::with_capacity(4096);
    while inputs.peek().is_some() {
        block.clear();
        block.extend(inputs.by_ref().take(4096));
        let mut results = block.clone();
        apply(function, &mut results);
        for (&x, &found) in block.iter().zip(&results) {
            comparison.add(x, found, exact.at(to_f64(x)));
        }
    }
}

/// Every 997th f32 at the best level, which is the quickest, and every 9,973rd at the others: NaNs, infinities and
/// subnormals are among them.
#[test]
fn f32_sample_is_within_the_bounds() {
    let best = Level::try_detect().unwrap_or(Level::baseline());
    for_each_level(|level| {
        let same = format!("{level:?}") == format!("{best:?}");
        for function in FUNCTIONS {
            let mut comparison = Comparison::new::<f32>(function);
            let inputs = (0..=u32::MAX).step_by(if same { 997 } else { 9973 }).map(f32::from_bits);
            compare_blocks(function, inputs, &mut comparison);
            comparison.finish(format_args!("f32 {function} {level:?}"));
        }
    });
}

/// Around zero, where the sample's steps are long, and where functions change their method.
#[test]
fn f32_dense_stretches_are_within_the_bounds() {
    for_each_level(|level| {
        for function in FUNCTIONS {
            let mut comparison = Comparison::new::<f32>(function);
            for center in [
                0.0_f32, 2e-38, 1e-4, 0.125458, 0.1716, 0.34657, 0.5197, 0.55, 0.8, 1.0, 2.0, 4.0, 8.0, 14.4, 16.6,
                87.3, 88.7, 103.9,
            ] {
                let bits = center.to_bits();
                let stretch = (bits.saturating_sub(20_000)..bits + 20_000).map(f32::from_bits);
                compare_blocks(function, stretch.flat_map(|x| [x, -x]), &mut comparison);
            }
            comparison.finish(format_args!("f32 {function} {level:?}"));
        }
    });
}

#[cfg(feature = "f16")]
#[test]
fn every_f16_is_within_the_bounds() {
    for_each_level(|level| {
        for function in OPERATIONS {
            let mut comparison = Comparison::new::<half::f16>(function);
            compare_blocks(function, (0..=u16::MAX).map(half::f16::from_bits), &mut comparison);
            comparison.finish(format_args!("f16 {function} {level:?}"));
        }
    });
}

#[cfg(feature = "f16")]
#[test]
fn every_bf16_is_within_the_bounds() {
    for_each_level(|level| {
        for function in OPERATIONS {
            let mut comparison = Comparison::new::<half::bf16>(function);
            compare_blocks(function, (0..=u16::MAX).map(half::bf16::from_bits), &mut comparison);
            comparison.finish(format_args!("bf16 {function} {level:?}"));
        }
    });
}

/// Inputs, correctly rounded results, and what the rounding took away.
fn vectors(function: &str) -> Vec<[f64; 3]> {
    let bytes: &[u8] = match function {
        "exp" => include_bytes!("vectors/exp.f64"),
        "ln" => include_bytes!("vectors/ln.f64"),
        "erf" => include_bytes!("vectors/erf.f64"),
        "sigmoid" => include_bytes!("vectors/sigmoid.f64"),
        "tanh" => include_bytes!("vectors/tanh.f64"),
        "silu" => include_bytes!("vectors/silu.f64"),
        "gelu" => include_bytes!("vectors/gelu.f64"),
        "gelu_tanh" => include_bytes!("vectors/gelu_tanh.f64"),
        _ => &[],
    };
    let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    bytes.chunks_exact(24).map(|line| [number(&line[..8]), number(&line[8..16]), number(&line[16..])]).collect()
}

/// Compares a function with these vectors, within the bounds of another or its own.
fn compare_vectors(function: &str, vectors: &[[f64; 3]], bounds: &str) -> Comparison {
    let mut results: Vec<f64> = vectors.iter().map(|[x, ..]| *x).collect();
    apply(function, &mut results);
    let mut comparison = Comparison::new::<f64>(bounds);
    for ([x, right, rest], &found) in vectors.iter().zip(&results) {
        comparison.add_exact(*x, found, *right, *rest);
    }
    comparison
}

#[test]
fn f64_vectors_are_within_the_bounds() {
    for_each_level(|level| {
        for function in FUNCTIONS.into_iter().filter(|&function| function != "relu") {
            let vectors = vectors(function);
            assert!(vectors.len() > 1000, "{function}: {} vectors", vectors.len());
            compare_vectors(function, &vectors, function).finish(format_args!("f64 {function} {level:?}"));
        }
    });
}

/// Just below zero sigmoid's results lie just below 1/2, where a unit is half as long as above: of all stretches the one
/// where errors come nearest to the bound. The reference is the series, less its first term, which can be taken off
/// exactly.
#[test]
fn sigmoid_just_below_one_half_is_within_the_bound() {
    const UNIT: f64 = f64::EPSILON / 4.0;
    for_each_level(|level| {
        let mut random = Random::new(11);
        let inputs: Vec<f64> =
            (0..100_000).map(|_| -power_of_two(-6 - random.below(12) as i32) * random.unit()).collect();
        let mut results = inputs.clone();
        apply("sigmoid", &mut results);
        let mut worst = (0.0, 0.0);
        for (&x, &found) in inputs.iter().zip(&results) {
            let square = x * x;
            let right = x * (0.25 - square * (1.0 / 48.0 - square * (1.0 / 480.0 - square * 17.0 / 80640.0)));
            let error = ((found - 0.5) - right).abs() / UNIT;
            worst = if error > worst.0 { (error, x) } else { worst };
        }
        println!("f64 sigmoid {level:?}: {:.4} ULP at {:e}", worst.0, worst.1);
        // The reference is rounded itself, to a hundredth of a unit.
        assert!(worst.0 <= 2.01, "{level:?}: {} ULP at {:e}", worst.0, worst.1);
    });
}

/// Where tanh is nearly 1 its sums have e^-2x below or around their last bit: the other stretch where errors come near to
/// the bound. The reference is the distance from 1, which can be taken off exactly, and where f64 has digits to spare.
#[test]
fn tanh_just_below_one_is_within_the_bound() {
    const UNIT: f64 = f64::EPSILON / 2.0;
    for_each_level(|level| {
        let mut random = Random::new(12);
        let inputs: Vec<f64> = (0..200_000).map(|_| random.uniform(12.0..19.5)).collect();
        let mut results = inputs.clone();
        apply("tanh", &mut results);
        let mut worst = (0.0, 0.0);
        for (&x, &found) in inputs.iter().zip(&results) {
            let e = (-2.0 * x).exp();
            let error = ((1.0 - found) - 2.0 * e / (1.0 + e)).abs() / UNIT;
            worst = if error > worst.0 { (error, x) } else { worst };
        }
        println!("f64 tanh {level:?}: {:.4} ULP at {:e}", worst.0, worst.1);
        assert!(worst.0 <= 2.0, "{level:?}: {} ULP at {:e}", worst.0, worst.1);
    });
}

/// The cheaper exponential is bound like the other one, where it is defined.
#[test]
fn exp_nonpositive_is_as_exact_as_exp() {
    for_each_level(|level| {
        let mut comparison = Comparison::new::<f32>("exp");
        let below = (0x8000_0000..=0xff80_0000_u32).step_by(997).map(f32::from_bits);
        compare_blocks("exp_nonpositive", below, &mut comparison);
        comparison.finish(format_args!("f32 exp_nonpositive {level:?}"));

        let vectors: Vec<_> = vectors("exp").into_iter().filter(|[x, ..]| *x <= 0.0).collect();
        let comparison = compare_vectors("exp_nonpositive", &vectors, "exp");
        comparison.finish(format_args!("f64 exp_nonpositive {level:?}"));
    });
}

/// A row of ACCURACY.md's second table: the worst of all inputs that were tried for a row of the first.
#[derive(Clone, Debug)]
struct Record {
    function: String,
    place: String,
    storage: String,
    inputs: String,
    error: String,
    input: String,
    level: String,
}

const ACCURACY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ACCURACY.md");
const RECORDS: &str = "| function | where | type | inputs | worst error | at | CPU level |";

fn records(text: &str) -> Vec<Record> {
    let table = text.lines().skip_while(|line| *line != RECORDS).skip(2);
    table
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cell = |index| line.split('|').nth(index).unwrap_or_default().trim().to_string();
            let [function, place, storage, inputs, error, input, level] = [1, 2, 3, 4, 5, 6, 7].map(cell);
            Record { function, place, storage, inputs, error, input, level }
        })
        .collect()
}

/// What was worst in one type over all levels, as rows of the table; with the level that each was found at.
fn record<T: Checked>(function: &str, inputs: &str, found: &[(Level, Comparison)]) -> Vec<Record> {
    let places = found.first().map_or(0, |(_, comparison)| comparison.rows.len());
    let mut rows = Vec::with_capacity(places);
    for index in 0..places {
        let (level, worst) = found
            .iter()
            .map(|(level, comparison)| (level, &comparison.rows[index]))
            .reduce(|a, b| if b.1.error > a.1.error { b } else { a })
            .expect("a level");
        // The error of a correct rounding is not counted, so none at all means that each result is rounded correctly.
        let right = worst.error == 0.0;
        rows.push(Record {
            function: function.to_string(),
            place: worst.place.name().to_string(),
            storage: T::NAME.to_string(),
            inputs: inputs.to_string(),
            error: match worst.bound {
                _ if right => "rounded correctly".to_string(),
                Bound::Ulps(_) => format!("{:.3} ULP", worst.error),
                Bound::Absolute(_) => format!("2^{:.2}", worst.error.log2()),
            },
            input: if right { String::new() } else { shortest::<T>(worst.input) },
            level: if right {
                "every".to_string()
            } else {
                format!("{level:?}").chars().take_while(|c| *c != '(').collect()
            },
        });
    }
    rows
}

/// The fewest digits that say which number of type `T` is meant.
fn shortest<T: Checked>(value: f64) -> String {
    if size_of::<T::Acc>() == 8 { format!("{value:e}") } else { format!("{:e}", value as f32) }
}

/// Every f32 there is, f16, bf16 and the hard f64 too, through every function, at one level without fused multiply-add
/// and at those with it, on two threads. The worst of each goes into ACCURACY.md.
///
/// POLYGLOT_FUNCTIONS, say "exp ln", restricts it to some functions; the table's other rows stay as they are.
#[test]
#[ignore = "minutes; `make exhaustive` runs it"]
fn exhaustive() {
    let chosen = std::env::var("POLYGLOT_FUNCTIONS").unwrap_or(FUNCTIONS.join(" "));
    let mut levels = levels();
    levels.retain(|level| !format!("{level:?}").starts_with("Sse4_2") && !format!("{level:?}").starts_with("Fallback"));
    let mut rows = records(&std::fs::read_to_string(ACCURACY).expect("ACCURACY.md"));
    at_one_level(|| {
        let before = simd::level();
        for function in FUNCTIONS.into_iter().filter(|function| chosen.split(' ').any(|chosen| chosen == *function)) {
            let start = std::time::Instant::now();
            let mut found = [const { Vec::new() }; 4];
            found[0] = every_f32(function, &levels);
            for &level in &levels {
                simd::set_level(level);
                found[1].push((level, compare_vectors(function, &vectors(function), function)));
                #[cfg(feature = "f16")]
                if OPERATIONS.contains(&function) {
                    let mut all = [Comparison::new::<half::f16>(function), Comparison::new::<half::bf16>(function)];
                    compare_blocks(function, (0..=u16::MAX).map(half::f16::from_bits), &mut all[0]);
                    compare_blocks(function, (0..=u16::MAX).map(half::bf16::from_bits), &mut all[1]);
                    for (found, comparison) in found[2..].iter_mut().zip(all) {
                        found.push((level, comparison));
                    }
                }
            }
            println!("{function}: {:.0?}", start.elapsed());
            for (level, comparison) in &found[0] {
                comparison.finish(format_args!("all f32 {function} {level:?}"));
            }
            rows.retain(|row| row.function != function);
            rows.extend(record::<f32>(function, "all 2^32", &found[0]));
            let tried = vectors(function).len();
            if tried > 0 {
                rows.extend(record::<f64>(function, &format!("{tried} hard ones"), &found[1]));
            }
            #[cfg(feature = "f16")]
            {
                rows.extend(record::<half::f16>(function, "all 65,536", &found[2]));
                rows.extend(record::<half::bf16>(function, "all 65,536", &found[3]));
            }
            // What is known is kept, should a later function be beyond its bound.
            rows.sort_by_key(|row| FUNCTIONS.iter().position(|function| *function == row.function));
            write_records(&rows);
        }
        simd::set_level(before);
    });
}

/// Every f32 at these levels, a half of them on each of two threads. The reference takes most of the time, so all levels
/// are compared with it at once; those of one kind (see [`is_fused`]) must give the same bits, and count as the first.
fn every_f32(function: &str, levels: &[Level]) -> Vec<(Level, Comparison)> {
    const BLOCK: u64 = 1 << 18;
    let turn = std::sync::Barrier::new(2);
    let half = |negative: u64| {
        let exact = reference(function);
        let mut results = vec![vec![0.0_f32; BLOCK as usize]; levels.len()];
        let mut kinds: [Option<(usize, Comparison)>; 2] = [None, None];
        let mut differs = None;
        for block in 0..(1 << 31) / BLOCK {
            let start = ((negative << 31) + block * BLOCK) as u32;
            for (level, results) in levels.iter().zip(&mut results) {
                // The level is one for both threads.
                if turn.wait().is_leader() {
                    simd::set_level(*level);
                }
                turn.wait();
                for (bits, result) in (start..).zip(results.iter_mut()) {
                    *result = f32::from_bits(bits);
                }
                with_threads(1, || apply(function, results));
            }
            for (index, bits) in (start..=start + (BLOCK - 1) as u32).enumerate() {
                let x = f32::from_bits(bits);
                let right = exact.at(f64::from(x));
                for (place, level) in levels.iter().enumerate() {
                    let found = results[place][index];
                    match &mut kinds[usize::from(is_fused(*level))] {
                        Some((first, comparison)) if *first == place => comparison.add(x, found, right),
                        Some((first, _)) => {
                            let other = results[*first][index];
                            if found.to_bits() != other.to_bits() && !(found.is_nan() && other.is_nan()) {
                                differs = differs.or(Some((x, levels[*first], other, *level, found)));
                            }
                        }
                        kind => {
                            let mut comparison = Comparison::new::<f32>(function);
                            comparison.add(x, found, right);
                            *kind = Some((place, comparison));
                        }
                    }
                }
            }
        }
        (kinds, differs)
    };
    let [mut positive, negative] = std::thread::scope(|scope| {
        let negative = scope.spawn(|| half(1));
        [half(0), negative.join().expect("no panic")]
    });
    // Afterwards, since one thread's panic would have the other wait forever.
    if let Some((x, first, a, other, b)) = positive.1.or(negative.1) {
        panic!("f32 {function} of {x:e}: {a:e} at {first:?}, {b:e} at {other:?}");
    }
    for (kind, other) in positive.0.iter_mut().zip(&negative.0) {
        if let (Some((_, comparison)), Some((_, other))) = (kind, other) {
            comparison.merge(other);
        }
    }
    positive.0.into_iter().flatten().map(|(place, comparison)| (levels[place], comparison)).collect()
}

/// Replaces the second table of ACCURACY.md.
fn write_records(rows: &[Record]) {
    let text = std::fs::read_to_string(ACCURACY).expect("ACCURACY.md");
    let (before, table) = text.split_once(RECORDS).expect("the second table");
    let after: Vec<&str> = table.lines().skip(2).skip_while(|line| line.starts_with('|')).collect();
    let mut table = format!("{RECORDS}\n|---|---|---|---|---|---|---|\n");
    for Record { function, place, storage, inputs, error, input, level } in rows {
        let line = [function, place, storage, inputs, error, input, level].map(String::as_str).join(" | ");
        table.push_str(&["| ", &line, " |\n"].concat());
    }
    std::fs::write(ACCURACY, format!("{before}{table}{}\n", after.join("\n"))).expect("ACCURACY.md");
}

/// The worst inputs stay where they are known: each is tried again, at each level.
#[test]
fn recorded_worst_inputs_are_within_the_bounds() {
    fn check<T: Checked>(row: &Record, level: Level) {
        let input: f64 = row.input.parse().expect("a number");
        let x: T = if T::NAME == "f64" { from_f64(input) } else { from_f64(f64::from(input as f32)) };
        let (right, rest) = if T::NAME == "f64" {
            let vector = vectors(&row.function).into_iter().find(|[vector, ..]| *vector == input);
            let [_, right, rest] = vector.unwrap_or_else(|| panic!("{row:?}: no vector"));
            (right, rest)
        } else {
            (reference(&row.function).at(to_f64(x)), 0.0)
        };
        let mut results = [x; 3];
        apply(&row.function, &mut results);
        let mut comparison = Comparison::new::<T>(&row.function);
        comparison.add_exact(x, results[1], right, rest);
        comparison.finish(format_args!("{} {} {level:?}", T::NAME, row.function));
    }
    let rows = records(include_str!("../ACCURACY.md"));
    for_each_level(|level| {
        for row in rows.iter().filter(|row| !row.input.is_empty()) {
            match &row.storage[..] {
                "f32" => check::<f32>(row, level),
                "f64" => check::<f64>(row, level),
                #[cfg(feature = "f16")]
                "f16" => check::<half::f16>(row, level),
                #[cfg(feature = "f16")]
                "bf16" => check::<half::bf16>(row, level),
                _ => {}
            }
        }
    });
    for row in rows {
        let column = ["f32", "f64", "f16", "bf16"].iter().position(|name| *name == row.storage).expect("a type") + 1;
        let bounds = bounds(&row.function, column);
        let (_, bound) = bounds.iter().find(|(place, _)| place.name() == row.place).expect("a row of the first table");
        let within = match bound {
            Bound::Ulps(allowed) => {
                row.input.is_empty() || row.error.trim_end_matches(" ULP").parse::<f64>().expect("ULP") <= *allowed
            }
            Bound::Absolute(allowed) => {
                row.input.is_empty() || row.error[2..].parse::<f64>().expect("an exponent") <= allowed.log2()
            }
        };
        assert!(within, "{row:?} is beyond {bound:?}");
    }
}

/// Whether a level multiplies and adds in one rounding.
fn is_fused(level: Level) -> bool {
    match level {
        level if level.is_fallback() => false,
        #[cfg(target_arch = "aarch64")]
        Level::Neon(_) => true,
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Level::Avx2(_) | Level::Avx512(_) => true,
        // A build for a CPU that can runs no vector level that does not.
        _ => cfg!(target_feature = "fma"),
    }
}

/// Functions of one number differ between CPU levels by fused multiply-add only: levels that have it agree bit for bit,
/// and so do those that have not; one result of each kind lie apart by two errors at most, as ACCURACY.md has it.
#[test]
fn levels_differ_by_fused_multiply_add_only() {
    fn check<T: Checked>(function: &str, inputs: &[T]) {
        let mut kinds: [Option<(Level, Vec<f64>)>; 2] = [None, None];
        for_each_level(|level| {
            let mut results = inputs.to_vec();
            apply(function, &mut results);
            let results = all_to_f64(&results);
            let fused = is_fused(level);
            let Some((other, first)) = &kinds[usize::from(fused)] else {
                kinds[usize::from(fused)] = Some((level, results));
                return;
            };
            for ((x, a), b) in inputs.iter().zip(first).zip(&results) {
                let same = a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(same, "{} {function} of {x:?}: {a:e} at {other:?}, {b:e} at {level:?}", T::NAME);
            }
        });
        let [Some((_, plain)), Some((_, fused))] = kinds else { return };
        let least_exponent = if size_of::<T::Acc>() == 8 { f64::LEAST_EXPONENT } else { f32::LEAST_EXPONENT };
        for ((&x, a), b) in inputs.iter().zip(plain).zip(fused) {
            for (_, bound) in
                bounds(function, T::COLUMN).iter().filter(|(place, _)| place.contains(to_f64(x), least_exponent))
            {
                let apart = match bound {
                    Bound::Ulps(allowed) => 2.0 * allowed * ulp::<T>(a.abs().max(b.abs())),
                    Bound::Absolute(allowed) => 2.0 * allowed,
                };
                assert!(
                    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= apart,
                    "{} {function} of {x:?}: {a:e}, {b:e}",
                    T::NAME
                );
            }
        }
    }
    for function in FUNCTIONS {
        let sample: Vec<f32> = (0..=u32::MAX).step_by(99_991).map(f32::from_bits).collect();
        check(function, &sample);
        let hard: Vec<f64> = vectors(function).into_iter().map(|[x, ..]| x).collect();
        check(function, &hard);
    }
    #[cfg(feature = "f16")]
    for function in OPERATIONS {
        check(function, &(0..=u16::MAX).map(half::f16::from_bits).collect::<Vec<_>>());
        check(function, &(0..=u16::MAX).map(half::bf16::from_bits).collect::<Vec<_>>());
    }
}

for_each_type! {
    nan_stays_nan => nan_stays_nan_for,
    infinities_give_the_limits => infinities_give_the_limits_for,
    relu_of_minus_zero_is_plus_zero => relu_of_minus_zero_is_plus_zero_for,
    each_length_and_layout_gives_the_same_bits => each_length_and_layout_gives_the_same_bits_for,
}

fn nan_stays_nan_for<T: Checked>() {
    for_each_level(|level| {
        for activation in Activation::ALL {
            let mut values: Vec<T> = all_from_f64(&[1.0, f64::NAN, -1.0, -f64::NAN, 0.5]);
            activate_in_place(activation, &mut values[..]).expect("one row");
            let nan: Vec<bool> = all_to_f64(&values).iter().map(|value| value.is_nan()).collect();
            assert_eq!(nan, [false, true, false, true, false], "{} {} {level:?}", T::NAME, activation.name());
        }
    });
}

fn infinities_give_the_limits_for<T: Checked>() {
    const INFINITY: f64 = f64::INFINITY;
    for_each_level(|level| {
        for (activation, below, above) in [
            (Activation::None, -INFINITY, INFINITY),
            (Activation::Relu, 0.0, INFINITY),
            (Activation::Sigmoid, 0.0, 1.0),
            (Activation::Tanh, -1.0, 1.0),
            (Activation::Silu, 0.0, INFINITY),
            (Activation::Gelu, 0.0, INFINITY),
            (Activation::GeluTanh, 0.0, INFINITY),
        ] {
            // The last finite number goes where the infinity goes, but for the sign of what is infinite.
            let mut values: Vec<T> = all_from_f64(&[-INFINITY, INFINITY, -1e4, 0.0]);
            activate_in_place(activation, &mut values[..]).expect("one row");
            let found = all_to_f64(&values);
            let what = format!("{} {} {level:?}", T::NAME, activation.name());
            assert_eq!(found[..2], [below, above], "{what}");
            if below.is_finite() {
                assert_eq!(found[2], below, "{what} of -1e4");
            }
            assert_eq!(found[3], if activation == Activation::Sigmoid { 0.5 } else { 0.0 }, "{what} of 0");
        }
    });
}

fn relu_of_minus_zero_is_plus_zero_for<T: Checked>() {
    for_each_level(|level| {
        let mut values: Vec<T> = all_from_f64(&[-0.0; 5]);
        activate_in_place(Activation::Relu, &mut values[..]).expect("one row");
        assert!(all_to_f64(&values).iter().all(|value| value.is_sign_positive()), "{} {level:?}", T::NAME);
    });
}

fn each_length_and_layout_gives_the_same_bits_for<T: Checked>() {
    for_each_level(|level| {
        let mut random = Random::new(3);
        for activation in Activation::ALL {
            let op = Op(
                |x: Matrix<'_, T>, out: MatrixMut<'_, T>| activate(activation, x, out).expect("shapes"),
                |x: MatrixMut<'_, T>| activate_in_place(activation, x).expect("shapes"),
            );
            for cols in LENGTHS.into_iter().filter(|&cols| cols < 300) {
                let x: Vec<T> = random.normals(3 * cols);
                // Each element alone.
                let right: Vec<T> = x
                    .iter()
                    .map(|&x| {
                        let mut one = [x];
                        activate_in_place(activation, &mut one).expect("one row");
                        one[0]
                    })
                    .collect();
                for layout in Layout::ALL {
                    let found = run(&op, &x, 3, cols, layout);
                    assert_eq!(found, right, "{} {} {level:?} {layout:?} 3x{cols}", T::NAME, activation.name());
                }
            }
        }
    });
}

#[test]
fn subnormal_results_are_kept() {
    for_each_level(|level| {
        for (function, x) in
            [("exp", -100.0), ("sigmoid", -100.0), ("silu", -95.0), ("gelu", -13.3), ("gelu_tanh", -10.2)]
        {
            let mut values = [x as f32; 3];
            apply(function, &mut values);
            assert!(values[0].is_subnormal(), "{function} {level:?} of {x} is {:e}", values[0]);
        }
        for (function, x) in [("exp", -740.0), ("sigmoid", -740.0), ("silu", -730.0), ("gelu_tanh", -21.3)] {
            let mut values: [f64; 3] = [x; 3];
            apply(function, &mut values);
            assert!(values[0].is_subnormal(), "{function} {level:?} of {x} is {:e}", values[0]);
        }
        for function in ["tanh", "erf", "gelu", "gelu_tanh", "silu", "relu"] {
            let mut values = [1e-40_f32; 3];
            apply(function, &mut values);
            assert!(values[0].is_subnormal(), "{function} {level:?} of 1e-40 is {:e}", values[0]);
        }
    });
}

#[test]
fn another_shape_is_an_error() {
    let mut out = [7.0_f32; 4];
    let x = [1.0_f32; 6];
    let error = activate(Activation::Gelu, Matrix::new(&x, 2, 3).unwrap(), MatrixMut::new(&mut out, 2, 2).unwrap());
    assert!(matches!(error, Err(ShapeError::Mismatch { op: "gelu", .. })), "{error:?}");
    assert_eq!(error.unwrap_err().to_string(), "gelu: out has shape (2, 2), expected (2, 3)");
    assert_eq!(out, [7.0; 4]);
}

#[test]
fn names_and_activations_are_a_pair() {
    for activation in Activation::ALL {
        assert_eq!(Activation::from_name(activation.name()), Some(activation));
    }
    assert_eq!(Activation::from_name("Relu"), None);
    assert_eq!(Activation::default(), Activation::None);
}
