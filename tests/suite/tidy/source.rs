//! Reads Rust sources as far as tidiness needs: tokens, module declarations and the paths a file names.
//!
//! Not a parser: comments, strings and literals are dropped, macros are read like any other code. What it cannot see is
//! a path made by a macro of another crate.

use std::collections::BTreeMap;

/// A word or a punctuation mark; `::` is one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// From 1.
    pub(super) line: usize,
    /// Inside an item under `#[cfg(test)]`.
    pub(super) test: bool,
}

/// A module that a file declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// Inline modules around it, and its name.
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    pub(super) test: bool,
    /// `mod x { .. }` rather than `mod x;`.
    pub(super) inline: bool,
}

/// A path that a file names, made absolute where its first word is known: the crate's name, then the segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    pub(super) test: bool,
}

/// What a file says.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) tokens: Vec<Token>,
    pub(super) declared: Vec<Declared>,
    pub(super) mentions: Vec<Mention>,
}

impl Source {
    /// Reads the file that holds `module` (without the crate's name) of the crate `krate`.
    pub(super) fn read(text: &str, krate: &str, module: &[String]) -> Self {
        let mut tokens = tokens(text);
        mark_tests(&mut tokens);
        let declared = declared(&tokens);
        let mentions = mentions(&tokens, &declared, krate, module);
        Self {
            tokens,
            declared,
            mentions,
        }
    }
}

/// Splits a source into tokens.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => i = end_of_line(&chars, i),
            '/' if at(i + 1) == '*' => i = end_of_block_comment(&chars, i),
            '"' => i = end_of_string(&chars, i),
            'r' | 'b' | 'c' if raw_string(&chars, i).is_some() => {
                i = raw_string(&chars, i).unwrap_or(i + 1);
            }
            '\'' => i = end_of_quote(&chars, i),
            c if is_word(c) => {
                if c == 'r' && at(i + 1) == '#' && is_word(at(i + 2)) {
                    i += 2;
                }
                let word = chars[i..].iter().take_while(|&&c| is_word(c));
                let word: String = word.collect();
                i += word.chars().count();
                found.push((word, line));
            }
            ':' if at(i + 1) == ':' => {
                i += 2;
                found.push(("::".to_owned(), line));
            }
            c => {
                i += 1;
                if !c.is_whitespace() {
                    found.push((c.to_string(), line));
                }
            }
        }
        line += chars[start..i.min(chars.len())]
            .iter()
            .filter(|&&c| c == '\n')
            .count();
    }
    let found = found.into_iter().map(|(text, line)| Token {
        text,
        line,
        test: false,
    });
    found.collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn end_of_line(chars: &[char], from: usize) -> usize {
    let rest = chars[from..].iter().position(|&c| c == '\n');
    rest.map_or(chars.len(), |length| from + length)
}

fn end_of_block_comment(chars: &[char], from: usize) -> usize {
    let (mut depth, mut i) = (0, from);
    while i < chars.len() {
        match chars[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of a raw string that begins here, if one does: `r"..."`, `br#"..."#`, `cr"..."`.
fn raw_string(chars: &[char], from: usize) -> Option<usize> {
    let prefix = match chars[from..] {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    let hashes = chars[from + prefix..].iter().take_while(|&&c| c == '#');
    let hashes = hashes.count();
    let open = from + prefix + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |i: usize| chars[i] == '"' && (1..=hashes).all(|h| chars.get(i + h) == Some(&'#'));
    let close = (open + 1..chars.len()).find(|&i| closes(i));
    Some(close.map_or(chars.len(), |close| close + 1 + hashes))
}

/// The end of a character literal or of a lifetime.
fn end_of_quote(chars: &[char], from: usize) -> usize {
    match chars[from + 1..] {
        ['\\', _, ..] => {
            let close = chars[from + 3..].iter().position(|&c| c == '\'');
            close.map_or(chars.len(), |length| from + 4 + length)
        }
        [_, '\'', ..] => from + 3,
        _ => {
            let word = chars[from + 1..].iter().take_while(|&&c| is_word(c));
            from + 1 + word.count()
        }
    }
}

/// Marks what stands under `#[cfg(test)]`.
fn mark_tests(tokens: &mut [Token]) {
    let mut i = 0;
    while i < tokens.len() {
        if !words_are(tokens, i, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            i += 1;
            continue;
        }
        let end = end_of_item(tokens, i + 7);
        for token in &mut tokens[i..end] {
            token.test = true;
        }
        i = end;
    }
}

/// One past the item that begins here: its block, or its semicolon.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.text == "}" {
                    // `use a::{b};` ends with its semicolon.
                    let semicolon = words_are(tokens, i + 1, &[";"]);
                    return i + 1 + usize::from(semicolon);
                }
            }
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

fn words_are(tokens: &[Token], from: usize, words: &[&str]) -> bool {
    let here = tokens.get(from..from + words.len());
    here.is_some_and(|here| {
        here.iter()
            .zip(words)
            .all(|(token, word)| token.text == *word)
    })
}

/// The names of the inline modules around each token.
fn surroundings(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut open: Vec<Option<String>> = Vec::new();
    let mut around = Vec::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        if token.text == "}" {
            open.pop();
        }
        around.push(open.iter().flatten().cloned().collect());
        if token.text == "{" {
            let module = i >= 2 && tokens[i - 2].text == "mod";
            open.push(module.then(|| tokens[i - 1].text.clone()));
        }
    }
    around
}

fn declared(tokens: &[Token]) -> Vec<Declared> {
    let around = surroundings(tokens);
    let mut found = Vec::new();
    for (i, window) in tokens.windows(3).enumerate() {
        let [keyword, name, end] = window else {
            continue;
        };
        if keyword.text == "mod" && (end.text == ";" || end.text == "{") {
            let mut path = around[i].clone();
            path.push(name.text.clone());
            found.push(Declared {
                path,
                line: name.line,
                test: name.test,
                inline: end.text == "{",
            });
        }
    }
    found
}

/// Makes paths absolute.
struct Scope<'a> {
    krate: &'a str,
    /// Name -> absolute path, from `use` and `mod`.
    names: BTreeMap<String, Vec<String>>,
}

