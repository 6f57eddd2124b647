//! One kind of error for everything that can be wrong with a config: where, what, and the remedy.

use std::ops::Range;

/// What is wrong with a config. Prints as `FILE:LINE:COLUMN: MESSAGE; REMEDY`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}; {remedy}", self.place())]
pub struct ConfigError {
    /// The file as the user named it, or `command line`.
    pub file: String,
    /// Line and column, both from 1; the column counts characters.
    pub position: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

impl ConfigError {
    fn place(&self) -> String {
        match self.position {
            Some((line, column)) => format!("{}:{line}:{column}", self.file),
            None => self.file.clone(),
        }
    }
}

/// A fault without its place: where in the text it is, and the two halves of the message.
pub struct Fault {
    /// Byte range in the text; `None` for something that is missing altogether.
    pub span: Option<Range<usize>>,
    pub message: String,
    pub remedy: String,
}

impl Fault {
    pub fn at(span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            span: Some(span),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    pub fn missing(message: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            span: None,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// What the TOML parser or a value's own parser says. Value parsers put the remedy behind a semicolon.
    pub fn from_toml(error: &toml::de::Error) -> Fault {
        let message = error.message().trim_end().replace('\n', ", ");
        let (message, remedy) = match message.split_once("; ") {
            Some((message, remedy)) => (message.to_owned(), remedy.to_owned()),
            None => {
                let remedy = remedy_for(&message).to_owned();
                (message, remedy)
            }
        };
        Fault {
            span: error.span(),
            message,
            remedy,
        }
    }

    /// Turns the byte offset into line and column of `text`.
    pub fn locate(self, text: &str, file: &str) -> ConfigError {
        let position = self.span.map(|span| {
            let start = text.floor_char_boundary(span.start);
            let before = &text[..start];
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            (
                before.matches('\n').count() + 1,
                before[line_start..].chars().count() + 1,
            )
        });
        ConfigError {
            file: file.to_owned(),
            position,
            message: self.message,
            remedy: self.remedy,
        }
    }
}

fn remedy_for(message: &str) -> &'static str {
    if message.starts_with("unknown field") {
        "remove the key or correct its spelling (sipnat.sample.toml has all keys)"
    } else if message.starts_with("unknown variant") {
        "write one of the values that are expected"
    } else if message.starts_with("invalid type") || message.starts_with("invalid value") {
        "write a value of the kind that is expected (sipnat.sample.toml shows each key)"
    } else if message.starts_with("missing field") {
        "add the key"
    } else if message.starts_with("duplicate") {
        "keep one of the two"
    } else {
        "correct the TOML here: `key = value`, text in double quotes, lists in square brackets"
    }
}
