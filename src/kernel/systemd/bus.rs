// SPDX-License-Identifier: Apache-2.0
//! A client of D-Bus as far as systemd's manager needs one (D-Bus specification 0.43): one connection, one call at a time,
//! every wait with an end. No library: those there are bring a runtime or threads.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::error::ResultExt;
use crate::plan::systemd::Variant;

/// A message of systemd's is some hundred bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// A connection, authenticated and known to the bus.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    /// Of the last message sent.
    serial: u32,
    /// How long one call, or one job, may take.
    timeout: Duration,
    /// Jobs that have ended, and how: signals can come before the answer that names the job.
    jobs: Vec<(String, String)>,
}

/// What a call has led to, if it was received at all.
pub type Answer = std::result::Result<Body, Refusal>;

/// An error message of the other side.
#[derive(Debug)]
pub struct Refusal {
    /// Such as `org.freedesktop.systemd1.UnitExists`.
    pub name: String,
    message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.name.rsplit('.').next().unwrap_or_default();
        write!(f, "{} ({last})", self.message)
    }
}

impl std::error::Error for Refusal {}

/// A call of an object of systemd's.
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [Variant],
}

struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Body,
}

/// The arguments of a message, read in order.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    at: usize,
}

/// Method call, its answers, and signal: the specification's "Message Types".
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Connects to the first of the addresses, `unix:path=..;unix:abstract=..`, that answers, as the caller's user, with a
/// bus behind it or (`peer`) a program.
pub fn connect(addresses: &str, peer: bool, timeout: Duration) -> Result<Bus> {
    let mut result = Err(anyhow!("{addresses:?} holds no address of a UNIX socket"));
    for address in addresses.split(';') {
        let Some(pairs) = address.strip_prefix("unix:") else { continue };
        let socket = pairs.split(',').find_map(|pair| match pair.split_once('=')? {
            ("path", path) => Some(SocketAddr::from_pathname(unescape(path))),
            ("abstract", name) => Some(SocketAddr::from_abstract_name(unescape(name))),
            _ => None,
        });
        let Some(socket) = socket else { continue };
        result = socket
            .and_then(|socket| UnixStream::connect_addr(&socket))
            .with_context(|| format!("connect to {address}"));
        if result.is_ok() {
            break;
        }
    }
    let mut bus = Bus { stream: result?, serial: 0, timeout, jobs: Vec::new() };
    bus.authenticate(peer)?;
    Ok(bus)
}

/// The `%XX` of addresses.
fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |mut all, part| {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        all.push(byte.map_or('%', char::from));
        all.push_str(if byte.is_some() { part.get(2..).unwrap_or_default() } else { part });
        all
    })
}

