//! The source keeps its order: modules import from modules below alone. And what the order is for: a program calls this
//! crate's kernels, and compiles none of them again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use polyglot_bridge::{Matrix, MatrixMut, softmax};

/// The floors of `src`, from the ground up. A folder's own name stands for its `mod.rs`; what that re-exports of its
/// files is no import. Modules of one floor do not import from one another.
const FLOORS: &[&str] = &[
    "macros error trace cache",
    "kernel math::constants simd",
    "simd::dispatch_any simd::dispatch_x86 simd::half simd::mode",
    "float",
    "simd::ordering simd::stores",
    "math math::unrolled",
    "math::exponential math::logarithm math::mean",
    "math::normal math::sigmoid math::tanh",
    "math::activation",
    "view",
    "view::matrix view::pairwise",
    "view::row view::panels",
    "view::inout",
    "workspace",
    "parallel",
    "parallel::thresholds parallel::sync",
    "parallel::slot parallel::split parallel::workers",
    "parallel::count",
    "parallel::calls",
    "gemm",
    "gemm::problem gemm::pack gemm::dot gemm::gemv_columns gemm::gemv_rows",
    "gemm::micro_kernel gemm::epilogue",
    "gemm::plan",
    "gemm::operands",
    "gemm::macro_kernel",
    "gemm::tiled gemm::direct",
    "gemm::backend",
    "gemm::partition",
    "ops",
    "ops::activation ops::dropout_add ops::embedding ops::layer_norm ops::linear ops::map ops::matmul ops::pool \
     ops::reduce ops::softmax ops::attention::mask ops::attention::online_softmax",
    "ops::attention::head ops::packed_linear",
    "ops::attention::block ops::sequential",
    "ops::attention",
    "lib",
    "python",
    "python::list",
    "python::errors",
    "python::dims python::dtype python::threads",
    "python::memory",
    "python::inspect python::ndarray",
    "python::strides python::take",
    "python::arguments python::call",
    "python::out",
    "python::launch",
    "python::same_shape",
    "python::elementwise python::embedding python::linear python::rows",
    "python::matmul python::sequential",
    "python::attention",
    "python::legacy",
    "python::legacy::arrays python::legacy::lists",
];

#[test]
fn modules_import_from_modules_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    collect(&root, &root, &mut sources);
    let mut floors: BTreeMap<&str, usize> = BTreeMap::new();
    for (floor, modules) in FLOORS.iter().enumerate() {
        for module in modules.split_whitespace() {
            assert!(floors.insert(module, floor).is_none(), "{module} stands on two floors");
            assert!(sources.contains_key(module), "{module} has a floor, and no file");
        }
    }
    let mut wrong = Vec::new();
    for (module, source) in &sources {
        let Some(floor) = floors.get(module.as_str()) else {
            wrong.push(format!("{module} has no floor"));
            continue;
        };
        for (inline, path) in imports(source) {
            let target = resolve(module, inline, &path, &sources);
            // A folder's `mod.rs` re-exports its files.
            let is_import = target != *module && !target.starts_with(&format!("{module}::"));
            if is_import && floors.get(target.as_str()).is_some_and(|other| other >= floor) {
                wrong.push(format!("{module} imports {path:?} from {target}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(sources.len() > 50, "{}", sources.len());
}

/// Module paths and what the files hold, without comments and tests.
fn collect(root: &Path, folder: &Path, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, sources);
            continue;
        }
        let name = path.strip_prefix(root).expect("within src").with_extension("");
        let parts: Vec<&str> =
            name.iter().map(|part| part.to_str().expect("UTF-8")).filter(|part| *part != "mod").collect();
        if parts.last() == Some(&"tests") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
        // Tests are a module at the end of a file; `mod tests;` is a file of its own.
        let end = code.iter().position(|line| line.trim() == "mod tests {").unwrap_or(code.len());
        sources.insert(parts.join("::"), code[..end].join("\n"));
    }
}

/// The paths that begin with `crate` or `super`, those in braces one by one, each with the number of modules within the
/// file that it stands in.
fn imports(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let len = if word > 0 {
            word
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..len]);
        }
        rest = &rest[len..];
    }
    let (mut all, mut braces, mut inline) = (Vec::new(), 0, Vec::new());
    for index in 0..tokens.len() {
        match tokens[index] {
            "{" => braces += 1,
            "}" => braces -= 1,
            "mod" if tokens.get(index + 2) == Some(&"{") => inline.push(braces),
            _ => {}
        }
        inline.retain(|&outside| tokens[index] != "}" || outside < braces);
        let begins = matches!(tokens[index], "crate" | "super") && tokens.get(index + 1) == Some(&"::");
        if begins && (index == 0 || !matches!(tokens[index - 1], "::" | "$")) {
            let mut paths = Vec::new();
            follow(&tokens, index, &mut Vec::new(), &mut paths);
            all.extend(paths.into_iter().map(|path| (inline.len(), path)));
        }
    }
    all
}

