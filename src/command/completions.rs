// SPDX-License-Identifier: Apache-2.0
//! `orlop completions`: scripts that are written from the definitions of the command line, so that they know every flag.

use std::fmt::Write;

use anyhow::Result;
use clap::{Arg, Command};

use crate::cli::Shell;
use crate::command::print;

/// A command, or `seccomp` and `policy` with each of theirs.
struct Scope {
    /// The words that lead to it: empty for the flags before the command.
    path: String,
    flags: Vec<Flag>,
    /// With what they do.
    below: Vec<(String, String)>,
    /// It takes the id of a container that exists.
    takes_id: bool,
}

struct Flag {
    /// `--bundle`, `-b`.
    names: Vec<String>,
    help: String,
    value: Value,
}

/// What follows a flag.
enum Value {
    /// Nothing.
    None,
    /// One of these words.
    Words(String),
    File,
    Directory,
    Other,
}

/// Prints the script for a shell.
pub fn completions(shell: Shell, definition: &Command) -> Result<u8> {
    let scopes = scopes(definition);
    let text = match shell {
        Shell::Bash => bash(&scopes),
        Shell::Zsh => zsh(&scopes),
        Shell::Fish => fish(&scopes),
    }?;
    print(text.trim_end());
    Ok(0)
}

fn scopes(definition: &Command) -> Vec<Scope> {
    let mut scopes = Vec::new();
    add(definition, String::new(), &mut scopes);
    scopes
}

fn add(command: &Command, path: String, scopes: &mut Vec<Scope>) {
    let below = || command.get_subcommands().filter(|below| !below.is_hide_set());
    let name = |below: &Command| match path.as_str() {
        "" => below.get_name().to_string(),
        path => format!("{path} {}", below.get_name()),
    };
    let about = |below: &Command| below.get_about().map(ToString::to_string).unwrap_or_default();
    // These make a container.
    let makes = ["create", "run", "restore", "plan"].contains(&path.as_str());
    scopes.push(Scope {
        flags: command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set()).map(flag).collect(),
        below: below().map(|below| (below.get_name().to_string(), about(below))).collect(),
        takes_id: !makes && command.get_positionals().any(|arg| arg.get_id() == "id"),
        path: path.clone(),
    });
    for below in below() {
        add(below, name(below), scopes);
    }
}

fn flag(arg: &Arg) -> Flag {
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let words: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_string()).collect();
    let value = match arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str()) {
        _ if !arg.get_action().takes_values() => Value::None,
        _ if !words.is_empty() => Value::Words(words.join(" ")),
        Some("DIR") => Value::Directory,
        Some("FILE" | "PATH") => Value::File,
        _ => Value::Other,
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    Flag { names: long.into_iter().chain(short).collect(), help, value }
}

/// As one word of the shell's.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The arms of a `case` that goes down from one scope to the next, and the flags before whose value it goes nowhere.
fn descent(scopes: &[Scope], word: &str) -> Result<String> {
    let mut text = String::new();
    for scope in scopes {
        for (name, _) in &scope.below {
            let below = format!("{} {name}", scope.path);
            writeln!(text, "            {}:{name}) at={} ;;", quote(&scope.path), quote(below.trim_start()))?;
        }
        let valued = scope.flags.iter().filter(|flag| !matches!(flag.value, Value::None));
        let names: Vec<String> =
            valued.flat_map(|flag| &flag.names).map(|name| format!("{}:{name}", quote(&scope.path))).collect();
        if !names.is_empty() {
            writeln!(text, "            {}) {word} ;;", names.join("|"))?;
        }
    }
    Ok(text)
}

/// The arms of a `case` for the word after a flag.
fn values(scopes: &[Scope], how: fn(&Value) -> String) -> Result<String> {
    let mut text = String::new();
    for scope in scopes {
        for flag in scope.flags.iter().filter(|flag| !matches!(flag.value, Value::None)) {
            let names: Vec<String> = flag.names.iter().map(|name| format!("{}:{name}", quote(&scope.path))).collect();
            writeln!(text, "        {}) {}; return ;;", names.join("|"), how(&flag.value))?;
        }
    }
    Ok(text)
}

fn bash(scopes: &[Scope]) -> Result<String> {
    let mut text = format!(
        "_orlop() {{\n    local cur=${{COMP_WORDS[COMP_CWORD]}} at= words= id= i\n    COMPREPLY=()\n    \
         for ((i = 1; i < COMP_CWORD; i++)); do\n        case \"$at:${{COMP_WORDS[i]}}\" in\n{}        esac\n    done\n    \
         case \"$at:${{COMP_WORDS[COMP_CWORD - 1]}}\" in\n",
        descent(scopes, "((i++))")?
    );
    text += &values(scopes, |value| match value {
        Value::Words(words) => format!("COMPREPLY=($(compgen -W {} -- \"$cur\"))", quote(words)),
        Value::Directory => "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\"))".into(),
        Value::File => "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"))".into(),
        Value::None | Value::Other => ":".into(),
    })?;
    text += "    esac\n    case \"$at\" in\n";
    for scope in scopes {
        let flags = scope.flags.iter().flat_map(|flag| flag.names.iter().map(String::as_str));
        let words: Vec<&str> = flags.chain(scope.below.iter().map(|(name, _)| name.as_str())).collect();
        let id = if scope.takes_id { " id=1" } else { "" };
        writeln!(text, "        {}) words={}{id} ;;", quote(&scope.path), quote(&words.join(" ")))?;
    }
    text += "    esac\n    [[ -n $id && $cur != -* ]] && words=$(orlop list -q 2>/dev/null)\n    \
             COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -F _orlop orlop\n";
    Ok(text)
}

