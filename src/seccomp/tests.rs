// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::denials::Stack;
use super::policy::{Data, Policy, Reason};
use super::*;

const VECTORS: &str = include_str!("../../specs/vectors/seccomp.json");
const DOCKER: &str = include_str!("../../specs/vectors/docker-seccomp.json");

fn section(profile: Value) -> LinuxSeccomp {
    serde_json::from_value(profile).unwrap()
}

fn try_compile(native: Arch, section: &LinuxSeccomp) -> (Option<Compiled>, Problems) {
    let mut problems = Problems::default();
    let compiled = compile_for(native, section, &mut problems);
    assert_eq!(compiled.is_none(), !problems.errors.is_empty(), "{problems}");
    (compiled, problems)
}

fn program(profile: Value) -> Vec<Instruction> {
    let (compiled, problems) = try_compile(Arch::X86_64, &section(profile));
    compiled.unwrap_or_else(|| panic!("{problems}")).program
}

/// The paths of the faults of a profile, or of its warnings if there are none.
fn paths(profile: Value) -> Vec<String> {
    let (compiled, problems) = try_compile(Arch::X86_64, &section(profile));
    let found = if compiled.is_some() { problems.warnings } else { problems.errors };
    found.into_iter().map(|problem| problem.path).collect()
}

fn policy(native: Arch, section: &LinuxSeccomp) -> Policy {
    let mut problems = Problems::default();
    let profile = profile::Profile::from_oci(section, native, &mut problems);
    lower::lower(&profile, &mut problems)
}

/// Runs a program on a call; the answer as the vectors write it.
fn answer(program: &[Instruction], arch: Arch, number: u32, args: [u64; 6]) -> String {
    let code = simulate::run(program, &Data { arch: arch.audit(), number, args }).unwrap().code;
    let data = code & libc::SECCOMP_RET_DATA;
    match code & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_KILL_PROCESS => "KILL_PROCESS".into(),
        libc::SECCOMP_RET_KILL_THREAD => "KILL_THREAD".into(),
        libc::SECCOMP_RET_TRAP => "TRAP".into(),
        libc::SECCOMP_RET_ERRNO => format!("ERRNO({data})"),
        libc::SECCOMP_RET_USER_NOTIF => "NOTIFY".into(),
        libc::SECCOMP_RET_TRACE => format!("TRACE({data})"),
        libc::SECCOMP_RET_LOG => "LOG".into(),
        libc::SECCOMP_RET_ALLOW => "ALLOW".into(),
        other => panic!("{other:x}"),
    }
}

/// xorshift64*: the tests are the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.next() >> 33).unwrap() % from.len()]
    }
}

