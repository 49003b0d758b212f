// SPDX-License-Identifier: Apache-2.0
//! Arguments of system calls as a command line has them: numbers, and names for the few values that profiles test.

/// Names of arguments, by system call and position. A call that is not here takes any name, by its position.
const PARAMETERS: [(&str, &[&str]); 14] = [
    ("clone", &["flags", "stack", "parent_tid", "child_tid", "tls"]),
    ("clone3", &["cl_args", "size"]),
    ("fcntl", &["fd", "op", "arg"]),
    ("ioctl", &["fd", "op", "arg"]),
    ("keyctl", &["operation", "arg2", "arg3", "arg4", "arg5"]),
    ("mmap", &["addr", "length", "prot", "flags", "fd", "offset"]),
    ("mprotect", &["addr", "length", "prot"]),
    ("personality", &["persona"]),
    ("prctl", &["op", "arg2", "arg3", "arg4", "arg5"]),
    ("ptrace", &["op", "pid", "addr", "data"]),
    ("setns", &["fd", "nstype"]),
    ("socket", &["domain", "type", "protocol"]),
    ("socketpair", &["domain", "type", "protocol", "sv"]),
    ("unshare", &["flags"]),
];

/// linux/sched.h, linux/socket.h, linux/personality.h, asm-generic: values that are the same on every architecture of
/// [`super::arch`]. `PF_*` is `AF_*`.
const VALUES: [(&str, u64); 69] = [
    ("CLONE_NEWTIME", 0x80),
    ("CLONE_VM", 0x100),
    ("CLONE_FS", 0x200),
    ("CLONE_FILES", 0x400),
    ("CLONE_SIGHAND", 0x800),
    ("CLONE_PIDFD", 0x1000),
    ("CLONE_PTRACE", 0x2000),
    ("CLONE_VFORK", 0x4000),
    ("CLONE_PARENT", 0x8000),
    ("CLONE_THREAD", 0x1_0000),
    ("CLONE_NEWNS", 0x2_0000),
    ("CLONE_SYSVSEM", 0x4_0000),
    ("CLONE_SETTLS", 0x8_0000),
    ("CLONE_PARENT_SETTID", 0x10_0000),
    ("CLONE_CHILD_CLEARTID", 0x20_0000),
    ("CLONE_DETACHED", 0x40_0000),
    ("CLONE_UNTRACED", 0x80_0000),
    ("CLONE_CHILD_SETTID", 0x100_0000),
    ("CLONE_NEWCGROUP", 0x200_0000),
    ("CLONE_NEWUTS", 0x400_0000),
    ("CLONE_NEWIPC", 0x800_0000),
    ("CLONE_NEWUSER", 0x1000_0000),
    ("CLONE_NEWPID", 0x2000_0000),
    ("CLONE_NEWNET", 0x4000_0000),
    ("CLONE_IO", 0x8000_0000),
    ("SIGCHLD", 17),
    ("AF_UNSPEC", 0),
    ("AF_UNIX", 1),
    ("AF_LOCAL", 1),
    ("AF_INET", 2),
    ("AF_AX25", 3),
    ("AF_IPX", 4),
    ("AF_APPLETALK", 5),
    ("AF_X25", 9),
    ("AF_INET6", 10),
    ("AF_KEY", 15),
    ("AF_NETLINK", 16),
    ("AF_PACKET", 17),
    ("AF_RDS", 21),
    ("AF_PPPOX", 24),
    ("AF_LLC", 26),
    ("AF_IB", 27),
    ("AF_MPLS", 28),
    ("AF_CAN", 29),
    ("AF_TIPC", 30),
    ("AF_BLUETOOTH", 31),
    ("AF_IUCV", 32),
    ("AF_RXRPC", 33),
    ("AF_ALG", 38),
    ("AF_NFC", 39),
    ("AF_VSOCK", 40),
    ("AF_KCM", 41),
    ("AF_QIPCRTR", 42),
    ("AF_SMC", 43),
    ("AF_XDP", 44),
    ("AF_MCTP", 45),
    ("SOCK_STREAM", 1),
    ("SOCK_DGRAM", 2),
    ("SOCK_RAW", 3),
    ("SOCK_SEQPACKET", 5),
    ("SOCK_NONBLOCK", 0x800),
    ("SOCK_CLOEXEC", 0x8_0000),
    ("PER_LINUX", 0),
    ("PER_LINUX32", 8),
    ("UNAME26", 0x2_0000),
    ("ADDR_NO_RANDOMIZE", 0x4_0000),
    ("READ_IMPLIES_EXEC", 0x40_0000),
    ("PROT_EXEC", 4),
    ("PROT_WRITE", 2),
];

/// A number: decimal, `0x` hexadecimal, or negative, which is its two's complement.
pub fn number(word: &str) -> Option<u64> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((digits, 10), |digits| (digits, 16));
    // from_str_radix would take another sign.
    let value =
        digits.bytes().next().filter(u8::is_ascii_hexdigit).and_then(|_| u64::from_str_radix(digits, radix).ok())?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// A value: a number, a name of [`VALUES`], or several with `|` between them.
pub fn value(text: &str) -> Result<u64, String> {
    text.split('|').try_fold(0, |bits, word| {
        let word = word.trim();
        let named = || {
            let name = word.strip_prefix("PF_").map_or_else(|| word.to_string(), |family| format!("AF_{family}"));
            VALUES.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
        };
        let value = number(word).or_else(named);
        value.map(|value| bits | value).ok_or_else(|| {
            format!("{word:?} is neither a number nor one of the names CLONE_*, AF_*, PF_*, SOCK_*, PER_*, PROT_*")
        })
    })
}

