// SPDX-License-Identifier: Apache-2.0
//! Stacked seccomp profiles against the kernel's own combination of separate filters. No container is needed: a child
//! loads the filters, makes the calls, and leaves the answers in shared memory.

use oci_spec::runtime::LinuxSeccomp;
use orlop::plan::problem::Problems;
use orlop::seccomp::policy::Data;
use orlop::seccomp::{self, Compiled, simulate};
use serde_json::{Value, json};

use crate::orlop_only;

/// Calls that do no harm with arguments below a page: pointers lead nowhere.
const CALLS: [(&str, u32); 18] = [
    ("getppid", 110),
    ("getuid", 102),
    ("geteuid", 107),
    ("getpgid", 121),
    ("getsid", 124),
    ("getpriority", 140),
    ("sched_get_priority_max", 146),
    ("sched_get_priority_min", 147),
    ("access", 21),
    ("mkdir", 83),
    ("rmdir", 84),
    ("unlink", 87),
    ("chmod", 90),
    ("readlink", 89),
    ("stat", 4),
    ("lstat", 6),
    ("truncate", 76),
    ("setxattr", 188),
];

/// Errors of rules have numbers that no call has by itself.
const FIRST_ERRNO: u64 = 500;

const CALLS_EACH: usize = 200;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// Small, or small with upper bits.
    fn arg(&mut self) -> u64 {
        self.below(7) | if self.below(4) == 0 { 1 << 40 } else { 0 }
    }
}

/// A profile in which every rule has an error of its own.
fn profile(random: &mut Random, errno: &mut u64) -> Value {
    let mut action = |random: &mut Random| {
        *errno += 1;
        match random.below(5) {
            0 => json!({"action": "SCMP_ACT_ALLOW"}),
            1 => json!({"action": "SCMP_ACT_LOG"}),
            _ => json!({"action": "SCMP_ACT_ERRNO", "errnoRet": *errno}),
        }
    };
    let mut entries = vec![json!({"names": ["seccomp", "exit_group"], "action": "SCMP_ACT_ALLOW"})];
    for _ in 0..20 {
        let mut entry = action(random);
        let args: Vec<Value> = (0..random.below(3))
            .map(|index| {
                let op = random.pick(&["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"]);
                json!({"index": index, "value": random.arg(), "valueTwo": random.arg(), "op": format!("SCMP_CMP_{op}")})
            })
            .collect();
        entry["names"] = (0..3).map(|_| random.pick(&CALLS).0).collect();
        entry["args"] = json!(args);
        entries.push(entry);
    }
    // An entry with the default action says nothing, which would leave no way to load the second filter.
    let default = if random.below(2) == 0 {
        json!({"defaultAction": "SCMP_ACT_ALLOW"})
    } else {
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": *errno + 1})
    };
    *errno += 1;
    let mut profile = default;
    profile["syscalls"] = json!(entries);
    profile
}

/// What the kernel answers to the calls of a child that has loaded these filters, the first one first.
fn answers(filters: &[&Compiled], calls: &[(u32, [u64; 3])]) -> Vec<i64> {
    let size = calls.len() * size_of::<i64>();
    // SAFETY: a new mapping; the child loads filters, makes raw system calls and ends with _exit.
    unsafe {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        let results = page.cast::<i64>();
        let child = libc::fork();
        if child == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if filters.iter().any(|filter| orlop::kernel::seccomp::load(filter).is_err()) {
                libc::_exit(1);
            }
            for (i, (number, [a, b, c])) in calls.iter().enumerate() {
                let result: i64;
                std::arch::asm!("syscall", inlateout("rax") i64::from(*number) => result, in("rdi") *a, in("rsi") *b,
                    in("rdx") *c, in("r10") 0, in("r8") 0, in("r9") 0, out("rcx") _, out("r11") _);
                results.add(i).write(result);
            }
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
        let seen = std::slice::from_raw_parts(results, calls.len()).to_vec();
        libc::munmap(page, size);
        seen
    }
}

/// The error that a rule gave, or 0 if the call was made.
fn of_a_rule(answer: i64) -> u64 {
    if (-4095..=-500).contains(&answer) { answer.unsigned_abs() } else { 0 }
}

