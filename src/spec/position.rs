// SPDX-License-Identifier: Apache-2.0
//! Where the values of a JSON text stand: line and column of a JSON path, and the path of a place. serde_json keeps
//! neither, so the text is read once more, by a parser that is small because it is only given text that serde_json has
//! accepted (and whose depth serde_json has limited).

use std::ops::Range;

/// Every value of a text with its place.
#[derive(Debug)]
pub struct Positions<'a> {
    text: &'a [u8],
    root: Node,
}

#[derive(Debug)]
struct Node {
    /// Offsets of the value's bytes.
    at: Range<usize>,
    below: Below,
}

#[derive(Debug)]
enum Below {
    Nothing,
    /// Name, offset of the name, and value.
    Members(Vec<(String, usize, Node)>),
    Elements(Vec<Node>),
}

impl<'a> Positions<'a> {
    /// None if the text is no JSON.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { text, at: 0 };
        reader.skip_blanks();
        let root = reader.value()?;
        Some(Self { text, root })
    }

    /// Line and column, both from 1 and the column in characters, of the value at `path`, such as
    /// `linux.namespaces[2].type`; of the closest value around it if there is none.
    pub fn of(&self, path: &str) -> (usize, usize) {
        line_column(self.text, self.walk(path).1.at.start)
    }

    /// The same of a member's name.
    pub fn of_name(&self, path: &str) -> (usize, usize) {
        let (name, node) = self.walk(path);
        line_column(self.text, name.unwrap_or(node.at.start))
    }

    /// Calls `visit` with path, line and column of every member whose name its object has had before.
    pub fn duplicates(&self, visit: &mut dyn FnMut(String, usize, usize)) {
        duplicates(&self.root, "", &mut |path, at| {
            let (line, column) = line_column(self.text, at);
            visit(path, line, column);
        });
    }

    /// Follows the path as far as it goes. Names may hold dots (`linux.sysctl.net.core.somaxconn`), so that the longest
    /// one that fits is taken; of two members with one name the last, as serde_json does.
    fn walk(&self, path: &str) -> (Option<usize>, &Node) {
        let (mut node, mut rest, mut name) = (&self.root, path, None);
        loop {
            let next = match &node.below {
                Below::Members(members) => {
                    let word = rest.strip_prefix('.').unwrap_or(rest);
                    let fits = |name: &str| {
                        word.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                    };
                    members
                        .iter()
                        .filter_map(|(name, at, node)| fits(name).map(|rest| (name.len(), Some(*at), node, rest)))
                        .max_by_key(|(length, ..)| *length)
                        .filter(|(length, ..)| *length > 0)
                }
                Below::Elements(elements) => rest
                    .strip_prefix('[')
                    .and_then(|rest| rest.split_once(']'))
                    .and_then(|(index, rest)| Some((1, None, elements.get(index.parse::<usize>().ok()?)?, rest))),
                Below::Nothing => None,
            };
            match next {
                Some((_, at, below, after)) if !rest.is_empty() => (node, rest, name) = (below, after, at),
                _ => return (name, node),
            }
        }
    }

    /// The path of the innermost value that serde_json means by `line` and `column`: the last byte that it has read,
    /// which is the last of a scalar, the closing bracket of an object that lacks a member, or what stands before a
    /// value whose first byte was enough.
    pub fn path_at(&self, line: usize, column: usize, of_array: bool) -> String {
        let start = self.text.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
        let mut offset = usize::saturating_add(start, column).saturating_sub(1);
        let byte = |at: usize| self.text.get(at).copied();
        let before_a_value = |byte: u8| byte.is_ascii_whitespace() || byte == b':' || byte == b',';
        if byte(offset).is_some_and(before_a_value) || byte(offset) == Some(b'[') && !of_array {
            while byte(offset).is_some_and(|b| before_a_value(b) || b == b'[') {
                offset += 1;
            }
        }
        let (mut path, mut node) = (String::new(), &self.root);
        loop {
            let next = match &node.below {
                Below::Members(members) => {
                    members.iter().find(|(.., node)| node.at.contains(&offset)).map(|(name, _, node)| {
                        path.push_str(if path.is_empty() { "" } else { "." });
                        path.push_str(name);
                        node
                    })
                }
                Below::Elements(elements) => {
                    elements.iter().enumerate().find(|(_, node)| node.at.contains(&offset)).map(|(i, node)| {
                        path.push_str(&format!("[{i}]"));
                        node
                    })
                }
                Below::Nothing => None,
            };
            match next {
                Some(below) => node = below,
                None => return path,
            }
        }
    }
}