impl Bus {
    /// For what no method of [`Bus`] is needed: descriptors that a clone must not keep.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// "EXTERNAL" without an identity: the kernel tells the server who this is, which is right in a user namespace too.
    /// All of it, and what follows, is sent before any answer is waited for.
    fn authenticate(&mut self, peer: bool) -> Result<()> {
        let mut bytes = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_vec();
        let mut hello = 0;
        if !peer {
            let bus = "org.freedesktop.DBus";
            let call = |member, arguments| Call {
                destination: bus,
                path: "/org/freedesktop/DBus",
                interface: bus,
                member,
                arguments,
            };
            hello = self.add(&mut bytes, &call("Hello", &[]))?;
            let rule =
                [Variant::text("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'")];
            self.add(&mut bytes, &call("AddMatch", &rule))?;
        }
        let deadline = self.deadline();
        self.send(&bytes, deadline)?;
        let line = self.line(deadline)?;
        let line = if line.starts_with("DATA") { self.line(deadline)? } else { line };
        if !line.starts_with("OK ") {
            let refused: Result<()> = Err(anyhow!("the bus does not let uid {} in: {line:?}", nix::unistd::geteuid()));
            return refused.hint("the session bus of another user takes no one else, root included");
        }
        if !peer {
            self.answer(hello, deadline)?.context("org.freedesktop.DBus.Hello")?;
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Calls a method and waits for its answer.
    pub fn call(&mut self, call: &Call<'_>) -> Result<Answer> {
        let mut bytes = Vec::new();
        let serial = self.add(&mut bytes, call)?;
        let deadline = self.deadline();
        self.send(&bytes, deadline)?;
        self.answer(serial, deadline).with_context(|| format!("{}.{}", call.interface, call.member))
    }

    /// Waits until a job has ended; how it has: `done`, `failed`, `timeout` and so on.
    pub fn wait_for_job(&mut self, job: &str) -> Result<String> {
        let deadline = self.deadline();
        loop {
            if let Some(at) = self.jobs.iter().position(|(path, _)| path == job) {
                return Ok(self.jobs.swap_remove(at).1);
            }
            let message = self.message(deadline).with_context(|| format!("wait for the end of {job}"))?;
            self.note(message);
        }
    }

    fn answer(&mut self, serial: u32, deadline: Instant) -> Result<Answer> {
        loop {
            let mut message = self.message(deadline)?;
            match message.kind {
                ANSWER if message.reply_to == serial => return Ok(Ok(message.body)),
                ERROR if message.reply_to == serial => {
                    let text = message.body.text().unwrap_or_default();
                    return Ok(Err(Refusal { name: message.error, message: text }));
                }
                _ => self.note(message),
            }
        }
    }

    /// Keeps what a signal says. Others' calls and late answers are of no interest.
    fn note(&mut self, mut message: Message) {
        if message.kind == SIGNAL && message.member == "JobRemoved" {
            // JobRemoved(u id, o job, s unit, s result)
            let removed = message.body.u32().and_then(|_| Ok((message.body.text()?, message.body.text()?)));
            if let (Ok((job, _)), Ok(result)) = (removed, message.body.text()) {
                self.jobs.push((job, result));
            }
        }
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<()> {
        self.stream.set_write_timeout(Some(left(deadline)?))?;
        self.stream.write_all(bytes).context("send to the bus")
    }

    fn receive(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(buffer.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => bail!("the bus has closed the connection"),
                Ok(length) => filled += length,
                // left() tells when the time is over.
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e).context("receive from the bus"),
            }
        }
        Ok(())
    }

    /// A line of the authentication; byte for byte, as messages follow it.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.receive(&mut byte, deadline)?;
            line.extend(byte);
            if line.len() > 512 {
                bail!("the bus does not speak D-Bus");
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_string())
    }

    /// Appends a call; its serial number.
    fn add(&mut self, bytes: &mut Vec<u8>, call: &Call<'_>) -> Result<u32> {
        self.serial += 1;
        let message = marshal(call, self.serial).context("the message is too long")?;
        bytes.extend(message);
        Ok(self.serial)
    }

    fn message(&mut self, deadline: Instant) -> Result<Message> {
        let mut fixed = [0; 16];
        self.receive(&mut fixed, deadline)?;
        let mut head = Body { bytes: fixed.to_vec(), at: 4 };
        if fixed.first() != Some(&b'l') || fixed.get(3) != Some(&1) {
            bail!("the bus does not speak D-Bus as this machine does");
        }
        let (body, _serial, fields) = (head.length()?, head.u32()?, head.length()?);
        let padded = fields.next_multiple_of(8);
        if body > SIZE_LIMIT || padded > SIZE_LIMIT {
            bail!("the bus sent a message of {} bytes", body.saturating_add(padded));
        }
        let mut rest = vec![0; padded + body];
        self.receive(&mut rest, deadline)?;
        let body = Body { bytes: rest.split_off(padded), at: 0 };
        let kind = fixed.get(1).copied().unwrap_or_default();
        let mut message = Message { kind, reply_to: 0, member: String::new(), error: String::new(), body };
        rest.truncate(fields);
        let mut head = Body { bytes: rest, at: 0 };
        while head.at < head.bytes.len() {
            head.align(8);
            let code = head.byte()?;
            match (code, head.signature()?.as_str()) {
                (3, "s") => message.member = head.text()?,
                (4, "s") => message.error = head.text()?,
                (5, "u") => message.reply_to = head.u32()?,
                (_, "s" | "o") => drop(head.text()?),
                (_, "g") => drop(head.signature()?),
                (_, "u") => drop(head.u32()?),
                (code, signature) => bail!("the bus sent a header field {code} of the type {signature:?}"),
            }
        }
        Ok(message)
    }
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        bail!("no answer in time");
    }
    Ok(left)
}

