//! The digit classifier from Rust, on builds without std as well: weights and test images lie in the binary, and
//! classifying allocates nothing.
//!
//! ```text
//! cargo run --release --example mlp --no-default-features --features libm,f16     # in f16, as they are stored
//! cargo run --release --example mlp --no-default-features --features libm         # widened to f32 when compiled
//! ```
//!
//! Prints the accuracy; with `--classes` the class of each test image instead, a line each, as `digits.py` does.

#[allow(unreachable_pub, reason = "firmware shares it")]
#[path = "embedded/src/network.rs"]
mod network;

use network::{Classifier, argmax, test_images};
use polyglot_bridge::Error;

fn main() -> Result<(), Error> {
    let classifier = Classifier::new()?;
    let print_classes = std::env::args().any(|argument| argument == "--classes");
    let (mut right, mut total) = (0_u32, 0_u32);
    for (pixels, class) in test_images() {
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
