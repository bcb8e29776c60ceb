//! Numbers to feed an operation, made from a few bytes: arbitrary bits, special values, rows far from zero, huge and
//! tiny ones side by side. The bytes hold a style and a seed, so that a short input makes a large matrix.

use arbitrary::Arbitrary;

use super::common::{Random, power_of_two};
use super::number::Number;

/// A storage type.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Kind {
    F16,
    Bf16,
    F32,
    F64,
}

/// How the values of an operand are chosen.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Style {
    /// Any bits.
    Bits,
    /// Zeros, infinities, NaN, the largest, the smallest.
    Special,
    /// Normally distributed around 0.
    Normal,
    /// A few units in the last place around one value.
    Near,
    /// All the same.
    Same,
    /// Of every magnitude there is.
    Spread,
    /// Small integers.
    Integers,
    /// Each element in another way.
    Mixed,
}

/// The values of one operand.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Values {
    style: Style,
    seed: u16,
    /// Of the magnitude where the style leaves it open.
    exponent: i16,
    finite: bool,
    pokes: Vec<Poke>,
}

/// Bits put at one place.
#[derive(Arbitrary, Clone, Debug)]
struct Poke {
    place: u16,
    bits: u64,
}

impl Values {
    /// `len` values.
    pub(crate) fn make<T: Number>(&self, len: usize) -> Vec<T> {
        let mut random = Random::new(u64::from(self.seed));
        let least = T::LEAST_EXPONENT - T::DIGITS;
        let scale = power_of_two(least + i32::from(self.exponent).rem_euclid(T::MOST_EXPONENT - least));
        let base: T = super::common::from_f64(random.normal() * scale);
        let spread = 1 + random.below(16);
        let mut values: Vec<T> = (0..len).map(|_| element(self.style, &mut random, scale, base, spread)).collect();
        for poke in self.pokes.iter().take(16) {
            if let Some(value) = values.get_mut(usize::from(poke.place) % len.max(1)) {
                *value = T::from_raw(poke.bits);
            }
        }
        if self.finite {
            for value in &mut values {
                if !super::common::to_f64(*value).is_finite() {
                    *value = T::ZERO;
                }
            }
        }
        values
    }

    /// One value.
    pub(crate) fn one<T: Number>(&self) -> T {
        self.make::<T>(1).first().copied().unwrap_or(T::ZERO)
    }
}

fn element<T: Number>(style: Style, random: &mut Random, scale: f64, base: T, spread: usize) -> T {
    let from_f64 = super::common::from_f64::<T>;
    match style {
        Style::Bits => T::from_raw(random.bits()),
        Style::Special => {
            let sign = if random.bits() & 64 == 0 { 1.0 } else { -1.0 };
            from_f64(
                match random.below(10) {
                    0 => 0.0,
                    1 => f64::INFINITY,
                    2 => f64::NAN,
                    3 => power_of_two(T::MOST_EXPONENT) * (2.0 - power_of_two(1 - T::DIGITS)),
                    4 => power_of_two(T::LEAST_EXPONENT),
                    5 => power_of_two(T::LEAST_EXPONENT + 1 - T::DIGITS),
                    6 => power_of_two(1 - T::DIGITS),
                    7 => 0.5,
                    8 => 88.0,
                    _ => 1.0,
                } * sign,
            )
        }
        Style::Normal => from_f64(random.normal() * scale),
        Style::Near => T::from_raw(base.raw().wrapping_add(random.below(spread) as u64)),
        Style::Same => base,
        Style::Spread => {
            let least = T::LEAST_EXPONENT - T::DIGITS;
            let exponent = least + random.below((T::MOST_EXPONENT - least) as usize) as i32;
            from_f64((random.unit() + 1.0) * power_of_two(exponent) * if random.bits() & 64 == 0 { 1.0 } else { -1.0 })
        }
        Style::Integers => from_f64(random.below(17) as f64 - 8.0),
        Style::Mixed => {
            const STYLES: [Style; 6] =
                [Style::Bits, Style::Special, Style::Normal, Style::Near, Style::Spread, Style::Integers];
            let style = STYLES[random.below(STYLES.len())];
            element(style, random, scale, base, spread)
        }
    }
}

/// A number of rows or columns from a byte: mostly small, sometimes around the lengths where kernels change their ways.
pub(crate) fn extent(byte: u8) -> usize {
    const LONG: [usize; 16] = [96, 127, 128, 129, 255, 256, 257, 509, 512, 513, 1000, 1024, 4095, 4096, 4099, 131_073];
    match byte.checked_sub(240) {
        Some(index) => LONG[usize::from(index)],
        None => usize::from(byte % 71),
    }
}

/// (rows, columns) of a matrix that is not too large for one run.
pub(crate) fn shape(rows: u8, cols: u8) -> (usize, usize) {
    let (rows, cols) = (extent(rows), extent(cols));
    let most = if cols > 100_000 { 1 } else { (20_000 / cols.max(1)).max(2) };
    (rows.min(most), cols)
}