impl Body {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(length);
        let taken =
            end.and_then(|end| self.bytes.get(self.at..end)).context("the bus sent a message that ends too soon");
        self.at = self.at.saturating_add(length);
        taken
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.align(4);
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn length(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.u32()?)?)
    }

    /// A string or an object path.
    pub fn text(&mut self) -> Result<String> {
        let length = self.length()?;
        self.string(length)
    }

    pub fn signature(&mut self) -> Result<String> {
        let length = usize::from(self.byte()?);
        self.string(length)
    }

    fn string(&mut self, length: usize) -> Result<String> {
        let bytes = self.take(length.saturating_add(1))?;
        Ok(String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned())
    }
}

/// A method call. None if it does not fit a message.
fn marshal(call: &Call<'_>, serial: u32) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    for argument in call.arguments {
        put(&mut body, argument)?;
    }
    let mut fields = Vec::new();
    let signature: String = call.arguments.iter().map(Variant::signature).collect();
    for (code, kind, text) in [
        (1, 'o', call.path),
        (2, 's', call.interface),
        (3, 's', call.member),
        (6, 's', call.destination),
        (8, 'g', &signature),
    ] {
        if !text.is_empty() {
            align(&mut fields, 8);
            fields.push(code);
            put_variant(&mut fields, &Variant::Text(kind, text.into()))?;
        }
    }
    // Little-endian. The flags let the bus wait for the service: a user's bus can be there before his systemd is on it.
    let mut message = vec![b'l', CALL, 0, 1];
    for number in [u32::try_from(body.len()).ok()?, serial, u32::try_from(fields.len()).ok()?] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    align(&mut message, 8);
    message.extend(body);
    Some(message)
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn alignment(signature: &str) -> usize {
    match signature.chars().next() {
        Some('y' | 'g' | 'v') => 1,
        Some('n' | 'q') => 2,
        Some('x' | 't' | 'd' | '(') => 8,
        _ => 4,
    }
}

fn put(bytes: &mut Vec<u8>, value: &Variant) -> Option<()> {
    let to = alignment(&value.signature());
    align(bytes, to);
    match value {
        Variant::Number(code, bits) => {
            // A boolean has four bytes.
            let size = if *code == 'b' { 4 } else { to };
            bytes.extend(bits.to_le_bytes().get(..size)?);
        }
        Variant::Text(code, text) => {
            match code {
                'g' => bytes.push(u8::try_from(text.len()).ok()?),
                _ => bytes.extend(u32::try_from(text.len()).ok()?.to_le_bytes()),
            }
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        Variant::Array(element, members) => {
            let at = bytes.len();
            bytes.extend([0; 4]);
            align(bytes, alignment(element));
            let first = bytes.len();
            for member in members {
                put(bytes, member)?;
            }
            let length = u32::try_from(bytes.len() - first).ok()?;
            bytes.get_mut(at..at + 4)?.copy_from_slice(&length.to_le_bytes());
        }
        Variant::Tuple(members) => {
            for member in members {
                put(bytes, member)?;
            }
        }
        Variant::Boxed(value) => put_variant(bytes, value)?,
    }
    Some(())
}

/// A value with its signature before it: the type `v`.
fn put_variant(bytes: &mut Vec<u8>, value: &Variant) -> Option<()> {
    put(bytes, &Variant::Text('g', value.signature()))?;
    put(bytes, value)
}

#[cfg(test)]
mod tests;
