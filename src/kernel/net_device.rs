// SPDX-License-Identifier: Apache-2.0
//! Devices of the host for the container's network namespace: moved and set up by the parent, from outside, which has the
//! capabilities over both. What the kernel drops on the way, the addresses, is put back.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;

use super::netlink::{Address, Link, Socket};
use crate::error::{ResultExt, one_line};
use crate::plan::namespaces::Kind;
use crate::plan::net_devices::NetDevice;
use crate::sys::clone::setns;

/// The way between the two network namespaces, and what went it.
#[derive(Debug)]
pub struct Devices {
    here: OwnedFd,
    there: OwnedFd,
    host: Socket,
    container: Socket,
    moved: Vec<Moved>,
}

#[derive(Debug)]
struct Moved {
    device: NetDevice,
    before: Link,
    addresses: Vec<Address>,
}

impl Devices {
    /// `here`: the caller's own network namespace; `there`: the container's. Moves nothing yet.
    pub fn new(here: OwnedFd, there: OwnedFd) -> Result<Self> {
        let host = Socket::open()?;
        // A socket belongs to the namespace in which it is made.
        setns(there.as_fd(), Kind::Network.flag()).context("enter the container's network namespace")?;
        let container = Socket::open();
        setns(here.as_fd(), Kind::Network.flag()).context("return to the runtime's network namespace")?;
        Ok(Self { here, there, host, container: container?, moved: Vec::new() })
    }

    /// Moves devices in. Those that were moved when one fails are given back by [`Devices::give_back`].
    pub fn take(&mut self, devices: &[NetDevice]) -> Result<()> {
        for device in devices {
            self.take_one(device).with_context(|| format!("linux.netDevices.{}", device.host))?;
        }
        Ok(())
    }

    fn take_one(&mut self, device: &NetDevice) -> Result<()> {
        let before = self
            .host
            .link(&device.host)?
            .ok_or_else(|| anyhow!("the runtime's network namespace has no such device"))
            .hint("ip link shows those that there are")?;
        // The kernel would move it first and find out then.
        if self.container.link(&device.name)?.is_some() {
            return Err(anyhow!("the container's network namespace has a device {:?} already", device.name))
                .hint("give it another name");
        }
        let addresses = self.host.addresses(before.index)?;
        let moved = self.host.move_link(before.index, self.there.as_fd(), &device.name);
        if moved.is_ok() || self.host.link(&device.host)?.is_none() {
            self.moved.push(Moved { device: device.clone(), before, addresses: addresses.clone() });
        }
        moved
            .hint_if(Errno::EINVAL, "the kernel does not let devices of this kind leave their network namespace")
            .hint_if(Errno::EOPNOTSUPP, "the driver does not let the device leave its network namespace")
            .hint_if(Errno::EPERM, "moving a device needs CAP_NET_ADMIN over both network namespaces")?;
        let index = self.container.link(&device.name)?.context("the device has vanished")?.index;
        equip(&self.container, index, &addresses, true)
    }

    /// Takes the devices back to where they were, with their names and addresses. Failures are warnings.
    pub fn give_back(&mut self) {
        while let Some(moved) = self.moved.pop() {
            let name = &moved.device.host;
            if let Err(e) = self.give_one_back(&moved) {
                crate::log::warn(&format!("linux.netDevices.{name}: not given back: {}", one_line(&e)));
            }
        }
    }

    fn give_one_back(&self, moved: &Moved) -> Result<()> {
        let device = &moved.device;
        let found = match self.container.link(&device.name)? {
            None => self.container.link(&device.host)?,
            found => found,
        };
        let link = found.context("the device has vanished")?;
        self.container.move_link(link.index, self.here.as_fd(), &device.host)?;
        let index = self.host.link(&device.host)?.context("the device has vanished")?.index;
        equip(&self.host, index, &moved.addresses, moved.before.up)
    }
}

/// Addresses, then up, so that nobody sees it up without them.
fn equip(socket: &Socket, index: u32, addresses: &[Address], up: bool) -> Result<()> {
    for address in addresses {
        socket.add_address(index, address).with_context(|| format!("address {}", address.text()))?;
    }
    if up {
        socket.set_up(index)?;
    }
    Ok(())
}
