//! The floating-point mode: how results are rounded, and whether subnormals are flushed. Another library may have set
//! it on the calling thread (`-ffast-math` does when a library is loaded), or a program on the workers of its pool; kernels
//! run in the default mode, which is also what the compiler takes for granted.

/// The default mode, until this is dropped: then the thread's mode is what it was.
#[derive(Debug)]
#[must_use = "the mode lasts as long as this"]
pub(crate) struct DefaultMode {
    #[cfg(all(not(miri), any(all(target_arch = "x86_64", target_feature = "sse"), target_arch = "aarch64")))]
    before: Option<register::Value>,
}

impl DefaultMode {
    /// Reading the register takes a nanosecond or two; it is written only where that changes anything.
    #[inline(always)]
    pub(crate) fn set() -> Self {
        Self {
            #[cfg(all(not(miri), any(all(target_arch = "x86_64", target_feature = "sse"), target_arch = "aarch64")))]
            before: {
                let before = register::read();
                if register::is_default(before) {
                    None
                } else {
                    register::write(register::DEFAULT);
                    Some(before)
                }
            },
        }
    }
}

#[cfg(all(not(miri), any(all(target_arch = "x86_64", target_feature = "sse"), target_arch = "aarch64")))]
impl Drop for DefaultMode {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            register::write(before);
        }
    }
}

/// MXCSR: Intel's manual, volume 1, section 10.2.3.
#[cfg(all(not(miri), target_arch = "x86_64", target_feature = "sse"))]
mod register {
    use core::arch::asm;

    pub(super) type Value = u32;

    /// All exceptions masked, to nearest even, subnormals kept.
    pub(super) const DEFAULT: Value = 0x1f80;
    /// What has happened since these were cleared: no mode.
    const FLAGS: Value = 0x3f;

    #[inline(always)]
    pub(super) fn is_default(value: Value) -> bool {
        value & !FLAGS == DEFAULT
    }

    #[inline(always)]
    pub(super) fn read() -> Value {
        let mut value = 0;
        // SAFETY: stores the register in a variable of its size.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        value
    }

    #[inline(never)]
    #[cold]
    pub(super) fn write(value: Value) {
        // SAFETY: the default, which Rust's own code asks for, or what the register held before: no reserved bits.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
    }
}

/// FPCR: Arm's reference manual for the A profile, section C5.2.
#[cfg(all(not(miri), target_arch = "aarch64"))]
mod register {
    use core::arch::asm;

    pub(super) type Value = u64;

    /// To nearest even, subnormals kept, no traps.
    pub(super) const DEFAULT: Value = 0;

    #[inline(always)]
    pub(super) fn is_default(value: Value) -> bool {
        value == DEFAULT
    }

    #[inline(always)]
    pub(super) fn read() -> Value {
        let value;
        // SAFETY: reads the register.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    #[inline(never)]
    #[cold]
    pub(super) fn write(value: Value) {
        // SAFETY: the default, which Rust's own code asks for, or what the register held before. Not `nomem`: what is
        // computed from memory stays on its side.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}
