// SPDX-License-Identifier: Apache-2.0
//! What a filter costs: to compile Docker's profile for three architectures, and for each system call afterwards, ours
//! beside libseccomp's in the same run.
//!
//! ```text
//! cargo bench --features integration --bench seccomp [-- ROUNDS]
//! ```
//! libseccomp is loaded at run time, as runc has it (a binary tree); without it only ours is measured. Each round forks a
//! process for each filter, so that a change of the machine's speed meets all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measuring program fails by panicking"
)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator};
use orlop::plan::problem::Problems;
use orlop::seccomp::arch::Arch;
use orlop::seccomp::policy::Data;
use orlop::seccomp::{self, Instruction, simulate};

const DOCKER: &str = include_str!("../specs/vectors/docker-seccomp.json");
const COMPILATIONS: u32 = 200;

/// System calls to measure: the name, the number, the first argument.
const CALLS: [(&str, i64, u64); 4] = [
    ("getppid, allowed", libc::SYS_getppid, 0),
    ("personality, argument checked", libc::SYS_personality, 0xffff_ffff),
    ("keyctl, denied", libc::SYS_keyctl, 11),
    ("600, newer", 600, 0),
];

fn main() {
    let rounds: usize = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(25);
    let section: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let mut filters: Vec<(&str, Vec<Instruction>)> = vec![("no filter", Vec::new())];

    let mut times = Vec::new();
    for _ in 0..COMPILATIONS {
        let start = Instant::now();
        let compiled = seccomp::compile(&section, &mut Problems::default()).unwrap();
        times.push(start.elapsed());
        filters.truncate(1);
        filters.push(("orlop", compiled.program));
    }
    report_compilation("orlop", times, &filters[1].1);

    match Libseccomp::load() {
        Err(why) => println!("libseccomp is left out: {why}"),
        Ok(library) => {
            let mut times = Vec::new();
            for _ in 0..COMPILATIONS / 20 {
                let start = Instant::now();
                let program = library.compile(&section);
                times.push(start.elapsed());
                filters.truncate(2);
                filters.push(("libseccomp", program));
            }
            report_compilation("libseccomp", times, &filters[2].1);
        }
    }

    // The best of a round's chunks is free of interruptions, the median of rounds of a lucky one.
    let mut samples = vec![vec![Vec::new(); CALLS.len()]; filters.len()];
    for _ in 0..rounds {
        for (filter, samples) in filters.iter().zip(&mut samples) {
            for (sample, samples) in measure(&filter.1).into_iter().zip(samples) {
                samples.push(sample);
            }
        }
    }
    println!("\nns for a system call (median of {rounds} rounds), and BPF instructions simulated");
    print!("{:32}", "");
    filters.iter().for_each(|(name, _)| print!("{name:>18}"));
    println!();
    for (i, (name, number, arg)) in CALLS.iter().enumerate() {
        print!("{name:32}");
        for ((_, program), samples) in filters.iter().zip(&mut samples) {
            samples[i].sort_by(f64::total_cmp);
            let number = u32::try_from(*number).unwrap();
            let data = Data { arch: Arch::NATIVE.audit(), number, args: [*arg, 0, 0, 0, 0, 0] };
            let executed =
                simulate::run(program, &data).map_or(String::new(), |outcome| format!(" ({})", outcome.executed));
            print!("{:>18}", format!("{:.0}{executed:>6}", samples[i][rounds / 2]));
        }
        println!();
    }
}

fn report_compilation(name: &str, mut times: Vec<Duration>, program: &[Instruction]) {
    times.sort();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{name}: Docker's profile for x86_64, x86 and x32: {:.0} us at best, {:.0} us median of {}; {} instructions",
        us(times[0]),
        us(times[times.len() / 2]),
        times.len(),
        program.len()
    );
}

/// ns for each of [`CALLS`] in a process that has loaded the filter.
fn measure(program: &[Instruction]) -> Vec<f64> {
    let mut pipe = [0; 2];
    // SAFETY: an array of two.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: the process has one thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        if !program.is_empty() {
            load(program);
        }
        let results = CALLS.map(|(_, number, arg)| {
            let chunk = || {
                const N: u32 = 1500;
                let start = Instant::now();
                for _ in 0..N {
                    // SAFETY: none of the calls takes a pointer. personality(0xffffffff) asks only; keyctl(11) reads
                    // into no buffer.
                    unsafe { libc::syscall(number, arg, 0, 0, 0, 0) };
                }
                start.elapsed().as_secs_f64() * 1e9 / f64::from(N)
            };
            (0..24).map(|_| chunk()).fold(f64::MAX, f64::min)
        });
        // SAFETY: the array is plain data of that size; the child ends here.
        unsafe {
            libc::write(pipe[1], results.as_ptr().cast(), size_of_val(&results));
            libc::_exit(0);
        }
    }
    let mut results = [0.0_f64; CALLS.len()];
    let mut status = 0;
    // SAFETY: the array takes that many bytes, and every pattern of them is a number.
    unsafe {
        libc::close(pipe[1]);
        let got = libc::read(pipe[0], results.as_mut_ptr().cast(), size_of_val(&results));
        libc::close(pipe[0]);
        libc::waitpid(pid, &raw mut status, 0);
        assert_eq!(usize::try_from(got), Ok(size_of_val(&results)), "a filter killed its process: {status}");
    }
    results.to_vec()
}