/// All expectations are met, those marked as another implementation's policy or bug included.
#[test]
fn the_vectors() {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let mut calls = 0;
    for vector in &vectors {
        let id = vector["id"].as_str().unwrap();
        // A flag that does not exist never gets past the parser.
        let parsed: Result<LinuxSeccomp, _> = serde_json::from_value(vector["profile"].clone());
        let compiled = parsed.ok().and_then(|section| try_compile(Arch::X86_64, &section).0);
        for call in vector["calls"].as_array().unwrap() {
            calls += 1;
            let expected = call["expected"].as_str().unwrap();
            // These two fail in a container, where nobody listens at the path that they name; the profiles are fine.
            if ["notify-write-refused", "notify-default-refused"].contains(&id) {
                assert!(compiled.as_ref().is_some_and(|c| c.notifies), "{id}");
                continue;
            }
            let Some(compiled) = &compiled else {
                assert_eq!(expected, "CREATE_FAILS", "{id}");
                continue;
            };
            let arch = match call["arch"].as_str().unwrap() {
                "x86_64" => Arch::X86_64,
                "x86" => Arch::X86,
                other => panic!("{other}"),
            };
            let number = u32::try_from(call["nr"].as_i64().unwrap() & 0xffff_ffff).unwrap();
            let mut args = [0; 6];
            for (arg, text) in args.iter_mut().zip(call["args"].as_array().unwrap()) {
                *arg = u64::from_str_radix(text.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap();
            }
            assert_eq!(answer(&compiled.program, arch, number, args), expected, "{id} {number} {args:x?}");
        }
    }
    assert!(vectors.len() >= 36 && calls >= 60, "{} {calls}", vectors.len());
}

#[test]
fn docker_s_profile_is_small_and_quick_to_execute() {
    let section: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let (compiled, problems) = try_compile(Arch::X86_64, &section);
    let compiled = compiled.unwrap();
    assert_eq!(problems, Problems::default(), "a profile everybody uses must not be nagged about");
    assert!(compiled.program.len() <= 600, "{}", compiled.program.len());
    assert_eq!((compiled.flags.as_slice(), compiled.notifies), ([FilterFlag::SpecAllow].as_slice(), false));
    let most = (0..500).map(|number| {
        let data = Data { arch: Arch::X86_64.audit(), number, args: [41, 0, 0, 0, 0, 0] };
        simulate::run(&compiled.program, &data).unwrap().executed
    });
    assert!(most.max() <= Some(40));
    for (arch, number, args, expected) in [
        (Arch::X86_64, 0, [0; 6], "ALLOW"),
        (Arch::X86_64, 41, [39, 0, 0, 0, 0, 0], "ALLOW"),
        (Arch::X86_64, 41, [40, 0, 0, 0, 0, 0], "ERRNO(1)"),
        (Arch::X86_64, 41, [38, 0, 0, 0, 0, 0], "ERRNO(1)"),
        (Arch::X86_64, 56, [0x1_1000_0000, 0, 0, 0, 0, 0], "ERRNO(1)"),
        (Arch::X86_64, 56, [0x0120_0011, 0, 0, 0, 0, 0], "ALLOW"),
        (Arch::X86_64, 435, [0; 6], "ERRNO(38)"),
        (Arch::X86_64, 135, [0x2_0008, 0, 0, 0, 0, 0], "ALLOW"),
        (Arch::X86_64, 135, [1, 0, 0, 0, 0, 0], "ERRNO(1)"),
        (Arch::X86_64, 250, [0; 6], "ERRNO(1)"),
        (Arch::X86_64, 900, [0; 6], "ERRNO(38)"),
        (Arch::X86_64, 0x4000_0000, [0; 6], "ALLOW"),
        (Arch::X86_64, 0x4000_0fff, [0; 6], "ERRNO(38)"),
        (Arch::X86_64, u32::MAX, [0; 6], "ERRNO(1)"),
        (Arch::X86, 4, [0; 6], "ALLOW"),
        (Arch::X86, 102, [1, 0, 0, 0, 0, 0], "ALLOW"),
        (Arch::Aarch64, 0, [0; 6], "KILL_THREAD"),
    ] {
        assert_eq!(answer(&compiled.program, arch, number, args), expected, "{arch:?} {number} {args:x?}");
    }
}

#[test]
fn the_check_notices_an_instruction_that_was_changed() {
    let section: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let program = try_compile(Arch::X86_64, &section).0.unwrap().program;
    let policy = policy(Arch::X86_64, &section);
    assert_eq!(codegen::check(&policy, &program), Ok(()));
    let mut unnoticed = 0;
    for at in 0..program.len() {
        for change in [
            |i: &mut Instruction| i.k ^= 4,
            |i: &mut Instruction| i.k = i.k.wrapping_add(4),
            |i: &mut Instruction| (i.jt, i.jf) = (i.jf, i.jt),
        ] {
            let mut wrong = program.clone();
            change(&mut wrong[at]);
            // A few changes alter nothing, since the profile's rules for socket overlap.
            if codegen::check(&policy, &wrong).is_ok() {
                // Numbers with conditions on either architecture: socket, clone, personality.
                let checked = [41, 56, 120, 135, 136, 359];
                for arch in [Arch::X86_64, Arch::X86] {
                    for number in (0..500).flat_map(|number| [number, arch::X32_BIT | number]) {
                        let most = if checked.contains(&(number & 0xfff)) { 50 } else { 1 };
                        for arg in (0..most).chain([0x2_0000, 0x2_0008, 0x7e02_0000, u64::MAX]) {
                            for arg in [arg, arg | 1 << 32, arg | 5 << 32] {
                                let data = Data { arch: arch.audit(), number, args: [arg; 6] };
                                let same = simulate::run(&wrong, &data).map(|outcome| outcome.code);
                                assert_eq!(
                                    same,
                                    Some(policy.decide(&data).code()),
                                    "{at}: {:?} {data:x?}",
                                    program[at]
                                );
                            }
                        }
                    }
                }
                unnoticed += usize::from(wrong != program);
            }
        }
    }
    assert!(unnoticed < 20, "{unnoticed}");
}

#[test]
fn every_architecture_compiles_and_the_program_agrees_with_the_policy_on_every_number() {
    let mut section: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    section.set_architectures(None);
    for native in Arch::ALL {
        let (compiled, problems) = try_compile(native, &section);
        let program = compiled.unwrap_or_else(|| panic!("{problems}")).program;
        let policy = policy(native, &section);
        let getppid = native.number(arch::Call::find("getppid").unwrap()).unwrap();
        assert_eq!(answer(&program, native, getppid, [0; 6]), "ALLOW", "{native:?}");
        assert_eq!(answer(&program, native, getppid | 900, [0; 6]), "ERRNO(38)", "{native:?}");
        for base in [0, arch::X32_BIT, arch::ARM_PRIVATE, u32::MAX - 599] {
            for number in (0..600).map(|i| base + i) {
                for arg in [0, 1, 38, 39, 40, 41, 0x2_0008, 0x1000_0000, 0x7e02_0000, u64::MAX] {
                    let data = Data { arch: native.audit(), number, args: [arg; 6] };
                    let code = simulate::run(&program, &data).unwrap().code;
                    assert_eq!(code, policy.decide(&data).code(), "{native:?} {number} {arg:x}");
                }
            }
        }
        for other in Arch::ALL.iter().filter(|other| other.audit() != native.audit()) {
            assert_eq!(answer(&program, *other, 0, [0; 6]), "KILL_THREAD");
        }
    }
}

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"];
const VALUES: [u64; 9] =
    [0, 5, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0xffff_ffff_0000_0000, u64::MAX];

/// A condition as the specification words it, for a program that compares 64 bits. Independent of [`policy`].
fn holds(arg: &Value, args: [u64; 6]) -> bool {
    let (value, two) = (arg["value"].as_u64().unwrap(), arg["valueTwo"].as_u64().unwrap_or(0));
    let actual = args[usize::try_from(arg["index"].as_u64().unwrap()).unwrap()];
    match arg["op"].as_str().unwrap() {
        "SCMP_CMP_EQ" => actual == value,
        "SCMP_CMP_NE" => actual != value,
        "SCMP_CMP_LT" => actual < value,
        "SCMP_CMP_LE" => actual <= value,
        "SCMP_CMP_GT" => actual > value,
        "SCMP_CMP_GE" => actual >= value,
        _ => actual & value == two & value,
    }
}

#[test]
fn every_pair_of_operators_as_two_rules_and_as_one() {
    let condition = |index: u32, op: &str, value: u64| json!({"index": index, "op": op, "value": value, "valueTwo": 5});
    let points: Vec<u64> =
        VALUES.iter().flat_map(|v| [v.wrapping_sub(1), *v, v.wrapping_add(1)]).chain([0x5_0000_0005]).collect();
    for (a, b) in OPERATORS.iter().flat_map(|a| OPERATORS.map(|b| (*a, b))) {
        for (v, w) in VALUES.iter().flat_map(|v| VALUES.map(|w| (*v, w))) {
            let (first, second) = (condition(0, a, v), condition(0, b, w));
            let deny = |args: Value| json!({"names": ["getppid"], "action": "SCMP_ACT_TRAP", "args": args});
            let or = program(json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [deny(json!([&first])), deny(json!([&second]))]}));
            let third = condition(3, b, w);
            let and = program(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [deny(json!([&first, &third]))]}));
            for (i, &point) in points.iter().enumerate() {
                let args = [point, 0, 0, points[(i * 7 + 3) % points.len()], 0, 0];
                let verdict = |deny: bool| if deny { "TRAP" } else { "ALLOW" };
                let either = holds(&first, args) || holds(&second, args);
                assert_eq!(answer(&or, Arch::X86_64, 110, args), verdict(either), "{first} or {second}: {point:x}");
                let both = holds(&first, args) && holds(&third, args);
                assert_eq!(answer(&and, Arch::X86_64, 110, args), verdict(both), "{first} and {third}: {args:x?}");
            }
        }
    }
}

