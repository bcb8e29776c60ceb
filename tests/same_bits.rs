//! A build with std gives the bits that one without gives: at the CPU level that each finds, which is the same, and at
//! the one that the other was compiled for. `make test-no-std` puts into POLYGLOT_NO_STD_BITS the path of what the
//! program in tests/no_std printed; without it there is nothing to compare.

#[path = "no_std/src/bits.rs"]
mod bits;
mod common;

use polyglot_bridge::{Float, simd};

fn lines<T: Float>(name: &str, lines: &mut Vec<String>) {
    bits::of_operations::<T>(|operation, bits| lines.push(format!("{name} {operation} {bits:016x}"))).expect("shapes");
}

/// At the level in force.
fn all_lines() -> Vec<String> {
    let mut own = vec![format!("level {:016x}", bits::level())];
    lines::<f32>("f32", &mut own);
    lines::<f64>("f64", &mut own);
    #[cfg(feature = "f16")]
    {
        lines::<half::f16>("f16", &mut own);
        lines::<half::bf16>("bf16", &mut own);
    }
    own
}

#[test]
fn a_build_without_std_gives_the_same_bits() {
    let found = all_lines();
    assert!(found.len() > 20);
    let Some(path) = std::env::var_os("POLYGLOT_NO_STD_BITS") else { return };
    let other = std::fs::read_to_string(path).expect("what tests/no_std printed");
    let other: Vec<&str> = other.lines().collect();
    assert_eq!(other.first(), found.first().map(String::as_str).as_ref(), "the level that each build finds");
    // What it found, then what it was compiled for.
    let sections: Vec<&[&str]> = other.chunks(found.len()).collect();
    assert_eq!(sections.len(), 2);
    for section in sections {
        let own = common::levels().into_iter().find_map(|level| {
            simd::set_level(level);
            (section.first() == Some(&&*format!("level {:016x}", bits::level()))).then(all_lines)
        });
        assert_eq!(section, own.expect("this CPU has the level"), "without std (left) and with");
    }
}
