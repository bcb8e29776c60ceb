//! Shows that the crate needs neither std nor an allocator: this program has neither, links and runs.
//!
//! A dependency that needed std would bring a second panic handler (E0152); one that needed alloc would ask for a
//! global allocator. The exit code is 0 where the results are right, else the number of the check that failed. What it
//! prints are the results' bits, for tests/same_bits.rs to compare.
#![no_std]
#![no_main]

mod bits;

use core::arch::{asm, naked_asm};

use polyglot_bridge::{
    Compute, Error, Float, Mask, ShapeError, dropout_add, layer_norm, rms_norm, scale, simd, softmax, sum_of_squares,
};

/// Where the kernel enters: calls [`run`] with the stack aligned as the calling convention asks.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "call {run}", "ud2", run = sym run)
}

extern "C" fn run() -> ! {
    exit(match checks() {
        Ok(code) => code,
        Err(_) => 100,
    })
}

fn checks() -> Result<u8, Error> {
    print_all_bits()?;
    simd::set_level(simd::Level::baseline());
    print_all_bits()?;
    let mut code = operations::<f32>(1, 1e-6)?;
    code = code.max(operations::<f64>(11, 1e-14)?);
    #[cfg(feature = "f16")]
    {
        code = code.max(operations::<half::f16>(21, 2e-3)?);
        code = code.max(operations::<half::bf16>(31, 2e-2)?);
    }
    Ok(code)
}

/// 0, or `first` plus the number of the first operation whose result is wrong.
fn operations<T: Float>(first: u8, tolerance: f64) -> Result<u8, ShapeError> {
    let row = |values: [f64; 4]| values.map(|value| T::from_acc(Compute::from_f64(value)));
    let x = row([1.0, 2.0, 3.0, 6.0]);
    let one = <T::Acc as num_traits::One>::one();
    let mut out = [T::ZERO; 4];
    let mut wrong = 0;
    let mut expect = |number: u8, found: &[T; 4], expected: [f64; 4]| {
        let right = found.iter().zip(expected).all(|(found, expected)| {
            let error = found.to_acc().into_f64() - expected;
            -tolerance <= error && error <= tolerance
        });
        if !right && wrong == 0 {
            wrong = first + number;
        }
    };

    let ln_2 = core::f64::consts::LN_2;
    softmax(&row([0.0, 0.0, ln_2, f64::NEG_INFINITY]), &mut out)?;
    expect(0, &out, [0.25, 0.25, 0.5, 0.0]);
    // The mean is 3, the variance 3.5.
    layer_norm(&x, Some(&row([2.0; 4])), Some(&row([1.0; 4])), one - one, &mut out)?;
    let root = 1.8708286933869707;
    expect(1, &out, [1.0 - 4.0 / root, 1.0 - 2.0 / root, 1.0, 1.0 + 6.0 / root]);
    rms_norm(&x, None, one - one, &mut out)?;
    let root = 3.5355339059327378;
    expect(2, &out, [1.0 / root, 2.0 / root, 3.0 / root, 6.0 / root]);
    scale(&x, one + one, &mut out)?;
    expect(3, &out, [2.0, 4.0, 6.0, 12.0]);
    dropout_add(&x, &x, Mask::Select((&[1, 0, 1, 0]).into()), one, &mut out)?;
    expect(4, &out, [2.0, 2.0, 6.0, 6.0]);
    let sum = sum_of_squares::<T>(&x);
    expect(5, &row([sum, 0.0, 0.0, 0.0]), [50.0, 0.0, 0.0, 0.0]);
    Ok(wrong)
}

/// At the level in force.
fn print_all_bits() -> Result<(), Error> {
    print_line(&["level"], bits::level());
    print_bits::<f32>("f32 ")?;
    print_bits::<f64>("f64 ")?;
    #[cfg(feature = "f16")]
    {
        print_bits::<half::f16>("f16 ")?;
        print_bits::<half::bf16>("bf16 ")?;
    }
    Ok(())
}

/// A line for each operation: type, name, and the number of its results in hexadecimal digits.
fn print_bits<T: Float>(name: &str) -> Result<(), Error> {
    bits::of_operations::<T>(|operation, bits| print_line(&[name, operation], bits))
}

fn print_line(names: &[&str], bits: u64) {
    let digit = |place: usize| b"0123456789abcdef"[(bits >> (60 - 4 * place)) as usize & 15];
    let mut digits = [b' '; 18];
    for (place, value) in digits[1..17].iter_mut().enumerate() {
        *value = digit(place);
    }
    digits[17] = b'\n';
    for name in names {
        write(name.as_bytes());
    }
    write(&digits);
}

/// Writes to standard output: system call 1.
fn write(bytes: &[u8]) {
    // SAFETY: the call reads as many bytes as the slice has; it clobbers rcx and r11.
    unsafe {
        asm!("syscall", inout("rax") 1_usize => _, in("rdi") 1, in("rsi") bytes.as_ptr(), in("rdx") bytes.len(),
            out("rcx") _, out("r11") _, options(nostack));
    }
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

/// The compiled core names it in its tables for unwinding, of which a program that aborts makes no use.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