/// Random profiles: the emitted program against the policy, and the policy on x86_64 against the profile's text
/// wherever the rules that match agree on the action.
#[test]
fn random_profiles_agree_with_their_policy_and_their_text() {
    const NAMES: [(&str, u32); 6] =
        [("getppid", 110), ("socket", 41), ("semop", 65), ("clone3", 435), ("personality", 135), ("mseal", 462)];
    const ACTIONS: [(&str, Option<u32>); 6] = [
        ("SCMP_ACT_ALLOW", None),
        ("SCMP_ACT_ERRNO", Some(71)),
        ("SCMP_ACT_ERRNO", Some(72)),
        ("SCMP_ACT_LOG", None),
        ("SCMP_ACT_TRAP", None),
        ("SCMP_ACT_KILL_PROCESS", None),
    ];
    const ARCHES: [&str; 8] = [
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_AARCH64",
        "SCMP_ARCH_ARM",
        "SCMP_ARCH_RISCV64",
        "SCMP_ARCH_PPC64LE",
        "SCMP_ARCH_LOONGARCH64",
    ];
    let mut random = Random(0x6f72_6c6f_7000_0001);
    let (mut compared, mut read) = (0, 0);
    for _ in 0..1500 {
        let mut entries = Vec::new();
        for _ in 0..1 + random.next() % 7 {
            let (action, errno) = random.pick(&ACTIONS);
            let mut indices = [0, 1, 2, 3, 4, 5];
            indices.rotate_left(usize::try_from(random.next() % 6).unwrap());
            let count = usize::try_from(random.next() % 4).unwrap();
            let args: Vec<Value> = indices[..count]
                .iter()
                .map(|index| {
                    let value = random.pick(&VALUES).wrapping_add(random.next() % 3);
                    let two = random.pick(&VALUES);
                    json!({"index": index, "op": random.pick(&OPERATORS), "value": value, "valueTwo": two})
                })
                .collect();
            let names: Vec<_> = (0..1 + random.next() % 3).map(|_| random.pick(&NAMES).0).collect();
            let mut entry = json!({"names": names, "action": action, "args": args});
            if let Some(errno) = errno {
                entry["errnoRet"] = json!(errno);
            }
            entries.push(entry);
        }
        let arches: Vec<_> = (0..random.next() % 4).map(|_| random.pick(&ARCHES)).collect();
        let (default, errno) = random.pick(&ACTIONS);
        let mut profile = json!({"defaultAction": default, "architectures": arches, "syscalls": entries});
        if let Some(errno) = errno {
            profile["defaultErrnoRet"] = json!(errno);
        }
        let section = section(profile.clone());
        let (Some(compiled), _) = try_compile(Arch::X86_64, &section) else {
            // Contradictory, which is tested elsewhere.
            continue;
        };
        let policy = policy(Arch::X86_64, &section);
        for _ in 0..100 {
            let args: [u64; 6] = std::array::from_fn(|_| random.pick(&VALUES).wrapping_add(random.next() % 4));
            let arch = random.pick(&Arch::ALL);
            let (name, x86_64) = random.pick(&NAMES);
            let call = arch::Call::find(name).unwrap();
            let number = match random.next() % 4 {
                0 => u32::try_from(random.next() % 500).unwrap(),
                1 => arch.multiplexed(call).map_or(x86_64, |(number, _)| number),
                _ => arch.number(call).unwrap_or(x86_64),
            };
            let data = Data { arch: arch.audit(), number, args };
            let decided = policy.decide(&data);
            let code = simulate::run(&compiled.program, &data).unwrap().code;
            assert_eq!(code, decided.code(), "{arch:?} {number} {args:x?}\n{profile}");
            compared += 1;

            if data.arch == Arch::X86_64.audit() && number == x86_64 {
                let effective = || {
                    entries.iter().filter(|e| {
                        let default = (e["action"] == profile["defaultAction"])
                            && (e.get("errnoRet") == profile.get("defaultErrnoRet"));
                        !default && e["names"].as_array().unwrap().iter().any(|n| n == name)
                    })
                };
                let conditions = |e: &Value| e["args"].as_array().unwrap().clone();
                let tautology = |a: &Value| a["op"] == "SCMP_CMP_MASKED_EQ" && a["value"] == 0;
                let unconditional = effective().find(|e| conditions(e).iter().all(tautology));
                let mut matching: Vec<_> =
                    effective().filter(|e| conditions(e).iter().all(|a| holds(a, args))).collect();
                if let Some(first) = unconditional {
                    matching = vec![first];
                }
                let same =
                    |e: &&Value| e["action"] == matching[0]["action"] && e["errnoRet"] == matching[0]["errnoRet"];
                if matching.iter().all(same) {
                    let newest = entries
                        .iter()
                        .flat_map(|e| e["names"].as_array().unwrap())
                        .filter_map(|n| NAMES.iter().find(|(name, _)| n == name).map(|(_, number)| *number));
                    let permissive = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"].contains(&default);
                    let (action, errno) = match matching.first() {
                        Some(e) => (e["action"].as_str().unwrap(), e["errnoRet"].as_u64()),
                        None if !permissive && newest.max() < Some(number) => ("SCMP_ACT_ERRNO", Some(38)),
                        None => (default, errno.map(u64::from)),
                    };
                    let expected = action.strip_prefix("SCMP_ACT_").unwrap().to_string();
                    let expected = errno.map_or(expected.clone(), |errno| format!("{expected}({errno})"));
                    assert_eq!(
                        answer(&compiled.program, arch, number, args),
                        expected,
                        "{number} {args:x?}\n{profile}"
                    );
                    read += 1;
                }
            }
        }
    }
    assert!(compared > 100_000 && read > 5_000, "{compared} {read}");
}

