// SPDX-License-Identifier: Apache-2.0
//! sd_notify(3) out of a container, as runc passes it on: the program sends READY=1 to a socket that is mounted at
//! /run/notify, and the runtime tells the one of NOTIFY_SOCKET, which knows the runtime's pid alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat};

use crate::kernel::procfs;
use crate::kernel::signal::Interrupts;
use crate::state::{NOTIFY, NOTIFY_SOCKET, StateDir};
use crate::sys::call;
use crate::sys::socket::send;

/// How long the service manager may take to see that the messages have come (sd_notify_barrier(3)).
const PATIENCE: Duration = Duration::from_secs(30);

/// The value of NOTIFY_SOCKET, if there is one.
pub fn wanted() -> Option<std::ffi::OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|value| !value.is_empty())
}

/// The socket that the container sends to, and the way on.
pub struct Notify {
    inside: UnixDatagram,
    outside: UnixDatagram,
}

impl Notify {
    /// Binds the container's socket. None if the caller has no NOTIFY_SOCKET, or the container was created without one.
    /// One that nobody listens on is told as a warning.
    pub fn bind(dir: &StateDir) -> Result<Option<Self>> {
        let Some(address) = wanted() else { return Ok(None) };
        if fstatat(dir.fd(), NOTIFY, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT) {
            return Ok(None);
        }
        let connected = || -> std::io::Result<UnixDatagram> {
            let outside = UnixDatagram::unbound()?;
            outside.connect_addr(&match address.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(Path::new(&address))?,
            })?;
            Ok(outside)
        };
        let outside = match connected() {
            Ok(outside) => outside,
            Err(e) => {
                crate::log::warn(&format!("NOTIFY_SOCKET {address:?}: {}", crate::sys::describe_io(&e)));
                return Ok(None);
            }
        };
        // Through the directory's descriptor: the path of a socket may have 107 bytes.
        let path = procfs::path_of(dir.fd(), NOTIFY_SOCKET);
        // Of a start that has failed.
        drop(std::fs::remove_file(&path));
        let inside = UnixDatagram::bind(&path).with_context(|| format!("notify socket {path:?}"))?;
        call!("fchmodat({NOTIFY_SOCKET:?})" =>
            fchmodat(dir.fd(), NOTIFY_SOCKET, Mode::from_bits_truncate(0o777), FchmodatFlags::FollowSymlink))?;
        Ok(Some(Self { inside, outside }))
    }

    /// Readable when the container has sent something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }

    /// Reads one message, and passes it on if it says READY. `pid`: the process that is told to be the main one. True when
    /// nothing more is to be done.
    pub fn relay(&self, pid: Option<i32>) -> Result<bool> {
        let mut buffer = [0; 4096];
        let length = self.inside.recv(&mut buffer).context("notify socket")?;
        let message = buffer.get(..length).unwrap_or_default();
        let Some(ready) = message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY=")) else {
            return Ok(false);
        };
        let told = || -> Result<()> {
            send(self.outside.as_fd(), ready, None)?;
            if let Some(pid) = pid {
                send(self.outside.as_fd(), format!("MAINPID={pid}").as_bytes(), None)?;
            }
            self.barrier()
        };
        if let Err(e) = told().context("NOTIFY_SOCKET") {
            crate::log::warn(&crate::error::one_line(&e));
        }
        Ok(true)
    }

    /// Waits until the manager has read what was sent: it closes the descriptor then.
    fn barrier(&self) -> Result<()> {
        let (reader, writer) = std::io::pipe().context("pipe")?;
        send(self.outside.as_fd(), b"BARRIER=1", Some(writer.as_fd()))?;
        drop(writer);
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::NONE);
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, patience) == Err(Errno::EINTR) {}
        Ok(())
    }

    /// Waits until the container is ready or its init, behind `pidfd`, has ended.
    pub fn wait(&self, pid: i32, pidfd: &OwnedFd, interrupts: Option<&Interrupts>) -> Result<()> {
        loop {
            let [spoken, ended] = match interrupts {
                Some(interrupts) => interrupts.wait_for([self.fd(), pidfd.as_fd()])?,
                None => {
                    let mut fds = [self.fd(), pidfd.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                    match poll(&mut fds, PollTimeout::NONE) {
                        Err(Errno::EINTR) => continue,
                        other => call!("poll()" => other)?,
                    };
                    fds.map(|fd| fd.any().unwrap_or(false))
                }
            };
            if spoken {
                if self.relay(Some(pid))? {
                    return Ok(());
                }
            } else if ended {
                return Ok(());
            }
        }
    }
}

/// The config of a container whose program is to find `directory`, in the state directory, at /run/notify.
pub fn add_to(bytes: &[u8], directory: &Path) -> Result<Vec<u8>> {
    use serde_json::{Value, json};
    let mut config: Value = serde_json::from_slice(bytes)?;
    let root = config.as_object_mut().context("config.json: is no object")?;
    let mount = json!({
        "destination": "/run/notify", "type": "bind", "source": directory,
        "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
    });
    let list = |value: &mut Value, what: &str, entry: Value| -> Result<()> {
        if value.is_null() {
            *value = json!([]);
        }
        value.as_array_mut().with_context(|| format!("config.json: {what}: is no array"))?.push(entry);
        Ok(())
    };
    list(root.entry("mounts").or_insert(Value::Null), "mounts", mount)?;
    let process = root.get_mut("process").and_then(Value::as_object_mut).context("config.json: process: is missing")?;
    let env = process.entry("env").or_insert(Value::Null);
    list(env, "process.env", json!("NOTIFY_SOCKET=/run/notify/notify.sock"))?;
    Ok(serde_json::to_vec(&config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_gets_a_mount_and_a_variable() {
        let bytes = add_to(br#"{"process": {"env": ["A=b"]}}"#, Path::new("/s/x/notify")).unwrap();
        let made: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(made["mounts"][0]["source"], "/s/x/notify");
        assert_eq!(made["process"]["env"][1], "NOTIFY_SOCKET=/run/notify/notify.sock");
        assert!(add_to(b"{}", Path::new("/x")).is_err());
    }
}
