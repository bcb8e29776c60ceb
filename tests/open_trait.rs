//! Shows that `Float` is open: an 8-bit float of the test's own, E4M3 as neural networks store it (Micikevicius et al.,
//! FP8 Formats for Deep Learning, 2022), goes through the kernels, on every value it has.

mod common;

use common::{all_to_f64, exact_sum, for_each_level};
use polyglot_bridge::{Float, layer_norm, scale, softmax, softmax_in_place, sum_of_squares};

/// One sign bit, four of exponent (bias 7), three of mantissa; no infinities, NaN where all seven bits are set.
#[derive(Clone, Copy, Debug, PartialEq)]
struct E4m3(u8);

const NAN: E4m3 = E4m3(0x7f);

impl Float for E4m3 {
    type Acc = f32;
    const ZERO: Self = Self(0);

    fn to_acc(self) -> f32 {
        let (exponent, mantissa) = (i32::from(self.0 >> 3 & 15), f32::from(self.0 & 7));
        let magnitude = match (exponent, self.0 & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 512.0,
            _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
        };
        if self.0 >> 7 == 0 { magnitude } else { -magnitude }
    }

    fn from_acc(value: f32) -> Self {
        if value.is_nan() || value.abs() > 464.0 {
            return NAN;
        }
        // The nearest of all finite values, and of two the even one.
        let nearest = (0..127).map(Self).min_by(|a, b| {
            let distance = |candidate: &Self| (candidate.to_acc() - value.abs()).abs();
            distance(a).total_cmp(&distance(b)).then((a.0 & 1).cmp(&(b.0 & 1)))
        });
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        nearest.map_or(NAN, |nearest| Self(nearest.0 | sign))
    }
}

fn finite() -> Vec<E4m3> {
    (0..=255).map(E4m3).filter(|value| value.0 & 0x7f != 0x7f).collect()
}

#[test]
fn every_value_survives_a_round_trip() {
    for value in finite() {
        assert_eq!(E4m3::from_acc(value.to_acc()), value);
    }
    assert_eq!(E4m3::from_acc(1.0 + 1.0 / 16.0), E4m3::from_acc(1.0), "a tie goes to the even neighbour");
}

#[test]
fn softmax_of_every_value_is_the_reference_rounded_once() {
    for_each_level(|level| {
        // Each value in a row with some of its neighbours, and all of them in one row.
        let all = finite();
        let rows = all.windows(5).map(<[E4m3]>::to_vec).chain([all.clone()]);
        for row in rows {
            let wide = all_to_f64(&row);
            let max = wide.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum = exact_sum(wide.iter().map(|x| (x - max).exp()));
            let mut out = vec![E4m3::ZERO; row.len()];
            softmax(&row[..], &mut out[..]).unwrap();
            for (x, found) in wide.iter().zip(&out) {
                let right = (x - max).exp() / sum;
                // Right where no rounding boundary lies within the f32 error of the result.
                let (low, high) = (right * (1.0 - 1e-5), right * (1.0 + 1e-5));
                let (low, high) = (E4m3::from_acc(low as f32), E4m3::from_acc(high as f32));
                assert!(low.0 <= found.0 && found.0 <= high.0, "{level:?} {row:?}: {found:?}, not {right}");
            }
            let mut in_place = row.clone();
            softmax_in_place(&mut in_place[..]).unwrap();
            assert_eq!(in_place, out, "{level:?}");
        }
        let mut poisoned = [E4m3(3), NAN, E4m3(40)];
        softmax_in_place(&mut poisoned).unwrap();
        assert!(poisoned.iter().all(|value| value.0 & 0x7f == 0x7f), "{level:?}");
    });
}

#[test]
fn other_kernels_take_it_as_well() {
    for_each_level(|level| {
        let all = finite();
        let mut out = all.clone();
        scale(&all[..], 0.5, &mut out[..]).unwrap();
        assert!(all.iter().zip(&out).all(|(x, y)| *y == E4m3::from_acc(x.to_acc() * 0.5)), "{level:?}");
        assert_eq!(sum_of_squares(&all[..]), exact_sum(all_to_f64(&all).iter().map(|x| x * x)), "{level:?}");
        let row = [E4m3::from_acc(1.0), E4m3::from_acc(3.0)];
        let mut out = [E4m3::ZERO; 2];
        layer_norm(&row, None, None, 0.0, &mut out).unwrap();
        assert_eq!(out, [E4m3::from_acc(-1.0), E4m3::from_acc(1.0)], "{level:?}");
    });
}
