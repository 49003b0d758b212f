// SPDX-License-Identifier: Apache-2.0
//! Network devices and names of the host: netdevice(7), setdomainname(2).

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Result, call, check};

/// Sets IFF_UP on `lo` (SIOCSIFFLAGS). Needs CAP_NET_ADMIN over the network namespace.
pub fn loopback_up() -> Result<()> {
    let socket = call!("socket(AF_INET, SOCK_DGRAM)" =>
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None))?;
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: request is a valid ifreq that lives through the call.
    let value = check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into());
    call!("ioctl(SIOCSIFFLAGS, \"lo\", UP)" => value).map(drop)
}

/// `setdomainname(2)`: the NIS domain name.
pub fn setdomainname(name: &str) -> Result<()> {
    // SAFETY: the pointer and length are those of a string.
    let value = check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into());
    call!("setdomainname({name:?})" => value).map(drop)
}