/// Reads one path from `index` on, and where it branches all of them; tells where it ends.
fn follow(tokens: &[&str], mut index: usize, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    loop {
        prefix.push(tokens[index].into());
        index += 1;
        if tokens.get(index) != Some(&"::") {
            break;
        }
        index += 1;
        if tokens.get(index) == Some(&"{") {
            index += 1;
            while tokens.get(index).is_some_and(|token| *token != "}") {
                index = if tokens[index] == "," { index + 1 } else { follow(tokens, index, prefix, paths) };
            }
            prefix.truncate(depth);
            return index + 1;
        }
        // A turbofish or a star ends a path.
        if !tokens.get(index).is_some_and(|token| token.starts_with(|c: char| c.is_alphabetic() || c == '_')) {
            break;
        }
    }
    paths.push(prefix.clone());
    prefix.truncate(depth);
    if tokens.get(index) == Some(&"as") { index + 2 } else { index }
}

/// The module that a path leads to from `module`, or one within it: its longest beginning that is a file.
fn resolve(module: &str, inline: usize, path: &[String], sources: &BTreeMap<String, String>) -> String {
    let mut place: Vec<&str> = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => module.split("::").collect(),
    };
    for (index, part) in path.iter().enumerate() {
        match part.as_str() {
            "crate" => {}
            "super" if index < inline => {}
            "super" => drop(place.pop()),
            part => place.push(part),
        }
    }
    while !place.is_empty() && !sources.contains_key(&place.join("::")) {
        place.pop();
    }
    if place.is_empty() { "lib".into() } else { place.join("::") }
}

/// This test calls softmax for f32, which the crate compiled: by a call of the kernel's method for f32
/// (`...Kernel3f32`), and with no copy of the code behind it, which would take a minute in each program that uses the
/// crate.
#[test]
fn a_program_calls_the_kernels_of_the_crate() {
    let mut out = [0.0_f32; 4];
    softmax(Matrix::from(&[0.0; 4]), MatrixMut::from(&mut out)).expect("shapes fit");
    assert_eq!(out, [0.25; 4]);
    if cfg!(polyglot_compile_on_use) || !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("left out: symbols are looked at on Linux on x86-64 alone, and where kernels are compiled once");
        return;
    }
    let Some((kernel, rows)) = symbols_of_softmax() else {
        println!("left out: there is no nm, or no library to compare with");
        return;
    };
    assert!(kernel, "softmax is not called by way of Kernel::f32");
    assert!(rows.is_empty(), "compiled again in the test: {rows:?}");
}

/// Whether this program holds the crate's softmax for f32, as the crate's library defines it, and the names of its
/// parts that the library does not define.
fn symbols_of_softmax() -> Option<(bool, Vec<String>)> {
    let program = std::env::current_exe().ok()?;
    let own = defined(&program)?;
    // In either way of mangling, `Kernel$GT$3f32` and `Kernel3f32`.
    let is_kernel = |name: &String| {
        name.contains("SoftmaxRows")
            && !name.contains("LogSoftmaxRows")
            && name.replace("$GT$", "").contains("Kernel3f32")
    };
    let kernel = own.iter().find(|name| is_kernel(name));
    let libraries = fs::read_dir(program.parent()?).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let libraries = libraries.filter(|path| {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        stem.starts_with("libpolyglot_bridge-") && path.extension().is_some_and(|extension| extension == "rlib")
    });
    let libraries: Vec<PathBuf> = libraries.collect();
    let Some(kernel) = kernel else { return (!libraries.is_empty()).then(|| (false, Vec::new())) };
    // There may be several, of other features.
    let of_crate = libraries.iter().filter_map(|path| defined(path)).find(|names| names.contains(kernel));
    let Some(of_crate) = of_crate else { return (!libraries.is_empty()).then(|| (true, vec![kernel.clone()])) };
    let is_body = |name: &&String| name.contains("softmax_row");
    assert!(of_crate.iter().any(|name| is_body(&name)), "the library has no softmax that could be missing here");
    Some((true, own.iter().filter(is_body).filter(|name| !of_crate.contains(name)).cloned().collect()))
}

/// The names that a program or library defines.
fn defined(path: &Path) -> Option<Vec<String>> {
    let output = Command::new("nm").arg("--defined-only").arg("--format=posix").arg(path).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<String> = text.lines().filter_map(|line| Some(line.split_once(' ')?.0.into())).collect();
    (!names.is_empty()).then_some(names)
}
