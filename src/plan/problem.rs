// SPDX-License-Identifier: Apache-2.0
//! Every fault of a configuration at once, each with the JSON path it stands at.

use std::fmt;

/// One fault or warning. `path` is the JSON path in config.json, e.g. `linux.uidMappings[0].size`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "config.json: {}: {}", self.path, self.message)
    }
}

/// The faults and warnings found while planning. Planning goes on after a fault, so that the user sees all of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Problems {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Problems {
    /// Records a fault at the JSON path `path`.
    pub fn error(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(Problem { path: path.into(), message: message.into(), hint: None });
    }

    /// Records a fault with advice.
    pub fn error_hint(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(Problem { path: path.into(), message: message.into(), hint: Some(hint.into()) });
    }

    /// Records something that works but is probably not meant.
    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem { path: path.into(), message: message.into(), hint: None });
    }

    /// A string that becomes a C string: refuses NUL bytes, which would cut it short (runtime-spec is silent; runc 1.3
    /// refuses them too).
    pub fn no_nul(&mut self, path: impl Into<String>, value: &str) -> bool {
        let fine = !value.as_bytes().contains(&0);
        if !fine {
            self.error(path, "contains a NUL byte");
        }
        fine
    }
}

impl fmt::Display for Problems {
    /// One fault a line, its hint (if any) on the next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