#[test]
fn faults_name_the_member() {
    let one = |entry: Value| paths(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]}));
    let arg = json!([{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 6, "op": "SCMP_CMP_EQ", "value": 1}]);
    assert_eq!(
        one(json!({"names": ["read"], "action": "SCMP_ACT_TRAP", "args": arg})),
        ["linux.seccomp.syscalls[0].args[1].index"]
    );
    assert_eq!(one(json!({"names": [], "action": "SCMP_ACT_TRAP"})), ["linux.seccomp.syscalls[0].names"]);
    for (action, errno) in [("SCMP_ACT_ERRNO", 4096), ("SCMP_ACT_TRACE", 65536), ("SCMP_ACT_LOG", 1)] {
        let found = one(json!({"names": ["read"], "action": action, "errnoRet": errno}));
        assert_eq!(found, ["linux.seccomp.syscalls[0].errnoRet"], "{action}");
    }
    assert_eq!(
        paths(json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1})),
        ["linux.seccomp.defaultErrnoRet"]
    );
    assert_eq!(paths(json!({"defaultAction": "SCMP_ACT_NOTIFY"})), ["linux.seccomp.defaultAction"]);
    assert_eq!(one(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})), ["linux.seccomp.syscalls[0].action"]);
    assert_eq!(
        paths(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m"})),
        ["linux.seccomp.listenerMetadata"]
    );
    // All at once, and a warning beside them.
    let entry = json!({"names": ["no_such_call"], "action": "SCMP_ACT_TRAP", "errnoRet": 1});
    let (_, problems) = try_compile(
        Arch::X86_64,
        &section(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000, "syscalls": [entry]})),
    );
    let errors: Vec<_> = problems.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "config.json: linux.seccomp.defaultErrnoRet: 5000 is above 4095, the highest for SCMP_ACT_ERRNO",
            "config.json: linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_TRAP returns no error number",
        ]
    );
    assert_eq!(problems.warnings[0].path, "linux.seccomp.syscalls[0].names[0]");
}

#[test]
fn rules_that_cannot_do_what_they_say_are_warned_of() {
    let trap = |args: Value| json!({"names": ["socket"], "action": "SCMP_ACT_TRAP", "args": args});
    let log = |args: Value| json!({"names": ["socket"], "action": "SCMP_ACT_LOG", "args": args});
    let is = |index: u32, op: &str, value: u64| json!({"index": index, "op": op, "value": value});
    let two = |a: Value, b: Value| {
        let mut problems = Problems::default();
        compile(&section(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [a, b]})), &mut problems);
        problems
            .errors
            .iter()
            .chain(&problems.warnings)
            .map(|p| format!("{}: {}", p.path, p.message))
            .collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(two(trap(json!([is(0, "SCMP_CMP_LT", 5)])), log(json!([is(0, "SCMP_CMP_GE", 5)]))), none);
    assert_eq!(
        two(trap(json!([is(0, "SCMP_CMP_LT", 6)])), log(json!([is(0, "SCMP_CMP_EQ", 5)]))),
        ["linux.seccomp.syscalls[0]: overlaps with syscalls[1] for socket; where both match, that one decides"]
    );
    assert_eq!(
        two(trap(json!([is(0, "SCMP_CMP_LT", 6)])), log(json!([]))),
        ["linux.seccomp.syscalls[0]: never applies to socket: syscalls[1] decides it whatever the arguments are"]
    );
    assert_eq!(
        two(trap(json!([is(0, "SCMP_CMP_LT", 6)])), log(json!([is(0, "SCMP_CMP_LT", 6)]))),
        ["linux.seccomp.syscalls[1]: has the same conditions for socket as syscalls[0] but another action"]
    );
    assert_eq!(
        two(trap(json!([])), json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW"})),
        ["linux.seccomp.syscalls[1]: is ignored, since its action is the default one; it makes no exception from \
          syscalls[0] for socket"]
    );
    assert_eq!(
        paths(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [trap(json!([is(0, "SCMP_CMP_GE", 1), is(0, "SCMP_CMP_LE", 2)]))]})),
        ["linux.seccomp.syscalls[0].args"]
    );
    // socketcall's first argument is the subcode, so that the condition cannot be kept there.
    assert_eq!(
        paths(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_S390X"],
        "syscalls": [trap(json!([is(0, "SCMP_CMP_EQ", 1)]))]})),
        ["linux.seccomp.architectures[1]", "linux.seccomp.syscalls[0].args"]
    );
}

#[test]
fn ipc_is_denied_whatever_version_the_caller_adds_to_the_subcode() {
    let program = program(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["shmat"], "action": "SCMP_ACT_TRAP"}]}));
    assert_eq!(answer(&program, Arch::X86, 117, [21, 0, 0, 0, 0, 0]), "TRAP");
    assert_eq!(answer(&program, Arch::X86, 117, [0x1_0015, 0, 0, 0, 0, 0]), "TRAP");
    assert_eq!(answer(&program, Arch::X86, 117, [22, 0, 0, 0, 0, 0]), "ALLOW");
    assert_eq!(answer(&program, Arch::X86, 397, [0; 6]), "TRAP");
}

#[test]
fn newer_calls_get_enosys_but_holes_and_arm_s_private_calls_the_default() {
    let section = section(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{"names": ["read", "mseal", "set_tls"], "action": "SCMP_ACT_ALLOW"}]}));
    for native in [Arch::X86_64, Arch::Arm, Arch::Riscv64] {
        let program = try_compile(native, &section).0.unwrap().program;
        for (number, expected) in [
            (462, "ALLOW"),
            (463, "ERRNO(38)"),
            (100_000, "ERRNO(38)"),
            (461, "KILL_PROCESS"),
            (u32::MAX, "KILL_PROCESS"),
        ] {
            assert_eq!(answer(&program, native, number, [0; 6]), expected, "{native:?} {number}");
        }
    }
    let arm = try_compile(Arch::Arm, &section).0.unwrap().program;
    assert_eq!(answer(&arm, Arch::Arm, 0xf_0005, [0; 6]), "ALLOW");
    assert_eq!(answer(&arm, Arch::Arm, 0xf_0002, [0; 6]), "KILL_PROCESS");
    assert_eq!(answer(&arm, Arch::Arm, 0xe_ffff, [0; 6]), "ERRNO(38)");
}

