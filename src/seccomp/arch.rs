// SPDX-License-Identifier: Apache-2.0
//! The architectures a filter can be compiled for and the system calls they have. Only little-endian ones: seccompiler
//! compiles to nothing elsewhere, so orlop does not exist there either.

use oci_spec::runtime::Arch as OciArch;

use super::policy::{Condition, Test};
use super::table::TABLE;

/// A system call ABI, as `linux.seccomp.architectures` names it. The order is that of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
    Ppc64le,
    Loongarch64,
}

/// Set in every number of the x32 ABI, which shares its audit value with x86_64 (`__X32_SYSCALL_BIT`).
pub const X32_BIT: u32 = 0x4000_0000;

/// Where ARM's private calls begin (`__ARM_NR_BASE`). They are not part of the sequence that new calls continue.
pub const ARM_PRIVATE: u32 = 0xf_0000;

/// A system call by its row in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call(u16);

impl Arch {
    pub const ALL: [Arch; 8] =
        [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm, Arch::Riscv64, Arch::Ppc64le, Arch::Loongarch64];

    /// The architecture orlop was built for.
    pub const NATIVE: Arch = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Arch::X86_64
    } else if cfg!(target_arch = "x86") {
        Arch::X86
    } else if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else if cfg!(target_arch = "arm") {
        Arch::Arm
    } else if cfg!(target_arch = "riscv64") {
        Arch::Riscv64
    } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        Arch::Ppc64le
    } else {
        assert!(cfg!(target_arch = "loongarch64"), "no seccomp architecture for this target");
        Arch::Loongarch64
    };

    /// None for what no kernel that runs this binary can report, see [`Arch`].
    pub fn from_oci(arch: OciArch) -> Option<Arch> {
        Some(match arch {
            OciArch::ScmpArchNative => Arch::NATIVE,
            OciArch::ScmpArchX86_64 => Arch::X86_64,
            OciArch::ScmpArchX86 => Arch::X86,
            OciArch::ScmpArchX32 => Arch::X32,
            OciArch::ScmpArchAarch64 => Arch::Aarch64,
            OciArch::ScmpArchArm => Arch::Arm,
            OciArch::ScmpArchRiscv64 => Arch::Riscv64,
            OciArch::ScmpArchPpc64le => Arch::Ppc64le,
            OciArch::ScmpArchLoongarch64 => Arch::Loongarch64,
            _ => return None,
        })
    }

    /// `seccomp_data.arch`: `AUDIT_ARCH_*` of linux/audit.h (ELF machine, 0x80000000 for 64 bits, 0x40000000 for
    /// little-endian). The kernel reports x32 as x86_64.
    pub fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
            Arch::Riscv64 => 0xc000_00f3,
            Arch::Ppc64le => 0xc000_0015,
            Arch::Loongarch64 => 0xc000_0102,
        }
    }

    /// Whether conditions compare all 64 bits of an argument. Not on x32, as in libseccomp: its pointers have 32.
    pub fn is_64(self) -> bool {
        !matches!(self, Arch::X86 | Arch::X32 | Arch::Arm)
    }

    /// The number of the system call named `call`, if the architecture has it.
    pub fn number(self, call: Call) -> Option<u32> {
        let (_, numbers) = TABLE.get(usize::from(call.0))?;
        numbers.get(self as usize).copied().filter(|&number| number != u32::MAX)
    }

    /// The system call with that number, if the architecture has one.
    pub fn call(self, number: u32) -> Option<Call> {
        let row = TABLE.iter().position(|(_, numbers)| numbers.get(self as usize) == Some(&number))?;
        u16::try_from(row).ok().map(Call).filter(|_| number != u32::MAX)
    }

    /// Whether a number is part of the sequence that new system calls continue.
    pub fn in_sequence(self, number: u32) -> bool {
        !(self == Arch::Arm && number >= ARM_PRIVATE)
    }

    /// The name as uname(2) and orlop's command line have it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::X86 => "x86",
            Arch::X32 => "x32",
            Arch::Aarch64 => "aarch64",
            Arch::Arm => "arm",
            Arch::Riscv64 => "riscv64",
            Arch::Ppc64le => "ppc64le",
            Arch::Loongarch64 => "loongarch64",
        }
    }

    /// The architecture of that name, in any spelling in use: `x86_64`, `SCMP_ARCH_X86_64`, Go's `amd64`.
    pub fn parse(name: &str) -> Option<Arch> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("scmp_arch_").unwrap_or(&name);
        Some(match name {
            "x86_64" | "amd64" => Arch::X86_64,
            "x86" | "i386" | "i686" | "386" => Arch::X86,
            "x32" => Arch::X32,
            "aarch64" | "arm64" => Arch::Aarch64,
            "arm" => Arch::Arm,
            "riscv64" => Arch::Riscv64,
            "ppc64le" => Arch::Ppc64le,
            "loongarch64" | "loong64" => Arch::Loongarch64,
            "native" => Arch::NATIVE,
            _ => return None,
        })
    }

    /// The architecture of the 64-bit kernel that has these calls.
    pub fn kernel(self) -> Arch {
        match self {
            Arch::X86 | Arch::X32 => Arch::X86_64,
            Arch::Arm => Arch::Aarch64,
            other => other,
        }
    }

    /// How the architecture also spells `call`: the number of its multiplexer and the test for the subcode.
    ///
    /// x86 and ppc64le kept socketcall(2) and ipc(2) after they got direct calls. The kernel takes the subcode as an
    /// int, hence the 32-bit mask, and ipc's upper 16 bits as a version (`sys_ipc`, ipc/syscall.c): a rule that tested
    /// them could be stepped around.
    pub fn multiplexed(self, call: Call) -> Option<(u32, Condition)> {
        let (socketcall, ipc) = match self {
            Arch::X86 | Arch::Ppc64le => (102, 117),
            _ => return None,
        };
        let (number, mask, subcode) = match call.name() {
            "socket" => (socketcall, 0xffff_ffff, 1),
            "bind" => (socketcall, 0xffff_ffff, 2),
            "connect" => (socketcall, 0xffff_ffff, 3),
            "listen" => (socketcall, 0xffff_ffff, 4),
            "accept" => (socketcall, 0xffff_ffff, 5),
            "getsockname" => (socketcall, 0xffff_ffff, 6),
            "getpeername" => (socketcall, 0xffff_ffff, 7),
            "socketpair" => (socketcall, 0xffff_ffff, 8),
            "send" => (socketcall, 0xffff_ffff, 9),
            "recv" => (socketcall, 0xffff_ffff, 10),
            "sendto" => (socketcall, 0xffff_ffff, 11),
            "recvfrom" => (socketcall, 0xffff_ffff, 12),
            "shutdown" => (socketcall, 0xffff_ffff, 13),
            "setsockopt" => (socketcall, 0xffff_ffff, 14),
            "getsockopt" => (socketcall, 0xffff_ffff, 15),
            "sendmsg" => (socketcall, 0xffff_ffff, 16),
            "recvmsg" => (socketcall, 0xffff_ffff, 17),
            "accept4" => (socketcall, 0xffff_ffff, 18),
            "recvmmsg" => (socketcall, 0xffff_ffff, 19),
            "sendmmsg" => (socketcall, 0xffff_ffff, 20),
            "semop" => (ipc, 0xffff, 1),
            "semget" => (ipc, 0xffff, 2),
            "semctl" => (ipc, 0xffff, 3),
            "semtimedop" => (ipc, 0xffff, 4),
            "msgsnd" => (ipc, 0xffff, 11),
            "msgrcv" => (ipc, 0xffff, 12),
            "msgget" => (ipc, 0xffff, 13),
            "msgctl" => (ipc, 0xffff, 14),
            "shmat" => (ipc, 0xffff, 21),
            "shmdt" => (ipc, 0xffff, 22),
            "shmget" => (ipc, 0xffff, 23),
            "shmctl" => (ipc, 0xffff, 24),
            _ => return None,
        };
        Some((number, Condition { index: 0, test: Test::Masked(mask), value: subcode }))
    }
}

