//! Shows that the crate needs neither std nor an allocator: this program has neither, links and runs.
//!
//! A dependency that needed std would bring a second panic handler (E0152); one that needed alloc would ask for a
//! global allocator. The exit code is 0 where the results are right, else the number of the check that failed.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use polyglot_bridge::{Float, ShapeError, softmax_in_place};

/// Where the kernel enters: calls [`run`] with the stack aligned as the calling convention asks.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "call {run}", "ud2", run = sym run)
}

extern "C" fn run() -> ! {
    exit(match checks() {
        Ok(code) => code,
        Err(_shape) => 100,
    })
}

fn checks() -> Result<u8, ShapeError> {
    if !softmax_is_right::<f32>(1e-6)? {
        return Ok(1);
    }
    if !softmax_is_right::<f64>(1e-14)? {
        return Ok(2);
    }
    #[cfg(feature = "f16")]
    if !softmax_is_right::<half::f16>(1e-3)? || !softmax_is_right::<half::bf16>(1e-2)? {
        return Ok(3);
    }
    Ok(0)
}

/// Whether the softmax of (0, 0, ln 2) is (1/4, 1/4, 1/2).
fn softmax_is_right<T: Float>(tolerance: f64) -> Result<bool, ShapeError> {
    let mut row = [0.0, 0.0, core::f64::consts::LN_2].map(from_f64::<T>);
    softmax_in_place(&mut row)?;
    Ok(row.into_iter().zip([0.25, 0.25, 0.5]).all(|(found, expected)| {
        let error = to_f64(found) - expected;
        -tolerance < error && error < tolerance
    }))
}

fn from_f64<T: Float>(value: f64) -> T {
    T::from_acc(polyglot_bridge::Compute::from_f64(value))
}

fn to_f64<T: Float>(value: T) -> f64 {
    polyglot_bridge::Compute::into_f64(value.to_acc())
}

/// Ends the process: system call 60.
fn exit(code: u8) -> ! {
    // SAFETY: the call takes one argument and does not return.
    unsafe { asm!("syscall", in("rax") 60, in("rdi") u64::from(code), options(noreturn, nostack)) }
}

// The four functions that compiled Rust calls wherever it copies, and that every platform supplies. Written with string
// instructions, so that the compiler cannot turn them into calls of themselves.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise is that of C's memcpy.
    unsafe { asm!("rep movsb", inout("rcx") len => _, inout("rdi") target => _, inout("rsi") source => _) }
    target
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    if target.addr().wrapping_sub(source.addr()) >= len {
        // SAFETY: the target does not begin within the source, so copying upwards reads each byte before it is written.
        return unsafe { memcpy(target, source, len) };
    }
    // SAFETY: the caller's promise is that of C's memmove; copying downwards reads each byte before it is written.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _,
            inout("rdi") target.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") source.wrapping_add(len).wrapping_sub(1) => _);
    }
    target
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise is that of C's memset.
    unsafe { asm!("rep stosb", inout("rcx") len => _, inout("rdi") target => _, in("al") byte as u8) }
    target
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: the caller's promise is that of C's memcmp. Volatile, so that the loop does not become a call of this.
        let (a, b) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
