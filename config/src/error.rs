//! What is wrong with a file, and where.

use std::fmt;

use crate::value::Misread;

/// A stretch of the file: line and column count from 1, column and length in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub struct Span {
    /// The line.
    pub line: u32,
    /// The first column.
    pub column: u32,
    /// How many characters, at least one.
    pub length: u32,
}

/// Something to be said of a file, with the place and an excerpt.
///
/// Printed as
/// ```text
/// edge.yaml:2:10: error: unknown key `devise`
///   |
/// 2 |   lan: { devise: eth1 }
///   |          ^^^^^^ did you mean `device`?
/// ```
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Where; `None` if it is about the file as a whole.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Whether the file is refused because of it.
    pub severity: Severity,
    /// The line of `span`.
    pub excerpt: String,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted.
    Warning,
}

/// Something in an accepted file that was hardly meant.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct Warning(pub Problem);

/// Why a file is refused: every error that was found, in the order of the file, at least one; those in other files that it
/// names are behind them.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct Errors(Vec<Problem>);

impl Errors {
    /// The errors, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl Problem {
    fn new(file: &str, excerpt: &str, span: Span, what: Misread, severity: Severity) -> Self {
        // What spans several lines is underlined on its first.
        let room = (excerpt.trim_end().chars().count() as u32 + 1).saturating_sub(span.column).max(1);
        Problem {
            file: file.into(),
            span: Some(Span { length: span.length.clamp(1, room), ..span }),
            message: printable(&what.message),
            help: what.help.as_deref().map(printable),
            severity,
            excerpt: excerpt.to_owned(),
        }
    }

    /// A problem with the file as a whole.
    pub(crate) fn whole_file(file: &str, message: String) -> Self {
        Problem {
            file: file.into(),
            span: None,
            message,
            help: None,
            severity: Severity::Error,
            excerpt: String::new(),
        }
    }
}

/// How much of a long line is shown.
const WIDTH: usize = 110;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Some(span) = self.span else {
            write!(f, "{}: {severity}: {}", self.file, self.message)?;
            return self.help.iter().try_for_each(|help| write!(f, "; {help}"));
        };
        writeln!(f, "{}:{}:{}: {severity}: {}", self.file, span.line, span.column, self.message)?;

        // One character for one column, so that the caret stands under its text.
        let line: Vec<char> = self.excerpt.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let column = (span.column as usize - 1).min(line.len());
        let first = if line.len() > WIDTH { column.saturating_sub(WIDTH / 2) } else { 0 };
        let last = line.len().min(first + WIDTH);
        let (cut_left, cut_right) =
            (if first > 0 { "…" } else { "" }, if last < line.len() { "…" } else { "" });
        let shown: String = line[first..last].iter().collect();
        let indent = column - first + cut_left.chars().count();
        let carets = (span.length as usize).clamp(1, (last - column).max(1));

        let number = span.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{margin} |")?;
        writeln!(f, "{}", format!("{number} | {cut_left}{shown}{cut_right}").trim_end())?;
        write!(f, "{margin} | {}{}", " ".repeat(indent), "^".repeat(carets))?;
        self.help.iter().try_for_each(|help| write!(f, " {help}"))
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl From<Problem> for Errors {
    fn from(problem: Problem) -> Self {
        Errors(vec![problem])
    }
}

/// Collects what is found while a file is checked.
pub(crate) struct Report<'a> {
    file: String,
    lines: Vec<&'a str>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: &str, text: &'a str) -> Self {
        Report { file: file.into(), lines: text.lines().collect(), errors: Vec::new(), warnings: Vec::new() }
    }

    /// The line of that number.
    pub(crate) fn line(&self, number: u32) -> &'a str {
        (number as usize).checked_sub(1).and_then(|index| self.lines.get(index)).copied().unwrap_or_default()
    }

    /// The text at `span`, as far as it is on one line.
    pub(crate) fn text(&self, span: Span) -> String {
        self.line(span.line).chars().skip(span.column as usize - 1).take(span.length as usize).collect()
    }

    /// Whether the file has nothing but comments.
    pub(crate) fn is_blank(&self) -> bool {
        self.lines.iter().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#'))
    }

    /// Adds an error.
    pub(crate) fn error(&mut self, span: Span, what: impl Into<Misread>) {
        let problem = self.problem(span, what.into(), Severity::Error);
        self.errors.push(problem);
    }

    /// Adds an error in another file, which this one names; `line` is the text of its line.
    pub(crate) fn error_in(&mut self, file: &str, line: &str, span: Span, what: Misread) {
        self.errors.push(Problem::new(file, line, span, what, Severity::Error));
    }

    /// Adds an error about the file as a whole.
    pub(crate) fn whole_file(&mut self, message: String) {
        self.errors.push(Problem::whole_file(&self.file, message));
    }

    /// Adds a warning.
    pub(crate) fn warning(&mut self, span: Span, what: impl Into<Misread>) {
        let problem = self.problem(span, what.into(), Severity::Warning);
        self.warnings.push(problem);
    }

    fn problem(&self, span: Span, what: Misread, severity: Severity) -> Problem {
        Problem::new(&self.file, self.line(span.line), span, what, severity)
    }

    /// What was made of the file, unless there were errors.
    pub(crate) fn finish<T>(mut self, made: Option<T>) -> Result<(T, Vec<Warning>), Errors> {
        // What is wrong in other files comes behind what is wrong in this one.
        let (file, errors) = (&self.file, &mut self.errors);
        errors.sort_by_cached_key(|problem| (problem.file != *file, problem.file.clone(), problem.span));
        self.warnings.sort_by_key(|problem| problem.span);
        match made {
            Some(made) if self.errors.is_empty() => {
                Ok((made, self.warnings.into_iter().map(Warning).collect()))
            }
            _ => Err(Errors(self.errors)),
        }
    }
}

/// Without what a terminal would obey: messages quote the file.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl From<String> for Misread {
    fn from(message: String) -> Self {
        Misread::new(message)
    }
}

impl From<&str> for Misread {
    fn from(message: &str) -> Self {
        Misread::new(message)
    }
}