#[test]
fn ten_thousand_random_calls_get_what_separate_filters_give() {
    orlop_only!("it compiles profiles with orlop's library");
    let mut random = Random(0x0dd_ba11_5eed);
    let (mut compared, mut refused, mut pairs) = (0, 0, 0);
    while compared < 10_000 {
        let mut errno = FIRST_ERRNO;
        let [older, newer] =
            [0, 1].map(|_| -> LinuxSeccomp { serde_json::from_value(profile(&mut random, &mut errno)).unwrap() });
        let compile = |section: &LinuxSeccomp| seccomp::compile(section, &mut Problems::default());
        // Two random entries with equal conditions contradict each other.
        let (Some(first), Some(second)) = (compile(&older), compile(&newer)) else { continue };
        let mut problems = Problems::default();
        let merged = seccomp::compile_stacked(&[&older, &newer], &mut problems).unwrap();
        assert!(merged.before.is_empty(), "{}", merged.program.len());
        pairs += 1;
        let calls: Vec<(u32, [u64; 3])> =
            (0..CALLS_EACH).map(|_| (random.pick(&CALLS).1, [random.arg(), random.arg(), random.arg()])).collect();
        let apart = answers(&[&first, &second], &calls);
        let together = answers(&[&merged], &calls);
        for ((number, args), (apart, together)) in calls.iter().zip(apart.into_iter().zip(together)) {
            let data = Data { arch: 0xc000_003e, number: *number, args: [args[0], args[1], args[2], 0, 0, 0] };
            let code = simulate::run(&merged.program, &data).unwrap().code;
            let simulated = if code & 0xffff_0000 == libc::SECCOMP_RET_ERRNO { u64::from(code & 0xffff) } else { 0 };
            let (apart, together) = (of_a_rule(apart), of_a_rule(together));
            assert_eq!((together, simulated), (apart, apart), "{data:x?} {older:#?} {newer:#?}");
            compared += 1;
            refused += usize::from(apart != 0);
        }
    }
    assert!(refused > 3000 && compared - refused > 1000 && pairs >= 50, "{refused} of {compared}, {pairs} pairs");
}

/// A profile with conditions on one argument of getppid and of many calls that nobody makes here.
fn long(errno: u64, argument: u64) -> LinuxSeccomp {
    let docker: Value = serde_json::from_str(include_str!("../specs/vectors/docker-seccomp.json")).unwrap();
    let names = docker["syscalls"][0]["names"].as_array().unwrap().iter().filter_map(Value::as_str);
    let needed = ["seccomp", "exit_group", "exit", "munmap", "futex", "write", "getppid"];
    let names = names.filter(|name| !needed.contains(name)).take(130);
    let mut entries = Vec::new();
    // Equal conditions of several calls would be emitted once.
    for (i, name) in (0_u64..).zip(["getppid"].into_iter().chain(names)) {
        for value in 1..8_u64 {
            let arg = json!({"index": argument, "value": (value << 32) + value + 16 * i, "op": "SCMP_CMP_EQ"});
            entries
                .push(json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno + value, "args": [arg]}));
        }
    }
    serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries})).unwrap()
}

#[test]
fn profiles_that_are_too_long_for_one_filter_are_loaded_one_after_the_other() {
    orlop_only!("it compiles profiles with orlop's library");
    let (older, newer) = (long(600, 0), long(700, 1));
    let mut problems = Problems::default();
    let stacked = seccomp::compile_stacked(&[&older, &newer], &mut problems).unwrap();
    let lengths = [stacked.before.first().map_or(0, Vec::len), stacked.program.len()];
    assert!(lengths.iter().all(|length| (2100..4097).contains(length)), "{lengths:?}");
    let value = |v: u64| (v << 32) + v;
    let calls: Vec<(u32, [u64; 3])> =
        (0..10).flat_map(|a| (0..10).map(move |b| (110, [value(a), value(b), 0]))).collect();
    let seen = answers(&[&stacked], &calls);
    for ((_, [a, b, _]), answer) in calls.iter().zip(seen) {
        // Of two errors the newest filter's.
        let rule = |base: u64, value: u64| if (1..8).contains(&(value >> 32)) { base + (value >> 32) } else { 0 };
        let expected = if rule(700, *b) == 0 { rule(600, *a) } else { rule(700, *b) };
        assert_eq!(of_a_rule(answer), expected, "{a:x} {b:x}");
    }
}
