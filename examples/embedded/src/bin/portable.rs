//! The digit classifier on any bare target, built to see that it links without std, allocator and panics: a core that
//! starts at `_start` classifies each image again and again.
#![no_std]
#![no_main]

#[path = "../network.rs"]
mod network;
#[path = "../panic.rs"]
mod panic;

use core::hint::black_box;

use network::{Classifier, argmax, test_images};

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    loop {
        let Ok(classifier) = Classifier::new() else { continue };
        for (pixels, _) in test_images() {
            black_box(classifier.classify(pixels).ok().as_ref().map(argmax));
        }
    }
}
