// SPDX-License-Identifier: Apache-2.0
//! Terminals: the console socket, the size, the session. The test is the receiver that containerd or conmon would be.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, flavor, runtime};
use crate::peer_differs;

/// Listens for the console descriptor of a bundle.
pub struct Receiver {
    listener: UnixListener,
    pub path: String,
}

impl Receiver {
    pub fn new(bundle: &Bundle) -> Self {
        let path = bundle.dir.join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self { listener, path: path.to_str().unwrap().into() }
    }

    /// The descriptor and the text that came with it. Called after the runtime has ended, so nothing here can block.
    pub fn receive(&self) -> (OwnedFd, String) {
        self.listener.set_nonblocking(true).unwrap();
        let (stream, _) = self.listener.accept().expect("the runtime did not connect to the console socket");
        receive_fd(stream.as_raw_fd())
    }
}

/// One message with one descriptor.
pub fn receive_fd(socket: RawFd) -> (OwnedFd, String) {
    let mut text = [0u8; 4096];
    let mut control = [0u64; 8];
    // SAFETY: the header points to the two buffers, with their lengths; both outlive the call.
    unsafe {
        let mut iov = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
        let mut header: libc::msghdr = MaybeUninit::zeroed().assume_init();
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = std::mem::size_of_val(&control);
        let length = libc::recvmsg(socket, &raw mut header, libc::MSG_CMSG_CLOEXEC);
        assert!(length >= 0, "recvmsg: {}", std::io::Error::last_os_error());
        let cmsg = libc::CMSG_FIRSTHDR(&raw const header);
        assert!(!cmsg.is_null(), "a message without a descriptor");
        assert_eq!(((*cmsg).cmsg_level, (*cmsg).cmsg_type), (libc::SOL_SOCKET, libc::SCM_RIGHTS));
        let fd = libc::CMSG_DATA(cmsg).cast::<RawFd>().read_unaligned();
        let text = String::from_utf8_lossy(&text[..usize::try_from(length).unwrap()]).into_owned();
        (OwnedFd::from_raw_fd(fd), text)
    }
}

/// Creates and starts the container on a terminal; returns what it printed and the runtime's outputs.
pub fn on_a_terminal(bundle: Bundle) -> (Vec<Value>, Output) {
    let receiver = Receiver::new(&bundle);
    let created = bundle.try_create(&["--console-socket", &receiver.path]).ok();
    let (master, _) = receiver.receive();
    bundle.start();
    let text = read_all(master);
    bundle.wait_stopped();
    (runtime::lines(&text), created)
}

/// Everything until the other side is closed, which a pty master says with EIO.
pub fn read_all(master: OwnedFd) -> String {
    let mut file = std::fs::File::from(master);
    let mut text = Vec::new();
    let mut block = [0u8; 4096];
    loop {
        let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, runtime::patience_ms()) };
        assert_eq!(ready, 1, "the terminal stays silent: {}", String::from_utf8_lossy(&text));
        match file.read(&mut block) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&text).into_owned(),
            Ok(n) => text.extend(&block[..n]),
        }
    }
}

#[test]
fn the_streams_are_the_terminal() {
    let bundle = Bundle::new().set("/process/terminal", true);
    let (out, _) = on_a_terminal(bundle);
    let seen = &out[0];
    assert_eq!(seen["tty"]["isatty"], json!([true, true, true]));
    assert_eq!(seen["tty"]["controlling"], true);
    assert_eq!(seen["tty"]["foreground"], 1);
    assert_eq!(seen["sid"], 1);
    assert_eq!(seen["dev"]["console"]["type"], "c");
    let fds: Vec<&String> = seen["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2"], "{}", seen["fds"]);
}

#[test]
fn the_console_has_the_configured_size() {
    let bundle =
        Bundle::new().set("/process/terminal", true).set("/process/consoleSize", json!({"height": 33, "width": 111}));
    let (out, _) = on_a_terminal(bundle);
    assert_eq!(out[0]["tty"]["rows"], 33);
    assert_eq!(out[0]["tty"]["cols"], 111);
}

#[test]
fn a_size_without_a_terminal_is_ignored() {
    let bundle = Bundle::new().set("/process/consoleSize", json!({"height": 33, "width": 111}));
    assert_eq!(bundle.report()["tty"]["isatty"], json!([false, false, false]));
}

#[test]
fn the_console_belongs_to_the_user() {
    let bundle = Bundle::new()
        .set("/process/terminal", true)
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .args(["/probe", "stat", "/dev/console", ",", "stat", "/proc/self/fd/0", ",", "open", "/dev/tty", "rw"]);
    let (out, _) = on_a_terminal(bundle);
    assert_eq!(out[1]["uid"], 1000, "{out:?}");
    assert_eq!(out[2]["ok"], true, "{out:?}");
}

#[test]
fn what_is_typed_arrives() {
    let bundle = Bundle::new().set("/process/terminal", true).args(["/probe", "stdin"]);
    let receiver = Receiver::new(&bundle);
    bundle.try_create(&["--console-socket", &receiver.path]).ok();
    let (master, _) = receiver.receive();
    bundle.start();
    let mut writer = std::fs::File::from(master.try_clone().unwrap());
    writer.write_all(b"typed\n\x04").unwrap();
    let text = read_all(master);
    assert!(text.contains("{\"content\":\"typed\\n\"}"), "{text}");
    bundle.wait_stopped();
}

