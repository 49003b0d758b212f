// SPDX-License-Identifier: Apache-2.0
//! UNIX sockets: the pair between parent and child, and datagrams with a descriptor (unix(7), SCM_RIGHTS).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

use super::{Result, call};

/// A pair of connected SOCK_SEQPACKET sockets: datagrams keep their bounds, the end of a peer is seen as end of file.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd)> {
    call!("socketpair(AF_UNIX, SOCK_SEQPACKET)" =>
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC))
}

/// Sends one datagram, with a copy of `fd` if given. EPIPE instead of a signal when the peer is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[] } else { rights.as_slice() };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None);
    call!("sendmsg({}, {} bytes)", socket.as_raw_fd(), bytes.len() => sent).map(drop)
}

/// Receives one datagram of at most `limit` bytes and the descriptor that came with it. Empty: the peer is gone.
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; limit];
    let mut control = cmsg_space!([RawFd; 1]);
    let (length, fd) = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
        if got.as_ref().err() == Some(&nix::errno::Errno::EINTR) {
            continue;
        }
        let got = call!("recvmsg({})", socket.as_raw_fd() => got)?;
        let mut received = None;
        if let Ok(messages) = got.cmsgs() {
            for message in messages {
                if let ControlMessageOwned::ScmRights(fds) = message {
                    // SAFETY: the kernel has just put these descriptors into this process; nothing else owns them.
                    received = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next_back();
                }
            }
        }
        break (got.bytes, received);
    };
    bytes.truncate(length);
    Ok((bytes, fd))
}
