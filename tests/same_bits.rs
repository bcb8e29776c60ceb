//! A build with std gives the bits that one without gives: at the CPU level that each finds, which is the same, and at
//! the one that the target was compiled for. `make test-no-std` puts into POLYGLOT_NO_STD_BITS the path of what the
//! program in tests/no_std printed; without it there is nothing to compare.

#[path = "no_std/src/bits.rs"]
mod bits;

use polyglot_bridge::{Float, simd};

fn lines<T: Float>(name: &str, lines: &mut Vec<String>) {
    bits::of_operations::<T>(|operation, bits| lines.push(format!("{name} {operation} {bits:016x}"))).expect("shapes");
}

/// At the level in force.
fn all_lines(own: &mut Vec<String>) {
    own.push(format!("level {:016x}", bits::level()));
    lines::<f32>("f32", own);
    lines::<f64>("f64", own);
    #[cfg(feature = "f16")]
    {
        lines::<half::f16>("f16", own);
        lines::<half::bf16>("bf16", own);
    }
}

#[test]
fn a_build_without_std_gives_the_same_bits() {
    let mut own = Vec::new();
    all_lines(&mut own);
    simd::set_level(simd::Level::baseline());
    all_lines(&mut own);
    let Some(path) = std::env::var_os("POLYGLOT_NO_STD_BITS") else { return };
    let other = std::fs::read_to_string(path).expect("what tests/no_std printed");
    assert!(own.len() > 20);
    for (own, other) in own.iter().zip(other.lines()) {
        assert_eq!(own, other, "with std (left) and without");
    }
    assert_eq!(own.len(), other.lines().count());
}
