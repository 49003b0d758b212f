// SPDX-License-Identifier: Apache-2.0
use super::*;

fn rule(text: &str) -> Rule {
    let mut words = text.split_whitespace();
    let allow = words.next() == Some("allow");
    let kind = match words.next() {
        Some("a") => Kind::Any,
        Some("b") => Kind::Block,
        _ => Kind::Character,
    };
    let (major, minor) = words.next().unwrap().split_once(':').unwrap();
    let node = Node::new(kind, major.parse().ok(), minor.parse().ok());
    Rule { allow, node, access: Access::parse(words.next().unwrap()).unwrap() }
}

fn rules(text: &[&str]) -> Vec<Rule> {
    text.iter().map(|t| rule(t)).collect()
}

/// Runs a program as the kernel would: refuses what its verifier refuses (a jump or an end outside the code).
fn run(code: &[Instruction], kind: u64, major: u64, minor: u64, access: u64) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    loop {
        let [code_, regs, o0, o1, i @ ..] = code[at];
        let (dst, src) = (usize::from(regs & 15), usize::from(regs >> 4));
        let offset = i16::from_ne_bytes([o0, o1]);
        let immediate = i64::from(i32::from_ne_bytes(i)).cast_unsigned();
        at += 1;
        let jump = match code_ {
            0x61 => {
                registers[dst] = context[usize::try_from(offset).unwrap() / 4];
                false
            }
            0xb7 => {
                registers[dst] = immediate;
                false
            }
            0xbf => {
                registers[dst] = registers[src];
                false
            }
            0x57 => {
                registers[dst] &= immediate;
                false
            }
            0x77 => {
                registers[dst] >>= immediate;
                false
            }
            0x55 => registers[dst] != immediate,
            0x45 => registers[dst] & immediate != 0,
            0x05 => true,
            0x95 => return registers[0] == 1,
            other => panic!("opcode {other:#x}"),
        };
        if jump {
            at += usize::try_from(offset).unwrap();
        }
    }
}

/// Every instruction must be reachable, or the kernel refuses the program.
fn unreachable_instructions(code: &[Instruction]) -> Vec<usize> {
    let mut seen = vec![false; code.len()];
    let mut todo = vec![0];
    while let Some(at) = todo.pop() {
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        let target = at + 1 + usize::try_from(i16::from_ne_bytes([code[at][2], code[at][3]])).unwrap_or(0);
        match code[at][0] {
            0x95 => {}
            0x05 => todo.push(target),
            0x55 | 0x45 => todo.extend([at + 1, target]),
            _ => todo.push(at + 1),
        }
    }
    (0..code.len()).filter(|&i| !seen[i]).collect()
}

/// The definition: for each letter the last match decides, otherwise it is denied.
fn decide(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        let node = Node::new(kind, Some(major), Some(minor));
        let last = rules.iter().rev().find(|r| r.node.covers(&node) && r.access.0 & bit != 0);
        last.is_some_and(|r| r.allow)
    })
}

const SAMPLES: &[&[&str]] = &[
    &[],
    &["deny a *:* rwm"],
    &["allow a *:* rwm"],
    &["allow a *:* rwm", "deny c 1:3 w"],
    &["allow a *:* rwm", "deny c 1:* rwm", "allow c 1:3 rw"],
    &["deny a *:* rwm", "allow c *:* rwm", "deny c 1:3 w", "deny b *:* m"],
    &["allow a 1:3 r", "deny a *:* w", "allow b 1:* rw", "deny b *:3 r"],
    &["allow c *:* rwm", "allow c *:3 rwm", "allow c *:* rwm", "allow c 1:* rwm", "allow c 1:3 rwm"],
    &["allow c 1:3 r", "deny a *:* rwm", "allow a *:* m", "allow a 1:* r", "allow a *:3 w"],
];

#[test]
fn a_program_decides_as_the_last_match_of_each_letter_and_is_reachable_throughout() {
    for sample in SAMPLES {
        for with_defaults in [false, true] {
            let mut list = rules(sample);
            if with_defaults {
                list.extend(default_rules());
            }
            let code = program(&list).unwrap();
            assert_eq!(unreachable_instructions(&code), Vec::<usize>::new(), "{sample:?}");
            for (kind, number) in [(Kind::Block, 1), (Kind::Character, 2)] {
                for (major, minor) in [(1, 3), (1, 4), (2, 3), (5, 2), (136, 7), (8, 0)] {
                    for access in 1..8 {
                        let got = run(&code, number, major.into(), minor.into(), access.into());
                        let want = decide(&list, kind, major, minor, access);
                        assert_eq!(got, want, "{sample:?} {kind:?} {major}:{minor} {access}");
                    }
                }
            }
        }
    }
}

