//! The checker, checked: each rule catches a small offender and lets its neighbour pass.

use std::path::Path;

use super::look_faults;
use super::rooms::Rooms;
use super::source::{Mention, Source};

const HOUSE: &str = "
    base          PURE  ->
    middle        PURE  -> base
    middle/shell  SHELL -> base
                           middle
    top           EDGE  -> middle
    simulator/sky PURE  -> base
";

fn source(place: &str, text: &str) -> Source {
    let words = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    match place.strip_prefix("simulator/") {
        Some(inside) => Source::read(text, "fuota_simulator", &words(inside)),
        None => Source::read(text, "lorawan_fuota", &words(place)),
    }
}

/// Faults of a module at `place` in [`HOUSE`], as `line: what`.
fn faults(place: &str, text: &str) -> Vec<String> {
    let faults = Rooms::read(HOUSE).faults(place, &source(place, text));
    let faults = faults
        .into_iter()
        .map(|(line, what)| format!("{line}: {what}"));
    faults.collect()
}

fn paths(text: &str) -> Vec<String> {
    let mentions = source("middle/part", text).mentions;
    let path = |mention: Mention| mention.path.join("::");
    mentions
        .into_iter()
        .filter(|mention| !mention.test)
        .map(path)
        .collect()
}

#[test]
fn a_plain_import_against_the_table_is_found_with_its_line() {
    assert_eq!(
        faults("base", "//! Base.\n\nuse crate::middle::Thing;\n"),
        ["3: `base` may not import `middle`"]
    );
    assert_eq!(faults("middle", "use crate::base::Thing;"), [""; 0]);
    assert_eq!(faults("base/part", "use crate::base::other;"), [""; 0]);
}

#[test]
fn an_edge_is_not_inherited() {
    assert_eq!(
        faults("top", "use crate::{middle, base::Thing};"),
        ["1: `top` may not import `base`"]
    );
}

#[test]
fn nested_and_renamed_imports_are_unfolded() {
    let text = "pub use crate::{\n    base::{self, a::{B as C, D}},\n    top as hidden,\n};";
    let found = ["base", "base::a::B", "base::a::D", "top"];
    let found: Vec<String> = found
        .iter()
        .map(|path| format!("lorawan_fuota::{path}"))
        .collect();
    assert_eq!(paths(text), found);
    assert_eq!(faults("middle", text), ["3: `middle` may not import `top`"]);
}

#[test]
fn a_path_in_the_code_counts_as_an_import() {
    for text in [
        "fn f() { crate::top::go(); }",
        "fn f(x: &lorawan_fuota::top::X) {}",
        "type T = Vec<crate::top::X>;",
        "fn f() { g::<crate::top::X>() }",
        "fn f() { super::top::go(); }",
        "use super::top;",
        "use crate::base; use super as up; fn f() { up::top::go(); }",
        "use crate as all; fn f() { all::top::go(); }",
        "mod inner { use super::super::top; }",
        "mod inner { fn f() { super::super::top::go(); } }",
        "macro_rules! m { () => { $crate::top::go() } }",
    ] {
        let found = faults("middle", text);
        let hit = found
            .iter()
            .any(|fault| fault == "1: `middle` may not import `top`");
        assert!(hit, "{text}: {found:?}");
    }
}

#[test]
fn a_part_that_is_a_room_of_its_own_is_not_the_whole() {
    let fault = ["1: `middle` may not import `middle/shell`"];
    assert_eq!(faults("middle", "use crate::middle::shell::Socket;"), fault);
    assert_eq!(faults("middle", "mod shell; pub use shell::Socket;"), fault);
    assert_eq!(faults("middle/part", "use super::shell::Socket;"), fault);
    assert_eq!(faults("middle/part", "use super::shelf::Book;"), [""; 0]);
    assert_eq!(
        faults("middle/shell", "use super::part; use crate::base;"),
        [""; 0]
    );
}

#[test]
fn the_simulator_has_its_own_root() {
    let text = "use lorawan_fuota::base; use crate::sky::Star; use lorawan_fuota::middle::X;";
    assert_eq!(
        faults("simulator/sky", text),
        ["1: `simulator/sky` may not import `middle`"]
    );
    assert_eq!(
        faults("base", "use fuota_simulator::sky;"),
        ["1: `base` may not import `simulator/sky`"]
    );
}

#[test]
fn what_has_no_row_is_a_fault() {
    assert!(faults("attic", "")[0].contains("`attic` is in no row"));
    assert!(faults("middle", "use crate::attic::Box;")[0].contains("leads to no room"));
    assert!(faults("middle", "use crate::*;")[0].contains("leads to no room"));
}

