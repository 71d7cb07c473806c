//! The house is tidy: who imports whom, what PURE layers leave alone, and how files look.
//!
//! Reads every Rust file of the workspace. The table of the rooms is in `rooms`; the tests at the bottom show on small
//! snippets that each check can fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rooms::Rooms;
use source::Source;

mod rooms;
mod snippets;
mod source;

/// Most characters in a line; the formatter wraps code at 100, but not comments and texts.
const LINE_LENGTH_MAX: usize = 120;
/// Names that say nothing about what is inside.
const NAMES_BANNED: [&str; 4] = ["utils", "common", "helpers", "manager"];
/// Words that mean unfinished work; put together here, or this file would not pass.
const WORDS_BANNED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];
/// Folders with Rust files.
const FOLDERS: [&str; 5] = ["src", "simulator", "tests", "benches", "examples"];
/// Roots of crates, and the crate's name as others write it.
const CRATES: [(&str, &str); 4] = [
    ("src/lib.rs", "lorawan_fuota"),
    ("src/main.rs", "lorawan_fuota"),
    ("simulator/src/lib.rs", "fuota_simulator"),
    ("simulator/src/main.rs", "fuota_simulator"),
];
/// Roots of crates that may import whatever they like.
const FREE_CRATES: [&str; 3] = [
    "build.rs",
    "tests/suite/main.rs",
    "simulator/tests/suite/main.rs",
];

#[test]
fn rooms_import_only_what_the_table_allows() {
    let rooms = Rooms::of_the_house();
    let mut faults = Vec::new();
    for module in reachable(&CRATES)
        .modules
        .iter()
        .filter(|module| !module.test)
    {
        // The root of a library declares its modules and imports nothing.
        let place = match (module.krate, &module.path[..]) {
            (_, []) if module.file.ends_with("src/lib.rs") => continue,
            ("fuota_simulator", []) => "simulator/main".to_owned(),
            (_, []) => "main".to_owned(),
            ("fuota_simulator", path) => format!("simulator/{}", path.join("/")),
            (_, path) => path.join("/"),
        };
        let found = rooms.faults(&place, &module.source);
        faults.extend(
            found
                .into_iter()
                .map(|(line, what)| at(&module.file, line, &what)),
        );
    }
    assert_none(faults);
}

#[test]
fn every_file_is_declared_by_a_module() {
    let benches = files()
        .into_iter()
        .filter(|file| file.starts_with("benches"));
    let benches: Vec<String> = benches.map(|file| file.display().to_string()).collect();
    let free = FREE_CRATES
        .into_iter()
        .chain(benches.iter().map(String::as_str));
    let roots: Vec<_> = CRATES
        .into_iter()
        .chain(free.map(|file| (file, "free")))
        .collect();
    let house = reachable(&roots);
    let mut faults = house.missing;
    let known: BTreeSet<_> = house
        .modules
        .into_iter()
        .map(|module| module.file)
        .collect();
    let dead = files().into_iter().filter(|file| !known.contains(file));
    faults.extend(dead.map(|file| at(&file, 1, "no `mod` declares this file")));
    assert_none(faults);
}

#[test]
fn files_are_written_alike() {
    let mut faults = Vec::new();
    for file in files() {
        let found = look_faults(&file, &read(&file));
        faults.extend(found.into_iter().map(|(line, what)| at(&file, line, &what)));
    }
    assert_none(faults);
}

/// What is wrong with the looks of a file.
fn look_faults(file: &Path, text: &str) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    let names = file
        .iter()
        .filter_map(|part| Path::new(part).file_stem()?.to_str());
    for name in names.filter(|name| NAMES_BANNED.contains(name)) {
        faults.push((1, format!("`{name}` says nothing about what is inside")));
    }
    if !text.starts_with("//!") {
        faults.push((1, "does not open with `//!`: what it is for".to_owned()));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let length = line.chars().count();
        // The formatter keeps code to its width; what it cannot break (texts, macro arguments) is left whole here too.
        let breakable = line.trim_start().starts_with("//");
        if length > LINE_LENGTH_MAX && breakable {
            faults.push((
                number,
                format!("{length} characters, more than {LINE_LENGTH_MAX}"),
            ));
        }
        if line.ends_with(char::is_whitespace) {
            faults.push((number, "ends with white space".to_owned()));
        }
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if let Some(word) = words.find(|word| WORDS_BANNED.contains(word)) {
            faults.push((number, format!("{word}: finish it, or file it")));
        }
    }
    if !text.ends_with('\n') || text.ends_with("\n\n") {
        faults.push((
            text.lines().count(),
            "does not end with one line feed".to_owned(),
        ));
    }
    for pair in source::tokens(text).windows(2) {
        if pair[0].text == "dbg" && pair[1].text == "!" {
            faults.push((pair[0].line, "a debugging print".to_owned()));
        }
    }
    faults
}

/// A module of the workspace in its file.
struct Module {
    krate: &'static str,
    path: Vec<String>,
    file: PathBuf,
    /// Compiled for tests only.
    test: bool,
    source: Source,
}

/// What the roots lead to.
struct House {
    modules: Vec<Module>,
    /// Modules that are declared and have no file.
    missing: Vec<String>,
}

fn reachable(roots: &[(&str, &'static str)]) -> House {
    let mut house = House {
        modules: Vec::new(),
        missing: Vec::new(),
    };
    let mut open: Vec<(PathBuf, &'static str, Vec<String>, bool)> = Vec::new();
    open.extend(
        roots
            .iter()
            .map(|&(file, krate)| (file.into(), krate, Vec::new(), false)),
    );
    while let Some((file, krate, path, test)) = open.pop() {
        let source = Source::read(&read(&file), krate, &path);
        for child in source.declared.iter().filter(|child| !child.inline) {
            let candidates = child_files(&file, path.is_empty(), &child.path);
            match candidates
                .iter()
                .find(|candidate| root().join(candidate).is_file())
            {
                Some(found) => {
                    let below = path.iter().chain(&child.path).cloned().collect();
                    open.push((found.clone(), krate, below, test || child.test));
                }
                None => house
                    .missing
                    .push(at(&file, child.line, "this module has no file")),
            }
        }
        house.modules.push(Module {
            krate,
            path,
            file,
            test,
            source,
        });
    }
    house
}

/// Where the file of the module `child`, declared in `file`, may be.
fn child_files(file: &Path, is_root: bool, child: &[String]) -> [PathBuf; 2] {
    let folder = if is_root || file.ends_with("mod.rs") {
        file.parent().map(Path::to_owned).unwrap_or_default()
    } else {
        file.with_extension("")
    };
    let folder = folder.join(child.iter().collect::<PathBuf>());
    [folder.with_extension("rs"), folder.join("mod.rs")]
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Every Rust file, relative to the root, in order.
fn files() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("build.rs")];
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(root().join(&folder)) else {
            continue;
        };
        for entry in entries.map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "only {} files found", found.len());
    found
}

fn at(file: &Path, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", file.display())
}

fn assert_none(mut faults: Vec<String>) {
    faults.sort();
    faults.dedup();
    let count = faults.len();
    assert!(faults.is_empty(), "{count} found:\n{}", faults.join("\n"));
}
