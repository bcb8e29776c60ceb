//! The digit classifier from Rust, on builds without std as well: weights and test images lie in the binary, and
//! classifying allocates nothing.
//!
//! ```text
//! cargo run --release --example mlp --no-default-features --features libm,f16     # in f16, as they are stored
//! cargo run --release --example mlp --no-default-features --features libm         # widened to f32 when compiled
//! ```
//!
//! Prints the accuracy; with `--classes` the class of each test image instead, a line each, as `digits.py` does.

use polyglot_bridge::{Activation, Epilogue, Float, Matrix, ShapeError, linear, softmax_in_place};

/// float16, little-endian: weight (in, out) and bias of each layer in turn, see digits/README.md.
static WEIGHTS: [Number; 17226] = decode(include_bytes!("digits/weights.f16"));

/// Records of 65 bytes: 64 pixels of 0 to 16, then the class.
static TEST_SET: &[u8] = include_bytes!("digits/test.u8");

#[cfg(feature = "f16")]
type Number = half::f16;
#[cfg(not(feature = "f16"))]
type Number = f32;

/// Turns the file into numbers while the program is compiled.
const fn decode<const BYTES: usize, const VALUES: usize>(bytes: &[u8; BYTES]) -> [Number; VALUES] {
    assert!(BYTES == 2 * VALUES, "two bytes a value");
    let mut values = [Number::ZERO; VALUES];
    let mut at = 0;
    while at < VALUES {
        values[at] = decode_one(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]));
        at += 1;
    }
    values
}

#[cfg(feature = "f16")]
const fn decode_one(bits: u16) -> Number {
    half::f16::from_bits(bits)
}

/// IEEE binary16 to f32, for finite values.
#[cfg(not(feature = "f16"))]
const fn decode_one(bits: u16) -> Number {
    let magnitude = (bits & 0x7fff) as u32;
    // Moving the exponent to its place in an f32 leaves it 112 too small: the multiplication makes up for it, exactly,
    // for subnormals too.
    let value = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    if bits & 0x8000 == 0 { value } else { -value }
}

/// One layer, borrowed from where its values lie.
struct Layer<'a> {
    weight: Matrix<'a, Number>,
    bias: &'a [Number],
}

impl<'a> Layer<'a> {
    /// Takes the layer's values off the front of `values`.
    fn take(values: &mut &'a [Number], inputs: usize, outputs: usize) -> Result<Self, ShapeError> {
        let weight = Matrix::new(values, inputs, outputs)?;
        let rest = values.get(inputs * outputs..).unwrap_or_default();
        let (bias, rest) = rest.split_at_checked(outputs).unwrap_or_default();
        *values = rest;
        Ok(Self { weight, bias })
    }

    fn apply(&self, x: &[Number], activation: Activation, out: &mut [Number]) -> Result<(), ShapeError> {
        linear(x, self.weight, Epilogue::new().bias(self.bias).activation(activation), out)
    }
}

struct Classifier<'a> {
    first: Layer<'a>,
    second: Layer<'a>,
    last: Layer<'a>,
}

impl<'a> Classifier<'a> {
    fn new(mut values: &'a [Number]) -> Result<Self, ShapeError> {
        Ok(Self {
            first: Layer::take(&mut values, 64, 128)?,
            second: Layer::take(&mut values, 128, 64)?,
            last: Layer::take(&mut values, 64, 10)?,
        })
    }

    /// The probability of each class.
    fn classify(&self, pixels: &[u8; 64]) -> Result<[Number; 10], ShapeError> {
        let image = pixels.map(|pixel| Number::from_acc(f32::from(pixel) / 16.0));
        let (mut hidden, mut narrow, mut scores) = ([Number::ZERO; 128], [Number::ZERO; 64], [Number::ZERO; 10]);
        self.first.apply(&image, Activation::Relu, &mut hidden)?;
        self.second.apply(&hidden, Activation::Relu, &mut narrow)?;
        self.last.apply(&narrow, Activation::None, &mut scores)?;
        softmax_in_place(&mut scores)?;
        Ok(scores)
    }
}

/// The index of the largest value, the first of equal ones, as NumPy's argmax.
fn argmax(values: &[Number; 10]) -> usize {
    values.iter().enumerate().fold(0, |best, (at, value)| if *value > values[best] { at } else { best })
}

fn main() -> Result<(), ShapeError> {
    let classifier = Classifier::new(&WEIGHTS)?;
    let print_classes = std::env::args().any(|argument| argument == "--classes");
    let (mut right, mut total) = (0_u32, 0_u32);
    for record in TEST_SET.chunks_exact(65) {
        let Some((pixels, &[class])) = record.split_first_chunk() else { continue };
        let predicted = argmax(&classifier.classify(pixels)?);
        if print_classes {
            println!("{predicted}");
        }
        right += u32::from(predicted == usize::from(class));
        total += 1;
    }
    if !print_classes {
        println!("{right} of {total} held-out digits right ({:.2}%)", 100.0 * f64::from(right) / f64::from(total));
    }
    Ok(())
}