#[test]
fn a_program_of_4096_instructions_is_the_longest() {
    // Each rule takes four instructions; odd values so that no two share any.
    let with = |rules: u64| {
        let entry = |i: u64| {
            let arg = json!([{"index": 0, "op": "SCMP_CMP_EQ", "value": i << 32 | i}]);
            json!({"names": ["getppid"], "action": "SCMP_ACT_TRAP", "args": arg})
        };
        let entries: Vec<_> = (0..rules).map(entry).collect();
        section(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries}))
    };
    let longest = (900..1024).rev().find_map(|rules| try_compile(Arch::X86_64, &with(rules)).0).unwrap();
    assert!((4090..=4096).contains(&longest.program.len()), "{}", longest.program.len());
    let last = longest.program.last().unwrap();
    assert_eq!(last.code, simulate::RETURN);
    let problems = try_compile(Arch::X86_64, &with(3000)).1;
    assert_eq!(problems.errors[0].path, "linux.seccomp");
    assert!(problems.errors[0].message.contains("the kernel takes 4096"), "{problems}");
}

#[test]
fn flags_and_listener() {
    let notify = json!([{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]);
    let flags = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_LOG"]);
    let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": notify,
        "listenerPath": "/run/agent.sock", "listenerMetadata": "m"});
    let compiled = try_compile(Arch::X86_64, &section(profile.clone())).0.unwrap();
    assert!(compiled.notifies);
    assert_eq!(compiled.flags.iter().map(|flag| flag.bit()).sum::<u32>(), 2 | 32);
    assert_eq!(compiled.listener, Some(Listener { path: "/run/agent.sock".into(), metadata: Some("m".into()) }));
    assert_eq!(answer(&compiled.program, Arch::X86_64, 165, [0; 6]), "NOTIFY");

    // Without a call to be notified of there is no listener for that flag to apply to.
    profile["syscalls"] = json!([]);
    assert_eq!(paths(profile.clone()), ["linux.seccomp.listenerPath", "linux.seccomp.flags[1]"]);
    let compiled = try_compile(Arch::X86_64, &section(profile)).0.unwrap();
    assert_eq!((compiled.flags.as_slice(), compiled.notifies), ([FilterFlag::Log].as_slice(), false));
    let empty = try_compile(Arch::X86_64, &section(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": []})));
    assert!(empty.0.unwrap().flags.is_empty());
}

#[test]
fn a_compiled_filter_is_dumped_as_words() {
    let compiled = try_compile(Arch::Aarch64, &section(json!({"defaultAction": "SCMP_ACT_ALLOW"}))).0.unwrap();
    assert_eq!(
        serde_json::to_value(&compiled).unwrap(),
        json!({
            "program": {"instructions": 5, "words":
                "0020000000000004 00150002c00000b7 0020000000000000 000600007fff0000 0006000000000000"},
            "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"], "listener": null, "notifies": false,
        })
    );
}

/// The calls of issue 3: which part of Docker's profile decides them.
#[test]
fn docker_s_profile_is_explained() {
    let section: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let mut problems = Problems::default();
    let examined = examine(Arch::X86_64, &section, &mut problems).unwrap();
    let eperm = Action::Errno(1);
    for (arch, call, words, action, reason, by_arguments, bitmap) in [
        (Arch::X86_64, "clone", vec!["flags=CLONE_NEWUSER"], eperm, Reason::Default, true, false),
        (Arch::X86_64, "clone", vec!["CLONE_VM|SIGCHLD"], Action::Allow, Reason::Entry(12), true, false),
        (Arch::X86_64, "socket", vec!["AF_VSOCK"], eperm, Reason::Default, true, false),
        (Arch::X86_64, "socket", vec!["PF_INET6"], Action::Allow, Reason::Entry(2), true, false),
        (Arch::X86_64, "socket", vec!["domain=AF_KCM"], Action::Allow, Reason::Entry(4), true, false),
        (Arch::X86_64, "personality", vec![], Action::Allow, Reason::Entry(5), true, false),
        (Arch::X86_64, "personality", vec!["0xffffffff"], Action::Allow, Reason::Entry(9), true, false),
        (Arch::X86_64, "personality", vec!["-1"], eperm, Reason::Default, true, false),
        (Arch::X86, "personality", vec!["-1"], Action::Allow, Reason::Entry(9), true, false),
        (Arch::X86_64, "keyctl", vec![], eperm, Reason::Default, false, false),
        (Arch::X86_64, "600", vec![], Action::Errno(38), Reason::Newer, false, false),
        (Arch::X32, "600", vec![], Action::Errno(38), Reason::Newer, false, false),
        (Arch::X86_64, "clone3", vec![], Action::Errno(38), Reason::Entry(13), false, false),
        (Arch::X86_64, "chroot", vec![], Action::Allow, Reason::Entry(14), false, true),
        (Arch::X86_64, "ptrace", vec![], Action::Allow, Reason::Entry(1), false, true),
        (Arch::X86_64, "0", vec![], Action::Allow, Reason::Entry(0), false, true),
        (Arch::X86, "read", vec![], Action::Allow, Reason::Entry(0), false, true),
        (Arch::X32, "read", vec![], Action::Allow, Reason::Entry(0), false, false),
        (Arch::X86_64, "-1", vec![], eperm, Reason::Skipped, false, false),
        (Arch::Aarch64, "read", vec![], Action::KillThread, Reason::Unlisted, false, false),
    ] {
        let number = arch.number_of(call).unwrap();
        let args = words::arguments(call, words).unwrap();
        let told = explain::explain(&examined, arch, number, args).unwrap();
        let found = (told.action, told.reason, !told.rules.is_empty(), told.bitmap);
        assert_eq!(found, (action, reason, by_arguments, bitmap), "{arch:?} {call} {args:x?}");
        let data = Data { arch: arch.audit(), number, args };
        let outcome = simulate::run(&examined.program, &data).unwrap();
        assert_eq!((outcome.code, outcome.executed), (action.code(), told.executed), "{arch:?} {call}");
        assert_eq!(by_arguments, outcome.reads_arguments, "{arch:?} {call}");
    }
    let newer = explain::explain(&examined, Arch::X86_64, 600, [0; 6]).unwrap();
    assert_eq!(newer.newest, Some((466, "removexattrat")));
    assert!(Arch::X86_64.number_of("_llseek").unwrap_err().contains("x86, arm, ppc64le have it"));
    assert!(Arch::X86_64.number_of("nosuch").is_err() && Arch::X86_64.number_of("0x100000000").is_err());
}

