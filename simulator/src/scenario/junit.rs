//! Outcomes as JUnit reports, which CI systems show: a test suite for each run, a test case for each expectation.

use std::fmt::Write as _;

use super::Outcome;

/// The report of some runs, as XML.
pub fn junit(outcomes: &[Outcome]) -> String {
    let cases = |outcome: &Outcome| outcome.expectations.len();
    let failures = |outcome: &Outcome| outcome.expectations.iter().filter(|e| !e.held).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let (all, failed): (usize, usize) = (
        outcomes.iter().map(cases).sum(),
        outcomes.iter().map(failures).sum(),
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        xml,
        "<testsuites name=\"fuota-sim\" tests=\"{all}\" failures=\"{failed}\">"
    );
    for outcome in outcomes {
        let name = escaped(&format!("{} (seed {})", outcome.scenario, outcome.seed));
        let seconds = outcome.duration_s.unwrap_or(0.0);
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"0\" time=\"{seconds:.3}\">",
            cases(outcome),
            failures(outcome)
        );
        for judged in &outcome.expectations {
            let case = escaped(&judged.name);
            let _ = write!(xml, "    <testcase classname=\"{name}\" name=\"{case}\"");
            if judged.held {
                let _ = writeln!(xml, "/>");
                continue;
            }
            let (expected, was) = (escaped(&judged.expected), escaped(&judged.was));
            let _ = writeln!(
                xml,
                ">\n      <failure message=\"expected {expected}, was {was}\"/>\n    </testcase>"
            );
        }
        let _ = writeln!(xml, "  </testsuite>");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Text as an attribute has it; characters XML does not know are left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            letter if letter.is_control() => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}
