//! The digit classifier: its weights as constants, its layers and what it makes of an image. Knows neither a host nor a
//! board; `examples/mlp.rs` runs it on the one, the firmware beside this file on the other.

use polyglot_bridge::{Activation, Epilogue, Error, Float, Matrix, ShapeError, linear, softmax_in_place};

/// float16, little-endian: weight (in, out) and bias of each layer in turn, see digits/README.md.
static WEIGHTS: [Number; 17226] = decode(include_bytes!("../../digits/weights.f16"));

/// Records of 65 bytes: 64 pixels of 0 to 16, then the class.
static TEST_SET: &[u8] = include_bytes!("../../digits/test.u8");

/// How weights and what passes between layers are stored.
#[cfg(feature = "f16")]
pub type Number = half::f16;
#[cfg(not(feature = "f16"))]
pub type Number = f32;

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
struct Layer {
    weight: Matrix<'static, Number>,
    bias: &'static [Number],
}

impl Layer {
    /// Takes the layer's values off the front of `values`.
    fn take(values: &mut &'static [Number], inputs: usize, outputs: usize) -> Result<Self, ShapeError> {
        let weight = Matrix::new(values, inputs, outputs)?;
        let rest = values.get(inputs * outputs..).unwrap_or_default();
        let (bias, rest) = rest.split_at_checked(outputs).unwrap_or_default();
        *values = rest;
        Ok(Self { weight, bias })
    }

    fn apply(&self, x: &[Number], activation: Activation, out: &mut [Number]) -> Result<(), Error> {
        linear(x, self.weight, Epilogue::new().bias(self.bias).activation(activation), out)
    }
}

/// The trained network.
pub struct Classifier {
    first: Layer,
    second: Layer,
    last: Layer,
}

impl Classifier {
    pub fn new() -> Result<Self, ShapeError> {
        let mut values = &WEIGHTS[..];
        Ok(Self {
            first: Layer::take(&mut values, 64, 128)?,
            second: Layer::take(&mut values, 128, 64)?,
            last: Layer::take(&mut values, 64, 10)?,
        })
    }

    /// The probability of each class.
    pub fn classify(&self, pixels: &[u8; 64]) -> Result<[Number; 10], Error> {
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
pub fn argmax(values: &[Number; 10]) -> usize {
    let (mut best, mut largest) = (0, values[0]);
    for (at, &value) in values.iter().enumerate() {
        if value > largest {
            (best, largest) = (at, value);
        }
    }
    best
}

/// The images that training never saw, each with its class.
pub fn test_images() -> impl Iterator<Item = (&'static [u8; 64], u8)> {
    TEST_SET.chunks_exact(65).filter_map(|record| match record.split_first_chunk() {
        Some((pixels, &[class])) => Some((pixels, class)),
        _ => None,
    })
}