/// A call with its arguments in words, without the zeros at the end: `socket(domain=AF_VSOCK, type=0x1)`.
pub fn call(name: &str, args: &[u64; 6]) -> String {
    let known = PARAMETERS.iter().find(|(call, _)| *call == name).map_or(&[][..], |(_, names)| names);
    let count = args.iter().rposition(|&arg| arg != 0).map_or(0, |last| last + 1);
    // What lies in registers that the call does not have says nothing.
    let count = if known.is_empty() { count } else { count.min(known.len()) };
    let texts: Vec<String> = args
        .iter()
        .take(count)
        .enumerate()
        .map(|(index, &arg)| {
            let parameter = known.get(index).map(|parameter| format!("{parameter}=")).unwrap_or_default();
            format!("{parameter}{}", in_words(name, index, arg))
        })
        .collect();
    format!("{name}({})", texts.join(", "))
}

/// A value by its name or the names of its bits, where it has some.
fn in_words(call: &str, index: usize, value: u64) -> String {
    let prefix = match (call, index) {
        ("clone" | "unshare", 0) | ("setns", 1) => "CLONE_",
        ("socket" | "socketpair", 0) => "AF_",
        _ => return format!("{value:#x}"),
    };
    let mut named = VALUES.iter().filter(|(name, _)| name.starts_with(prefix));
    if prefix == "AF_" {
        return named.find(|(_, known)| *known == value).map_or(format!("{value:#x}"), |(name, _)| (*name).to_string());
    }
    let mut rest = value;
    let mut texts: Vec<String> = Vec::new();
    for (name, bit) in named {
        if rest & bit != 0 {
            rest &= !bit;
            texts.push((*name).to_string());
        }
    }
    if rest != 0 || texts.is_empty() {
        texts.push(format!("{rest:#x}"));
    }
    texts.join("|")
}

/// The arguments of a call of `call`: values in the order of the parameters, or `NAME=VALUE`. Those not given are zero.
pub fn arguments<'a>(call: &str, words: impl IntoIterator<Item = &'a str>) -> Result<[u64; 6], String> {
    let known = PARAMETERS.iter().find(|(name, _)| *name == call).map(|(_, names)| *names);
    let mut args = [0; 6];
    for (position, word) in words.into_iter().enumerate() {
        let (index, text) = match word.split_once('=') {
            None => (position, word),
            Some((name, text)) => {
                let by_number = name.strip_prefix("arg").or_else(|| name.strip_prefix('a'));
                let by_number = by_number.and_then(|digits| digits.parse::<usize>().ok()).filter(|&index| index < 6);
                let index = match known {
                    Some(names) => names.iter().position(|known| *known == name).or(by_number).ok_or_else(|| {
                        format!(
                            "{word}: {call} has no argument {name}; it has {}, also called a0 to a5",
                            names.join(", ")
                        )
                    })?,
                    None => by_number.unwrap_or(position),
                };
                (index, text)
            }
        };
        let slot = args.get_mut(index).ok_or_else(|| format!("{word}: a system call has at most 6 arguments"))?;
        *slot = value(text)?;
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        for (text, expected) in [
            ("40", Some(40)),
            ("0x28", Some(40)),
            ("-1", Some(u64::MAX)),
            ("-0x1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("AF_VSOCK", Some(40)),
            ("PF_VSOCK", Some(40)),
            ("CLONE_NEWUSER|SIGCHLD", Some(0x1000_0011)),
            ("CLONE_NEWUSER | 0x11", Some(0x1000_0011)),
            ("", None),
            ("-", None),
            ("0x", None),
            ("+1", None),
            ("--1", None),
            ("AF_NOWHERE", None),
        ] {
            assert_eq!(value(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_names_have_libc_s_values() {
        for (name, value) in [
            ("CLONE_NEWUSER", libc::CLONE_NEWUSER),
            ("CLONE_NEWTIME", 0x80),
            ("CLONE_NEWCGROUP", libc::CLONE_NEWCGROUP),
            ("CLONE_NEWNET", libc::CLONE_NEWNET),
            ("AF_XDP", libc::AF_XDP),
            ("AF_ALG", libc::AF_ALG),
            ("AF_TIPC", libc::AF_TIPC),
            ("AF_PPPOX", libc::AF_PPPOX),
            ("AF_BLUETOOTH", libc::AF_BLUETOOTH),
            ("AF_RXRPC", libc::AF_RXRPC),
            ("SOCK_CLOEXEC", libc::SOCK_CLOEXEC),
            ("SOCK_SEQPACKET", libc::SOCK_SEQPACKET),
            ("PER_LINUX32", 8),
            ("ADDR_NO_RANDOMIZE", libc::ADDR_NO_RANDOMIZE),
        ] {
            assert_eq!(super::value(name), Ok(u64::try_from(value).unwrap()), "{name}");
        }
    }

    #[test]
    fn arguments_go_by_position_or_name() {
        let of = |call: &str, words: &[&str]| arguments(call, words.iter().copied());
        assert_eq!(of("clone", &["flags=CLONE_NEWUSER"]), Ok([0x1000_0000, 0, 0, 0, 0, 0]));
        assert_eq!(of("socket", &["AF_UNIX", "protocol=3"]), Ok([1, 0, 3, 0, 0, 0]));
        assert_eq!(of("mount", &["x=1", "a5=2", "y=7"]), Ok([1, 0, 7, 0, 0, 2]));
        assert_eq!(of("socket", &["a2=5"]), Ok([0, 0, 5, 0, 0, 0]));
        assert!(of("clone", &["persona=1"]).unwrap_err().contains("it has flags, stack"));
        assert!(of("mount", &["1"; 7]).unwrap_err().contains("at most 6"));
    }
}
