//! Tells the linker where flash and RAM lie on the board that each target is run on.

use std::path::PathBuf;
use std::{env, fs};

/// QEMU's mps2-an386, a Cortex-M4F.
const MPS2: &str = "MEMORY { FLASH : ORIGIN = 0x00000000, LENGTH = 4096K\n RAM : ORIGIN = 0x20000000, LENGTH = 4096K }\n";
/// The BBC micro:bit, a Cortex-M0.
const MICROBIT: &str = "MEMORY { FLASH : ORIGIN = 0x00000000, LENGTH = 256K\n RAM : ORIGIN = 0x20000000, LENGTH = 16K }\n";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = env::var("TARGET").unwrap_or_default();
    let memory = match target.as_str() {
        "thumbv7em-none-eabihf" => MPS2,
        "thumbv6m-none-eabi" => MICROBIT,
        _ => return,
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("memory.x"), memory).expect("OUT_DIR can be written to");
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rerun-if-env-changed=CMSIS_DSP");
    if let Some(folder) = env::var_os("CMSIS_DSP") {
        // Folders of the compiled library and of the C library that it calls.
        for folder in env::split_paths(&folder) {
            println!("cargo::rustc-link-search={}", folder.display());
        }
        for library in ["cmsis", "m", "c"] {
            println!("cargo::rustc-link-lib=static={library}");
        }
    }
    for argument in ["-Tlink.x", "--nmagic"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