impl Call {
    /// How many names there are; `index` is below it.
    pub const COUNT: usize = TABLE.len();

    /// The call of that name on any Linux architecture, including those orlop does not run on.
    pub fn find(name: &str) -> Option<Call> {
        let row = TABLE.binary_search_by_key(&name, |(name, _)| name).ok()?;
        u16::try_from(row).ok().map(Call)
    }

    /// [`Call::find`], quicker if the name stands shortly behind `previous` in the alphabet, as in profiles it does.
    pub fn find_behind(previous: Option<Call>, name: &str) -> Option<Call> {
        let next = previous.map_or(0, |call| call.0 + 1);
        let nearby = (next..next + 4).map(Call).find(|call| call.index() < Call::COUNT && call.name() == name);
        nearby.or_else(|| Call::find(name))
    }

    /// Empty for a row that does not exist.
    pub fn name(self) -> &'static str {
        TABLE.get(usize::from(self.0)).map_or("", |(name, _)| name)
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_complete_for_every_architecture() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (column, arch) in Arch::ALL.into_iter().enumerate() {
            assert_eq!(arch as usize, column);
            for name in ["write", "clone3", "listns", "exit_group"] {
                assert!(arch.number(Call::find(name).unwrap()).is_some(), "{arch:?} {name}");
            }
        }
        assert_eq!(Arch::X32.number(Call::find("getppid").unwrap()), Some(X32_BIT | 110));
        assert_eq!(Arch::Arm.number(Call::find("set_tls").unwrap()), Some(ARM_PRIVATE + 5));
        for name in ["no_such_call", ""] {
            assert_eq!(Call::find(name), None);
        }
        let last = Call::find(TABLE[TABLE.len() - 1].0);
        assert_eq!(Call::find_behind(last, ""), None);
        assert_eq!(Call::find_behind(last, "read"), Call::find("read"));
    }

    /// The `syscalls` crate reads the kernel's tables, not its headers, so it is a second opinion on every number.
    #[test]
    fn the_table_agrees_with_the_syscalls_crate() {
        /// What the crate takes from the generic table although the architecture leaves it out: the calls that 32-bit
        /// ones have for 64-bit times, and what loongarch64 was too late for (arch/loongarch/kernel/Makefile.syscalls).
        fn left_out(arch: Arch, number: u32) -> bool {
            match arch {
                Arch::Aarch64 => (403..=423).contains(&number),
                Arch::Loongarch64 => (403..=423).contains(&number) || [38, 163, 164, 447].contains(&number),
                _ => false,
            }
        }
        let mut compared = 0;
        macro_rules! compare {
            ($arch:expr, $module:ident) => {
                for call in syscalls::$module::Sysno::iter() {
                    let name = match call.name() {
                        "fstatat" => "newfstatat",
                        "r#break" => "break",
                        name => name,
                    };
                    let number = u32::try_from(call.id()).unwrap();
                    let ours = Call::find(name).and_then(|call| $arch.number(call));
                    assert!(ours == Some(number) || left_out($arch, number), "{:?} {name} {ours:?}", $arch);
                    compared += usize::from(ours.is_some());
                }
            };
        }
        compare!(Arch::X86_64, x86_64);
        compare!(Arch::X86, x86);
        compare!(Arch::Aarch64, aarch64);
        compare!(Arch::Arm, arm);
        compare!(Arch::Riscv64, riscv64);
        compare!(Arch::Ppc64le, powerpc64);
        compare!(Arch::Loongarch64, loongarch64);
        assert!(compared > 2500, "{compared}");

        // The crate has no x32. That ABI numbers the calls it shares as x86_64 does, and its own ones from 512 on.
        for index in 0..Call::COUNT {
            let call = Call(u16::try_from(index).unwrap());
            if let Some(number) = Arch::X32.number(call).map(|number| number & !X32_BIT) {
                assert!(number >= 512 || Arch::X86_64.number(call) == Some(number), "{}", call.name());
            }
        }
    }
}