fn load(program: &[Instruction]) {
    let filter =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: seccompiler's instructions are laid out as the kernel's; the program outlives the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        // SPEC_ALLOW, as orlop and crun load it, so that no mitigation is measured.
        assert_eq!(libc::syscall(libc::SYS_seccomp, 1, 4, &raw const filter), 0);
    }
}

/// seccomp.h, as far as a profile needs it.
struct Libseccomp {
    library: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Comparison {
    arg: u32,
    op: c_int,
    a: u64,
    b: u64,
}

impl Libseccomp {
    fn load() -> Result<Self, String> {
        let name = c"libseccomp.so.2";
        // SAFETY: a C string.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            // SAFETY: dlopen has failed, so there is a message.
            let why = unsafe { std::ffi::CStr::from_ptr(libc::dlerror()) };
            return Err(why.to_string_lossy().into_owned());
        }
        Ok(Self { library })
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: the library stays open.
        let symbol = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        symbol
    }

    /// What runc makes of a profile, without its ENOSYS stub: rule by rule, as a binary tree.
    fn compile(&self, section: &LinuxSeccomp) -> Vec<Instruction> {
        // SAFETY: these are the signatures in seccomp.h.
        let (init, release, attr, arch, resolve, add, export) = unsafe {
            (
                std::mem::transmute::<*mut c_void, extern "C" fn(u32) -> *mut c_void>(self.symbol("seccomp_init")),
                std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void)>(self.symbol("seccomp_release")),
                std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void, c_int, u32) -> c_int>(
                    self.symbol("seccomp_attr_set"),
                ),
                std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void, u32) -> c_int>(
                    self.symbol("seccomp_arch_add"),
                ),
                std::mem::transmute::<*mut c_void, extern "C" fn(*const c_char) -> c_int>(
                    self.symbol("seccomp_syscall_resolve_name"),
                ),
                std::mem::transmute::<
                    *mut c_void,
                    extern "C" fn(*mut c_void, u32, c_int, u32, *const Comparison) -> c_int,
                >(self.symbol("seccomp_rule_add_array")),
                std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void, c_int) -> c_int>(
                    self.symbol("seccomp_export_bpf"),
                ),
            )
        };
        let code = |action: LinuxSeccompAction, errno: Option<u32>| match action {
            LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
            LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
            other => panic!("{other}"),
        };
        let filter = init(code(section.default_action(), section.default_errno_ret()));
        assert!(!filter.is_null());
        // SCMP_ARCH_X86 and SCMP_ARCH_X32; the native one is there.
        for other in [0x4000_0003, 0x4000_003e] {
            assert_eq!(arch(filter, other), 0);
        }
        // SCMP_FLTATR_CTL_OPTIMIZE
        assert_eq!(attr(filter, 8, 2), 0);
        for entry in section.syscalls().iter().flatten() {
            let action = code(entry.action(), entry.errno_ret());
            let comparisons: Vec<Comparison> = entry
                .args()
                .iter()
                .flatten()
                .map(|arg| Comparison {
                    arg: u32::try_from(arg.index()).unwrap(),
                    op: match arg.op() {
                        LinuxSeccompOperator::ScmpCmpNe => 1,
                        LinuxSeccompOperator::ScmpCmpLt => 2,
                        LinuxSeccompOperator::ScmpCmpLe => 3,
                        LinuxSeccompOperator::ScmpCmpEq => 4,
                        LinuxSeccompOperator::ScmpCmpGe => 5,
                        LinuxSeccompOperator::ScmpCmpGt => 6,
                        LinuxSeccompOperator::ScmpCmpMaskedEq => 7,
                    },
                    a: arg.value(),
                    b: arg.value_two().unwrap_or(0),
                })
                .collect();
            for name in entry.names() {
                let name = CString::new(name.as_str()).unwrap();
                let number = resolve(name.as_ptr());
                // __NR_SCMP_ERROR
                if number != -1 {
                    let count = u32::try_from(comparisons.len()).unwrap();
                    // An unknown combination is skipped, as libseccomp's users do.
                    let _unknown = add(filter, action, number, count, comparisons.as_ptr());
                }
            }
        }
        // SAFETY: a C string and flags.
        let file = unsafe { libc::memfd_create(c"bpf".as_ptr(), 0) };
        assert_eq!(export(filter, file), 0);
        release(filter);
        let mut program = Vec::new();
        let mut bytes = [0_u8; 8];
        let mut at = 0;
        // SAFETY: eight bytes are there to be written.
        while unsafe { libc::pread(file, bytes.as_mut_ptr().cast(), 8, at) } == 8 {
            let [c0, c1, jt, jf, k @ ..] = bytes;
            program.push(Instruction { code: u16::from_le_bytes([c0, c1]), jt, jf, k: u32::from_le_bytes(k) });
            at += 8;
        }
        // SAFETY: the descriptor is this function's own.
        unsafe { libc::close(file) };
        program
    }
}
