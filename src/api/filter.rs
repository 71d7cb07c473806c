//! The filter of list calls: terms `field = value` joined by ` AND `. A value is a word of `[A-Za-z0-9_./:-]` or a
//! text
//! in double quotes with `\"` and `\\` inside.

use std::collections::BTreeMap;

/// What the values of a field look like.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A decimal number.
    Number,
    /// A value of an enum, without its prefix: whether there is such a one.
    Word(fn(&str) -> bool),
    /// The field is a map; the key follows after a dot.
    Map,
}

/// The terms of a filter, all of which must hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    terms: Vec<(String, String)>,
}

/// Terms a filter may have.
const MOST_TERMS: usize = 16;

impl Filter {
    /// Reads a filter over these fields; the error says what is wrong with it.
    pub(super) fn parse(text: &str, fields: &[(&str, Kind)]) -> Result<Self, String> {
        let mut rest = text.trim();
        let mut terms = Vec::new();
        if rest.is_empty() {
            return Ok(Self { terms });
        }
        loop {
            let (term, after) = term(rest)?;
            terms.push(checked(term, fields)?);
            if terms.len() > MOST_TERMS {
                return Err(format!("more than {MOST_TERMS} terms"));
            }
            if after.trim_start().is_empty() {
                return Ok(Self { terms });
            }
            rest = after
                .strip_prefix(' ')
                .map(str::trim_start)
                .and_then(|after| after.strip_prefix("AND "))
                .ok_or_else(|| format!("expected ' AND ' before '{}'", start_of(after)))?
                .trim_start();
        }
    }

    /// The value asked for in `field`, if any; the last one if there are several.
    pub(super) fn value(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().rev().find(|(name, _)| name == field)?;
        Some(&term.1)
    }

    /// Whether every term holds for a record whose fields `value_of` tells.
    pub(super) fn holds(&self, value_of: impl Fn(&str) -> Option<String>) -> bool {
        self.terms
            .iter()
            .all(|(field, wanted)| value_of(field).as_deref() == Some(wanted))
    }
}

/// The tag that a field `tags.KEY` names.
pub(super) fn tag_value(tags: &BTreeMap<String, String>, field: &str) -> Option<String> {
    tags.get(field.strip_prefix("tags.")?).cloned()
}

/// Name, value, and what comes after the term.
fn term(text: &str) -> Result<((&str, String), &str), String> {
    let name_end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
        .unwrap_or(text.len());
    let (field, rest) = text.split_at(name_end);
    if field.is_empty() {
        return Err(format!("expected a field at '{}'", start_of(text)));
    }
    let rest = rest
        .trim_start()
        .strip_prefix('=')
        .ok_or_else(|| format!("expected '=' after '{field}'"))?
        .trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted_text(quoted)?,
        None => {
            let word =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | ':' | '-');
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            if value.is_empty() {
                return Err(format!("expected a value after '{field} ='"));
            }
            (value.to_owned(), rest)
        }
    };
    Ok(((field, value), rest))
}

/// The text up to the closing quote, and what comes after it.
fn quoted_text(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                _ => return Err("a backslash stands before neither '\"' nor '\\'".to_owned()),
            },
            c => value.push(c),
        }
    }
    Err("a quote is not closed".to_owned())
}

fn checked(
    (field, value): (&str, String),
    fields: &[(&str, Kind)],
) -> Result<(String, String), String> {
    let kind = match field.split_once('.') {
        Some((map, key)) if !key.is_empty() => fields
            .iter()
            .find(|(name, kind)| *name == map && matches!(kind, Kind::Map)),
        _ => fields
            .iter()
            .find(|(name, kind)| *name == field && !matches!(kind, Kind::Map)),
    };
    let Some((_, kind)) = kind else {
        let known: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "unknown field '{}'; there are {}",
            start_of(field),
            known.join(", ")
        ));
    };
    let good = match kind {
        Kind::Text | Kind::Map => Some(value),
        Kind::Flag => matches!(value.as_str(), "true" | "false").then_some(value),
        Kind::Number => value.parse::<u64>().ok().map(|number| number.to_string()),
        Kind::Word(known) => known(&value).then_some(value),
    };
    match good {
        Some(value) => Ok((field.to_owned(), value)),
        None => Err(format!("field '{field}' has no such value")),
    }
}

fn start_of(text: &str) -> String {
    text.chars().take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [(&str, Kind); 5] = [
        ("state", Kind::Word(|word| word == "DRAFT")),
        ("tags", Kind::Map),
        ("model", Kind::Text),
        ("number", Kind::Number),
        ("flag", Kind::Flag),
    ];

    #[test]
    fn terms_are_read() {
        let filter = Filter::parse(
            r#"state = DRAFT AND tags.site="north \"gate\" \\" AND number=007"#,
            &FIELDS,
        )
        .unwrap();
        assert_eq!(filter.value("state"), Some("DRAFT"));
        assert_eq!(filter.value("tags.site"), Some(r#"north "gate" \"#));
        assert_eq!(filter.value("number"), Some("7"));
        assert!(filter.holds(|field| {
            Some(
                match field {
                    "state" => "DRAFT",
                    "number" => "7",
                    _ => r#"north "gate" \"#,
                }
                .to_owned(),
            )
        }));
        assert!(!filter.holds(|_| Some("DRAFT".to_owned())));
        assert!(!filter.holds(|_| None));
    }

    #[test]
    fn an_empty_filter_holds_for_all() {
        assert!(Filter::parse("  ", &FIELDS).unwrap().holds(|_| None));
    }

    #[test]
    fn bad_filters_are_refused() {
        for bad in [
            "state",
            "state =",
            "= DRAFT",
            "state = RUNNING",
            "other = 1",
            "tags = x",
            "tags. = x",
            "state.x = DRAFT",
            "number = -1",
            "flag = yes",
            "model = \"open",
            "model = \"a\\n\"",
            "model = a model = b",
            "model = a AND",
            "model = a OR model = b",
            "model = a,b",
            "model = \"a\"AND model = b",
        ] {
            assert!(Filter::parse(bad, &FIELDS).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = Filter::parse(&text, &FIELDS);
        }
    }
}