fn zsh(scopes: &[Scope]) -> Result<String> {
    let mut text = format!(
        "#compdef orlop\n_orlop() {{\n    local at= id= i\n    local -a flags below\n    \
         for ((i = 2; i < CURRENT; i++)); do\n        case \"$at:$words[i]\" in\n{}        esac\n    done\n    \
         case \"$at:$words[CURRENT-1]\" in\n",
        descent(scopes, "((i++))")?
    );
    text += &values(scopes, |value| match value {
        Value::Words(words) => format!("compadd -- {words}"),
        Value::Directory => "_files -/".into(),
        Value::File => "_files".into(),
        Value::None | Value::Other => ":".into(),
    })?;
    text += "    esac\n    case \"$at\" in\n";
    let described = |name: &str, help: &str| quote(&format!("{name}:{}", help.replace(':', "\\:")));
    for scope in scopes {
        let flags = scope.flags.iter().flat_map(|f| f.names.iter().map(|name| described(name, &f.help)));
        let flags = flags.collect::<Vec<_>>().join(" ");
        let below = scope.below.iter().map(|(name, about)| described(name, about)).collect::<Vec<_>>().join(" ");
        let id = if scope.takes_id { " id=1" } else { "" };
        writeln!(text, "        {}) flags=({flags}) below=({below}){id} ;;", quote(&scope.path))?;
    }
    text += "    esac\n    if [[ $words[CURRENT] == -* ]]; then\n        _describe -o option flags\n    \
             elif [[ -n $id ]]; then\n        compadd -- ${(f)\"$(orlop list -q 2>/dev/null)\"}\n    \
             elif (( $#below )); then\n        _describe command below\n    else\n        _files\n    fi\n}\n\
             if [[ $funcstack[1] == _orlop ]]; then _orlop \"$@\"; else compdef _orlop orlop; fi\n";
    Ok(text)
}

fn fish(scopes: &[Scope]) -> Result<String> {
    let mut text = String::from(
        "function __orlop_at\n    set -l at ''\n    set -l skip 0\n    for word in (commandline -opc)[2..-1]\n        \
         if test $skip = 1\n            set skip 0\n            continue\n        end\n        switch \"$at:$word\"\n",
    );
    for scope in scopes {
        for (name, _) in &scope.below {
            let below = format!("{} {name}", scope.path);
            let at = quote(below.trim_start());
            writeln!(
                text,
                "            case {}\n                set at {at}",
                quote(&format!("{}:{name}", scope.path))
            )?;
        }
        let valued = scope.flags.iter().filter(|flag| !matches!(flag.value, Value::None));
        for name in valued.flat_map(|flag| &flag.names) {
            let case = quote(&format!("{}:{name}", scope.path));
            writeln!(text, "            case {case}\n                set skip 1")?;
        }
    }
    text += "        end\n    end\n    test \"$at\" = \"$argv\"\nend\ncomplete -c orlop -f\n";
    for scope in scopes {
        let at = format!("complete -c orlop -n {}", quote(&format!("__orlop_at {}", scope.path)));
        for (name, about) in &scope.below {
            writeln!(text, "{at} -a {name} -d {}", quote(about))?;
        }
        if scope.takes_id {
            writeln!(text, "{at} -a '(orlop list -q 2>/dev/null)'")?;
        }
        for flag in &scope.flags {
            let names: Vec<String> = flag
                .names
                .iter()
                .map(|name| {
                    name.strip_prefix("--")
                        .map_or_else(|| format!("-s {}", name.trim_start_matches('-')), |long| format!("-l {long}"))
                })
                .collect();
            let value = match &flag.value {
                Value::None => String::new(),
                Value::Words(words) => format!(" -x -a {}", quote(words)),
                Value::File | Value::Directory => " -r -F".into(),
                Value::Other => " -x".into(),
            };
            writeln!(text, "{at} {}{value} -d {}", names.join(" "), quote(&flag.help))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_of_every_flag_and_command() {
        let scopes = scopes(&crate::cli::definition());
        assert!(scopes.iter().any(|scope| scope.path == "seccomp explain"));
        for text in [bash(&scopes), zsh(&scopes), fish(&scopes)].map(Result::unwrap) {
            for scope in &scopes {
                assert!(text.contains(&quote(&scope.path)) || text.contains(&format!("__orlop_at {}", scope.path)));
                for name in scope.flags.iter().flat_map(|flag| &flag.names) {
                    let bare = name.trim_start_matches('-');
                    assert!(
                        text.contains(name.as_str()) || text.contains(&format!("-l {bare}")),
                        "{} {name}",
                        scope.path
                    );
                }
            }
        }
    }
}
