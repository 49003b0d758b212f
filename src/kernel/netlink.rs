// SPDX-License-Identifier: Apache-2.0
//! rtnetlink(7), as much of it as moving a device takes: links and addresses, one request at a time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::sys::call;

/// The lengths of `nlmsghdr`, `ifinfomsg` and `ifaddrmsg` in bytes.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;
/// The longest reply: a device with many virtual functions has much to tell.
const BUFFER: usize = 64 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;

const IFF_UP: u32 = 0x1;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// Flags that an address was given, and not what the kernel says of its state: NODAD, HOMEADDRESS, MANAGETEMPADDR,
/// NOPREFIXROUTE, MCAUTOJOIN of `linux/if_addr.h`.
const GIVEN_FLAGS: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;

/// A socket, which speaks of the network namespace in which it was made.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What is known of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub up: bool,
}

/// An address of a device: what a request to add it consists of, but for the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    /// IFA_LOCAL, IFA_ADDRESS, IFA_BROADCAST, as they are.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Socket {
    /// A socket of the caller's network namespace.
    pub fn open() -> Result<Self> {
        let socket = call!("socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)" =>
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute))?;
        Ok(Self(socket))
    }

    /// The device of this name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut body = link_header(0, 0, 0);
        attribute(&mut body, libc::IFLA_IFNAME, &terminated(name));
        match self.request(libc::RTM_GETLINK, ACK, &body, &format!("GETLINK {name:?}")) {
            Ok(replies) => replies.iter().find_map(|reply| read_link(reply)).context("rtnetlink: no reply").map(Some),
            Err(e) if e.errno == Errno::ENODEV => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The permanent addresses of global scope of a device.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let replies = self.request(libc::RTM_GETADDR, DUMP, &[0; ADDRESS], "GETADDR")?;
        Ok(replies.iter().filter_map(|reply| read_address(reply, index)).collect())
    }

    /// Moves a device into a network namespace, where it is called `name`.
    pub fn move_link(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> crate::sys::Result<()> {
        let mut body = link_header(index, 0, 0);
        attribute(&mut body, libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        attribute(&mut body, libc::IFLA_IFNAME, &terminated(name));
        self.request(libc::RTM_NEWLINK, ACK, &body, &format!("NEWLINK {index}, NET_NS_FD, IFNAME {name:?}")).map(drop)
    }

    /// Brings a device up.
    pub fn set_up(&self, index: u32) -> crate::sys::Result<()> {
        let body = link_header(index, IFF_UP, IFF_UP);
        self.request(libc::RTM_NEWLINK, ACK, &body, &format!("NEWLINK {index}, UP")).map(drop)
    }

    /// Gives a device an address.
    pub fn add_address(&self, index: u32, address: &Address) -> crate::sys::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        attribute(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes());
        self.request(libc::RTM_NEWADDR, ACK | CREATE, &body, &format!("NEWADDR {index}, {}", address.text())).map(drop)
    }

    /// Sends one request and gives the payloads of the replies. `what` is for the error.
    fn request(&self, kind: u16, flags: u16, body: &[u8], what: &str) -> crate::sys::Result<Vec<Vec<u8>>> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(u32::try_from(HEADER + body.len()).unwrap_or(0).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        call!("rtnetlink({what})" => self.exchange(&message))
    }

    fn exchange(&self, message: &[u8]) -> std::result::Result<Vec<Vec<u8>>, Errno> {
        send(self.0.as_raw_fd(), message, MsgFlags::empty())?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, payload, next)) = split_message(rest) {
                match kind {
                    NLMSG_DONE => return Ok(replies),
                    NLMSG_ERROR => {
                        return match number(payload, 0).map(u32::cast_signed) {
                            Some(0) => Ok(replies),
                            code => Err(Errno::from_raw(code.map_or(libc::EIO, i32::wrapping_neg))),
                        };
                    }
                    _ => replies.push(payload.to_vec()),
                }
                rest = next;
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Type, payload and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let payload = bytes.get(HEADER..length)?;
    Some((short(bytes, 4)?, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, flags, change] {
        body.extend(word.to_ne_bytes());
    }
    body
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// `struct rtattr` and its value, padded to 4 bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(4).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (short(bytes, 0).map(usize::from), short(bytes, 2)) {
        let Some(value) = bytes.get(4..length) else { break };
        found.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn read_link(reply: &[u8]) -> Option<Link> {
    reply.get(..LINK)?;
    Some(Link { index: number(reply, 4)?, up: number(reply, 8)? & IFF_UP != 0 })
}

/// The address in a reply, if it is one of the device, permanent and of global scope (RT_SCOPE_UNIVERSE, 0).
fn read_address(reply: &[u8], index: u32) -> Option<Address> {
    let [family, prefix, old_flags, scope] = reply.get(..4)?.try_into().ok()?;
    let attributes = attributes(reply.get(ADDRESS..)?);
    let flags = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, value)| number(value, 0));
    let flags = flags.unwrap_or_else(|| u32::from(old_flags));
    if number(reply, 4)? != index || scope != 0 || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let kept = [libc::IFA_LOCAL, libc::IFA_ADDRESS, libc::IFA_BROADCAST];
    let kept = attributes.iter().filter(|(kind, _)| kept.contains(kind)).map(|(kind, value)| (*kind, value.to_vec()));
    Some(Address { family, prefix, flags: flags & GIVEN_FLAGS, attributes: kept.collect() })
}

impl Address {
    /// `192.0.2.1/24`, for messages.
    pub fn text(&self) -> String {
        let bytes = [libc::IFA_LOCAL, libc::IFA_ADDRESS].iter().find_map(|kind| {
            self.attributes.iter().find(|(found, _)| found == kind).map(|(_, value)| value.as_slice())
        });
        let four =
            bytes.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(|b| std::net::IpAddr::from(b).to_string());
        let six =
            bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(|b| std::net::IpAddr::from(b).to_string());
        format!("{}/{}", four.or(six).unwrap_or_default(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(index: u32, scope: u8, flags: u32) -> Vec<u8> {
        let mut body = vec![2, 24, 0x80, scope];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, libc::IFA_ADDRESS, &[192, 0, 2, 0]);
        attribute(&mut body, libc::IFA_LOCAL, &[192, 0, 2, 1]);
        attribute(&mut body, 3, b"eth0\0");
        attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
        body
    }

    #[test]
    fn only_permanent_addresses_of_global_scope_are_kept() {
        let address = read_address(&reply(7, 0, 0x281), 7).unwrap();
        assert_eq!((address.family, address.prefix, address.flags, address.attributes.len()), (2, 24, 0x200, 2));
        assert_eq!(address.text(), "192.0.2.1/24");
        assert_eq!(read_address(&reply(8, 0, 0x80), 7), None);
        assert_eq!(read_address(&reply(7, 253, 0x80), 7), None);
        assert_eq!(read_address(&reply(7, 0, 0), 7), None);
    }

    #[test]
    fn damaged_replies_end_the_reading() {
        for bytes in [&[][..], &[1, 0], &[16, 0, 0, 0, 2, 0], &[255; 20]] {
            assert_eq!(split_message(bytes), None);
        }
        assert_eq!(attributes(&[2, 0, 1, 0]), []);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]), []);
        assert_eq!(read_address(&[1, 2], 7), None);
        assert_eq!(read_link(&[0; 8]), None);
    }
}