impl Scope<'_> {
    fn absolute(&self, path: &[String], module: &[String]) -> Vec<String> {
        let inside = |module: &[String], rest: &[String]| {
            let krate = [self.krate.to_owned()];
            krate.iter().chain(module).chain(rest).cloned().collect()
        };
        let Some(first) = path.first() else {
            return Vec::new();
        };
        match first.as_str() {
            "crate" => inside(&[], &path[1..]),
            "self" => inside(module, &path[1..]),
            "super" => {
                let ups = path.iter().take_while(|word| *word == "super").count();
                let above = module.len().saturating_sub(ups);
                inside(&module[..above], &path[ups..])
            }
            _ => match self.names.get(first) {
                Some(known) => known.iter().chain(&path[1..]).cloned().collect(),
                None => path.to_vec(),
            },
        }
    }
}

fn mentions(
    tokens: &[Token],
    declared: &[Declared],
    krate: &str,
    module: &[String],
) -> Vec<Mention> {
    let around = surroundings(tokens);
    let here = |i: usize| -> Vec<String> { module.iter().chain(&around[i]).cloned().collect() };
    let mut scope = Scope {
        krate,
        names: BTreeMap::new(),
    };
    for child in declared.iter().filter(|child| child.path.len() == 1) {
        let path = [krate.to_owned()].into_iter().chain(module.iter().cloned());
        let path = path.chain(child.path.iter().cloned()).collect();
        scope.names.insert(child.path[0].clone(), path);
    }
    let mut found = Vec::new();
    let mut other = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let token = &tokens[i];
        let before = i.checked_sub(1).map_or("", |at| tokens[at].text.as_str());
        let in_visibility =
            before == "in" || (before == "(" && i >= 2 && tokens[i - 2].text == "pub");
        if token.text == "use" && !words_are(tokens, i + 1, &["<"]) {
            let mut leaves = Vec::new();
            let end = use_tree(tokens, i + 1, &[], &mut leaves);
            for leaf in leaves {
                let path = scope.absolute(&leaf.path, &here(i));
                if !token.test {
                    scope.names.insert(leaf.name, path.clone());
                }
                found.push(Mention {
                    path,
                    line: leaf.line,
                    test: token.test,
                });
            }
            i = end;
        } else if words_are(tokens, i + 1, &["::"]) && token.text.starts_with(|c: char| is_word(c))
        {
            let inner = before == "::"
                && i >= 2
                && tokens[i - 2].text.starts_with(|c| is_word(c) || c == '>');
            let path = path_at(tokens, i);
            let words = path.len();
            if !inner && !in_visibility {
                other.push((path, i));
            }
            i += 2 * words - 1;
        } else {
            i += 1;
        }
    }
    // After all of `use`, which may stand below.
    found.extend(other.into_iter().map(|(path, i)| Mention {
        path: scope.absolute(&path, &here(i)),
        line: tokens[i].line,
        test: tokens[i].test,
    }));
    found
}

/// The words of the path that begins here.
fn path_at(tokens: &[Token], from: usize) -> Vec<String> {
    let mut path = vec![tokens[from].text.clone()];
    let mut i = from + 1;
    while words_are(tokens, i, &["::"]) {
        let next = tokens.get(i + 1).map_or("", |token| token.text.as_str());
        if !next.starts_with(is_word) {
            break;
        }
        path.push(next.to_owned());
        i += 2;
    }
    path
}

/// One name that a `use` brings in.
struct Leaf {
    path: Vec<String>,
    /// What it is called here.
    name: String,
    line: usize,
}

/// Reads one branch of a `use` tree; returns one past its end.
fn use_tree(tokens: &[Token], from: usize, prefix: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let mut path = prefix.to_vec();
    let mut i = from;
    let line = tokens.get(from).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(i) {
        match token.text.as_str() {
            "{" => {
                i += 1;
                while i < tokens.len() && tokens[i].text != "}" {
                    i = use_tree(tokens, i, &path, leaves);
                    i += usize::from(words_are(tokens, i, &[","]));
                }
                return i + 1;
            }
            "," | ";" | "}" | "as" => break,
            "::" => i += 1,
            "*" => i += 1,
            "self" if !path.is_empty() => i += 1,
            word => {
                path.push(word.to_owned());
                i += 1;
            }
        }
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if words_are(tokens, i, &["as"]) {
        name = tokens.get(i + 1).map_or(name, |token| token.text.clone());
        i += 2;
    }
    leaves.push(Leaf { path, name, line });
    i
}
