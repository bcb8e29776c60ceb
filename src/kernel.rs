//! How a generic kernel is compiled once, with this crate, for each of its own types, and for a user's type where that is
//! used: see [`Kernel`](crate::float::Kernel). No kernel is named here.

/// Makes a [`Kernel`](crate::float::Kernel) of a generic function. `Name::run(...)` calls it, in the default
/// floating-point mode.
macro_rules! kernel {
    ($(#[$meta:meta])* $name:ident<$T:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? = $body:path) => {
        $(#[$meta])*
        pub(crate) enum $name {}

        impl $name {
            #[inline]
            pub(crate) fn run<'a, $T: $crate::float::Float>($($arg: $ty),*) $(-> $out)? {
                let _mode = $crate::simd::mode::DefaultMode::set();
                $T::call::<Self>(($($arg,)*))
            }
        }

        impl $crate::float::Kernel for $name {
            type Args<'a, $T: $crate::float::Float> = ($($ty,)*);
            type Output<$T: $crate::float::Float> = $crate::kernel::kernel!(@output $($out)?);

            #[inline]
            fn any<$T: $crate::float::Float>(($($arg,)*): Self::Args<'_, $T>) -> Self::Output<$T> {
                $body($($arg),*)
            }

            $crate::kernel::kernel!(@own f32, f32, $body, $($arg)*);
            $crate::kernel::kernel!(@own f64, f64, $body, $($arg)*);
            #[cfg(feature = "f16")]
            $crate::kernel::kernel!(@own f16, half::f16, $body, $($arg)*);
            #[cfg(feature = "f16")]
            $crate::kernel::kernel!(@own bf16, half::bf16, $body, $($arg)*);
        }
    };
    (@own $type:ident, $T:ty, $body:path, $($arg:ident)*) => {
        #[cfg(not(polyglot_compile_on_use))]
        fn $type(($($arg,)*): Self::Args<'_, $T>) -> Self::Output<$T> {
            $body($($arg),*)
        }
    };
    (@output) => { () };
    (@output $out:ty) => { $out };
}
pub(crate) use kernel;
