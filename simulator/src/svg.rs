//! A few shapes of SVG, as text: what the drawings of the simulator are made of.
//!
//! PURE. Coordinates are user units; text is escaped, colours and classes are the caller's own words.

use std::fmt::Write as _;

/// A drawing that grows.
#[derive(Clone, Debug, Default)]
pub struct Svg {
    body: String,
}

/// Where a text begins, ends, or has its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

impl Svg {
    /// A rectangle with a class and a tooltip (none if empty).
    pub fn rect(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        class: &str,
        tip: &str,
    ) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        let title = title(tip);
        // Writing to a string cannot fail.
        let _ = write!(
            self.body,
            r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" class="{class}">{title}</rect>"#
        );
    }

    /// A rectangle of a colour, for heat maps.
    pub fn cell(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        let _ = write!(
            self.body,
            r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" fill="{colour}"/>"#
        );
    }

    /// A line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = write!(
            self.body,
            r#"<line x1="{x1:.2}" y1="{y1:.2}" x2="{x2:.2}" y2="{y2:.2}" class="{class}"/>"#
        );
    }

    /// A line through points; nothing for fewer than two.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        if points.len() < 2 {
            return;
        }
        self.body.push_str("<polyline points=\"");
        for (x, y) in points {
            let _ = write!(self.body, "{x:.2},{y:.2} ");
        }
        let _ = write!(self.body, "\" class=\"{class}\"/>");
    }

    /// A circle with a tooltip (none if empty).
    pub fn circle(&mut self, (x, y): (f64, f64), radius: f64, class: &str, tip: &str) {
        let title = title(tip);
        let _ = write!(
            self.body,
            r#"<circle cx="{x:.2}" cy="{y:.2}" r="{radius:.2}" class="{class}">{title}</circle>"#
        );
    }

    /// A triangle that stands on its base, with a tooltip.
    pub fn triangle(&mut self, (x, y): (f64, f64), radius: f64, class: &str, tip: &str) {
        let title = title(tip);
        let (left, right, top, base) = (x - radius, x + radius, y - radius * 1.2, y + radius * 0.8);
        let _ = write!(
            self.body,
            r#"<polygon points="{x:.2},{top:.2} {left:.2},{base:.2} {right:.2},{base:.2}" class="{class}">{title}</polygon>"#
        );
    }

    /// A line of text.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text x="{x:.2}" y="{y:.2}" text-anchor="{anchor}" class="{class}">{text}</text>"#
        );
    }

    /// The drawing as an element for a page, scaled to the width it is given there.
    pub fn element(&self, width: f64, height: f64, label: &str) -> String {
        let (label, body) = (escape(label), &self.body);
        format!(
            r#"<svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg">{body}</svg>"#
        )
    }

    /// The drawing as a file of its own, with its style sheet.
    pub fn document(&self, width: f64, height: f64, label: &str, style: &str) -> String {
        let (label, body) = (escape(label), &self.body);
        format!(
            r#"<svg viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{body}</svg>
"#
        )
    }
}

/// Text that can stand in a page.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters have no place in XML.
            c if c.is_control() && c != '\n' && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn title(tip: &str) -> String {
    if tip.is_empty() {
        return String::new();
    }
    format!("<title>{}</title>", escape(tip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_a_drawing() {
        let mut svg = Svg::default();
        svg.text((0.0, 0.0), Anchor::Start, "a", "</text><script>\u{0}");
        svg.circle((1.0, 2.0), 3.0, "b", "a \"quoted\" name");
        let drawn = svg.element(10.0, 10.0, "x<y");
        assert!(
            !drawn.contains("<script>") && !drawn.contains('\u{0}'),
            "{drawn}"
        );
        assert!(drawn.contains("aria-label=\"x&lt;y\""), "{drawn}");
        assert!(drawn.contains("&quot;quoted&quot;"), "{drawn}");
    }

    #[test]
    fn a_line_needs_two_points() {
        let mut svg = Svg::default();
        svg.path(&[(1.0, 1.0)], "a");
        assert!(!svg.element(1.0, 1.0, "").contains("polyline"));
        svg.path(&[(1.0, 1.0), (2.0, 2.5)], "a");
        assert!(svg.element(1.0, 1.0, "").contains("1.00,1.00 2.00,2.50"));
    }
}
