//! Reads tables of a scenario file and collects everything that is wrong with them, each with its line and column.
//!
//! Serde stops at the first thing it does not understand; a person who writes a file wants to know all of them at once.
//! So the file is parsed into tables with spans, and each table is asked for its fields: what is missing, of the wrong
//! kind or out of range, and what nobody asked for, becomes a [`ScenarioError`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Something that is wrong with a scenario file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ScenarioError {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The field, as `group.count`; the table, if a field is missing or unknown; empty where the file is no TOML.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub message: String,
    /// The line itself.
    pub source_line: String,
}

impl fmt::Display for ScenarioError {
    /// `city.toml:12:9: group.count: 0 is not allowed: ...`, and beneath it the line with a mark.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        writeln!(f, "{}", self.message)?;
        let gutter = self.line.to_string();
        writeln!(f, "  {gutter} | {}", self.source_line)?;
        let (space, before) = (" ".repeat(gutter.len()), self.column.saturating_sub(1));
        write!(f, "  {space} | {}^", " ".repeat(before))
    }
}

/// A piece of the file, in bytes.
pub(super) type Span = Range<usize>;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// A file that is being read.
pub(super) struct File<'a> {
    text: &'a str,
    name: &'a str,
    errors: RefCell<Vec<(Span, ScenarioError)>>,
    /// Every field that was asked for, as `group.count`.
    asked: RefCell<BTreeSet<String>>,
    /// Where each field stands, the first time it does.
    places: RefCell<BTreeMap<String, Span>>,
}

impl<'a> File<'a> {
    pub(super) fn new(text: &'a str, name: &'a str) -> Self {
        Self {
            text,
            name,
            errors: RefCell::default(),
            asked: RefCell::default(),
            places: RefCell::default(),
        }
    }

    /// Something is wrong at a place.
    pub(super) fn wrong(&self, span: &Span, field: &str, message: impl Into<String>) {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before
            .get(line_start..)
            .map_or(0, |part| part.chars().count());
        let line = self.text.get(line_start..).unwrap_or_default();
        let error = ScenarioError {
            file: self.name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: column + 1,
            field: field.to_owned(),
            message: message.into(),
            source_line: line.lines().next().unwrap_or_default().replace('\t', " "),
        };
        self.errors.borrow_mut().push((span.clone(), error));
    }

    /// Where a field stands, the first time it does; the top of the file if it does not.
    pub(super) fn place(&self, field: &str) -> Span {
        self.places.borrow().get(field).cloned().unwrap_or(0..0)
    }

    /// What was found, in the order of the file, once each.
    pub(super) fn into_errors(self) -> Vec<ScenarioError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|(span, _)| span.start);
        errors.dedup_by(|a, b| a.1 == b.1);
        errors.into_iter().map(|(_, error)| error).collect()
    }

    /// Every field anybody asked for.
    #[cfg(test)]
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    pub(super) fn is_good(&self) -> bool {
        self.errors.borrow().is_empty()
    }
}

