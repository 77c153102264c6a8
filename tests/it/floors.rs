//! The floors of the house hold: no file uses a higher floor, and crates stay in the rooms they belong to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module to floor, as drawn in `src/lib.rs`.
const FLOORS: &[(&str, u8)] = &[
    ("tensor", 0),
    ("place", 0),
    ("causes", 0),
    ("observe", 0),
    ("api", 1),
    ("inference", 1),
    ("manifest", 2),
    ("validate", 2),
    ("store", 2),
    ("resolve", 2),
    ("codec", 2),
    ("storage", 3),
    ("engine", 3),
    ("pool", 4),
    ("router", 5),
    ("protocol", 6),
    ("control", 6),
    ("server", 7),
    ("config", 7),
    ("telemetry", 7),
    ("shutdown", 7),
    ("cli", 7),
    ("main", 7),
    ("main_cuda", 7),
];

/// Neighbours on one floor that may use each other: the rules build on one another in this order, the
/// house knows everyone. Doors and mind, storage and engine never meet.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("validate", "manifest"),
    ("store", "manifest"),
    ("store", "validate"),
    ("resolve", "validate"),
    ("resolve", "store"),
    ("tensor", "observe"),
];

/// Crates and the only files or folders that may name them.
const ROOMS: &[(&str, &[&str])] = &[
    ("granit_parser", &["manifest"]),
    ("serde_saphyr", &["manifest", "config"]),
    ("ort", &["engine/onnx"]),
    ("axum", &["protocol"]),
    ("tonic", &["protocol", "codec/open_inference.rs"]),
    ("notify", &["control/watch"]),
    ("object_store", &["storage"]),
    ("clap", &["cli", "main.rs"]),
    ("rustyline", &["cli"]),
    ("minijinja", &["codec/chat"]),
    ("llguidance", &["engine/generation/grammar"]),
    ("anyhow", &["cli", "server", "main.rs"]),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("the source folder is there").map(|e| e.expect("readable").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file by its path below `src`, with the code above `mod tests`: tests may look anywhere.
fn sources() -> BTreeMap<String, String> {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            (path.strip_prefix(source()).expect("below src").to_string_lossy().into_owned(), code)
        })
        .collect()
}

fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The modules a line of code names by `crate::`, one by one or in braces.
fn used_modules(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        let names = part.strip_prefix('{').map_or(part, |list| list.split('}').next().unwrap_or(list));
        let several = part.starts_with('{');
        for name in names.split(',').take(if several { usize::MAX } else { 1 }) {
            found.push(name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

fn may_use(from: &str, used: &str) -> bool {
    if from == used || NEIGHBOURS.contains(&(from, used)) {
        return true;
    }
    match (floor_of(from), floor_of(used)) {
        (Some(7), Some(_)) => true,
        (Some(above), Some(below)) => above > below,
        _ => false,
    }
}

#[test]
fn every_module_stands_on_a_floor() {
    for file in sources().keys().filter(|file| *file != "lib.rs") {
        assert!(floor_of(module_of(file)).is_some(), "src/{file}: module `{}` has no floor in tests/it/floors.rs", module_of(file));
    }
}

#[test]
fn a_file_uses_its_own_folder_and_lower_floors_only() {
    let mut wrong = Vec::new();
    for (file, code) in sources().iter().filter(|(file, _)| *file != "lib.rs") {
        for (number, line) in code.lines().enumerate() {
            for used in used_modules(line).iter().filter(|used| floor_of(used).is_some() && !may_use(module_of(file), used)) {
                wrong.push(format!("src/{file}:{}: `{}` must not use `{used}`", number + 1, module_of(file)));
            }
        }
    }
    assert!(wrong.is_empty(), "upward or sideways uses:\n{}", wrong.join("\n"));
}

/// Whether a line names a crate by `krate::`, and not `Report::` for `ort::` or a module `a::krate::`.
fn names_crate(code: &str, krate: &str) -> bool {
    let inside = |before: char| before.is_alphanumeric() || matches!(before, '_' | ':');
    code.match_indices(&format!("{krate}::")).any(|(start, _)| !code[..start].ends_with(inside))
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (file, code) in &sources() {
        for (krate, rooms) in ROOMS {
            if rooms.iter().any(|room| file.starts_with(room)) {
                continue;
            }
            for (number, line) in code.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if names_crate(code, krate) {
                    wrong.push(format!("src/{file}:{}: `{krate}` belongs to {rooms:?}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "crates outside their rooms:\n{}", wrong.join("\n"));
}

#[test]
fn the_rules_are_pure() {
    let mut wrong = Vec::new();
    for (file, code) in sources().iter().filter(|(file, _)| floor_of(module_of(file)).is_some_and(|floor| floor <= 2)) {
        for (number, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if ["tokio::", "std::fs", "SystemTime::now", "Instant::now", "async fn"].iter().any(|word| code.contains(word))
                && !file.contains("open_inference")
            {
                wrong.push(format!("src/{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "floors 0-2 neither wait nor read clocks or files:\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_short_enough_to_read() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(file, code)| !file.contains("open_inference") && code.lines().count() > 600)
        .map(|(file, code)| format!("src/{file}: {} lines", code.lines().count()))
        .collect();
    assert!(long.is_empty(), "past 600 lines, ask what the second idea is:\n{}", long.join("\n"));
}
