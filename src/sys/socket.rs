// SPDX-License-Identifier: Apache-2.0
//! UNIX sockets: the pair between parent and child, and datagrams with a descriptor (unix(7), SCM_RIGHTS).

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

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
    // Not zeroed: the pages that the kernel does not write to are never touched.
    let mut bytes = Vec::<u8>::with_capacity(limit);
    let mut control = Control { bytes: [0; 24] };
    let (length, header) = loop {
        let mut slice = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: limit };
        // SAFETY: msghdr is plain data for which all zeroes is valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        // As CMSG_LEN(3) has it for one descriptor: what is sent beyond it is closed by the kernel.
        header.msg_controllen = size_of::<libc::cmsghdr>() + size_of::<RawFd>();
        // SAFETY: the buffers have the lengths that the header names, and live through the call.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(got) {
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return call!("recvmsg({})", socket.as_raw_fd() => Err(Errno::last())),
            Ok(length) => break (length, header),
        }
    };
    // SAFETY: the kernel has written this many bytes, at most the capacity.
    unsafe { bytes.set_len(length.min(limit)) };
    let mut received = None;
    // SAFETY: the kernel has filled the control buffer and its length; the macros stay within it. The descriptors have
    // just been put into this process, and nothing else owns them.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(rights) = message.as_ref() {
            if rights.cmsg_level == libc::SOL_SOCKET && rights.cmsg_type == libc::SCM_RIGHTS {
                received = Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(message).cast::<RawFd>().read_unaligned()));
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Ok((bytes, received))
}

/// A control message with one descriptor, in the alignment that cmsg(3) asks for.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; 24],
}
