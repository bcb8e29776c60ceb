//! Counts the instructions that operations take an element, beside what one would write or link instead. Prints a line
//! for each: who, operation, instructions of one call, elements.
#![no_std]
#![no_main]

#[path = "../board.rs"]
mod board;
#[cfg(feature = "cmsis")]
#[path = "../cmsis.rs"]
mod cmsis;
#[path = "../loops.rs"]
mod loops;
#[path = "../race.rs"]
mod race;

use board::Board;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

fn agree(out: &[f32; race::LEN], expected: &[f32; race::LEN], tolerance: f32) -> bool {
    out.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance)
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut board = Board::new();
    let (mut expected, mut right) = ([0.0; race::LEN], true);
    for entry in race::ENTRIES {
        let (mut out, mut result) = ([0.0; race::LEN], Ok(()));
        let instructions = board::count(|| result = entry.run(&mut out));
        for part in [entry.who, " ", entry.operation, " "] {
            board.print(part);
        }
        board.print_number(instructions);
        board.print(" ");
        board.print_number(entry.elements as u64);
        if entry.who == "libm" {
            expected = out;
        }
        if result.is_err() || !agree(&out, &expected, entry.tolerance) {
            board.print(" WRONG");
            right = false;
        }
        board.print("\n");
    }
    board.exit(right)
}
