// SPDX-License-Identifier: Apache-2.0
//! The log of `--log FILE --log-format text|json --debug`: one line an event, one `write(2)` a line, so that parent and
//! child share the descriptor without a pipe or a thread. The format is logrus', which containerd's shim parses
//! (`getLastRuntimeError`: the last entry whose level is `error`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use serde::Serialize;

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Set in a child, whose paths may be the container's.
static DETACHED: AtomicBool = AtomicBool::new(false);
/// Set in a child whose descriptors are about to be closed.
static SILENT: AtomicBool = AtomicBool::new(false);

struct Log {
    /// Opened at the first entry: podman takes an empty file for a broken one.
    file: Option<(PathBuf, OnceLock<Option<File>>)>,
    format: Format,
    debug: bool,
}

/// The warnings of a command that can still fail; None once it cannot, or when there is no log.
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);

static LOG: OnceLock<Log> = OnceLock::new();

/// Sets the log up; the first call wins. `file` is created at the first entry, with mode 0644, and appended to.
pub fn init(file: Option<PathBuf>, format: Format, debug: bool) {
    if file.is_some()
        && let Ok(mut held) = HELD.lock()
    {
        *held = Some(Vec::new());
    }
    let log = Log { file: file.map(|path| (path, OnceLock::new())), format, debug };
    if debug && let Some((path, cell)) = &log.file {
        // Under --debug both parent and child write: they must share one descriptor, opened before the clone.
        cell.get_or_init(|| open(path));
    }
    // A second call can only come from a test; keeping the first is harmless.
    drop(LOG.set(log));
}

/// Whether `--debug` was given.
pub fn debugging() -> bool {
    LOG.get().is_some_and(|log| log.debug) && !SILENT.load(Ordering::Relaxed)
}

/// For a child: the log's path must not be opened inside the container. Its errors and warnings go through the channel;
/// what --debug says goes to the descriptor that was opened before the clone.
pub fn detach() {
    DETACHED.store(true, Ordering::Relaxed);
}

/// Ends logging in this process, before the number of the log's descriptor can mean something else.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Logs an error entry, and prints the bare message on stderr, where conmon and a person read it. The warnings that were
/// held go there too: podman takes the log of a failed command for one JSON object, and shows neither if there are two.
pub fn error(message: &str) {
    for warning in take_held() {
        stderr_line(&format!("orlop: warning: {warning}"));
    }
    let logged = entry("error", message);
    let only_on_stderr = LOG.get().is_none_or(|log| log.file.is_none());
    if !(logged && only_on_stderr) {
        stderr_line(&format!("orlop: {message}"));
    }
}

/// Logs the warnings that were held, since the command has not failed: it has done its work, or its container runs.
pub fn settle() {
    for warning in take_held() {
        warn(&warning);
    }
}

/// What was held; nothing is from now on.
fn take_held() -> Vec<String> {
    HELD.lock().ok().and_then(|mut held| held.take()).unwrap_or_default()
}

/// Logs a warning to `--log`, or to stderr without one. In the log it stands when the command has not failed.
pub fn warn(message: &str) {
    if let Ok(mut held) = HELD.lock()
        && let Some(held) = held.as_mut()
        && !DETACHED.load(Ordering::Relaxed)
    {
        held.push(message.to_string());
        return;
    }
    if !entry("warning", message) {
        stderr_line(&format!("orlop: warning: {message}"));
    }
}

/// Logs a debug entry under `--debug` to `--log`, or to stderr without one.
pub fn debug(message: &str) {
    if debugging() && !entry("debug", message) {
        stderr_line(&format!("orlop: debug: {message}"));
    }
}

/// Writes a line to stderr in one `write(2)`. A closed stderr is no reason to fail.
pub fn stderr_line(line: &str) {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    drop(std::io::stderr().write_all(&bytes));
}

fn open(path: &PathBuf) -> Option<File> {
    match OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)
    {
        Ok(file) => Some(file),
        Err(e) => {
            stderr_line(&format!("orlop: warning: --log {}: {e}", path.display()));
            None
        }
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    level: &'a str,
    msg: &'a str,
    time: &'a str,
}

/// Writes an entry to the log file, or as JSON to stderr if that is where `--log-format json` leads. False if there is
/// no such place, so that the caller writes its plain line.
fn entry(level: &str, message: &str) -> bool {
    if SILENT.load(Ordering::Relaxed) {
        return true;
    }
    let Some(log) = LOG.get() else { return false };
    let time = crate::time::rfc3339(crate::time::now());
    let line = match log.format {
        Format::Json => serde_json::to_string(&Entry { level, msg: message, time: &time }).unwrap_or_default(),
        Format::Text => {
            let quoted = serde_json::to_string(message).unwrap_or_default();
            format!("time=\"{time}\" level={level} msg={quoted}")
        }
    };
    match &log.file {
        Some((_, cell)) if DETACHED.load(Ordering::Relaxed) && cell.get().is_none() => false,
        Some((path, cell)) => match cell.get_or_init(|| open(path)) {
            Some(file) => (&*file).write_all(format!("{line}\n").as_bytes()).is_ok(),
            None => false,
        },
        None if log.format == Format::Json => {
            stderr_line(&line);
            true
        }
        None => false,
    }
}
