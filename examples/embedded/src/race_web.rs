//! What is measured, as a WebAssembly module: `run(index)` computes one entry, and a host counts what that takes.
#![no_std]

#[path = "loops.rs"]
mod loops;
#[path = "race.rs"]
mod race;

use core::cell::UnsafeCell;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

struct Results(UnsafeCell<[f32; race::LEN]>);

// SAFETY: a module without threads.
unsafe impl Sync for Results {}

static RESULTS: Results = Results(UnsafeCell::new([0.0; race::LEN]));

/// How many entries there are.
#[unsafe(no_mangle)]
pub extern "C" fn entries() -> u32 {
    race::ENTRIES.len() as u32
}

/// Computes an entry; 1 where that went well. The results stay at [`results`]; the host clears them before.
#[unsafe(no_mangle)]
pub extern "C" fn run(index: u32) -> u32 {
    // SAFETY: nobody else has a reference, as there are no threads and the host reads and writes between calls.
    let out = unsafe { &mut *RESULTS.0.get() };
    race::ENTRIES.get(index as usize).is_some_and(|entry| entry.run(out).is_ok()).into()
}

/// Where the results lie.
#[unsafe(no_mangle)]
pub extern "C" fn results() -> *mut f32 {
    RESULTS.0.get().cast()
}

/// How many results there are.
#[unsafe(no_mangle)]
pub extern "C" fn len() -> u32 {
    race::LEN as u32
}

/// Elements of an entry.
#[unsafe(no_mangle)]
pub extern "C" fn elements(index: u32) -> u32 {
    race::ENTRIES.get(index as usize).map_or(0, |entry| entry.elements as u32)
}

/// How far an entry's results may be from those of the loops with `libm`, which come first.
#[unsafe(no_mangle)]
pub extern "C" fn tolerance(index: u32) -> f32 {
    race::ENTRIES.get(index as usize).map_or(0.0, |entry| entry.tolerance)
}

/// Where letters of an entry's name lie, and how many: who computes, or what.
fn text(index: u32, operation: bool) -> &'static str {
    race::ENTRIES.get(index as usize).map_or("", |entry| if operation { entry.operation } else { entry.who })
}

#[unsafe(no_mangle)]
pub extern "C" fn text_start(index: u32, operation: u32) -> *const u8 {
    text(index, operation != 0).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn text_len(index: u32, operation: u32) -> u32 {
    text(index, operation != 0).len() as u32
}