/// Turns a value into what a field is, or says what is allowed.
pub(super) trait Kind<T>: Fn(&DeValue<'_>) -> Result<T, String> {}

impl<T, F: Fn(&DeValue<'_>) -> Result<T, String>> Kind<T> for F {}

/// A table of the file, whose fields are asked for one by one.
pub(super) struct Fields<'a> {
    file: &'a File<'a>,
    /// As in the documentation: `group`, `group.link`; empty at the top.
    label: String,
    span: Span,
    entries: BTreeMap<&'a str, (Span, &'a DeValue<'a>, Span)>,
    known: Vec<String>,
    present: bool,
}

impl<'a> Fields<'a> {
    /// The whole file.
    pub(super) fn root(file: &'a File<'a>, table: &'a DeTable<'a>) -> Self {
        Self::of(file, String::new(), table, 0..0, true)
    }

    fn of(
        file: &'a File<'a>,
        label: String,
        table: &'a DeTable<'a>,
        span: Span,
        present: bool,
    ) -> Self {
        let entries = table.iter().map(|(key, value)| {
            let name: &str = key.get_ref();
            (name, (key.span(), value.get_ref(), value.span()))
        });
        Self {
            file,
            label,
            span,
            entries: entries.collect(),
            known: Vec::new(),
            present,
        }
    }

    /// A table that is not in the file: every field of it is as if left out.
    pub(super) fn nothing(file: &'a File<'a>, label: &str) -> Self {
        Self::absent(file, label.to_owned(), 0..0)
    }

    fn absent(file: &'a File<'a>, label: String, span: Span) -> Self {
        Self {
            file,
            label,
            span,
            entries: BTreeMap::new(),
            known: Vec::new(),
            present: false,
        }
    }

    /// The file has this table.
    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    /// The file has this field.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn path(&self, name: &str) -> String {
        if self.label.is_empty() {
            return name.to_owned();
        }
        format!("{}.{name}", self.label)
    }

    fn ask(&mut self, name: &str) {
        self.file.asked.borrow_mut().insert(self.path(name));
        self.known.push(name.to_owned());
    }

    /// Something is wrong with a field; with the table, if it has no such field.
    pub(super) fn wrong(&self, name: &str, message: impl Into<String>) {
        let span = self.entries.get(name).map_or(&self.span, |(key, _, _)| key);
        self.file.wrong(span, &self.path(name), message);
    }

    /// A field that need not be there.
    pub(super) fn at<T>(&mut self, name: &str, kind: impl Kind<T>) -> Option<At<T>> {
        self.ask(name);
        let (_, value, span) = self.entries.get(name)?;
        let mut places = self.file.places.borrow_mut();
        places
            .entry(self.path(name))
            .or_insert_with(|| span.clone());
        match kind(value) {
            Ok(value) => Some(At {
                value,
                span: span.clone(),
            }),
            Err(allowed) => {
                let message = format!("{} is not allowed here: {allowed}", shown(value));
                self.file.wrong(span, &self.path(name), message);
                None
            }
        }
    }

    /// As [`Fields::at`], without its place.
    pub(super) fn get<T>(&mut self, name: &str, kind: impl Kind<T>) -> Option<T> {
        self.at(name, kind).map(|at| at.value)
    }

    /// As [`Fields::get`], with what holds if it is not there.
    pub(super) fn or<T>(&mut self, name: &str, kind: impl Kind<T>, default: T) -> T {
        self.get(name, kind).unwrap_or(default)
    }

    /// A field that must be there.
    pub(super) fn needed<T>(&mut self, name: &str, kind: impl Kind<T>) -> Option<T> {
        if !self.has(name) {
            self.ask(name);
            let what = self.table_name();
            // What no kind takes as needed tells what it takes.
            let allowed = kind(&DeValue::Boolean(true)).err().unwrap_or_default();
            let message = format!("is missing: {what} needs it, {allowed}");
            self.file.wrong(&self.span, &self.path(name), message);
            return None;
        }
        self.get(name, kind)
    }

    fn table_name(&self) -> String {
        if self.label.is_empty() {
            return "a scenario".to_owned();
        }
        format!("`{}`", self.label)
    }

    /// A list whose elements are of one kind; each that is not is named by itself.
    pub(super) fn list<T>(&mut self, name: &str, kind: impl Kind<T>) -> Option<Vec<At<T>>> {
        self.ask(name);
        let (_, value, span) = self.entries.get(name)?;
        let Some(array) = value.as_array() else {
            let message = format!("{} is not allowed here: a list in brackets", shown(value));
            self.file.wrong(span, &self.path(name), message);
            return None;
        };
        let mut list = Vec::new();
        for element in array.iter() {
            match kind(element.get_ref()) {
                Ok(value) => list.push(At {
                    value,
                    span: element.span(),
                }),
                Err(allowed) => {
                    let shown = shown(element.get_ref());
                    let message = format!("{shown} is not allowed here: {allowed}");
                    self.file.wrong(&element.span(), &self.path(name), message);
                }
            }
        }
        Some(list)
    }

    /// A table within this one; empty if it is not there.
    pub(super) fn table(&mut self, name: &str) -> Self {
        self.ask(name);
        let label = self.path(name);
        let Some((key, value, span)) = self.entries.get(name) else {
            return Self::absent(self.file, label, self.span.clone());
        };
        match value.as_table() {
            Some(table) => Self::of(self.file, label, table, key.clone(), true),
            None => {
                let message = format!("{} is not allowed here: a table", shown(value));
                self.file.wrong(span, &label, message);
                Self::absent(self.file, label, key.clone())
            }
        }
    }

    /// A list of tables: `[[name]]`, as often as there are.
    pub(super) fn tables(&mut self, name: &str) -> Vec<Self> {
        self.ask(name);
        let label = self.path(name);
        let Some((_, value, span)) = self.entries.get(name) else {
            return Vec::new();
        };
        let Some(array) = value.as_array() else {
            let message = format!("is to be written with two brackets: [[{label}]]");
            self.file.wrong(span, &label, message);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_table() {
                Some(table) => {
                    let span = element.span();
                    tables.push(Self::of(self.file, label.clone(), table, span, true));
                }
                None => {
                    let message =
                        format!("{} is not allowed here: a table", shown(element.get_ref()));
                    self.file.wrong(&element.span(), &label, message);
                }
            }
        }
        tables
    }

    /// Tables with names of the writer's own: `[name.anything]`, with their names.
    pub(super) fn named_tables(&mut self, name: &str) -> Vec<(At<String>, Self)> {
        let outer = self.table(name);
        let mut tables = Vec::new();
        for (key, (key_span, value, span)) in &outer.entries {
            let Some(table) = value.as_table() else {
                let message = format!("{} is not allowed here: a table", shown(value));
                self.file
                    .wrong(span, &format!("{}.{key}", outer.label), message);
                continue;
            };
            let name = At {
                value: (*key).to_owned(),
                span: key_span.clone(),
            };
            let label = outer.label.clone();
            tables.push((
                name,
                Self::of(self.file, label, table, key_span.clone(), true),
            ));
        }
        tables
    }

    /// Takes no more questions: what nobody asked for is wrong.
    pub(super) fn finish(self) {
        for (name, (span, _, _)) in &self.entries {
            if self.known.iter().any(|known| known == name) {
                continue;
            }
            let near = self
                .known
                .iter()
                .map(|known| (distance(name, known), known))
                .min()
                .filter(|(distance, known)| *distance <= 2.max(known.len() / 3));
            let guess = near.map_or_else(String::new, |(_, known)| {
                format!("did you mean `{known}`? ")
            });
            let all: Vec<String> = self
                .known
                .iter()
                .map(|known| format!("`{known}`"))
                .collect();
            let message = format!(
                "there is no such field; {guess}{} has {}",
                self.table_name(),
                all.join(", ")
            );
            self.file.wrong(span, &self.path(name), message);
        }
    }
}

/// A value as it would be written.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Letters to change to make one word of another.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, wanted) in other.iter().enumerate() {
            let cost = usize::from(letter != *wanted);
            let next = (diagonal + cost)
                .min(row[column] + 1)
                .min(row[column + 1] + 1);
            diagonal = row[column + 1];
            row[column + 1] = next;
        }
    }
    row.last().copied().unwrap_or_default()
}
