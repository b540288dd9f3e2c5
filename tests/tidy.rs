//! The house rules that a compiler does not check: which room may use which, where a crate may be named within its
//! crate, how long a file may be. Which crate may use which is Cargo's to enforce.
//!
//! The rules are pure functions from texts to complaints, and each is shown to complain below. The tables are those of
//! docs/ARCHITECTURE.md, so that the page cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A room (or crate) and the names beside it in a table.
type Table = BTreeMap<String, BTreeSet<String>>;

/// The crates that have rooms: how a path starts that leads into one from another crate, and where its files are. The
/// endpoint has none: Cargo knows that it uses no other crate of dssefs.
const CRATES: [(&str, &str); 4] = [
    ("dssefs", "src/"),
    ("dssefs_fs", "crates/dssefs-fs/src/"),
    ("dssefs_s3", "crates/dssefs-s3/src/"),
    ("dssefs_seal", "crates/dssefs-seal/src/"),
];

/// docs/STYLE.md: lines of a source file, its tests not counted.
const LINES_MAX: usize = 600;
/// rustfmt.toml: columns of a line. rustfmt breaks neither comments nor literals.
const COLUMNS_MAX: usize = 120;

#[test]
fn rooms_use_only_what_the_import_table_allows() {
    let table = table(&page(), "may use");
    let complaints = sources().iter().flat_map(|(path, text)| imports(&table, path, text)).collect::<Vec<_>>();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_import_table_allows_nothing_that_no_room_needs() {
    assert_eq!(needless(&table(&page(), "may use"), &sources()), Vec::<String>::new());
}

#[test]
fn the_import_table_has_no_cycle_and_names_every_room() {
    let table = table(&page(), "may use");
    assert_eq!(cycles(&table), Vec::<String>::new());
    let libs = CRATES.map(|(_, source)| read_lossy(&format!("{source}lib.rs")));
    let declared = libs.iter().flat_map(|lib| lib.lines());
    let rooms: BTreeSet<&str> = declared.filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let named = table.keys().map(String::as_str).collect();
    assert_eq!(rooms, named, "the lib.rs of the crates and docs/ARCHITECTURE.md name other rooms");
    assert!(table.len() > 10, "the table was not found: {table:?}");
}

#[test]
fn files_of_a_folder_do_not_import_each_other_in_a_circle() {
    let sources = sources();
    let folders: BTreeSet<&str> = sources.iter().filter_map(|(path, _)| path.strip_suffix("/mod.rs")).collect();
    assert!(folders.len() > 20, "the folders were not found: {folders:?}");
    let circles: Vec<_> = folders.iter().flat_map(|folder| circle(folder, &sources)).collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn crates_are_named_only_in_their_rooms() {
    let fences = table(&page(), "only in");
    assert!(fences.contains_key("unsafe") && fences.contains_key("tokio"), "the table was not found: {fences:?}");
    let complaints = sources().iter().flat_map(|(path, text)| trespasses(&fences, path, text)).collect::<Vec<_>>();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_name_of_the_algorithm_stands_in_few_places() {
    let complaints = sources().iter().filter_map(|(path, text)| algorithm(path, text)).collect::<Vec<_>>();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn files_are_short_and_rooms_say_what_they_do() {
    let sources = sources();
    let complaints = sources.iter().flat_map(|(path, text)| [length(path, text), docs(path, text)]).flatten();
    let complaints: Vec<_> = complaints.chain(twins(&sources)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn lines_are_at_most_120_columns_wide() {
    let rust: Vec<String> = tracked().into_iter().filter(|path| path.ends_with(".rs")).collect();
    let complaints: Vec<_> = rust.iter().flat_map(|path| wide_lines(path, &read_lossy(path))).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn every_dependency_has_a_reason() {
    let manifests: Vec<_> = tracked().into_iter().filter(|path| path.ends_with("Cargo.toml")).collect();
    assert!(manifests.len() > 4, "the manifests were not found: {manifests:?}");
    for path in manifests {
        assert_eq!(unexplained(&read_lossy(&path)), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn no_tracked_file_names_a_place_outside_the_project() {
    let complaints = tracked().iter().flat_map(|path| foreign_places(path, &read_lossy(path))).collect::<Vec<_>>();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

// The rules.

/// Rooms that `path` uses and may not.
fn imports(table: &Table, path: &str, text: &str) -> Vec<String> {
    let Some(room) = room(path) else { return Vec::new() };
    let Some(allowed) = table.get(room) else {
        return vec![format!("{path}: the room {room} is not in the import table")];
    };
    let (code, tests) = split(path, text);
    let used = &rooms_in(table, &code) | &rooms_in(table, &tests);
    let bad = used.iter().filter(|name| *name != room && !allowed.contains(*name));
    let mut complaints: Vec<String> = bad.map(|name| format!("{path}: {room} may not use {name}")).collect();
    complaints.extend(escapes(path, &code, 0).or_else(|| escapes(path, &tests, 1)));
    complaints
}

/// What the table allows a room and no file of it uses, its tests among them.
fn needless(table: &Table, sources: &[(String, String)]) -> Vec<String> {
    let mut used = Table::new();
    for (path, text) in sources {
        let Some(room) = room(path) else { continue };
        let (code, tests) = split(path, text);
        used.entry(room.to_owned()).or_default().extend([code, tests].iter().flat_map(|part| rooms_in(table, part)));
    }
    let none = BTreeSet::new();
    let unused = |room: &String, allowed: &BTreeSet<String>| {
        let unused = allowed.difference(used.get(room).unwrap_or(&none));
        unused.map(|name| format!("{room} does not use {name}")).collect::<Vec<_>>()
    };
    table.iter().flat_map(|(room, allowed)| unused(room, allowed)).collect()
}

/// The rooms of the table that the code names.
fn rooms_in(table: &Table, code: &str) -> BTreeSet<String> {
    mentioned_rooms(code).into_iter().filter(|name| table.contains_key(name)).collect()
}

/// The first segment of each path that starts at the root of a crate with rooms, also inside `crate::{...}`.
fn mentioned_rooms(code: &str) -> BTreeSet<String> {
    let code: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut names = BTreeSet::new();
    let roots = CRATES.iter().map(|(name, _)| *name).chain(["crate"]);
    let starts = roots.flat_map(|root| starts_of(&code, root)).collect::<Vec<_>>();
    for at in starts {
        let rest = &code[at..];
        match rest.strip_prefix('{') {
            None => names.extend(identifier(rest)),
            Some(list) => names.extend(first_segments(list)),
        }
    }
    names
}

/// Where the code goes on after each `root::` that starts a path.
fn starts_of(code: &str, root: &str) -> Vec<usize> {
    let root = format!("{root}::");
    let starts_path = |at: &usize| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    code.match_indices(&root).map(|(at, _)| at).filter(starts_path).map(|at| at + root.len()).collect()
}

/// The leading identifiers of the members of a list up to its closing brace.
fn first_segments(list: &str) -> Vec<String> {
    let (mut depth, mut members, mut member) = (0, Vec::new(), String::new());
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(std::mem::take(&mut member)),
            _ if depth == 0 => member.push(character),
            _ => {}
        }
    }
    members.push(member);
    members.iter().filter_map(|member| identifier(member.trim())).collect()
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// A chain of `super` that leaves the room by its door: imports are to be written as `crate::ROOM`.
fn escapes(path: &str, code: &str, inline_depth: usize) -> Option<String> {
    let (_, source) = CRATES.iter().find(|(_, source)| path.starts_with(source))?;
    let depth = path.strip_prefix(source)?.trim_end_matches("/mod.rs").matches('/').count() + inline_depth;
    let too_far = "super::".repeat(depth + 1);
    code.contains(&too_far).then(|| format!("{path}: {too_far} leaves the room; write crate::ROOM"))
}

/// Rooms that lie on a circle.
fn cycles(table: &Table) -> Vec<String> {
    let reaches_itself = |start: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(room) = open.pop() {
            for next in table.get(room).into_iter().flatten() {
                if next == start {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    };
    table.keys().filter(|room| reaches_itself(room)).cloned().collect()
}

/// The modules of `folder` that lie on a circle of imports. What its `mod.rs` gives out under another path counts as of
/// the module that it comes from.
fn circle(folder: &str, sources: &[(String, String)]) -> Option<String> {
    let inside = |path: &str| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned);
    let child = |path: &str| {
        let first = inside(path)?.split('/').next()?.trim_end_matches(".rs").to_owned();
        (first != "mod").then_some(first)
    };
    let children: BTreeSet<String> = sources.iter().filter_map(|(path, _)| child(path)).collect();
    let door = sources.iter().find(|(path, _)| *path == format!("{folder}/mod.rs"));
    let origins = door.map(|(path, text)| origins(&split(path, text).0, &children)).unwrap_or_default();
    let mut uses = Table::new();
    for (path, text) in sources {
        let (Some(own), Some(inner)) = (child(path), inside(path)) else { continue };
        let depth = inner.trim_end_matches("/mod.rs").matches('/').count() + 1;
        let code = split(path, text).0;
        let roots = ["super::".repeat(depth).trim_end_matches("::").to_owned(), absolute(folder)];
        let named = roots.iter().flat_map(|root| names_below(&code, root));
        let used =
            named.filter_map(|name| if children.contains(&name) { Some(name) } else { origins.get(&name).cloned() });
        uses.entry(own.clone()).or_default().extend(used.filter(|name| *name != own));
    }
    let circle = cycles(&uses);
    (!circle.is_empty()).then(|| format!("{folder}: {} import each other", circle.join(", ")))
}

/// `crate::a::b` for the folder `SOURCE/a/b`.
fn absolute(folder: &str) -> String {
    let inside = folder.split_once("src/").map_or(folder, |(_, inside)| inside);
    format!("crate::{}", inside.replace('/', "::"))
}

/// The first segments of paths in the module `root`, also inside `root::{...}`.
fn names_below(code: &str, root: &str) -> Vec<String> {
    let code: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = |at: usize| match code[at..].strip_prefix('{') {
        None => identifier(&code[at..]).into_iter().collect(),
        Some(list) => first_segments(list),
    };
    starts_of(&code, root).into_iter().flat_map(named).collect()
}

/// What a `mod.rs` takes from its modules: the module of each name.
fn origins(code: &str, children: &BTreeSet<String>) -> BTreeMap<String, String> {
    let from = |child: &String| {
        let names = [child.clone(), format!("self::{child}")].map(|root| names_below(code, &root));
        names.into_iter().flatten().map(|name| (name, child.clone())).collect::<Vec<_>>()
    };
    children.iter().flat_map(from).collect()
}

/// Words that `path` uses outside of the rooms they are fenced to. Tests may use any crate, but nothing unsafe.
fn trespasses(fences: &Table, path: &str, text: &str) -> Vec<String> {
    if !CRATES.iter().any(|(_, source)| path.starts_with(source)) {
        return Vec::new();
    }
    let (code, tests) = split(path, text);
    let home = room(path).unwrap_or("the crate's root");
    let closed = fences.iter().filter(|(_, rooms)| !rooms.contains(home));
    let named = closed.filter(|(word, _)| match word.as_str() {
        "unsafe" => has_word(&code, word) || has_word(&tests, word),
        _ => names_crate(&code, word),
    });
    named.map(|(word, rooms)| format!("{path}: {word} belongs to {rooms:?}")).collect()
}

/// `name::`, `use name;` and `use name as`, where `name` starts the path.
fn names_crate(code: &str, name: &str) -> bool {
    let ends = ["::", ";", " as "];
    let begins_path = |before: &str, end: &str| match end {
        "::" => !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'),
        _ => before.ends_with("use "),
    };
    let named = |(at, found): (usize, &str)| {
        let after = &code[at + found.len()..];
        ends.iter().any(|end| after.starts_with(end) && begins_path(&code[..at], end))
    };
    code.match_indices(name).any(named)
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|found| found == word)
}

/// See "Which room may use which crate" in docs/ARCHITECTURE.md.
fn algorithm(path: &str, text: &str) -> Option<String> {
    let homes = ["crates/dssefs-s3/src/policy/", "crates/dssefs-emulator/", "src/cli/demo/"];
    let production =
        text.lines().take(production_lines(path, text)).filter(|line| !line.trim_start().starts_with("//"));
    let named = production.into_iter().any(|line| line.contains("\"aws:kms:dsse\""));
    (named && !homes.iter().any(|home| path.starts_with(home)))
        .then(|| format!("{path}: use policy::ALGORITHM instead of the literal"))
}

fn length(path: &str, text: &str) -> Option<String> {
    let lines = production_lines(path, text);
    (lines > LINES_MAX).then(|| format!("{path}: {lines} lines without tests, and at most {LINES_MAX} are allowed"))
}

fn docs(path: &str, text: &str) -> Option<String> {
    let must = ["/mod.rs", "src/lib.rs", "src/main.rs"].iter().any(|name| path.ends_with(name));
    let says = text.lines().take_while(|line| line.starts_with("//!")).map(str::len).sum::<usize>();
    (must && !text.starts_with("#[cfg(test)]") && says < 30)
        .then(|| format!("{path}: say in //! what this is, what it refuses to do, and what it may use"))
}

fn wide_lines(path: &str, text: &str) -> Vec<String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    lines.map(|(number, _)| format!("{path}:{number}: the line is wider than {COLUMNS_MAX} columns")).collect()
}

/// A folder's file is its `mod.rs`, not a twin beside it.
fn twins(sources: &[(String, String)]) -> Vec<String> {
    let paths: BTreeSet<&str> = sources.iter().map(|(path, _)| path.as_str()).collect();
    let twin =
        |path: &&str| path.strip_suffix(".rs").is_some_and(|stem| paths.contains(format!("{stem}/mod.rs").as_str()));
    paths.iter().filter(|path| twin(path)).map(|path| format!("{path}: move it into its folder as mod.rs")).collect()
}

/// Dependencies without a comment above them. A comment speaks for the lines up to the next blank one. What comes from
/// the workspace has its reason there.
fn unexplained(manifest: &str) -> Vec<String> {
    let (mut in_dependencies, mut explained, mut bare) = (false, false, Vec::new());
    for line in manifest.lines() {
        match line.chars().next() {
            Some('[') => (in_dependencies, explained) = (line.contains("dependencies"), false),
            Some('#') => explained = true,
            None => explained = false,
            Some(_) if in_dependencies && !explained && !line.contains("workspace = true") => {
                bare.extend(line.split_once('=').map(|(name, _)| name.trim().to_owned()));
            }
            Some(_) => {}
        }
    }
    bare
}

/// Places that exist on somebody's machine only. (The needles are put together so that this file does not hold them.)
fn foreign_places(path: &str, text: &str) -> Vec<String> {
    let needles = [["..", "/shared"], ["/wo", "rk/"], ["/ro", "ot/"], ["shared/", "facts"], ["shared/", "design"]]
        .map(|half| half.concat());
    let numbered = text.lines().enumerate().filter(|(_, line)| needles.iter().any(|needle| line.contains(needle)));
    numbered.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect()
}

// Reading.

/// The rows `| `name` | `name` `name` |` below the heading row whose second cell is `heading`.
fn table(page: &str, heading: &str) -> Table {
    let head = |line: &&str| line.split('|').nth(2).is_some_and(|cell| cell.trim() == heading);
    let rows = page.lines().skip_while(|line| !head(line)).skip(2).take_while(|line| line.starts_with('|'));
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let row = |line: &str| {
        let mut cells = line.split('|').skip(1);
        let name = names(cells.next()?).into_iter().next()?;
        Some((name, names(cells.next()?).into_iter().collect()))
    };
    rows.filter_map(row).collect()
}

/// The room of `src/ROOM/...`, in the package or in a crate.
fn room(path: &str) -> Option<&str> {
    let inside = CRATES.iter().find_map(|(_, source)| path.strip_prefix(source))?;
    inside.split_once('/').map(|(room, _)| room)
}

/// How many lines come before the tests, which stand last in a file.
fn production_lines(path: &str, text: &str) -> usize {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].contains("mod "));
    tests.unwrap_or(lines.len())
}

/// The code before the tests, and that of the tests, without comments and literals.
fn split(path: &str, text: &str) -> (String, String) {
    let lines: Vec<&str> = text.lines().collect();
    let (code, tests) = lines.split_at(production_lines(path, text));
    (code_only(&code.join("\n")), code_only(&tests.join("\n")))
}

/// Rust code with its comments and the content of its literals blanked out.
fn code_only(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_string_length(rest),
            '\'' => char_length(rest),
            _ => 0,
        };
        if skipped == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.push(' ');
            rest = &rest[skipped..];
        }
    }
    out
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// 0 when it is not a raw string.
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[2 + hashes..].find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len())
}

/// 0 when it is a lifetime.
fn char_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 3),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md is there")
}

fn read_lossy(path: &str) -> String {
    std::fs::read(root().join(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Every source file of the package and of its crates, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let folders = ["src", "crates"].map(|folder| files(&root().join(folder)));
    let paths = folders.iter().flatten().filter(|path| path.contains("src/") && path.ends_with(".rs"));
    let mut sources: Vec<_> = paths.map(|path| (path.clone(), read_lossy(path))).collect();
    for (_, source) in CRATES {
        assert!(sources.iter().any(|(path, _)| path.starts_with(source)), "{source} was not found");
    }
    let tests: BTreeSet<String> = sources.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    for (_, text) in sources.iter_mut().filter(|(path, _)| tests.contains(path)) {
        text.insert_str(0, "#[cfg(test)]\nmod whole_file {\n");
    }
    sources
}

/// The files that `path` declares for tests only: `#[cfg(test)] mod NAME;`.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let folder = match path.strip_suffix("/mod.rs").or_else(|| path.strip_suffix("/lib.rs")) {
        Some(folder) => folder,
        None => path.trim_end_matches(".rs"),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| pair[1].split_once("mod ").and_then(|(_, name)| name.strip_suffix(';')));
    declared.flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in dir.read_dir().expect("a folder of the project can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// What git tracks, or would; without git (a tarball), the folders of the project.
fn tracked() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    match listed {
        Ok(listed) if listed.status.success() && !listed.stdout.is_empty() => {
            String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
        }
        _ => ["src", "crates", "tests", "docs", "scripts"].iter().flat_map(|dir| files(&root().join(dir))).collect(),
    }
}

/// Each rule is shown to complain.
mod rules {
    use super::*;

    const PAGE: &str = "| room | may use |\n|---|---|\n| `a` | |\n| `b` | `a` |\n\n| word | only in |\n|---|---|\n\
                        | `unsafe` | `a` |\n| `ring` | `a` |\n";

    fn complaints(path: &str, text: &str) -> Vec<String> {
        imports(&table(PAGE, "may use"), path, text)
    }

    fn trespass(path: &str, text: &str) -> Vec<String> {
        trespasses(&table(PAGE, "only in"), path, text)
    }

    #[test]
    fn an_upward_import_is_refused_however_it_is_written() {
        for text in [
            "use crate::b::X;",
            "use crate::{a2, b};",
            "use crate::{\n    c::{d, e},\n    b::X,\n};",
            "fn f() { crate::b::g() }",
            "use dssefs_fs::b::X;",
            "fn f() -> dssefs_s3::b::X {}",
            "pub use super::super::b::X;",
            "#[cfg(test)]\nmod tests {\n    use crate::b;\n}",
        ] {
            assert_eq!(complaints("src/a/x.rs", text).len(), 1, "{text}");
        }
        assert_eq!(complaints("src/a/mod.rs", "use super::b;").len(), 1);
        assert_eq!(complaints("src/c/mod.rs", "").len(), 1, "a room that is not in the table");
        assert_eq!(complaints("crates/dssefs-fs/src/a/x.rs", "use crate::b::X;").len(), 1, "a room of a crate");
    }

    #[test]
    fn downward_imports_comments_and_strings_are_taken() {
        for text in [
            "use crate::a::X; use super::y;",
            "use dssefs_s3::a::X; use other::crate_b::b::X;",
            "// use crate::c\nfn f() {}",
            "/// [`crate::c`]\nconst X: &str = \"crate::c\";",
            "const X: &str = r#\"crate::c \" \"#;",
            "const QUOTE: char = '\"'; // crate::c\nfn f<'a>() {}",
        ] {
            assert_eq!(complaints("src/b/x.rs", text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_wide_line_is_found_also_where_rustfmt_leaves_it() {
        let as_wide_as_allowed = format!("{:?}", "x".repeat(COLUMNS_MAX - 2));
        assert_eq!(wide_lines("a.rs", &as_wide_as_allowed), Vec::<String>::new());
        assert_eq!(wide_lines("a.rs", &format!("code\n {as_wide_as_allowed}\n")).len(), 1);
        assert_eq!(wide_lines("a.rs", &format!("    // {}", "x".repeat(COLUMNS_MAX))).len(), 1);
    }

    #[test]
    fn a_permission_that_nobody_needs_is_found() {
        let needless = |text: &str| needless(&table(PAGE, "may use"), &[("src/b/x.rs".to_owned(), text.to_owned())]);
        assert_eq!(needless("// use crate::a\nuse crate::c::X;"), ["b does not use a"]);
        assert_eq!(needless("use crate::{a::X, c};"), Vec::<String>::new());
        assert_eq!(needless("#[cfg(test)]\nmod tests {\n    use crate::a;\n}"), Vec::<String>::new());
    }

    #[test]
    fn a_cycle_is_found() {
        let table = table(
            "| room | may use |\n|---|---|\n| `a` | `b` |\n| `b` | `c` |\n| `c` | `a` |\n| `d` | `a` |\n",
            "may use",
        );
        assert_eq!(cycles(&table), ["a", "b", "c"]);
    }

    #[test]
    fn files_that_import_each_other_are_found() {
        let circle_of = |files: &[(&str, &str)]| {
            let sources: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
            circle("src/a", &sources)
        };
        let door = ("src/a/mod.rs", "mod b;\nmod c;\npub use b::{B, Other};\npub use self::c::C;\n");
        let found = Some("src/a: b, c import each other".to_owned());
        assert_eq!(circle_of(&[door, ("src/a/b.rs", "use super::c::C;"), ("src/a/c.rs", "use super::b;")]), found);
        assert_eq!(
            circle_of(&[door, ("src/a/b.rs", "use super::C;"), ("src/a/c/x.rs", "use super::super::B;")]),
            found
        );
        assert_eq!(
            circle_of(&[door, ("src/a/b.rs", "use crate::a::{C};"), ("src/a/c.rs", "use super::{B, d};")]),
            found
        );
        let one_way = [door, ("src/a/b.rs", "use super::C;"), ("src/a/c.rs", "// use super::B;\nuse super::super::B;")];
        assert_eq!(circle_of(&one_way), None);
        let tests = "#[cfg(test)]\nmod tests {\n    use super::super::B;\n}";
        assert_eq!(circle_of(&[door, ("src/a/b.rs", "use super::C;"), ("src/a/c.rs", tests)]), None);
    }

    #[test]
    fn a_fenced_crate_is_refused_outside_its_room() {
        for text in [
            "use ring::aead;",
            "use ring;",
            "use ring as other;",
            "fn f() { ring::rand::x() }",
            "fn f() { unsafe { g() } }",
        ] {
            assert_eq!(trespass("src/b/x.rs", text).len(), 1, "{text}");
            assert_eq!(trespass("src/a/x.rs", text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(trespass("src/main.rs", "use ring::aead;").len(), 1);
        assert_eq!(trespass("crates/dssefs-fs/src/b/x.rs", "use ring::aead;").len(), 1);
        assert_eq!(trespass("src/b/x.rs", "#[cfg(test)]\nmod tests { fn f() { unsafe { g() } } }").len(), 1);
        for text in [
            "use string::x;",
            "// unsafe",
            "use crate::ring::x;",
            "#![deny(unsafe_code)]",
            "#[cfg(test)]\nmod tests { use ring::x; }",
        ] {
            assert_eq!(trespass("src/b/x.rs", text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_long_file_a_silent_room_and_a_twin_are_refused() {
        let long = "fn f() {}\n".repeat(LINES_MAX + 1);
        assert!(length("src/a/x.rs", &long).is_some());
        assert!(length("src/a/x.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}}}")).is_none());
        assert!(docs("src/a/mod.rs", "//! Short.\nfn f() {}").is_some());
        assert!(docs("src/a/mod.rs", "//! What it does, what it refuses to do, what it uses.\n").is_none());
        let pair = |path: &str| (path.to_owned(), String::new());
        assert_eq!(twins(&[pair("src/a.rs"), pair("src/a/mod.rs"), pair("src/b/mod.rs")]).len(), 1);
    }

    #[test]
    fn a_file_declared_for_tests_is_known() {
        let declared = test_files("src/a/mod.rs", "mod x;\n#[cfg(test)]\nmod end_to_end;\n");
        assert_eq!(declared, ["src/a/end_to_end.rs", "src/a/end_to_end/mod.rs"]);
        assert_eq!(test_files("src/a/b.rs", "#[cfg(test)]\nmod tests {\n}"), Vec::<String>::new());
    }

    #[test]
    fn the_literal_of_the_algorithm_is_refused_elsewhere() {
        let text = "const X: &str = \"aws:kms:dsse\";";
        assert!(algorithm("src/s3/aws.rs", text).is_some());
        assert!(algorithm("crates/dssefs-s3/src/policy/mod.rs", text).is_none());
        assert!(algorithm("src/s3/aws.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}")).is_none());
    }

    #[test]
    fn a_dependency_without_a_reason_is_named() {
        let manifest = "[dependencies]\n# Why.\na = \"1\"\nb = { version = \"1\" }\n\nc = \"1\"\n\
                        [dev-dependencies]\nd = \"1\"\n[features]\ne = []\n";
        assert_eq!(unexplained(manifest), ["c", "d"]);
    }

    #[test]
    fn a_path_of_somebodys_machine_is_found() {
        let line = format!("see {}{}", "../sha", "red/x.md");
        assert_eq!(foreign_places("docs/X.md", &format!("fine\n{line}\n")), [format!("docs/X.md:2: {line}")]);
    }
}