fn duplicates(node: &Node, path: &str, visit: &mut dyn FnMut(String, usize)) {
    match &node.below {
        Below::Members(members) => {
            let mut seen = std::collections::BTreeSet::new();
            for (name, at, value) in members {
                let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                duplicates(value, &here, visit);
                if !seen.insert(name) {
                    visit(here, *at);
                }
            }
        }
        Below::Elements(elements) => {
            for (i, element) in elements.iter().enumerate() {
                duplicates(element, &format!("{path}[{i}]"), visit);
            }
        }
        Below::Nothing => {}
    }
}

fn line_column(text: &[u8], offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
    (line, column)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// The next byte that is not blank, if it is `byte`, is passed.
    fn pass(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self) -> Option<Node> {
        self.skip_blanks();
        let start = self.at;
        let below = match self.peek()? {
            b'{' => {
                self.at += 1;
                let mut members = Vec::new();
                while !self.pass(b'}') {
                    self.pass(b',');
                    self.skip_blanks();
                    let at = self.at;
                    let name = self.string()?;
                    self.pass(b':').then_some(())?;
                    members.push((name, at, self.value()?));
                }
                Below::Members(members)
            }
            b'[' => {
                self.at += 1;
                let mut elements = Vec::new();
                while !self.pass(b']') {
                    self.pass(b',');
                    elements.push(self.value()?);
                }
                Below::Elements(elements)
            }
            b'"' => {
                self.string()?;
                Below::Nothing
            }
            _ => {
                while self.peek().is_some_and(|b| !b.is_ascii_whitespace() && !b",]}".contains(&b)) {
                    self.at += 1;
                }
                (self.at > start).then_some(Below::Nothing)?
            }
        };
        Some(Node { at: start..self.at, below })
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        (self.peek()? == b'"').then_some(())?;
        self.at += 1;
        while self.peek()? != b'"' {
            self.at += if self.peek()? == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        serde_json::from_slice(self.text.get(start..self.at)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "{\n  \"é\": 1, \"a\": {\"b.c\": [1, {\"d\": \"x\\\"]\"}], \"b\": 2},\n  \"e\": {}, \"e\": {\"f\" : 7}\n}";

    #[test]
    fn a_path_has_a_line_and_a_column() {
        let positions = Positions::parse(TEXT.as_bytes()).unwrap();
        for (path, expected) in [
            ("", (1, 1)),
            ("é", (2, 8)),
            ("a", (2, 16)),
            ("a.b.c[1].d", (2, 34)),
            ("a.b", (2, 49)),
            ("a.b.c[7].x", (2, 24)),
            ("e.f", (3, 24)),
            ("nothing.here", (1, 1)),
        ] {
            assert_eq!(positions.of(path), expected, "{path}");
        }
        assert_eq!(positions.of_name("e.f"), (3, 18));
        let mut twice = Vec::new();
        positions.duplicates(&mut |path, line, column| twice.push((path, line, column)));
        assert_eq!(twice, [("e".to_string(), 3, 12)]);
    }

    #[test]
    fn a_place_has_a_path() {
        let positions = Positions::parse(TEXT.as_bytes()).unwrap();
        // `x\"]`, its closing quote; the closing bracket of an object; the blank before 7; inside the array, before 1.
        for (line, column, path) in [(2, 40, "a.b.c[1].d"), (2, 41, "a.b.c[1]"), (3, 23, "e.f"), (2, 25, "a.b.c[0]")] {
            assert_eq!(positions.path_at(line, column, false), path, "{line}:{column}");
        }
        assert_eq!(positions.path_at(2, 25, true), "a.b.c");
    }

    #[test]
    fn what_is_no_json_has_no_places() {
        for text in ["", "{", "{\"a\"}", "[1", "\"a", "{\"a\": \"\\"] {
            assert!(Positions::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
