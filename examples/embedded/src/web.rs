//! The digit classifier as a WebAssembly module: `digits()` tells how many there are, `classify(index)` the class of one.
#![no_std]

#[path = "network.rs"]
mod network;
#[path = "panic.rs"]
mod panic;

use network::{Classifier, argmax, test_images};

/// How many test images there are.
#[unsafe(no_mangle)]
pub extern "C" fn digits() -> u32 {
    test_images().count() as u32
}

/// The class of a test image; 10 where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn classify(index: u32) -> u32 {
    let Ok(classifier) = Classifier::new() else { return 10 };
    let image = test_images().nth(index as usize);
    let scores = image.and_then(|(pixels, _)| classifier.classify(pixels).ok());
    scores.map_or(10, |scores| argmax(&scores) as u32)
}
