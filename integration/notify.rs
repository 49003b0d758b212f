// SPDX-License-Identifier: Apache-2.0
//! SCMP_ACT_NOTIFY: the test is the supervisor that gets the listener and answers (seccomp_unotify(2)).

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Bundle, flavor};
use crate::peer_differs;
use crate::tty::receive_fd;

const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = 0xc018_2101;

/// What the supervisor answers to mkdir; every other call goes on.
const ANSWER: i32 = 71;

/// A supervisor in a thread of the test.
struct Supervisor {
    path: PathBuf,
    states: Receiver<Value>,
}

impl Supervisor {
    fn new(bundle: &Bundle) -> Self {
        let path = bundle.dir.join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, states) = channel();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                // A runtime may look whether anybody is there.
                let mut first = [0_u8; 1];
                // SAFETY: the buffer has the length that is given.
                let peeked = unsafe { libc::recv(stream.as_raw_fd(), first.as_mut_ptr().cast(), 1, libc::MSG_PEEK) };
                if peeked != 1 {
                    continue;
                }
                let (fd, text) = receive_fd(stream.as_raw_fd());
                let mut state: Value = serde_json::from_str(&text).unwrap();
                // To the end of file at once: peers keep the connection open, where this would wait for ever.
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                state["closed"] = json!(stream.read(&mut first).ok() == Some(0));
                if sender.send(state).is_err() {
                    return;
                }
                std::thread::spawn(move || answer(&fd));
            }
        });
        Self { path, states }
    }

    fn state(&self) -> Value {
        self.states.recv_timeout(Duration::from_secs(20)).expect("no state came to the supervisor")
    }
}

/// Answers until the last process with the filter is gone.
fn answer(fd: &OwnedFd) {
    loop {
        // SAFETY: the structures are plain data, zeroed as the kernel demands, and live through the calls.
        unsafe {
            let mut call: libc::seccomp_notif = MaybeUninit::zeroed().assume_init();
            if libc::ioctl(fd.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) < 0 {
                if *libc::__errno_location() == libc::EINTR {
                    continue;
                }
                return;
            }
            let mut reply: libc::seccomp_notif_resp = MaybeUninit::zeroed().assume_init();
            reply.id = call.id;
            if i64::from(call.data.nr) == libc::SYS_mkdir {
                reply.error = -ANSWER;
            } else {
                reply.flags = 1; // SECCOMP_USER_NOTIF_FLAG_CONTINUE
            }
            // ENOENT: the caller was killed meanwhile.
            libc::ioctl(fd.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply);
        }
    }
}

fn profile(bundle: &Bundle, profile: Value) -> (Supervisor, Value) {
    let supervisor = Supervisor::new(bundle);
    let mut profile = profile;
    profile["listenerPath"] = json!(supervisor.path);
    profile["listenerMetadata"] = json!("some data");
    (supervisor, profile)
}

fn of_call(name: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [name], "action": "SCMP_ACT_NOTIFY"}]})
}

#[test]
fn the_supervisor_gets_the_listener_and_the_state() {
    peer_differs!("crun", "1.8.1 needs its own library for the hand-over and keeps the connection open");
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new();
        let (supervisor, profile) = profile(&bundle, of_call("mkdir"));
        let bundle = bundle.set("/process/noNewPrivileges", no_new_privileges).set("/linux/seccomp", profile);
        let out = bundle.run(["/probe", "syscall", "83", "0", "0"]).json();
        assert_eq!(out["errno"], ANSWER);
        let state = supervisor.state();
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "some data");
        assert_eq!(state["state"]["id"], bundle.id.as_str());
        assert_eq!(state["state"]["pid"], state["pid"]);
        assert!(["creating", "created"].contains(&state["state"]["status"].as_str().unwrap()), "{state}");
        if flavor().name() == "orlop" {
            assert_eq!(state["closed"], true, "one state per connection, then it is closed");
        }
    }
}

#[test]
fn no_system_call_is_special() {
    peer_differs!("runc", "refuses NOTIFY for write and as the default action: its own hand-over needs write");
    peer_differs!("crun", "1.8.1 needs its own library for the hand-over");
    for no_new_privileges in [true, false] {
        for kind in
            [of_call("write"), of_call("sendmsg"), of_call("close"), json!({"defaultAction": "SCMP_ACT_NOTIFY"})]
        {
            let bundle = Bundle::new();
            let (_supervisor, profile) = profile(&bundle, kind);
            let bundle = bundle.set("/process/noNewPrivileges", no_new_privileges).set("/linux/seccomp", profile);
            let seen = bundle.report();
            assert_eq!(seen["seccomp"], 2);
        }
    }
}

#[test]
fn an_exec_has_a_listener_of_its_own() {
    peer_differs!("crun", "1.8.1 needs its own library for the hand-over");
    let bundle = Bundle::new();
    let (supervisor, profile) = profile(&bundle, of_call("mkdir"));
    let bundle = bundle.set("/linux/seccomp", profile).args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    let init = supervisor.state();
    let out = bundle.call(["exec", &bundle.id, "/probe", "syscall", "83", "0", "0"]).output();
    assert_eq!(out.json()["errno"], ANSWER);
    let state = supervisor.state();
    assert_eq!(state["state"]["status"], "running");
    assert_eq!(state["state"]["pid"], init["pid"]);
    assert_ne!(state["pid"], init["pid"]);
}

#[test]
fn a_dead_supervisor_is_an_error_of_create() {
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new();
        let path = bundle.dir.join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        let mut profile = of_call("mkdir");
        profile["listenerPath"] = json!(path);
        let bundle = bundle.set("/process/noNewPrivileges", no_new_privileges).set("/linux/seccomp", profile);
        bundle.try_create(&[]).fails();
        bundle.check_clean();
    }
}