/// Reasons kept apart do not change answers, and name an entry that has the call and the action.
#[test]
fn reasons_agree_with_the_policy() {
    let section: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let examined = examine(Arch::X86_64, &section, &mut Problems::default()).unwrap();
    let merged = policy(Arch::X86_64, &section);
    for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
        for number in (0..600).map(|n| if arch == Arch::X32 { n | arch::X32_BIT } else { n }) {
            for arg in [0, 1, 38, 39, 40, 41, 0x1000_0000, 0xffff_ffff, u64::MAX] {
                let data = Data { arch: arch.audit(), number, args: [arg; 6] };
                let (action, reason) = examined.apart.explain(&data);
                assert_eq!(action, merged.decide(&data), "{data:?}");
                if let Reason::Entry(entry) = reason {
                    let rule = &examined.profile.rules[entry];
                    assert!(rule.action == action && rule.calls.iter().any(|c| arch.number(*c) == Some(number)));
                }
            }
        }
    }
}

fn differences(a: &Value, b: &Value) -> diff::Diff {
    let examined = |profile: &Value| {
        let mut problems = Problems::default();
        examine(Arch::X86_64, &section(profile.clone()), &mut problems).unwrap_or_else(|| panic!("{problems}"))
    };
    let (in_a, in_b) = (examined(a), examined(b));
    let found = diff::diff(&in_a.apart, &in_b.apart, None);
    let (pa, pb) = (policy(Arch::X86_64, &section(a.clone())), policy(Arch::X86_64, &section(b.clone())));
    for d in &found.differences {
        // The witness really is one, in policies lowered the usual way.
        let data = Data { arch: d.arch.audit(), number: d.first, args: d.args };
        assert_eq!((pa.decide(&data), pb.decide(&data)), (d.a.0, d.b.0), "{d:?}");
        assert_ne!(d.a.0, d.b.0);
    }
    found
}

#[test]
fn differences_have_a_witness_each() {
    let docker: Value = serde_json::from_str(DOCKER).unwrap();
    assert_eq!(differences(&docker, &docker), diff::Diff::default());

    // The order of entries, and what several say instead of one, are no difference.
    let mut same = docker.clone();
    same["syscalls"].as_array_mut().unwrap().reverse();
    assert_eq!(differences(&docker, &same), diff::Diff::default());
    let arg = |op: &str, value: u64| json!([{"index": 0, "op": op, "value": value}]);
    let with = |entries: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries});
    let allow = |args: Value| json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": args});
    let one = with(json!([allow(arg("SCMP_CMP_NE", 40))]));
    let two = with(json!([allow(arg("SCMP_CMP_LT", 40)), allow(arg("SCMP_CMP_GT", 40))]));
    assert_eq!(differences(&one, &two), diff::Diff::default());

    // socket(AF_ALG) alone, on three architectures; the 64-bit value on one of them.
    let mut looser = docker.clone();
    looser["syscalls"][2]["args"][0]["value"] = json!(39);
    let found = differences(&docker, &looser).differences;
    let witnesses: Vec<_> = found.iter().map(|d| (d.arch, d.args[0], d.a.0, d.b)).collect();
    let allowed = (Action::Allow, Reason::Entry(2));
    assert_eq!(
        witnesses,
        [
            (Arch::X86, 38, Action::Errno(1), allowed),
            (Arch::X86_64, 38, Action::Errno(1), allowed),
            (Arch::X32, 38, Action::Errno(1), allowed),
        ]
    );
    let wide = with(json!([allow(arg("SCMP_CMP_LT", 0x1_0000_0028))]));
    let found = differences(&with(json!([allow(arg("SCMP_CMP_LE", 0x1_0000_0028))])), &wide).differences;
    assert_eq!(found.iter().map(|d| d.args[0]).collect::<Vec<_>>(), [0x1_0000_0028]);

    // A call more, a newer one (which moves ENOSYS), an architecture less.
    let mut other = docker.clone();
    other["syscalls"][0]["names"].as_array_mut().unwrap().push(json!("keyctl"));
    other["architectures"] = json!(["SCMP_ARCH_X86_64"]);
    let found = differences(&docker, &other).differences;
    let keyctl: Vec<_> = found.iter().filter(|d| d.arch == Arch::X86_64).collect();
    assert_eq!((keyctl.len(), keyctl[0].first, keyctl[0].by_arguments), (1, 250, false));
    let x32: Vec<_> = found.iter().filter(|d| d.arch == Arch::X32).map(|d| d.a.0).collect();
    assert_eq!(x32.len(), 3, "one for each verdict of the architecture: {x32:?}");
    let newer = with(json!([allow(json!([])), {"names": ["mseal"], "action": "SCMP_ACT_ALLOW"}]));
    let found = differences(&with(json!([allow(json!([]))])), &newer).differences;
    assert!(found.iter().any(|d| d.first == 462 && d.b.0 == Action::Allow && d.a.1 == Reason::Newer));
    let runs = found.iter().filter(|d| d.last > d.first).count();
    assert!(runs > 0, "numbers without names are one region");
}

