//! Activations in f64, and how far off a kernel's may be: the numbers of the contract.

use arbitrary::Arbitrary;
use polyglot_bridge::Activation;

use super::common::{exponent, power_of_two};
use super::number::Number;

/// An activation.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Choice(u8);

impl Choice {
    pub(crate) fn activation(self) -> Activation {
        Activation::ALL[usize::from(self.0) % Activation::ALL.len()]
    }
}

/// An activation of `x`, and how far off that the compute type's result may be. Where `T` is f64 the reference is not
/// exact itself, which is allowed for.
pub(crate) fn activated<T: Number>(activation: Activation, x: f64) -> (f64, f64) {
    let double = size_of::<T::Acc>() == 8;
    let unit = |right: f64| {
        let (digits, least) = if double { (53, -1022) } else { (24, -126) };
        let exponent = if right == 0.0 || !right.is_finite() { least } else { exponent(right).max(least) };
        power_of_two(exponent + 1 - digits)
    };
    let slack = if double { 2.0 } else { 0.0 };
    let (right, units, absolute) = match activation {
        Activation::None => return (x, 0.0),
        Activation::Relu => return (if x <= 0.0 { 0.0 } else { x }, 0.0),
        Activation::Sigmoid => (logistic(x), 2.0, 0.0),
        Activation::Tanh => (x.tanh(), 2.0, 0.0),
        Activation::Silu => {
            let right = if x == f64::NEG_INFINITY { 0.0 } else { x * logistic(x) };
            (right, 3.0, power_of_two(if double { -1064 } else { -142 }))
        }
        Activation::Gelu => {
            let right =
                if x == f64::NEG_INFINITY { 0.0 } else { 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) };
            (right, 4.0, below(x, double))
        }
        Activation::GeluTanh => {
            let inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
            let right = if x == f64::NEG_INFINITY { 0.0 } else { x * logistic(2.0 * inner) };
            (right, 8.0, below(x, double))
        }
        _ => unreachable!("a new activation needs a reference here"),
    };
    // Twice the slack where the reference loses more: e^-x of large x.
    let reference = if double { right.abs() * 2.0_f64.powi(-53) * (4.0 + x.abs().min(800.0) / 32.0) } else { 0.0 };
    (right, ((units + slack) * unit(right)).max(absolute) + reference)
}

/// 1 / (1 + e^-x), also where e^-x is too large for an f64 and the result is not too small.
fn logistic(x: f64) -> f64 {
    if x < -700.0 { x.exp() } else { 1.0 / (1.0 + (-x).exp()) }
}

/// The absolute error that both forms of gelu may have far below zero.
fn below(x: f64, double: bool) -> f64 {
    if x > -2.0 { 0.0 } else { power_of_two(if double { -53 } else { -24 }) }
}