#[test]
fn hanging_up_the_master_ends_the_session() {
    let bundle = Bundle::new().set("/process/terminal", true).args(["/probe", "catch"]);
    let receiver = Receiver::new(&bundle);
    bundle.try_create(&["--console-socket", &receiver.path]).ok();
    let (master, _) = receiver.receive();
    bundle.start();
    let mut file = std::fs::File::from(master);
    let mut block = [0u8; 256];
    assert!(file.read(&mut block).unwrap() > 0);
    drop(file);
    bundle.wait_stopped();
}

#[test]
fn a_terminal_without_a_console_socket_is_refused() {
    let bundle = Bundle::new().set("/process/terminal", true);
    bundle.try_create(&[]).fails();
    bundle.check_clean();
}

#[test]
fn a_console_socket_without_a_terminal_is_refused() {
    peer_differs!("crun", "1.8 ignores the socket");
    let bundle = Bundle::new();
    let receiver = Receiver::new(&bundle);
    bundle.try_create(&["--console-socket", &receiver.path]).fails_with(&["console"]);
    bundle.check_clean();
}

#[test]
fn a_console_socket_that_is_not_there_or_closed() {
    if flavor() == runtime::Flavor::Crun {
        crate::skip_expected!("crun 1.8 does not clean up after this failure");
    }
    let bundle = Bundle::new().set("/process/terminal", true);
    let missing = bundle.dir.join("nobody.sock");
    bundle.try_create(&["--console-socket", missing.to_str().unwrap()]).fails();
    bundle.check_clean();
    let receiver = Receiver::new(&bundle);
    let path = receiver.path.clone();
    drop(receiver);
    bundle.try_create(&["--console-socket", &path]).fails();
    bundle.check_clean();
}

#[test]
fn run_in_the_foreground_relays_a_terminal() {
    // script(1) gives the runtime a terminal of its own, as a user's shell would.
    let Some(script) = crate::harness::host::find_program("script") else {
        crate::skip_expected!("script(1) of bsdutils is not installed");
    };
    let bundle = Bundle::new().set("/process/terminal", true).args(["/probe"]);
    bundle.write_config();
    let command = format!(
        "{} --root {} run --bundle {} {}",
        runtime::program().display(),
        bundle.state_root().display(),
        bundle.dir.display(),
        bundle.id
    );
    let log = bundle.dir.join("typescript");
    let out = runtime::Call::new(&script, &bundle.dir, bundle.layer)
        .args(["-q", "-e", "-c", &command, log.to_str().unwrap()])
        .output();
    // script's own echo of the end of its input may stand before it.
    let start = out.stdout.find('{').unwrap_or_else(|| panic!("{out}"));
    let line = out.stdout[start..].lines().next().unwrap();
    let seen: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(seen["tty"]["isatty"], json!([true, true, true]));
    assert!(out.status.success(), "{out}");
}

/// A pseudo-terminal as a user's terminal program has it: its end, and the end for the programs.
fn terminal(rows: u16, columns: u16) -> (std::fs::File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let mut size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: two places for descriptors and a size; what openpty gives belongs to nobody else.
    unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), &raw mut size), 0);
        for fd in [master, slave] {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        (std::fs::File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

fn modes(terminal: &OwnedFd) -> (u32, u32, u32) {
    // SAFETY: a structure that the call fills.
    unsafe {
        let mut modes: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes), 0);
        (modes.c_iflag, modes.c_oflag, modes.c_lflag)
    }
}

#[test]
fn the_caller_s_terminal_is_raw_meanwhile_and_its_size_is_followed() {
    peer_differs!("crun", "1.8 does not follow it here");
    let (mut master, slave) = terminal(11, 22);
    let before = modes(&slave);
    let bundle = Bundle::new().set("/process/terminal", true).args(["/probe", "report", ",", "stdin", ",", "report"]);
    let call = bundle.call_new("run", &[]).stdin(slave.try_clone().unwrap()).fd(&slave, 1).fd(&slave, 2);
    // SAFETY: two system calls without pointers.
    let call = unsafe {
        call.pre_exec(|| {
            libc::setsid();
            if libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    };
    let running = call.start();
    let mut text = Vec::new();
    let mut line = |master: &mut std::fs::File| loop {
        if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            return serde_json::from_slice::<Value>(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        }
        let mut buffer = [0; 4096];
        let length = master.read(&mut buffer).unwrap();
        text.extend(&buffer[..length]);
    };
    assert_eq!(line(&mut master)["tty"]["isatty"], json!([true, true, true]));
    let raw = libc::ICANON | libc::ECHO | libc::ISIG;
    crate::harness::eventually("the terminal is raw", || modes(&slave).2 & raw == 0);
    let size = libc::winsize { ws_row: 40, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the size is read. The signal for it is pending when the call returns.
    assert_eq!(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    if flavor() == runtime::Flavor::Orlop {
        let status = format!("/proc/{}/status", running.pid());
        crate::harness::eventually("the signal is taken", || {
            let text = std::fs::read_to_string(&status).unwrap();
            let pending = text.lines().filter_map(|l| l.strip_prefix("ShdPnd:").or(l.strip_prefix("SigPnd:")));
            let window = 1_u64 << (libc::SIGWINCH - 1);
            pending.map(|l| u64::from_str_radix(l.trim(), 16).unwrap()).all(|set| set & window == 0)
        });
    } else {
        // runc has a handler, and nothing tells when that has run.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    // The end of input, as typed.
    master.write_all(&[4]).unwrap();
    assert_eq!(line(&mut master)["content"], "");
    let last = line(&mut master);
    assert_eq!((&last["tty"]["rows"], &last["tty"]["cols"]), (&json!(40), &json!(90)));
    running.output().ok();
    assert_eq!(modes(&slave), before);
    bundle.check_clean();
}