/// Random pairs: no difference found means none at any of many points, and the other way round.
#[test]
fn random_differences_are_complete() {
    let mut random = Random(0x6f72_6c6f_7000_0002);
    let (mut equal, mut different) = (0, 0);
    for _ in 0..400 {
        let mut profile = || {
            let entries: Vec<_> = (0..1 + random.next() % 3)
                .map(|i| {
                    let arg = json!({"index": random.next() % 8 / 7, "op": random.pick(&OPERATORS),
                        "value": random.next() % 3, "valueTwo": random.next() % 3});
                    let action = if i == 0 {
                        "SCMP_ACT_ALLOW"
                    } else {
                        random.pick(&["SCMP_ACT_ALLOW", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG"])
                    };
                    json!({"names": ["socket"], "action": action, "args": [arg]})
                })
                .collect();
            json!({"defaultAction": "SCMP_ACT_TRAP", "syscalls": entries})
        };
        let (a, b) = (profile(), profile());
        if [&a, &b].iter().any(|p| try_compile(Arch::X86_64, &section((*p).clone())).0.is_none()) {
            continue;
        }
        let found = differences(&a, &b);
        assert_eq!(found.unknown, []);
        let (pa, pb) = (policy(Arch::X86_64, &section(a)), policy(Arch::X86_64, &section(b)));
        let points = (0..6).flat_map(|x| (0..6).map(move |y| [x, y, 0, 0, 0, 0]));
        let differ = points
            .map(|args| Data { arch: Arch::X86_64.audit(), number: 41, args })
            .any(|data| pa.decide(&data) != pb.decide(&data));
        assert_eq!(differ, !found.differences.is_empty(), "{found:?}");
        *(if differ { &mut different } else { &mut equal }) += 1;
    }
    assert!(equal > 10 && different > 100, "{equal} {different}");
}

#[test]
fn what_cannot_be_compared_is_unknown() {
    let entries = |value: u64| -> Vec<Value> {
        (0..20)
            .map(|i| {
                let arg =
                    json!([{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 3_u64 << i, "valueTwo": value << i}]);
                json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": arg})
            })
            .collect()
    };
    let with = |value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries(value)});
    let found = differences(&with(1), &with(2));
    assert_eq!((found.differences.len(), found.unknown), (0, vec![(Arch::X86_64, 41)]));
}

#[test]
fn lint_finds_what_decides_nothing() {
    let lint = |profile: Value| -> Vec<String> {
        let mut problems = Problems::default();
        let examined = examine(Arch::X86_64, &section(profile), &mut problems).unwrap_or_else(|| panic!("{problems}"));
        lint::lint(&examined, &mut problems);
        problems.warnings.into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
    };
    assert_eq!(lint(serde_json::from_str(DOCKER).unwrap()), [""; 0]);
    let entry = |name: &str, action: &str, args: Value| json!({"names": [name], "action": action, "args": args});
    let arg = |op: &str, value: u64| json!({"index": 0, "op": op, "value": value});
    let with = |entries: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries});
    let (allow, log) = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG");
    for (profile, expected) in [
        // Another entry names it already.
        (
            with(json!([entry("read", allow, json!([])), {"names": ["read", "write"], "action": allow}])),
            "linux.seccomp.syscalls[1]: is dead for read: it can never decide, syscalls[0] comes first",
        ),
        (
            with(json!([entry("read", allow, json!([])), entry("read", allow, json!([arg("SCMP_CMP_EQ", 1)]))])),
            "linux.seccomp.syscalls[1]: is dead: it can never decide, syscalls[0] comes first",
        ),
        // No value is below zero.
        (
            with(json!([entry("read", allow, json!([arg("SCMP_CMP_LT", 0)]))])),
            "linux.seccomp.syscalls[0]: is dead: it can never decide, nothing can match it",
        ),
        // Two that come first cover it together, as neither does alone. Equality comes before order.
        (
            with(json!([
                entry("read", allow, json!([arg("SCMP_CMP_LT", 2)])),
                entry("read", allow, json!([arg("SCMP_CMP_EQ", 0)])),
                entry("read", allow, json!([arg("SCMP_CMP_EQ", 1)])),
            ])),
            "linux.seccomp.syscalls[0]: is dead: it can never decide, syscalls[1], syscalls[2] come first",
        ),
        (
            with(json!([entry("read", allow, json!([arg("SCMP_CMP_EQ", 1)])), entry("read", log, json!([]))])),
            "linux.seccomp.syscalls[0]: never applies to read: syscalls[1] decides it whatever the arguments are",
        ),
        (
            with(json!([entry("read", "SCMP_ACT_ERRNO", json!([])), entry("write", allow, json!([]))])),
            "linux.seccomp.syscalls[0]: has the default action: it decides nothing, its names only count as known",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [entry("read", allow, json!([arg("SCMP_CMP_EQ", 0x1_0000_0001)]))]}),
            "linux.seccomp.syscalls[0].args: arg0 == 0x100000001 is cut to 32 bits on x86, x32, where arguments have no more",
        ),
        (
            json!({"defaultAction": allow, "architectures": ["SCMP_ARCH_X86"]}),
            "linux.seccomp.architectures: x32 is not listed: a call there kills the thread, although the default action is to allow",
        ),
        (
            with(json!([entry("nosuch", allow, json!([]))])),
            "linux.seccomp.syscalls[0].names[0]: ignored: no system call is named \"nosuch\"",
        ),
    ] {
        assert_eq!(lint(profile.clone()), [expected], "{profile}");
    }
}

#[test]
fn a_tiny_program_is_listed() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["personality"], "action": "SCMP_ACT_TRACE", "errnoRet": 7,
                "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 8}]}]});
    let listing = listing::listing(&program(profile));
    assert_eq!(listing, include_str!("listing.golden"), "{listing}");
}

/// Prints how long Docker's profile takes: `cargo test --release -- --ignored --nocapture compile_time`.
#[test]
#[ignore = "a measurement"]
fn compile_time() {
    let section: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let mut times: Vec<_> = (0..2000)
        .map(|_| {
            let start = std::time::Instant::now();
            std::hint::black_box(try_compile(Arch::X86_64, &section));
            start.elapsed()
        })
        .collect();
    times.sort();
    let length = try_compile(Arch::X86_64, &section).0.unwrap().program.len();
    println!("{length} instructions, {:?} at best, {:?} median, {:?} at worst", times[0], times[1000], times[1999]);
}

