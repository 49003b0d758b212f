// SPDX-License-Identifier: Apache-2.0
//! Values of D-Bus, and the text that GLib writes them in (GVariant text format).

use std::fmt;

/// A value of D-Bus (specification, "Type System") as far as units have them: no dictionaries and no variants in text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variant {
    /// A boolean or number: its type code, and its value's bits, those of a negative number sign-extended.
    Number(char, u64),
    /// A string `s`, object path `o` or signature `g`.
    Text(char, String),
    /// The signature of its elements, and they.
    Array(String, Vec<Variant>),
    Tuple(Vec<Variant>),
    /// A value of whichever type, `v`. Not in text.
    Boxed(Box<Variant>),
}

/// The names that GVariant has for types: name, type code, bits, and whether there is a sign.
const NUMBERS: [(&str, char, u32, bool); 8] = [
    ("byte", 'y', 8, false),
    ("int16", 'n', 16, true),
    ("uint16", 'q', 16, false),
    ("int32", 'i', 32, true),
    ("uint32", 'u', 32, false),
    ("int64", 'x', 64, true),
    ("uint64", 't', 64, false),
    ("double", 'd', 64, true),
];

impl Variant {
    pub fn bool(value: bool) -> Variant {
        Variant::Number('b', value.into())
    }

    pub fn byte(value: u8) -> Variant {
        Variant::Number('y', value.into())
    }

    pub fn u32(value: u32) -> Variant {
        Variant::Number('u', value.into())
    }

    pub fn u64(value: u64) -> Variant {
        Variant::Number('t', value)
    }

    pub fn text(value: &str) -> Variant {
        Variant::Text('s', value.into())
    }

    pub fn texts(values: &[&str]) -> Variant {
        Variant::Array("s".into(), values.iter().map(|value| Variant::text(value)).collect())
    }

    /// The signature of the value's type.
    pub fn signature(&self) -> String {
        match self {
            Variant::Number(code, _) | Variant::Text(code, _) => code.to_string(),
            Variant::Array(element, _) => format!("a{element}"),
            Variant::Tuple(members) => {
                format!("({})", members.iter().map(Variant::signature).collect::<String>())
            }
            Variant::Boxed(_) => "v".into(),
        }
    }

    /// A number of seconds as one of microseconds, of the type that systemd has for times.
    pub(super) fn microseconds(&self) -> Option<Variant> {
        let micro = match *self {
            Variant::Number('d', bits) => {
                let seconds = f64::from_bits(bits) * 1e6;
                if !(0.0..1e18).contains(&seconds) {
                    return None;
                }
                // Within the bounds of the type by the check above.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let micro = seconds as u64;
                micro
            }
            Variant::Number('b', _) => return None,
            // systemd's infinity.
            Variant::Number('t', u64::MAX) => u64::MAX,
            Variant::Number(code, bits) if code == 'y' || code == 'q' || code == 'u' || code == 't' => {
                bits.checked_mul(1_000_000)?
            }
            Variant::Number(_, bits) => u64::try_from(bits.cast_signed()).ok()?.checked_mul(1_000_000)?,
            _ => return None,
        };
        Some(Variant::u64(micro))
    }
}

impl fmt::Display for Variant {
    /// GVariant text with the types of numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open: &str, members: &[Variant], close: &str| {
            f.write_str(open)?;
            for (i, member) in members.iter().enumerate() {
                write!(f, "{}{member}", if i > 0 { ", " } else { "" })?;
            }
            f.write_str(close)
        };
        match self {
            Variant::Number('b', value) => write!(f, "{}", *value != 0),
            Variant::Number('d', bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Variant::Number(code, bits) => {
                let (name, signed) = NUMBERS.iter().find(|n| n.1 == *code).map_or(("?", false), |n| (n.0, n.3));
                if signed { write!(f, "{name} {}", bits.cast_signed()) } else { write!(f, "{name} {bits}") }
            }
            Variant::Text(_, text) => write!(f, "'{}'", text.escape_default()),
            Variant::Array(element, members) if members.is_empty() => write!(f, "@a{element} []"),
            Variant::Array(_, members) => list(f, "[", members, "]"),
            Variant::Tuple(members) => list(f, "(", members, ")"),
            Variant::Boxed(value) => write!(f, "<{value}>"),
        }
    }
}

