//! A panic handler that cannot be linked: the function it calls does not exist. A program that includes this file and
//! links has no panic in it that could happen.

unsafe extern "C" {
    safe fn a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    a_panic_is_reachable()
}