/// A policy as the kernel would combine the filters of several profiles: the newest first, an older one only if its
/// action is stricter (`seccomp_run_filters`, kernel/seccomp.c).
fn combined(programs: &[Vec<Instruction>], data: &Data) -> u32 {
    let action = |code: u32| (code & libc::SECCOMP_RET_ACTION_FULL).cast_signed();
    programs.iter().rev().fold(libc::SECCOMP_RET_ALLOW, |answer, program| {
        let code = simulate::run(program, data).unwrap().code;
        if action(code) < action(answer) { code } else { answer }
    })
}

/// A profile with rules for few calls, so that rules of two profiles meet.
fn random_profile(random: &mut Random) -> LinuxSeccomp {
    let action = |random: &mut Random| {
        let action = random.pick(&[
            "ERRNO",
            "ERRNO",
            "ERRNO",
            "ALLOW",
            "ALLOW",
            "LOG",
            "TRACE",
            "TRAP",
            "KILL_PROCESS",
            "KILL_THREAD",
        ]);
        let errno = (["ERRNO", "TRACE"].contains(&action)).then(|| random.next() % 200 + 2);
        (format!("SCMP_ACT_{action}"), errno)
    };
    let mut entries = Vec::new();
    for _ in 0..random.next() % 8 {
        let (action, errno) = action(random);
        let args: Vec<Value> = (0..random.next() % 3)
            .map(|index| {
                let op = random.pick(&["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"]);
                json!({"index": index, "value": random.next() % 6, "valueTwo": random.next() % 6,
                    "op": format!("SCMP_CMP_{op}")})
            })
            .collect();
        let names = [random.pick(&["getppid", "socket", "bind", "personality"]), random.pick(&["keyctl", "mseal"])];
        entries.push(json!({"names": names, "action": action, "errnoRet": errno, "args": args}));
    }
    let (default, errno) = action(random);
    let arches = random.pick(&[&["SCMP_ARCH_X86_64"][..], &["SCMP_ARCH_X86", "SCMP_ARCH_X32"], &["SCMP_ARCH_X86"]]);
    section(json!({"defaultAction": default, "defaultErrnoRet": errno, "architectures": arches, "syscalls": entries}))
}

#[test]
fn stacked_profiles_answer_as_separate_filters() {
    let mut random = Random(0x5eed_0001);
    let (mut compared, mut stacks) = (0, 0);
    while stacks < 400 {
        let count = usize::try_from(random.next() % 2).unwrap() + 2;
        let profiles: Vec<LinuxSeccomp> = (0..count).map(|_| random_profile(&mut random)).collect();
        // Contradictory entries are faults of a profile, and no profile then.
        let programs: Vec<_> = profiles.iter().filter_map(|p| Some(try_compile(Arch::X86_64, p).0?.program)).collect();
        if programs.len() < count {
            continue;
        }
        let mut problems = Problems::default();
        let sections: Vec<&LinuxSeccomp> = profiles.iter().collect();
        let compiled = stack(Arch::X86_64, &sections, codegen::MAX_INSTRUCTIONS, &mut problems).unwrap();
        assert!(compiled.before.is_empty());
        stacks += 1;
        let told = Stack::new(Arch::X86_64, &sections, &[]).unwrap();
        for arch in [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64] {
            for name in ["getppid", "socket", "bind", "personality", "keyctl", "mseal", "read", "socketcall"] {
                let Some(number) = arch::Call::find(name).and_then(|call| arch.number(call)) else { continue };
                for _ in 0..6 {
                    let mut args = [0; 6];
                    args[..3].fill_with(|| (random.next() % 7) | ((random.next() % 4 / 3) << 32));
                    let data = Data { arch: arch.audit(), number, args };
                    let code = simulate::run(&compiled.program, &data).unwrap().code;
                    assert_eq!(code, combined(&programs, &data), "{data:x?} {profiles:#?}");
                    assert_eq!(told.decide(&data).action.code(), code, "{data:x?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 50_000, "{compared}");
}

#[test]
fn stacked_profiles_that_are_too_long_together_stay_apart() {
    let docker: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let own = section(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}]}));
    let mut problems = Problems::default();
    let merged = stack(Arch::X86_64, &[&own, &docker], 4096, &mut problems).unwrap();
    assert!(merged.before.is_empty() && merged.program.len() < 500, "{}", merged.program.len());
    assert_eq!(answer(&merged.program, Arch::X86_64, 110, [0; 6]), "ERRNO(7)");
    assert_eq!(merged.flags, [FilterFlag::SpecAllow]);
    let apart = stack(Arch::X86_64, &[&own, &docker], 100, &mut problems).unwrap();
    assert_eq!((apart.before.len(), &apart.program), (1, &program(serde_json::from_str(DOCKER).unwrap())));
    assert_eq!(problems, Problems::default());
    // Then each but the last must let the next one be loaded.
    let strict = section(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}));
    assert_eq!(stack(Arch::X86_64, &[&strict, &docker], 100, &mut problems), None);
    assert_eq!(problems.errors[0].path, "stack[0]");
}

#[test]
fn one_profile_of_a_stack_may_notify() {
    let notify = section(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}));
    let plain = section(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [
        {"names": ["mkdir", "rmdir"], "action": "SCMP_ACT_ERRNO"}]}));
    let mut problems = Problems::default();
    let compiled = stack(Arch::X86_64, &[&notify, &plain], 4096, &mut problems).unwrap();
    assert_eq!(compiled.listener.unwrap().path, PathBuf::from("/run/s"));
    assert_eq!((compiled.notifies, compiled.flags), (false, vec![FilterFlag::Log]), "ERRNO is the stricter one");
    assert_eq!(stack(Arch::X86_64, &[&notify, &notify], 4096, &mut problems), None);
    assert_eq!(problems.errors[0].path, "linux.seccomp");
    let faulty = section(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}]}));
    let mut problems = Problems::default();
    assert_eq!(stack(Arch::X86_64, &[&faulty, &faulty], 4096, &mut problems), None);
    let found: Vec<&str> = problems.errors.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(found, ["stack[0].syscalls[0].errnoRet", "linux.seccomp.syscalls[0].errnoRet"]);
}
