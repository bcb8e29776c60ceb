//! Classifies the test digits that lie in flash and prints the class of each, then what that took: instructions, stack.
#![no_std]
#![no_main]

#[path = "../board.rs"]
mod board;
#[path = "../network.rs"]
mod network;
#[path = "../panic.rs"]
mod panic;

use board::Board;
use network::{Classifier, argmax, test_images};

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut board = Board::new();
    let Ok(classifier) = Classifier::new() else { board.exit(false) };
    let (mut right, mut total, mut instructions, mut most_stack) = (0_u32, 0_u32, 0, 0);
    for (pixels, class) in test_images() {
        let mut predicted = None;
        board::paint_stack();
        instructions += board::count(|| predicted = classifier.classify(pixels).ok().as_ref().map(argmax));
        most_stack = board::stack_used().max(most_stack);
        let Some(predicted) = predicted else { board.exit(false) };
        board.print("class ");
        board.print_number(predicted as u64);
        board.print("\n");
        right += u32::from(predicted == usize::from(class));
        total += 1;
    }
    for (name, value) in [
        ("digits", u64::from(total)),
        ("right", u64::from(right)),
        ("instructions a digit", instructions / u64::from(total.max(1))),
        ("stack bytes", most_stack as u64),
    ] {
        board.print(name);
        board.print(" ");
        board.print_number(value);
        board.print("\n");
    }
    board.exit(true)
}
