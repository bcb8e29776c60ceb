//! What the programs here ask of a board: counting instructions, measuring the stack, printing, ending. All of it by
//! way of the emulator, so nothing here is for a product.
#![allow(dead_code, reason = "shared by programs that each use a part")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::{SYST, syst::SystClkSource};
use cortex_m_semihosting::{
    debug,
    hio::{self, HostStream},
};

/// Instructions for each tick of SysTick, in 1/64: QEMU is told how long an instruction takes (`-icount shift=5`,
/// 32 ns), the board says how long a tick is.
#[cfg(target_abi = "eabihf")]
const INSTRUCTIONS_PER_64_TICKS: u64 = 80; // 25 MHz: a tick takes 40 ns
#[cfg(not(target_abi = "eabihf"))]
const INSTRUCTIONS_PER_64_TICKS: u64 = 125; // 16 MHz: a tick takes 62.5 ns

const RELOAD: u32 = 0x00ff_ffff;
static WRAPS: AtomicU32 = AtomicU32::new(0);

/// The board, once its timer runs.
pub struct Board {
    out: Option<HostStream>,
}

#[cortex_m_rt::exception]
fn SysTick() {
    WRAPS.store(WRAPS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Board {
    pub fn new() -> Self {
        // SAFETY: the program has one thread, and nothing else uses SysTick.
        let mut timer = unsafe { cortex_m::Peripherals::steal() }.SYST;
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD);
        timer.clear_current();
        timer.enable_interrupt();
        timer.enable_counter();
        paint_stack();
        Self { out: hio::hstdout().ok() }
    }

    pub fn print(&mut self, text: &str) {
        if let Some(out) = &mut self.out {
            let _ = out.write_all(text.as_bytes());
        }
    }

    /// Prints a number. Without `core::fmt`, which is larger than a network.
    pub fn print_number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            used += 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        if let (Some(out), Some(digits)) = (&mut self.out, digits.get(20 - used..)) {
            let _ = out.write_all(digits);
        }
    }

    /// Ends the emulator.
    pub fn exit(self, right: bool) -> ! {
        debug::exit(if right { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
        loop {}
    }
}

/// Ticks since the start.
fn ticks() -> u64 {
    loop {
        let wraps = WRAPS.load(Ordering::Relaxed);
        let left = SYST::get_current();
        if wraps == WRAPS.load(Ordering::Relaxed) {
            return u64::from(wraps) * u64::from(RELOAD + 1) + u64::from(RELOAD - left);
        }
    }
}

/// How many instructions `body` takes, to about twenty.
#[inline(never)]
pub fn count(body: impl FnOnce()) -> u64 {
    let start = ticks();
    body();
    (ticks() - start) * INSTRUCTIONS_PER_64_TICKS / 64
}

const PAINT: u32 = 0xcccc_cccc;

unsafe extern "C" {
    /// The lowest address that the stack may use: where the program's variables end. Named by cortex-m-rt.
    static mut __sheap: u32;
}

fn stack_pointer() -> *mut u32 {
    let pointer: *mut u32;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Fills the stack below here, so that [`stack_used`] finds how deep calls went since.
#[inline(never)]
pub fn paint_stack() {
    let end = stack_pointer().wrapping_sub(16);
    let mut at = &raw mut __sheap;
    while at < end {
        // SAFETY: memory between the program's variables and the stack's end, with some distance to what this function
        // has there, is nobody's.
        unsafe { at.write_volatile(PAINT) };
        at = at.wrapping_add(1);
    }
}

/// How many bytes of stack were used below the caller since [`paint_stack`].
#[inline(never)]
pub fn stack_used() -> usize {
    let top = stack_pointer();
    let mut at = &raw mut __sheap;
    // SAFETY: as in `paint_stack`.
    while at < top && unsafe { at.read_volatile() } == PAINT {
        at = at.wrapping_add(1);
    }
    top as usize - at as usize
}