/// runc's and crun's programs let `rw` through here: no rule holds all of it, until the one that allows everything.
#[test]
fn a_denied_letter_denies_a_request_for_more() {
    let code = program(&rules(&["allow a *:* rwm", "deny c 1:3 w"])).unwrap();
    assert!(!run(&code, 2, 1, 3, 6));
    assert!(run(&code, 2, 1, 3, 2));
}

#[test]
fn no_rules_leave_the_default_devices() {
    let code = program(&default_rules()).unwrap();
    assert!(run(&code, 2, 1, 3, 7));
    assert!(run(&code, 2, 136, 9, 6));
    assert!(run(&code, 1, 8, 0, 1));
    assert!(!run(&code, 1, 8, 0, 2));
    assert!(!run(&code, 2, 10, 229, 6));
    assert!(code.len() < 60, "{}", code.len());
}

#[test]
fn everything_allowed_needs_no_program() {
    for (sample, expected) in [
        (&["allow a *:* rwm"][..], true),
        (&["deny a *:* rwm"], false),
        (&["allow a *:* rw"], false),
        (&["deny c 1:3 rwm", "allow a *:* rwm", "allow c 1:3 r"], true),
        (&["allow a *:* rwm", "deny c 1:3 m"], false),
        (&[], false),
    ] {
        assert_eq!(allows_everything(&rules(sample)), expected, "{sample:?}");
    }
}

#[test]
fn v1_gets_a_default_and_exceptions() {
    for (sample, allow, expected) in [
        (&["deny a *:* rwm", "allow c 1:3 r", "allow c 1:3 w"][..], false, &["c 1:3 rw"][..]),
        (&["allow c 1:3 rwm", "deny c 1:3 m"], false, &["c 1:3 rw"]),
        (&["allow c 1:3 rwm", "deny c 1:* rwm"], false, &[]),
        (&["allow a *:* rwm", "deny b 8:* w"], true, &["b 8:* w"]),
        (&["allow a *:* r"], false, &["b *:* r", "c *:* r"]),
        (&["allow c *:* m", "deny c 1:3 r"], false, &["c *:* m"]),
    ] {
        let got = exceptions(&rules(sample)).unwrap();
        assert_eq!(
            (got.allow, got.exceptions.iter().map(String::as_str).collect::<Vec<_>>()),
            (allow, expected.to_vec())
        );
    }
    let hole = exceptions(&rules(&["allow c *:* rwm", "deny c 1:3 w"])).unwrap_err();
    assert_eq!((hole.rule, hole.wanted.as_str(), hole.inside.as_str()), (1, "c 1:3 w", "c *:* rwm"));
}

#[test]
fn a_rule_is_read_with_its_json_path() {
    let mut problems = Problems::default();
    let mut read = |json: &str| {
        let spec: LinuxDeviceCgroup = serde_json::from_str(json).unwrap();
        Rule::from_spec(&spec, "linux.resources.devices[0]", &mut problems).map(|r| format!("{} {}", r.node, r.access))
    };
    assert_eq!(read(r#"{"allow":false,"access":"rwm"}"#).unwrap(), "a *:* rwm");
    assert_eq!(read(r#"{"allow":true,"type":"c","major":136,"minor":-1,"access":"mr"}"#).unwrap(), "c 136:* rm");
    assert_eq!(read(r#"{"allow":true,"type":"b","major":-2,"access":"r"}"#), None);
    assert_eq!(read(r#"{"allow":true,"type":"b","access":"rx"}"#), None);
    assert_eq!(read(r#"{"allow":true,"type":"u"}"#), None);
    let paths: Vec<_> = problems.errors.iter().map(|e| e.path.as_str()).collect();
    let at = "linux.resources.devices[0]";
    assert_eq!(paths, [format!("{at}.major"), format!("{at}.access"), format!("{at}.type")]);
}