#[test]
fn comments_strings_and_visibility_import_nothing() {
    let text = r##"
        //! crate::top::A and [`crate::top`]
        /* use crate::top; /* nested */ use crate::top; */
        const A: &str = "use crate::top; \" crate::top::B";
        const B: &str = r#"" crate::top::C"#;
        const C: &[u8] = b"crate::top::D";
        const D: [char; 3] = ['"', '\'', '\\'];
        fn f<'a>(x: &'a str) -> impl Fn() + use<'a> { "crate::top::E" }
        pub(in crate::top) struct S;
    "##;
    assert_eq!(paths(text), [""; 0]);
}

#[test]
fn code_after_tricky_literals_is_still_read() {
    for literal in [
        "'\"'",
        "'\\''",
        "b'\\\\'",
        "\"\\\\\"",
        "r#\"\"\"#",
        "'\\u{1F600}'",
        "\"a\n b\"",
    ] {
        let text = format!("const X: T = {literal}; use crate::top::Y;");
        assert_eq!(paths(&text), ["lorawan_fuota::top::Y"], "{literal}");
    }
}

#[test]
fn tests_may_import_anything_and_end_where_they_end() {
    let text = "#[cfg(test)]\nuse crate::top::A;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() {}\n}\n\
                use crate::top::B;\n#[cfg(test)]\n#[path]\nfn g() { crate::top::c() }\n\
                #[cfg(not(test))]\nuse std::net;\n";
    assert_eq!(
        faults("middle", text),
        [
            "8: `middle` may not import `top`",
            "13: `std::net` in a PURE layer"
        ]
    );
}

#[test]
fn pure_layers_touch_no_clock_entropy_or_world() {
    for (text, named) in [
        ("use tokio::sync::Mutex;", "tokio"),
        ("async fn f() { tokio::spawn(g()).await }", "tokio"),
        ("#[tracing::instrument] fn f() {}", "tracing"),
        ("use sqlx;", "sqlx"),
        ("fn f() -> tonic::Status { g() }", "tonic"),
        ("fn f() { rand::rng(); }", "rand"),
        ("fn f() { getrandom::fill(&mut b); }", "getrandom"),
        ("use std::{fmt, fs::File};", "std::fs"),
        ("use std as s; fn f() { s::net::lookup() }", "std::net"),
        ("fn f() { std::process::exit(1) }", "std::process"),
        ("use std::time::{Duration, Instant};", "Instant"),
        ("fn f() { std::time::SystemTime::now(); }", "SystemTime"),
        ("use std::collections::{BTreeMap, HashMap};", "HashMap"),
        ("fn f(x: HashSet<u8>) {}", "HashSet"),
    ] {
        let found = faults("base", text);
        assert!(
            found.iter().any(|fault| fault.contains(named)),
            "{text}: {found:?}"
        );
        assert_eq!(faults("middle/shell", text), [""; 0], "{text}");
    }
    let innocent =
        "use std::time::Duration; use std::fmt; fn f(tokio: u8, rand: u8) -> u8 { tokio + rand }";
    assert_eq!(faults("base", innocent), [""; 0]);
}

#[test]
fn looks_are_checked() {
    let looks = |file: &str, text: &str| -> Vec<usize> {
        let faults = look_faults(Path::new(file), text);
        faults.into_iter().map(|(line, _)| line).collect()
    };
    let wide = |length: usize| format!("//! {}\n", "é".repeat(length - 4));
    assert_eq!(looks("src/good.rs", "//! Good.\n"), [0; 0]);
    assert_eq!(looks("src/utils.rs", "//! Good.\n"), [1]);
    assert_eq!(looks("src/helpers/good.rs", "//! Good.\n"), [1]);
    assert_eq!(looks("src/bad.rs", "use std::fmt;\n"), [1]);
    assert_eq!(looks("src/good.rs", &wide(120)), [0; 0]);
    assert_eq!(looks("src/bad.rs", &wide(121)), [1]);
    assert_eq!(looks("src/bad.rs", "//! Bad. \n"), [1]);
    assert_eq!(looks("src/bad.rs", "//! Bad."), [1]);
    assert_eq!(
        looks("src/bad.rs", concat!("//! Bad.\n\n// TO", "DO: later\n")),
        [3]
    );
    assert_eq!(looks("src/bad.rs", "//! Bad.\nfn f() { dbg!(1); }\n"), [2]);
    assert_eq!(
        looks("src/good.rs", "//! Never `dbg!(x)`, but xTODOx.\n"),
        [0; 0]
    );
}

#[test]
#[should_panic(expected = "base may name what is no room")]
fn a_table_with_an_unknown_name_is_refused() {
    Rooms::read("base PURE -> cellar");
}