/// Reads GVariant text. A number without a type is an `int32`, or a `double` if it has a point or an exponent.
pub(super) fn parse(text: &str) -> Result<Variant, String> {
    let mut parser = Parser { rest: text, depth: 0 };
    let value = parser.value(None)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(format!("{:?} is too much", parser.rest)),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, char: char) -> bool {
        let found = self.peek() == Some(char);
        if found {
            self.rest = self.rest.get(char.len_utf8()..).unwrap_or_default();
        }
        found
    }

    fn expect(&mut self, char: char) -> Result<(), String> {
        if self.take(char) { Ok(()) } else { Err(format!("{char:?} is missing before {:?}", self.rest)) }
    }

    /// A value; `wanted`: the signature that has been given for it.
    fn value(&mut self, wanted: Option<&str>) -> Result<Variant, String> {
        self.depth += 1;
        if self.depth > 8 {
            return Err("it is too deep".into());
        }
        let value = match self.peek() {
            None => Err("a value is missing".to_string()),
            Some('@') => {
                self.take('@');
                let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
                let (signature, rest) = self.rest.split_at_checked(end).unwrap_or_default();
                self.rest = rest;
                match element(signature) {
                    Some("") => self.value(Some(signature)),
                    _ => Err(format!("{signature:?} is not a type")),
                }
            }
            Some('[') => self.array(wanted),
            Some('(') => self.tuple(wanted),
            Some('\'' | '"') => self.string().map(|text| Variant::Text(wanted_text(wanted), text)),
            Some('{' | '<') => Err("dictionaries and variants are not supported".into()),
            Some(_) => self.word(wanted),
        }?;
        self.depth -= 1;
        match wanted {
            Some(wanted) if value.signature() != wanted => Err(format!("{value} is not of the type {wanted:?}")),
            _ => Ok(value),
        }
    }

    fn array(&mut self, wanted: Option<&str>) -> Result<Variant, String> {
        self.expect('[')?;
        let inner = wanted.and_then(|wanted| wanted.strip_prefix('a'));
        let mut members = Vec::new();
        while !self.take(']') {
            if !members.is_empty() {
                self.expect(',')?;
            }
            members.push(self.value(inner)?);
        }
        let Some(element) = inner.map(str::to_string).or_else(|| members.first().map(Variant::signature)) else {
            return Err("an empty array needs a type, as in @as []".into());
        };
        if members.iter().any(|member| member.signature() != element) {
            return Err("the elements of the array are of several types".into());
        }
        Ok(Variant::Array(element, members))
    }

    fn tuple(&mut self, wanted: Option<&str>) -> Result<Variant, String> {
        self.expect('(')?;
        let mut types = wanted.and_then(|w| w.strip_prefix('(')?.strip_suffix(')'));
        let mut members = Vec::new();
        while !self.take(')') {
            if !members.is_empty() {
                self.expect(',')?;
                if self.take(')') {
                    break; // (1,) has one member
                }
            }
            let rest = types.and_then(element);
            let first = types.zip(rest).and_then(|(all, rest)| all.strip_suffix(rest));
            members.push(self.value(first)?);
            types = rest;
        }
        if members.is_empty() { Err("a tuple has members".into()) } else { Ok(Variant::Tuple(members)) }
    }

    fn string(&mut self) -> Result<String, String> {
        let mut chars = self.rest.char_indices();
        let quote = chars.next().map(|(_, quote)| quote);
        let mut text = String::new();
        while let Some((at, char)) = chars.next() {
            match char {
                char if Some(char) == quote => {
                    self.rest = self.rest.get(at + 1..).unwrap_or_default();
                    return Ok(text);
                }
                '\\' => text.push(match chars.next().map(|(_, char)| char) {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some(char @ ('\\' | '\'' | '"')) => char,
                    other => return Err(format!("\\{} is not supported", other.unwrap_or_default())),
                }),
                '\0' => return Err("a string has no NUL".into()),
                char => text.push(char),
            }
        }
        Err("the string does not end".into())
    }

    fn word(&mut self, wanted: Option<&str>) -> Result<Variant, String> {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c));
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or_default();
        if let Some(byte_string) = rest.chars().next().filter(|c| word == "b" && matches!(c, '\'' | '"')) {
            self.rest = rest;
            let mut bytes: Vec<Variant> = self.string()?.bytes().map(Variant::byte).collect();
            bytes.push(Variant::byte(0));
            let _quote = byte_string;
            return Ok(Variant::Array("y".into(), bytes));
        }
        self.rest = rest;
        let code = match word {
            "true" | "false" => return Ok(Variant::bool(word == "true")),
            "boolean" => 'b',
            "string" => 's',
            "objectpath" => 'o',
            "signature" => 'g',
            word => match NUMBERS.iter().find(|number| number.0 == word) {
                Some(number) => number.1,
                None => return number(word, wanted),
            },
        };
        self.value(Some(code.encode_utf8(&mut [0; 4])))
    }
}

fn wanted_text(wanted: Option<&str>) -> char {
    match wanted {
        Some("o") => 'o',
        Some("g") => 'g',
        _ => 's',
    }
}

fn number(word: &str, wanted: Option<&str>) -> Result<Variant, String> {
    let wrong = || format!("{word:?} is not a value");
    let is_hex = word.trim_start_matches(['-', '+']).starts_with("0x");
    let is_float = !is_hex && word.contains(['.', 'e', 'E']);
    let code = wanted.and_then(|w| w.chars().next()).unwrap_or(if is_float { 'd' } else { 'i' });
    if !word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Err(wrong());
    }
    if code == 'd' {
        return Ok(Variant::Number('d', word.parse::<f64>().map_err(|_| wrong())?.to_bits()));
    }
    let Some(&(name, _, bits, signed)) = NUMBERS.iter().find(|number| number.1 == code) else { return Err(wrong()) };
    let magnitude = word.trim_start_matches(['-', '+']);
    let value = match magnitude.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None => magnitude.parse(),
    };
    let value = value.map_err(|_| wrong())? * if word.starts_with('-') { -1 } else { 1 };
    let (low, high) = if signed { (-(1_i128 << (bits - 1)), 1_i128 << (bits - 1)) } else { (0, 1_i128 << bits) };
    if !(low..high).contains(&value) {
        return Err(format!("{word} is not a {name}"));
    }
    let bits = u64::try_from(value).or_else(|_| i64::try_from(value).map(i64::cast_unsigned));
    Ok(Variant::Number(code, bits.map_err(|_| wrong())?))
}

/// What is left of a signature after its first type; None if there is none.
fn element(signature: &str) -> Option<&str> {
    let mut rest = signature;
    while let Some(inner) = rest.strip_prefix('a') {
        rest = inner;
    }
    if let Some(mut inner) = rest.strip_prefix('(') {
        loop {
            inner = element(inner)?;
            if let Some(after) = inner.strip_prefix(')') {
                return Some(after);
            }
        }
    }
    let first = rest.chars().next()?;
    if "bynqiuxtdsog".contains(first) { rest.get(1..) } else { None }
}
