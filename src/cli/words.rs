// SPDX-License-Identifier: Apache-2.0
//! The words of the command line as Go's flag package reads them, which runc's callers know: `-no-subreaper` for
//! `--no-subreaper`, `--detach=true`, `help COMMAND`.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

/// Puts the words into clap's form. `definition` is asked for only if there is a word that needs it.
pub fn normal(words: &[OsString], definition: fn() -> Command) -> Cow<'_, [OsString]> {
    let special = |word: &OsString| word.to_str().is_some_and(|word| word == "help" || go_style(word));
    if !words.iter().skip(1).any(special) {
        return Cow::Borrowed(words);
    }
    Cow::Owned(rewrite(words, &definition()))
}

/// Whether clap would read the word differently: a long name behind one dash, or a value of a switch.
fn go_style(word: &str) -> bool {
    match word.strip_prefix('-') {
        Some(rest) if rest.starts_with('-') => rest.split_once('=').is_some_and(|(_, value)| switch(value).is_some()),
        Some(rest) => rest.len() > 1,
        None => false,
    }
}

/// A value of strconv.ParseBool.
fn switch(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn rewrite(words: &[OsString], root: &Command) -> Vec<OsString> {
    let mut made: Vec<OsString> = words.iter().take(1).cloned().collect();
    let mut rest = words.iter().skip(1);
    let (mut scope, mut help) = (root, false);
    while let Some(word) = rest.next() {
        let flag = word.to_str().filter(|text| text.len() > 1).and_then(|text| text.strip_prefix('-'));
        let Some(flag) = flag else {
            match scope.find_subcommand(word) {
                Some(below) => scope = below,
                None if word == "help" && std::ptr::eq(scope, root) => {
                    help = true;
                    continue;
                }
                // What follows belongs to a program.
                None if scope.get_positionals().any(Arg::is_trailing_var_arg_set) => {
                    made.push(word.clone());
                    break;
                }
                None => {}
            }
            made.push(word.clone());
            continue;
        };
        let name = flag.strip_prefix('-').unwrap_or(flag);
        if name.is_empty() {
            made.push(word.clone());
            break;
        }
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        let long = scope.get_arguments().find(|arg| arg.get_long() == Some(name));
        let short = |arg: &&Arg| arg.get_short().is_some_and(|short| flag == short.to_string());
        let known = long.or_else(|| scope.get_arguments().find(short));
        let takes_value = known.is_some_and(|arg| arg.get_action().takes_values());
        match (long, value) {
            (Some(_), Some(value)) if !takes_value && switch(value) == Some(true) => {
                made.push(format!("--{name}").into())
            }
            (Some(_), Some(value)) if !takes_value && switch(value) == Some(false) => {}
            (Some(_), Some(value)) => made.push(format!("--{name}={value}").into()),
            (Some(_), None) => made.push(format!("--{name}").into()),
            (None, _) => made.push(word.clone()),
        }
        if takes_value && value.is_none() {
            made.extend(rest.next().cloned());
        }
    }
    made.extend(rest.cloned());
    if help {
        made.push("--help".into());
    }
    made
}

/// The base name of the program, as it was called.
pub fn base_name(program: &OsStr) -> &OsStr {
    std::path::Path::new(program).file_name().unwrap_or(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_go_become_clap_s() {
        for (line, expected) in [
            ("orlop run -no-subreaper -detach -bundle /b id", "orlop run --no-subreaper --detach --bundle /b id"),
            ("orlop -root /r -log=/l state id", "orlop --root /r --log=/l state id"),
            ("orlop --root -log kill -all id 9", "orlop --root -log kill --all id 9"),
            ("orlop exec --detach=true --tty=false -no-new-privs=0 id sh", "orlop exec --detach id sh"),
            ("orlop exec -tty id prog -tty -d=true", "orlop exec --tty id prog -tty -d=true"),
            ("orlop exec -e A=true id prog", "orlop exec -e A=true id prog"),
            ("orlop ps id -aux", "orlop ps id -aux"),
            ("orlop --rootless=true list", "orlop --rootless=true list"),
            ("orlop help", "orlop --help"),
            ("orlop help create", "orlop create --help"),
            ("orlop create help", "orlop create help"),
            ("orlop state -- -root", "orlop state -- -root"),
            ("orlop list -quiet=perhaps", "orlop list --quiet=perhaps"),
        ] {
            let words = line.split(' ').map(OsString::from).collect::<Vec<_>>();
            let made = normal(&words, crate::cli::definition);
            assert_eq!(made.join(OsStr::new(" ")), expected);
        }
    }

    #[test]
    fn ordinary_words_are_taken_as_they_are() {
        let words = ["orlop", "--root", "/r", "create", "--bundle", "/b", "-b", "x", "id"].map(OsString::from);
        assert!(matches!(normal(&words, || unreachable!()), Cow::Borrowed(_)));
    }
}
